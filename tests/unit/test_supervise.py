"""A stop ends a room also in the moment of its outage."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import TransientError
from gateway.supervise import Backoff, supervise
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
