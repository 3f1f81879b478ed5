"""The writing side of a person's orders: one slice at a time, and each waits until the one before is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from gateway.devices.pipeline import Pipeline
from gateway.domain.changes import Change
from gateway.ports import Committer, Receipt

WAIT_S: Final = 4.0
"""Longest wait within one request, before and after the slice is handed over."""
BUSY: Final = "the store takes nothing more now"


class Slices:
    """Who writes a slice holds `lock`. A slice that the store does not take is not given up: the next one waits."""

    def __init__(self, pipeline: Pipeline, committer: Committer, *, wait_s: float = WAIT_S) -> None:
        self._pipeline, self._committer, self._wait_s = pipeline, committer, wait_s
        self._open: Receipt | None = None
        self.lock = asyncio.Lock()

    async def is_free(self) -> bool:
        """The slice before is durable, and the committer is not congested; waits a little for it."""
        try:
            async with asyncio.timeout(self._wait_s):
                if self._open is not None:
                    await asyncio.wait([self._open])
                await self._committer.wait_uncongested()
        except TimeoutError:
            return False
        self._open = None
        return True

    async def write(self, unit: Sequence[Change]) -> bool:
        """True when it is durable; False: not yet, `is_free` will tell.

        Raises:
            RejectedError: It never will be.
        """
        self._open = receipt = self._pipeline.commit(unit)
        receipt.add_done_callback(lambda done: done.cancelled() or done.exception())  # also when nobody asks again
        await asyncio.wait([receipt], timeout=self._wait_s)
        if not receipt.done() or receipt.cancelled():
            return False
        self._open = None
        receipt.result()
        return True
