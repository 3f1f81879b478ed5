"""The field bus at its limits: punctuality, and points a second into the rules, with a driver whose wire costs nothing.

    python -m bench.field_bus [punctual] [points]

`punctual`: 1,000 points at 100 ms in 10 polls, then each a poll of its own: how late they are, what it costs.
`points`: 50 units of 100 registers, read as fast as their receipts come, through the rule chain into SQLite; beside it,
in the same rounds, a plain asyncio loop that decodes the same registers and drops them: the limit.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.report import figure, note
from gateway.config import RulesConfig, Settings, SqliteStore
from gateway.devices.inlet import Inlet
from gateway.devices.pipeline import Pipeline
from gateway.devices.rpc import RpcDesk
from gateway.devices.state import State
from gateway.domain.changes import SaveDevice
from gateway.domain.entity import Device
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.fieldbus import Fieldbus
from gateway.ports import Clock, DriverDevice, DriverPlugin, Poll, PollPoint, Query, Reading, Write
from gateway.rules.engine import RuleEngine
from gateway.store import GroupCommitter, open_store
from gateway.supervise import Counters, SystemClock

UNITS, REGISTERS = 50, 100
BODY = struct.pack(f">{REGISTERS}H", *range(REGISTERS))
UNPACK = struct.Struct(f">{REGISTERS}H").unpack


class Config(Settings):
    kind: str = "bench"
    name: str = "bench"


class Wire:
    """Implements `Driver`: `polls` of `points` each, answered by the next turn of the loop."""

    def __init__(self, units: int, points: int, every_s: float, clock: Clock) -> None:
        self._clock = clock
        self._units = [f"unit-{number}" for number in range(units)]
        self._keys = [f"k{number}" for number in range(points)]
        self._polls = [
            Poll(key=unit, every_s=every_s, unit=unit, points=[PollPoint(device=unit, key=key) for key in self._keys])
            for unit in self._units
        ]
        self.reads = 0
        self.starts: dict[str, list[float]] = {unit: [] for unit in self._units}

    @property
    def plugin(self) -> DriverPlugin:
        @asynccontextmanager
        async def open_wire(config: Config, clock: Clock) -> AsyncIterator[Wire]:
            yield self

        return DriverPlugin(kind="bench", config=Config, open=open_wire, devices=lambda config: self.devices())

    def devices(self) -> Sequence[DriverDevice]:
        return [DriverDevice(name=unit) for unit in self._units]

    def polls(self) -> Sequence[Poll]:
        return self._polls

    async def read(self, poll: Poll) -> Sequence[Reading]:
        self.starts[poll.key].append(time.monotonic())
        await asyncio.sleep(0)
        self.reads += 1
        ts_ms, unit = self._clock.now_ms(), poll.unit
        return [
            Reading(device=unit, key=key, value=value, ts_ms=ts_ms)
            for key, value in zip(self._keys, UNPACK(BODY), strict=False)
        ]

    async def write(self, command: Write) -> Value:
        raise RejectedError("read only")

    async def query(self, query: Query) -> Value:
        raise RejectedError("no queries")

    def is_writable(self, device: str, key: str) -> bool | None:
        return False

    def faults(self) -> Mapping[str, str]:
        return {}


@asynccontextmanager
async def house(wire: Wire) -> AsyncIterator[tuple[Fieldbus, Counters]]:
    """A whole field bus around this wire."""
    names = [device.name for device in wire.devices()]
    async with whole(names, {"kind": "bench"}, {"bench": wire.plugin}) as (room, counters):
        yield room, counters


@asynccontextmanager
async def whole(
    names: Sequence[str], bus: Mapping[str, Any], plugins: Mapping[str, DriverPlugin]
) -> AsyncIterator[tuple[Fieldbus, Counters]]:
    """Field bus, devices, rules, committer and SQLite (synchronous=FULL) as the gateway joins them."""
    clock, counters = SystemClock(), Counters()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        async with open_store(SqliteStore(), Path(folder), clock, counters) as store:
            devices = [Device(id=uuid4(), name=name, type="default") for name in names]
            await store.commit([[SaveDevice(device) for device in devices]])
            committer = GroupCommitter(store, clock, counters)
            state = State(await store.load())
            rules = RuleEngine(state, RulesConfig(), clock, counters)
            rules.load_files()
            pipeline = Pipeline(rules, committer, state, counters)
            inlet = Inlet(state, pipeline, committer, RpcDesk(pipeline, state, clock, counters), clock, counters)
            room = Fieldbus([dict(bus)], inlet, clock, counters, plugins=dict(plugins))
            committing = asyncio.create_task(committer.serve())
            serving = asyncio.create_task(room.serve())
            try:
                yield room, counters
            finally:
                for task in (serving, committing):
                    task.cancel()
                    await asyncio.wait([task])


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


async def punctual(polls: int, seconds: float = 6.0) -> None:
    """1,000 points at 100 ms: lateness against the grid on which each poll began."""
    wire = Wire(polls, 1000 // polls, 0.1, SystemClock())
    before_mb = resident_mb()
    async with house(wire) as (room, _):
        await asyncio.sleep(1.0)
        for starts in wire.starts.values():
            starts.clear()
        cpu_s, from_s = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu_s, spent_s = time.process_time() - cpu_s, time.monotonic() - from_s
        (status,) = room.status()
        late_ms = sorted(late for starts in wire.starts.values() for late in lateness_ms(starts))
    goal = 20.0 if polls == 10 else None  # a poll for each point is 10,000 messages a second: shown, not promised
    name = f"1,000 points at 100 ms in {polls} polls"
    figure(f"{name}: polls a second", len(late_ms) / spent_s, "1/s", at_least=goal and 9.7 * polls)
    figure(f"{name}: lateness p50", late_ms[len(late_ms) // 2], "ms")
    figure(f"{name}: lateness p99", late_ms[len(late_ms) * 99 // 100], "ms", at_most=goal)
    figure(f"{name}: CPU", 100 * cpu_s / spent_s, "% of one")
    figure(f"{name}: memory beside the idle process", resident_mb() - before_mb, "MB")
    note(f"turns missed {status['late_merged']}, line {status['utilisation']:.0%} busy, points {status['points']}")


def lateness_ms(starts: list[float]) -> list[float]:
    """Behind the poll's own grid, whose phase is that of its most punctual turn."""
    if not starts:
        return []
    phases = [start - 0.1 * turn for turn, start in enumerate(starts)]
    origin = min(phases)
    return [((phase - origin) % 0.1) * 1000 for phase in phases]


