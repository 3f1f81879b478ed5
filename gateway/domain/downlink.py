"""What the cloud asks of us: `DownlinkMsg` and `EdgeUpdateMsg`, translated once at the codec.

One `DownlinkMsg` becomes one `Downlink` with its commands in the order in which they are to be applied
(ThingsBoard Edge's order: sync completed, edge configuration, entity data, RPC, credentials requests,
profiles, devices, credentials, …).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final
from uuid import UUID

from gateway.domain.entity import EdgeIdentity, EntityId, Json
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import TsKv, Value

DOCUMENT_TYPES: Final = frozenset({"DASHBOARD", "ENTITY_VIEW", "TB_RESOURCE", "WIDGETS_BUNDLE", "WIDGET_TYPE"})
"""Entities that nothing here acts on: they stay in the store and are not loaded into memory at start."""

MOVED_DEVICES: Final = "moved_devices"
"""Setting: id to id, of devices whose queued events belong to the cloud's device of the same name."""
IDENTITY_MS: Final = "identity_ms"
"""Setting: when this gateway became another edge; events that are older belong to the edge it was before."""
LAST_GATEWAY: Final = "last_gateway:"
"""Setting, with the device's id: id of the gateway behind which it was seen last, `lastConnectedGateway` up there."""
SYNC_MS: Final = "sync_ms"
"""Setting: when the last sync was completed; nothing goes up before that."""


class UpdateKind(IntEnum):
    """`UpdateMsgType` of the wire."""

    CREATED = 0
    UPDATED = 1
    DELETED = 2
    ALARM_ACK = 3
    ALARM_CLEAR = 4


@dataclass(frozen=True, slots=True)
class SyncCompleted:
    """The cloud has sent everything of the requested sync."""


@dataclass(frozen=True, slots=True)
class EdgeConfigured:
    """The EDGE entity, on connect or when it changed in the cloud."""

    identity: EdgeIdentity


@dataclass(frozen=True, slots=True)
class TelemetryReceived:
    """Telemetry pushed to the edge by a cloud rule."""

    entity: EntityId
    series: Sequence[TsKv]


@dataclass(frozen=True, slots=True)
class AttributesReceived:
    """`ts_ms` is None from servers before 4.0. `is_post`: as if posted by the device (goes through the rules)."""

    entity: EntityId
    scope: str
    values: Mapping[str, Value]
    ts_ms: int | None
    is_post: bool = False


@dataclass(frozen=True, slots=True)
class AttributesRemoved:
    """Keys deleted in the cloud."""

    entity: EntityId
    scope: str
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class RpcCalled:
    """A call to one of our devices."""

    request: RpcRequest


@dataclass(frozen=True, slots=True)
class RpcAnswered:
    """The cloud's answer to a call that a device made; matched by device and `request_id`."""

    device_id: UUID
    request_id: int
    session_id: str | None
    response: str
    error: str


@dataclass(frozen=True, slots=True)
class CredentialsRequested:
    """A 3.7 server wants the credentials of a device that came from us."""

    device_id: UUID


@dataclass(frozen=True, slots=True)
class EntityUpdated:
    """One `…UpdateMsg`: DEVICE, DEVICE_PROFILE, ASSET, RULE_CHAIN, RULE_CHAIN_METADATA, RELATION, ALARM, …

    `id` is None for messages that carry none; `json` is None in deletes and when the text was empty;
    `size_bytes` is what the text weighed.
    """

    type: str
    kind: UpdateKind
    id: UUID | None
    json: Json | None
    size_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class CredentialsUpdated:
    """Type, id and value replace those of the device."""

    device_id: UUID
    json: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A field that is known and deliberately not applied (users, mail settings), or unknown to us."""

    name: str


Command = (
    SyncCompleted
    | EdgeConfigured
    | TelemetryReceived
    | AttributesReceived
    | AttributesRemoved
    | RpcCalled
    | RpcAnswered
    | CredentialsRequested
    | EntityUpdated
    | CredentialsUpdated
    | Ignored
)


@dataclass(frozen=True, slots=True)
class Downlink:
    """One message from the cloud; `id` is for the acknowledgement only."""

    id: int
    commands: Sequence[Command]
