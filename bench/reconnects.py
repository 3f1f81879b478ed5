"""What 500 reconnects leave in memory. Limit: 2 MB more than after the first 100.

    python bench/reconnects.py [reconnects]

A server in another process accepts, ends the sync, answers one message and closes the stream, by turns in order
and with an error; every fifth attempt finds nobody and is diagnosed. The first 100 fill caches of the allocator
and of gRPC and are not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import sys
import time
from uuid import UUID

import grpc
import grpc.aio
import psutil

from bench.report import figure, note
from bench.uplink_drain import Nothing
from gateway.cloud.link import GrpcLink
from gateway.cloud.pb import edge_pb2, edge_pb2_grpc
from gateway.config import CloudConfig
from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.errors import GatewayError
from gateway.supervise import Counters, SystemClock

WARM_UP = 100
READING = StoredEvent(
    seq_id=1,
    lane=Lane.MAIN,
    id=UUID(int=1),
    type="DEVICE",
    action="TIMESERIES_UPDATED",
    entity_id=UUID(int=1 << 76 | 1),
    created_ms=1,
    body=b'{"ts":1718000000000,"data":{"t":20.5}}',
)


class Cloud(edge_pb2_grpc.EdgeRpcServiceServicer):
    def __init__(self) -> None:
        self.count = 0

    async def handleMsgs(self, requests, context):
        self.count += 1
        async for request in requests:
            if request.HasField("connectRequestMsg"):
                who = edge_pb2.EdgeConfiguration(edgeIdMSB=1, edgeIdLSB=2, cloudType="CE")
                await context.write(edge_pb2.ResponseMsg(connectResponseMsg={"configuration": who}))
            elif request.HasField("syncRequestMsg"):
                await context.write(edge_pb2.ResponseMsg(downlinkMsg={"syncCompletedMsg": {}}))
            elif request.HasField("uplinkMsg"):
                answer = {"success": True, "uplinkMsgId": request.uplinkMsg.uplinkMsgId}
                await context.write(edge_pb2.ResponseMsg(uplinkResponseMsg=answer))
                if self.count % 2:
                    return
                await context.abort(grpc.StatusCode.INTERNAL, "")


def serve(pipe) -> None:
    async def main() -> None:
        server = grpc.aio.server()
        edge_pb2_grpc.add_EdgeRpcServiceServicer_to_server(Cloud(), server)
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())


async def reconnect(link: GrpcLink) -> None:
    async def talk() -> None:
        await link.wait_ready()
        await link.send([READING])

    talking = asyncio.create_task(talk())
    with contextlib.suppress(GatewayError):
        await link.serve()
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)


async def measure(port: int, count: int) -> None:
    process = psutil.Process()
    nothing = Nothing()

    def link_to(port: int) -> GrpcLink:
        config = CloudConfig(routing_key="k", routing_secret="s", host="127.0.0.1", port=port)
        return GrpcLink(config, nothing, nothing, SystemClock(), Counters())

    link, nobody = link_to(port), link_to(1)
    before = 0
    started_s = time.perf_counter()
    for number in range(WARM_UP + count):
        await reconnect(nobody if number % 5 == 4 else link)
        if number == WARM_UP - 1:
            gc.collect()
            before = process.memory_info().rss
            started_s = time.perf_counter()
    gc.collect()
    grown = process.memory_info().rss - before
    figure(f"memory that {count} reconnects leave", max(grown, 0) / 1e6, "MB", at_most=2.0)
    note(
        f"{(time.perf_counter() - started_s) / count * 1000:.1f} ms a reconnect; at the end"
        f" {len(asyncio.all_tasks())} task, {process.num_fds()} files, {process.num_threads()} threads"
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 500
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        asyncio.run(measure(ours.recv(), count))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
