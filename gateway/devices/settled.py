"""Telemetry as the rules may ask for it: what was said before is in it.

A message is answered for when it is durable, and the next one of the same device may be walked before that. A node that
reads the store would then miss what the former message has saved. So each question waits first for what was submitted
before it. What the message itself has saved on its way is not in it: that becomes durable with its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Summary, Value
from gateway.ports import Committer, SeriesReader


class SettledSeries:
    """Port `SeriesReader`, on top of a store's."""

    def __init__(self, series: SeriesReader, committer: Committer) -> None:
        self._series, self._committer = series, committer

    async def latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        """See `SeriesReader`."""
        await self._settled()
        return await self._series.latest(entity)

    async def history(
        self, entity: EntityId, key: str, from_ms: int, to_ms: int, limit: int, *, newest_first: bool = False
    ) -> Sequence[tuple[int, Value]]:
        """See `SeriesReader`."""
        await self._settled()
        return await self._series.history(entity, key, from_ms, to_ms, limit, newest_first=newest_first)

    async def summary(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> Summary:
        """See `SeriesReader`."""
        await self._settled()
        return await self._series.summary(entity, key, from_ms, to_ms)

    async def _settled(self) -> None:
        await asyncio.wait([self._committer.submit([])])
