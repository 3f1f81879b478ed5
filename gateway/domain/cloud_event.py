"""What goes to the cloud: first a durable event, then a message."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from uuid import UUID

from gateway.domain.entity import time_uuid


class Action(StrEnum):
    """`cloud_event_action`: the names of ThingsBoard's `EdgeEventActionType`."""

    ADDED = "ADDED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"
    TIMESERIES_UPDATED = "TIMESERIES_UPDATED"
    TIMESERIES_DELETED = "TIMESERIES_DELETED"
    ATTRIBUTES_UPDATED = "ATTRIBUTES_UPDATED"
    ATTRIBUTES_DELETED = "ATTRIBUTES_DELETED"
    POST_ATTRIBUTES = "POST_ATTRIBUTES"
    CREDENTIALS_UPDATED = "CREDENTIALS_UPDATED"
    ASSIGNED_TO_CUSTOMER = "ASSIGNED_TO_CUSTOMER"
    UNASSIGNED_FROM_CUSTOMER = "UNASSIGNED_FROM_CUSTOMER"
    RPC_CALL = "RPC_CALL"
    ALARM_ACK = "ALARM_ACK"
    ALARM_CLEAR = "ALARM_CLEAR"
    ALARM_DELETE = "ALARM_DELETE"
    ADDED_COMMENT = "ADDED_COMMENT"
    UPDATED_COMMENT = "UPDATED_COMMENT"
    DELETED_COMMENT = "DELETED_COMMENT"
    RELATION_ADD_OR_UPDATE = "RELATION_ADD_OR_UPDATE"
    RELATION_DELETED = "RELATION_DELETED"
    RELATIONS_DELETED = "RELATIONS_DELETED"
    ATTRIBUTES_REQUEST = "ATTRIBUTES_REQUEST"
    RELATION_REQUEST = "RELATION_REQUEST"
    CALCULATED_FIELD_REQUEST = "CALCULATED_FIELD_REQUEST"
    RULE_CHAIN_METADATA_REQUEST = "RULE_CHAIN_METADATA_REQUEST"
    CREDENTIALS_REQUEST = "CREDENTIALS_REQUEST"


class Lane(IntEnum):
    """Two queues in one table, each with its own `seq_id` and cursor."""

    MAIN = 0  #: in order
    EXPRESS = 1  #: RPC calls and answers, and what a device waits for: in no order, never behind a backlog


class EventStatus(StrEnum):
    """Computed from the cursor, as ThingsBoard Edge does it."""

    PENDING = "PENDING"  #: the cloud has not confirmed it
    DEPLOYED = "DEPLOYED"  #: confirmed
    PARKED = "PARKED"  #: refused again and again; kept until a person decides


class WhenFull(StrEnum):
    """What happens when the store reaches its limit."""

    WAIT = "wait"  #: producers wait: polling slows down, MQTT devices get their PUBACK later
    DROP_OLDEST = "drop_oldest"  #: the cloud misses the oldest telemetry, the newest survives


@dataclass(slots=True)
class CloudEvent:
    """An event before it is stored. `body` is JSON text as bytes; shapes by action (ThingsBoard Edge's):

    - TIMESERIES_UPDATED `{"ts":ms,"data":{key:value}}`
    - ATTRIBUTES_UPDATED `{"kv":{…},"ts":ms,"scope":"…"}`; POST_ATTRIBUTES the same with `"isPostAttributes":true`
    - ATTRIBUTES_DELETED `{"keys":[…],"scope":"…"}`
    - RPC_CALL `{"requestUUID","expirationTime","oneway","requestId","response"|"error"}` (an answer) or
      `{"requestId","serviceId","sessionId","method","params"}` (a call by a device)
    - RELATION_ADD_OR_UPDATE, RELATION_DELETED the relation; RELATIONS_DELETED `{"relations":[…]}`, one message
      part for each of them
    - ALARM_DELETE (or DELETED of an ALARM) the alarm; other alarm events the alarm, or None: as it is when it is sent
    - …_COMMENT the comment
    - ATTRIBUTES_REQUEST of no entity `{"entities":[[type,id],…]}`: about all of these
    - other entity events: None, the entity is serialised as it is when it is sent; nothing is sent when it is gone
    - TIMESERIES_DELETED, and whatever has no message of its own, stays here: its place counts as confirmed

    `type` is a CloudEventType name (DEVICE, ASSET, EDGE, …). Not frozen: made in the hot path.
    """

    type: str
    action: str
    entity_id: UUID | None
    created_ms: int
    body: bytes | None = None
    lane: Lane = Lane.MAIN
    id: UUID = field(default_factory=time_uuid)


@dataclass(slots=True, kw_only=True)
class StoredEvent:
    """An event with its place in its lane. `seq_id` counts from 1 without gaps, per lane."""

    seq_id: int
    lane: Lane
    id: UUID
    type: str
    action: str
    entity_id: UUID | None
    created_ms: int
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedEvent:
    """An event that the cloud refused for good, with its reason."""

    event: StoredEvent
    reason: str
    tries: int
    parked_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedChoice:
    """Which parked events a person means: all that fit everything given here. Nothing given: all."""

    seq_ids: frozenset[int] | None = None
    reason: str | None = None  #: a part of the reason's text
    entity_ids: frozenset[UUID] | None = None

    def holds(self, parked: ParkedEvent) -> bool:
        """True when it fits."""
        return (
            (self.seq_ids is None or parked.event.seq_id in self.seq_ids)
            and (self.reason is None or self.reason in parked.reason)
            and (self.entity_ids is None or parked.event.entity_id in self.entity_ids)
        )
