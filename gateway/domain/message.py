"""A message on its way through a rule chain."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from uuid import UUID

from gateway.domain.entity import EntityId, Json


class MessageType(StrEnum):
    """The types a gateway makes itself; a chain may use any other text."""

    POST_TELEMETRY_REQUEST = "POST_TELEMETRY_REQUEST"
    POST_ATTRIBUTES_REQUEST = "POST_ATTRIBUTES_REQUEST"
    ATTRIBUTES_UPDATED = "ATTRIBUTES_UPDATED"
    ATTRIBUTES_DELETED = "ATTRIBUTES_DELETED"
    TIMESERIES_UPDATED = "TIMESERIES_UPDATED"
    TO_SERVER_RPC_REQUEST = "TO_SERVER_RPC_REQUEST"
    RPC_CALL_FROM_SERVER_TO_DEVICE = "RPC_CALL_FROM_SERVER_TO_DEVICE"
    CONNECT_EVENT = "CONNECT_EVENT"
    DISCONNECT_EVENT = "DISCONNECT_EVENT"
    ACTIVITY_EVENT = "ACTIVITY_EVENT"
    INACTIVITY_EVENT = "INACTIVITY_EVENT"
    ENTITY_CREATED = "ENTITY_CREATED"
    ENTITY_UPDATED = "ENTITY_UPDATED"
    ENTITY_DELETED = "ENTITY_DELETED"


@dataclass(slots=True)
class Message:
    """One message. Treated as a value: a node that changes something makes a new one.

    `data` is the parsed JSON body, `metadata` text to text. The time of the data is metadata `ts` when
    that parses as a number, else `ts_ms`. Not frozen only because making one is in the hot path
    (measured: a frozen dataclass with slots costs 3 times as much to create, names of arguments double it).

    `id` is the number of the message in this process: of one that was changed it stays, each copy has its own.
    """

    type: str
    originator: EntityId
    data: Json
    metadata: dict[str, str]
    ts_ms: int
    id: int = field(default_factory=count(1).__next__)
    fields: tuple[UUID, ...] = ()
    """The calculated fields that led to it: none of them is fed with it, or they would never end."""

    @property
    def data_ts_ms(self) -> int:
        """When the data was true: metadata `ts`, else the message's own time (milliseconds)."""
        text = self.metadata.get("ts")
        if text:
            try:
                return int(text)
            except ValueError:
                return self.ts_ms
        return self.ts_ms
