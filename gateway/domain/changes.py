"""What a message caused. Rules and sessions do not write: they return changes, the committer writes them.

The changes of one message are its unit of work: all of them become durable together, or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.domain.cloud_event import CloudEvent, Lane, StoredEvent
from gateway.domain.entity import Device, DeviceProfile, EntityId, Json
from gateway.domain.rpc import RpcState
from gateway.domain.telemetry import Value


@dataclass(slots=True)
class SaveTelemetry:
    """History and latest value of every key. A latest value is replaced only by one not older."""

    entity: EntityId
    ts_ms: int
    values: Mapping[str, Value]
    keep_history: bool = True


@dataclass(slots=True)
class SaveAttributes:
    """Upsert; `ts_ms` is when the values were written."""

    entity: EntityId
    scope: str
    ts_ms: int
    values: Mapping[str, Value]


@dataclass(slots=True)
class DeleteAttributes:
    """Unknown keys are no error."""

    entity: EntityId
    scope: str
    keys: Sequence[str]


@dataclass(slots=True)
class SaveDevice:
    """Upsert by id, credentials included."""

    device: Device


@dataclass(slots=True)
class DeleteDevice:
    """With its attributes, telemetry and credentials; unknown id is no error. Queued events stay."""

    device_id: UUID


@dataclass(slots=True)
class SaveProfile:
    """Upsert by id."""

    profile: DeviceProfile


@dataclass(slots=True)
class DeleteProfile:
    """Unknown id is no error."""

    profile_id: UUID


@dataclass(slots=True)
class SaveEntity:
    """Any other entity, kept as the JSON it came with: ASSET, RULE_CHAIN, RULE_CHAIN_METADATA, RELATION …

    `key` is the uuid's text, or a text of our own where the entity has no id (relations). `size_bytes` is
    about what it weighs; only known of documents.
    """

    type: str
    key: str
    json: Json
    size_bytes: int = 0


@dataclass(slots=True)
class DeleteEntity:
    """Unknown key is no error."""

    type: str
    key: str


@dataclass(slots=True)
class SaveRpc:
    """State of one call from the cloud; `request` is the call as JSON, for the answer after a restart."""

    request_uuid: UUID
    device_id: UUID
    state: RpcState
    expires_ms: int
    request: Json


@dataclass(slots=True)
class SaveSetting:
    """A small named value of the gateway itself (edge identity, 'first sync done'); None deletes it."""

    name: str
    value: Json


RULE_ITEM: Final = "rule_node"
"""Kind of what rule nodes hold of the data of devices. It waits where that waits, so that its order is kept."""


@dataclass(slots=True)
class SaveLocal:
    """Something that local publish/subscribe or a rule node keeps, upsert by kind and key: opaque to a store."""

    kind: str
    key: str
    body: bytes


@dataclass(slots=True)
class DropLocal:
    """Unknown key is no error."""

    kind: str
    key: str


@dataclass(slots=True)
class AppendEvent:
    """To the end of the event's lane."""

    event: CloudEvent


@dataclass(slots=True)
class MoveCursor:
    """The cloud has confirmed (or parked is) everything of this lane up to `seq_id`. Never moves back."""

    lane: Lane
    seq_id: int


@dataclass(slots=True)
class ParkEvent:
    """Keep a copy of an event that the cloud refuses, with the reason; the cursor is moved separately."""

    event: StoredEvent
    reason: str
    tries: int
    parked_ms: int


@dataclass(slots=True)
class ParkPending:
    """Everything of this lane that waits, up to `up_to_seq` and to the last event in front of this change, is moved
    to the parked ones, unsent, and the cursor with it. What is parked already keeps its reason.

    The work of the transaction grows with the number of events: who has many gives them in portions.
    """

    lane: Lane
    up_to_seq: int
    reason: str
    parked_ms: int


@dataclass(slots=True)
class DropParked:
    """A person has decided on a parked event: it goes. To send it again, its `AppendEvent` is in the same unit.

    Unknown is no error, so that a second time changes nothing.
    """

    lane: Lane
    seq_id: int


Change = (
    SaveTelemetry
    | SaveAttributes
    | DeleteAttributes
    | SaveDevice
    | DeleteDevice
    | SaveProfile
    | DeleteProfile
    | SaveEntity
    | DeleteEntity
    | SaveRpc
    | SaveSetting
    | SaveLocal
    | DropLocal
    | AppendEvent
    | MoveCursor
    | ParkEvent
    | ParkPending
    | DropParked
)
UnitOfWork = Sequence[Change]
