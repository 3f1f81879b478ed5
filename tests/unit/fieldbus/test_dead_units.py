"""Ten units on a line of 9600 baud, in virtual time: what the dead ones cost the others, and how they come back."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from gateway.errors import BusLost, TransientError
from gateway.fieldbus.bus import Bus
from gateway.fieldbus.outage import probe_wait_s
from gateway.fieldbus.plugins import BusEntry
from gateway.ports import DriverPlugin, Poll, PollPoint, Reading, Write
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeBus, FakeConfig, FakeDevice, _devices
from tests.unit.fieldbus.inlet import FakeHouse

BYTE_S = 11 / 9600
ANSWER_S = (8 + 5 + 2 * 40 + 2 * 3.5) * BYTE_S + 0.005  # request, answer with 40 registers, two gaps, turnaround
TIMEOUT_S = 1.0


class JumpClock:
    """Whoever sleeps moves the time: for one task alone."""

    def __init__(self):
        self.now_s = 0.0

    def now_ms(self):
        return 1_700_000_000_000 + round(self.now_s * 1000)

    def monotonic_s(self):
        return self.now_s

    async def sleep(self, delay_s):
        self.now_s += delay_s
        await asyncio.sleep(0)


class Line(FakeBus):
    """Bytes take their time; `dead` units and `mute` polls take a timeout."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.dead, self.mute = set(), set()
        self.good, self.lost = [], []
        self.broken_line = False

    async def read(self, poll):
        await self._exchange(poll.unit, poll.key)
        self.good.append((self.clock.monotonic_s(), poll.key))
        return [Reading(device=poll.unit, key="t", value=1, ts_ms=self.clock.now_ms())]

    async def write(self, command):
        await self._exchange(command.device, "write")
        self.writes.append(command)
        return command.value

    async def _exchange(self, unit, key):
        if self.broken_line:
            raise BusLost("line: no connection")
        if unit in self.dead or key in self.mute:
            await self.clock.sleep(8 * BYTE_S + TIMEOUT_S)
            self.lost.append((self.clock.monotonic_s(), key))
            raise TransientError(f"line: unit {unit} silent")
        await self.clock.sleep(ANSWER_S)

    def rate(self, units, from_s, to_s):
        return sum(from_s <= at_s < to_s and key[0] in units for at_s, key in self.good) / (to_s - from_s)


@asynccontextmanager
async def running(units, every_s, polls_each=1, clock=None):
    clock = clock or JumpClock()
    line = Line(clock)
    line.plan = [
        Poll(key=f"{unit}{n}", every_s=every_s, unit=unit, points=(PollPoint(device=unit, key="t"),))
        for n in range(polls_each)
        for unit in units
    ]
    config = FakeConfig(name="line", devices=tuple(FakeDevice(name=unit) for unit in units))
    plugin = DriverPlugin(kind="fake", config=FakeConfig, open=line._open, devices=_devices)
    entry = BusEntry(name="line", plugin=plugin, config=config, devices=_devices(config))
    bus = Bus(entry, FakeHouse(*units), clock, Counters(), random.Random(3))
    task = asyncio.create_task(bus.serve())

    async def until(seconds):
        if isinstance(clock, FakeClock):
            await clock.advance(seconds - clock.monotonic_s())
        while clock.monotonic_s() < seconds:
            assert not task.done()
            await asyncio.sleep(0)

    try:
        yield bus, line, until
    finally:
        task.cancel()
        await asyncio.wait([task])


async def rates(units, dead, every_s, seconds):
    async with running(units, every_s) as (_, line, until):
        line.dead = set(dead)
        await until(seconds)
        lost_s = len(line.lost) * (8 * BYTE_S + TIMEOUT_S)
        return line.rate("abcdefg", 0, seconds), lost_s / seconds


@pytest.mark.parametrize("every_s", [1.0, 0.5], ids=["busy", "overloaded"])
async def test_three_dead_units_of_ten_leave_the_others_95_percent_of_their_rate(every_s):
    alone, _ = await rates("abcdefg", "", every_s, 1200)
    beside, lost = await rates("abcdefghij", "hij", every_s, 1200)
    assert beside >= 0.95 * alone
    assert lost <= 0.05, "the first tries included"


async def test_one_dead_unit_costs_two_percent_of_an_overloaded_line():
    async with running("abcdefghij", 0.2) as (_, line, until):
        line.dead = {"j"}
        await until(1500)
        lost_s = sum(at_s > 60 for at_s, _ in line.lost) * (8 * BYTE_S + TIMEOUT_S)
        assert lost_s / 1440 <= 0.02


async def test_a_dead_unit_comes_back_by_itself_and_at_its_own_rate():
    async with running("abcdefghij", 2.0) as (bus, line, until):
        line.dead = {"h", "i", "j"}
        await until(600)
        assert line.rate("hij", 0, 600) == 0
        line.dead.clear()
        await until(700)
        assert line.rate("h", 700 - 20, 700) > 0
        await until(760)
        assert line.rate("hij", 710, 760) == pytest.approx(1.5, abs=0.1)
        assert bus.overview.tally() == {"good": 10, "stale": 0, "bad": 0}


async def test_a_poll_that_is_never_answered_does_not_silence_its_unit():
    async with running("ab", 1.0, polls_each=3) as (bus, line, until):
        line.mute = {"a0"}
        await until(600)
        assert sum(key == "a0" for _, key in line.lost) < 20
        assert all(sum(key == mine for _, key in line.good) > 540 for mine in ("a1", "a2", "b0"))
        assert {unit["unit"]: unit["ok"] for unit in bus.status()["units"]} == {"a": True, "b": True}


async def test_calls_to_a_dead_unit_are_answered_at_once_and_cost_a_tenth_at_most():
    async with running("ab", 1.0, clock=FakeClock()) as (bus, line, until):
        line.dead = {"a"}
        await until(100)
        before, answers = len(line.lost), []
        for second in range(50):
            future = bus.submit(Write(device="a", key="t", value=1))
            await until(102 + 2 * second)
            answers.append(str(future.exception()))
        assert len(line.lost) - before <= 13
        assert sum("it is silent, and a call is tried again in" in answer for answer in answers) > 35
        line.dead.clear()
        await until(312)
        future = bus.submit(Write(device="a", key="t", value=7))
        await until(314)
        assert future.result() == 7


def test_the_wait_grows_with_each_failure_and_with_the_number_of_the_silent():
    assert [probe_wait_s(1.0, failures, 1) for failures in (1, 2, 3, 4, 40)] == [0.0, 8.0, 32.0, 50.0, 50.0]
    assert probe_wait_s(1.0, 9, 4) == 100.0
    assert probe_wait_s(100.0, 9, 1) == 600.0


async def test_a_call_that_is_answered_ends_the_wait_of_a_lost_line():
    async with running("ab", 1.0, clock=FakeClock()) as (bus, line, until):
        line.broken_line = True
        await until(120)
        while bus._scheduler._all_until_s < line.clock.monotonic_s() + 10:
            await line.clock.advance(1.0)  # until the next try is far away
        lost, now_s = len(line.good), line.clock.monotonic_s()
        line.broken_line = False
        future = bus.submit(Write(device="a", key="t", value=3))
        await until(now_s + 1.5)
        assert future.result() == 3
        assert len(line.good) >= lost + 2
