"""Answers to publishes, in the order of the publishes, each when its receipt is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.errors import RejectedError
from gateway.ports import Receipt

Ending = int
"""In the place of an answer: end the connection with this reason when its turn comes."""
Late = Callable[[], bytes]
"""In the place of an answer: it is known when the receipt is done."""


class AckQueue:
    """Holds the answer to each publish until its receipt, and those of all earlier publishes, are done.

    Only the oldest receipt carries a callback: a commit that finishes a hundred receipts costs one call
    and one write.
    """

    __slots__ = ("_bug", "_end", "_is_closed", "_settle_callback", "_waiting", "_write", "unanswered")

    def __init__(
        self, write: Callable[[bytes], None], end: Callable[[int], None], bug: Callable[[BaseException], None]
    ) -> None:
        """`end` closes with a reason code; `bug` gets what is no `RejectedError`."""
        self._write, self._end, self._bug = write, end, bug
        self._waiting: deque[tuple[Receipt | None, bytes | Late | Ending]] = deque()
        self._settle_callback: Final = self._settle
        self._is_closed = False
        self.unanswered = 0  # publishes that wait for an answer; QoS 0 waits for none

    def add(self, receipt: Receipt | None, answer: bytes | Late) -> None:
        """One publish: `receipt` None is done already, an empty answer is QoS 0. A late one counts as unanswered."""
        waiting = self._waiting
        if answer:
            self.unanswered += 1
        waiting.append((receipt, answer))
        if len(waiting) == 1:
            if receipt is None or receipt.done():
                self._settle(None)
            else:
                receipt.add_done_callback(self._settle_callback)

    def end_after(self, reason: Ending) -> None:
        """End the connection as soon as everything published before has its answer."""
        self._waiting.append((None, reason))
        if len(self._waiting) == 1:
            self._settle(None)

    def close(self) -> None:
        """The connection is gone: nobody waits for these answers any more."""
        self._is_closed = True
        while self._waiting:
            receipt, _ = self._waiting.popleft()
            if receipt is not None:
                receipt.add_done_callback(_look_at)
        self.unanswered = 0

    def _settle(self, _: Receipt | None) -> None:
        waiting = self._waiting
        answers: list[bytes] = []
        ending: Ending | None = None
        while waiting and not self._is_closed:
            receipt, answer = waiting[0]
            if receipt is not None:
                if not receipt.done():
                    receipt.add_done_callback(self._settle_callback)
                    break
                if receipt.cancelled():
                    break  # shutting down: no answer, so the device sends it again
                error = receipt.exception()
                if error is not None:
                    if not isinstance(error, RejectedError):
                        self._bug(error)
                        break
                    answer = 0x83
            waiting.popleft()
            if isinstance(answer, int):
                ending = answer
                break
            if answer:
                self.unanswered -= 1
                answers.append(answer if isinstance(answer, bytes) else answer())
        if answers:
            self._write(b"".join(answers))
        if ending is not None:
            self._end(ending)


def _look_at(receipt: asyncio.Future[None]) -> None:
    if not receipt.cancelled():
        receipt.exception()
