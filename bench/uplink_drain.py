"""How fast a backlog drains through the real link. Limits: 20,000 events/s; 5,000/s when every answer takes 100 ms.

    python bench/uplink_drain.py [events]

A trivial gRPC server in another process confirms everything; 100 devices, 2 values an event, 100 events a
message, 16 messages on their way. The queue is a list in memory: the store has figures of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from uuid import UUID

import grpc.aio
import orjson

from gateway.cloud.encode import encode_uplink
from gateway.cloud.link import GrpcLink
from gateway.cloud.pb import edge_pb2, edge_pb2_grpc
from gateway.config import CloudConfig
from gateway.domain.changes import MoveCursor
from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.supervise import Counters, SystemClock
from gateway.uplink.drain import Uplink


class Cloud(edge_pb2_grpc.EdgeRpcServiceServicer):
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    async def handleMsgs(self, requests, context):
        loop = asyncio.get_running_loop()
        late: asyncio.Queue = asyncio.Queue()

        async def answer() -> None:
            while True:
                due_s, response = await late.get()
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                await context.write(response)

        task = asyncio.create_task(answer())
        try:
            async for request in requests:
                if request.HasField("connectRequestMsg"):
                    who = edge_pb2.EdgeConfiguration(edgeIdMSB=1, edgeIdLSB=2, cloudType="CE")
                    await context.write(edge_pb2.ResponseMsg(connectResponseMsg={"configuration": who}))
                elif request.HasField("syncRequestMsg"):
                    await context.write(edge_pb2.ResponseMsg(downlinkMsg={"syncCompletedMsg": {}}))
                elif request.HasField("uplinkMsg"):
                    answer_msg = {"success": True, "uplinkMsgId": request.uplinkMsg.uplinkMsgId}
                    late.put_nowait((loop.time() + self._delay_s, edge_pb2.ResponseMsg(uplinkResponseMsg=answer_msg)))
        finally:
            task.cancel()


def serve(delay_s: float, pipe) -> None:
    async def main() -> None:
        server = grpc.aio.server()
        edge_pb2_grpc.add_EdgeRpcServiceServicer_to_server(Cloud(delay_s), server)
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())


class Nothing:
    """State and handler of a gateway that has nothing to say; `moved` is what it says of devices under new ids."""

    def __init__(self, moved: dict[str, str] | None = None) -> None:
        self._moved = moved

    def setting(self, name):
        return self._moved

    def device(self, device_id):
        return None

    def identity(self):
        return None

    async def connected(self, identity):
        return False

    async def handle(self, downlink):
        return None


class Queue:
    def __init__(self, count: int, devices: int) -> None:
        ids = [UUID(int=1 << 76 | number) for number in range(devices)]
        bodies = [orjson.dumps({"ts": 1_718_000_000_000 + i, "data": {"t": 20.5 + i, "n": i}}) for i in range(1000)]
        self.rows = [
            StoredEvent(
                seq_id=i + 1,
                lane=Lane.MAIN,
                id=ids[0],
                type="DEVICE",
                action="TIMESERIES_UPDATED",
                entity_id=ids[i % devices],
                created_ms=1,
                body=bodies[i % 1000],
            )
            for i in range(count)
        ]
        self.done = asyncio.Event()

    async def peek(self, lane, after_seq, limit):
        return self.rows[after_seq : after_seq + limit]

    async def peek_added(self, lane, after_seq, limit):
        return []

    def cursor(self, lane):
        return 0

    def last(self, lane):
        return len(self.rows) if lane is Lane.MAIN else 0

    async def wait_beyond(self, lane, seq_id):
        if self.last(lane) <= seq_id:
            await asyncio.Event().wait()

    def submit(self, unit):
        receipt = asyncio.get_running_loop().create_future()
        receipt.set_result(None)
        for change in unit:
            if isinstance(change, MoveCursor) and change.seq_id == len(self.rows):
                self.done.set()
        return receipt


async def drain(port: int, count: int, devices: int) -> tuple[float, float]:
    config = CloudConfig(routing_key="k", routing_secret="s", host="127.0.0.1", port=port, window=16)
    clock, counters, nothing = SystemClock(), Counters(), Nothing()
    link = GrpcLink(config, nothing, nothing, clock, counters)
    queue = Queue(count, devices)
    uplink = Uplink(config, queue, link, queue, clock, counters)
    linking = asyncio.create_task(link.serve())
    await link.wait_ready()
    started_s, cpu_s = time.perf_counter(), time.process_time()
    draining = asyncio.create_task(uplink.serve())
    await queue.done.wait()
    took = time.perf_counter() - started_s, time.process_time() - cpu_s
    for task in (draining, linking):
        task.cancel()
    await asyncio.gather(draining, linking, return_exceptions=True)
    return took


def encoding_us(moved: int = 0) -> float:
    """Of one event; so many other devices have moved to new ids."""
    events = Queue(100, 100).rows
    state = Nothing({str(UUID(int=1 << 90 | n)): str(UUID(int=1 << 91 | n)) for n in range(moved)} or None)
    started_s = time.perf_counter()
    for _ in range(200):
        encode_uplink(1, events, state)
    return (time.perf_counter() - started_s) / 200 / 100 * 1e6


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    try:
        import uvloop

        runner = uvloop.run
    except ImportError:
        runner = asyncio.run

    async def with_encoding():
        return encoding_us(), encoding_us(moved=50)

    plain_us, moved_us = runner(with_encoding())
    print(f"encoding: {plain_us:.2f} µs/event (limit 12); when devices have moved: {moved_us:.2f} µs")
    context = multiprocessing.get_context("spawn")
    for delay_s, limit in ((0.0, 20_000), (0.1, 5_000)):
        ours, theirs = context.Pipe()
        server = context.Process(target=serve, args=(delay_s, theirs), daemon=True)
        server.start()
        port = ours.recv()
        for devices in (100, 1):
            total = count if not delay_s else count // 4
            took_s, cpu_s = runner(drain(port, total, devices))
            print(
                f"answers after {delay_s * 1000:3.0f} ms, {devices:3d} devices: {total / took_s:8,.0f} events/s "
                f"(limit {limit:,}); {cpu_s / total * 1e6:.1f} µs CPU an event"
            )
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
