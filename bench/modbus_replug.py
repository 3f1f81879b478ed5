"""An adapter that is pulled and plugged again and again: how long until the bus reads, and what is left behind.

    python -m bench.modbus_replug [--times 100]

A pseudo terminal vanishes in the middle of polling and comes back under the same path (as udev's by-id link does) and
another tty number. Field bus, rules and SQLite are the real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from bench.field_bus import resident_mb, whole
from bench.modbus_rtu import bus
from bench.report import figure, note
from drivers.modbus.plugin import plugin
from tests.fakes.modbus_line import Units
from tests.fakes.paced_line import PacedLine

BAUD = 115200


class Adapter(Protocol):
    """What can be pulled."""

    @property
    def tty(self) -> str:
        """Where its link points."""
        ...

    def pull(self) -> None: ...

    def plug(self, *, new_number: bool) -> object: ...


async def pulls(line: Adapter, times: int, mark: Callable[[], Callable[[], bool]]) -> int:
    """Pull it again and again, and tell the figures; returns how many numbers its tty had.

    `mark` is called while it is away: what it returns says whether everything is read again.
    """
    rng = random.Random(1)
    ttys, resumed_s, left = set(), [], []

    async def until(is_read: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not is_read():
                await asyncio.sleep(0.002)

    await until(mark())
    for turn in range(times):
        ttys.add(line.tty)
        await asyncio.sleep(rng.uniform(0, 0.05))
        line.pull()
        await asyncio.sleep(rng.uniform(0.01, 0.1))
        is_read = mark()
        line.plug(new_number=True)
        plugged_s = time.monotonic()
        await until(is_read)
        resumed_s.append(time.monotonic() - plugged_s)
        if turn in (9, times - 1):
            gc.collect()
            left.append((len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), resident_mb()))
    resumed_s.sort()
    name = f"adapter pulled {times} times"
    figure(f"{name}: polling again after, p50", resumed_s[len(resumed_s) // 2], "s")
    figure(f"{name}: polling again after, longest", resumed_s[-1], "s", at_most=2.0)
    (fds, tasks, memory_mb), (fds_after, tasks_after, memory_after_mb) = left[0], left[-1]
    figure(f"{name}: descriptors more than after 10", fds_after - fds, "", at_most=0.0)
    figure(f"{name}: tasks more than after 10", tasks_after - tasks, "", at_most=0.0)
    figure(f"{name}: memory more than after 10", memory_after_mb - memory_mb, "MB", at_most=2.0)
    return len(ttys)


async def replug(link: Path, times: int) -> None:
    line = PacedLine(Units(1), BAUD)
    tree = bus(link, BAUD, range(1, 4), every_ms=50)
    with line.open(link):
        async with whole([device["name"] for device in tree["devices"]], tree, {"modbus": plugin}) as (_, counters):

            def mark() -> Callable[[], bool]:
                before = counters.get("fieldbus.readings")
                return lambda: counters.get("fieldbus.readings") > before

            numbers = await pulls(line, times, mark)
    note(f"under {numbers} tty numbers, {counters.get('fieldbus.readings'):,} readings")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    options = parser.parse_args(arguments or [])
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(replug(Path(folder, "adapter"), options.times))


if __name__ == "__main__":
    main(sys.argv[1:])
