"""Masters without transaction ids: RTU and ASCII, on a serial port or over TCP.

One question at a time. Before each the line has to be silent for the gap, and its answer not to be confused with one
that is still owed (`protocol/late.py`). An answer counts when unit, function and length are those of the question;
that to a write, when it repeats what was written.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from drivers.modbus.protocol.framing import Expected, LineFramer
from drivers.modbus.protocol.late import Owed
from drivers.modbus.protocol.pdu import Question
from drivers.modbus.wire_master import Closed, Damaged, Owing, Silent
from gateway.ports import Clock

QUIET_S: Final = 0.02
"""An answer whose length nobody knows has ended when nothing followed for so long: adapters cut frames by 16 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineTiming:
    """Seconds. `byte_s` is what one byte takes on the wire (0: not known, as behind a device server).

    `late_s`: how long after its timeout an answer may still come. `gap_s`: silence before each question.
    `is_echoed`: what is sent comes back before the answer. `turnaround_s`: left to the units after a question to all of
    them. `connect_pause_s`: from opening to the first.
    """

    timeout_s: float
    late_s: float
    gap_s: float = 0.0
    turnaround_s: float = 0.1
    connect_pause_s: float = 0.0
    byte_s: float = 0.0
    is_echoed: bool = False


class ByteLine(Protocol):
    """Bytes out, bytes in; whatever carries them."""

    @property
    def last_byte_s(self) -> float:
        """When the last byte came in (monotonic)."""
        ...

    @property
    def is_open(self) -> bool:
        """Ready."""
        ...

    async def open(self) -> None:
        """Raises `Unreachable`."""
        ...

    def write(self, data: bytes) -> None:
        """At once, into the kernel. Raises `Closed`."""
        ...

    async def read(self, timeout_s: float) -> bytes:
        """What has come, as soon as anything has; b"" when nothing did. 0: what is there now. Raises `Closed`."""
        ...

    def close(self) -> None:
        """Safe to call twice."""
        ...


