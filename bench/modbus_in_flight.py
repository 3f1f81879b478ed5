"""Modbus TCP with 1, 4 and 16 questions in flight: points a second through the whole owner, into rules and SQLite.

    python -m bench.modbus_in_flight [--seconds 2]

50 units of 100 registers, one question a unit, as fast as answers and receipts come; the slave is a process of its own
that answers at once, and then one that takes 5 ms for each answer, as many as are asked beside one another.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import struct
from typing import Any

from bench.field_bus import whole
from bench.modbus_tcp import REGISTERS, bus
from bench.report import figure
from drivers.modbus.plugin import plugin


class _Slave(asyncio.Protocol):
    def __init__(self, delay_s: float) -> None:
        self._delay_s, self._rest = delay_s, b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        out = []
        while len(data) >= 12:
            transaction, unit, function, address, count = struct.unpack(">HxxxxBBHH", data[:12])
            data = data[12:]
            head = struct.pack(">HHHBBB", transaction, 0, 3 + 2 * count, unit, function, 2 * count)
            out.append(head + struct.pack(f">{count}H", *range(address, address + count)))
        self._rest = data
        if self._delay_s:
            self._loop.call_later(self._delay_s, self._transport.write, b"".join(out))
        else:
            self._transport.write(b"".join(out))


def _serve(pipe: Any, delay_s: float) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _Slave(delay_s), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(serve())


async def _measure(port: int, in_flight: int, seconds: float) -> float:
    tree = bus(port, 50, 1)
    line = {"kind": "tcp", "host": tree.pop("host"), "port": tree.pop("port"), "in_flight": in_flight}
    tree |= {"line": line}
    async with whole([device["name"] for device in tree["devices"]], tree, {"modbus": plugin}) as (_, counters):
        await asyncio.sleep(0.5)
        readings, from_s = counters.get("fieldbus.readings"), asyncio.get_running_loop().time()
        await asyncio.sleep(seconds)
        rate = (counters.get("fieldbus.readings") - readings) / (asyncio.get_running_loop().time() - from_s)
        assert counters.get("fieldbus.errors") == 0
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for delay_ms in (0, 5):
        here, there = context.Pipe()
        slave = context.Process(target=_serve, args=(there, delay_ms / 1000), daemon=True)
        slave.start()
        try:
            assert here.poll(20), "the slave does not start"
            port = here.recv()
            for in_flight in (1, 4, 16):
                rate = asyncio.run(_measure(port, in_flight, options.seconds))
                name = f"50 units × {REGISTERS} registers, answers after {delay_ms} ms, {in_flight} in flight"
                figure(f"{name}: points/s", rate, "1/s")
        finally:
            slave.terminate()
            slave.join()


if __name__ == "__main__":
    main()
