"""The cloud, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from gateway.domain.changes import Change
from gateway.domain.cloud_event import StoredEvent
from gateway.domain.downlink import Downlink
from gateway.domain.entity import EdgeIdentity, EntityId, Json
from gateway.domain.message import Message
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import Value


@dataclass(frozen=True, slots=True)
class UplinkAnswer:
    """What the cloud said of one uplink message."""

    is_success: bool
    error: str = ""


class CloudLink(Protocol):
    """The conversation with the cloud, as the sender sees it."""

    @property
    def is_ready(self) -> bool:
        """Uplink is allowed: accepted, and no sync in progress."""
        ...

    async def wait_ready(self) -> int:
        """Returns when uplink is allowed: the number of the session (it grows with each connect)."""
        ...

    async def wait_lost(self) -> None:
        """Returns when uplink is not allowed: at once, or when the session ends."""
        ...

    def size_bytes(self, events: Sequence[StoredEvent]) -> int:
        """What these events would weigh as one message; 0 when nothing would be sent (entity gone, empty data)."""
        ...

    def send(self, events: Sequence[StoredEvent]) -> asyncio.Future[UplinkAnswer]:
        """One uplink message with these events, sent in the order of the calls. The same events, sent again in
        one session after a refusal, keep the number of their message.

        Entities are serialised as they are now. Events of which nothing is left to send count as
        success. The future fails with `LinkLost` when the stream ends before the answer, and with
        `RejectedError` when an event cannot be encoded or is larger than the cloud's limit.

        Raises:
            LinkLost: The link is not ready.
        """
        ...

    @property
    def max_message_bytes(self) -> int:
        """What the cloud announced, less what the envelope needs."""
        ...


class DownlinkHandler(Protocol):
    """Applies what the cloud asks. Implemented by downlink."""

    async def handle(self, downlink: Downlink) -> None:
        """Returns when everything is durable: then it is acknowledged. May be called again before that: the
        order of the calls is kept between downlinks about the same thing.

        Raises:
            RejectedError: It can never be applied: acknowledged all the same, counted and shown with the text; a
                refusal would hold up the cloud's queue. What came before it stays applied.
        """
        ...

    async def connected(self, identity: EdgeIdentity) -> bool:
        """Accepted by the cloud, or the EDGE entity changed. True: a full sync is needed (new identity, or
        no sync has ever completed).
        """
        ...


class PackageKeeper(Protocol):
    """OTA packages of the cloud. Implemented by devices."""

    async def put_package(self, package_id: UUID, json: Mapping[str, Json]) -> bool:
        """Durable when it returns, the binary as a file; False: nothing was new. One that must not be served (wrong
        checksum, no room) is kept by name, with the reason: refusing the message would only bring it again.

        Raises:
            RejectedError: This is no package.
        """
        ...

    async def delete_package(self, package_id: UUID) -> None:
        """Unknown id is no error."""
        ...


class DeviceCommands(Protocol):
    """What the downlink asks of the device room. Every method returns when it is durable."""

    async def change_identity(self, identity: EdgeIdentity) -> None:
        """Another edge id: the old tenant's entities go, our own devices are announced anew."""
        ...

    async def put_device(
        self, device_id: UUID, json: Mapping[str, Json], credentials: Mapping[str, Json] | None = None
    ) -> None:
        """Create or replace; the cloud's name wins, the local one stays as an alias. Nothing is written when
        nothing changes.

        `credentials` are those that `put_credentials` will be called with next: they are saved with the device
        when nothing speaks against it, and are left to that call otherwise.
        """
        ...

    async def delete_device(self, device_id: UUID) -> None:
        """Closes its session; unknown id is no error."""
        ...

    async def put_credentials(self, device_id: UUID, json: Mapping[str, Json]) -> None:
        """Unknown device is no error. A session under other credentials is closed."""
        ...

    async def put_profile(self, profile_id: UUID, json: Mapping[str, Json]) -> None:
        """A local profile of the same name and another id is replaced and its devices moved."""
        ...

    async def delete_profile(self, profile_id: UUID) -> None:
        """Unknown id is no error."""
        ...

    async def update_attributes(
        self, entity: EntityId, scope: str, values: Mapping[str, Value], ts_ms: int | None
    ) -> None:
        """Store, run ATTRIBUTES_UPDATED through the rules (source=cloud), tell the device (SHARED_SCOPE).
        Keys not newer than stored are dropped; unknown entity is no error.
        """
        ...

    async def delete_attributes(self, entity: EntityId, scope: str, keys: Sequence[str]) -> None:
        """Delete, tell the device."""
        ...

    async def post_from_cloud(self, message: Message, first: Sequence[Change] = ()) -> None:
        """Telemetry or attributes from the cloud, or what it did to an alarm, into the rules; `first` becomes durable
        with what they make of it, in any case.
        """
        ...

    async def call_device(self, request: RpcRequest) -> None:
        """Durable when it returns; the answer travels as a cloud event later. A repeated `request_uuid` is ignored."""
        ...

    async def answer_device(self, device_id: UUID, request_id: int, session_id: str | None, response: str) -> None:
        """The cloud's answer to a call that a device made."""
        ...

    async def announce_again(self, announced_ms: Mapping[UUID, int], among: Container[UUID]) -> Sequence[UUID]:
        """Devices made here that a completed sync did not bring, and when each was announced last; returns those whose
        announcement is confirmed. Of these, `among` are announced once more, ahead of what waits.
        """
        ...

    async def append_event(self, type_: str, action: str, entity_id: UUID | None, body: Json | None = None) -> None:
        """Queue one event (requests for attributes, relations, credentials …)."""
        ...
