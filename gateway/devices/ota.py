"""OTA packages: which there are, which device has which, and what the cloud says of them.

The cloud writes the `fw_…` and `sw_…` attributes of its packages itself. For packages of the local folder that is done
here, as the server does it: `target_…` and the state QUEUED, then INITIATED, as telemetry; the attributes; and their
deletion when the package is taken away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from gateway.devices.ota_folder import OtaFolder
from gateway.domain.changes import Change, DeleteAttributes, DeleteEntity, SaveAttributes, SaveEntity, SaveSetting
from gateway.domain.entity import Device, EntityId, Json
from gateway.domain.message import Message, MessageType
from gateway.domain.ota import (
    OTA_PACKAGE,
    OtaStatus,
    Package,
    PackageKind,
    PackageUnavailable,
    assigned_key,
    attribute_keys,
    package_of,
)
from gateway.domain.telemetry import AttributeScope, Value
from gateway.errors import RejectedError
from gateway.ports import AttributeNotice, Clock, PackageFile, PackageFolder, Receipt
from gateway.supervise import Counters

if TYPE_CHECKING:
    from gateway.devices.inlet import Inlet
    from gateway.devices.pipeline import Pipeline
    from gateway.devices.state import State

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""How often the local folder is looked at, and who has which of its packages."""

ASSIGNED: Final = "ota_assigned:"
"""Setting, with the device's id and the kind: the package of the folder whose attributes the device has."""

MOST_PACKAGES: Final = 1_000
_SHARED: Final = AttributeScope.SHARED_SCOPE.value
_KEPT: Final = (
    "id", "createdTime", "type", "title", "version", "tag", "url", "fileName", "contentType", "checksumAlgorithm",
    "checksum", "dataSize", "deviceProfileId",
)  # fmt: skip


