"""What a full store has dropped is told to the cloud, entity by entity, as telemetry: from, to, count.

A drop and its entry in `cloud_event_gap` are one transaction. The entries become events in the transaction of the
next cursor move, which is when the cloud is there and listens; such an event is never dropped itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.domain.changes import AppendEvent
from gateway.domain.cloud_event import Action, CloudEvent

ANNOUNCE_EVERY_MS: Final = 30_000
"""While drops go on beside a living link: not one event for each round of deletions."""
AT_ONCE: Final = 500
"""Entities announced in one transaction."""
_COUNT: Final = "droppedCount"
MARK: Final = '{"data":{"' + _COUNT + '":'
"""How the body of an announcement begins; ordinary telemetry begins with its time."""

_DROPPED: Final = (
    "lane = 0 AND seq_id >= :mark AND seq_id < :mark AND cloud_event_action = 'TIMESERIES_UPDATED'"
    f" AND coalesce(substr(entity_body, 1, {len(MARK)}), '') <> '{MARK}'"
)
_NOTE: Final = f"""
INSERT INTO cloud_event_gap (entity_type, entity_id, from_ts, to_ts, count, total)
SELECT kind, entity, min(moment), max(moment), count(*), count(*) FROM (
    SELECT cloud_event_type AS kind, entity_id AS entity, :moment AS moment FROM cloud_event WHERE {_DROPPED}
) dropped WHERE entity IS NOT NULL GROUP BY kind, entity
ON CONFLICT (entity_type, entity_id) DO UPDATE SET
    from_ts = :least(coalesce(cloud_event_gap.from_ts, excluded.from_ts), excluded.from_ts),
    to_ts = :greatest(coalesce(cloud_event_gap.to_ts, excluded.to_ts), excluded.to_ts),
    count = cloud_event_gap.count + excluded.count, total = cloud_event_gap.total + excluded.total
"""
_SQLITE_MOMENT: Final = (
    "CASE WHEN entity_body GLOB '{\"ts\":[0-9]*' THEN CAST(substr(entity_body, 7) AS INTEGER) ELSE created_time END"
)
_POSTGRES_MOMENT: Final = "coalesce(substring(entity_body from '^.\"ts\":([0-9]{1,18})')::bigint, created_time)"


def _sqlite(text: str) -> str:
    text = text.replace(":moment", _SQLITE_MOMENT).replace(":least", "min").replace(":greatest", "max")
    return text.replace(":mark", "?")


def _postgres(text: str) -> str:
    text = text.replace(":moment", _POSTGRES_MOMENT).replace(":least", "least").replace(":greatest", "greatest")
    return text.replace(":mark", "%s")


_DROP: Final = f"DELETE FROM cloud_event WHERE {_DROPPED}"
NOTE_SQLITE, NOTE_POSTGRES = _sqlite(_NOTE), _postgres(_NOTE)
DROP_SQLITE, DROP_POSTGRES = _sqlite(_DROP), _postgres(_DROP)
OPEN: Final = (
    f"SELECT entity_type, entity_id, from_ts, to_ts, count FROM cloud_event_gap WHERE count > 0 LIMIT {AT_ONCE}"
)
_CLOSE: Final = (
    "UPDATE cloud_event_gap SET from_ts = NULL, to_ts = NULL, count = 0 WHERE entity_type = :mark AND entity_id = :mark"
)
CLOSE_SQLITE, CLOSE_POSTGRES = _sqlite(_CLOSE), _postgres(_CLOSE)


class Gaps:
    """Whether and when there is something to announce; from memory, because every cursor move asks."""

    def __init__(self) -> None:
        self.is_open = False
        self._next_ms = 0

    def is_due(self, now_ms: int) -> bool:
        """Something is open, and the last announcement is long enough ago (or the clock was set back)."""
        return self.is_open and not self._next_ms - ANNOUNCE_EVERY_MS <= now_ms < self._next_ms

    def announced(self, count: int, now_ms: int) -> None:
        """So many entities in a committed transaction."""
        if count < AT_ONCE:
            self.is_open = False
            self._next_ms = now_ms + ANNOUNCE_EVERY_MS


def announcements(rows: Iterable[tuple[Any, ...]], now_ms: int) -> list[AppendEvent]:
    """One event for each row of `OPEN`: telemetry of the entity, at the end of its gap."""
    return [
        AppendEvent(
            CloudEvent(
                type=kind,
                action=Action.TIMESERIES_UPDATED,
                entity_id=entity_id if isinstance(entity_id, UUID) else UUID(bytes=entity_id),
                created_ms=now_ms,
                body=orjson.dumps({"data": {_COUNT: count, "droppedFrom": from_ms, "droppedTo": to_ms}, "ts": to_ms}),
            )
        )
        for kind, entity_id, from_ms, to_ms, count in rows
    ]
