"""Firmware and software in chunks: `v2/fw/request/{rid}/chunk/{n}` is answered on `v2/fw/response/{rid}/chunk/{n}`.

One connection reads one chunk at a time, and the next one only while the device takes what was sent: a slow reader
holds its own chunk and nothing else. A whole file in one message leaves in parts, and is never in memory as a whole.

Source: ThingsBoard 4.3 device API: OTA chunk protocol, errors included.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.broker.desk import Desk
from gateway.broker.outbox import Outbox
from gateway.broker.packets import Publish
from gateway.domain.entity import Device
from gateway.domain.ota import OtaStatus, PackageKind, PackageUnavailable
from gateway.domain.payloads import PayloadError
from gateway.errors import RejectedError
from gateway.ports import PackageFile, Receipt

MAX_CHUNK_BYTES: Final = 65_536
MAX_WHOLE_BYTES: Final = 268_000_000
"""What fits into one MQTT packet."""

PART_BYTES: Final = 65_536
MAX_DOWNLOADS: Final = 4
"""Request ids of one connection whose package is remembered; one more takes the place of that used longest ago."""

_TOPIC: Final = re.compile(r"(fw|sw)/request/([0-9]{1,20})/chunk/([0-9]{1,10})")
_SIZE: Final = re.compile(rb"[+-]?[0-9]{1,10}")
_ERROR_TOPIC: Final = "v2/fw/error"
"""Of firmware and of software."""


@dataclass(slots=True)
class _Download:
    """The file that a request id is bound to, and the chunk size used last."""

    file: PackageFile
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    topic: str
    kind: PackageKind
    rid: str
    number: int
    size: int
    receipt: Receipt


class PackageChunks:
    """The downloads of one connection."""

    def __init__(
        self,
        desk: Desk,
        device: Callable[[], Device],
        outbox: Outbox,
        granted: Mapping[str, int],
        answer: Callable[[Publish, Receipt], None],
        stream: Callable[[bytes, bool], None],
        close: Callable[[int], None],
    ) -> None:
        """`answer` acknowledges a publish when its receipt is done; `stream` sends a part of a packet, True: more of
        it follows.
        """
        self._desk, self._device, self._outbox, self._granted = desk, device, outbox, granted
        self._answer, self._stream, self._close = answer, stream, close
        self._requests: deque[_Request] = deque()
        self._downloads: OrderedDict[tuple[PackageKind, str], _Download] = OrderedDict()
        self._most = 2 * desk.config.max_inflight
        self._is_running = self._is_closed = False
        self._may_write = asyncio.Event()
        self._may_write.set()

    def request(self, packet: Publish, text: str) -> bool:
        """One publish; `text` is its topic behind `v2/`. False: this is no topic of ours.

        Raises:
            PayloadError: The payload is not a number of bytes.
            RejectedError: Too many requests wait for their chunk.
        """
        found = _TOPIC.fullmatch(text)
        if found is None or self._desk.packages is None:
            return False
        if packet.payload and _SIZE.fullmatch(packet.payload) is None:
            raise PayloadError("the payload is the size of a chunk in decimal digits, or empty", is_fatal=True)
        if len(self._requests) >= self._most:
            raise RejectedError(f"{self._most} requests for chunks wait; ask for the next one when one has come")
        receipt: Receipt = asyncio.get_running_loop().create_future()
        self._answer(packet, receipt)
        kind, rid, number = PackageKind(found[1]), found[2], int(found[3])
        size = max(0, int(packet.payload or b"0"))
        self._requests.append(_Request(packet.topic, kind, rid, number, size, receipt))
        if not self._is_running:
            self._is_running = True
            self._desk.spawn(self._run(), f"chunks for {self._device().id}")
        return True

    def pause(self) -> None:
        """The device does not read."""
        self._may_write.clear()

    def resume(self) -> None:
        """It reads again."""
        self._may_write.set()

    def close(self) -> None:
        """The connection is gone."""
        self._is_closed = True
        self._may_write.set()
        self._requests.clear()
        while self._downloads:
            self._downloads.popitem()[1].file.release()

    async def _run(self) -> None:
        try:
            while self._requests:
                await self._may_write.wait()
                if self._requests:
                    await self._serve(self._requests.popleft())
        finally:
            self._is_running = False

    async def _serve(self, request: _Request) -> None:
        try:
            if request.size > MAX_CHUNK_BYTES:
                text = f"a chunk of {request.size} bytes was asked for; {MAX_CHUNK_BYTES} is the most"
                raise PackageUnavailable(OtaStatus.PAYLOAD_TOO_LARGE, text)
            download = await self._download(request)
            size = download.size = request.size or download.size
            file = download.file
            if size == 0 and file.size_bytes > PART_BYTES:
                await self._send_whole(request, file)
            else:
                offset, size = (request.number * size, size) if size else (0, file.size_bytes)
                self._send(request, await file.read(offset, size))
        except RejectedError as error:
            self._fail(request, error)

    async def _download(self, request: _Request) -> _Download:
        """The first request of an id binds it to the package of this moment."""
        place = (request.kind, request.rid)
        download = self._downloads.get(place)
        if download is None:
            assert self._desk.packages is not None  # looked at with the request
            _, file = await self._desk.packages.open(self._device(), request.kind)
            if self._is_closed:
                file.release()
                raise RejectedError("the device is gone")
            download = self._downloads[place] = _Download(file)
            if len(self._downloads) > MAX_DOWNLOADS:
                self._downloads.popitem(last=False)[1].file.release()
        self._downloads.move_to_end(place)
        return download

    def _send(self, request: _Request, chunk: bytes) -> None:
        if self._is_closed:
            return
        topic, qos = self._way(request)
        if not self._outbox.takes(len(topic) + len(chunk)):
            text = f"{len(chunk)} bytes are more than the device takes in one packet"
            raise PackageUnavailable(OtaStatus.PAYLOAD_TOO_LARGE, text)
        self._desk.counters.add("broker.package_chunks")
        request.receipt.set_result(None)
        # Behind the callback that acknowledges the request, when nothing before it waits for the disk.
        request.receipt.add_done_callback(lambda _: self._outbox.publish(topic, chunk, qos))

    async def _send_whole(self, request: _Request, file: PackageFile) -> None:
        total = file.size_bytes
        topic, qos = self._way(request)
        if total > MAX_WHOLE_BYTES or not self._outbox.takes(len(topic) + total):
            text = f"the whole of {total} bytes does not fit into one packet; ask for chunks"
            raise PackageUnavailable(OtaStatus.PAYLOAD_TOO_LARGE, text)
        part = await file.read(0, PART_BYTES)
        self._desk.counters.add("broker.package_chunks")
        request.receipt.set_result(None)
        await asyncio.sleep(0)  # its acknowledgement first
        if self._is_closed:
            return
        offset = len(part)
        self._stream(self._outbox.begin(topic, total, qos) + part, offset < total)
        try:
            while offset < total and not self._is_closed:
                await self._may_write.wait()
                part = await file.read(offset, PART_BYTES)
                offset += len(part)
                self._stream(part, offset < total)
        except RejectedError as error:
            self._desk.complaints.bad(self._device(), request.topic, str(error))
            self._close(0x83)  # in the middle of a packet: there is nothing else that could be said

    def _way(self, request: _Request) -> tuple[str, int]:
        qos = self._granted.get(f"v2/{request.kind}/response/+/chunk/+", 1)
        return f"v2/{request.kind}/response/{request.rid}/chunk/{request.number}", qos

    def _fail(self, request: _Request, error: RejectedError) -> None:
        if self._is_closed:
            return
        status = error.status if isinstance(error, PackageUnavailable) else OtaStatus.FAILURE
        self._desk.counters.add("broker.package_errors")
        self._desk.complaints.bad(self._device(), request.topic, str(error))
        self._outbox.publish(_ERROR_TOPIC, status.encode(), self._granted.get(_ERROR_TOPIC, 1))
        self._requests.clear()
        request.receipt.set_exception(error)  # in its turn it ends the connection
