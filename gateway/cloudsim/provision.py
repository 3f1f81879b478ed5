"""Devices, assets and profiles that come from the edge: identity, name clashes, credentials.

Source: the edge protocol's sections on devices created on the edge and conflicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim import entities
from gateway.cloudsim.entities import JsonObject
from gateway.cloudsim.events import EdgeEvent
from gateway.cloudsim.faults import Faults
from gateway.cloudsim.values import uuid_of
from gateway.cloudsim.world import Entity, World
from gateway.domain.entity import NULL_UUID
from gateway.errors import RejectedError
from gateway.supervise import Counters

DELETED: Final = 2
_MAX_NAME: Final = 255


class Provisioning:
    """Applies the edge's own entities to the world. All methods raise `RejectedError`: the UplinkMsg fails."""

    def __init__(
        self,
        world: World,
        release: tuple[int, int],
        faults: Faults,
        counters: Counters,
        push: Callable[[EdgeEvent], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._world, self.release, self._faults, self._counters = world, release, faults, counters
        self._push, self._now_ms = push, now_ms

    def device(self, msg: edge_pb2.DeviceUpdateMsg) -> None:
        """Create, replace or delete a device under the edge's id."""
        id_ = uuid_of(msg.idMSB, msg.idLSB)
        if msg.msgType == DELETED:
            self._delete("DEVICE", id_)
            return
        json = self._checked("DEVICE", msg.entity)
        known = self._world.get("DEVICE", id_)
        if known is None and self._is_quota_reached():
            self._counters.add("quota_reached")
            self._world.forget(id_)
            return
        profile = self._profile_of(json, "DEVICE_PROFILE", "deviceProfileId")
        json["deviceProfileId"] = entities.reference("DEVICE_PROFILE", profile.id)
        json["type"] = profile.name
        self._save("DEVICE", id_, json, known)
        if self.release < (3, 8):
            self._push(EdgeEvent("DEVICE", "CREDENTIALS_REQUEST", id_))

    def asset(self, msg: edge_pb2.AssetUpdateMsg) -> None:
        """Like devices."""
        id_ = uuid_of(msg.idMSB, msg.idLSB)
        if msg.msgType == DELETED:
            self._delete("ASSET", id_)
            return
        json = self._checked("ASSET", msg.entity)
        profile = self._profile_of(json, "ASSET_PROFILE", "assetProfileId")
        json["assetProfileId"] = entities.reference("ASSET_PROFILE", profile.id)
        json["type"] = profile.name
        self._save("ASSET", id_, json, self._world.get("ASSET", id_))

    def entity_view(self, msg: edge_pb2.EntityViewUpdateMsg) -> None:
        """Like devices, without a profile."""
        id_ = uuid_of(msg.idMSB, msg.idLSB)
        if msg.msgType == DELETED:
            self._delete("ENTITY_VIEW", id_)
            return
        self._save("ENTITY_VIEW", id_, self._checked("ENTITY_VIEW", msg.entity), self._world.get("ENTITY_VIEW", id_))

    def profile(self, type_: str, msg: Any) -> None:
        """A device or asset profile: new ones are never the default, known ones are overwritten with exceptions."""
        id_ = uuid_of(msg.idMSB, msg.idLSB)
        if msg.msgType == DELETED:
            raise RejectedError(f"unsupported message type for {type_}: ENTITY_DELETED_RPC_MESSAGE")
        json = self._checked(type_, msg.entity)
        known = self._world.get(type_, id_)
        json["defaultEdgeRuleChainId"] = json.get("defaultRuleChainId")
        json["default"] = bool(known and known.json["default"])
        json["defaultRuleChainId"] = known.json.get("defaultRuleChainId") if known else None
        if known is not None and json.get("defaultDashboardId") is None:
            json["defaultDashboardId"] = known.json.get("defaultDashboardId")
        self._save(type_, id_, json, known)

    def credentials(self, msg: edge_pb2.DeviceCredentialsUpdateMsg) -> None:
        """Type, id and value replace those of the device; an unknown device is ignored."""
        json = read_json(msg.entity)
        device_id = _id(json.get("deviceId"), "deviceId")
        if self._world.get("DEVICE", device_id) is None:
            self._counters.add("dropped_unknown")
            return
        type_, value = str(json.get("credentialsType")), json.get("credentialsValue")
        try:
            credentials_id = entities.computed_credentials_id(type_, str(json.get("credentialsId") or ""), value)
        except (ValueError, AttributeError) as error:
            raise RejectedError(f"invalid credentials: {error}") from None
        if not credentials_id:
            raise RejectedError("invalid credentials: the id is empty")
        if self._world.owner_of(credentials_id) not in (None, device_id):
            raise RejectedError("device credentials are already assigned to another device")
        held = self._world.credentials.get(device_id)
        id_ = UUID(held["id"]["id"]) if held else _id(json.get("id"), "id")
        made = entities.credentials(id_, self._now_ms(), device_id, type_, credentials_id, value)
        self._world.set_credentials(device_id, made)

    def _save(self, type_: str, id_: UUID, json: JsonObject, known: Entity | None) -> None:
        name = str(json["name"])
        json["id"] = entities.reference(type_, id_)
        if known is not None and json.get("customerId") is None:
            json["customerId"] = known.json.get("customerId")
        owner = self._world.named(type_, name)
        if owner is not None and owner.id != id_:
            json["name"] = self._world.free_name(type_, name)
            self._counters.add("renamed")
        elif known is not None and self.release >= (4, 3) and _same(known.json, json):
            self._counters.add("unchanged")
            return
        made = self._world.add(type_, id_, json)
        made.is_of_edge = made.is_of_edge or known is None
        made.is_assigned = True
        if json["name"] != name:
            self._push(EdgeEvent(type_, "UPDATED", id_))

    def _delete(self, type_: str, id_: UUID) -> None:
        """From 4.3 on it is deleted; older servers keep it, unassigned from the edge."""
        entity = self._world.get(type_, id_)
        if entity is not None and self.release < (4, 3):
            entity.is_assigned = False
            self._counters.add("unassigned")
        else:
            self._world.remove(type_, id_)

    def _checked(self, type_: str, text: str) -> JsonObject:
        json = read_json(text)
        name = json.get("name")
        if not isinstance(name, str) or not name.strip() or len(name) > _MAX_NAME or "<" in name or "\0" in name:
            raise RejectedError(f"{type_}: the name is blank, too long, or has characters that are not allowed")
        if _id(json.get("tenantId"), "tenantId") != self._world.tenant_id:
            raise RejectedError(f"{type_} {name!r}: belongs to another tenant")
        if json.get("customerId") is not None:
            customer_id = _id(json["customerId"], "customerId")
            if customer_id != NULL_UUID and self._world.get("CUSTOMER", customer_id) is None:
                raise RejectedError(f"{type_} {name!r}: no such customer")
        return json

    def _profile_of(self, json: JsonObject, type_: str, key: str) -> Entity:
        if json.get(key) is None:
            return self._world.profile_named(type_, str(json.get("type") or "default"), self._now_ms())
        profile = self._world.get(type_, _id(json[key], key))
        if profile is None:
            raise RejectedError(f"{json['name']!r}: refers to an unknown {type_}")
        return profile

    def _is_quota_reached(self) -> bool:
        quota = self._faults.settings.device_quota
        return quota is not None and len(self._world.of_type("DEVICE")) >= quota


def read_json(text: str) -> JsonObject:
    """An entity's text.

    Raises:
        RejectedError: Not a JSON object; the UplinkMsg fails.
    """
    try:
        json = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RejectedError(f"the entity is not JSON: {error}") from None
    if not isinstance(json, dict):
        raise RejectedError("the entity is not a JSON object")
    return json


def _id(reference: Any, key: str) -> UUID:
    try:
        return UUID(reference["id"])
    except (KeyError, TypeError, ValueError):
        raise RejectedError(f"{key} is missing or not an id") from None


def _same(left: JsonObject, right: JsonObject) -> bool:
    keys = (left.keys() | right.keys()) - {"version"}
    return all(left.get(key) == right.get(key) for key in keys)
