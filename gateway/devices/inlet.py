"""Who is connected: sessions, and the way in for broker and fieldbus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from gateway.devices.asking import Asking
from gateway.devices.claims import Claims
from gateway.devices.connectivity import Connectivity
from gateway.devices.names import Names
from gateway.devices.notices import Notices
from gateway.devices.provisioning import Provisioning
from gateway.devices.questions import Questions
from gateway.devices.sub_devices import SubDevices
from gateway.domain.changes import Change, SaveSetting
from gateway.domain.entity import Credentials, Device, DeviceProfile, EntityId, Json
from gateway.domain.message import Message, MessageType
from gateway.domain.onboarding import CertificateChain, ProvisionAnswer, ProvisionRequest
from gateway.domain.telemetry import AttributeScope, TsKv, Value
from gateway.errors import RejectedError
from gateway.ports import AttributeNotice, Clock, Committer, DeviceChanged, DeviceChannel, Receipt
from gateway.supervise import Counters

if TYPE_CHECKING:
    from gateway.devices.pipeline import Pipeline
    from gateway.devices.rpc import RpcDesk
    from gateway.devices.state import State

log = logging.getLogger(__name__)

SERVICE_ID: Final = "edge-gateway"
"""`serviceId` of messages: which transport node a device talks to; there is only one here."""

OWED: Final = "owed_attributes:"
"""Setting, with the device's id: keys of shared attributes that changed while the device did not listen."""

_TELEMETRY: Final = MessageType.POST_TELEMETRY_REQUEST.value
_ATTRIBUTES: Final = MessageType.POST_ATTRIBUTES_REQUEST.value


