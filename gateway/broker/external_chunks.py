"""Firmware and software behind a foreign broker, chunk by chunk, each when the broker has the one before it.

There is no connection that a download could belong to: it belongs to the device and its request id, is bound to the
package of the moment by a request for chunk 0 (or by the first one), and is forgotten when nobody asks for a while.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from gateway.broker.ota import MAX_CHUNK_BYTES
from gateway.domain.entity import Device
from gateway.domain.ota import OtaStatus, PackageKind, PackageUnavailable
from gateway.domain.payloads import PayloadError
from gateway.errors import RejectedError, TransientError
from gateway.ports import Clock, PackageFile, Packages
from gateway.supervise import Counters

MAX_WAITING: Final = 16
"""Requests of one device that wait for their chunk."""
MAX_DEVICES: Final = 1_000
"""Devices with requests that wait."""
MAX_OPEN: Final = 64
"""Downloads that are remembered; one more takes the place of that used longest ago."""
IDLE_S: Final = 600.0

_REST: Final = re.compile(r"(fw|sw)/request/([0-9]{1,20})/chunk/([0-9]{1,10})")
_SIZE: Final = re.compile(rb"[+-]?[0-9]{1,10}")


@dataclass(slots=True)
class _Download:
    file: PackageFile
    used_s: float
    size: int = 0  # of its chunks, as asked for last


@dataclass(frozen=True, slots=True)
class Request:
    """`base` is the device's own part of the topics, with the slash at its end."""

    base: str
    kind: PackageKind
    rid: str
    number: int
    size: int


def read_request(base: str, rest: str, payload: bytes) -> Request | None:
    """`rest` is the topic behind `base`; None: it is no such topic.

    Raises:
        PayloadError: The payload is not a number of bytes.
    """
    found = _REST.fullmatch(rest)
    if found is None:
        return None
    if payload and _SIZE.fullmatch(payload) is None:
        raise PayloadError("the payload is the size of a chunk in decimal digits, or empty")
    return Request(base, PackageKind(found[1]), found[2], int(found[3]), max(0, int(payload or b"0")))


class ExternalChunks:
    """The downloads of all devices behind one broker; devices take turns."""

    def __init__(
        self,
        packages: Packages,
        publish: Callable[[str, bytes], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        problem: Callable[[str, str, str], None],
        clock: Clock,
        counters: Counters,
    ) -> None:
        """`publish` is done when the broker has it; `problem` gets a counter, a topic and a reason."""
        self._packages, self._publish, self._spawn, self._problem = packages, publish, spawn, problem
        self._clock, self._counters = clock, counters
        self._waiting: OrderedDict[str, deque[tuple[Device, Request]]] = OrderedDict()
        self._open: OrderedDict[tuple[str, PackageKind, str], _Download] = OrderedDict()
        self._is_running = self._is_closed = False

    def ask(self, device: Device, request: Request) -> None:
        """The chunk follows. RejectedError: too many requests wait."""
        waiting = self._waiting.get(request.base)
        if waiting is None:
            if len(self._waiting) >= MAX_DEVICES:
                raise RejectedError(f"{MAX_DEVICES} devices wait for chunks; ask again later")
            waiting = self._waiting[request.base] = deque()
        if len(waiting) >= MAX_WAITING:
            raise RejectedError(f"{MAX_WAITING} requests for chunks wait; ask for the next one when one has come")
        waiting.append((device, request))
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run(), "external broker: chunks")

    def look_around(self) -> None:
        """Now and then: files that nobody has asked for in a while."""
        until_s = self._clock.monotonic_s() - IDLE_S
        while self._open and next(iter(self._open.values())).used_s < until_s:
            self._open.popitem(last=False)[1].file.release()

    def close(self) -> None:
        """Nobody is heard any more."""
        self._is_closed = True
        self._waiting.clear()
        while self._open:
            self._open.popitem()[1].file.release()

    async def _run(self) -> None:
        try:
            while self._waiting:
                base, waiting = self._waiting.popitem(last=False)
                device, request = waiting.popleft()
                if waiting:
                    self._waiting[base] = waiting  # behind the others
                await self._serve(device, request)
        finally:
            self._is_running = False

    async def _serve(self, device: Device, request: Request) -> None:
        topic = f"{request.base}{request.kind}/response/{request.rid}/chunk/{request.number}"
        try:
            try:
                chunk = await self._read(device, request)
            except RejectedError as error:
                status = error.status if isinstance(error, PackageUnavailable) else OtaStatus.FAILURE
                self._problem("external.package_errors", topic, str(error))
                await self._publish(f"{request.base}{request.kind}/error", status.encode())
                return
            await self._publish(topic, chunk)
            self._counters.add("external.package_chunks")
        except (RejectedError, TransientError) as error:
            self._problem("external.package_errors", topic, str(error))

    async def _read(self, device: Device, request: Request) -> bytes:
        if request.size > MAX_CHUNK_BYTES:
            raise _too_large(request.size)
        download = await self._download(device, request)
        download.size = request.size or download.size
        offset, size = request.number * download.size, download.size
        if not size:
            offset, size = 0, download.file.size_bytes
            if size > MAX_CHUNK_BYTES:
                raise _too_large(size)
        return await download.file.read(offset, size)

    async def _download(self, device: Device, request: Request) -> _Download:
        place = (request.base, request.kind, request.rid)
        download = self._open.get(place)
        if download is None or request.number == 0:
            _, file = await self._packages.open(device, request.kind)
            if self._is_closed:
                file.release()
                raise RejectedError("the connection to the broker has ended")
            older = self._open.pop(place, None)
            if older is not None:
                older.file.release()
            download = self._open[place] = _Download(file, 0.0, older.size if older is not None else 0)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].file.release()
        download.used_s = self._clock.monotonic_s()
        self._open.move_to_end(place)
        return download


def _too_large(size: int) -> PackageUnavailable:
    text = f"{size} bytes in one message; {MAX_CHUNK_BYTES} is the most, so ask for chunks"
    return PackageUnavailable(OtaStatus.PAYLOAD_TOO_LARGE, text)
