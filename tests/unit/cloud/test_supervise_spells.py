"""What `supervise` logs of an outage when it is told how often the room has worked."""

import asyncio
import logging

import pytest

from gateway.errors import TransientError
from gateway.supervise import STEADY_S, Backoff, supervise
from tests.fakes.clock import FakeClock


class Quick:
    def monotonic_s(self):
        return 0.0

    async def sleep(self, delay_s):
        if delay_s >= STEADY_S:
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("is_told", "expected"),
    [(True, ["a", "b", "a"]), (False, ["a", "b"])],
    ids=["it says that it has worked", "it has not served for long enough"],
)
async def test_reasons(caplog, is_told, expected):
    steps = iter(["a", "a", "b", "a", "b", "+", "a", "a", None])  # "+": it worked in between
    spells = 0

    async def serve():
        nonlocal spells
        step = next(steps)
        if step == "+":
            spells += 1
            step = next(steps)
        if step is not None:
            raise TransientError(step)

    caplog.set_level(logging.WARNING)
    await supervise("room", serve, Backoff(1, 2), Quick(), spells=(lambda: spells) if is_told else None)
    assert [record.getMessage().split(": ")[1].split(";")[0] for record in caplog.records] == expected


async def test_reasons_that_never_repeat_are_not_kept(caplog):
    count = 0

    async def serve():
        nonlocal count
        count += 1
        if count < 500:
            raise TransientError(str(count % 30))

    await supervise("room", serve, Backoff(1, 2), Quick(), spells=lambda: 1)
    assert len(caplog.records) == 499  # more reasons than are remembered: each is said again


async def test_an_outage_of_a_room_is_two_lines_however_often_it_is_tried(caplog):
    clock, is_away, tries = FakeClock(), True, 0

    async def serve():
        nonlocal tries
        tries += 1
        await clock.sleep(1)  # it begins, and finds out
        if is_away:
            raise TransientError("the server is away" if tries % 2 else "no answer")
        await asyncio.Event().wait()

    caplog.set_level(logging.INFO)
    task = asyncio.create_task(supervise("uplink", serve, Backoff(1.0, 30.0), clock))
    try:
        for _ in range(100):
            await clock.advance(10)
        assert tries > 20
        told = len(caplog.records)
        assert told == 2  # one for each reason
        is_away = False
        for _ in range(100):
            await clock.advance(10)
        assert [record.getMessage() for record in caplog.records[told:]] == ["uplink: works again"]
    finally:
        task.cancel()
        await asyncio.wait([task])
