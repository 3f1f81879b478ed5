"""Checksums as the cloud prints them. Source of the Murmur vectors: SMHasher's and Guava's own tests (seed 0)."""

import hashlib
import zlib

import pytest

from gateway.domain.checksum import ALGORITHMS, new_checksum
from gateway.errors import RejectedError

FOX = b"The quick brown fox jumps over the lazy dog"
VECTORS = [
    ("MURMUR3_32", b"", "00000000"),
    ("MURMUR3_32", b"abc", "fa93ddb3"),  # 0xb3dd93fa
    ("MURMUR3_32", b"hello", "47fa8b24"),  # 0x248bfa47
    ("MURMUR3_32", FOX, "23f74f2e"),  # 0x2e4ff723
    ("MURMUR3_128", b"", "0" * 32),
    ("MURMUR3_128", b"abc", "6778ad3f3f3f96b4522dca264174a23b"),
    ("MURMUR3_128", b"hello", "029bbd41b3a7d8cb191dae486a901e5b"),
    ("MURMUR3_128", FOX, "6c1b07bc7bbc4be347939ac4a93c437a"),
    ("CRC32", b"123456789", "2639f4cb"),  # 0xcbf43926
    ("MD5", b"abc", "900150983cd24fb0d6963f7d28e17f72"),
    ("SHA256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
]


@pytest.mark.parametrize(("algorithm", "data", "expected"), VECTORS)
def test_published_vectors(algorithm, data, expected):
    digest = new_checksum(algorithm)
    digest.update(data)
    assert digest.hexdigest() == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("step", [1, 3, 7, 16, 33])
def test_the_size_of_the_blocks_changes_nothing(algorithm, step):
    data = bytes(range(256)) + b"the end"
    whole, parts = new_checksum(algorithm), new_checksum(algorithm)
    whole.update(data)
    for start in range(0, len(data), step):
        parts.update(data[start : start + step])
    assert parts.hexdigest() == whole.hexdigest()


def test_the_long_ones_are_those_of_the_standard_library():
    for name in ("SHA384", "SHA512"):
        digest = new_checksum(name)
        digest.update(FOX)
        assert digest.hexdigest() == hashlib.new(name.lower(), FOX).hexdigest()
    crc = new_checksum("CRC32")
    crc.update(FOX)
    assert crc.hexdigest() == zlib.crc32(FOX).to_bytes(4, "little").hex()


def test_an_unknown_algorithm_is_refused_with_the_known_ones():
    with pytest.raises(RejectedError, match="'SHA1'; known are MD5, SHA256"):
        new_checksum("SHA1")
