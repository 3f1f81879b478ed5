"""What has been read from one lane and is not yet confirmed. Pure; time comes in as an argument.

Every event is in exactly one place: waiting behind its entity, in a batch that is on its way, in a batch
that will be tried again, or done. A batch *owns* its entities until it is answered.

Memory: at most `capacity` events are held, and `done_ahead` sequence numbers of confirmed events behind
one that is not; then nothing more is read until the oldest is confirmed or parked.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Final

from gateway.domain.cloud_event import StoredEvent
from gateway.uplink.batch import Batch, is_dependent, is_shareable, keys_of, order_key, split, weight_bytes

_DONE_AHEAD: Final = 50_000


class Backlog:
    """The events of one lane between the store and the cloud."""

    def __init__(self, cursor: int, *, capacity: int, done_ahead: int = _DONE_AHEAD) -> None:
        self.cursor = cursor  # everything up to here is confirmed or parked
        self.read = cursor  # everything up to here has been taken in
        self._capacity, self._done_ahead = capacity, done_ahead
        self._held = 0
        self._order: deque[int] = deque()
        self._done: set[int] = set()
        self._waiting: dict[Hashable, deque[StoredEvent]] = {}
        self._owned: set[Hashable] = set()
        self._shared: list[tuple[int, Hashable]] = []  # heaps of entities that may send, by their first event
        self._alone: list[tuple[int, Hashable]] = []
        self._dependent: list[tuple[int, Hashable]] = []
        self._again: deque[Batch] = deque()  # owned; halves of refused messages
        self._resting: list[tuple[float, int, StoredEvent]] = []  # heap by due time; owned
        self._tries: dict[int, int] = {}
        self.shared_count = 0  # events of the entities in `_shared`: about how much telemetry may be sent now

    # ── in ───────────────────────────────────────────────────────────────────────────────────

    @property
    def room(self) -> int:
        """How many more events may be read."""
        if len(self._order) >= self._done_ahead:
            return 0
        return self._capacity - self._held

    def add(self, events: Iterable[StoredEvent]) -> None:
        """The next page, in order."""
        for event in events:
            self.read = event.seq_id
            self._order.append(event.seq_id)
            self._held += 1
            key = order_key(event)
            queue = self._waiting.get(key)
            if queue is None:
                self._waiting[key] = deque((event,))
                if key not in self._owned:
                    self._offer(key, event)
            else:
                queue.append(event)
                if key not in self._owned and is_shareable(queue[0]):
                    self.shared_count += 1

    def _offer(self, key: Hashable, head: StoredEvent) -> None:
        """An entity may send: file it under the kind of its first event."""
        if is_shareable(head):
            heapq.heappush(self._shared, (head.seq_id, key))
            self.shared_count += len(self._waiting[key])
        elif is_dependent(head):
            heapq.heappush(self._dependent, (head.seq_id, key))
        else:
            heapq.heappush(self._alone, (head.seq_id, key))

    # ── out ──────────────────────────────────────────────────────────────────────────────────

    @property
    def is_idle(self) -> bool:
        """Nothing is held at all."""
        return self._held == 0

    @property
    def next_due_s(self) -> float | None:
        """When a refused event may be tried again."""
        return self._resting[0][0] if self._resting else None

    def take_alone(self, now_s: float) -> Batch | None:
        """A batch that need not wait for company: a repetition, or an event with a message of its own."""
        if self._resting and self._resting[0][0] <= now_s:
            return [heapq.heappop(self._resting)[2]]
        if self._again:
            return self._again.popleft()
        if self._dependent and self._order and self._dependent[0][0] == self._order[0]:
            return self._take_head(heapq.heappop(self._dependent)[1])
        if self._alone:
            return self._take_head(heapq.heappop(self._alone)[1])
        return None

    def _take_head(self, key: Hashable) -> Batch:
        queue = self._waiting[key]
        event = queue.popleft()
        self._own(key, queue)
        return [event]

    def take_shared(self, batch_size: int, free_slots: int, max_bytes: int) -> Batch | None:
        """Telemetry for one message, entity by entity, the longest waiting first.

        An entity cannot have two messages on their way, so when few entities have telemetry each may
        take more than `batch_size`: together never more than the free part of the window.
        """
        if not self._shared:
            return None
        limit = batch_size * max(1, free_slots // len(self._shared))
        batch: Batch = []
        size = 0
        while self._shared:
            seq_and_key = heapq.heappop(self._shared)
            key = seq_and_key[1]
            queue = self._waiting[key]
            if batch and size + weight_bytes(queue[0]) > max_bytes:
                heapq.heappush(self._shared, seq_and_key)
                break
            self.shared_count -= len(queue)
            while queue and len(batch) < limit and is_shareable(queue[0]):
                size += weight_bytes(queue[0])
                if batch and size > max_bytes:
                    break
                batch.append(queue.popleft())
            self._own(key, queue)
            if len(batch) >= limit or size >= max_bytes:
                break
        return batch

    def _own(self, key: Hashable, queue: deque[StoredEvent]) -> None:
        self._owned.add(key)
        if not queue:
            del self._waiting[key]

    # ── answers ──────────────────────────────────────────────────────────────────────────────

    def confirmed(self, batch: Batch) -> None:
        """The cloud has it, or it is parked."""
        for event in batch:
            self._done.add(event.seq_id)
            self._tries.pop(event.seq_id, None)
        self._held -= len(batch)
        order, done = self._order, self._done
        while order and order[0] in done:
            self.cursor = order.popleft()
            done.remove(self.cursor)
        self._release(keys_of(batch))

    def refused(self, event: StoredEvent, due_s: float) -> int:
        """One event was refused; it rests until `due_s` and holds its entity back. How often so far."""
        tries = self._tries[event.seq_id] = self._tries.get(event.seq_id, 0) + 1
        heapq.heappush(self._resting, (due_s, event.seq_id, event))
        return tries

    def tries(self, event: StoredEvent) -> int:
        """Refusals of an event so far."""
        return self._tries.get(event.seq_id, 0)

    def divide(self, batch: Batch) -> None:
        """A shared message was refused: its halves are tried next, apart.

        Two halves of one entity must not be on their way together: then the second goes back behind the first.
        """
        first, second = split(batch)
        if keys_of(first) & keys_of(second):
            self._put_back(second)
            self._again.appendleft(first)
        else:
            self._again.extendleft((second, first))

    def returned(self, batch: Batch) -> None:
        """Not answered, or not to be counted: it will be sent again in its old place."""
        self._put_back(batch)
        self._release(keys_of(batch))

    def shift(self, delay_s: float) -> None:
        """The clock of the resting events stood still for so long."""
        self._resting = [(due_s + delay_s, seq_id, event) for due_s, seq_id, event in self._resting]

    def _put_back(self, batch: Batch) -> None:
        for event in reversed(batch):
            key = order_key(event)
            queue = self._waiting.get(key)
            if queue is None:
                queue = self._waiting[key] = deque()
            queue.appendleft(event)

    def _release(self, keys: set[Hashable]) -> None:
        for key in keys:
            self._owned.discard(key)
            queue = self._waiting.get(key)
            if queue:
                self._offer(key, queue[0])