class Ota:
    """Implements `Packages` and `PackageKeeper`."""

    name = "ota"

    def __init__(
        self,
        files: PackageFolder,
        folder: OtaFolder | None,
        state: State,
        pipeline: Pipeline,
        inlet: Inlet,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._files, self._folder, self._state = files, folder, state
        self._pipeline, self._inlet, self._clock, self._counters = pipeline, inlet, clock, counters
        self._putting: set[str] = set()
        self._damaged: dict[str, str] = {}  # found when it was to be served; told once

    async def serve(self) -> None:
        """Until cancelled: keeps the files, the folder and the assignments in agreement."""
        await self._out_of_the_database()
        while True:
            await self.refresh()
            await self._clock.sleep(LOOK_S)

    async def refresh(self) -> None:
        """Once."""
        await self._files.keep_only({*self._state.entities(OTA_PACKAGE), *self._putting})
        if self._folder is not None:
            await self._folder.look()
        told = [
            receipt
            for device in list(self._state.devices())
            for receipt in (self._mend(device), *(self._follow_folder(device, kind) for kind in PackageKind))
            if receipt is not None
        ]
        self._forget_deleted_devices()
        if told:
            await asyncio.wait(told)  # so that nothing is said twice while the disk does not answer

    # ── which package ──

    def assigned(self, device: Device, kind: PackageKind) -> Package | None:
        """The device's own, else its profile's; one of the cloud, else one of the folder."""
        key = self._cloud_key(device, kind)
        if key is not None:
            package = self._of_cloud(key)
            return package if package is not None and package.kind is kind else None
        return None if self._folder is None else self._folder.assigned(device, kind)

    def _cloud_key(self, device: Device, kind: PackageKind) -> str | None:
        own = assigned_key(device.json, kind)
        if own is not None:
            return own
        profile = self._state.profile(device.profile_id) if device.profile_id else None
        profile = profile or self._state.profile_named(device.type)
        return assigned_key(profile.json, kind) if profile is not None else None

    def _of_cloud(self, key: str) -> Package | None:
        json = self._state.entity_json(OTA_PACKAGE, key)
        try:
            return None if json is None else package_of(key, json)
        except RejectedError:
            return None

    async def open(self, device: Device, kind: PackageKind) -> tuple[Package, PackageFile]:
        """The assigned package, to be read.

        Raises:
            PackageUnavailable: None is assigned, it is only a URL, or it must not be served.
        """
        package = self.assigned(device, kind)
        if package is None:
            raise PackageUnavailable(OtaStatus.NOT_FOUND, f"no {kind.name.lower()} is assigned, or it is not here")
        if package.url is not None:
            raise PackageUnavailable(OtaStatus.FAILURE, f"{_name(package)} is only a URL: {kind}_url")
        problem = package.problem
        if problem is None:
            try:
                path = package.path or self._files.path_of(package.key)
                return package, await self._files.open(path, package.algorithm, package.checksum)
            except RejectedError as error:
                problem = str(error)
                if self._damaged.get(package.key) != problem:
                    self._damaged[package.key] = problem
                    log.warning("ota: %s is not served: %s", _name(package), problem)
        self._counters.add("ota.not_served")
        raise PackageUnavailable(OtaStatus.NOT_FOUND, f"{_name(package)} is not served: {problem}")

    # ── attributes of the cloud's packages ──

    def as_written(self, entity: EntityId, scope: str, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Attributes from the cloud, with the texts of the assigned packages as they are.

        A server turns text that reads as a number into one on its way to an edge: version "2.0" comes as 2.0, and a
        checksum of digits as a number that no device could compare.
        """
        if scope != _SHARED or entity.type != "DEVICE" or not any(key.startswith(("fw_", "sw_")) for key in values):
            return values
        device = self._state.device(entity.id)
        return values if device is None else {**values, **self._texts(device, values)}

    def _texts(self, device: Device, values: Mapping[str, Value]) -> dict[str, Value]:
        """Those of the values that are numbers and stand for a text of an assigned package: the text."""
        found: dict[str, Value] = {}
        for kind in PackageKind:
            package = self.assigned(device, kind)
            if package is not None:
                for key, text in package.attributes().items():
                    value = values.get(key)
                    if isinstance(text, str) and type(value) in (int, float) and _reads_as(text, value):
                        found[key] = text
        return found

    def _mend(self, device: Device) -> Receipt | None:
        """Attributes that came before their package."""
        held = self._state.attributes(device.entity_id, _SHARED)
        texts = self._texts(device, {key: one.value for key, one in held.items() if key.startswith(("fw_", "sw_"))})
        if not texts:
            return None
        changes = [SaveAttributes(device.entity_id, _SHARED, held[key].ts_ms, {key: texts[key]}) for key in texts]
        receipt = self._pipeline.commit([*changes, *self._inlet.owe(device.entity_id, list(texts))])
        notice = AttributeNotice(device.entity_id, texts)
        receipt.add_done_callback(lambda done: self._tell(done, notice))
        return receipt

    # ── PackageKeeper ──

    async def put_package(self, package_id: UUID, json: Mapping[str, Json]) -> bool:
        """The binary as a file, then the rest in the store; see the port."""
        key = str(package_id)
        self._putting.add(key)
        try:
            return await self._put(key, json)
        finally:
            self._putting.discard(key)

    async def _put(self, key: str, json: Mapping[str, Json]) -> bool:
        package = package_of(key, json)
        kept = {name: json[name] for name in _KEPT if json.get(name) is not None}
        known = self._state.entity_json(OTA_PACKAGE, key)
        if known is None and len(self._state.entities(OTA_PACKAGE)) >= MOST_PACKAGES:
            self._counters.add("downlink.no_room")
            log.warning("ota: %s is not kept: there are %d packages", _name(package), MOST_PACKAGES)
            return False
        has_file = known == kept and key not in self._damaged and await self._is_there(package)
        if known == kept and (has_file or package.url):
            return False
        problem = None
        if package.url is None:
            data = json.get("data")
            try:
                if not isinstance(data, str):
                    raise RejectedError("came without data")
                await self._files.save(key, data, package.algorithm, package.checksum, package.size_bytes)
                self._damaged.pop(key, None)
            except RejectedError as error:
                problem = str(error)
                self._counters.add("ota.refused")
                log.warning("ota: %s from the cloud is not served: %s", _name(package), problem)
        else:
            await self._files.delete(key)
        if problem is not None:
            kept["problem"] = problem
        if kept == known:
            return False
        await self._pipeline.commit([SaveEntity(OTA_PACKAGE, key, kept)])
        if problem is None:
            log.info("ota: %s is here, %d bytes", _name(package), package.size_bytes)
        return True

    async def _is_there(self, package: Package) -> bool:
        try:
            path = self._files.path_of(package.key)
            (await self._files.open(path, package.algorithm, package.checksum)).release()
        except RejectedError:
            return False
        return True

    async def delete_package(self, package_id: UUID) -> None:
        """The file goes after what is known of it: what a crash leaves over is found at the next start."""
        key = str(package_id)
        self._damaged.pop(key, None)
        await self._pipeline.commit([DeleteEntity(OTA_PACKAGE, key)])
        await self._files.delete(key)

    async def _out_of_the_database(self) -> None:
        """Packages that an older release kept with their binary, or by name only."""
        for key, json in list(self._state.entities(OTA_PACKAGE).items()):
            if "data" not in json and "isNameOnly" not in json:
                continue
            try:
                await self.put_package(UUID(key), json)
            except RejectedError as error:
                log.warning("ota: %s", error)
                await self._pipeline.commit([DeleteEntity(OTA_PACKAGE, key)])

    # ── packages of the folder ──

    def _follow_folder(self, device: Device, kind: PackageKind) -> Receipt | None:
        """What the device is told of the folder's package, if that is not what it was told before."""
        setting = f"{ASSIGNED}{device.id}:{kind}"
        mark = self._state.setting(setting)
        is_clouds = self._cloud_key(device, kind) is not None
        package = None if is_clouds or self._folder is None else self._folder.assigned(device, kind)
        if package is not None and package.problem is not None:
            return None  # it is told; what the device has now stays
        if package is None:
            return None if mark is None else self._take_away(device, kind, setting, leave_attributes=is_clouds)
        values = package.attributes()
        wanted = {**values, "key": package.key}
        held = self._state.attributes(device.entity_id, _SHARED)
        is_told = all(key in held and held[key].value == value for key, value in values.items())
        if mark == wanted and is_told:
            return None
        return self._assign(device, package, setting, wanted, is_new=mark != wanted)

    def _assign(
        self, device: Device, package: Package, setting: str, mark: dict[str, Value], *, is_new: bool
    ) -> Receipt:
        now_ms, prefix, values = self._clock.now_ms(), package.kind.value, package.attributes()
        held = self._state.attributes(device.entity_id, _SHARED)
        gone = [key for key in attribute_keys(package.kind) if key in held and key not in values]
        first: list[Change] = [
            SaveAttributes(device.entity_id, _SHARED, now_ms, values),
            SaveSetting(setting, mark),
            *self._inlet.owe(device.entity_id, [*values, *gone]),
        ]
        messages = [_message(device, MessageType.ATTRIBUTES_UPDATED, values, now_ms, scope=_SHARED)]
        if gone:
            first.append(DeleteAttributes(device.entity_id, _SHARED, gone))
            deleted = {"attributes": gone}
            messages.append(_message(device, MessageType.ATTRIBUTES_DELETED, deleted, now_ms, scope=_SHARED))
        if is_new:
            target: dict[str, Value] = {
                f"target_{prefix}_title": package.title,
                f"target_{prefix}_version": package.version,
                f"target_{prefix}_ts": now_ms,
                f"{prefix}_state": "QUEUED",
            }
            if package.tag:
                target[f"target_{prefix}_tag"] = package.tag
            initiated = {f"{prefix}_state": "INITIATED"}
            telemetry = MessageType.POST_TELEMETRY_REQUEST
            messages += [
                _message(device, telemetry, target, now_ms),
                _message(device, telemetry, initiated, now_ms + 1),
            ]
            log.info("ota: %s is assigned to device %r", _name(package), device.name)
        notice = AttributeNotice(device.entity_id, values, gone)
        receipt = self._pipeline.run(messages, first=first)
        receipt.add_done_callback(lambda done: self._tell(done, notice))
        return receipt

    def _take_away(self, device: Device, kind: PackageKind, setting: str, *, leave_attributes: bool) -> Receipt:
        held = self._state.attributes(device.entity_id, _SHARED)
        keys = [] if leave_attributes else [key for key in attribute_keys(kind) if key in held]
        first: list[Change] = [SaveSetting(setting, None)]
        messages = []
        if keys:
            now_ms = self._clock.now_ms()
            first += [DeleteAttributes(device.entity_id, _SHARED, keys), *self._inlet.owe(device.entity_id, keys)]
            messages = [_message(device, MessageType.ATTRIBUTES_DELETED, {"attributes": keys}, now_ms, scope=_SHARED)]
        notice = AttributeNotice(device.entity_id, None, keys)
        receipt = self._pipeline.run(messages, first=first)
        receipt.add_done_callback(lambda done: self._tell(done, notice))
        return receipt

    def _tell(self, done: asyncio.Future[None], notice: AttributeNotice) -> None:
        if not done.cancelled() and done.exception() is None and (notice.values or notice.deleted):
            self._inlet.notify(notice)

    def _forget_deleted_devices(self) -> None:
        left: list[Change] = []
        for name in self._state.settings(ASSIGNED):
            if self._state.device(UUID(name.removeprefix(ASSIGNED).split(":")[0])) is None:
                left.append(SaveSetting(name, None))
        if left:
            self._pipeline.commit(left)

    # ── for a person ──

    def status(self) -> dict[str, Any]:
        """For `status`."""
        packages = self.listed()
        return {
            "packages": len(packages),
            "used_bytes": self._files.used_bytes,
            "problems": [f"{one['title']} {one['version']}: {one['problem']}" for one in packages if one["problem"]]
            + ([self._folder.problem] if self._folder is not None and self._folder.problem else []),
        }

    def overview(self) -> dict[str, Any]:
        """For `edge-gateway ota ls`."""
        problem = self._folder.problem if self._folder is not None else None
        used, most = self._files.used_bytes, self._files.max_bytes
        return {"packages": self.listed(), "used_bytes": used, "max_bytes": most, "problem": problem}

    def listed(self) -> list[dict[str, Any]]:
        """Every package, and who has it."""
        packages = [package for key in self._state.entities(OTA_PACKAGE) if (package := self._of_cloud(key))]
        packages += () if self._folder is None else self._folder.packages
        holders: dict[str, list[str]] = {}
        for device in self._state.devices():
            for kind in PackageKind:
                assigned = self.assigned(device, kind)
                if assigned is not None:
                    holders.setdefault(assigned.key, []).append(device.local_name or device.name)
        return [
            {
                "type": package.kind.name,
                "title": package.title,
                "version": package.version,
                "size_bytes": package.size_bytes,
                "checksum": f"{package.algorithm}:{package.checksum}" if package.checksum else None,
                "url": package.url,
                "source": "folder" if package.key.startswith("folder:") else "cloud",
                "devices": holders.get(package.key, []),
                "problem": package.problem or self._damaged.get(package.key),
            }
            for package in packages
        ]


def _reads_as(text: str, value: Value | None) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def _name(package: Package) -> str:
    return f"{package.kind.name.lower()} {package.title!r} {package.version}"


def _message(
    device: Device, type_: MessageType, data: Mapping[str, Any], ts_ms: int, scope: str | None = None
) -> Message:
    metadata = {"deviceName": device.name, "deviceType": device.type, "ts": str(ts_ms)}
    if scope is not None:
        metadata["scope"] = scope
    return Message(type=type_.value, originator=device.entity_id, data=dict(data), metadata=metadata, ts_ms=ts_ms)
