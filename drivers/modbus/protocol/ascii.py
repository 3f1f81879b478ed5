"""ASCII: a colon, unit and PDU and LRC as hexadecimal digits, CR LF. Pure.

Source: Modbus over Serial Line V1.02 §2.5.2.
"""

from __future__ import annotations

from typing import Final

from drivers.modbus.protocol.framing import Expected

MAX_FRAME: Final = 513


def lrc(data: bytes) -> int:
    """Two's complement of the sum; the sum over a frame with its own is 0."""
    return -sum(data) & 0xFF


class AsciiFramer:
    """Implements `LineFramer`. A colon always begins anew, so nothing that looks like a frame hides another."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.skipped_bytes, self.tail_bytes = 0, 4

    def encode(self, unit: int, pdu: bytes) -> bytes:
        """A frame for the line."""
        frame = bytes([unit]) + pdu
        return b":" + (frame + bytes([lrc(frame)])).hex().upper().encode() + b"\r\n"

    def clear(self) -> None:
        """The line was silent: what is incomplete stays so."""
        self.skipped_bytes += len(self._buffer)
        self._buffer.clear()

    def feed(self, data: bytes, expected: Expected | None = None) -> list[tuple[int, bytes]]:
        """Unit and PDU of each answer that is complete now, in order."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        colon = rest.rfind(b":")
        kept = rest[colon:] if colon >= 0 else bytearray()
        self.skipped_bytes += len(rest) - len(kept)
        frames: list[tuple[int, bytes]] = []
        for line in lines:
            frame = _frame(line)
            if frame is None:
                self.skipped_bytes += len(line) + 1
            else:
                frames.append((frame[0], frame[1:-1]))
        if len(kept) > MAX_FRAME:
            self.skipped_bytes += len(kept)
            kept = bytearray()
        self._buffer = kept
        return frames


def _frame(line: bytearray) -> bytes | None:
    colon = line.rfind(b":")
    if colon < 0 or not line.endswith(b"\r"):
        return None
    digits = bytes(line[colon + 1 : -1])
    if not digits.isalnum():  # fromhex would overlook spaces
        return None
    try:
        frame = bytes.fromhex(digits.decode())
    except ValueError:
        return None
    return frame if 4 <= len(frame) <= MAX_FRAME // 2 and not sum(frame) & 0xFF else None
