"""What waits to go down to the edge: the server's event queue and its priority queue.

Rules as the server has them: nothing is stored for an edge that never connected; while it is inactive only the
listed actions and types are, so device changes and attribute updates are lost until the next sync.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import orjson

from gateway.domain.entity import Json

PAGE: Final = 50
_MAX_EVENTS: Final = 100_000
_MAX_PRIORITY: Final = 10_000
_KEPT_ACTIONS: Final = frozenset(
    [
        "TIMESERIES_UPDATED",
        "ALARM_ACK",
        "ALARM_CLEAR",
        "ALARM_ASSIGNED",
        "ALARM_UNASSIGNED",
        "ADDED_COMMENT",
        "UPDATED_COMMENT",
    ]
)
_KEPT_TYPES: Final = frozenset(
    [
        "ALARM",
        "ALARM_COMMENT",
        "RULE_CHAIN",
        "RULE_CHAIN_METADATA",
        "USER",
        "CUSTOMER",
        "TENANT",
        "TENANT_PROFILE",
        "WIDGETS_BUNDLE",
        "WIDGET_TYPE",
        "ADMIN_SETTINGS",
        "OTA_PACKAGE",
        "QUEUE",
        "RELATION",
        "CALCULATED_FIELD",
        "AI_MODEL",
        "API_KEY",
    ]
)


@dataclass(frozen=True, slots=True)
class EdgeEvent:
    """One row of the server's queue; converted to a message when it is sent, with the entity as it is then."""

    type: str
    action: str
    entity_id: UUID | None
    body: Json = None
    ts_ms: int = 0

    @property
    def identity(self) -> tuple[str, str, UUID | None, bytes]:
        """Equal for events that say the same."""
        body = b"" if self.body is None else orjson.dumps(self.body, option=orjson.OPT_SORT_KEYS)
        return self.type, self.action, self.entity_id, body


class EventQueue:
    """Both queues of one edge."""

    def __init__(self, release: tuple[int, int]) -> None:
        self.release = release
        self._events: deque[EdgeEvent] = deque()
        self._priority: deque[EdgeEvent] = deque()
        self.lost = 0
        """Events that were dropped, because the edge was inactive or a queue was full."""

    def push(self, event: EdgeEvent, *, is_active: bool, was_connected: bool) -> bool:
        """Store an event if the rules allow it; was it?"""
        kept = was_connected and (is_active or self._is_kept(event))
        if kept and len(self._events) >= _MAX_EVENTS:
            self._events.popleft()
            self.lost += 1
        if not kept:
            self.lost += 1
            return False
        self._events.append(event)
        return True

    def _is_kept(self, event: EdgeEvent) -> bool:
        if event.action == "DELETED" and self.release >= (3, 9):
            return True
        return event.action in _KEPT_ACTIONS or event.type in _KEPT_TYPES or event.type.startswith("NOTIFICATION_")

    def push_priority(self, event: EdgeEvent) -> None:
        """Before the next page; the oldest goes when there are too many."""
        if len(self._priority) >= _MAX_PRIORITY:
            self._priority.popleft()
            self.lost += 1
        self._priority.append(event)

    def take_priority(self) -> list[EdgeEvent]:
        """All that wait; they are gone then."""
        events = list(self._priority)
        self._priority.clear()
        return events

    def clear(self) -> None:
        """Forget everything: the edge that it was for is gone."""
        self._events.clear()
        self._priority.clear()

    def page(self) -> list[EdgeEvent]:
        """The oldest events, at most a page; nothing is removed."""
        return [self._events[index] for index in range(min(PAGE, len(self._events)))]

    def commit(self, count: int) -> None:
        """The oldest `count` have been delivered."""
        for _ in range(min(count, len(self._events))):
            self._events.popleft()

    def __len__(self) -> int:
        return len(self._events) + len(self._priority)


def filter_page(events: Sequence[EdgeEvent], release: tuple[int, int]) -> list[EdgeEvent]:
    """Identical events keep the first; an attribute survives only in its newest update (4.3 and later)."""
    seen: set[tuple[str, str, UUID | None, bytes]] = set()
    unique: list[EdgeEvent] = []
    for event in events:
        if event.identity not in seen:
            seen.add(event.identity)
            unique.append(event)
    if release < (4, 3):
        return unique
    newest: dict[tuple[UUID | None, str, str], EdgeEvent] = {}
    for event in unique:
        if event.action == "ATTRIBUTES_UPDATED":
            for key in event.body["kv"]:
                place = (event.entity_id, event.body["scope"], key)
                if place not in newest or newest[place].ts_ms <= event.ts_ms:
                    newest[place] = event
    kept: list[EdgeEvent] = []
    for event in unique:
        if event.action != "ATTRIBUTES_UPDATED":
            kept.append(event)
            continue
        scope = event.body["scope"]
        kv = {key: v for key, v in event.body["kv"].items() if newest[(event.entity_id, scope, key)] is event}
        if kv:
            kept.append(EdgeEvent(event.type, event.action, event.entity_id, {**event.body, "kv": kv}, event.ts_ms))
    return kept