async def points(seconds: float = 3.0, rounds: int = 3) -> None:
    """Into the rules and back, beside the plain loop."""
    taken = spent = plain = plain_s = 0.0
    for _ in range(rounds):
        wire = Wire(UNITS, REGISTERS, 0.001, SystemClock())  # always late: as fast as it goes
        async with house(wire) as (_, counters):
            await asyncio.sleep(0.3)
            reads, from_s = wire.reads, time.perf_counter()
            await asyncio.sleep(seconds / rounds)
            taken += (wire.reads - reads) * REGISTERS
            spent += time.perf_counter() - from_s
            assert counters.get("fieldbus.errors") == 0
        count, rate_s = await _plain(seconds / rounds)
        plain, plain_s = plain + count, plain_s + rate_s
    figure(f"{UNITS} units × {REGISTERS} registers: points/s into the rules", taken / spent, "1/s", at_least=100_000)
    figure("plain asyncio loop that decodes and drops", plain / plain_s, "1/s")
    note(f"share of the plain loop: {taken / spent / (plain / plain_s):.2f}")


async def _plain(seconds: float) -> tuple[int, float]:
    wire = Wire(UNITS, REGISTERS, 0.001, SystemClock())
    count, from_s = 0, time.perf_counter()
    while time.perf_counter() - from_s < seconds:
        for poll in wire.polls():
            count += len(await wire.read(poll))
    return count, time.perf_counter() - from_s


async def _main(what: Sequence[str]) -> None:
    if not what or "punctual" in what:
        await punctual(10)
        await punctual(1000)
    if not what or "points" in what:
        await points()


def main(arguments: Sequence[str] | None = None) -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_main(arguments or ()))
    return uvloop.run(_main(arguments or ()))


if __name__ == "__main__":
    main(sys.argv[1:])
