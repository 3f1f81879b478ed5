"""Proves frames by their checksum and cuts off what is not content. Pure."""

from __future__ import annotations

from drivers.serial.checksums import CRCS, NAMES, SIMPLE, Crc, crc
from drivers.serial.config import Checksum, Frame
from drivers.serial.frames import FrameRule
from drivers.serial.notation import to_bytes


def frame_rule(frame: Frame) -> FrameRule:
    """As the configuration says it."""
    return FrameRule(
        kind=frame.kind,
        start=to_bytes(frame.start),
        end=frame.end_mark,
        size=frame.size or 0,
        length_at=frame.length_at or 0,
        length_size=frame.length_size,
        is_length_big=frame.length_order == "big",
        length_adds=frame.length_adds,
        pause_s=frame.pause_s,
        max_bytes=frame.max_bytes,
    )


class Proof:
    """The checksum of one line, or none."""

    def __init__(self, frame: Frame, checksum: Checksum | None) -> None:
        self._cut = len(frame.end_mark) if frame.kind == "delimiter" else 0
        self._frame, self._checksum = frame, checksum
        self._after = to_bytes(checksum.after) if checksum is not None and checksum.after is not None else b""
        self._crc: Crc | None = None
        if checksum is not None and checksum.kind not in SIMPLE:
            if checksum.poly is None:
                self._crc = CRCS[checksum.kind]
            else:
                self._crc = Crc(
                    checksum.size * 8,
                    checksum.poly,
                    checksum.init,
                    checksum.refin,
                    checksum.refout,
                    checksum.xorout,
                )

    def problem(self, frame: bytes) -> str | None:
        """What is wrong with a frame as it came; None: nothing."""
        checksum = self._checksum
        if checksum is None:
            return None
        content = self._content(frame)
        at = self._place(content)
        if at is None or at < checksum.begin:
            return "no checksum in it"
        found = content[at : at + checksum.width]
        wanted = self._written(content[checksum.begin : at - len(self._after)])
        if found.upper() == wanted if checksum.form == "hex" else found == wanted:
            return None
        if checksum.form == "hex":
            return f"its checksum is {found.decode('ascii', 'replace')!r}, not {wanted.decode()!r}"
        return f"its checksum is {found.hex(' ').upper() or 'missing'}, not {wanted.hex(' ').upper()}"

    def others(self, frame: bytes) -> list[str]:
        """How the checksum of a frame that is refuted would have to be set for it to be good, all else as it is."""
        checksum = self._checksum
        if checksum is None or self.problem(frame) is None:
            return []
        found = []
        for kind in NAMES:
            for order in ("big", "little"):
                other = checksum.model_copy(update={"kind": kind, "order": order, "poly": None})
                if other.size != checksum.size or (other.size == 1 and order == "little"):
                    continue
                if Proof(self._frame, other).problem(frame) is None:
                    found.append(f"{{kind: {kind}{f', order: {order}' if other.size > 1 else ''}}}")
        return found

    def body(self, frame: bytes) -> bytes:
        """What fields are looked for in: without an end mark of a text, without a checksum that stands at the end."""
        content = self._content(frame)
        if self._checksum is None:
            return content
        at = self._place(content)
        if at is None or at + self._checksum.width != len(content):
            return content
        return content[: at - len(self._after)]

    def sent(self, before: bytes) -> bytes:
        """The checksum behind what is sent: it covers from `begin` up to there, without its mark."""
        checksum = self._checksum
        if checksum is None:
            return b""
        covered = before.removesuffix(self._after) if self._after else before
        return self._written(covered[checksum.begin :])

    def _content(self, frame: bytes) -> bytes:
        return frame[: -self._cut] if self._cut else frame

    def _place(self, content: bytes) -> int | None:
        checksum = self._checksum
        if checksum is None:
            return None
        if self._after:
            found = content.rfind(self._after)
            return None if found < 0 else found + len(self._after)
        at = -checksum.width if checksum.at is None else checksum.at
        if at < 0:
            at += len(content)
        return at if at >= 0 and at + checksum.width <= len(content) else None

    def _written(self, covered: bytes) -> bytes:
        checksum = self._checksum
        if checksum is None:
            return b""
        value = SIMPLE[checksum.kind][1](covered) if self._crc is None else crc(covered, self._crc)
        raw = value.to_bytes(checksum.size, checksum.order)
        return raw.hex().upper().encode() if checksum.form == "hex" else raw
