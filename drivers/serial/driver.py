"""One serial line: questions and answers, devices that speak unasked, commands."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from drivers.serial.config import SerialConfig
from drivers.serial.fields import Content, NoValue
from drivers.serial.frames import Framer
from drivers.serial.hand import Hearing
from drivers.serial.messages import Kind, answer_value, text_of, value_to_send
from drivers.serial.notation import shown
from drivers.serial.plan import Ordered, Plan
from drivers.serial.proof import Proof, frame_rule
from drivers.serial.silence import Silences, what_came
from drivers.serial.trace import Trace
from drivers.serial.wire import AGAIN_S, SerialWire
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import BusLost, RejectedError, TransientError
from gateway.ports import Clock, DriverDevice, Heard, Poll, PollPoint, Query, RawRequest, Reading, Write

MAX_HEARD: Final = 1000
"""Messages that wait for the house; the oldest goes when there are more, and is counted."""

_RECENT_BYTES: Final = 64
_SETTLE_S: Final = 0.05
"""After an answer that did not come in time the line must be quiet for so long before the next question."""


@dataclass(slots=True)
class _Question:
    """What is waited for."""

    kind: Kind
    refused: re.Pattern[str] | None
    answer: asyncio.Future[tuple[Content, bytes]]


class SerialDriver:
    """Implements `Driver` and `Listener`: `listen` keeps the port open and looks for it when it is away."""

    def __init__(self, config: SerialConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._proof = Proof(config.frame, config.checksum)
        self._framer = Framer(frame_rule(config.frame), self._proof.problem)
        self.wire = SerialWire(config, self._received, self._lost)
        self._heard: deque[Heard] = deque()
        self._news = asyncio.Event()
        self._question: _Question | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._faults: dict[str, str] = {}
        self._last: dict[tuple[str, str], tuple[Value, float]] = {}
        self._last_ts_ms: dict[str, int] = {}
        self._recent = b""
        self._bytes = self._unexpected = self._lost_readings = 0
        self._told_bad = self._told_lost = self._traced_bad = 0
        self._last_unexpected = b""
        self._last_byte_s = 0.0
        self._is_late = False
        self._echo = b""  # of what was sent, and has not come back yet
        self._hearing: Hearing | None = None  # while somebody asks by hand
        self._trace = Trace(clock)
        self._plan = Plan(config, self._proof.sent)
        self._silences = Silences(self._plan.silent_after_s, clock)

    # ── `Driver` ──

    def devices(self) -> Sequence[DriverDevice]:
        """Who is on this line."""
        return known_devices(self._config)

    def polls(self) -> Sequence[Poll]:
        """One a request."""
        return list(self._plan.asked)

    async def read(self, poll: Poll) -> Sequence[Reading]:
        """Ask, and take the answer's fields.

        Raises:
            TransientError: No answer in time; the text says what was seen on the line. `BusLost`: no port.
        """
        asked = self._plan.asked[poll]
        content, _ = await self._ask(asked.kind, asked.sent, asked.what)
        return self._readings(asked.kind, content, self._clock.now_ms())

    async def write(self, command: Write) -> Value:
        """Send a command; what its answer says, or the value sent where no answer is expected.

        Raises:
            RejectedError: No such command, a bad value, or refused by the device.
            TransientError: No answer; it may have arrived.
        """
        found = self._plan.commands.get((command.device, command.key))
        if found is None:
            raise RejectedError(f"{command.device} has no command {command.key!r}")
        return await self._command(command.device, found, command.value)

    async def query(self, query: Query) -> Value:
        """A field: asked for now, or as it was heard last. A command without a value is executed."""
        name = (query.device, query.key)
        if name not in self._plan.fields:
            if name in self._plan.commands:
                return await self._command(query.device, self._plan.commands[name], None)
            raise RejectedError(f"{query.device} has no field {query.key!r}")
        poll = self._plan.fields[name]
        if poll is None:
            value, at_s = self._last.get(name, (None, 0.0))
            age_s = self._clock.monotonic_s() - at_s
            if value is None or age_s > self._plan.silent_after_s[query.device]:
                raise TransientError(f"{self._config.name}: {query.device} has not said {query.key!r} lately")
            return value
        for reading in await self.read(poll):
            if reading.key == query.key:
                return reading.value
        raise RejectedError(f"{query.device}.{query.key}: {self._faults.get(f'{query.device}.{query.key}')}")

    def is_writable(self, device: str, key: str) -> bool | None:
        """True for commands, False for fields, None for neither."""
        if (device, key) in self._plan.commands:
            return True
        return False if (device, key) in self._plan.fields else None

    def faults(self) -> Mapping[str, str]:
        """Fields that the last frame of their kind had no value for."""
        return self._faults

    # ── by hand ──

    async def raw(self, request: RawRequest) -> bytes:
        """Implements `RawLine`: sends these bytes; what came then, until the line was quiet, or b"" within `timeout_s`.

        What comes is treated as what it is all the same. Raises as `write`.
        """
        if request.unit:
            raise RejectedError(
                f"{self._config.name}: a serial line has no units; edge-gateway serial send asks by hand"
            )
        await self.wire.open()
        await self._quiet()
        hearing = self._hearing = Hearing()
        try:
            await self._send(request.pdu)
            return await hearing.all(self._config.timeout_s)
        finally:
            self._hearing = None

    def trace(self, after: int) -> Sequence[Mapping[str, Json]]:
        """Implements `TracesLine`."""
        return self._trace.rows(after)

    # ── `Listener` ──

    def unasked(self) -> Sequence[tuple[str, PollPoint]]:
        """Implements `ToldBeforehand`."""
        return self._plan.unasked

    async def listen(self) -> AsyncIterator[Heard]:
        """What is said unasked; who is silent; whether the port is there."""
        self._silences.begin()
        while True:
            try:
                await self.wire.open()
            except BusLost as error:
                yield Heard(unit=self._config.devices[0].name, error=error)
                await asyncio.sleep(AGAIN_S)
                continue
            if not self._heard:
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._silences.wait_s()):
                        await self._news.wait()
            while (heard := self._next_heard()) is not None:
                yield heard

    def line(self) -> Mapping[str, Json]:
        """Figures since the start."""
        seen = self._framer.seen
        return {
            "port": self._config.port,
            "settings": self._config.settings_text,
            "is_open": self.wire.is_open,
            "opens": self.wire.opens,
            "uart_errors": self.wire.complaints()._asdict(),
            "bytes": self._bytes,
            "frames": seen.frames,
            "bad_frames": seen.bad_frames,
            "skipped_bytes": seen.skipped_bytes,
            "unexpected_frames": self._unexpected,
            "lost_readings": self._lost_readings,
            "last_bad": shown(seen.last_bad) + f": {seen.last_reason}" if seen.bad_frames else None,
            "last_unexpected": shown(self._last_unexpected) if self._unexpected else None,
        }

    # ── questions ──

    async def _command(self, device: str, ordered: Ordered, given: Json) -> Value:
        command, kind = ordered.command, ordered.kind
        try:
            value = value_to_send(command, ordered.template.takes_value, given)
            sent = ordered.template.render(value, self._proof.sent)
        except RejectedError as error:
            raise RejectedError(f"{device}: {error}") from None
        if kind is None:
            await self._quiet()
            await self._send(sent)
            return True if value is None else value
        refused = None if command.refused is None else re.compile(command.refused)
        content, body = await self._ask(kind, sent, f"{command.key!r} ({shown(sent)})", refused)
        if not kind.fields and value is not None:
            return value
        return answer_value(kind, content, body, command.key)

    async def _ask(
        self, kind: Kind, sent: bytes, what: str, refused: re.Pattern[str] | None = None
    ) -> tuple[Content, bytes]:
        loop, name, timeout_s = asyncio.get_running_loop(), self._config.name, self._config.timeout_s
        await self.wire.open()
        await self._quiet()
        bytes_before, bad_before = self._bytes, self._framer.seen.bad_frames
        question = self._question = _Question(kind, refused, loop.create_future())
        try:
            await self._send(sent)
            async with asyncio.timeout(timeout_s):
                return await question.answer
        except TimeoutError:
            self._is_late = True
            came = self._bytes - bytes_before
            if self._config.echo and self._echo:
                seen = f"{'its echo is damaged' if came else 'no echo either'}; does the adapter hear itself (`echo`)?"
            elif not self._config.echo and came >= len(sent) and self._recent[-came:].startswith(sent):
                seen = "the question itself came back: does the adapter hear what it sends? `echo: true` takes it off"
            else:
                seen = self._what_was_seen(came, self._framer.seen.bad_frames - bad_before)
            self._echo = b""
            raise TransientError(f"{name}: {kind.device}: no answer to {what} in {timeout_s:g} s; {seen}") from None
        except asyncio.CancelledError:
            self._is_late = True
            raise
        finally:
            self._question = None
            question.answer.cancel()

    async def _send(self, data: bytes) -> None:
        if self._trace.is_on:
            self._trace.sent(data)
        if self._config.echo:
            self._echo += data  # that of a command nobody waits for may still be on its way
        await self.wire.send(data, self._config.timeout_s)
        self._last_byte_s = asyncio.get_running_loop().time()

    async def _quiet(self) -> None:
        """The pause before a question; a late answer to the one before goes by meanwhile, and is nobody's."""
        loop = asyncio.get_running_loop()
        gap_s = self._config.gap_ms / 1000
        if self._is_late:
            gap_s = max(gap_s, _SETTLE_S)
            self._last_byte_s = loop.time()
        give_up_s = loop.time() + max(self._config.timeout_s, gap_s)
        while True:
            wait_s = min(self._last_byte_s + gap_s, give_up_s) - loop.time()  # bytes that come move the end of it
            if wait_s <= 0:
                break
            await asyncio.sleep(wait_s)
        if self._is_late and not self._plan.kinds:
            self._framer.clear()
        self._is_late = False

    # ── what comes ──

    def _received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        now_s = self._last_byte_s = loop.time()
        if self._echo and not (data := self._without_echo(data)):
            return
        self._bytes += len(data)
        if self._hearing is not None:
            self._hearing.add(data)
        if self._trace.is_on:
            self._trace.came(data)
        self._recent = (self._recent + data)[-_RECENT_BYTES:]
        self._take(self._framer.feed(data, now_s))
        self._arm(now_s)

    def _without_echo(self, data: bytes) -> bytes:
        """What is not our own; an echo that is not what was sent stays, for a person to see."""
        size = min(len(data), len(self._echo))
        if data[:size] == self._echo[:size]:
            self._echo = self._echo[size:]
            return data[size:]
        self._echo = b""
        return data

    def _arm(self, now_s: float) -> None:
        if self._pause is not None:
            self._pause.cancel()
        wait_s = self._framer.wait_s(now_s)
        loop = asyncio.get_running_loop()
        self._pause = None if wait_s is None else loop.call_later(wait_s, self._paused)

    def _paused(self) -> None:
        self.wire.read_now()  # what came while the loop was busy was no pause
        now_s = asyncio.get_running_loop().time()
        self._take(self._framer.idle(now_s))
        self._arm(now_s)

    def _take(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            body = self._proof.body(frame)
            if not self._is_answer(body):
                self._hear(body)
        seen = self._framer.seen
        if seen.bad_frames != self._told_bad:
            self._news.set()
        if self._trace.is_on and seen.bad_frames != self._traced_bad:
            self._trace.said("bad", f"{shown(seen.last_bad)}: {seen.last_reason}")
        self._traced_bad = seen.bad_frames

    def _is_answer(self, body: bytes) -> bool:
        question = self._question
        if question is None or question.answer.done():
            return False
        text = body.decode(self._config.encoding, "replace") if question.refused is not None else ""
        if question.refused is not None and question.refused.search(text):
            device = question.kind.device
            problem = f"{self._config.name}: {device} refuses: {text_of(body, self._config.encoding)!r}"
            question.answer.set_exception(RejectedError(problem))
            return True
        content = question.kind.content(body)
        if content is None:
            return False
        question.answer.set_result((content, body))
        return True

    def _hear(self, body: bytes) -> None:
        is_known = False
        for kind in self._plan.kinds:
            content = kind.content(body)
            if content is None:
                continue
            is_known = True
            now_ms, last_ms = self._clock.now_ms(), self._last_ts_ms.get(kind.device, 0)
            if 0 <= last_ms - now_ms < 1000:  # two frames in one millisecond are two readings
                now_ms = last_ms + 1
            self._last_ts_ms[kind.device] = now_ms
            readings = self._readings(kind, content, now_ms)
            now_s = self._silences.heard(kind.device)
            for reading in readings:
                self._last[reading.device, reading.key] = (reading.value, now_s)
            if readings:
                self._heard.append(Heard(unit=kind.device, readings=readings))
        while len(self._heard) > MAX_HEARD:
            self._lost_readings += len(self._heard.popleft().readings)
        if is_known:
            self._news.set()
        else:
            self._unexpected += 1
            self._last_unexpected = body
            if self._trace.is_on:
                self._trace.said("unknown", f"{shown(body)}: a frame of no known kind")

    def _readings(self, kind: Kind, content: Content, ts_ms: int) -> list[Reading]:
        readings: list[Reading] = []
        for field, value in kind.values(content):
            name = f"{kind.device}.{field.key}"
            if isinstance(value, NoValue):
                self._faults[name] = str(value)
                continue
            self._faults.pop(name, None)
            readings.append(
                Reading(device=kind.device, key=field.key, value=value, ts_ms=ts_ms, is_attribute=field.is_attribute)
            )
        if self._trace.is_on:
            self._trace.said("read", f"{kind.device}: " + ", ".join(f"{each.key}={each.value!r}" for each in readings))
        return readings

    def _lost(self, error: BusLost) -> None:
        self._framer.clear()
        self._echo = b""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._question is not None and not self._question.answer.done():
            self._question.answer.set_exception(error)
        self._news.set()

    # ── what is told ──

    def _next_heard(self) -> Heard | None:
        """Messages of one device that came in a row are one batch; then bad frames and silence."""
        bad, self._told_bad = self._framer.seen.bad_frames - self._told_bad, self._framer.seen.bad_frames
        lost, self._told_lost = self._lost_readings - self._told_lost, self._lost_readings
        if self._heard:
            first = self._heard.popleft()
            readings = list(first.readings)
            while self._heard and self._heard[0].unit == first.unit:
                readings += self._heard.popleft().readings
            return Heard(unit=first.unit, readings=readings, bad_frames=bad, lost_readings=lost)
        if bad or lost:
            return Heard(unit=self._config.devices[0].name, bad_frames=bad, lost_readings=lost)
        return self._silence()

    def _silence(self) -> Heard | None:
        silent = self._silences.next()
        if silent is None:
            return None
        device, after_s = silent
        seen = self._what_was_seen(self._bytes, self._framer.seen.bad_frames)
        problem = f"{self._config.name}: {device} has said nothing for {after_s:g} s; {seen}"
        return Heard(unit=device, error=TransientError(problem))

    def _what_was_seen(self, bytes_: int, bad_frames: int) -> str:
        if not bytes_:
            return f"nothing came on {self._config.port}: is it connected, and to this port?"
        recent = self._recent[-bytes_:]
        errors = self.wire.complaints()
        reason, rest = what_came(self._config, self._proof, self._framer.seen, recent, bad_frames, errors)
        return f"{bytes_} bytes came ({reason}), {rest}"

    def close(self) -> None:
        """Safe to call twice."""
        if self._pause is not None:
            self._pause.cancel()
        self.wire.close()


@asynccontextmanager
async def open_serial(config: SerialConfig, clock: Clock) -> AsyncIterator[SerialDriver]:
    """A driver for one line. Needs no adapter: the port is opened when it is there, and again after a loss."""
    driver = SerialDriver(config, clock)
    try:
        yield driver
    finally:
        driver.close()


def known_devices(config: SerialConfig) -> list[DriverDevice]:
    """All devices of a line are known from its configuration."""
    return [DriverDevice(name=device.name, profile=device.profile, label=device.label) for device in config.devices]
