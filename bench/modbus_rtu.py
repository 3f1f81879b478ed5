"""A serial line with ten units of 40 registers, polled as fast as it goes: how much of the wire's time is used.

    python -m bench.modbus_rtu [rates] [dead] [--baud 19200] [--no-vendor] [--seconds 6]

`rates`: points a second as a share of what the wire could carry: two questions a unit (the registers have gaps), two
answers, 3.5 characters before each question and each answer. Ours is the whole way (field bus, rules, SQLite); peers on
the same line are raw pymodbus with the same questions in a loop and the vendor's gateway with the same points.
`dead`: three of the ten units are silent; what the healthy ones keep of the rate that they have alone. The line is a
process of its own; bytes take their time there. A share above 1 leaves out the silence: see "short gaps".
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pymodbus.client import AsyncModbusSerialClient

from bench.field_bus import whole
from bench.line_process import LineProcess, gap_s, open_line
from bench.report import figure, note
from drivers.modbus.plugin import plugin
from tests.e2e.foreign_gateway import ForeignGateway
from tests.e2e.parts import GatewayProcess

UNITS = range(1, 11)
BLOCKS = ((0, 40), (100, 10))
ADDRESSES = (*range(10), *range(14, 24), *range(30, 40), *range(100, 110))
"""40 registers; asking around the two small gaps would cost more than reading them."""


def most(baud: int) -> float:
    """Points a second that the wire can carry."""
    byte_s = 10 / baud
    return len(ADDRESSES) / sum((8 + 5 + 2 * count) * byte_s + 2 * gap_s(baud) for _, count in BLOCKS)


def bus(
    link: Path, baud: int, units: Sequence[int] = UNITS, *, every_ms: int = 1, timeout_s: float = 0.2
) -> dict[str, Any]:
    """The configuration of ours; `every_ms` 1: always late."""
    points = [
        {"key": f"r{address}", "table": "holding_register", "address": address, "type": "uint16", "writable": True}
        for address in ADDRESSES
    ]
    devices = [{"name": f"unit-{unit}", "unit_id": unit, "every_ms": every_ms, "telemetry": points} for unit in units]
    line = {"kind": "rtu", "device": str(link), "baud": baud}
    return {"kind": "modbus", "name": "line", "timeout_s": timeout_s, "line": line, "devices": devices}


async def ours(line: LineProcess, tree: dict[str, Any], seconds: float, warm_s: float = 1.0) -> tuple[float, Any]:
    """Readings a second, and what the line has seen."""
    names = [device["name"] for device in tree["devices"]]
    async with whole(names, tree, {"modbus": plugin}) as (_, counters):
        await asyncio.sleep(warm_s)
        line.stats(reset=True)
        readings, from_s = counters.get("fieldbus.readings"), asyncio.get_running_loop().time()
        await asyncio.sleep(seconds)
        spent_s = asyncio.get_running_loop().time() - from_s
        return (counters.get("fieldbus.readings") - readings) / spent_s, line.stats()


async def pymodbus_loop(line: LineProcess, link: Path, baud: int, seconds: float) -> tuple[float, Any]:
    client = AsyncModbusSerialClient(str(link), baudrate=baud, timeout=1)
    await client.connect()
    line.stats(reset=True)
    loop = asyncio.get_running_loop()
    rounds, from_s = 0, loop.time()
    while loop.time() - from_s < seconds:
        for unit in UNITS:
            for address, count in BLOCKS:
                await client.read_holding_registers(address, count=count, device_id=unit)
            rounds += 1
    spent_s = loop.time() - from_s
    client.close()
    return rounds * len(ADDRESSES) / spent_s, line.stats()


async def vendor(line: LineProcess, link: Path, baud: int, seconds: float) -> tuple[float, Any]:
    """The vendor's gateway, with our broker as its platform; it asks for each point by itself."""
    slaves = [
        {
            "type": "serial",
            "port": str(link),
            "baudrate": baud,
            "method": "rtu",
            "stopbits": 1,
            "bytesize": 8,
            "parity": "N",
            "unitId": unit,
            "deviceName": f"unit-{unit}",
            "deviceType": "default",
            "pollPeriod": 1000,
            "timeout": 3,
            "byteOrder": "BIG",
            "wordOrder": "BIG",
            "attributes": [],
            "timeseries": [
                {"tag": f"r{address}", "type": "16uint", "functionCode": 3, "address": address, "objectsCount": 1}
                for address in ADDRESSES
            ],
            "attributeUpdates": [],
            "rpc": [],
        }
        for unit in UNITS
    ]
    with tempfile.TemporaryDirectory() as folder:
        devices = [{"name": "gw", "access_token": "gw-token", "gateway": True}]
        async with (
            GatewayProcess(Path(folder), None, devices=devices) as platform,
            ForeignGateway(Path(folder), platform.port, "gw-token", slaves) as foreign,
        ):
            for _ in range(300):
                if line.stats()["answered"] > 40:
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(f"the vendor's gateway asks nothing\n{foreign.log()}")
            line.stats(reset=True)
            await asyncio.sleep(seconds)
            stats = line.stats()
            return stats["registers"] / seconds, stats


