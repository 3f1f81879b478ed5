"""RPC: a call to a device, or from one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from gateway.domain.entity import Json


class RpcError(StrEnum):
    """The only error texts that the cloud accepts in an answer."""

    NOT_FOUND = "NOT_FOUND"
    FORBIDDEN = "FORBIDDEN"
    NO_ACTIVE_CONNECTION = "NO_ACTIVE_CONNECTION"
    TIMEOUT = "TIMEOUT"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcRequest:
    """A call to a device, as it travels inside the gateway.

    `request_id` and `request_uuid` are the caller's and come back with the answer; `params` is parsed
    JSON; `expires_ms` is UTC epoch milliseconds. `is_from_cloud` is False for a call that a rule chain makes itself.
    `retries`: how often a persisted call is sent again without an acknowledgement; 0: the caller has not said.
    """

    device_id: UUID
    method: str
    params: Json
    request_id: int
    expires_ms: int
    is_oneway: bool = False
    is_persisted: bool = False
    request_uuid: UUID | None = None
    is_from_cloud: bool = True
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcResponse:
    """What came of a call: the device's JSON text, or one of `RpcError`."""

    response: str | None = None
    error: RpcError | None = None


class RpcState(StrEnum):
    """Where a call stands; the store keeps it so that a repeated downlink calls the device once.

    A persisted call is DELIVERED when the device has it, and in TIMEOUT while it was sent, was not acknowledged, and
    waits to be sent again. DONE is every end.
    """

    QUEUED = "QUEUED"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    TIMEOUT = "TIMEOUT"
    DONE = "DONE"


class RpcStrategy(StrEnum):
    """When the next call to the same device goes out; the names are ThingsBoard's."""

    BURST = "BURST"
    SEQUENTIAL_ON_ACK_FROM_DEVICE = "SEQUENTIAL_ON_ACK_FROM_DEVICE"
    SEQUENTIAL_ON_RESPONSE_FROM_DEVICE = "SEQUENTIAL_ON_RESPONSE_FROM_DEVICE"
