"""Request bodies, bounded: each by its limit, all large ones together by their number."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import Receive

SMALL_BYTES: Final = 65_536
"""A body up to here costs no more than the buffer of its connection."""

LARGE_AT_ONCE: Final = 4
"""So many larger bodies are read and worked on at the same time; the others wait unread."""


class TooLarge(Exception):
    """Over the limit: 413."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")


class PeerLeft(Exception):
    """The request ended before it was complete; nobody waits for an answer."""


class Bodies:
    """Reads bodies for all requests."""

    def __init__(self) -> None:
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    @contextlib.asynccontextmanager
    async def read(
        self, receive: Receive, declared: str | None, limit: int, one_of_device: asyncio.Lock
    ) -> AsyncIterator[bytes]:
        """The whole body, for as long as it is worked on. `declared` is Content-Length, None when chunked;
        a device has one large body at a time (`one_of_device`).

        Raises:
            TooLarge: Known from `declared` before anything is read, else as soon as it is.
            PeerLeft: It did not come to its end.
        """
        if declared is not None and declared.isdecimal() and int(declared) > limit:
            raise TooLarge(limit)
        parts: list[bytes] = []
        size = 0
        async with contextlib.AsyncExitStack() as held:
            is_large = False
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise PeerLeft
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise TooLarge(limit)
                parts.append(part)
                if not message.get("more_body"):
                    break
                if size > SMALL_BYTES and not is_large:
                    is_large = True
                    await held.enter_async_context(one_of_device)
                    await held.enter_async_context(self._large)
            yield parts[0] if len(parts) == 1 else b"".join(parts)
