"""The place up to which the queue is done with, as the store is told it.

A move is not awaited: when the store does not get it, the events come again after a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from gateway.domain.changes import Change, MoveCursor
from gateway.domain.cloud_event import Lane
from gateway.errors import GatewayError
from gateway.ports import Committer, Receipt

log = logging.getLogger(__name__)


class Cursor:
    """The stored cursor of one lane, and what has to be stored before it moves."""

    def __init__(
        self,
        lane: Lane,
        place: int,
        committer: Committer,
        *,
        moved: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`moved`: there may be another move; `failed`: a bug, which a callback cannot raise."""
        self._lane, self._place, self._committer = lane, place, committer
        self._on_moved, self._on_failed = moved, failed
        self._moving: Receipt | None = None

    def move(self, place: int) -> None:
        """One move at a time: the next one says everything that the ones between would."""
        if self._moving is not None or place <= self._place:
            return
        self._place = place
        self._moving = self.submit([MoveCursor(self._lane, place)])
        self._moving.add_done_callback(self._moved)

    def submit(self, unit: Sequence[Change]) -> Receipt:
        """Stored before every later move."""
        receipt = self._committer.submit(unit)
        receipt.add_done_callback(self._written)
        return receipt

    def _moved(self, receipt: Receipt) -> None:
        if receipt is self._moving:
            self._moving = None
            self._on_moved()

    def _written(self, receipt: Receipt) -> None:
        error = None if receipt.cancelled() else receipt.exception()
        if isinstance(error, GatewayError):
            log.error("the place in the queue could not be stored: %s", error)
        elif error is not None:
            self._on_failed(error)
