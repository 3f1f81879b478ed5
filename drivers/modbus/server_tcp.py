"""A TCP port for masters: who may come in, how many, and how slow they may be."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from drivers.modbus.listening import Place
from drivers.modbus.protocol.framing import FrameError
from drivers.modbus.protocol.rtu import crc
from drivers.modbus.protocol.slave import RtuRequests
from drivers.modbus.protocol.tcp import TcpFramer, encode
from gateway.domain.entity import Json
from gateway.errors import RefusedError, TransientError
from gateway.ports import Clock, Tally

log = logging.getLogger(__name__)

Answer = Callable[[int, bytes], Awaitable[bytes | None]]
"""Unit and PDU of a request → PDU of its answer; None: nobody answers."""

_READ_BYTES: Final = 1024
_KEPT_BYTES: Final = 2048  # of answers that a master does not take
_KERNEL_BYTES: Final = 8192


class _Framer(Protocol):
    """Bytes of one connection → requests, each with what its answer has to repeat."""

    is_partial: bool

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]: ...

    def encode(self, transaction: int, unit: int, pdu: bytes) -> bytes: ...


class _Mbap:
    def __init__(self) -> None:
        self._frames = TcpFramer()
        self.is_partial = False

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        frames = self._frames.feed(data)
        self.is_partial = self._frames.is_partial
        return frames

    def encode(self, transaction: int, unit: int, pdu: bytes) -> bytes:
        return encode(transaction, unit, pdu)


class _Rtu:
    def __init__(self) -> None:
        self._frames = RtuRequests()
        self.is_partial = False

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        frames = self._frames.feed(data)
        self.is_partial = self._frames.is_partial
        return [(0, unit, pdu) for unit, pdu in frames]

    def encode(self, transaction: int, unit: int, pdu: bytes) -> bytes:
        return rtu_frame(unit, pdu)


class TcpMasters:
    """One port. Each connection has one request under way; what it sends meanwhile waits in its socket.

    A connection that is not allowed, one too many, one that is slow, and one that speaks something else is closed and
    counted.
    """

    def __init__(self, name: str, place: Place, answer: Answer, clock: Clock, tally: Tally) -> None:
        self._name, self._place, self._answer, self._clock, self._tally = name, place, answer, clock, tally
        self._networks = place.networks
        self._open: dict[asyncio.Task[None], str] = {}
        self._last_refused: str | None = None
        self.port = 0

    async def serve(self) -> None:
        """Until cancelled.

        Raises:
            TransientError: The port is in use, or its address not there yet.
            RefusedError: It may not be opened.
        """
        place = self._place
        conversations = asyncio.TaskGroup()

        def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = str((writer.get_extra_info("peername") or ("?",))[0])
            if not self._may_enter(peer):
                self._last_refused = peer
                self._tally("refused")
                writer.transport.abort()
                return
            task = conversations.create_task(self._host(reader, writer, peer), name=f"{self._name}: {peer}")
            self._open[task] = peer
            task.add_done_callback(self._leave)

        try:
            server = await asyncio.start_server(enter, place.host, place.port, limit=_READ_BYTES, start_serving=False)
        except OSError as error:
            text = f"{self._name}: cannot listen on {place.listen}: {error.strerror or error}"
            if error.errno in (errno.EACCES, errno.EPERM):
                raise RefusedError(f"{text}; ports below 1024 need the capability, or take another one") from error
            raise TransientError(text) from error
        try:
            async with conversations:
                await server.start_serving()
                self.port = server.sockets[0].getsockname()[1]
                log.info("%s: masters may come in on %s:%d", self._name, place.host, self.port)
                await asyncio.get_running_loop().create_future()  # until cancelled
        finally:
            self.port = 0
            server.close()

    def status(self) -> Mapping[str, Json]:
        """For a person."""
        return {
            "is_open": bool(self.port),
            "listen": f"{self._place.host}:{self.port or self._place.port}",
            "connections": len(self._open),
            "masters": sorted(set(self._open.values())),
            "last_refused": self._last_refused,
        }

    def _leave(self, task: asyncio.Task[None]) -> None:
        del self._open[task]

    async def _host(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        writer.transport.set_write_buffer_limits(high=_KEPT_BYTES)
        # The kernel's own buffer would grow to megabytes before a master that takes nothing is noticed.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
        try:
            await self._converse(reader, writer)
            writer.close()
        except (ConnectionError, FrameError) as error:
            self._tally("bad_frames" if isinstance(error, FrameError) else "connections_lost")
        except Exception:
            # One master's request must not end the others; it is a bug all the same.
            self._tally("bugs")
            log.exception("%s: a request of %s ended its connection", self._name, peer)
        finally:
            if not writer.is_closing():
                writer.transport.abort()

    def _may_enter(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return len(self._open) < self._place.max_connections and any(address in network for network in self._networks)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place, now_s = self._place, self._clock.monotonic_s
        framer: _Framer = _Mbap() if place.framing == "tcp" else _Rtu()
        begun_s: float | None = None  # when the request that is not whole yet began
        while True:
            wait_s = place.idle_timeout_s if begun_s is None else begun_s + place.frame_timeout_s - now_s()
            try:
                async with asyncio.timeout(wait_s):
                    data = await reader.read(_READ_BYTES)
            except TimeoutError:
                self._tally("closed_slow" if begun_s is not None else "closed_idle")
                return
            if not data:
                return
            frames = framer.feed(data)
            if not framer.is_partial:
                begun_s = None
            elif begun_s is None or frames:
                begun_s = now_s()
            for transaction, unit, pdu in frames:
                self._tally("requests")
                answer = await self._answer(unit, pdu)
                if answer is None:
                    continue
                writer.write(framer.encode(transaction, unit, answer))
                try:
                    async with asyncio.timeout(place.frame_timeout_s):
                        await writer.drain()
                except TimeoutError:
                    self._tally("closed_slow")
                    writer.transport.abort()
                    return


def rtu_frame(unit: int, pdu: bytes) -> bytes:
    """For a line."""
    frame = bytes([unit]) + pdu
    return frame + crc(frame).to_bytes(2, "little")
