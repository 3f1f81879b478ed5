"""Keeps one room serving; and the two small things every room needs: a clock and counters."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from gateway.errors import RefusedError, TransientError
from gateway.ports import Clock, Receipt

log = logging.getLogger(__name__)

STEADY_S: Final = 60.0
"""A room that serves for so long after an outage works again."""
MOST_LINES: Final = 20
"""In a minute, of `FewLines`."""
_REASONS = 20  # remembered in one outage; a text that never repeats must not grow memory


class SystemClock:
    """The real one."""

    def now_ms(self) -> int:
        """UTC epoch, milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


class Counters:
    """What happened how often, by name: `broker.connects`, `rules.failures` … Shown by status and metrics.

    Names are few and fixed in the code: never made from what a device sent.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Count something."""
        self._counts[name] += count

    def get(self, name: str) -> int:
        """How often so far."""
        return self._counts[name]

    def all(self) -> dict[str, int]:
        """A copy, by name."""
        return dict(sorted(self._counts.items()))


class Backoff:
    """Delays that grow from `first_s` to `longest_s`, each random between half and whole of its step.

    A spell of `good_s` without an outage starts again from `first_s`. A refusal (a person must act) goes
    to the longest delay at once.
    """

    def __init__(
        self, first_s: float, longest_s: float, *, good_s: float = 60.0, rng: random.Random | None = None
    ) -> None:
        self._first_s, self._longest_s, self._good_s = first_s, longest_s, good_s
        self._step_s = first_s
        self._rng = rng or random.Random()

    def next_s(self, *, good_spell_s: float = 0.0, is_refused: bool = False) -> float:
        """The next delay in seconds."""
        if good_spell_s >= self._good_s:
            self._step_s = self._first_s
        if is_refused:
            self._step_s = self._longest_s
        delay_s = self._step_s * (0.5 + 0.5 * self._rng.random())
        self._step_s = min(self._longest_s, self._step_s * 2)
        return delay_s

    def reset(self) -> None:
        """Start again from the first delay."""
        self._step_s = self._first_s


class FewLines:
    """Warnings of something that may come in thousands and is counted elsewhere: `MOST_LINES` of them in a minute."""

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._until_s, self._lines = 0.0, 0

    def warning(self, text: str, *values: object) -> None:
        """One of them; the last one of a minute says that there may be more."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._until_s:
            self._until_s, self._lines = now_s + 60.0, 0
        self._lines += 1
        if self._lines <= MOST_LINES:
            more = " (more of them within this minute are only counted)" if self._lines == MOST_LINES else ""
            self._log.warning(text + more, *values)


async def supervise(
    name: str,
    serve: Callable[[], Awaitable[None]],
    backoff: Backoff,
    clock: Clock,
    *,
    spells: Callable[[], int] | None = None,
) -> None:
    """Keep one room serving: an outage waits and starts again, a bug goes through.

    Two log lines for an outage: its beginning, and its end; each other reason that turns up in between has one more.
    `spells` counts how often the room has worked, and the room itself logs that it works again; without it a room
    that has served for `STEADY_S` works again, and that is logged here.
    """
    told: set[str] = set()
    spell = spells() if spells else 0
    while True:
        started_s = clock.monotonic_s()
        # In a task of its own: a task group that is ending of an outage drops a cancellation that comes
        # meanwhile, and leaves marks of its own on the task it stands in.
        life = asyncio.ensure_future(serve())
        try:
            async with _told_when_steady(name, told if spells is None else set(), clock):
                return await life
        except* (TransientError, RefusedError) as outages:
            error = outages.exceptions[0]
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if spells is not None and spells() != spell:
                spell = spells()
                told.clear()
            if str(error) not in told:
                if len(told) >= _REASONS:
                    told.clear()
                told.add(str(error))
                log.warning("%s: %s; trying again", name, error)
            refused = outages.subgroup(RefusedError) is not None
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        await clock.sleep(backoff.next_s(good_spell_s=clock.monotonic_s() - started_s, is_refused=refused))


@asynccontextmanager
async def _told_when_steady(name: str, told: set[str], clock: Clock) -> AsyncIterator[None]:
    """While the block lasts: after `STEADY_S` the outage that was told is over."""
    if not told:
        yield
        return

    async def watch() -> None:
        await clock.sleep(STEADY_S)
        told.clear()
        log.info("%s: works again", name)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()


def follow(made: Receipt | None, receipt: Receipt) -> None:
    """`receipt` ends as `made` does; None is done already."""
    if made is None:
        receipt.set_result(None)
    else:
        made.add_done_callback(lambda done: end_like(done, receipt))


def end_like(done: Receipt, receipt: Receipt) -> None:
    """`done` has ended, and so does `receipt` unless it has by itself."""
    if receipt.done():
        return
    if done.cancelled():
        receipt.cancel()
    elif (error := done.exception()) is not None:
        receipt.set_exception(error)
    else:
        receipt.set_result(None)
