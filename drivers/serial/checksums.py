"""Checksums: sums, xor, LRC and CRCs of any parameters. Pure.

CRC parameters and names are those of the catalogue of parametrised CRC algorithms (Rocksoft model): width, poly, init,
refin, refout, xorout; `check` there is the value over the nine characters "123456789".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple


class Crc(NamedTuple):
    """One parametrised CRC. `width` in bits: 8, 16 or 32."""

    width: int
    poly: int
    init: int = 0
    refin: bool = False
    refout: bool = False
    xorout: int = 0


CRCS: Final[dict[str, Crc]] = {
    "crc8/smbus": Crc(8, 0x07),
    "crc8/i-432-1": Crc(8, 0x07, xorout=0x55),
    "crc8/maxim": Crc(8, 0x31, refin=True, refout=True),
    "crc8/nrsc-5": Crc(8, 0x31, init=0xFF),
    "crc8/rohc": Crc(8, 0x07, init=0xFF, refin=True, refout=True),
    "crc16/arc": Crc(16, 0x8005, refin=True, refout=True),
    "crc16/modbus": Crc(16, 0x8005, init=0xFFFF, refin=True, refout=True),
    "crc16/usb": Crc(16, 0x8005, init=0xFFFF, refin=True, refout=True, xorout=0xFFFF),
    "crc16/maxim": Crc(16, 0x8005, refin=True, refout=True, xorout=0xFFFF),
    "crc16/xmodem": Crc(16, 0x1021),
    "crc16/ccitt-false": Crc(16, 0x1021, init=0xFFFF),
    "crc16/kermit": Crc(16, 0x1021, refin=True, refout=True),
    "crc16/x-25": Crc(16, 0x1021, init=0xFFFF, refin=True, refout=True, xorout=0xFFFF),
    "crc16/dnp": Crc(16, 0x3D65, refin=True, refout=True, xorout=0xFFFF),
    "crc32": Crc(32, 0x04C11DB7, init=0xFFFFFFFF, refin=True, refout=True, xorout=0xFFFFFFFF),
    "crc32/bzip2": Crc(32, 0x04C11DB7, init=0xFFFFFFFF, xorout=0xFFFFFFFF),
    "crc32/mpeg-2": Crc(32, 0x04C11DB7, init=0xFFFFFFFF),
    "crc32/iscsi": Crc(32, 0x1EDC6F41, init=0xFFFFFFFF, refin=True, refout=True, xorout=0xFFFFFFFF),
}


def sum8(data: bytes) -> int:
    """All bytes added, the lowest eight bits."""
    return sum(data) & 0xFF


def sum16(data: bytes) -> int:
    """All bytes added, the lowest sixteen bits."""
    return sum(data) & 0xFFFF


def xor8(data: bytes) -> int:
    """All bytes by exclusive or."""
    value = 0
    for byte in data:
        value ^= byte
    return value


def lrc(data: bytes) -> int:
    """What makes the sum of all bytes zero: its two's complement in eight bits."""
    return -sum(data) & 0xFF


SIMPLE: Final[dict[str, tuple[int, Callable[[bytes], int]]]] = {
    "sum8": (1, sum8),
    "sum16": (2, sum16),
    "xor": (1, xor8),
    "lrc": (1, lrc),
}
"""Name to size in bytes and function."""

NAMES: Final = (*SIMPLE, *CRCS)


def crc(data: bytes, model: Crc) -> int:
    """The CRC of `data`."""
    width, table = model.width, _table(model.width, model.poly, model.refin)
    mask = (1 << width) - 1
    if model.refin:
        value = _mirrored(model.init, width)
        for byte in data:
            value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    else:
        value = model.init
        for byte in data:
            value = (value << 8 ^ table[(value >> width - 8) ^ byte]) & mask
    if model.refin != model.refout:
        value = _mirrored(value, width)
    return value ^ model.xorout


@lru_cache(maxsize=64)
def _table(width: int, poly: int, is_mirrored: bool) -> tuple[int, ...]:
    """The effect of each byte value."""
    mask, top = (1 << width) - 1, 1 << width - 1
    mirrored_poly = _mirrored(poly, width)
    entries = []
    for byte in range(256):
        value = byte if is_mirrored else byte << width - 8
        for _ in range(8):
            if is_mirrored:
                value = value >> 1 ^ mirrored_poly if value & 1 else value >> 1
            else:
                value = (value << 1 ^ poly) & mask if value & top else value << 1 & mask
        entries.append(value)
    return tuple(entries)


def _mirrored(value: int, width: int) -> int:
    return int(f"{value:0{width}b}"[::-1], 2)
