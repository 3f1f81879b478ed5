"""Waiting with a deadline on the house's clock, so that a test need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.ports import Clock

T = TypeVar("T")


async def within(clock: Clock, delay_s: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; it is not even begun when no time is left.

    Raises:
        TimeoutError: It was not done in time, and was cancelled.
    """
    if delay_s <= 0:
        work.close()
        raise TimeoutError
    task, timer = asyncio.ensure_future(work), asyncio.ensure_future(clock.sleep(delay_s))
    try:
        await asyncio.wait([task, timer], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        timer.cancel()
        task.cancel()
