"""Masters with transaction ids: Modbus TCP, TLS and UDP.

A late answer cannot be taken for another one. Ids are spread over the whole range, so that neither the neighbour's
id nor 0 belongs to an open question; unit, function and length are compared besides. With one question at a
time a timeout also ends the connection, because some device servers put the newest id on whatever answer they have.
With several, the connection stays as long as other answers come. A device that has ids of its own is asked one question
at a time, and then its connection, unit, function and length are what tells its answer. A new connection does not help
where a box forwards what comes late on its serial line to whoever is connected, under the newest id: `late_s` does.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from drivers.modbus.protocol import tcp
from drivers.modbus.protocol.framing import FrameError
from drivers.modbus.protocol.late import Owed
from drivers.modbus.protocol.pdu import Question
from drivers.modbus.wire_master import Closed, Damaged, NoAnswer, Owing, Silent, Unreachable
from gateway.ports import Clock

_STEP: Final = 0x9E37  # odd: all ids come in turn

CYCLE_ENDS_S: Final = 0.1
"""With `close_after_cycle`: so long without a question, and the connection is left to others."""


class _Open:
    """One question on its way."""

    __slots__ = ("answer", "question", "unit", "until_s")

    def __init__(self, unit: int, question: Question, answer: asyncio.Future[bytes], until_s: float) -> None:
        self.unit, self.question, self.answer, self.until_s = unit, question, answer, until_s


class _Connection(asyncio.Protocol, asyncio.DatagramProtocol):
    """One socket and the questions that are open on it. Lives once."""

    def __init__(self, timeout_s: float, is_udp: bool, has_own_ids: bool) -> None:
        self._timeout_s, self._is_udp, self._has_own_ids = timeout_s, is_udp, has_own_ids
        self._loop = asyncio.get_running_loop()
        self._framer = tcp.TcpFramer()
        self._open: dict[int, _Open] = {}  # in the order of their deadlines
        self._transaction = random.randrange(1, 65536)
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | asyncio.WriteTransport | None = None
        self._send: Callable[[bytes], None] = lambda frame: None
        self.last_answer_s = 0.0
        self.strays = 0

    @property
    def is_open(self) -> bool:
        """Questions can be asked."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """None before the connection is made."""
        return self._transport

    def ask(self, unit: int, question: Question) -> asyncio.Future[bytes]:
        """Sent at once; done with the answer, or failed."""
        transaction = self._transaction = (self._transaction + _STEP) & 0xFFFF or _STEP
        now_s = self._loop.time()
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._open[transaction] = _Open(unit, question, answer, now_s + self._timeout_s)
        frame = tcp.encode(transaction, unit, question.pdu)
        self._send(frame)
        if self._timer is None:
            self._timer = self._loop.call_at(now_s + self._timeout_s, self._expire)
        return answer

    def end(self, error: NoAnswer) -> None:
        """Close; what is open fails."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        open_, self._open = self._open, {}
        for asked in open_.values():
            if not asked.answer.done():
                asked.answer.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    # ── asyncio's side ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: ready."""
        self._transport = cast("asyncio.DatagramTransport | asyncio.WriteTransport", transport)
        self._send = getattr(transport, "sendto" if self._is_udp else "write")

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: over."""
        self.end(Closed("connection closed by the device"))

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of a stream."""
        try:
            frames = self._framer.feed(data)
        except FrameError as error:
            self.end(Damaged(str(error)))
            return
        for transaction, unit, pdu in frames:
            self._answered(transaction, unit, pdu)

    def datagram_received(self, data: bytes, addr: object) -> None:
        """asyncio: one datagram, which is whole or nothing."""
        try:
            frames = tcp.TcpFramer().feed(data)
        except FrameError:
            self.strays += 1
            return
        for transaction, unit, pdu in frames:
            self._answered(transaction, unit, pdu)

    def error_received(self, exc: Exception) -> None:
        """asyncio: the other host says that nobody listens."""
        self.end(Unreachable(f"nobody answers there: {exc}"))

    def _answered(self, transaction: int, unit: int, pdu: bytes) -> None:
        if self._has_own_ids and len(self._open) == 1:
            (transaction,) = self._open
            question = self._open[transaction].question
            if not question.is_answered_by(pdu) and question.refusal(pdu) is None:
                self.strays += 1
                return
        asked = self._open.get(transaction)
        if asked is None or asked.unit != unit:
            self.strays += 1  # late, or for somebody else
            return
        del self._open[transaction]
        self.last_answer_s = self._loop.time()
        question = asked.question
        if asked.answer.done():
            return
        if question.is_answered_by(pdu) or question.refusal(pdu) is not None:
            asked.answer.set_result(pdu)
        else:
            asked.answer.set_exception(Damaged(_nonsense(question, pdu)))

    def _expire(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        for transaction, asked in list(self._open.items()):
            if asked.until_s > now_s:
                self._timer = self._loop.call_at(asked.until_s, self._expire)
                return
            del self._open[transaction]
            if not asked.answer.done():
                asked.answer.set_exception(Silent(f"no answer in {self._timeout_s:g} s"))


class TcpMaster:
    """Implements `Master` over TCP, TLS (`tls` given) or UDP. `in_flight` questions may be open at a time.

    `late_s`: after a question without an answer its function is not asked of its unit again for so long (0: at once).
    """

    def __init__(
        self,
        host: str,
        port: int,
        timeout_s: float,
        clock: Clock,
        *,
        in_flight: int = 1,
        connect_pause_s: float = 0.0,
        gap_s: float = 0.0,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        is_udp: bool = False,
        has_own_ids: bool = False,
        close_after_cycle: bool = False,
        late_s: float = 0.0,
    ) -> None:
        self._host, self._port, self._timeout_s, self._clock = host, port, timeout_s, clock
        self._in_flight, self._connect_pause_s, self._gap_s = in_flight, connect_pause_s, gap_s
        self._tls, self._server_name, self._is_udp = tls, server_name, is_udp
        self._has_own_ids, self._close_after_cycle = has_own_ids, close_after_cycle
        self._owed = Owed(late_s) if late_s else None
        self._asking = 0
        self._leaving: asyncio.TimerHandle | None = None
        self._slots = asyncio.Semaphore(in_flight)
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._last_s = float("-inf")
        self.connects = 0

    @property
    def is_open(self) -> bool:
        """True when the next question needs no new connection."""
        return self._connection is not None and self._connection.is_open

    def close(self) -> None:
        """Safe to call twice."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end(Closed("connection closed here"))

    async def ask(self, unit: int, question: Question) -> bytes:
        """See `Master`."""
        if not self._close_after_cycle:
            return await self._ask(unit, question)
        self._asking += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        try:
            return await self._ask(unit, question)
        finally:
            self._asking -= 1
            if not self._asking:
                self._leaving = asyncio.get_running_loop().call_later(CYCLE_ENDS_S, self.close)

    async def _ask(self, unit: int, question: Question) -> bytes:
        async with self._slots:
            if self._owed is not None:
                wait_s = self._owed.wait_s(unit, question.function, self._clock.monotonic_s())
                if wait_s > self._timeout_s:
                    # Waiting that long would cost the other units more than a silent one may.
                    raise Owing(f"not asked: an answer from before may come for another {wait_s:.3g} s")
                if wait_s > 0:
                    await self._clock.sleep(wait_s)
            connection = self._connection
            if connection is None or not connection.is_open:
                connection = await self._connect()
            if self._gap_s:
                await self._keep_gap()
            asked_s = asyncio.get_running_loop().time()
            has_answer = False
            try:
                answer = await connection.ask(unit, question)
                has_answer = True
                return answer
            finally:
                if self._gap_s:
                    self._last_s = self._clock.monotonic_s()
                if not has_answer and self._owed is not None:
                    self._owed.missed(unit, question.function, self._clock.monotonic_s())
                if not has_answer and (self._in_flight == 1 or connection.last_answer_s < asked_s):
                    connection.end(Closed("the connection was given up after a question without an answer"))

    async def _keep_gap(self) -> None:
        while (wait_s := self._last_s + self._gap_s - self._clock.monotonic_s()) > 0:
            await self._clock.sleep(wait_s)
        self._last_s = self._clock.monotonic_s()

    async def _connect(self) -> _Connection:
        async with self._connecting:
            if self._connection is not None and self._connection.is_open:
                return self._connection
            self.close()
            connection = _Connection(self._timeout_s, self._is_udp, self._has_own_ids)
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(self._timeout_s):
                    if self._is_udp:
                        await loop.create_datagram_endpoint(lambda: connection, remote_addr=(self._host, self._port))
                    else:
                        await loop.create_connection(
                            lambda: connection,
                            self._host,
                            self._port,
                            ssl=self._tls,
                            server_hostname=(self._server_name or self._host) if self._tls else None,
                        )
            except TimeoutError:
                raise Unreachable(f"refused, or silent for {self._timeout_s:g} s") from None
            except ssl.SSLError as error:
                raise Unreachable(f"TLS: {error.reason or error}") from error
            except OSError as error:
                raise Unreachable(
                    f"refused, or silent for {self._timeout_s:g} s ({error.strerror or error})"
                ) from error
            keep_alive(connection.transport)
            self._connection = connection
            self.connects += 1
            if self._connect_pause_s:
                await self._clock.sleep(self._connect_pause_s)
            return connection


def keep_alive(transport: asyncio.BaseTransport | None) -> None:
    """Let the kernel notice a peer that has gone without a word."""
    raw = transport.get_extra_info("socket") if transport is not None else None
    if raw is not None and raw.type == socket.SOCK_STREAM:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _nonsense(question: Question, pdu: bytes) -> str:
    if pdu[0] & 0x7F != question.function:
        return f"function {pdu[0]:#04x} answers {question.function:#04x}"
    return f"{len(pdu)} bytes ({pdu[:8].hex(' ')} …) where {question.size} that begin {question.head.hex(' ')} were due"
