"""OTA packages of the simulated cloud: made, assigned to devices and profiles, and told as the server tells it."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from gateway.cloudsim import entities
from gateway.cloudsim.events import EdgeEvent
from gateway.cloudsim.world import Entity
from gateway.domain.checksum import new_checksum
from gateway.domain.entity import time_uuid
from gateway.domain.ota import OTA_PACKAGE, Package, PackageKind, assigned_key, attribute_keys, package_of
from gateway.errors import RejectedError

if TYPE_CHECKING:
    from gateway.cloudsim.core import Cloud

_SHARED: Final = "SHARED_SCOPE"
_ID: Final = {PackageKind.FIRMWARE: "firmwareId", PackageKind.SOFTWARE: "softwareId"}


class OtaPackages:
    """What a person can do with packages."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def add(
        self, title: str, version: str, kind: PackageKind, data: str, *, algorithm: str = "SHA256", url: str = ""
    ) -> UUID:
        """A package from Base64 text, or only a URL.

        Raises:
            RejectedError: Not Base64, or an unknown algorithm.
        """
        try:
            binary = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise RejectedError(f"'data' is not Base64: {error}") from None
        digest = new_checksum(algorithm)
        digest.update(binary)
        content: dict[str, Any] = {"url": url, "hasData": False, "data": None}
        if not url:
            content = {
                "hasData": True,
                "fileName": f"{title}-{version}.bin",
                "contentType": "application/octet-stream",
                "checksumAlgorithm": algorithm,
                "checksum": digest.hexdigest(),
                "dataSize": len(binary),
                "data": data,
            }
        cloud, id_ = self._cloud, time_uuid()
        json = entities.other(
            OTA_PACKAGE,
            id_,
            cloud.now_ms(),
            cloud.world.tenant_id,
            type=kind.name,
            title=title,
            version=version,
            **content,
        )
        cloud.world.add(OTA_PACKAGE, id_, json)
        cloud.push(EdgeEvent(OTA_PACKAGE, "ADDED", id_))
        return id_

    async def delete(self, package_id: UUID) -> None:
        """Also while it is assigned, which a server would refuse."""
        self._package(package_id)
        self._cloud.world.remove(OTA_PACKAGE, package_id)
        self._cloud.push(EdgeEvent(OTA_PACKAGE, "DELETED", package_id))

    async def assign(self, name: str, kind: PackageKind, package_id: UUID | None) -> None:
        """To one device, or none any more; its profile's then counts."""
        device = self._cloud.world.device_named(name)
        self._refer(device, kind, package_id)
        await self._tell(device, kind)

    async def assign_profile(self, name: str, kind: PackageKind, package_id: UUID | None) -> None:
        """To all devices of a profile."""
        profile = self._cloud.world.named("DEVICE_PROFILE", name)
        if profile is None:
            raise RejectedError(f"no profile {name!r}")
        self._refer(profile, kind, package_id)
        for device in self._cloud.world.of_type("DEVICE"):
            if device.json["deviceProfileId"]["id"] == str(profile.id):
                await self._tell(device, kind)

    def _refer(self, entity: Entity, kind: PackageKind, package_id: UUID | None) -> None:
        if package_id is not None and self._package(package_id).kind is not kind:
            raise RejectedError(f"the package is no {kind.name.lower()}")
        reference = None if package_id is None else entities.reference(OTA_PACKAGE, package_id)
        self._cloud.world.add(entity.type, entity.id, {**entity.json, _ID[kind]: reference})
        self._cloud.push(EdgeEvent(entity.type, "UPDATED", entity.id))

    def _package(self, package_id: UUID) -> Package:
        held = self._cloud.world.get(OTA_PACKAGE, package_id)
        if held is None:
            raise RejectedError(f"no package {package_id}")
        return package_of(str(package_id), held.json)

    async def _tell(self, device: Entity, kind: PackageKind) -> None:
        """The attributes that the server writes, and the deletion of those that do not apply."""
        world = self._cloud.world
        profile = world.get("DEVICE_PROFILE", UUID(device.json["deviceProfileId"]["id"]))
        key = assigned_key(device.json, kind) or assigned_key(profile.json if profile is not None else None, kind)
        values = {} if key is None else self._package(UUID(key)).attributes()
        gone = [name for name in attribute_keys(kind) if name in device.attributes[_SHARED] and name not in values]
        if gone:
            await self._cloud.delete_attributes(device.name, _SHARED, gone)
        if values:
            await self._cloud.set_attributes(device.name, _SHARED, values)
