"""The slave's half: is this a request, and where does one end. Pure.

Source: Modbus Application Protocol V1.1b3 §6 and §7 (which exception for what), Modbus over Serial Line V1.02 §2.5.1.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from drivers.modbus.protocol.pdu import Function, Request, parse
from drivers.modbus.protocol.rtu import MAX_FRAME, crc
from gateway.errors import RejectedError


class Code(IntEnum):
    """Exception codes that we answer with."""

    ILLEGAL_FUNCTION = 1
    ILLEGAL_ADDRESS = 2
    ILLEGAL_VALUE = 3
    DEVICE_FAILURE = 4
    BUSY = 6
    NO_PATH = 10
    NO_ANSWER = 11


WRITES: Final = frozenset(
    {
        Function.WRITE_COIL,
        Function.WRITE_REGISTER,
        Function.WRITE_COILS,
        Function.WRITE_REGISTERS,
        Function.MASK_REGISTER,
        Function.READ_WRITE_REGISTERS,
    }
)

_KNOWN: Final = frozenset(int(function) for function in Function)
_SIZED: Final = {15: 6, 16: 6, 23: 10}  # where the byte count stands, unit included


def understand(pdu: bytes) -> Request | Code:
    """A request, or the exception it deserves: 1 unknown function, 2 behind the last address, 3 anything else."""
    if not pdu or pdu[0] not in _KNOWN:
        return Code.ILLEGAL_FUNCTION
    try:
        return parse(pdu)
    except RejectedError:
        pass
    # With address 0 instead, would it be right? Then it was the address.
    moved = bytearray(pdu)
    moved[1:3] = b"\0\0"
    if pdu[0] == Function.READ_WRITE_REGISTERS:
        moved[5:7] = b"\0\0"
    try:
        parse(bytes(moved))
    except RejectedError:
        return Code.ILLEGAL_VALUE
    return Code.ILLEGAL_ADDRESS


class RtuRequests:
    """Bytes of a line → requests, which the CRC tells from everything else that is said on it.

    A line carries the answers of its other slaves too: they are skipped like noise. The buffer is bounded by the
    longest frame.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.skipped_bytes = 0

    @property
    def is_partial(self) -> bool:
        """Something waits for its rest."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Unit and PDU of each request that is complete now, in order."""
        self._buffer += data
        return self._take(is_over=False)

    def end(self) -> list[tuple[int, bytes]]:
        """The line is silent: nothing of what is incomplete will be completed; what stands behind it may be whole."""
        return self._take(is_over=True)

    def _take(self, *, is_over: bool) -> list[tuple[int, bytes]]:
        buffer = self._buffer
        frames: list[tuple[int, bytes]] = []
        start, end = 0, len(buffer)
        while start < end:
            size = _size(buffer, start, end)
            if start + size > end and not is_over:
                break
            if size and start + size <= end and not crc(frame := bytes(buffer[start : start + size])):
                frames.append((frame[0], frame[1:-2]))
                start += size
            else:
                self.skipped_bytes += 1
                start += 1
        del buffer[:start]
        return frames


def _size(buffer: bytearray, start: int, end: int) -> int:
    """Bytes of the request that may begin here; 0 when none can. While too few are there to tell: one more."""
    if end - start < 2:
        return 2
    function = buffer[start + 1]
    if function & 0x80 or not function:
        return 0
    place = _SIZED.get(function)
    if place is None:
        # Functions that we do not know are asked too, and are to be refused: most of them are as short as that.
        return 10 if function == Function.MASK_REGISTER else 8 if function in _KNOWN else 4
    if end - start <= place:
        return place + 1
    size = place + 1 + buffer[start + place] + 2
    return size if size <= MAX_FRAME else 0
