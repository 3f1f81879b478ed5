"""What a full store still takes, so that it can drain.

At the limit, data of devices waits: it is what fills a store. What empties it (cursor moves), what the cloud
sends (state) and what nobody can repeat (RPC, alarms) pass; a quarter above the limit no event passes at all.
"""

from __future__ import annotations

from typing import Final

from gateway.domain.changes import RULE_ITEM, AppendEvent, DropLocal, SaveLocal, SaveTelemetry, UnitOfWork
from gateway.errors import TransientError

BULK_ACTIONS: Final = frozenset({"TIMESERIES_UPDATED", "ATTRIBUTES_UPDATED", "ATTRIBUTES_DELETED", "POST_ATTRIBUTES"})
"""Data of devices. Attributes wait with telemetry because an entity's events keep their order."""

HARD_LIMIT: Final = 1.25
ROOM: Final = 0.95
"""Once full, room is made down to this part of the limit."""
ROUND_ROWS: Final = 5_000
"""Rows deleted in one transaction, so that the writer is never away for long."""


class StoreFullError(TransientError):
    """The limit (or the disk) is reached: data waits. `is_hard`: no event passes at all."""

    def __init__(self, text: str, *, is_hard: bool = False) -> None:
        super().__init__(text)
        self.is_hard = is_hard


def must_wait(unit: UnitOfWork, is_hard: bool) -> bool:
    """Whether a full store does not take this unit."""
    for change in unit:
        kind = type(change)
        if kind is SaveTelemetry:
            return True
        if isinstance(change, SaveLocal | DropLocal) and change.kind == RULE_ITEM:
            return True
        if isinstance(change, AppendEvent) and (is_hard or change.event.action in BULK_ACTIONS):
            return True
    return False
