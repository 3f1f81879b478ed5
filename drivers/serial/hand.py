"""What comes after a question by hand, until the line is quiet again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

MAX_BYTES: Final = 4096
"""More of an answer is left out."""

_QUIET_S: Final = 0.1
"""Adapters hand over what came each 16 ms at the latest; devices pause between frames of one answer."""


class Hearing:
    """`add` each piece as it comes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._news = asyncio.Event()

    def add(self, data: bytes) -> None:
        """The driver's."""
        self.data += data[: MAX_BYTES - len(self.data)]
        self._news.set()

    async def all(self, timeout_s: float) -> bytes:
        """Everything up to a pause, or to the end of `timeout_s`; b"" when nothing comes within it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
                while len(self.data) < MAX_BYTES:
                    self._news.clear()
                    try:
                        async with asyncio.timeout(_QUIET_S):
                            await self._news.wait()
                    except TimeoutError:
                        break
        return bytes(self.data)
