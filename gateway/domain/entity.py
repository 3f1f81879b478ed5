"""Entities: what a message can be about."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID, SafeUUID

Json = Any  # a value that came out of, or goes into, JSON: dict, list, str, int, float, bool, None

NULL_UUID: Final = UUID("13814000-1dd2-11b2-8080-808080808080")
"""'No id' on the wire: the system tenant, 'no customer'. Source: ThingsBoard `EntityId.NULL_UUID`."""


class EntityType(StrEnum):
    """The names used in JSON and as event types; more exist, and unknown ones travel as plain text."""

    DEVICE = "DEVICE"
    ASSET = "ASSET"
    TENANT = "TENANT"
    CUSTOMER = "CUSTOMER"
    USER = "USER"
    DASHBOARD = "DASHBOARD"
    ENTITY_VIEW = "ENTITY_VIEW"
    EDGE = "EDGE"
    ALARM = "ALARM"
    RULE_CHAIN = "RULE_CHAIN"
    RULE_NODE = "RULE_NODE"
    DEVICE_PROFILE = "DEVICE_PROFILE"
    ASSET_PROFILE = "ASSET_PROFILE"


class EntityId(NamedTuple):
    """An entity's kind (an `EntityType` name) and id. A plain tuple: it is a key in every hot path."""

    type: str
    id: UUID


class CredentialsType(StrEnum):
    """How a device proves who it is."""

    ACCESS_TOKEN = "ACCESS_TOKEN"
    MQTT_BASIC = "MQTT_BASIC"
    X509_CERTIFICATE = "X509_CERTIFICATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One record per device. `credentials_id` is unique on a gateway and is what a look-up uses."""

    type: str
    credentials_id: str = field(repr=False)
    value: str | None = field(default=None, repr=False)


class Origin(StrEnum):
    """Who created an entity: decides who may rename it and whether its profile is sent up."""

    EDGE = "EDGE"  #: by this gateway: configuration, provisioning, gateway sub-device
    CLOUD = "CLOUD"  #: came down; its JSON is kept whole, because an update replaces the whole entity


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """A device profile; `json` is the entity as the cloud sent it (None while only we know it)."""

    id: UUID
    name: str
    origin: str = Origin.EDGE
    is_default: bool = False
    default_rule_chain_id: UUID | None = None
    json: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device. `type` is its profile's name; `json` is the entity as the cloud sent it.

    `name` is the name in the cloud; `local_name` the one in the configuration, which stays when the
    cloud renames the device.
    """

    id: UUID
    name: str
    type: str
    profile_id: UUID | None = None
    label: str | None = None
    created_ms: int = 0
    local_name: str | None = None
    is_gateway: bool = False
    origin: str = Origin.EDGE
    credentials: Credentials | None = None
    json: Mapping[str, Json] | None = None

    @property
    def entity_id(self) -> EntityId:
        """The device as an originator."""
        return EntityId("DEVICE", self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeIdentity:
    """Who the cloud says we are (`EdgeConfiguration`); the routing key and secret are not kept here."""

    edge_id: UUID
    tenant_id: UUID
    customer_id: UUID | None = None
    name: str = ""
    type: str = ""
    cloud_type: str = "CE"

    def to_json(self) -> dict[str, str | None]:
        """As it is kept in the setting `edge_identity`."""
        return {
            "edge_id": str(self.edge_id),
            "tenant_id": str(self.tenant_id),
            "customer_id": str(self.customer_id) if self.customer_id else None,
            "name": self.name,
            "type": self.type,
            "cloud_type": self.cloud_type,
        }

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> EdgeIdentity:
        """The reverse of `to_json`."""
        return cls(
            edge_id=UUID(json["edge_id"]),
            tenant_id=UUID(json["tenant_id"]),
            customer_id=UUID(json["customer_id"]) if json.get("customer_id") else None,
            name=json.get("name", ""),
            type=json.get("type", ""),
            cloud_type=json.get("cloud_type", "CE"),
        )


_EPOCH_OFFSET: Final = 0x01B21DD213814000  # 100 ns steps between 1582-10-15 and 1970-01-01 (RFC 9562 §5.1)
_node: Final = int.from_bytes(os.urandom(6), "big") | 0x010000000000  # random node: multicast bit set
_clock_seq: Final = int.from_bytes(os.urandom(2), "big") & 0x3FFF
_low_bits: Final = (0x8000 | _clock_seq) << 48 | _node
_last_ticks = 0
_ticks_lock = threading.Lock()
_upper = -1  # what the ticks were above 32 bits, and what an id has of that, with the low bits
_upper_bits = 0
# `UUID(int=…)` costs three times as much: it looks up what an enum holds, and refuses to be written to.
_new_uuid: Final = object.__new__
_set_int: Final = UUID.__dict__["int"].__set__
_set_safety: Final = UUID.__dict__["is_safe"].__set__
_UNKNOWN: Final = SafeUUID.unknown


def time_uuid() -> UUID:
    """A time-based UUID (version 1), strictly increasing in this process; any thread.

    Version 1 because the cloud takes the creation time of some entities from it.
    """
    global _last_ticks, _upper, _upper_bits
    with _ticks_lock:
        ticks = time.time_ns() // 100 + _EPOCH_OFFSET
        if ticks <= _last_ticks:
            ticks = _last_ticks + 1
        _last_ticks = ticks
        upper = ticks >> 32
        if upper != _upper:
            _upper_bits = (upper & 0xFFFF) << 80 | (0x1000 | upper >> 16 & 0x0FFF) << 64 | _low_bits
            _upper = upper
        bits = (ticks & 0xFFFFFFFF) << 96 | _upper_bits
    made: UUID = _new_uuid(UUID)
    _set_int(made, bits)
    _set_safety(made, _UNKNOWN)
    return made
