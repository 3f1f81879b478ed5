"""A memory store with a disk that can be slow, full, away, or refuse a unit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.domain.changes import SaveSetting, UnitOfWork
from gateway.errors import RejectedError, TransientError
from gateway.store import MemoryStore
from gateway.store.full import StoreFullError, must_wait


class FaultyStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.is_full = False
        self.gate: asyncio.Event | None = None
        self.groups: list[list[UnitOfWork]] = []
        self.tries = 0

    async def commit(self, units: Sequence[UnitOfWork]) -> None:
        self.tries += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.is_away:
            raise TransientError("the disk is away")
        if any(isinstance(c, SaveSetting) and c.name == "bad" for unit in units for c in unit):
            raise RejectedError("bad unit")
        if self.is_full and any(must_wait(unit, False) for unit in units):
            raise StoreFullError("store is full")
        await super().commit(units)
        self.groups.append(list(units))
