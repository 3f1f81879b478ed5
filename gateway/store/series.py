"""The numbers of telemetry series: one for each (entity, key), so that a row of history is small."""

from __future__ import annotations

from typing import Final

from gateway.domain.entity import EntityId

MAX_SERIES: Final = 500_000
"""More are not kept locally (their events still travel): the map is in memory, and memory is bounded."""


class Series:
    """What is durable; `Plan` keeps new numbers to itself until its transaction is committed."""

    def __init__(self) -> None:
        self.by_entity: dict[EntityId, dict[str, int]] = {}
        self.count = 0
        self.last_id = 0

    def put(self, entity: EntityId, key: str, series_id: int) -> None:
        """A number that is durable."""
        self.by_entity.setdefault(entity, {})[key] = series_id
        self.count += 1
        self.last_id = max(self.last_id, series_id)

    def forget(self, entity: EntityId) -> None:
        """A deleted entity."""
        self.count -= len(self.by_entity.pop(entity, ()))
