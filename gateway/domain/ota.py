"""OTA packages: firmware and software that devices download from the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

OTA_PACKAGE: Final = "OTA_PACKAGE"
"""The entity type of packages; what is kept of one is its JSON without the binary."""


class PackageKind(StrEnum):
    """`type` of a package; the value is the prefix of its topics and keys."""

    FIRMWARE = "fw"
    SOFTWARE = "sw"


class OtaStatus(StrEnum):
    """Why a device does not get what it asks for, in the server's words."""

    NOT_FOUND = "NOT_FOUND"
    FAILURE = "FAILURE"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"


class PackageUnavailable(RejectedError):
    """There is nothing to download; the device hears `status`, the log the text."""

    def __init__(self, status: OtaStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package. `problem` says why it is not served; None: it may be.

    `key` is the entity's id in the cloud, or begins with `folder:`; `path` is set for those of the folder.
    """

    key: str
    kind: PackageKind
    title: str
    version: str
    tag: str | None = None
    url: str | None = None
    size_bytes: int = 0
    checksum: str = ""
    algorithm: str = ""
    file_name: str = ""
    content_type: str = "application/octet-stream"
    path: Path | None = None
    problem: str | None = None

    def attributes(self) -> dict[str, Value]:
        """The shared attributes of a device that it is assigned to."""
        prefix = self.kind.value
        values: dict[str, Value] = {f"{prefix}_title": self.title, f"{prefix}_version": self.version}
        if self.tag:
            values[f"{prefix}_tag"] = self.tag
        if self.url:
            values[f"{prefix}_url"] = self.url
        if self.checksum:
            values[f"{prefix}_checksum"] = self.checksum
            values[f"{prefix}_checksum_algorithm"] = self.algorithm
        if not self.url:
            values[f"{prefix}_size"] = self.size_bytes
        return values


def attribute_keys(kind: PackageKind) -> list[str]:
    """All shared attributes that an assignment may set."""
    names = ("title", "version", "tag", "url", "size", "checksum", "checksum_algorithm")
    return [f"{kind.value}_{name}" for name in names]


def package_of(key: str, json: Mapping[str, Json]) -> Package:
    """An OTA_PACKAGE as the cloud writes it (and as it is kept, with `problem`).

    Raises:
        RejectedError: Without a type, title or version.
    """
    kind = {"FIRMWARE": PackageKind.FIRMWARE, "SOFTWARE": PackageKind.SOFTWARE}.get(str(json.get("type")))
    title, version = json.get("title"), json.get("version")
    if kind is None or not isinstance(title, str) or not isinstance(version, str):
        raise RejectedError(f"{OTA_PACKAGE} {key}: needs a title, a version and type FIRMWARE or SOFTWARE")
    size = json.get("dataSize")
    return Package(
        key=key,
        kind=kind,
        title=title,
        version=version,
        tag=_text(json, "tag") or None,
        url=_text(json, "url") or None,
        size_bytes=size if type(size) is int and size > 0 else 0,
        checksum=_text(json, "checksum").lower(),
        algorithm=_text(json, "checksumAlgorithm"),
        file_name=_text(json, "fileName"),
        content_type=_text(json, "contentType") or "application/octet-stream",
        problem=_text(json, "problem") or None,
    )


def assigned_key(json: Mapping[str, Json] | None, kind: PackageKind) -> str | None:
    """Which package a device or a profile names; None: none."""
    name = "firmwareId" if kind is PackageKind.FIRMWARE else "softwareId"
    reference = json.get(name) if json else None
    id_ = reference.get("id") if isinstance(reference, dict) else None
    try:
        return str(UUID(id_)) if isinstance(id_, str) else None
    except ValueError:
        return None


def _text(json: Mapping[str, Json], key: str) -> str:
    value = json.get(key)
    return value if isinstance(value, str) else ""
