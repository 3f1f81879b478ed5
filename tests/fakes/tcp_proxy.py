"""A TCP line between two parties that can go wrong: silent in one or both directions, slow, reset, closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Final

_HELD_S: Final = 0.005  # between two looks whether the line is whole again


class TcpProxy:
    """Forwards connections to `127.0.0.1:target`; its switches act at once and on all connections.

    What a silent direction swallows is gone, as on a line whose far end has no power: a connection with such a
    gap says nothing more in that direction, for nobody ever reads past a gap. What is held waits, as on a
    line that is mended before either end gives up.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.is_up_silent = False
        """Nothing goes from the client to the server, and nobody is told."""
        self.is_down_silent = False
        """Nothing goes from the server to the client."""
        self.is_held = False
        """Nothing goes in either direction, until it does again."""
        self.delay_s = 0.0
        """One way; half of the round trip. Throughput is not limited by it."""
        self.connections = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def black_hole(self) -> None:
        """Both directions fall silent."""
        self.is_up_silent = self.is_down_silent = True

    def heal(self) -> None:
        """Nothing is silent, held or late from now on; connections with a gap stay as they are."""
        self.is_up_silent = self.is_down_silent = self.is_held = False
        self.delay_s = 0.0

    def reset(self) -> None:
        """RST to both ends of every connection."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def close(self) -> None:
        """FIN to both ends of every connection."""
        for writer in list(self._writers):
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            self._writers.discard(writer)
            return
        self._writers.add(back)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forward(reader, back, is_up=True))
                tasks.create_task(self._forward(there, writer, is_up=False))
        finally:
            for one in (writer, back):
                one.transport.abort()
                self._writers.discard(one)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            has_gap = False
            while True:
                due_s, data = await late.get()
                if due_s > loop.time():
                    await asyncio.sleep(due_s - loop.time())
                while self.is_held:
                    await asyncio.sleep(_HELD_S)
                has_gap = has_gap or (self.is_up_silent if is_up else self.is_down_silent)
                if has_gap:
                    continue
                if not data:
                    writer.close()
                    return
                writer.write(data)

        task = loop.create_task(deliver())
        try:
            while True:
                try:
                    data = await reader.read(65_536)
                except OSError:
                    data = b""
                if is_up:
                    self.bytes_up += len(data)
                else:
                    self.bytes_down += len(data)
                late.put_nowait((loop.time() + self.delay_s, data))
                if not data:
                    await task
                    return
        finally:
            task.cancel()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[TcpProxy]:
        """Open on a free port while the block lasts."""

        def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._accept(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(on_connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
