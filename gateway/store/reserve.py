"""Room on the disk that nobody else can take: given up when the disk is full, so that calls and cursor moves go on."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

RESERVE_BYTES: Final = 64 << 20


class Reserve:
    """A file of allocated, unwritten blocks beside the database; it goes when the store is closed."""

    def __init__(self, database: Path, size_bytes: int) -> None:
        self._path, self._size_bytes = Path(f"{database}.reserve"), size_bytes
        self._has_complained = False
        self.is_held = False

    def take(self) -> bool:
        """Hold it, if the disk has room for it and as much again; whether it is held."""
        if not self.is_held:
            try:
                has_room = free_bytes(self._path.parent) + _size(self._path) >= 2 * self._size_bytes
                if has_room:
                    _allocate(self._path, self._size_bytes)
                self.is_held = has_room
            except OSError:
                self._path.unlink(missing_ok=True)
            if not self.is_held and not self._has_complained:
                log.warning(
                    "store: no room on the disk for a reserve of %d bytes; data of devices waits", self._size_bytes
                )
            self._has_complained = not self.is_held
        return self.is_held

    def release(self) -> bool:
        """Give it up; whether there was something to give."""
        was_held, self.is_held = self.is_held, False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        return was_held


def free_bytes(folder: Path) -> int:
    """What a service may still write there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _allocate(path: Path, size_bytes: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
