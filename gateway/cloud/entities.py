"""Devices, profiles and credentials as the JSON that servers exchange. Pure; no protobuf.

An update replaces the whole entity in the cloud, so what came from there is sent back complete, with
only our own changes. `version` is null: the cloud counts versions by itself. `customerId` is null
when we do not know better: null keeps the customer, any other "no customer" would take it away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

from gateway.domain.entity import NULL_UUID, Credentials, Device, DeviceProfile, EdgeIdentity, Json
from gateway.errors import RejectedError


def entity_id_json(type_: str, id_: UUID | None) -> dict[str, str] | None:
    """How an entity's id is written."""
    return None if id_ is None else {"entityType": type_, "id": str(id_)}


def sendable(json: Mapping[str, Json]) -> dict[str, Json]:
    """What the cloud once wrote, as it may go back: no version, and "no customer" is null."""
    ready = dict(json)
    if "version" in ready:
        ready["version"] = None
    customer = ready.get("customerId")
    if isinstance(customer, Mapping) and customer.get("id") == str(NULL_UUID):
        ready["customerId"] = None
    return ready


def device_json(
    device: Device,
    identity: EdgeIdentity | None,
    last_gateway: str | None = None,
    *,
    customer: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """The device as the cloud reads it; `last_gateway` is the id of the gateway behind which it was seen last.

    `customer` of that gateway: that of the device, too, until the cloud has sent it.

    Raises:
        RejectedError: We do not know our tenant: nothing was ever accepted by a cloud.
    """
    additional: dict[str, Json] = {"gateway": True} if device.is_gateway else {}
    seen = {"lastConnectedGateway": last_gateway} if last_gateway else {}
    if device.json is not None:
        ready = sendable({**device.json, "name": device.name, "label": device.label, "version": None})
        held = ready.get("additionalInfo")
        if seen and isinstance(held, Mapping | None):
            ready["additionalInfo"] = {**(held or {}), **seen}
        return ready
    return {
        "id": entity_id_json("DEVICE", device.id),
        "createdTime": device.created_ms,
        "tenantId": _tenant(identity),
        "customerId": customer,
        "name": device.name,
        "type": device.type,
        "label": device.label,
        "deviceProfileId": entity_id_json("DEVICE_PROFILE", device.profile_id),
        "deviceData": {"configuration": {"type": "DEFAULT"}, "transportConfiguration": {"type": "DEFAULT"}},
        "firmwareId": None,
        "softwareId": None,
        "externalId": None,
        "additionalInfo": additional | seen or None,
        "version": None,
    }


def profile_json(profile: DeviceProfile, identity: EdgeIdentity | None) -> dict[str, Json]:
    """A profile that was created here.

    Raises:
        RejectedError: As `device_json`.
    """
    if profile.json is not None:
        return {**profile.json, "name": profile.name, "version": None}
    return {
        "id": entity_id_json("DEVICE_PROFILE", profile.id),
        "createdTime": _time_of(profile.id),
        "tenantId": _tenant(identity),
        "name": profile.name,
        "description": None,
        "image": None,
        "default": False,
        "type": "DEFAULT",
        "transportType": "DEFAULT",
        "provisionType": "DISABLED",
        "defaultRuleChainId": None,
        "defaultDashboardId": None,
        "defaultQueueName": None,
        "profileData": {
            "configuration": {"type": "DEFAULT"},
            "transportConfiguration": {"type": "DEFAULT"},
            "provisionConfiguration": {"type": "DISABLED", "provisionDeviceSecret": None},
            "alarms": [],
        },
        "provisionDeviceKey": None,
        "firmwareId": None,
        "softwareId": None,
        "defaultEdgeRuleChainId": None,
        "externalId": None,
        "version": None,
    }


def credentials_json(device: Device, credentials: Credentials) -> dict[str, Json]:
    """The device's only credentials. The record's own id is ignored by the cloud, and made from the device's."""
    return {
        "id": {"id": str(uuid5(device.id, "credentials"))},
        "createdTime": device.created_ms,
        "deviceId": entity_id_json("DEVICE", device.id),
        "credentialsType": str(credentials.type),
        "credentialsId": credentials.credentials_id,
        "credentialsValue": credentials.value,
        "version": None,
    }


def alarm_id(body: Any, entity_id: UUID | None) -> UUID:
    """An alarm's id: the event's, else the one in its JSON.

    Raises:
        RejectedError: Neither is there.
    """
    if not isinstance(body, Mapping):
        raise RejectedError("an alarm is a JSON object")
    if entity_id is not None:
        return entity_id
    id_ = body.get("id")
    if not isinstance(id_, Mapping):
        raise RejectedError("the alarm has no id")
    return UUID(str(id_["id"]))


def _tenant(identity: EdgeIdentity | None) -> dict[str, str] | None:
    if identity is None:
        raise RejectedError("the tenant is not known before the first connect")
    return entity_id_json("TENANT", identity.tenant_id)


def _time_of(id_: UUID) -> int:
    """Milliseconds of a time-based id; 0 lets the cloud choose."""
    return (id_.time - 0x01B21DD213814000) // 10_000 if id_.version == 1 else 0
