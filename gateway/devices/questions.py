"""Questions about attributes that the cloud has not answered yet, and how to know an answer.

The cloud answers a request with an ordinary update that holds all attributes of a scope and, in 4.0 and later, the time
at which it was sent: nothing in it says that it is an answer, or how old its values are. So this room remembers whom it
has asked. While a question is open (until `GRACE_S` after the cloud has confirmed it) an update of that entity is
compared by value, and the first one of each scope is taken for the answer: it yields to what was written here since
the question, and its values count as old as the question, so that a change which passed it is not taken for older.

Source: ThingsBoard's server reads the attributes when the request arrives and stamps them when it sends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.domain.cloud_event import Lane
from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Attribute, AttributeScope, Value
from gateway.ports import Clock, CloudEvents, Receipt

if TYPE_CHECKING:
    from gateway.devices.pipeline import Pipeline

GRACE_S: Final = 60.0
"""The answer is a later message: so long after the confirmation it may still come."""
PATIENCE_S: Final = 1.0
"""From the confirmation on; who has no attributes and no telemetry is not answered at all."""
_MOST: Final = 50_000
_SHARED: Final = AttributeScope.SHARED_SCOPE.value


@dataclass(slots=True, eq=False)
class Question:
    """One entity that was asked about. Times: monotonic seconds; `asked_ms`: of the newest question, UTC."""

    first_s: float
    asked_s: float
    asked_ms: int
    lane: Lane
    mark: int | None = None  # the request stands at or before this place of its lane; None: not yet durable
    confirmed_s: float | None = None
    is_answered: bool = False
    scopes: set[str] = field(default_factory=set)  # those that were answered
    written: dict[tuple[str, str], Attribute | None] = field(default_factory=dict)
    """Scope and key of what was written here since the first question, and what was held before."""


class Update(NamedTuple):
    """What of an update is new here, and since when it counts as written (UTC, milliseconds)."""

    values: Mapping[str, Value]
    written_ms: int


class Questions:
    """The open ones, by entity. Without `events` a question counts as confirmed when it is durable."""

    def __init__(self, pipeline: Pipeline, clock: Clock) -> None:
        self._pipeline, self._clock = pipeline, clock
        self.events: CloudEvents | None = None
        self._open: dict[EntityId, Question] = {}

    def opened(self, entities: Iterable[EntityId], receipt: Receipt, lane: Lane = Lane.MAIN) -> None:
        """These are asked about with the unit of work of this receipt; to be called where it was submitted."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        asked: list[Question] = []
        for entity in entities:
            question = self.find(entity)
            if question is None:
                question = Question(now_s, now_s, now_ms, lane)
                self._open[entity] = question
                self._pipeline.watched[entity] = question.written
                if len(self._open) > _MOST:
                    self._close(next(iter(self._open)))
            elif question.confirmed_s is None and lane is Lane.EXPRESS:
                continue  # the one that waits in the queue is answered later
            if question.confirmed_s is not None:  # that one is over
                question.first_s = now_s
                question.written.clear()
            question.asked_s, question.asked_ms, question.lane = now_s, now_ms, lane
            question.mark = question.confirmed_s = None
            question.is_answered = False
            question.scopes.clear()
            asked.append(question)
        receipt.add_done_callback(lambda done: self._durable(done, asked, lane))

    def _durable(self, done: Receipt, asked: Iterable[Question], lane: Lane) -> None:
        is_written = not done.cancelled() and done.exception() is None
        mark = self.events.last(lane) if is_written and self.events is not None else 0
        for question in asked:
            question.mark = mark

    def find(self, entity: EntityId) -> Question | None:
        """The open question about this entity."""
        question = self._open.get(entity)
        if question is None:
            return None
        now_s = self._clock.monotonic_s()
        if question.confirmed_s is None and question.mark is not None:
            if self.events is None or self.events.cursor(question.lane) >= question.mark:
                question.confirmed_s = now_s
        elif question.confirmed_s is not None and now_s >= question.confirmed_s + GRACE_S:
            self._close(entity)
            return None
        return question

    def weigh(
        self,
        entity: EntityId,
        scope: str,
        values: Mapping[str, Value],
        ts_ms: int | None,
        held: Mapping[str, Attribute],
    ) -> Update:
        """What of an attribute update of the cloud is to be applied; `ts_ms` None: from a server before 4.0.

        Values that are not newer than the held ones are left out, and while a question is open equal ones too.
        """
        question = self.find(entity)
        is_answer = question is not None and scope not in question.scopes
        own = question.written if question is not None and is_answer else {}
        fresh: dict[str, Value] = {}
        for key, value in values.items():
            known = held.get(key)
            if (scope, key) in own and (scope != _SHARED or _is_held(own[scope, key], value)):
                continue  # ours is newer; a shared attribute that is new to us was changed in the cloud all the same
            if known is None:
                fresh[key] = value
            elif ts_ms is None or question is not None:
                if not _same(known.value, value) and (ts_ms is None or ts_ms > known.ts_ms):
                    fresh[key] = value
            elif ts_ms > known.ts_ms:
                fresh[key] = value
        if ts_ms is None:
            ts_ms = self._clock.now_ms()
        if question is not None and is_answer:
            question.scopes.add(scope)
            question.is_answered = True
            ts_ms -= round((self._clock.monotonic_s() - question.first_s) * 1000)
        return Update(fresh, ts_ms)

    def written_by_cloud(self, entity: EntityId, scope: str, keys: Iterable[str]) -> None:
        """These were not written by our own rules."""
        question = self._open.get(entity)
        if question is not None:
            for key in keys:
                question.written.pop((scope, key), None)

    def is_waited_for(self, entity: EntityId) -> bool:
        """Its answer has not come, and still may soon."""
        question = self.find(entity)
        if question is None or question.is_answered:
            return False
        return question.confirmed_s is None or self._clock.monotonic_s() < question.confirmed_s + PATIENCE_S

    def sweep(self) -> int:
        """Close those whose time is over; how many stay open."""
        for entity in list(self._open):
            self.find(entity)
        return len(self._open)

    def _close(self, entity: EntityId) -> None:
        del self._open[entity]
        self._pipeline.watched.pop(entity, None)


def _same(one: Value, other: Value) -> bool:
    """Equal, and of one type: true is not 1."""
    return type(one) is type(other) and one == other


def _is_held(before: Attribute | None, value: Value) -> bool:
    return before is not None and _same(before.value, value)
