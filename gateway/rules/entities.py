"""What rules may know of entities: their fields, whose they are, which one has a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.domain.entity import NULL_UUID, Device, EntityId, EntityType, Json
from gateway.ports import StateReader
from gateway.rules.chain import entity_uuid
from gateway.rules.node import as_text

ABSENT: Final = object()


def entity_fields(state: StateReader, entity: EntityId) -> Mapping[str, Json] | None:
    """Of an entity that is kept here whole; None: it is not."""
    if entity.type == EntityType.DEVICE:
        device = state.device(entity.id)
        return _device_fields(device) if device else None
    json = state.entity_json(entity.type, str(entity.id))
    return json if isinstance(json, dict) else None


def _device_fields(device: Device) -> Mapping[str, Json]:
    own = {
        "id": str(device.id),
        "name": device.name,
        "type": device.type,
        "label": device.label,
        "createdTime": device.created_ms,
        "deviceProfileId": str(device.profile_id) if device.profile_id else None,
        "additionalInfo": {"gateway": device.is_gateway},
    }
    return {**own, **device.json} if device.json else own


def field_at(fields: Mapping[str, Json], path: Sequence[str]) -> Json:
    """The value at a path; `ABSENT` when there is none."""
    value: Json = fields
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return ABSENT
        value = value[part]
    return value


def field_text(value: Json) -> str:
    """As ThingsBoard writes a field: ids bare, objects as JSON."""
    if value is None:
        return "null"
    if isinstance(value, dict) and isinstance(value.get("id"), str) and "entityType" in value:
        return str(value["id"])
    return as_text(value)


def reference(json: Json) -> EntityId | None:
    """`{"entityType", "id"}`; None: it is none, or 'no entity'."""
    kind = json.get("entityType") if isinstance(json, dict) else None
    id_ = entity_uuid(json)
    return EntityId(kind, id_) if isinstance(kind, str) and id_ is not None and id_ != NULL_UUID else None


def is_known(state: StateReader, entity: EntityId) -> bool:
    """Whether it is kept here, be it by its id only."""
    identity = state.identity()
    match entity.type:
        case EntityType.DEVICE:
            return state.device(entity.id) is not None
        case EntityType.DEVICE_PROFILE:
            return state.profile(entity.id) is not None
        case EntityType.EDGE:
            return identity is not None and identity.edge_id == entity.id
        case EntityType.TENANT if identity is not None and identity.tenant_id == entity.id:
            return True
    return state.entity_json(entity.type, str(entity.id)) is not None or str(entity.id) in state.entity_keys(
        entity.type
    )


def tenant_of(state: StateReader) -> EntityId | None:
    """Whose gateway this is; None before the first connect."""
    identity = state.identity()
    return EntityId("TENANT", identity.tenant_id) if identity else None


def customer_of(state: StateReader, entity: EntityId) -> EntityId | None:
    """None: it belongs to none, or it is not known here."""
    if entity.type == EntityType.CUSTOMER:
        return entity
    if entity.type == EntityType.EDGE:
        identity = state.identity()
        customer_id = identity.customer_id if identity and identity.edge_id == entity.id else None
    else:
        customer_id = entity_uuid((entity_fields(state, entity) or {}).get("customerId"))
    return None if customer_id is None or customer_id == NULL_UUID else EntityId("CUSTOMER", customer_id)


def named(state: StateReader, type_: str, name: str) -> EntityId | None:
    """By the exact name (customers: title). Looks at all of the kind, devices aside."""
    match type_:
        case EntityType.DEVICE:
            device = state.device_named(name)
            return device.entity_id if device else None
        case EntityType.EDGE:
            identity = state.identity()
            return EntityId("EDGE", identity.edge_id) if identity and identity.name == name else None
        case EntityType.TENANT:
            return tenant_of(state)
    for key, json in state.entities(type_).items():
        if isinstance(json, dict) and name in (json.get("name"), json.get("title")):
            id_ = entity_uuid(key)
            return EntityId(type_, id_) if id_ else None
    return None


def profile_name(state: StateReader, entity: EntityId) -> str | None:
    """Of a device or asset; None: it is neither, or not known."""
    if entity.type == EntityType.DEVICE:
        device = state.device(entity.id)
        profile = state.profile(device.profile_id) if device and device.profile_id else None
        return profile.name if profile else device.type if device else None
    if entity.type != EntityType.ASSET:
        return None
    asset = entity_fields(state, entity)
    if asset is None:
        return None
    profile_id = entity_uuid(asset.get("assetProfileId"))
    json = state.entity_json("ASSET_PROFILE", str(profile_id)) if profile_id else None
    found = json.get("name") if isinstance(json, dict) else asset.get("type")
    return found if isinstance(found, str) and found else None