class Session:
    """One live connection of one device. Implements `DeviceSession`."""

    __slots__ = (
        "_entity",
        "_expected_s",
        "_inlet",
        "_last_receipt",
        "channel",
        "confirms_rpc",
        "device",
        "hears_attributes",
        "hears_rpc",
        "id",
        "is_open",
        "last_activity_ms",
        "opened_ms",
        "readings",
    )

    def __init__(self, inlet: Inlet, device: Device, channel: DeviceChannel, now_ms: int) -> None:
        self._inlet = inlet
        self.device = device
        self.channel = channel
        self.id = uuid4()
        self.is_open = True
        self.hears_attributes = False
        self.hears_rpc = self.confirms_rpc = False
        self._expected_s = 0.0  # until when it counts as connected though it does not ask now
        self.opened_ms = self.last_activity_ms = now_ms
        self.readings = 0
        self._entity = device.entity_id
        self._last_receipt: Receipt | None = None

    def post_telemetry(self, items: Sequence[TsKv], metadata: Mapping[str, str] | None = None) -> Receipt:
        """Into the rules, one message for each time stamp."""
        inlet = self._inlet
        device = self.device
        self.last_activity_ms = now_ms = inlet.clock.now_ms()
        self.readings += len(items)
        entity, name, type_ = self._entity, device.name, device.type
        messages: list[Message] = []
        for ts_ms, values in items:
            told = {"deviceName": name, "deviceType": type_, "ts": str(ts_ms)}
            if metadata is not None:
                told.update(metadata)
            messages.append(Message(_TELEMETRY, entity, values, told, now_ms))
        receipt = inlet.pipeline.run(messages)
        self._last_receipt = receipt
        return receipt

    def post_attributes(self, values: Mapping[str, Value], metadata: Mapping[str, str] | None = None) -> Receipt:
        """Client attributes, into the rules."""
        self.last_activity_ms = now_ms = self._inlet.clock.now_ms()
        written_ms = self._inlet.attributes_ms(self._entity, now_ms)
        receipt = self._inlet.pipeline.run(
            [
                Message(
                    type=_ATTRIBUTES,
                    originator=self._entity,
                    data=values,
                    metadata={
                        "deviceName": self.device.name,
                        "deviceType": self.device.type,
                        "notifyDevice": "false",
                        **(metadata or {}),
                    },
                    ts_ms=written_ms,
                )
            ]
        )
        self._last_receipt = receipt
        return receipt

    async def request_attributes(
        self, client_keys: Sequence[str] | None, shared_keys: Sequence[str] | None
    ) -> tuple[Mapping[str, Value], Mapping[str, Value]]:
        """Attributes of the asked keys that exist; an empty list asks for all of that scope, None for none.

        Shared ones that are not here are asked of the cloud and waited for, see `gateway.devices.asking`.
        """
        receipt = self._last_receipt
        if receipt is not None and not receipt.done():
            await asyncio.wait([receipt])
        if shared_keys is not None and self.is_open:
            await self._inlet.asking.complete(self, shared_keys)
        return (
            self._some(AttributeScope.CLIENT_SCOPE, client_keys),
            self._some(AttributeScope.SHARED_SCOPE, shared_keys),
        )

    def _some(self, scope: AttributeScope, keys: Sequence[str] | None) -> Mapping[str, Value]:
        if keys is None:
            return {}
        held = self._inlet.state.attributes(self._entity, scope)
        if not keys:
            return {key: attribute.value for key, attribute in held.items()}
        return {key: held[key].value for key in keys if key in held}

    def answer_rpc(self, rpc_id: int, response: str) -> Receipt:
        """The device's answer; an unknown or expired id is ignored."""
        self.touch()
        return self._inlet.rpc.answered(self.device.id, rpc_id, response)

    async def call_server(self, request_id: int, method: str, params: Json) -> str | None:
        """Client-side RPC: JSON text of the answer, None when none came in time."""
        self.touch()
        return await self._inlet.rpc.call_server(self, request_id, method, params)

    def subscribe_attributes(self, is_on: bool) -> None:
        """Pushes wait for the subscription; what changed while nobody listened comes now, its newest value once."""
        self.hears_attributes = is_on
        if is_on and self._inlet.owes(self.device.id):
            # Behind everything that is on its way to the disk: only then are the newest values known.
            self._inlet.pipeline.commit(()).add_done_callback(lambda _: self._inlet.deliver_owed(self))

    def owe_attributes(self, keys: Sequence[str]) -> None:
        """What could not be handed on counts as unheard."""
        self._inlet.owe_again(self._entity, keys)

    def subscribe_rpc(self, is_on: bool, again_s: float = 0.0, *, confirms: bool = False) -> None:
        """Pending calls are handed over at once; with `again_s` they wait for it so long."""
        self.hears_rpc = is_on
        if is_on:
            self.confirms_rpc = confirms
        self._expected_s = self._inlet.clock.monotonic_s() + again_s
        if is_on:
            self._inlet.rpc.device_listens(self.device.id)
            self._inlet.notices.tell(self.device.id)

    @property
    def asks_again(self) -> bool:
        """It does not hear calls at the moment, and is expected to ask for them."""
        return self.is_open and self._inlet.clock.monotonic_s() < self._expected_s

    def become(self, device: Device) -> None:
        """What it says from here on is of this device."""
        self.device, self._entity = device, device.entity_id

    def claim(self, secret_key: str, duration_ms: int) -> Receipt:
        """The device may be claimed by whoever knows the key."""
        self.touch()
        return self._inlet.claims.record(self.device, secret_key, duration_ms)

    def touch(self) -> None:
        """Any packet counts as activity."""
        self.last_activity_ms = self._inlet.clock.now_ms()

    def fall_silent(self) -> None:
        """What is behind the channel does not answer: disconnected until it says something again."""
        if self.last_activity_ms == self.opened_ms:
            self._inlet.connectivity.withdrawn(self)
        elif self.is_heard:
            self._inlet.connectivity.closed(self)
        self.last_activity_ms = 0

    @property
    def is_heard(self) -> bool:
        """Not silent, see `fall_silent`."""
        return self.last_activity_ms > 0

    def close(self) -> None:
        """The connection is gone; safe to call twice."""
        if self.is_open:
            self.is_open = False
            self._inlet.closed(self)


