"""The files of OTA packages: each is kept once, in `data_dir/ota`, and read by offset, never as a whole.

A file that is replaced or deleted while devices read it stays readable for those: they hold the old one open. A file
whose content changed behind our back (a damaged card, a copy over it) is not served: size and time of change are
looked at with each chunk, the checksum once after a start.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, TypeVar

from gateway.domain.checksum import new_checksum
from gateway.errors import RejectedError
from gateway.store.worker import Worker

log = logging.getLogger(__name__)

T = TypeVar("T")

BLOCK_BYTES: Final = 65_536
_BASE64_BLOCK: Final = 4 * 16_384
_PART: Final = ".part"

_Stamp = tuple[int, int, int]  # inode, size, time of change


class OpenFile:
    """One file, open for all who read it now. Implements `PackageFile`."""

    def __init__(self, fd: int, stamp: _Stamp, reader: Worker, gone: Callable[[OpenFile], None]) -> None:
        self._fd, self.stamp, self._reader, self._gone = fd, stamp, reader, gone
        self.holders = 1

    @property
    def size_bytes(self) -> int:
        """The whole file."""
        return self.stamp[1]

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """So many bytes, fewer at the end, none behind it.

        Raises:
            RejectedError: The disk does not give them, or the file is not what it was when it was checked.
        """
        self.holders += 1  # a close in the meantime must not take the descriptor away from the thread
        try:
            return await self._reader.call(lambda: self._read(offset, size_bytes))
        finally:
            self.release()

    def _read(self, offset: int, size_bytes: int) -> bytes:
        if offset >= self.size_bytes:
            return b""
        try:
            found = os.fstat(self._fd)
            if (found.st_size, found.st_mtime_ns) != self.stamp[1:]:
                raise RejectedError("the file was changed while it was being served")
            return os.pread(self._fd, min(size_bytes, self.size_bytes - offset), offset)
        except OSError as error:
            raise RejectedError(f"cannot be read: {error.strerror}") from error

    def release(self) -> None:
        """Call once for each `open`."""
        self.holders -= 1
        if self.holders == 0:
            os.close(self._fd)
            self._gone(self)


class PackageFiles:
    """Implements `PackageFolder`. One thread writes and checks, another one reads for the devices."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self.max_bytes = folder, max_bytes
        self._writer, self._reader = Worker("ota files"), Worker("ota chunks")
        self._open: dict[Path, OpenFile] = {}
        self._checked: dict[tuple[Path, str, str], _Stamp] = {}
        self.used_bytes = sum(_size(path) for path in self._files())

    async def close(self) -> None:
        """What was asked for is finished first."""
        await self._writer.close()
        await self._reader.close()

    def _files(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from (path for path in self._folder.iterdir() if path.is_file())

    def path_of(self, key: str) -> Path:
        """Where a package is, or would be."""
        return self._folder / key

    async def save(self, key: str, base64_text: str, algorithm: str, checksum: str, size_bytes: int) -> None:
        """Durable and verified when it returns; what was there under this key is replaced, or left on an error.

        Raises:
            RejectedError: Not Base64, not of this size or checksum, no room for it: the text says which.
        """
        path = self.path_of(key)
        stamp = await self._writer.call(lambda: self._save(path, base64_text, algorithm, checksum, size_bytes))
        self._checked = {known: value for known, value in self._checked.items() if known[0] != path}
        self._checked[path, algorithm, checksum] = stamp
        self._open.pop(path, None)  # who holds the old one goes on with it
        self._count_again()

    def _save(self, path: Path, text: str, algorithm: str, checksum: str, size_bytes: int) -> _Stamp:
        others = sum(_size(each) for each in self._files() if each != path and each.suffix != _PART)
        if others + len(text) * 3 // 4 > self.max_bytes:
            raise RejectedError(
                f"{len(text) * 3 // 4} bytes do not fit: {others} of {self.max_bytes} are used;"
                " delete packages or raise ota.max_bytes"
            )
        digest, part = new_checksum(algorithm), path.with_suffix(_PART)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                for start in range(0, len(text), _BASE64_BLOCK):
                    block = binascii.a2b_base64(text[start : start + _BASE64_BLOCK], strict_mode=True)
                    digest.update(block)
                    file.write(block)
                file.flush()
                if file.tell() != size_bytes:
                    raise RejectedError(f"has {file.tell()} bytes and says dataSize {size_bytes}")
                _compare(digest.hexdigest(), checksum, algorithm)
                os.fsync(file.fileno())
            os.replace(part, path)
            _sync_folder(self._folder)
            return _stamp(os.stat(path))
        except (binascii.Error, ValueError) as error:
            raise RejectedError(f"its data is not Base64: {error}") from None
        except OSError as error:
            raise RejectedError(f"cannot be written to {self._folder}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    async def open(self, path: Path, algorithm: str, checksum: str) -> OpenFile:
        """To read from; checked against the checksum when that was not done since it was written or the start.

        Raises:
            RejectedError: It is not there, or is not what the checksum says.
        """
        shared = self._open.get(path)
        stamp = self._checked.get((path, algorithm, checksum))
        if shared is not None and stamp == shared.stamp:
            now = await self._reader.call(lambda: _stamp_of(path))
            if now == stamp and shared.holders:
                shared.holders += 1
                return shared
        opening = self._writer.call(lambda: _opened(path, algorithm, checksum, stamp))
        try:
            fd, found = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unused)
            raise
        self._checked[path, algorithm, checksum] = found
        file = self._open[path] = OpenFile(fd, found, self._reader, self._closed)
        return file

    def _closed(self, file: OpenFile) -> None:
        for path, other in list(self._open.items()):
            if other is file:
                del self._open[path]

    async def measure(self, path: Path, algorithm: str) -> tuple[int, str]:
        """Size and checksum of a file that came without one.

        Raises:
            RejectedError: It cannot be read.
        """
        return await self._writer.call(lambda: _measured(path, algorithm))

    async def delete(self, key: str) -> None:
        """Unknown is no error; who reads it reads on."""
        await self._writer.call(lambda: _remove(self.path_of(key)))
        self._open.pop(self.path_of(key), None)
        self._count_again()

    async def keep_only(self, keys: Collection[str]) -> None:
        """What else lies in the folder is from a write that was cut off, or of a package that is gone."""
        for path in [path for path in self._files() if path.name not in keys]:
            await self._writer.call(lambda path=path: _remove(path))  # type: ignore[misc]
        self._count_again()

    def _count_again(self) -> None:
        self.used_bytes = sum(_size(path) for path in self._files())


def _opened(path: Path, algorithm: str, checksum: str, known: _Stamp | None) -> tuple[int, _Stamp]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RejectedError(f"{path} cannot be read: {error.strerror}") from error
    try:
        stamp = _stamp(os.fstat(fd))
        if stamp != known:
            _compare(_digest(fd, algorithm), checksum, algorithm)
    except OSError as error:
        os.close(fd)
        raise RejectedError(f"{path} cannot be read: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return fd, stamp


def _close_unused(opening: asyncio.Future[tuple[int, _Stamp]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result()[0])


def _measured(path: Path, algorithm: str) -> tuple[int, str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.fstat(fd).st_size, _digest(fd, algorithm)
        finally:
            os.close(fd)
    except OSError as error:
        raise RejectedError(f"{path} cannot be read: {error.strerror}") from error


def _digest(fd: int, algorithm: str) -> str:
    digest, offset = new_checksum(algorithm), 0
    while block := os.pread(fd, BLOCK_BYTES, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()


def _compare(found: str, wanted: str, algorithm: str) -> None:
    if found != wanted:
        raise RejectedError(f"its {algorithm} is {found} and should be {wanted or 'given'}")


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("ota: %s cannot be deleted: %s", path, error.strerror)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
