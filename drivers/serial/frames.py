"""Where frames begin and end in a stream of bytes. Pure: time is an argument.

Every kind of frame is found again after noise. A delimited frame begins at its last start mark, so what was cut off is
left behind with its noise. Where a length or a fixed size says how long a frame is, a candidate that its checksum or
its end mark refutes costs one byte: the true frame may begin inside it. What is begun and not ended within a pause is
given up. Nothing grows beyond `max_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Check = Callable[[bytes], str | None]
"""Of a whole frame, marks included: None when it is good, else what is wrong with it."""

MAX_BAD_BYTES: Final = 64
"""So much of the last bad frame is kept for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRule:
    """How frames of one line are told apart. Sizes in bytes, of the whole frame with start and end marks."""

    kind: Literal["delimiter", "length", "fixed", "silence"]
    start: bytes = b""
    end: bytes = b""
    size: int = 0  # fixed
    length_at: int = 0  # length: where its field lies,
    length_size: int = 1  # how wide it is,
    is_length_big: bool = True
    length_adds: int = 0  # and what its number leaves out
    pause_s: float | None = None  # silence: this ends a frame; others: this gives up one that was begun
    max_bytes: int = 1024


@dataclass(slots=True)
class Seen:
    """Figures of a line, all of them growing."""

    frames: int = 0
    bad_frames: int = 0
    skipped_bytes: int = 0  # belong to no good frame
    last_bad: bytes = b""
    last_reason: str = ""

    def bad(self, data: bytes | bytearray, reason: str) -> None:
        """A frame that is none."""
        self.bad_frames += 1
        self.last_bad, self.last_reason = bytes(data[:MAX_BAD_BYTES]), reason


class Framer:
    """Bytes in, good frames out."""

    def __init__(self, rule: FrameRule, check: Check) -> None:
        self._rule, self._check = rule, check
        self._buffer = bytearray()
        self._last_s = 0.0
        self._is_overlong = False
        self.seen = Seen()

    def feed(self, data: bytes, now_s: float) -> Sequence[bytes]:
        """What became whole, in order.

        Bytes that come after a pause nobody has called `idle` for were late with us, not on the line.
        """
        self._last_s = now_s
        self._buffer += data
        frames = self._whole()
        if len(self._buffer) > self._rule.max_bytes:
            self._overflow()
        return frames

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until `idle` has something to do; None: nothing before more bytes come."""
        if not self._buffer or self._rule.pause_s is None:
            return None
        return max(0.0, self._last_s + self._rule.pause_s - now_s)

    def idle(self, now_s: float) -> Sequence[bytes]:
        """To be called when `wait_s` is over: a frame that silence ends, or nothing."""
        wait_s = self.wait_s(now_s)
        if wait_s is None or wait_s > 0:
            return ()
        frame = bytes(self._buffer)
        was_overlong, self._is_overlong = self._is_overlong, False
        if self._rule.kind != "silence":
            self.seen.bad(frame, f"begun, and not ended within {self._rule.pause_s:g} s")
            frames: list[bytes] = []
            while self._buffer:  # a false length may have swallowed true frames
                self._skip(1 if self._rule.kind == "length" else len(self._buffer))
                frames += self._whole()
            return frames
        self._buffer.clear()
        if was_overlong:
            return ()
        problem = self._refute(frame)
        if problem is not None:
            self.seen.bad(frame, problem)
            self.seen.skipped_bytes += len(frame)
            return ()
        self.seen.frames += 1
        return (frame,)

    def clear(self) -> None:
        """Forget what was begun."""
        self._buffer.clear()
        self._is_overlong = False

    def _next(self) -> bytes | None:
        if self._rule.kind == "silence":
            return None
        return self._delimited() if self._rule.kind == "delimiter" else self._sized()

    def _whole(self) -> list[bytes]:
        frames = []
        while (frame := self._next()) is not None:
            self.seen.frames += 1
            frames.append(frame)
        return frames

    def _delimited(self) -> bytes | None:
        rule, buffer = self._rule, self._buffer
        while (found := buffer.find(rule.end)) >= 0:
            whole = bytes(buffer[: found + len(rule.end)])
            del buffer[: len(whole)]
            if self._is_overlong:  # its beginning is gone
                self._is_overlong = False
                self.seen.skipped_bytes += len(whole)
                continue
            begin = whole.rfind(rule.start) if rule.start else 0
            if begin < 0:
                self.seen.skipped_bytes += len(whole)
                if len(whole) > len(rule.end):
                    self.seen.bad(whole, f"no start mark {rule.start!r}")
                continue
            self.seen.skipped_bytes += begin
            frame = whole[begin:]
            if len(frame) == len(rule.end):
                continue  # an empty line
            problem = f"longer than {rule.max_bytes} bytes" if len(frame) > rule.max_bytes else self._check(frame)
            if problem is None:
                return frame
            self.seen.bad(frame, problem)
            self.seen.skipped_bytes += len(frame)
        return None

    def _sized(self) -> bytes | None:
        rule, buffer = self._rule, self._buffer
        told = False  # a run of false beginnings is one bad frame
        while buffer:
            if rule.start:
                begin = buffer.find(rule.start)
                if begin < 0:
                    keep = next((n for n in range(len(rule.start) - 1, 0, -1) if buffer.endswith(rule.start[:n])), 0)
                    self._skip(len(buffer) - keep)
                    return None
                self._skip(begin)
            size = self._size()
            if size is None:
                return None
            if 0 < size <= rule.max_bytes:
                if len(buffer) < size:
                    return None
                frame = bytes(buffer[:size])
                problem = self._refute(frame)
                if problem is None:
                    del buffer[:size]
                    return frame
            else:
                frame, problem = bytes(buffer[: rule.length_at + rule.length_size]), f"a length of {size} bytes"
            if not told:
                self.seen.bad(frame, problem)
                told = True
            self._skip(1)
        return None

    def _size(self) -> int | None:
        """Of the frame at the head of the buffer; None when its length has not come yet."""
        rule = self._rule
        if rule.kind == "fixed":
            return rule.size
        field = self._buffer[rule.length_at : rule.length_at + rule.length_size]
        if len(field) < rule.length_size:
            return None
        size = int.from_bytes(field, "big" if rule.is_length_big else "little") + rule.length_adds
        return size if size >= rule.length_at + rule.length_size else 0

    def _refute(self, frame: bytes) -> str | None:
        rule = self._rule
        if not frame.startswith(rule.start):
            return f"begins with {frame[: len(rule.start)].hex(' ')}, not with {rule.start.hex(' ')}"
        if not frame.endswith(rule.end):
            return f"ends with {frame[-len(rule.end) :].hex(' ')}, not with {rule.end.hex(' ')}"
        return self._check(frame)

    def _skip(self, count: int) -> None:
        del self._buffer[:count]
        self.seen.skipped_bytes += count

    def _overflow(self) -> None:
        rule, buffer = self._rule, self._buffer
        if not self._is_overlong:
            self.seen.bad(buffer, f"longer than {rule.max_bytes} bytes")
        begin = buffer.rfind(rule.start, 1) if rule.kind == "delimiter" and rule.start else -1
        if begin > 0 and len(buffer) - begin <= rule.max_bytes:
            self._skip(begin)
            return
        # The end of it may be on its way in two halves: enough stays to recognise it.
        self._is_overlong = True
        self._skip(len(buffer) - max(0, len(rule.end) - 1) if rule.kind == "delimiter" else len(buffer) - 1)
