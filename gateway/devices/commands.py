"""What the cloud asks of the device room. Every method returns when its effect is durable; all are idempotent."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final
from uuid import UUID

import orjson

from gateway.devices.announcing import untaken
from gateway.devices.claims import CLAIM
from gateway.devices.identity import change_identity, moved_to, old_edge_reason, park_portions
from gateway.devices.inlet import OWED, Inlet
from gateway.devices.names import ALIAS, call_it, called, is_alias, kept_apart, namesake
from gateway.devices.pipeline import Pipeline
from gateway.devices.rpc import RpcDesk
from gateway.devices.state import REMOVED, State, with_profile
from gateway.domain.changes import (
    AppendEvent,
    Change,
    DeleteAttributes,
    DeleteDevice,
    DeleteEntity,
    DeleteProfile,
    SaveAttributes,
    SaveDevice,
    SaveProfile,
    SaveSetting,
    SaveTelemetry,
)
from gateway.domain.cloud_event import Action, CloudEvent, Lane
from gateway.domain.downlink import LAST_GATEWAY, MOVED_DEVICES, SYNC_MS
from gateway.domain.entity import Credentials, Device, DeviceProfile, EdgeIdentity, EntityId, Json, Origin
from gateway.domain.message import Message, MessageType
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import Attribute, AttributeScope, Value
from gateway.errors import RejectedError, TransientError
from gateway.ports import AlarmBook, AttributeNotice, Clock, CloudEvents, attributes_mark

log = logging.getLogger(__name__)

_MOST_TOLD: Final = 10_000


class Commands:
    """Implements `DeviceCommands`."""

    def __init__(
        self,
        state: State,
        pipeline: Pipeline,
        inlet: Inlet,
        rpc: RpcDesk,
        clock: Clock,
        events: CloudEvents | None = None,
        latest: Callable[[EntityId], Awaitable[Mapping[str, tuple[int, Value]]]] | None = None,
    ) -> None:
        """`events`: what waits is parked in portions when the edge becomes another one; else in one transaction.
        `latest` is the store's: telemetry in an answer of the cloud is compared with it.
        """
        self._events, self._latest = events, latest
        inlet.questions.events = events
        self._state, self._pipeline, self._inlet, self._rpc, self._clock = state, pipeline, inlet, rpc, clock
        self._counters = inlet.counters
        self.as_written: Callable[[EntityId, str, Mapping[str, Value]], Mapping[str, Value]] = lambda *given: given[2]
        self.alarms: AlarmBook | None = None  # None: no rule writes any
        self.becomes_another = False  # while the identity is being changed: whose an event is, is then not known
        self._marking = asyncio.Lock()  # who changes a setting that has a line for each device
        self._told: OrderedDict[tuple[EntityId, str], int | None] = OrderedDict()  # shared attributes, with their time
        self._announced: set[UUID] = set()  # adopted: their credentials here win over the cloud's once

    async def change_identity(self, identity: EdgeIdentity) -> None:
        """The cloud says that we are another edge: see `gateway.devices.identity`. Sessions log in anew."""
        self.becomes_another = True
        try:
            await self._change_identity(identity)
        finally:
            self.becomes_another = False

    async def _change_identity(self, identity: EdgeIdentity) -> None:
        parked = 0
        if self._events is not None:
            reason = old_edge_reason(self._state.identity())
            parked = await park_portions(self._events, self._pipeline.commit, reason, self._clock.now_ms)
            parked += sum(self._events.last(lane) - self._events.cursor(lane) for lane in Lane)
        before = [device.entity_id for device in self._state.devices()]
        await self._pipeline.commit(change_identity(identity, self._state, self._clock.now_ms()))
        if parked:
            self._counters.add("devices.parked_of_old_edge", parked)
            log.warning("about %d events waited for the edge that this gateway was before: they are parked", parked)
        for entity in before:
            self._inlet.device_changed(entity, credentials_changed=False)
        if left := [*self._inlet.sub_devices.forget_gone(), *self._inlet.notices.forget_gone(self._state)]:
            await self._pipeline.commit(left)

    async def put_device(
        self, device_id: UUID, json: Mapping[str, Json], credentials: Mapping[str, Json] | None = None
    ) -> None:
        """Create or replace; the cloud's name wins, a local name stays as an alias. See the port for `credentials`."""
        name = _text(json, "name")
        await self._inlet.names.turn_of(name)  # perhaps it is being made here: then that is the one to take over
        if self._state.device(device_id) is None and self._has_marks(device_id, name):
            async with self._marking:
                await self._inlet.names.turn_of(name)
                await self._put_device(device_id, json, credentials)
        else:
            await self._put_device(device_id, json, credentials)

    def _has_marks(self, device_id: UUID, name: str) -> bool:
        """Is it one of ours that the cloud took away, or has one of its name?"""
        removed = self._removed()
        is_back = name in removed or any(mark["id"] == str(device_id) for mark in removed.values())
        return is_back or self._unannounced(name) is not None

    async def _put_device(
        self, device_id: UUID, json: Mapping[str, Json], credentials: Mapping[str, Json] | None
    ) -> None:
        known = self._state.device(device_id)
        removed = self._removed()
        rival = self._unannounced(_text(json, "name")) if known is None else None
        name = next((one for one, mark in removed.items() if mark["id"] == str(device_id)), _text(json, "name"))
        is_back = known is None and name in removed
        type_, profile_id = str(json.get("type") or "default"), _id_in(json, "deviceProfileId")
        profile = self._state.profile(profile_id) if profile_id else self._state.profile_named(type_)
        if profile is not None:
            type_, profile_id = profile.name, profile.id
        additional = json.get("additionalInfo")
        now_ms = known.created_ms if known else self._clock.now_ms()
        kept = known.credentials if known else rival.credentials if rival else None
        fresh = kept
        if rival is None and device_id not in self._announced and credentials is not None:
            with suppress(RejectedError):  # of the call to come
                fresh = _credentials(credentials)
        device = Device(
            id=device_id,
            name=_text(json, "name"),
            type=type_,
            profile_id=profile_id,
            label=label if isinstance(label := json.get("label"), str) else None,
            created_ms=created if type(created := json.get("createdTime")) is int else now_ms,
            local_name=known.local_name if known else rival.local_name if rival else name if is_back else None,
            is_gateway=isinstance(additional, dict) and additional.get("gateway") is True,
            origin=known.origin if known else Origin.CLOUD,
            credentials=fresh,
            json=json,
        )
        if rival is not None:
            await self._adopt(rival, device)
            return
        if device == known:
            return
        changes: list[Change] = []
        renamed = known if known is not None and known.name != device.name else None
        other = namesake(self._state, device, device.name) if renamed is not None else None
        if renamed is not None and other is not None:
            changes += kept_apart(other, renamed)
            device = replace(device, local_name=renamed.local_name or renamed.name)
            self._counters.add("devices.names_kept_apart")
            log.warning(
                "device %r: %r in the cloud from now on, which here is the name of a device that the cloud has not"
                " named yet: that one gets another name there, and both keep the names that they have here",
                renamed.local_name or renamed.name,
                device.name,
            )
        changes.append(SaveDevice(device))
        gateway_id = self._inlet.sub_devices.last_gateway(device_id) if renamed and other is None else None
        if renamed is not None and gateway_id is not None:
            old_name = called(self._state, renamed)
            changes += self._inlet.notices.add(gateway_id, "gateway_device_renamed", {old_name: device.name})
            changes += call_it(self._state, device_id, device.name)
        if is_back:
            left = {one: mark for one, mark in removed.items() if one != name}
            changes.append(SaveSetting(REMOVED, left or None))
        if known is None:
            changes += [
                self._event("DEVICE", Action.ATTRIBUTES_REQUEST, device_id),
                self._event("DEVICE", Action.RELATION_REQUEST, device_id),
                self._event("DEVICE", Action.CALCULATED_FIELD_REQUEST, device_id),
            ]
        receipt = self._pipeline.commit(changes)
        if known is None or (renamed is not None and other is None):  # until then nobody else takes the name
            self._inlet.names.hold(device.name, device, receipt, is_new=known is None)
        if known is None:
            self._inlet.questions.opened([device.entity_id], receipt)
        await receipt
        if other is not None:
            self._inlet.device_changed(other.entity_id, credentials_changed=False)
        self._inlet.device_changed(device.entity_id, credentials_changed=kept is not None and fresh != kept)
        if gateway_id is not None:
            self._inlet.notices.tell(gateway_id)

    async def _adopt(self, rival: Device, device: Device) -> None:
        """The cloud's device takes the place of ours of the same name, which the cloud has never heard of.

        Its credentials, client attributes, session and queued events go over to the cloud's device (the events
        when they are encoded); its local history goes.
        """
        log.warning("device %r: the cloud has one of this name; from now on this is it (%s)", device.name, device.id)
        moved = moved_to(self._state.setting(MOVED_DEVICES) or {}, rival.id, device.id)
        changes: list[Change] = [
            DeleteDevice(rival.id),
            SaveDevice(device),
            SaveSetting(MOVED_DEVICES, moved),
            self._event("DEVICE", Action.ATTRIBUTES_REQUEST, device.id),
            self._event("DEVICE", Action.RELATION_REQUEST, device.id),
            self._event("DEVICE", Action.CALCULATED_FIELD_REQUEST, device.id),
        ]
        if is_alias(self._state, rival.id):
            changes += [*call_it(self._state, rival.id, None), SaveSetting(f"{ALIAS}{device.id}", device.name)]
        changes += self._inlet.sub_devices.moved(rival, device)
        for key, held in self._state.attributes(rival.entity_id, AttributeScope.CLIENT_SCOPE).items():
            changes.append(
                SaveAttributes(device.entity_id, AttributeScope.CLIENT_SCOPE.value, held.ts_ms, {key: held.value})
            )
        if rival.credentials is not None:
            changes.append(self._event("DEVICE", Action.CREDENTIALS_UPDATED, device.id))
            self._announced.add(device.id)
        self._inlet.move(rival.id, device)  # at once: what it says from here on stands behind these changes
        receipt = self._pipeline.commit(changes)
        self._inlet.questions.opened([device.entity_id], receipt)
        try:
            await receipt
        except RejectedError:
            self._inlet.move(device.id, rival)
            self._announced.discard(device.id)
            raise
        self._counters.add("devices.adopted")

    def _unannounced(self, name: str) -> Device | None:
        """Our own device of this name, if the cloud can not have heard of it: made after the last sync."""
        device = self._state.device_named(name)
        if device is None or device.name != name or device.json is not None:
            return None
        if device.local_name not in (None, name):
            return None
        return device if device.created_ms > (self._state.setting(SYNC_MS) or 0) else None

    def _removed(self) -> dict[str, Json]:
        return dict(self._state.setting(REMOVED) or {})

    async def delete_device(self, device_id: UUID) -> None:
        """Closes its session; unknown id is no error."""
        device = self._state.device(device_id)
        if device is None:
            return
        marks: list[Change] = [SaveSetting(f"{name}{device_id}", None) for name in (OWED, CLAIM)]
        names = (attributes_mark(device.entity_id, scope.value) for scope in AttributeScope)
        marks += [SaveSetting(name, None) for name in names if self._state.setting(name) is not None]
        gateway_id = self._inlet.sub_devices.last_gateway(device_id)
        if gateway_id is not None:
            marks += self._inlet.notices.add(gateway_id, "gateway_device_deleted", called(self._state, device))
        marks += [SaveSetting(f"{LAST_GATEWAY}{device_id}", None), *self._inlet.notices.forget(device_id)]
        marks += call_it(self._state, device_id, None)
        if device.local_name is not None and not is_alias(self._state, device_id):
            mark = {"id": str(device_id), "at_ms": self._clock.now_ms()}
            marks.append(SaveSetting(REMOVED, {**self._removed(), device.local_name: mark}))
            self._counters.add("devices.removed_by_cloud")
            log.warning(
                "device %r: deleted in the cloud, or no longer assigned to this edge: its data is not taken any more."
                " Assign it again, or take it out of the configuration",
                device.local_name,
            )
        left = dict.fromkeys(self._state.belongings(device.entity_id))
        if self.alarms is not None:
            left |= dict.fromkeys(("ALARM", key) for key in self.alarms.leaving(device.entity_id))
        going = [DeleteEntity(kind, key) for kind, key in left]
        if self.alarms is not None:
            self.alarms.note(going)
        await self._pipeline.commit([DeleteDevice(device_id), *marks, *going])
        self._inlet.device_changed(EntityId("DEVICE", device_id), credentials_changed=True)
        if gateway_id is not None:
            self._inlet.notices.tell(gateway_id)

    async def put_credentials(self, device_id: UUID, json: Mapping[str, Json]) -> None:
        """Unknown device is no error. A session under other credentials is closed."""
        device = self._state.device(device_id)
        if device is None:
            return
        credentials = _credentials(json)
        is_ours = device_id in self._announced
        self._announced.discard(device_id)
        if credentials == device.credentials or is_ours:
            return
        await self._pipeline.commit([SaveDevice(replace(device, credentials=credentials))])
        self._inlet.device_changed(device.entity_id, credentials_changed=device.credentials is not None)

    async def put_profile(self, profile_id: UUID, json: Mapping[str, Json]) -> None:
        """A local profile of the same name and another id is replaced and its devices moved."""
        name = _text(json, "name")
        profile = DeviceProfile(
            id=profile_id,
            name=name,
            origin=Origin.CLOUD,
            is_default=json.get("default") is True,
            # On an edge the cloud's "default edge chain" of the profile is the profile's default chain.
            default_rule_chain_id=_id_in(json, "defaultEdgeRuleChainId"),
            json=json,
        )
        changes: list[Change] = []
        rival = self._state.profile_named(name)
        if rival is not None and rival.id != profile_id:
            changes.append(DeleteProfile(rival.id))
        if not changes and profile == self._state.profile(profile_id):
            return  # its devices have it since they came
        if self._state.profile(profile_id) is None:
            changes.append(self._event("DEVICE_PROFILE", Action.CALCULATED_FIELD_REQUEST, profile_id))
        changes.append(SaveProfile(profile))
        changes += [
            SaveDevice(with_profile(device, profile))
            for device in self._state.devices()
            if (device.profile_id is None and device.type == name)
            or (rival is not None and rival.id != profile_id and device.profile_id == rival.id)
            or (device.profile_id == profile_id and device.type != name)
        ]
        await self._pipeline.commit(changes)

    async def delete_profile(self, profile_id: UUID) -> None:
        """Unknown id is no error."""
        if self._state.profile(profile_id) is not None:
            left = self._state.belongings(EntityId("DEVICE_PROFILE", profile_id))
            await self._pipeline.commit([DeleteProfile(profile_id), *(DeleteEntity(*place) for place in left)])

    async def update_attributes(
        self, entity: EntityId, scope: str, values: Mapping[str, Value], ts_ms: int | None
    ) -> None:
        """Store, run ATTRIBUTES_UPDATED through the rules (source=cloud), tell the device (SHARED_SCOPE)."""
        names = self._names(entity)
        if names is None:
            return
        if scope == AttributeScope.CLIENT_SCOPE and entity.type == "DEVICE":
            self._counters.add("downlink.client_attributes")  # the device's own: the cloud has no say in them
            return
        values = self.as_written(entity, scope, values)
        held = self._state.attributes(entity, scope)
        update = self._inlet.questions.weigh(entity, scope, values, ts_ms, held)
        if scope == AttributeScope.SHARED_SCOPE:
            await self._tell_again(
                entity, ts_ms, {key: held[key] for key in values if key in held and key not in update.values}
            )
        if not update.values:
            return
        fresh, written_ms = update
        message = Message(
            type=MessageType.ATTRIBUTES_UPDATED.value,
            originator=entity,
            data=fresh,
            metadata={**names, "source": "cloud", "scope": scope},
            ts_ms=written_ms,
        )
        first: list[Change] = [SaveAttributes(entity, scope, written_ms, fresh)]
        if scope == AttributeScope.SHARED_SCOPE:
            first += self._inlet.owe(entity, list(fresh))
        receipt = self._pipeline.run([message], first=first, overtakes=True)
        self._inlet.questions.written_by_cloud(entity, scope, fresh)
        await receipt
        if scope == AttributeScope.SHARED_SCOPE:
            self._tell(entity, ts_ms, fresh)

    def _tell(self, entity: EntityId, ts_ms: int | None, values: Mapping[str, Value]) -> None:
        for key in values:
            self._told[entity, key] = ts_ms
            self._told.move_to_end((entity, key))
        while len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)
        self._inlet.notify(AttributeNotice(entity, values))

    async def _tell_again(self, entity: EntityId, ts_ms: int | None, known: Mapping[str, Attribute]) -> None:
        """The cloud repeats what is stored: it was not acknowledged, so perhaps the device was not told either.

        That is so when the process ended between the disk and the device; within one life it is remembered. A server
        before 4.0 gives no time by which a repetition could be known.
        """
        untold = {
            key: attribute.value
            for key, attribute in known.items()
            if ts_ms is not None and attribute.ts_ms == ts_ms and self._told.get((entity, key)) != ts_ms
        }
        if untold:
            await self._pipeline.commit(self._inlet.owe(entity, list(untold)))
            self._tell(entity, ts_ms, untold)

    async def delete_attributes(self, entity: EntityId, scope: str, keys: Sequence[str]) -> None:
        """Delete, tell the device."""
        if self._names(entity) is None:
            return
        keys = [key for key in keys if self._state.attribute(entity, scope, key) is not None]
        if not keys:
            return
        changes: list[Change] = [DeleteAttributes(entity, scope, keys)]
        if scope == AttributeScope.SHARED_SCOPE:
            changes += self._inlet.owe(entity, keys)
        receipt = self._pipeline.commit(changes)
        self._inlet.questions.written_by_cloud(entity, scope, keys)
        await receipt
        if scope == AttributeScope.SHARED_SCOPE:
            self._inlet.notify(AttributeNotice(entity, None, keys))

    async def post_from_cloud(self, message: Message, first: Sequence[Change] = ()) -> None:
        """Telemetry or attributes from the cloud, or what it did to an alarm, into the rules; unknown entity is no
        error. `first` becomes durable in any case, with what the rules make of the message.

        Telemetry that comes while a question about its entity is open, and is older than that, is the other part of
        the answer: the cloud's latest values. What is newer than ours is kept, and no rule takes it for news.
        """
        names = self._names(message.originator)
        if names is None:
            if first:
                await self._pipeline.commit(first)
            return
        question = self._inlet.questions.find(message.originator)
        if (
            question is not None
            and message.type == MessageType.POST_TELEMETRY_REQUEST.value
            and message.data_ts_ms < question.asked_ms
        ):
            question.is_answered = True
            await self._keep_newer(message)
            return
        message.metadata.update(names, source="cloud")
        await self._pipeline.run([message], first, overtakes=True)

    async def _keep_newer(self, message: Message) -> None:
        held: Mapping[str, tuple[int, Value]] = {}
        if self._latest is not None:
            with suppress(TransientError):  # then the store compares when it writes
                held = await self._latest(message.originator)
        ts_ms = message.data_ts_ms
        values = {key: value for key, value in message.data.items() if key not in held or held[key][0] < ts_ms}
        self._counters.add("downlink.series_kept" if values else "downlink.series_known")
        if values:
            await self._pipeline.commit([SaveTelemetry(message.originator, ts_ms, values)])

    async def call_device(self, request: RpcRequest) -> None:
        """Durable when it returns; the answer travels as a cloud event later."""
        receipt = self._rpc.call_device(request)
        if receipt is not None:
            await receipt

    async def answer_device(self, device_id: UUID, request_id: int, session_id: str | None, response: str) -> None:
        """The cloud's answer to a call that a device made; nothing durable depends on it."""
        self._rpc.server_answered(device_id, request_id, session_id, response)

    async def announce_again(self, announced_ms: Mapping[UUID, int], among: Container[UUID]) -> Sequence[UUID]:
        """Those whose announcement is confirmed; of these, `among` go up once more, in the express lane: their data
        may wait behind.
        """
        confirmed: Sequence[UUID] = ()
        if self._events is not None and announced_ms:
            with suppress(TransientError):  # the store does not answer: the next sync will tell again
                confirmed = await untaken(announced_ms, self._events)
        if ids := [id_ for id_ in confirmed if id_ in among]:
            now_ms, added = self._clock.now_ms(), Action.ADDED.value
            events = [
                CloudEvent(type="DEVICE", action=added, entity_id=id_, created_ms=now_ms, lane=Lane.EXPRESS)
                for id_ in ids
            ]
            await self._pipeline.commit([AppendEvent(event) for event in events])
            self._counters.add("devices.announced_again", len(ids))
        return confirmed

    async def append_event(self, type_: str, action: str, entity_id: UUID | None, body: Json | None = None) -> None:
        """Queue one event."""
        await self._pipeline.commit([self._event(type_, Action(action), entity_id, body)])

    def _event(self, type_: str, action: Action, entity_id: UUID | None, body: Json | None = None) -> AppendEvent:
        return AppendEvent(
            CloudEvent(
                type=type_,
                action=action.value,
                entity_id=entity_id,
                created_ms=self._clock.now_ms(),
                body=None if body is None else orjson.dumps(body),
            )
        )

    def _names(self, entity: EntityId) -> dict[str, str] | None:
        """Metadata that names the entity; None when it is not known here."""
        if entity.type == "DEVICE":
            device = self._state.device(entity.id)
            return None if device is None else {"deviceName": device.name, "deviceType": device.type}
        if entity.type == "ASSET":
            asset = self._state.entity_json("ASSET", str(entity.id))
            return None if asset is None else {"assetName": asset.get("name", ""), "assetType": asset.get("type", "")}
        identity = self._state.identity()
        if identity is not None and entity.id in (identity.edge_id, identity.tenant_id, identity.customer_id):
            return {"edgeName": identity.name, "edgeType": identity.type} if entity.type == "EDGE" else {}
        return None


def _credentials(json: Mapping[str, Json]) -> Credentials:
    return Credentials(
        type=_text(json, "credentialsType"),
        credentials_id=_text(json, "credentialsId"),
        value=None if json.get("credentialsValue") is None else _text(json, "credentialsValue"),
    )


def _text(json: Mapping[str, Json], key: str) -> str:
    value = json.get(key)
    if not isinstance(value, str) or not value:
        raise RejectedError(f"{key!r} is missing or not a text")
    return value


def _id_in(json: Mapping[str, Json], key: str) -> UUID | None:
    """The uuid of an `{"entityType", "id"}` member; None when absent."""
    member = json.get(key)
    if not isinstance(member, dict) or not isinstance(member.get("id"), str):
        return None
    try:
        return UUID(member["id"])
    except ValueError:
        raise RejectedError(f"{key!r} holds no uuid") from None
