"""What rules do by themselves: windows that end, delays, generators. One task wakes when the next one is due."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from gateway.devices.inlet import Inlet
from gateway.devices.pipeline import Pipeline
from gateway.ports import Clock, Receipt, RuleTimers
from gateway.supervise import Counters

MOST_UNCOMMITTED: Final = 100
"""So many units of work wait for the disk; the next timer waits for one of them."""

IN_A_ROW: Final = 32
"""After so many timers of one moment the others in the house have a turn."""


class Ticking:
    """Fires the timers of the rules. While the disk is behind they wait, like everybody who has something to say."""

    name = "rule timers"

    def __init__(self, rules: RuleTimers, pipeline: Pipeline, inlet: Inlet, clock: Clock, counters: Counters) -> None:
        self._rules, self._pipeline, self._inlet = rules, pipeline, inlet
        self._clock, self._counters = clock, counters
        self._wake: asyncio.Future[None] | None = None
        self._open: set[Receipt] = set()
        rules.on_earlier = self._wake_up

    async def serve(self) -> None:
        """Until cancelled."""
        fired = 0
        while True:
            wait_s = self._rules.due_s - self._clock.monotonic_s()
            if wait_s > 0:
                fired = 0
                await self._rest(wait_s)
                continue
            if self._inlet.is_congested:
                await self._inlet.wait_uncongested()
            while len(self._open) >= MOST_UNCOMMITTED:
                await asyncio.wait(self._open, return_when=asyncio.FIRST_COMPLETED)
            outcome = self._rules.fire()
            if outcome is None:
                continue
            receipt = self._pipeline.resume(outcome)
            self._open.add(receipt)
            receipt.add_done_callback(self._done)
            fired += 1
            if fired >= IN_A_ROW:
                fired = 0
                await asyncio.sleep(0)

    def _done(self, receipt: Receipt) -> None:
        self._open.discard(receipt)
        if not receipt.cancelled() and receipt.exception() is not None:
            self._counters.add("rules.timers_not_stored")

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _rest(self, wait_s: float) -> None:
        wake = self._wake = asyncio.get_running_loop().create_future()
        if math.isinf(wait_s):
            await wake
            return
        sleeper = asyncio.ensure_future(self._clock.sleep(wait_s))
        sleeper.add_done_callback(lambda _: self._wake_up())
        try:
            await wake
        finally:
            sleeper.cancel()
