"""Which events may share a message. Pure; no clock, no I/O.

Telemetry shares messages: the cloud's rate limits count messages, not what is in them. Every other event
has a message of its own, as the vendor's edge does it, so that a refusal names it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from gateway.domain.cloud_event import Action, Lane, StoredEvent

MAX_SHARED_BYTES: Final = 256 * 1024
"""A shared message stays below this, so that a slow line shows signs of life between two messages."""

_OVERHEAD_BYTES: Final = 64  # entity id, type and framing of one event
_DEPENDENT_TYPES: Final = frozenset({"ALARM", "ALARM_COMMENT", "RELATION"})

Batch = list[StoredEvent]


def is_shareable(event: StoredEvent) -> bool:
    """True for telemetry."""
    return event.action == Action.TIMESERIES_UPDATED


def is_dependent(event: StoredEvent) -> bool:
    """True when the event speaks of other entities, which have to be there first."""
    return event.type in _DEPENDENT_TYPES


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
