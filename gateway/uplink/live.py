"""`drain: live_first`: what is new overtakes a long backlog. Pure.

When the link is ready again and much waits, the queue is read at two places: at the cursor, in order, as
always; and from the place where it ended at that moment. Of the second part only telemetry goes ahead, and
none of an entity whose creation is not confirmed yet. Everything else there is left to the first reader, which
skips what went ahead. When the first reader has arrived where the second one is, this stream is closed: it
sends what it still holds, and is gone.

The cursor is the first reader's alone. What is confirmed ahead of it is remembered here as ranges, in memory
only: after a crash it is sent again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Hashable, Iterable
from typing import Final

from gateway.domain.cloud_event import StoredEvent
from gateway.uplink.backlog import Backlog
from gateway.uplink.batch import Batch, is_shareable, order_key

MAX_RANGES: Final = 10_000
"""With so many gaps between what went ahead nothing more does, until the first reader has closed some."""


class Ranges:
    """Numbers as ranges without gaps; asked and forgotten in growing order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, number: int) -> None:
        """A number that is not there yet."""
        starts, ends = self._starts, self._ends
        i = bisect_right(starts, number)
        joins_left = i > 0 and ends[i - 1] == number - 1
        joins_right = i < len(starts) and starts[i] == number + 1
        if joins_left and joins_right:
            ends[i - 1] = ends[i]
            del starts[i], ends[i]
        elif joins_left:
            ends[i - 1] = number
        elif joins_right:
            starts[i] = number
        else:
            starts.insert(i, number)
            ends.insert(i, number)

    def forget_below(self, number: int) -> None:
        """What ends below it is not asked for any more."""
        gone = bisect_right(self._ends, number - 1)
        del self._starts[:gone], self._ends[:gone]

    def __contains__(self, number: int) -> bool:
        i = bisect_right(self._starts, number)
        return i > 0 and number <= self._ends[i - 1]


class Live:
    """What has gone ahead, and how far."""

    def __init__(self, start: int, *, capacity: int) -> None:
        self.backlog = Backlog(start, capacity=capacity)
        self.read = start  # up to here everything has been looked at
        self.is_open = True
        self._ahead: set[int] = set()  # held by `backlog`
        self._done = Ranges()

    @property
    def room(self) -> int:
        """How many more events may be read."""
        return self.backlog.room if len(self._done) < MAX_RANGES else 0

    @property
    def ranges(self) -> int:
        """How many ranges are remembered."""
        return len(self._done)

    def restart(self, last: int) -> None:
        """Another outage: what came in the meantime belongs to the backlog as well."""
        self.read, self.is_open = last, True

    def take(self, page: Iterable[StoredEvent], creating: Container[Hashable]) -> None:
        """The next page; `creating` are the entities that the cloud does not know yet."""
        chosen: Batch = []
        for event in page:
            self.read = event.seq_id
            if is_shareable(event) and order_key(event) not in creating:
                chosen.append(event)
                self._ahead.add(event.seq_id)
        self.backlog.add(chosen)

    def has(self, seq_id: int) -> bool:
        """True for what this stream has taken. Asked in growing order."""
        self._done.forget_below(seq_id)
        return seq_id in self._ahead or seq_id in self._done

    def is_done(self, seq_id: int) -> bool:
        """True for what is confirmed or parked."""
        return seq_id in self._done

    def done(self, events: Iterable[StoredEvent], reached: int) -> list[int]:
        """These are confirmed or parked; the numbers of those that the first reader has passed (`reached`)."""
        passed = []
        for event in events:
            self._ahead.discard(event.seq_id)
            if event.seq_id <= reached:
                passed.append(event.seq_id)
            else:
                self._done.add(event.seq_id)
        return passed