async def rates(baud: int, seconds: float, *, with_vendor: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "adapter")
        runs = {}
        with open_line(link, baud) as line:
            runs["ours"] = await ours(line, bus(link, baud, timeout_s=1.0), seconds)
            runs["raw pymodbus"] = await pymodbus_loop(line, link, baud, seconds)
            if with_vendor:
                line.stats(reset=True)
                runs["vendor's gateway"] = await vendor(line, link, baud, seconds)
    for name, (rate, stats) in runs.items():
        share = rate / most(baud)
        goal = 0.95 if name == "ours" else None
        label = f"rtu {baud}, {name}: share of the wire's time, %"
        figure(label, 100 * share, "%", at_least=goal and 100 * goal)
        note(
            f"{rate:,.0f} points/s of {most(baud):,.0f}; {stats['requests']} questions, "
            f"short gaps {stats['short_gaps']}, overlaps {stats['overlaps']}, "
            f"silence p50 {1000 * sorted(stats['gaps_s'])[len(stats['gaps_s']) // 2]:.2f} ms "
            f"of {1000 * gap_s(baud):.2f}"
        )
    for name in [name for name in runs if name != "ours"]:
        note(f"ours / {name}: {runs['ours'][0] / runs[name][0]:.2f}")


async def dead(baud: int, seconds: float) -> None:
    """Units 2, 5 and 8 are silent; the others alone are the limit."""
    silent = (2, 5, 8)
    healthy = [unit for unit in UNITS if unit not in silent]
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "adapter")
        with open_line(link, baud, silent) as line:
            alone, _ = await ours(line, bus(link, baud, healthy), seconds)
            # Until their tries have become as rare as they get; then a whole turn of these.
            beside, stats = await ours(line, bus(link, baud), 15.5, warm_s=12.0)
    figure(f"rtu {baud}, 3 of 10 units dead: rate that 7 keep, %", 100 * beside / alone, "%", at_least=95.0)
    each = [stats["registers_of"].get(unit, 0) for unit in healthy]
    note(
        f"{beside:,.0f} points/s beside dead units, {alone:,.0f} alone; "
        f"slowest / fastest unit {min(each) / max(each):.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="rates, dead; default: both")
    parser.add_argument("--baud", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--no-vendor", action="store_true")
    options = parser.parse_args(arguments or [])
    for baud in options.baud or (9600, 19200, 115200):
        if not options.what or "rates" in options.what:
            asyncio.run(rates(baud, options.seconds, with_vendor=not options.no_vendor))
    for baud in options.baud or (19200,):
        if not options.what or "dead" in options.what:
            asyncio.run(dead(baud, options.seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
