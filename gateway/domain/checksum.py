"""Checksums of OTA packages, block by block, as lower-case hex in the order in which the cloud writes it.

CRC32 and the two Murmur hashes are written with their lowest byte first: the cloud prints the bytes of a
little-endian number. Source of the Murmur hashes: MurmurHash3 by Austin Appleby (x86 32 bit and x64 128 bit, seed 0).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from gateway.errors import RejectedError

_MASK32: Final = 0xFFFFFFFF
_MASK64: Final = 0xFFFFFFFFFFFFFFFF


class Checksum(Protocol):
    """Fed with blocks; `hexdigest` when all have come."""

    def update(self, block: bytes, /) -> object:
        """The next bytes, of any length."""
        ...

    def hexdigest(self) -> str:
        """Lower-case hex."""
        ...


class Crc32:
    """CRC-32 of ISO 3309."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, block: bytes, /) -> None:
        """The next bytes."""
        self._value = zlib.crc32(block, self._value)

    def hexdigest(self) -> str:
        """Four bytes, lowest first."""
        return self._value.to_bytes(4, "little").hex()


class Murmur3x32:
    """MurmurHash3, x86, 32 bit."""

    def __init__(self) -> None:
        self._hash, self._length, self._rest = 0, 0, b""

    def update(self, block: bytes, /) -> None:
        """The next bytes."""
        self._length += len(block)
        data = self._rest + block
        whole = len(data) & ~3
        h = self._hash
        for (k,) in struct.iter_unpack("<I", data[:whole]):
            k = k * 0xCC9E2D51 & _MASK32
            k = (k << 15 | k >> 17) * 0x1B873593 & _MASK32
            h ^= k
            h = ((h << 13 | h >> 19) & _MASK32) * 5 + 0xE6546B64 & _MASK32
        self._hash, self._rest = h, data[whole:]

    def hexdigest(self) -> str:
        """Four bytes, lowest first."""
        h = self._hash
        if self._rest:
            k = int.from_bytes(self._rest, "little") * 0xCC9E2D51 & _MASK32
            h ^= ((k << 15 | k >> 17) & _MASK32) * 0x1B873593 & _MASK32
        h ^= self._length & _MASK32
        h = (h ^ h >> 16) * 0x85EBCA6B & _MASK32
        h = (h ^ h >> 13) * 0xC2B2AE35 & _MASK32
        return (h ^ h >> 16).to_bytes(4, "little").hex()


_C1: Final = 0x87C37B91114253D5
_C2: Final = 0x4CF5AD432745937F


class Murmur3x128:
    """MurmurHash3, x64, 128 bit."""

    def __init__(self) -> None:
        self._first = self._second = self._length = 0
        self._rest = b""

    def update(self, block: bytes, /) -> None:
        """The next bytes."""
        self._length += len(block)
        data = self._rest + block
        whole = len(data) & ~15
        h1, h2 = self._first, self._second
        for k1, k2 in struct.iter_unpack("<QQ", data[:whole]):
            k1 = k1 * _C1 & _MASK64
            h1 ^= ((k1 << 31 | k1 >> 33) & _MASK64) * _C2 & _MASK64
            h1 = (h1 << 27 | h1 >> 37) & _MASK64
            h1 = (h1 + h2) * 5 + 0x52DCE729 & _MASK64
            k2 = k2 * _C2 & _MASK64
            h2 ^= ((k2 << 33 | k2 >> 31) & _MASK64) * _C1 & _MASK64
            h2 = (h2 << 31 | h2 >> 33) & _MASK64
            h2 = (h2 + h1) * 5 + 0x38495AB5 & _MASK64
        self._first, self._second, self._rest = h1, h2, data[whole:]

    def hexdigest(self) -> str:
        """Sixteen bytes: both halves, each lowest byte first."""
        h1, h2, rest = self._first, self._second, self._rest
        if len(rest) > 8:
            k2 = int.from_bytes(rest[8:], "little") * _C2 & _MASK64
            h2 ^= ((k2 << 33 | k2 >> 31) & _MASK64) * _C1 & _MASK64
        if rest:
            k1 = int.from_bytes(rest[:8], "little") * _C1 & _MASK64
            h1 ^= ((k1 << 31 | k1 >> 33) & _MASK64) * _C2 & _MASK64
        h1 ^= self._length
        h2 ^= self._length
        h1 = h1 + h2 & _MASK64
        h2 = h2 + h1 & _MASK64
        h1, h2 = _mixed(h1), _mixed(h2)
        h1 = h1 + h2 & _MASK64
        h2 = h2 + h1 & _MASK64
        return struct.pack("<QQ", h1, h2).hex()


def _mixed(k: int) -> int:
    k = (k ^ k >> 33) * 0xFF51AFD7ED558CCD & _MASK64
    k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53 & _MASK64
    return k ^ k >> 33


ALGORITHMS: Final[dict[str, Callable[[], Checksum]]] = {
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "SHA256": hashlib.sha256,
    "SHA384": hashlib.sha384,
    "SHA512": hashlib.sha512,
    "CRC32": Crc32,
    "MURMUR3_32": Murmur3x32,
    "MURMUR3_128": Murmur3x128,
}
"""By the names that the cloud uses."""


def new_checksum(algorithm: str) -> Checksum:
    """An empty one.

    Raises:
        RejectedError: There is no such algorithm.
    """
    make = ALGORITHMS.get(algorithm)
    if make is None:
        raise RejectedError(f"unknown checksum algorithm {algorithm!r}; known are {', '.join(ALGORITHMS)}")
    return make()
