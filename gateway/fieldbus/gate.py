"""Who may talk to a unit beside whom, on a line that carries several questions at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager


class Gate:
    """Reads of one unit share it; whatever may change something in the unit has it alone. In the order of arrival, so
    that a read that comes after a write sees it, and neither starves.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._is_alone = False
        self._queue: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def passing(self, *, alone: bool) -> AsyncIterator[None]:
        """Inside, from when it is this one's turn; the place in the queue is taken before anything is awaited."""
        if self._queue or self._is_alone or (alone and self._inside):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (alone, turn)
            self._queue.append(entry)
            try:
                await turn
            except asyncio.CancelledError:
                if entry in self._queue:
                    self._queue.remove(entry)
                    self._let_in()
                else:  # let in just now
                    self._leave(alone)
                raise
        else:
            self._enter(alone)
        try:
            yield
        finally:
            self._leave(alone)

    def _enter(self, alone: bool) -> None:
        self._inside += 1
        self._is_alone = alone

    def _leave(self, alone: bool) -> None:
        self._inside -= 1
        if alone:
            self._is_alone = False
        self._let_in()

    def _let_in(self) -> None:
        while self._queue and not self._is_alone:
            alone, turn = self._queue[0]
            if alone and self._inside:
                return
            self._queue.popleft()
            self._enter(alone)
            turn.set_result(None)


class Gates:
    """One for each unit of a bus."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    @asynccontextmanager
    async def passing(self, unit: str | None, *, alone: bool) -> AsyncIterator[None]:
        """`unit` None: it is not known which, so all that there are, in the order of their names."""
        if unit is not None:
            async with self._gates.setdefault(unit, Gate()).passing(alone=alone):
                yield
            return
        async with AsyncExitStack() as stack:
            for name in sorted(self._gates):
                await stack.enter_async_context(self._gates[name].passing(alone=alone))
            yield
