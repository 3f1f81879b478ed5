"""A `CloudLink` whose cloud is the test: it sees every message and answers when and what it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.domain.cloud_event import StoredEvent
from gateway.errors import LinkLost, RejectedError
from gateway.ports import UplinkAnswer


@dataclass(slots=True)
class Sent:
    events: list[StoredEvent]
    future: asyncio.Future[UplinkAnswer]

    @property
    def seq_ids(self) -> list[int]:
        return [event.seq_id for event in self.events]


class FakeLink:
    """Messages stay in `waiting` until `answer` or `lose`; all that were ever sent are in `sent`."""

    def __init__(self, *, is_up: bool = True, max_message_bytes: int = 4_000_000) -> None:
        self.sent: list[Sent] = []
        self.waiting: list[Sent] = []
        self._max_message_bytes = max_message_bytes
        self._session = 0
        self._ready, self._lost = asyncio.Event(), asyncio.Event()
        self._lost.set()
        if is_up:
            self.connect()

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set()

    async def wait_ready(self) -> int:
        await self._ready.wait()
        return self._session

    async def wait_lost(self) -> None:
        await self._lost.wait()

    @property
    def max_message_bytes(self) -> int:
        return self._max_message_bytes

    def size_bytes(self, events: Sequence[StoredEvent]) -> int:
        return sum(len(event.body or b"") for event in events)

    def send(self, events: Sequence[StoredEvent]) -> asyncio.Future[UplinkAnswer]:
        if not self._ready.is_set():
            raise LinkLost("not connected")
        future: asyncio.Future[UplinkAnswer] = asyncio.get_running_loop().create_future()
        message = Sent(list(events), future)
        if self.size_bytes(events) > self._max_message_bytes:
            future.set_exception(RejectedError(f"more than {self._max_message_bytes} bytes"))
        else:
            self.sent.append(message)
            self.waiting.append(message)
        return future

    def connect(self) -> None:
        self._session += 1
        self._lost.clear()
        self._ready.set()

    def lose(self) -> None:
        self._ready.clear()
        self._lost.set()
        waiting, self.waiting = self.waiting, []
        for message in waiting:
            message.future.set_exception(LinkLost("lost"))

    def answer(self, message: Sent, error: str | None = None) -> None:
        self.waiting.remove(message)
        message.future.set_result(UplinkAnswer(error is None, error or ""))

    def answer_all(self, error: str | None = None) -> None:
        for message in list(self.waiting):
            self.answer(message, error)
