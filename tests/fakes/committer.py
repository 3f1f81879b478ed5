"""A committer whose disk is a list; `hold()` keeps receipts back until `release()`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.domain.changes import AppendEvent, Change
from gateway.domain.cloud_event import CloudEvent


class FakeCommitter:
    def __init__(self) -> None:
        self.units: list[list[Change]] = []
        self.refuse_next: Exception | None = None
        self._held: list[tuple[asyncio.Future[None], list[Change]]] | None = None

    def submit(self, unit: Sequence[Change]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        receipt: asyncio.Future[None] = loop.create_future()
        if self.refuse_next is not None:
            error, self.refuse_next = self.refuse_next, None
            loop.call_soon(receipt.set_exception, error)
        elif self._held is not None:
            self._held.append((receipt, list(unit)))
        else:
            self.units.append(list(unit))
            loop.call_soon(_complete, receipt)
        return receipt

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        held, self._held = self._held or [], None
        for receipt, unit in held:
            self.units.append(unit)
            _complete(receipt)

    @property
    def is_congested(self) -> bool:
        return False

    async def wait_uncongested(self) -> None:
        return

    def changes(self) -> list[Change]:
        return [change for unit in self.units for change in unit]

    def events(self) -> list[CloudEvent]:
        return [change.event for change in self.changes() if isinstance(change, AppendEvent)]


def _complete(receipt: asyncio.Future[None]) -> None:
    if not receipt.done():
        receipt.set_result(None)
