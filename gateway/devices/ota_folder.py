"""OTA packages of one's own: a folder with files and `packages.yaml`, which says what they are and for whom."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from gateway.config import Settings, load_settings
from gateway.domain.checksum import ALGORITHMS
from gateway.domain.entity import Device
from gateway.domain.ota import Package, PackageKind
from gateway.errors import ConfigError, RejectedError
from gateway.ports import PackageFolder

log = logging.getLogger(__name__)

MANIFEST: Final = "packages.yaml"
_KINDS: Final = {"firmware": PackageKind.FIRMWARE, "software": PackageKind.SOFTWARE}
_Name = Annotated[str, Field(min_length=1, max_length=255)]


class FolderPackage(Settings):
    """One package of the manifest."""

    title: _Name
    version: _Name
    type: Literal["firmware", "software"] = "firmware"
    file: str | None = None
    url: str | None = None
    tag: str | None = None
    checksum_algorithm: str = "SHA256"
    checksum: str | None = None
    devices: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> FolderPackage:
        if (self.file is None) == (self.url is None):
            raise ValueError("needs file or url, one of them")
        if self.checksum_algorithm not in ALGORITHMS:
            raise ValueError(f"checksum_algorithm must be one of {', '.join(ALGORITHMS)}")
        if self.file is not None and (Path(self.file).is_absolute() or ".." in Path(self.file).parts):
            raise ValueError(f"file {self.file!r} must be a path inside the folder")
        return self


class Manifest(Settings):
    """`packages.yaml`. Of two packages for one device the later one counts."""

    packages: tuple[FolderPackage, ...] = ()


def read_manifest(folder: Path) -> Manifest:
    """What the folder holds.

    Raises:
        ConfigError: The manifest is not there or not as it should be.
    """
    return load_settings(Manifest, folder / MANIFEST)


class OtaFolder:
    """The packages of the folder, as they were when the manifest or a file last changed."""

    def __init__(self, folder: Path, files: PackageFolder) -> None:
        self._folder, self._files = folder, files
        self._seen: object = None
        self._by_device: dict[tuple[str, PackageKind], Package] = {}
        self._by_profile: dict[tuple[str, PackageKind], Package] = {}
        self.packages: Sequence[Package] = ()
        self.problem: str | None = None

    def assigned(self, device: Device, kind: PackageKind) -> Package | None:
        """By the device's name, else by its profile's."""
        for name in (device.local_name, device.name):
            if name is not None and (found := self._by_device.get((name, kind))) is not None:
                return found
        return self._by_profile.get((device.type, kind))

    async def look(self) -> None:
        """Read it anew when something changed. A manifest that cannot be used is told, and changes nothing."""
        seen = self._state()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            manifest = read_manifest(self._folder)
        except ConfigError as error:
            self.problem = str(error)
            log.warning("ota: %s; the packages of before stay", error)
            return
        self.problem = None
        packages: list[Package] = []
        by_device: dict[tuple[str, PackageKind], Package] = {}
        by_profile: dict[tuple[str, PackageKind], Package] = {}
        for entry in manifest.packages:
            package = await self._checked(entry)
            packages.append(package)
            by_device |= {(name, package.kind): package for name in entry.devices}
            by_profile |= {(name, package.kind): package for name in entry.profiles}
        self.packages, self._by_device, self._by_profile = packages, by_device, by_profile
        self._seen = (seen[0], self._stamps())

    async def _checked(self, entry: FolderPackage) -> Package:
        kind = _KINDS[entry.type]
        path = self._folder / entry.file if entry.file is not None else None
        size_bytes, found, problem = 0, "", None
        if path is not None:
            try:
                size_bytes, found = await self._files.measure(path, entry.checksum_algorithm)
            except RejectedError as error:
                problem = str(error)
            if problem is None and entry.checksum is not None and entry.checksum.lower() != found:
                problem = f"its {entry.checksum_algorithm} is {found} and should be {entry.checksum}"
        if problem is not None:
            log.warning("ota: %s %s of the folder is not served: %s", entry.title, entry.version, problem)
        return Package(
            key=f"folder:{kind}:{entry.title}:{entry.version}",
            kind=kind,
            title=entry.title,
            version=entry.version,
            tag=entry.tag,
            url=entry.url,
            size_bytes=size_bytes,
            checksum=(found if path is not None else entry.checksum or "").lower(),
            algorithm=entry.checksum_algorithm,
            file_name=path.name if path is not None else "",
            path=path,
            problem=problem,
        )

    def _state(self) -> tuple[object, object]:
        return _stamp(self._folder / MANIFEST), self._stamps()

    def _stamps(self) -> object:
        return [(package.path, _stamp(package.path)) for package in self.packages if package.path is not None]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
