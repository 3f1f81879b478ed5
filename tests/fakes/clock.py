"""A clock that stands still until told."""

import asyncio
import heapq
import itertools


class FakeClock:
    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    async def sleep(self, delay_s: float) -> None:
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic_s + delay_s, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass; wakes sleepers in order and lets them run."""
        target = self._monotonic_s + seconds
        for _ in range(5):
            await asyncio.sleep(0)
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, future = heapq.heappop(self._sleepers)
            self._now_ms += round((due - self._monotonic_s) * 1000)
            self._monotonic_s = due
            if not future.done():
                future.set_result(None)
            for _ in range(20):
                await asyncio.sleep(0)
        self._now_ms += round((target - self._monotonic_s) * 1000)
        self._monotonic_s = target
