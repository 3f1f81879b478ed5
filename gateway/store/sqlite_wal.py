"""The write-ahead log as a file: what SQLite would leave out without a word, and how to get it back.

SQLite reads a log up to the first frame whose checksum is wrong and forgets the rest. After a power cut that is
right: the rest was never acknowledged. After damage in the middle, commits behind it were. Format: sqlite.org,
"WAL-mode File Format".
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote

HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
PAGE_BYTES: Final = 4096
"""Of a log whose own header says nothing: what our files have."""
_MAGIC: Final = 0x377F0682  # the lowest bit: checksums of big-endian words
_SALTS: Final = slice(8, 16)
_MX_FRAME_AT: Final = 16  # in the header of the wal-index


def commits_out_of_reach(path: Path) -> int:
    """Commits in the log of this database that SQLite would leave out, seen before the file is opened to write.

    1 may be a power cut: the last commit, torn and never acknowledged. More is damage.

    Raises:
        sqlite3.DatabaseError: The database itself is damaged.
    """
    wal = Path(f"{path}-wal")
    try:
        with wal.open("rb") as file:
            commits = [number for number, is_commit in _frames(file) if is_commit]
    except FileNotFoundError:
        return 0
    if not commits or not path.exists():
        return 0
    with contextlib.closing(open_read_only(path)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        with Path(f"{path}-shm").open("rb") as index:
            readable: int = struct.unpack("=I", os.pread(index.fileno(), 4, _MX_FRAME_AT))[0]
    return sum(number > readable for number in commits)


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that leaves the file and its log as they are, also when it is closed."""
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0, isolation_level=None, check_same_thread=False
    )


def mend(damaged: Path, mended: Path) -> None:
    """A copy of a log without the frames that are damaged, so that SQLite reads those behind them.

    What is left out may make the database inconsistent: for salvage only.
    """
    with damaged.open("rb") as source, mended.open("wb") as target:
        header = source.read(HEADER_BYTES)
        page_bytes, salts, is_big = _shape(source)
        seed = _sums(header[:24], (0, 0), is_big)
        is_sound = struct.unpack(">II", header[24:32]) == seed
        head = struct.pack(">IIII", _MAGIC | is_big, 3_007_000, page_bytes, 0) + salts
        ours = _sums(head, (0, 0), is_big)
        target.write(head + struct.pack(">II", *ours))
        theirs = seed if is_sound else None
        source.seek(HEADER_BYTES)
        while len(frame := source.read(FRAME_HEADER_BYTES + page_bytes)) == FRAME_HEADER_BYTES + page_bytes:
            said = struct.unpack(">II", frame[16:24])
            content = frame[:8] + frame[FRAME_HEADER_BYTES:]
            # The chain runs through the frames: each is checked against what the one before it says of itself.
            if frame[_SALTS] == salts and (theirs is None or _sums(content, theirs, is_big) == said):
                ours = _sums(content, ours, is_big)
                target.write(frame[:16] + struct.pack(">II", *ours) + frame[FRAME_HEADER_BYTES:])
            theirs = said
        target.flush()
        os.fsync(target.fileno())


def _shape(file: BinaryIO) -> tuple[int, bytes, bool]:
    """Page size, salts, big-endian: of the header; when that is damaged, of the first frame and of this machine."""
    file.seek(0)
    header = file.read(HEADER_BYTES + FRAME_HEADER_BYTES)
    magic, _, page_bytes = struct.unpack(">III", header[:12])
    if magic | 1 == _MAGIC | 1 and struct.unpack(">II", header[24:32]) == _sums(header[:24], (0, 0), bool(magic & 1)):
        return page_bytes, header[16:24], bool(magic & 1)
    return PAGE_BYTES, header[HEADER_BYTES:][_SALTS], sys.byteorder == "big"


def _frames(file: BinaryIO) -> Iterator[tuple[int, bool]]:
    """(number from 1, is the last of a commit) of each frame that belongs to this log; contents are not read."""
    size_bytes = file.seek(0, os.SEEK_END)
    if size_bytes < HEADER_BYTES + FRAME_HEADER_BYTES:
        return
    page_bytes, salts, _ = _shape(file)
    frame_bytes = FRAME_HEADER_BYTES + page_bytes
    for number in range(1, (size_bytes - HEADER_BYTES) // frame_bytes + 1):
        head = os.pread(file.fileno(), 16, HEADER_BYTES + (number - 1) * frame_bytes)
        if head[_SALTS] == salts:
            yield number, head[4:8] != b"\0\0\0\0"


def _sums(data: bytes, seed: tuple[int, int], is_big: bool) -> tuple[int, int]:
    words = array("I", data)
    if is_big != (sys.byteorder == "big"):
        words.byteswap()
    first, second = seed
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & 0xFFFFFFFF
        second = (second + words[index + 1] + first) & 0xFFFFFFFF
    return first, second
