"""Modbus TCP through the whole gateway: points a second into rules and store, punctuality, calls under full polling.

    python -m bench.modbus_tcp [points] [punctual] [calls] [--seconds 3]

`points`: 50 units of 100 registers, one question a unit, as fast as answers and receipts come, into SQLite
(synchronous=FULL); the limit is a plain asyncio loop that asks the same slave, decodes and drops.
`punctual`: 1,000 points at 100 ms in 10 questions: how late each comes to the slave, CPU, memory.
`calls`: an RPC from the simulated cloud's HTTP API to the write's arrival at the slave, while the bus polls without a
pause; on a line at 19200 baud as well, where a call waits for the answer that is on the wire. All of them processes.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.field_bus import lateness_ms, resident_mb, whole
from bench.line_process import open_line
from bench.modbus_rtu import BLOCKS
from bench.modbus_rtu import bus as rtu_bus
from bench.report import figure, note
from drivers.modbus.plugin import plugin
from tests.e2e.parts import CloudProcess, GatewayProcess, until

REGISTERS = 100
UNPACK = struct.Struct(f">{REGISTERS}H").unpack


class _Slave(asyncio.Protocol):
    """Every unit has registers that hold their addresses; `stamps`: unit and time of each read; `writes`: times."""

    stamps: list[tuple[int, float]] = []  # noqa: RUF012 — of all connections of this process
    writes: list[float] = []  # noqa: RUF012

    def connection_made(self, transport: Any) -> None:
        self.transport, self.rest = transport, b""

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        while len(data) >= 12 and len(data) >= 6 + (size := int.from_bytes(data[4:6], "big")):
            frame, data = data[: 6 + size], data[6 + size :]
            transaction, unit, function, address, count = struct.unpack(">HxxxxBBHH", frame[:12])
            if function in (6, 16):
                self.writes.append(time.monotonic())
                self.transport.write(struct.pack(">HHHBBHH", transaction, 0, 6, unit, function, address, count))
                continue
            self.stamps.append((unit, time.monotonic()))
            head = struct.pack(">HHHBBB", transaction, 0, 3 + 2 * count, unit, function, 2 * count)
            self.transport.write(head + struct.pack(f">{count}H", *range(address, address + count)))
        self.rest = data


def _serve(pipe: Any) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Slave, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        done = loop.create_future()

        def asked() -> None:
            if pipe.recv() == "end":
                done.set_result(None)
                return
            pipe.send((_Slave.stamps[:], _Slave.writes[:]))
            _Slave.stamps.clear()
            _Slave.writes.clear()

        loop.add_reader(pipe.fileno(), asked)
        await done

    asyncio.run(serve())


class Slave:
    """The slave's process: its port, and what has come since the last question."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.port: int = pipe.recv()

    def seen(self) -> tuple[list[tuple[int, float]], list[float]]:
        """Unit and time of each read, time of each write (monotonic)."""
        self._pipe.send("seen")
        found: tuple[list[tuple[int, float]], list[float]] = self._pipe.recv()
        return found

    def end(self) -> None:
        """Say goodbye."""
        self._pipe.send("end")


@contextmanager
def open_slave() -> Iterator[Slave]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        assert here.poll(20), "the slave does not start"
        slave = Slave(here)
        yield slave
        slave.end()
        process.join(5)
    finally:
        process.terminate()
        process.join()


def bus(port: int, units: int, every_ms: int) -> dict[str, Any]:
    points = [
        {"key": f"r{n}", "table": "holding_register", "address": n, "type": "uint16", "writable": True}
        for n in range(REGISTERS)
    ]
    devices = [
        {"name": f"unit-{unit}", "unit_id": unit, "every_ms": every_ms, "telemetry": points}
        for unit in range(1, units + 1)
    ]
    return {"kind": "modbus", "name": "plant", "host": "127.0.0.1", "port": port, "devices": devices}


async def points(slave: Slave, seconds: float, rounds: int = 3) -> None:
    taken = plain = cpu_s = 0.0
    tree = bus(slave.port, 50, 1)
    for _ in range(rounds):
        async with whole([device["name"] for device in tree["devices"]], tree, {"modbus": plugin}) as (_, counters):
            await asyncio.sleep(0.5)
            readings, from_s, cpu_from_s = counters.get("fieldbus.readings"), time.perf_counter(), time.process_time()
            await asyncio.sleep(seconds / rounds)
            spent_s = time.perf_counter() - from_s
            cpu_s += (time.process_time() - cpu_from_s) / spent_s
            taken += (counters.get("fieldbus.readings") - readings) / spent_s
            assert counters.get("fieldbus.errors") == 0
        plain += await _plain(slave.port, seconds / rounds)
    slave.seen()
    name = f"tcp, 50 units × {REGISTERS} registers"
    figure(f"{name}: points/s into rules and SQLite", taken / rounds, "1/s")
    figure(f"{name}: the same for each second of CPU", taken / cpu_s, "1/s", at_least=50_000)
    figure(f"{name}: plain loop that decodes and drops", plain / rounds, "1/s")
    note(f"share of the plain loop: {taken / plain:.2f}")


