"""Where each lane of the queue stands, in memory: the same for every backend."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.domain.cloud_event import Lane


@dataclass(slots=True)
class Positions:
    """By lane: lowest stored (of an empty lane: the next one), highest stored and highest confirmed `seq_id`."""

    first: list[int] = field(default_factory=lambda: [1, 1])
    last: list[int] = field(default_factory=lambda: [0, 0])
    cursor: list[int] = field(default_factory=lambda: [0, 0])
    parked: int = 0

    def copy(self) -> Positions:
        """An independent one."""
        return Positions(self.first[:], self.last[:], self.cursor[:], self.parked)

    def deployed(self, lane: Lane) -> int:
        """Confirmed events still kept; counts numbers, so events dropped in between count too."""
        return max(0, self.cursor[lane] - self.first[lane] + 1)


class Lanes:
    """Published positions, and those who wait for them to grow."""

    def __init__(self, positions: Positions) -> None:
        self.now = positions
        self._waiting: list[tuple[Lane, int, asyncio.Future[None]]] = []

    def publish(self, positions: Positions) -> None:
        """After a commit; on the event loop."""
        self.now = positions
        if self._waiting:
            for lane, seq_id, waiter in self._waiting:
                if positions.last[lane] > seq_id and not waiter.done():
                    waiter.set_result(None)

    async def wait_beyond(self, lane: Lane, seq_id: int) -> None:
        """Returns when the last of the lane is above `seq_id`."""
        while self.now.last[lane] <= seq_id:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (lane, seq_id, waiter)
            self._waiting.append(entry)
            try:
                await waiter
            finally:
                self._waiting.remove(entry)
