"""What ends a room and what only interrupts it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.errors import TransientError
from gateway.supervise import MOST_LINES, Backoff, FewLines, supervise
from tests.fakes.clock import FakeClock


async def test_a_room_that_is_cancelled_while_its_group_ends_of_an_outage_does_not_begin_again():
    ending, lives = asyncio.Event(), []

    async def tidy_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await asyncio.sleep(0.02)  # the group waits for it

    async def fail() -> None:
        raise TransientError("cut")

    async def serve() -> None:
        lives.append(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(tidy_up())
            await asyncio.sleep(0)
            tasks.create_task(fail())

    task = asyncio.create_task(supervise("room", serve, Backoff(10, 10), FakeClock()))
    await ending.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=2)
    task.cancel()
    assert done
    with pytest.raises(asyncio.CancelledError):
        task.result()
    assert len(lives) == 1


async def test_an_outage_that_ends_a_group_is_no_stop():
    lives = []

    async def fail() -> None:
        raise TransientError("cut")

    async def serve() -> None:
        lives.append(1)
        if len(lives) == 3:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.Event().wait())
            tasks.create_task(fail())

    class Clock(FakeClock):
        async def sleep(self, delay_s: float) -> None:
            await asyncio.sleep(0)

    await asyncio.wait_for(supervise("room", serve, Backoff(10, 10), Clock()), 2)
    assert len(lives) == 3


async def test_what_comes_in_thousands_has_few_lines_in_a_minute(caplog):
    clock = FakeClock()
    few = FewLines(logging.getLogger("few"), clock)
    for number in range(3 * MOST_LINES):
        few.warning("event %d is parked", number)
    assert len(caplog.messages) == MOST_LINES
    assert caplog.messages[0] == "event 0 is parked"
    assert caplog.messages[-1].endswith("is parked (more of them within this minute are only counted)")
    await clock.advance(60)
    few.warning("event %d is parked", 7)
    assert caplog.messages[-1] == "event 7 is parked"
