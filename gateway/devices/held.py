"""Messages whose rules have to ask somebody before they know: they wait here, and those of their originators behind.

One message waits as a whole: what its rules decide later belongs to the same unit of work as what they decided at
once, and the receipt comes after all of it. So nothing is lost when the gateway dies meanwhile: the sender has no
receipt and says it again. What the same originator says in the meantime waits behind it, because order within an
entity is a promise. Others pass, and so does what the cloud wants of the originator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Final

from gateway.domain.entity import EntityId
from gateway.ports import Receipt

MOST: Final = 1000
"""With so many waiting nothing more is taken in."""


class Held:
    """Who waits. Belongs to the event loop."""

    def __init__(self) -> None:
        self.last: dict[EntityId, Receipt] = {}
        """Of each originator: the message behind which the next one waits. Empty: nobody waits."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_full(self) -> bool:
        """Nothing more should be taken in."""
        return len(self._tasks) >= MOST

    async def wait_room(self) -> None:
        """Returns when there is room."""
        while self.is_full:
            self._room.clear()
            await self._room.wait()

    def behind(self, originators: Iterable[EntityId]) -> list[Receipt]:
        """What these have to wait for."""
        last = self.last
        return [last[originator] for originator in dict.fromkeys(originators) if originator in last]

    def hold(self, originators: Iterable[EntityId], receipt: Receipt, work: Coroutine[None, None, None]) -> None:
        """`work` ends when the unit is submitted; `receipt` is its receipt."""
        done: Receipt = asyncio.get_running_loop().create_future()
        names = list(dict.fromkeys(originators))
        for originator in names:
            self.last[originator] = done
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._ended(task, names, done, receipt))

    def _ended(self, task: asyncio.Task[None], names: list[EntityId], done: Receipt, receipt: Receipt) -> None:
        self._tasks.discard(task)
        self._room.set()
        for originator in names:
            if self.last.get(originator) is done:
                del self.last[originator]
        if not done.done():
            done.set_result(None)
        if task.cancelled():
            receipt.cancel()
        elif (error := task.exception()) is not None and not receipt.done():
            receipt.set_exception(error)

    async def close(self) -> None:
        """Who waits still gets no receipt."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
