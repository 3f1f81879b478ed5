"""A serial adapter that is pulled and plugged again and again: how long until values come, and what is left behind.

    python -m bench.serial_replug [--times 100]

A pseudo terminal vanishes in the middle of questions and of what is said unasked, and comes back under the same path
(as udev's by-id link does) and another tty number. Field bus, rules and SQLite are the real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.field_bus import whole
from bench.modbus_replug import pulls
from bench.report import note
from drivers.serial.plugin import plugin
from tests.fakes.serial_line import SerialLine

TREE = {"kind": "serial", "name": "bench", "timeout_s": 0.5}
DEVICES = [
    {
        "name": "scale",
        "messages": [{"regex": "^W(?P<weight>[0-9.]+)$", "telemetry": [{"key": "weight"}]}],
    },
    {
        "name": "meter",
        "every_ms": 50,
        "requests": [{"send": "V?\n", "regex": "^V=(?P<volts>[0-9.]+)$", "telemetry": [{"key": "volts"}]}],
    },
]


async def replug(link: Path, times: int) -> None:
    line = SerialLine(link)
    line.answers = {b"V?\n": b"V=230\n"}
    line.plug(new_number=True)
    names = [str(device["name"]) for device in DEVICES]
    tree = {**TREE, "port": str(link), "devices": DEVICES}
    async with whole(names, tree, {"serial": plugin}) as (room, counters):

        async def talk() -> None:
            while True:
                line.say(b"W12.5\n")
                await asyncio.sleep(0.02)

        def heard_ms() -> list[int]:
            return [row["ts_ms"] or 0 for row in room.points()["points"]]

        def mark() -> Callable[[], bool]:
            before_ms = max(heard_ms(), default=0)
            return lambda: min(heard_ms(), default=0) > before_ms

        talking = asyncio.create_task(talk())
        try:
            numbers = await pulls(line, times, mark)
        finally:
            talking.cancel()
            line.end()
    note(f"under {numbers} tty numbers, {counters.get('fieldbus.readings'):,} readings")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    options = parser.parse_args(arguments or [])
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(replug(Path(folder, "adapter"), options.times))


if __name__ == "__main__":
    main(sys.argv[1:])
