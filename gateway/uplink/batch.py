"""Which events may share a message. Pure; no clock, no I/O.

Telemetry shares messages: the cloud's rate limits count messages, not what is in them. Every other event
has a message of its own, as the vendor's edge does it, so that a refusal names it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from gateway.domain.cloud_event import Action, Lane, StoredEvent

MAX_SHARED_BYTES: Final = 256 * 1024
"""A shared message stays below this, so that a slow line shows signs of life between two messages."""

_OVERHEAD_BYTES: Final = 64  # entity id, type and framing of one event
_DEPENDENT_TYPES: Final = frozenset({"ALARM", "ALARM_COMMENT", "RELATION"})

Batch = list[StoredEvent]


def is_shareable(event: StoredEvent) -> bool:
    """True for telemetry."""
    return event.action == Action.TIMESERIES_UPDATED


def is_creation(event: StoredEvent) -> bool:
    """True when the data of an entity have to wait for this event: until it is confirmed the cloud drops them."""
    return event.action == Action.ADDED and event.entity_id is not None and not is_dependent(event)


def is_dependent(event: StoredEvent) -> bool:
    """True when the event speaks of other entities, and all that was queued about them has to be there first."""
    return event.type in _DEPENDENT_TYPES or (event.entity_id is None and event.action == Action.ATTRIBUTES_REQUEST)


def order_key(event: StoredEvent) -> Hashable:
    """Events with equal keys keep their order. Express events belong to no order."""
    if event.lane == Lane.EXPRESS:
        return event.seq_id
    return event.entity_id if event.entity_id is not None else event.type


def weight_bytes(event: StoredEvent) -> int:
    """About what an event costs in a message; protobuf text is shorter than JSON, numbers may be longer."""
    return len(event.body or b"") + _OVERHEAD_BYTES


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Two parts of a refused message; between two entities if possible, nearest to the middle."""
    middle = len(batch) // 2
    keys = [order_key(event) for event in batch]
    borders = [i for i in range(1, len(batch)) if keys[i] != keys[i - 1]]
    cut = min(borders, key=lambda i: abs(i - middle)) if borders else middle
    return batch[:cut], batch[cut:]


def keys_of(batch: Sequence[StoredEvent]) -> set[Hashable]:
    """The entities that a message holds."""
    return {order_key(event) for event in batch}


# ── events that are larger than a message ────────────────────────────────────────────────────

_PARTS: Final = {
    Action.TIMESERIES_UPDATED: "data",
    Action.ATTRIBUTES_UPDATED: "kv",
    Action.POST_ATTRIBUTES: "kv",
    Action.RELATIONS_DELETED: "relations",
}
"""What can be cut, and at which part of the body. An event has one time stamp, so the cut is between keys."""

_VALUE_BYTES: Final = 16  # type and framing of one value


def cut(event: StoredEvent, max_bytes: int) -> list[StoredEvent]:
    """At least two events with the place and time stamp of this one, in the order of its keys; none when it
    cannot be cut: a single value, or an event of another kind. `max_bytes` is aimed at, not promised.
    """
    part = _PARTS.get(Action(event.action)) if event.action in _PARTS else None
    body = _read(event)
    values = body.get(part) if part is not None and body is not None else None
    if not isinstance(values, dict | list) or len(values) < 2:
        return []
    items = list(values.items() if isinstance(values, dict) else values)
    budget = max_bytes - _OVERHEAD_BYTES
    chunks: list[list[Any]] = [[]]
    size = 0
    for item in items:
        weight = len(orjson.dumps(item)) + _VALUE_BYTES
        if chunks[-1] and size + weight > budget:
            chunks.append([])
            size = 0
        chunks[-1].append(item)
        size += weight
    if len(chunks) == 1:  # heavier on the wire than thought
        chunks = [items[: len(items) // 2], items[len(items) // 2 :]]
    kind = type(values)
    return [replace(event, body=orjson.dumps({**(body or {}), part: kind(chunk)})) for chunk in chunks]


def join(first: StoredEvent, second: StoredEvent) -> StoredEvent:
    """Two parts of one event as one again."""
    part = _PARTS[Action(first.action)]
    body, other = _read(first) or {}, _read(second) or {}
    values, more = body[part], other[part]
    return replace(
        first, body=orjson.dumps({**body, part: values + more if isinstance(values, list) else values | more})
    )


def only_key(event: StoredEvent) -> str | None:
    """The key of an event with a single value."""
    body = _read(event)
    part = _PARTS.get(Action(event.action)) if event.action in _PARTS else None
    values = body.get(part) if part is not None and body is not None else None
    return str(next(iter(values))) if isinstance(values, dict) and len(values) == 1 else None


def _read(event: StoredEvent) -> dict[str, Any] | None:
    try:
        body = orjson.loads(event.body or b"null")
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None
