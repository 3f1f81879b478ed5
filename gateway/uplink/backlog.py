"""What has been read of one stream of events and is not yet confirmed. Pure; time comes in as an argument.

Every event is in exactly one place: waiting behind its entity, in a batch that is on its way, in a batch
that will be tried again, or done. A batch *owns* its entities until it is answered. An event that is larger
than a message is replaced by its parts, in the same place; it is done when all of them are.

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
        self._parts: dict[int, int] = {}  # of events that were cut: how many are not done
        self._elsewhere: set[int] = set()  # on their way in another stream
        self._blocked: set[Hashable] = set()  # entities that wait for another stream
        self.in_flight = 0  # messages
        self.partial_since_s: float | None = None
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
                if key not in self._owned and key not in self._blocked and is_shareable(queue[0]):
                    self.shared_count += 1

    def skip(self, seq_id: int, *, is_done: bool) -> None:
        """The next event travels in another stream: done there already, or `settle` will tell."""
        self.read = seq_id
        self._order.append(seq_id)
        if is_done:
            self._done.add(seq_id)
            self._advance()
        else:
            self._elsewhere.add(seq_id)

    def settle(self, seq_id: int) -> None:
        """A skipped event is done; others are ignored."""
        if seq_id in self._elsewhere:
            self._elsewhere.remove(seq_id)
            self._done.add(seq_id)
            self._advance()

    def block(self, keys: set[Hashable]) -> None:
        """These entities send nothing more until `unblock`."""
        self._blocked |= keys
        for heap in (self._shared, self._alone, self._dependent):
            heap[:] = [offer for offer in heap if offer[1] not in keys]
            heapq.heapify(heap)
        self.shared_count = sum(len(self._waiting[key]) for _, key in self._shared)

    def unblock(self, keys: set[Hashable] | None = None) -> None:
        """These, or all, may send again."""
        free = set(self._blocked) if keys is None else keys & self._blocked
        self._blocked -= free
        self._offer_again(free - self._owned)

    def keys(self) -> set[Hashable]:
        """The entities of everything held."""
        return self._owned | self._waiting.keys()

    def _offer(self, key: Hashable, head: StoredEvent) -> None:
        """An entity may send: file it under the kind of its first event."""
        if key in self._blocked:
            return
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

    def confirmed(self, batch: Batch) -> Batch:
        """The cloud has it, or it is parked. Those that are done by it: not an event that has other parts to go."""
        done = batch
        if self._parts:
            done = [event for event in batch if self._is_last_part(event.seq_id)]
        for event in batch:
            self._tries.pop(event.seq_id, None)
        self._done.update(event.seq_id for event in done)
        self._held -= len(batch)
        self._advance()
        self._release(keys_of(batch))
        return done

    def _is_last_part(self, seq_id: int) -> bool:
        left = self._parts.pop(seq_id, 1) - 1
        if left:
            self._parts[seq_id] = left
        return not left

    def _advance(self) -> None:
        order, done = self._order, self._done
        while order and order[0] in done:
            self.cursor = order.popleft()
            done.remove(self.cursor)

    def replace(self, event: StoredEvent, parts: Batch) -> None:
        """An event that was on its way alone is too large: its parts take its place."""
        self._parts[event.seq_id] = self._parts.get(event.seq_id, 1) + len(parts) - 1
        self._held += len(parts) - 1
        self.returned(parts)

    def is_part(self, event: StoredEvent) -> bool:
        """True for a part of an event that was cut."""
        return event.seq_id in self._parts

    def postponed(self, batch: Batch) -> None:
        """Not to be counted: the same message again, as soon as anything may be sent."""
        self._again.append(batch)

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
        self._owned -= keys
        self._offer_again(keys)

    def _offer_again(self, keys: set[Hashable]) -> None:
        for key in keys:
            queue = self._waiting.get(key)
            if queue:
                self._offer(key, queue[0])
