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
from collections.abc import Sequence
from pathlib import Path

from bench.field_bus import resident_mb, whole
from bench.modbus_rtu import bus
from bench.report import figure, note
from drivers.modbus.plugin import plugin
from tests.fakes.modbus_line import Units
from tests.fakes.paced_line import PacedLine

BAUD = 115200


async def replug(link: Path, times: int) -> None:
    line = PacedLine(Units(1), BAUD)
    rng = random.Random(1)
    tree = bus(link, BAUD, range(1, 4), every_ms=50)
    ttys, resumed_s, left = set(), [], []
    with line.open(link):
        async with whole([device["name"] for device in tree["devices"]], tree, {"modbus": plugin}) as (_, counters):

            async def reads(above: int) -> None:
                async with asyncio.timeout(10):
                    while counters.get("fieldbus.readings") <= above:
                        await asyncio.sleep(0.002)

            await reads(0)
            for turn in range(times):
                ttys.add(line.tty)
                await asyncio.sleep(rng.uniform(0, 0.05))
                line.pull()
                await asyncio.sleep(rng.uniform(0.01, 0.1))
                before = counters.get("fieldbus.readings")
                line.plug(new_number=True)
                plugged_s = time.monotonic()
                await reads(before)
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
    note(f"under {len(ttys)} tty numbers, {counters.get('fieldbus.readings'):,} readings")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    options = parser.parse_args(arguments or [])
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(replug(Path(folder, "adapter"), options.times))


if __name__ == "__main__":
    main(sys.argv[1:])
