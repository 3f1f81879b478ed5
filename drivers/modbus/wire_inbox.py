"""The reading half of a byte line, and the line that is a TCP connection to a device server."""

from __future__ import annotations

import asyncio
from typing import cast

from drivers.modbus.wire_master import Closed, NoAnswer, Unreachable
from drivers.modbus.wire_tcp import keep_alive
from gateway.ports import Clock

MAX_WAITING = 4096
"""Bytes kept while nobody reads; of more the oldest go. No answer has more than 513."""


class Inbox:
    """What came in and was not read yet; one reader."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._data = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._end: NoAnswer | None = None
        self.last_byte_s = float("-inf")

    def put(self, data: bytes) -> None:
        """Bytes from the line."""
        self.last_byte_s = self._clock.monotonic_s()
        self._data += data
        if len(self._data) > MAX_WAITING:
            del self._data[:-MAX_WAITING]
        self.wake()

    def end(self, error: NoAnswer) -> None:
        """Nothing comes any more; the reader is told."""
        self._end = error
        self.wake()

    def reset(self) -> None:
        """A new connection."""
        self._data.clear()
        self._end = None

    async def take(self, timeout_s: float) -> bytes:
        """See `ByteLine.read`."""
        if not self._data and self._end is None and timeout_s > 0:
            loop = asyncio.get_running_loop()
            reader = self._reader = loop.create_future()
            timer = loop.call_later(timeout_s, self.wake)
            try:
                await reader
            finally:
                self._reader = None
                timer.cancel()
        if self._data:
            data = bytes(self._data)
            self._data.clear()
            return data
        if self._end is not None:
            raise self._end
        return b""

    def wake(self) -> None:
        """The reader, if there is one, takes what is there."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class _Stream(asyncio.Protocol):
    """asyncio's side of one connection."""

    def __init__(self, inbox: Inbox, what: str) -> None:
        self._inbox, self._what, self.is_current = inbox, what, True

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes."""
        if self.is_current:
            self._inbox.put(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: over."""
        if self.is_current:
            self._inbox.end(Closed(f"connection closed by {self._what}"))


class SocketLine:
    """Implements `ByteLine` over TCP."""

    def __init__(self, host: str, port: int, timeout_s: float, clock: Clock) -> None:
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._inbox = Inbox(clock)
        self._stream: _Stream | None = None
        self._transport: asyncio.WriteTransport | None = None

    @property
    def is_open(self) -> bool:
        """Ready."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def last_byte_s(self) -> float:
        """When the last byte came in."""
        return self._inbox.last_byte_s

    async def open(self) -> None:
        """Connect; raises `Unreachable`."""
        self.close()
        stream = _Stream(self._inbox, f"{self._host}:{self._port}")
        self._inbox.reset()
        try:
            async with asyncio.timeout(self._timeout_s):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    lambda: stream, self._host, self._port
                )
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"refused, or silent for {self._timeout_s:g} s") from error
        keep_alive(transport)
        self._stream, self._transport = stream, cast("asyncio.WriteTransport", transport)

    def write(self, data: bytes) -> None:
        """Into the connection."""
        if self._transport is None or self._transport.is_closing():
            raise Closed(f"connection closed by {self._host}:{self._port}")
        self._transport.write(data)

    async def read(self, timeout_s: float) -> bytes:
        """See `ByteLine`."""
        return await self._inbox.take(timeout_s)

    def close(self) -> None:
        """Safe to call twice."""
        transport, self._transport = self._transport, None
        if self._stream is not None:
            self._stream.is_current = False
        if transport is not None:
            transport.abort()