class LineMaster:
    """Implements `Master`. `renew_after`: so many questions in a row without a single byte, and the line is opened
    anew, because a device server may have lost its side of the connection; 0: never.
    """

    def __init__(
        self, line: ByteLine, framer: LineFramer, timing: LineTiming, clock: Clock, *, renew_after: int = 0
    ) -> None:
        self._renew_after = renew_after
        self._line, self._framer, self._timing, self._clock = line, framer, timing, clock
        self._owed = Owed(timing.late_s)
        self._turn = asyncio.Lock()
        self._sent_until_s = float("-inf")
        self._silent_in_a_row = 0
        self._quiet_s = max(timing.gap_s, QUIET_S)
        self.connects = 0
        self.strays = 0

    @property
    def is_open(self) -> bool:
        """True when the next question needs no new connection."""
        return self._line.is_open

    def close(self) -> None:
        """Safe to call twice."""
        self._line.close()
        self._framer.clear()

    async def ask(self, unit: int, question: Question) -> bytes:
        """See `Master`."""
        async with self._turn:
            if not self._line.is_open:
                self._framer.clear()
                await self._line.open()
                self.connects += 1
                if self._timing.connect_pause_s:
                    await self._clock.sleep(self._timing.connect_pause_s)
            try:
                await self._settle(unit, question)
                return await self._exchange(unit, question)
            except Closed:
                self.close()
                raise

    async def _settle(self, unit: int, question: Question) -> None:
        """Until this question's answer can be told from all others, and the line has been silent for the gap."""
        now_s = self._clock.monotonic_s
        owed_s = self._owed.wait_s(unit, question.function, now_s())
        if owed_s > self._timing.timeout_s:
            # Waiting that long would cost the other units more than a silent one may.
            raise Owing(f"not asked: an answer from before may come for another {owed_s:.3g} s")
        while (owed_s := self._owed.wait_s(unit, question.function, now_s())) > 0:
            self._overheard(await self._line.read(owed_s))
        while True:
            self._overheard(await self._line.read(0))
            quiet_since_s = max(self._line.last_byte_s, self._sent_until_s)
            wait_s = quiet_since_s + self._timing.gap_s - now_s()
            if wait_s <= 0:
                break
            self._overheard(await self._line.read(wait_s))
        self._framer.clear()

    def _overheard(self, data: bytes) -> None:
        if data:
            self.strays += len(self._framer.feed(data))

    async def _exchange(self, unit: int, question: Question) -> bytes:
        timing, now_s = self._timing, self._clock.monotonic_s
        frame = self._framer.encode(unit, question.pdu)
        self._line.write(frame)
        sent_s = self._sent_until_s = now_s() + len(frame) * timing.byte_s
        if unit == 0:
            await self._clock.sleep(sent_s - now_s() + timing.turnaround_s)
            return b""
        is_answered = False
        try:
            until_s = sent_s + timing.timeout_s
            heard = await self._echo(frame, until_s) if timing.is_echoed else b""
            answer = await self._answer(Expected(unit, question), until_s, heard)
            is_answered = True
            return answer
        except Damaged:
            is_answered = True
            raise
        finally:
            if not is_answered:
                self._owed.missed(unit, question.function, now_s())

    async def _echo(self, frame: bytes, until_s: float) -> bytes:
        """Take the question off the line again; returns what came behind it."""
        heard = b""
        while (wait_s := until_s - self._clock.monotonic_s()) > 0:
            data = await self._line.read(wait_s)
            if not data:
                break
            heard += data
            _, echo, behind = heard.partition(frame)
            if echo:
                return behind
        if heard:
            raise Silent(f"no answer: the echo of the question is damaged, somebody else spoke: {heard[:12].hex(' ')}")
        raise Silent("no answer, and no echo either; leave `echo` out when the adapter does not hear itself")

    async def _answer(self, expected: Expected, until_s: float, data: bytes = b"") -> bytes:
        """`data`: what has come of it already."""
        now_s = self._clock.monotonic_s
        seen = bytearray()
        others = self.strays
        other_unit = None
        while (wait_s := until_s - now_s()) > 0:
            data = data or await self._line.read(wait_s)
            if not data:
                break
            seen += data
            frames = self._framer.feed(data, expected)
            while frames and expected.question.is_open and (more := await self._line.read(self._quiet_s)):
                if now_s() >= until_s:
                    break
                seen += more
                frames = self._framer.feed(more, expected) or frames
            for unit, pdu in frames:
                if expected.is_met_by(unit, pdu):
                    self._silent_in_a_row = 0
                    return pdu
                self.strays += 1
                other_unit = unit if unit != expected.unit else other_unit
            if self.strays == others and self._is_damaged(seen, expected):
                raise Damaged(f"a damaged answer: {bytes(seen[:12]).hex(' ')} …")
            data = b""
        if seen:
            self._silent_in_a_row = 0
            start = bytes(seen[:12]).hex(" ")
            if other_unit is not None:
                raise Silent(
                    f"no answer in {self._timing.timeout_s:g} s; unit {other_unit} answered in its place: is it late, "
                    f"or set to another number than it should be? {start}"
                )
            raise Silent(f"no answer in {self._timing.timeout_s:g} s; {len(seen)} bytes that are none: {start}")
        self._silent_in_a_row += 1
        if self._silent_in_a_row == self._renew_after:
            self._silent_in_a_row = 0
            self.close()
        raise Silent(f"no answer in {self._timing.timeout_s:g} s")

    def _is_damaged(self, seen: bytearray, expected: Expected) -> bool:
        """The answer itself, whole, with wrong bits: waiting for another is of no use.

        Only when nobody else owes one: the wrong bits could be those that say whose it is.
        """
        if expected.question.is_open:
            return False
        size = len(self._framer.encode(expected.unit, bytes(expected.question.size)))
        head = self._framer.encode(expected.unit, expected.question.head)[: -self._framer.tail_bytes]
        return len(seen) == size and seen.startswith(head) and not self._owed.is_any(self._clock.monotonic_s())
