"""Firmware and software over HTTP: the whole file, or one chunk of it; read part by part as the device takes it.

Source: ThingsBoard 4.3 HTTP device API: `GET /{token}/firmware?title=&version=[&size=&chunk=]`, likewise `software`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final

from gateway.domain.entity import Device
from gateway.domain.ota import OtaStatus, Package, PackageKind, PackageUnavailable
from gateway.ports import PackageFile, Packages

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

PART_BYTES: Final = 65_536
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)


class BadRequest(Exception):
    """What is wrong with the question; 400."""


async def download(packages: Packages | None, device: Device, kind: PackageKind, query: Mapping[str, str]) -> Response:
    """200 with the bytes; 404 when there is nothing to serve.

    Raises:
        BadRequest: Not the package that is assigned, or numbers that are none.
    """
    from starlette.responses import Response

    title, version = query.get("title"), query.get("version")
    if title is None or version is None:
        raise BadRequest("title and version are needed: those of the assigned package")
    size, number = _number(query, "size"), _number(query, "chunk")
    try:
        if packages is None:
            raise PackageUnavailable(OtaStatus.NOT_FOUND, "no packages here")
        assigned = packages.assigned(device, kind)
        if assigned is not None and (assigned.title, assigned.version) != (title, version):
            raise BadRequest(f"another {kind.name.lower()} is assigned: {assigned.title} {assigned.version}")
        package, file = await packages.open(device, kind)
    except PackageUnavailable:
        return Response(status_code=404)
    start = size * number if size else 0
    end = min(file.size_bytes, start + size) if size else file.size_bytes
    return _response(package, file, start, max(start, end))


def _response(package: Package, file: PackageFile, start: int, end: int) -> Response:
    from starlette.responses import StreamingResponse

    async def parts() -> AsyncIterator[bytes]:
        offset = start
        while offset < end:
            part = await file.read(offset, min(PART_BYTES, end - offset))
            offset += len(part)
            yield part

    class FileResponse(StreamingResponse):
        """Lets the file go, whatever becomes of the device."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                file.release()

    name = re.sub(r"[^\w.+-]", "_", package.file_name or f"{package.title}-{package.version}", flags=re.ASCII)
    headers = {
        "content-length": str(end - start),
        "content-disposition": f"attachment;filename={name}",
        "x-filename": name,
    }
    media_type = package.content_type if _TYPE.fullmatch(package.content_type) else "application/octet-stream"
    return FileResponse(parts(), 200, headers, media_type=media_type)


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    if _NUMBER.fullmatch(text) is None:
        raise BadRequest(f"{name} must be a number")
    return int(text)
