"""MBAP: the frames of Modbus TCP, TLS and UDP. Pure.

Source: Modbus Messaging on TCP/IP Implementation Guide V1.0b §3.1.3.
"""

from __future__ import annotations

import struct
from typing import Final

from drivers.modbus.protocol.framing import FrameError
from drivers.modbus.protocol.pdu import MAX_PDU

_HEADER: Final = struct.Struct(">HHHB")


def encode(transaction: int, unit: int, pdu: bytes) -> bytes:
    """One frame."""
    return _HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu


class TcpFramer:
    """Bytes of one connection → frames."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_partial(self) -> bool:
        """A frame has begun."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Transaction, unit and PDU of each complete frame.

        Raises:
            FrameError: Not Modbus, or no longer in step.
        """
        data = self._rest + data if self._rest else data
        frames: list[tuple[int, int, bytes]] = []
        start, end = 0, len(data)
        while end - start >= 7:
            transaction, protocol, length, unit = _HEADER.unpack_from(data, start)
            if protocol or not 2 <= length <= MAX_PDU + 1:
                raise FrameError(f"no Modbus TCP header: {data[start : start + 8].hex(' ')}")
            behind = start + 6 + length
            if behind > end:
                break
            frames.append((transaction, unit, data[start + 7 : behind]))
            start = behind
        self._rest = data[start:]
        return frames