class Inlet:
    """Implements `DeviceInlet`; also tells connected devices what concerns them."""

    def __init__(
        self, state: State, pipeline: Pipeline, committer: Committer, rpc: RpcDesk, clock: Clock, counters: Counters
    ) -> None:
        self.state, self.pipeline, self.rpc, self.clock = state, pipeline, rpc, clock
        self._committer, self.counters = committer, counters
        self.questions = Questions(pipeline, clock)
        self.asking = Asking(pipeline, state, clock, counters, self.questions)
        self.claims = Claims(state, pipeline, clock, counters)
        self.names = Names()
        self.provisioning = Provisioning(state, pipeline, clock, counters, self.names)
        self.provisioning.on_replaced = lambda entity: self.device_changed(entity, credentials_changed=True)
        self.on_changed: DeviceChanged = lambda device_id, device: None
        self._sessions: dict[UUID, Session] = {}
        self._visits: dict[UUID, Session] = {}
        self._through_gateways: dict[UUID, Session] = {}
        self.sub_devices = SubDevices(state, pipeline, clock, counters, self.names)
        self.connectivity = Connectivity(
            state, pipeline, committer, clock, counters, self._sessions, self._through_gateways, self._visits
        )
        pipeline.on_state = self.connectivity.reported
        self.notices = Notices(state, pipeline, clock, counters)
        self._owed: dict[UUID, set[str]] = {}  # as the settings will be when all commits are done
        self._moved: dict[UUID, UUID] = {}
        self._attributes_ms: dict[UUID, int] = {}  # of devices that have posted some: when the newest were written
        pipeline.on_notice = self.notify
        rpc.session_of = self._session_for_calls

    def find_credentials(self, credentials_id: str) -> tuple[Credentials, Device] | None:
        """By unique credentials id."""
        return self.state.device_by_credentials(credentials_id)

    def profile_of(self, device: Device) -> DeviceProfile | None:
        """None: the cloud has not told us of it."""
        by_id = self.state.profile(device.profile_id) if device.profile_id else None
        return by_id or self.state.profile_named(device.type)

    async def provision(self, request: ProvisionRequest) -> ProvisionAnswer:
        """A device asks for credentials."""
        return await self.provisioning.provision(request)

    async def admit_by_certificate(self, chain: CertificateChain) -> Device | None:
        """The device of a certificate, created or changed where its profile says so."""
        return await self.provisioning.admit(chain)

    def find_device(self, local_name: str) -> Device | None:
        """By the name in the configuration, else by the cloud's."""
        return self.state.device_named(local_name)

    def open_session(self, device: Device, channel: DeviceChannel) -> Session:
        """An older session of the same device is closed first.

        Raises:
            RejectedError: The device was deleted meanwhile.
        """
        session = self._open(self._sessions, device, channel)
        self.counters.add("devices.connects")
        return session

    def open_visit(self, device: Device, channel: DeviceChannel) -> Session:
        """A session beside the device's own; an older visit is closed first.

        Raises:
            RejectedError: The device was deleted meanwhile.
        """
        return self._open(self._visits, device, channel)

    def sub_device(self, gateway: Device | None, name: str, profile: str) -> tuple[Device, Receipt | None]:
        """The device of this name behind a gateway, see `gateway.devices.sub_devices`."""
        return self.sub_devices.find(gateway, name, profile)

    def open_sub_session(self, device: Device, channel: DeviceChannel) -> Session:
        """A session through a gateway; an older one through any gateway is closed first.

        Raises:
            RejectedError: The device was deleted meanwhile.
        """
        return self._open(self._through_gateways, device, channel)

    def _open(self, sessions: dict[UUID, Session], device: Device, channel: DeviceChannel) -> Session:
        current = self.state.device(self._moved.get(device.id, device.id))
        if current is None:
            raise RejectedError(f"device {device.name!r} was deleted")
        older = sessions.get(current.id)
        if older is not None:
            self.counters.add("devices.taken_over")
            older.close()
            older.channel.close("taken_over")
        session = sessions[current.id] = Session(self, current, channel, self.clock.now_ms())
        if sessions is not self._visits:
            self.connectivity.opened(session, takes_over=older is not None)
        return session

    def closed(self, session: Session) -> None:
        """A session has ended."""
        self.rpc.session_closed(session)
        self.asking.session_closed(session)
        for sessions in (self._sessions, self._through_gateways, self._visits):
            if sessions.get(session.device.id) is session:
                del sessions[session.device.id]
                self.connectivity.closed(session, is_visit=sessions is self._visits)

    def sessions(self) -> Mapping[UUID, Session]:
        """The live ones, by device id; one through a gateway, or a visit, where the device has none of its own."""
        if not self._visits and not self._through_gateways:
            return self._sessions
        return {**self._visits, **self._through_gateways, **self._sessions}

    def attributes_ms(self, device: EntityId, now_ms: int) -> int:
        """When client attributes that are posted now were written: later than those before, whatever the clock does.

        The cloud drops an attribute that is not newer than the one it has, and says success.
        """
        last_ms = self._attributes_ms.get(device.id)
        if last_ms is None:
            last_ms = self.state.newest_attribute_ms(device, AttributeScope.CLIENT_SCOPE)
        self._attributes_ms[device.id] = written_ms = max(now_ms, last_ms + 1)
        return written_ms

    def _all_of(self, device_id: UUID) -> list[Session]:
        """Its own session first."""
        homes = (self._sessions, self._through_gateways, self._visits)
        found = [sessions.get(device_id) for sessions in homes]
        return [session for session in found if session is not None]

    def _listeners(self, device_id: UUID) -> list[Session]:
        """Those of its sessions that hear of attributes now."""
        return [session for session in self._all_of(device_id) if session.hears_attributes]

    def _session_for_calls(self, device_id: UUID) -> Session | None:
        sessions = self._all_of(device_id)
        return next((session for session in sessions if session.hears_rpc), sessions[0] if sessions else None)

    @property
    def is_congested(self) -> bool:
        """True while too much waits for the disk, or in the rules for somebody else."""
        return self._committer.is_congested or self.pipeline.held.is_full

    async def wait_uncongested(self) -> None:
        """Returns when reading may go on."""
        while self.is_congested:
            await self._committer.wait_uncongested()
            await self.pipeline.held.wait_room()

    def notify(self, notice: AttributeNotice) -> None:
        """Tell a device of changed or deleted shared attributes, if it is connected and wants to hear."""
        if notice.entity.type != "DEVICE":
            return
        self.asking.arrived(notice.entity.id)
        listeners = self._listeners(notice.entity.id)
        if listeners and (owed := self._owed_to(notice.entity.id)):
            self._owed[notice.entity.id] = owed.union(notice.values or (), notice.deleted)
            self.deliver_owed(listeners[0])  # it subscribed while the change was on its way to the disk
            return
        unheard: list[str] = []
        if notice.values:
            for session in listeners:
                session.channel.send_attributes(notice.values)
            unheard += () if listeners else notice.values
        if notice.deleted:
            listeners = self._listeners(notice.entity.id)  # who asks takes one answer only
            for session in listeners:
                session.channel.send_attributes_deleted(notice.deleted)
            unheard += () if listeners else notice.deleted
        if unheard and (owing := self.owe(notice.entity, unheard)):
            self.pipeline.commit(owing)

    def owe(self, entity: EntityId, keys: Sequence[str]) -> list[Change]:
        """Shared attributes change: what to write with them when the device does not listen now."""
        if entity.type != "DEVICE" or self.state.device(entity.id) is None:
            return []
        owed = self._owed_to(entity.id)
        if self._listeners(entity.id) or owed.issuperset(keys):
            return []
        owed = self._owed[entity.id] = owed.union(keys)
        return [SaveSetting(f"{OWED}{entity.id}", sorted(owed))]

    def owe_again(self, entity: EntityId, keys: Sequence[str]) -> None:
        """The channel could not hand these on after all."""
        if self.state.device(entity.id) is not None:
            owed = self._owed[entity.id] = self._owed_to(entity.id).union(keys)
            self.pipeline.commit([SaveSetting(f"{OWED}{entity.id}", sorted(owed))])

    def owes(self, device_id: UUID) -> bool:
        """Has something changed that the device was not told?"""
        return bool(self._owed_to(device_id))

    def _owed_to(self, device_id: UUID) -> set[str]:
        owed = self._owed.get(device_id)
        return set(self.state.setting(f"{OWED}{device_id}") or ()) if owed is None else owed

    def deliver_owed(self, session: Session) -> None:
        """The newest value of each key that changed unheard. The mark goes after the sending: never lost."""
        device_id = session.device.id
        owed = self._owed_to(device_id)
        if not owed or not session.is_open or not session.hears_attributes:
            return
        held = self.state.attributes(session.device.entity_id, AttributeScope.SHARED_SCOPE)
        values = {key: held[key].value for key in sorted(owed) if key in held}
        deleted = [key for key in sorted(owed) if key not in held]
        left: set[str] = set()
        if values:
            session.channel.send_attributes(values)
        if deleted and session.hears_attributes:
            session.channel.send_attributes_deleted(deleted)
        elif deleted:  # who asks takes one answer only
            left.update(deleted)
        self.counters.add("devices.owed_attributes", len(owed) - len(left))
        self._owed[device_id] = left
        done = self.pipeline.commit([SaveSetting(f"{OWED}{device_id}", sorted(left) or None)])
        done.add_done_callback(lambda _: self._owed.pop(device_id, None) if not self._owed.get(device_id) else None)

    def move(self, old: UUID, device: Device) -> None:
        """A configured device has another id from now on: its live session goes with it, later ones too."""
        self._moved.pop(device.id, None)
        self._moved[old] = device.id
        if old in self._attributes_ms:
            self._attributes_ms[device.id] = self._attributes_ms.pop(old)
        for sessions in (self._sessions, self._through_gateways, self._visits):
            session = sessions.pop(old, None)
            if session is not None:
                session.become(device)
                sessions[device.id] = session
        self.on_changed(old, device)

    def device_changed(self, entity: EntityId, *, credentials_changed: bool) -> None:
        """The device was renamed, moved, given other credentials, or deleted: its session follows or ends."""
        current = self.state.device(entity.id)
        if current is None:
            self._owed.pop(entity.id, None)
            self._attributes_ms.pop(entity.id, None)
        for session in self._all_of(entity.id):
            is_guest = self._through_gateways.get(entity.id) is session  # under the gateway's credentials
            if current is None or (credentials_changed and not is_guest):
                is_visit = self._visits.get(entity.id) is session
                session.close()
                session.channel.close("deleted" if is_visit and current is None else "not_authorized")
            else:
                session.device = current
        if entity.type == "DEVICE":
            self.on_changed(entity.id, current)
