"""Uplink messages without an answer: their futures, and how long the cloud has been silent. Pure bookkeeping."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable
from typing import Final

from gateway.errors import LinkLost
from gateway.ports import UplinkAnswer

_IDS = (1 << 31) - 1  # ids are 0 … 2^31 - 2
_PATIENCE = 3  # one answer may be this many times later than a silent cloud would be forgiven
_REFUSED: Final = 1000  # messages whose number is kept for their repetition


class Pending:
    """Answers come in any order and are matched by id; an unknown id is ignored."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[asyncio.Future[UplinkAnswer], float, Hashable]] = {}
        self._refused: dict[Hashable, int] = {}
        self._next_id = random.randrange(_IDS)
        self._heard_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def id_of(self, content: Hashable) -> int:
        """The number that a refused message with this content had, else the next one: none comes twice in a session.

        Counting begins anywhere, so that the numbers of two sessions are hardly ever the same.
        """
        id_ = self._refused.pop(content, None)
        while id_ is None or id_ in self._waiting:
            id_, self._next_id = self._next_id, (self._next_id + 1) % _IDS
        return id_

    def add(self, id_: int, future: asyncio.Future[UplinkAnswer], now_s: float, content: Hashable = None) -> None:
        """A message has been given to the writer."""
        self._waiting[id_] = (future, now_s, content)

    def answer(self, id_: int, answer: UplinkAnswer) -> bool:
        """False: nobody waits for it."""
        future, _, content = self._waiting.pop(id_, (None, 0.0, None))
        if future is None:
            return False
        if not answer.is_success and content is not None:
            self._refused[content] = id_
            if len(self._refused) > _REFUSED:
                del self._refused[next(iter(self._refused))]
        if not future.done():
            future.set_result(answer)
        return True

    def heard(self, now_s: float) -> None:
        """The cloud said something."""
        self._heard_s = now_s

    def silent_s(self, now_s: float) -> float:
        """Since the cloud said something."""
        return now_s - self._heard_s

    def overdue_s(self, now_s: float, limit_s: float) -> float:
        """How long the cloud has owed us a sign of life, or one answer much longer; 0 while all is well.

        Silence counts, not the age of the oldest message alone: on a slow line many messages queue up
        and their answers come steadily, only late. One answer that never comes counts too.
        """
        if not self._waiting:
            return 0.0
        oldest_s = next(iter(self._waiting.values()))[1]
        silent_s = now_s - max(oldest_s, self._heard_s)
        if silent_s >= limit_s:
            return silent_s
        age_s = now_s - oldest_s
        return age_s if age_s >= limit_s * _PATIENCE else 0.0

    def fail(self, reason: str) -> None:
        """The stream has ended: everybody has to send again."""
        waiting, self._waiting = self._waiting, {}
        for future, _, _ in waiting.values():
            if not future.done():
                future.set_exception(LinkLost(reason))
