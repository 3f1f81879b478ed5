"""A peer for the drain: how fast the vendor's own strategy empties a backlog into the simulated cloud.

    python -m bench.vendor_strategy [events] [rtt_ms …]

A small client in this process, the simulator in another. One event is one message; fifty messages are a pack; the
next pack goes when every answer of this one is there; after a failure it sleeps a second and sends what is left under
the same ids. No store and no conversion of events are part of it, so the figure flatters the strategy.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

import grpc
import grpc.aio

from bench.report import figure, note
from gateway.cloud.pb import edge_pb2, queue_pb2
from gateway.cloudsim import CloudSim, CloudSimOptions, SimDevice

PACK = 50
PACK_TIMEOUT_S = 60.0
PAUSE_S = 1.0
DEVICES = 20
VALUES = 2


def serve(rtt_ms: float, pipe: Connection) -> None:
    """The simulator, until the parent has read what arrived."""

    async def main() -> None:
        devices = tuple(SimDevice(name=f"D{number}") for number in range(DEVICES))
        async with CloudSim(CloudSimOptions(http_port=None, rtt_ms=rtt_ms, devices=devices)) as sim:
            pipe.send((sim.grpc_port, [entity.id for entity in sim.world.of_type("DEVICE")]))
            await asyncio.to_thread(pipe.recv)
            pipe.send(sim.state())

    asyncio.run(main())


def events(count: int, devices: list[UUID]) -> list[edge_pb2.EntityDataProto]:
    """Numbered telemetry of all devices in turn."""
    made = []
    for number in range(count):
        id_ = devices[number % len(devices)].int
        halves = [half - (1 << 64) if half >> 63 else half for half in (id_ >> 64, id_ & (1 << 64) - 1)]
        data = edge_pb2.EntityDataProto(entityIdMSB=halves[0], entityIdLSB=halves[1], entityType="DEVICE")
        series = data.postTelemetryMsg.tsKvList.add(ts=1_718_000_000_000 + number)
        series.kv.add(key="seq", type=queue_pb2.LONG_V, long_v=number // len(devices) + 1)
        series.kv.add(key="t", type=queue_pb2.DOUBLE_V, double_v=20.5 + number % 7)
        made.append(data)
    return made


class VendorClient:
    """One stream; `drain` sends everything and returns when every event is confirmed."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._pending: dict[int, edge_pb2.UplinkMsg] = {}
        self._answers = 0
        self._all_answered = asyncio.Event()
        self.pauses = 0

    async def connect(self) -> None:
        """Connect, take the answer; there is no sync, for nothing is to come down."""
        connect = edge_pb2.ConnectRequestMsg(
            edgeRoutingKey="demo-edge",
            edgeSecret="demo-secret",
            edgeVersion=edge_pb2.V_4_2_0,
            maxInboundMessageSize=4_194_304,
        )
        await self._call.write(edge_pb2.RequestMsg(msgType=edge_pb2.CONNECT_RPC_MESSAGE, connectRequestMsg=connect))
        answer = await self._call.read()
        if answer.connectResponseMsg.responseCode != edge_pb2.ACCEPTED:
            raise RuntimeError(answer.connectResponseMsg.errorMsg)

    async def read(self) -> None:
        """Take answers: a success removes its message, each of them counts."""
        while (response := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            if not response.HasField("uplinkResponseMsg"):
                continue
            answer = response.uplinkResponseMsg
            if answer.success:
                self._pending.pop(answer.uplinkMsgId, None)
            self._answers -= 1
            if self._answers <= 0:
                self._all_answered.set()

    async def drain(self, backlog: list[edge_pb2.EntityDataProto]) -> None:
        """Pack after pack."""
        for pack in _packs(backlog):
            self._pending = {msg.uplinkMsgId: msg for msg in pack}
            while True:
                await self._send_pending()
                if not self._pending:
                    break
                self.pauses += 1
                await asyncio.sleep(PAUSE_S)

    async def _send_pending(self) -> None:
        messages = list(self._pending.values())
        self._answers = len(messages)
        self._all_answered.clear()
        for msg in messages:
            await self._call.write(edge_pb2.RequestMsg(msgType=edge_pb2.UPLINK_RPC_MESSAGE, uplinkMsg=msg))
        try:
            async with asyncio.timeout(PACK_TIMEOUT_S):
                await self._all_answered.wait()
        except TimeoutError:
            return


def _packs(backlog: list[edge_pb2.EntityDataProto]) -> Iterator[list[edge_pb2.UplinkMsg]]:
    for start in range(0, len(backlog), PACK):
        page = backlog[start : start + PACK]
        ids = range(
            start + 1, start + 1 + len(page)
        )  # the vendor draws them; two equal ones would spoil the measurement
        yield [edge_pb2.UplinkMsg(uplinkMsgId=id_, entityData=[data]) for id_, data in zip(ids, page, strict=True)]


async def measure(count: int, rtt_ms: float) -> float:
    """Events a second."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(rtt_ms, theirs), daemon=True)
    process.start()
    try:
        port, devices = ours.recv()
        backlog = events(count, devices)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", compression=grpc.Compression.Gzip) as channel:
            open_stream: Any = channel.stream_stream(
                "/edge.EdgeRpcService/handleMsgs",
                request_serializer=edge_pb2.RequestMsg.SerializeToString,
                response_deserializer=edge_pb2.ResponseMsg.FromString,
            )
            client = VendorClient(open_stream())
            await client.connect()
            reading = asyncio.create_task(client.read())
            started_s = time.perf_counter()
            await client.drain(backlog)
            took_s = time.perf_counter() - started_s
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        ours.send("done")
        state = ours.recv()
    finally:
        process.terminate()
        process.join()
    if (state["events_received"], state["missing"]) != (count, 0) or state["violations"]:
        raise RuntimeError(f"{state['events_received']} of {count} arrived; violations {state['violations']}")
    if client.pauses:
        note(f"{client.pauses} pauses of {PAUSE_S:g} s after failures")
    return count / took_s


async def main(count: int = 20_000, rtts_ms: tuple[float, ...] = (0, 100)) -> None:
    """A line for each latency; where it is high the backlog is cut down so that it ends within seconds."""
    for rtt_ms in rtts_ms:
        few = min(count, 2_000) if rtt_ms else count
        figure(f"vendor's strategy: drain of {few:,} events, RTT {rtt_ms:g} ms", await measure(few, rtt_ms), "events/s")


if __name__ == "__main__":
    numbers = [float(text) for text in sys.argv[1:]] or [20_000]
    asyncio.run(main(int(numbers[0]), tuple(numbers[1:]) or (0, 100)))
