"""RTU: unit, PDU, CRC. Frames are told apart by their length, which the function gives, and by the CRC. Pure.

Silence, which the standard counts on, is not to be had behind a USB adapter or a device server: they cut frames where
they like. Source: Modbus over Serial Line V1.02 §2.5.1, CRC in its appendix B.
"""

from __future__ import annotations

from typing import Final

from drivers.modbus.protocol.framing import Expected
from drivers.modbus.protocol.pdu import ERROR_BIT

MAX_FRAME: Final = 256

_COUNTED: Final = frozenset({1, 2, 3, 4, 23})  # the third byte says how many follow
_SIZES: Final = {5: 8, 6: 8, 15: 8, 16: 8, 22: 10}


def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
        found.append(value)
    return tuple(found)


_TABLE: Final = _table()


def crc(data: bytes) -> int:
    """CRC-16/MODBUS; 0 over a frame that ends with its own."""
    value, table = 0xFFFF, _TABLE
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value


class RtuFramer:
    """Implements `LineFramer` for the master's side: what it finds are answers."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.skipped_bytes, self.tail_bytes = 0, 2

    def encode(self, unit: int, pdu: bytes) -> bytes:
        """A frame for the line."""
        frame = bytes([unit]) + pdu
        return frame + crc(frame).to_bytes(2, "little")

    def clear(self) -> None:
        """The line was silent: what is incomplete stays so."""
        self.skipped_bytes += len(self._buffer)
        self._buffer.clear()

    def feed(self, data: bytes, expected: Expected | None = None) -> list[tuple[int, bytes]]:
        """Unit and PDU of each answer that is complete now, in order."""
        buffer = self._buffer
        buffer += data
        if expected is not None and expected.question.is_open and not _is_answer(expected.question.function):
            return self._to_the_end(expected)
        frames: list[tuple[int, bytes]] = []
        start, end = 0, len(buffer)
        while start < end:
            size = _size(buffer, start, end)
            if start + size > end:
                if expected is not None and (found := self._find(expected, start + 1, end)):
                    behind, frame = found
                    self.skipped_bytes += behind - start - len(frame)
                    frames.append((frame[0], frame[1:-2]))
                    start = behind
                    continue
                break
            if size and not crc(frame := bytes(buffer[start : start + size])):
                frames.append((frame[0], frame[1:-2]))
                start += size
            else:
                self.skipped_bytes += 1
                start += 1
        del buffer[:start]
        return frames

    def _to_the_end(self, expected: Expected) -> list[tuple[int, bytes]]:
        """An answer whose length nobody knows: from its unit and function up to the newest byte, when the CRC agrees.

        It stays in the buffer: what comes before the line is silent belongs to it.
        """
        function = expected.question.function
        for head in (bytes([expected.unit, function]), bytes([expected.unit, function | ERROR_BIT])):
            place = self._buffer.find(head)
            while 0 <= place <= len(self._buffer) - 4:
                frame = bytes(self._buffer[place : place + MAX_FRAME])
                if place + len(frame) == len(self._buffer) and not crc(frame):
                    return [(frame[0], frame[1:-2])]
                place = self._buffer.find(head, place + 1)
        return []

    def _find(self, expected: Expected, start: int, end: int) -> tuple[int, bytes] | None:
        """The expected answer, or its refusal, anywhere in the buffer: the index behind it, and the frame."""
        unit, question = expected.unit, expected.question
        refused = bytes([unit, question.function | ERROR_BIT])
        for head, size in ((bytes([unit]) + question.head, question.size + 3), (refused, 5)):
            place = self._buffer.find(head, start)
            while 0 <= place <= end - size:
                frame = bytes(self._buffer[place : place + size])
                if not crc(frame):
                    return place + size, frame
                place = self._buffer.find(head, place + 1)
        return None


def _size(buffer: bytearray, start: int, end: int) -> int:
    """Bytes of the answer that may begin here; 0 when none can."""
    if end - start < 3:
        return 5 if end - start < 2 or _is_answer(buffer[start + 1]) else 0
    function = buffer[start + 1]
    if function in _COUNTED:
        size = buffer[start + 2] + 5
        return size if 5 < size <= MAX_FRAME else 0
    return 5 if function & ERROR_BIT and _is_answer(function) else _SIZES.get(function, 0)


def _is_answer(function: int) -> bool:
    plain = function & ~ERROR_BIT
    return plain in _COUNTED or plain in _SIZES
