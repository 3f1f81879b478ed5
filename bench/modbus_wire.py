"""The wire alone: our masters beside pymodbus's client, in the same run, against the same slaves.

    python -m bench.modbus_wire [--seconds 2]

TCP: requests a second for 10 holding registers, one and sixteen in flight, from a slave process made of a bare asyncio
protocol (pymodbus's client has one question in flight). RTU: the share of the theoretical wire time (question, answer
and two gaps of the standard) that is reached on a pseudo terminal paced at the baud rate, 40 registers a question.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient

from drivers.modbus.config import ModbusConfig
from drivers.modbus.registers import Table
from drivers.modbus.wire_open import open_wire
from gateway.supervise import SystemClock
from tests.fakes.modbus_line import PtyLine, Units

COUNT = 10
LONG = 40
ROUNDS = 2


class _Slave(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport, self.rest = transport, b""

    def data_received(self, data: bytes) -> None:
        data, out = self.rest + data, []
        while len(data) >= 12:
            transaction, unit, function, _, count = struct.unpack(">HxxxxBBHH", data[:12])
            data = data[12:]
            head = struct.pack(">HHHBBB", transaction, 0, 3 + 2 * count, unit, function, 2 * count)
            out.append(head + bytes(2 * count))
        self.rest = data
        self.transport.write(b"".join(out))


def _serve_tcp(channel: Any) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Slave, "127.0.0.1", 0)
        channel.put(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(serve())


def _serve_line(channel: Any, baud: int, link: str) -> None:
    async def serve() -> None:
        async with PtyLine(Units(1, prompt_s=0.0), baud).open(Path(link)):
            channel.put(0)
            await asyncio.Event().wait()

    asyncio.run(serve())


def _wire(line: dict[str, Any]) -> Any:
    device = {"name": "D", "telemetry": [{"key": "k", "table": "coil", "address": 0, "type": "bool"}]}
    return open_wire(ModbusConfig.model_validate({"line": line, "devices": [device]}), SystemClock())


async def _rate(ask: Callable[[], Awaitable[Any]], seconds: float, in_flight: int = 1) -> float:
    await ask()
    count, start = 0, time.perf_counter()

    async def keep_asking() -> None:
        nonlocal count
        while time.perf_counter() - start < seconds:
            await ask()
            count += 1

    await asyncio.gather(*(keep_asking() for _ in range(in_flight)))
    return count / (time.perf_counter() - start)


async def _measure_tcp(port: int, seconds: float) -> dict[str, float]:
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        async with AsyncModbusTcpClient("127.0.0.1", port=port) as client:
            rate = await _rate(lambda: client.read_holding_registers(0, count=COUNT, device_id=1), seconds)
            best["pymodbus, 1 in flight"] = max(rate, best.get("pymodbus, 1 in flight", 0))
        for in_flight in (1, 16):
            wire = _wire({"kind": "tcp", "host": "127.0.0.1", "port": port, "in_flight": in_flight})
            ask = partial(wire.read_registers, 1, Table.HOLDING_REGISTER, 0, COUNT)
            rate = await _rate(ask, seconds, in_flight)
            wire.close()
            name = f"ours, {in_flight} in flight"
            best[name] = max(rate, best.get(name, 0))
    return best


async def _measure_line(link: str, baud: int, seconds: float) -> dict[str, float]:
    byte_s = 10 / baud
    gap_s = 0.00175 if baud > 19200 else 3.5 * byte_s
    most = 1 / ((8 + 5 + 2 * LONG) * byte_s + 2 * gap_s)
    shares: dict[str, float] = {}
    wire = _wire({"kind": "rtu", "device": link, "baud": baud})
    shares["ours"] = await _rate(lambda: wire.read_registers(1, Table.HOLDING_REGISTER, 0, LONG), seconds) / most
    wire.close()
    client = AsyncModbusSerialClient(link, baudrate=baud, timeout=1)
    await client.connect()
    rate = await _rate(lambda: client.read_holding_registers(0, count=LONG, device_id=1), seconds)
    shares["pymodbus"] = rate / most
    client.close()
    return shares


def _with_slave(target: Callable[..., None], *arguments: Any, measure: Callable[[Any], Any]) -> Any:
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    slave = context.Process(target=target, args=(channel, *arguments), daemon=True)
    slave.start()
    try:
        return asyncio.run(measure(channel.get(timeout=20)))
    finally:
        slave.terminate()
        slave.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    options = parser.parse_args()
    for name, rate in _with_slave(_serve_tcp, measure=lambda port: _measure_tcp(port, options.seconds)).items():
        print(f"tcp  {name:24} {rate:8.0f} requests/s")
    for baud in (19200, 115200):
        with tempfile.TemporaryDirectory() as folder:
            link = f"{folder}/adapter"
            shares = _with_slave(
                _serve_line,
                baud,
                link,
                measure=lambda _, link=link, baud=baud: _measure_line(link, baud, options.seconds),
            )
        for name, share in shares.items():
            print(f"rtu  {baud:6} baud, {name:12} {100 * share:5.1f} % of the wire's time")


if __name__ == "__main__":
    main()