async def _plain(port: int, seconds: float) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count, from_s = 0, time.perf_counter()
    while time.perf_counter() - from_s < seconds:
        for unit in range(1, 51):
            writer.write(struct.pack(">HHHBBHH", 1, 0, 6, unit, 3, 0, REGISTERS))
            answer = await reader.readexactly(9 + 2 * REGISTERS)
            count += len([{"key": n, "value": value} for n, value in enumerate(UNPACK(answer[9:]))])
    writer.close()
    return count / (time.perf_counter() - from_s)


async def punctual(slave: Slave, seconds: float) -> None:
    tree = bus(slave.port, 10, 100)
    before_mb = resident_mb()
    async with whole([device["name"] for device in tree["devices"]], tree, {"modbus": plugin}) as (room, _):
        await asyncio.sleep(1.0)
        slave.seen()
        cpu_s, from_s = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu_s, spent_s = time.process_time() - cpu_s, time.monotonic() - from_s
        stamps, _ = slave.seen()
        (status,) = room.status()
    by_unit: dict[int, list[float]] = {}
    for unit, stamp in stamps:
        by_unit.setdefault(unit, []).append(stamp)
    late_ms = sorted(late for starts in by_unit.values() for late in lateness_ms(starts))
    name = "tcp, 1,000 points at 100 ms"
    figure(f"{name}: questions a second", len(late_ms) / spent_s, "1/s", at_least=97.0)
    figure(f"{name}: lateness p50 at the slave", late_ms[len(late_ms) // 2], "ms")
    figure(f"{name}: lateness p99 at the slave", late_ms[len(late_ms) * 99 // 100], "ms", at_most=20.0)
    figure(f"{name}: CPU, rules and SQLite included", 100 * cpu_s / spent_s, "% of one")
    figure(f"{name}: memory beside the idle process", resident_mb() - before_mb, "MB")
    note(f"turns missed {status['late_merged']}")


async def calls(name: str, tree: dict[str, Any], writes: Any, count: int, most_ms: float | None) -> None:
    """`writes`: asks the far side when writes had come since the last time."""
    with tempfile.TemporaryDirectory() as folder:
        async with CloudProcess(Path(folder)) as cloud, GatewayProcess(Path(folder), cloud.grpc_port, buses=[tree]):

            async def arrived() -> bool:
                return bool((await cloud.device("unit-7")).get("telemetry"))

            await until(arrived, 20, "nothing of unit 7 is in the cloud")
            writes()
            spent_ms = []
            for n in range(count):
                start_s = time.monotonic()
                answer = await cloud.call("POST", "/api/devices/unit-7/rpc", {"method": "r8", "params": n})
                assert "result" in answer, answer
                (first_s, *more_s) = writes()
                assert not more_s
                spent_ms.append((first_s - start_s) * 1000)
                await asyncio.sleep(0.05)
    spent_ms.sort()
    figure(f"{name}: call to wire, p50", spent_ms[count // 2], "ms")
    figure(f"{name}: call to wire, p99", spent_ms[count * 99 // 100], "ms", at_most=most_ms)
    note(f"{count} calls, fastest {spent_ms[0]:.1f} ms")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="points, punctual, calls; default: all")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments or [])
    what = options.what or ["points", "punctual", "calls"]
    if "points" in what:
        with open_slave() as slave:
            asyncio.run(points(slave, options.seconds))
    if "punctual" in what:
        with open_slave() as slave:
            asyncio.run(punctual(slave, 2 * options.seconds))
    if "calls" in what:
        with open_slave() as slave:
            # Without a pause all that is read goes up as well: then the cores are what a call waits for.
            for load, every_ms, goal in (("1,000 points at 100 ms", 100, 50.0), ("full polling", 1, None)):
                tree = bus(slave.port, 10, every_ms)
                asyncio.run(calls(f"tcp, {load}", tree, lambda slave=slave: slave.seen()[1], 80, goal))
        with tempfile.TemporaryDirectory() as folder:
            link, baud = Path(folder, "adapter"), 19200
            with open_line(link, baud) as line:

                def writes() -> list[float]:
                    found: list[float] = line.stats()["writes_s"]
                    line.stats(reset=True)
                    return found

                longest_ms = (8 + 5 + 2 * BLOCKS[0][1] + 8 + 14) * 10_000 / baud  # an answer under way, gaps, our write
                asyncio.run(calls(f"rtu {baud}, full polling", rtu_bus(link, baud), writes, 50, longest_ms + 50))


if __name__ == "__main__":
    main(sys.argv[1:])
