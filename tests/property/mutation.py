"""Damages recorded bytes the way that finds faults: bits, lengths, pieces moved, repeated, cut and mixed."""

import random
from collections.abc import Sequence
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "vectors/mqtt/corpus"
INTERESTING = (
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"\0\0",
    b"\xff\xff\xff\x7f",
    b"\x80\x80\x80\x80\x01",
    b"\xc3\x28",
)
TOKENS = (
    b'{"ts":', b'"values":', b"null", b"true", b"[", b"]", b"{", b"}", b"1e999", b"-0", b"NaN", b"'", b"/*", b"#", b"=>", b";",
    b"0x", b"\\u0000", b"\\ud800", b"\xef\xbb\xbf", b"9" * 25, b'"clientKeys":', b'"method":', b'"params":', b'"device":',
)  # fmt: skip


def sessions() -> dict[str, list[bytes]]:
    """Bytes of each recorded connection, by the name of its file."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(CORPUS.glob("*.txt")):
        blocks = path.read_text().split("\n\n")
        lines = ["".join(line for line in block.splitlines() if not line.startswith("#")) for block in blocks]
        found[path.stem] = [bytes.fromhex(line) for line in lines if line.strip()]
    return found


def mutated(rng: random.Random, samples: Sequence[bytes], tokens: Sequence[bytes] = INTERESTING) -> bytes:
    """One sample with one to six damages."""
    data = bytearray(rng.choice(samples))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        size = rng.randint(1, 8)
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(tokens)
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size] * rng.randint(1, 40)
            case 5:
                del data[at:]
            case _:
                other = rng.choice(samples)
                start = rng.randrange(len(other) + 1)
                data[at : at + size] = other[start : start + rng.randint(1, 60)]
    return bytes(data)
