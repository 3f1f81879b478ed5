"""The present state that is kept in memory: devices, profiles, attributes, identity.

It holds what is durable and nothing else: `apply` is called with changes after their commit.
Telemetry is not here: its latest values are read from the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from gateway.domain.changes import (
    Change,
    DeleteAttributes,
    DeleteDevice,
    DeleteEntity,
    DeleteProfile,
    SaveAttributes,
    SaveDevice,
    SaveEntity,
    SaveProfile,
    SaveSetting,
)
from gateway.domain.downlink import DOCUMENT_TYPES
from gateway.domain.entity import Credentials, Device, DeviceProfile, EdgeIdentity, EntityId, Json
from gateway.domain.telemetry import Attribute, attribute_bytes
from gateway.ports import Snapshot, attributes_mark

STATEFUL: Final = frozenset(
    {
        SaveAttributes,
        DeleteAttributes,
        SaveDevice,
        DeleteDevice,
        SaveProfile,
        DeleteProfile,
        SaveEntity,
        DeleteEntity,
        SaveSetting,
    }
)
"""The changes that `State.apply` acts on."""

IN_MEMORY_ENTITIES: Final = frozenset(
    {"ALARM", "ASSET", "ASSET_PROFILE", "CALCULATED_FIELD", "CUSTOMER", "OTA_PACKAGE", "RELATION", "TENANT"}
)
"""Kinds of opaque entities that rules may ask for; the others are only in the store. Who writes them keeps
their number bounded (`gateway.downlink.keeping`)."""

REMOVED: Final = "removed_devices"
"""Setting: configured name to `{"id", "at_ms"}` of devices that the cloud took away; they are not made again."""


class State:
    """Implements `StateReader`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._devices: dict[UUID, Device] = {}
        self._by_local_name: dict[str, UUID] = {}
        self._by_name: dict[str, UUID] = {}
        self._by_credentials: dict[str, UUID] = {}
        self._profiles: dict[UUID, DeviceProfile] = {}
        self._profiles_by_name: dict[str, UUID] = {}
        self._attributes: dict[tuple[EntityId, str], dict[str, Attribute]] = {}
        self._attributes_bytes = 0
        self._entities: dict[str, dict[str, Json]] = {kind: {} for kind in sorted(IN_MEMORY_ENTITIES)}
        self._open_alarms: dict[tuple[str, str, str], str] = {}  # originator's type and id, alarm type
        self._belongings: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        self._documents = {(kind, key): size for kind, key, size in snapshot.documents}
        self._documents_bytes = sum(self._documents.values())
        self._stored: dict[str, set[str]] = {}  # keys of the kinds that are only in the store, documents aside
        self._settings: dict[str, Json] = dict(snapshot.settings)
        self._identity: EdgeIdentity | None = None
        self._floor_ms = snapshot.newest_ms
        for profile in snapshot.profiles:
            self._put_profile(profile)
        for device in snapshot.devices:
            self._put_device(device)
        for entity, scope, key, attribute in snapshot.attributes:
            self._attributes.setdefault((entity, scope), {})[key] = attribute
            self._attributes_bytes += attribute_bytes(key, attribute.value)
        for type_, key, json in snapshot.entities:
            self._put_entity(type_, key, json)
        self._read_identity()

    def device(self, device_id: UUID) -> Device | None:
        """By id."""
        return self._devices.get(device_id)

    def device_named(self, name: str) -> Device | None:
        """By the local name, else by the cloud's."""
        device_id = self._by_local_name.get(name) or self._by_name.get(name)
        return self._devices.get(device_id) if device_id else None

    def device_by_credentials(self, credentials_id: str) -> tuple[Credentials, Device] | None:
        """By unique credentials id."""
        device_id = self._by_credentials.get(credentials_id)
        device = self._devices.get(device_id) if device_id else None
        if device is None or device.credentials is None:
            return None
        return device.credentials, device

    def devices(self) -> Iterator[Device]:
        """All."""
        return iter(self._devices.values())

    def device_count(self) -> int:
        """How many devices there are."""
        return len(self._devices)

    def profiles(self) -> Iterator[DeviceProfile]:
        """All."""
        return iter(self._profiles.values())

    def profile(self, profile_id: UUID) -> DeviceProfile | None:
        """By id."""
        return self._profiles.get(profile_id)

    def profile_named(self, name: str) -> DeviceProfile | None:
        """By name."""
        profile_id = self._profiles_by_name.get(name)
        return self._profiles.get(profile_id) if profile_id else None

    def attribute(self, entity: EntityId, scope: str, key: str) -> Attribute | None:
        """Latest durable value."""
        scoped = self._attributes.get((entity, scope))
        return scoped.get(key) if scoped else None

    def attributes(self, entity: EntityId, scope: str) -> Mapping[str, Attribute]:
        """All of one scope."""
        return self._attributes.get((entity, scope), {})

    def newest_attribute_ms(self, entity: EntityId, scope: str) -> int:
        """What an attribute event of this scope has to be later than."""
        mark_ms: int = self._settings.get(attributes_mark(entity, scope)) or 0
        return max(self._floor_ms, mark_ms, *(held.ts_ms for held in self.attributes(entity, scope).values()))

    def attributes_bytes(self) -> int:
        """What all attributes weigh, about; see `MAX_ATTRIBUTES_BYTES`."""
        return self._attributes_bytes

    def identity(self) -> EdgeIdentity | None:
        """Who the cloud says we are."""
        return self._identity

    def entity_json(self, type_: str, key: str) -> Json | None:
        """An opaque entity of one of the kinds in `IN_MEMORY_ENTITIES`."""
        return self._entities.get(type_, {}).get(key)

    def entities(self, type_: str) -> Mapping[str, Json]:
        """All of one of the kinds in `IN_MEMORY_ENTITIES`, by key, oldest first."""
        return self._entities.get(type_, {})

    def entity_keys(self, type_: str) -> Collection[str]:
        """Keys of all opaque entities of a type, wherever they are."""
        if type_ in DOCUMENT_TYPES:
            return [key for kind, key in self._documents if kind == type_]
        return [*self._entities.get(type_, ()), *self._stored.get(type_, ())]

    def open_alarm(self, originator: EntityId, alarm_type: str) -> tuple[str, Json] | None:
        """The alarm of this originator and type that is not cleared."""
        key = self._open_alarms.get((originator.type, str(originator.id), alarm_type))
        return None if key is None else (key, self._entities["ALARM"][key])

    def belongings(self, entity: EntityId) -> Sequence[tuple[str, str]]:
        """Relations, alarms and calculated fields that go when this entity goes."""
        return list(self._belongings.get((entity.type, str(entity.id)), ()))

    def documents_bytes(self) -> int:
        """What the kept documents weigh, about."""
        return self._documents_bytes

    def setting(self, name: str) -> Json | None:
        """A small named value of the gateway itself."""
        return self._settings.get(name)

    def settings(self, prefix: str) -> Mapping[str, Json]:
        """Those whose name begins so; walks through all of them."""
        return {name: value for name, value in self._settings.items() if name.startswith(prefix)}

    def apply(self, changes: Iterable[Change]) -> None:
        """Follow what has become durable."""
        for change in changes:
            match change:
                case SaveAttributes():
                    scoped = self._attributes.setdefault((change.entity, change.scope), {})
                    for key, value in change.values.items():
                        self._attributes_bytes += attribute_bytes(key, value) - _held_bytes(key, scoped.get(key))
                        scoped[key] = Attribute(change.ts_ms, value)
                case DeleteAttributes():
                    scoped = self._attributes.get((change.entity, change.scope), {})
                    for key in change.keys:
                        self._attributes_bytes -= _held_bytes(key, scoped.pop(key, None))
                case SaveDevice():
                    self._put_device(change.device)
                case DeleteDevice():
                    self._drop_device(change.device_id)
                case SaveProfile():
                    self._put_profile(change.profile)
                case DeleteProfile():
                    self._drop_profile(change.profile_id)
                case SaveEntity():
                    self._put_entity(change.type, change.key, change.json, change.size_bytes)
                case DeleteEntity():
                    self._drop_entity(change.type, change.key)
                case SaveSetting():
                    self._set(change.name, change.value)
                case _:
                    pass

    def _put_entity(self, type_: str, key: str, json: Json, size_bytes: int = 0) -> None:
        if type_ in DOCUMENT_TYPES:
            self._documents_bytes += size_bytes - self._documents.get((type_, key), 0)
            self._documents[type_, key] = size_bytes
            return
        kept = self._entities.get(type_)
        if kept is None:
            self._stored.setdefault(type_, set()).add(key)
            return
        self._unlink(type_, key, kept.get(key))
        kept[key] = json
        for end in _ends(type_, json):
            self._belongings.setdefault(end, {})[type_, key] = None
        if type_ == "ALARM" and json.get("cleared") is not True:
            for end in _ends(type_, json):
                self._open_alarms[*end, str(json.get("type"))] = key

    def _drop_entity(self, type_: str, key: str) -> None:
        self._documents_bytes -= self._documents.pop((type_, key), 0)
        self._stored.get(type_, set()).discard(key)
        self._unlink(type_, key, self._entities.get(type_, {}).pop(key, None))

    def _unlink(self, type_: str, key: str, json: Json | None) -> None:
        """Take what is known of an entity out of the indexes."""
        for end in _ends(type_, json):
            held = self._belongings.get(end)
            if held is not None:
                held.pop((type_, key), None)
                if not held:
                    del self._belongings[end]
            if json is not None and type_ == "ALARM":
                place = (*end, str(json.get("type")))
                if self._open_alarms.get(place) == key:
                    del self._open_alarms[place]

    def _put_device(self, device: Device) -> None:
        self._drop_names(device.id)
        self._devices[device.id] = device
        if device.local_name is not None:
            self._by_local_name[device.local_name] = device.id
        self._by_name[device.name] = device.id
        if device.credentials is not None:
            self._by_credentials[device.credentials.credentials_id] = device.id

    def _drop_names(self, device_id: UUID) -> None:
        old = self._devices.get(device_id)
        if old is None:
            return
        for index, key in (
            (self._by_local_name, old.local_name),
            (self._by_name, old.name),
            (self._by_credentials, old.credentials.credentials_id if old.credentials else None),
        ):
            if key is not None and index.get(key) == device_id:
                del index[key]

    def _drop_device(self, device_id: UUID) -> None:
        self._drop_names(device_id)
        self._devices.pop(device_id, None)
        entity = EntityId("DEVICE", device_id)
        for scope in ("CLIENT_SCOPE", "SERVER_SCOPE", "SHARED_SCOPE"):
            for key, held in self._attributes.pop((entity, scope), {}).items():
                self._attributes_bytes -= _held_bytes(key, held)

    def _put_profile(self, profile: DeviceProfile) -> None:
        self._drop_profile(profile.id)
        self._profiles[profile.id] = profile
        self._profiles_by_name[profile.name] = profile.id

    def _drop_profile(self, profile_id: UUID) -> None:
        old = self._profiles.pop(profile_id, None)
        if old is not None and self._profiles_by_name.get(old.name) == profile_id:
            del self._profiles_by_name[old.name]

    def _set(self, name: str, value: Json | None) -> None:
        if value is None:
            self._settings.pop(name, None)
        else:
            self._settings[name] = value
        if name == "edge_identity":
            self._read_identity()

    def _read_identity(self) -> None:
        kept: Any = self._settings.get("edge_identity")
        self._identity = EdgeIdentity.from_json(kept) if kept else None


def _held_bytes(key: str, held: Attribute | None) -> int:
    return 0 if held is None else attribute_bytes(key, held.value)


_ENDS: Final = {"ALARM": ("originator",), "RELATION": ("from", "to"), "CALCULATED_FIELD": ("entityId",)}


def _ends(type_: str, json: Json | None) -> Iterator[tuple[str, str]]:
    """Whom an alarm, a relation or a calculated field is about: type and id."""
    if not isinstance(json, dict):
        return
    for name in _ENDS.get(type_, ()):
        end = json.get(name)
        if isinstance(end, dict):
            yield str(end.get("entityType")), str(end.get("id")).lower()


def with_profile(device: Device, profile: DeviceProfile) -> Device:
    """The device under this profile; its type is always the profile's name."""
    return replace(device, profile_id=profile.id, type=profile.name)
