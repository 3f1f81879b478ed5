"""Devices behind a gateway: made when they are first heard of, announced before their first data.

A new device becomes durable in one unit of work with what the cloud must know of it, in this order: the device with
its profile and credentials (one event), then the relation `Created` from its gateway.

Source: ThingsBoard 4.3 gateway API: creation, `lastConnectedGateway`, length of a name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson

from gateway.devices.founding import DEFAULT_PROFILE, new_token
from gateway.devices.names import Names, check_name
from gateway.devices.state import REMOVED
from gateway.domain.changes import AppendEvent, Change, DeleteEntity, SaveDevice, SaveEntity, SaveProfile, SaveSetting
from gateway.domain.cloud_event import Action, CloudEvent
from gateway.domain.downlink import LAST_GATEWAY
from gateway.domain.entity import Device, DeviceProfile, Json, Origin, time_uuid
from gateway.errors import FullError, RejectedError
from gateway.ports import Clock, Receipt
from gateway.supervise import Counters

if TYPE_CHECKING:
    from gateway.devices.pipeline import Pipeline
    from gateway.devices.state import State

log = logging.getLogger(__name__)

CREATED: Final = "Created"
"""Type of the relation from a gateway to a device that it brought."""


class SubDevices:
    """Finds and makes them; who is found by a mapping has no gateway (None).

    `max_devices`: with so many devices in the house no gateway makes another one.
    """

    def __init__(
        self, state: State, pipeline: Pipeline, clock: Clock, counters: Counters, names: Names | None = None
    ) -> None:
        self._state, self._pipeline, self._clock, self._counters = state, pipeline, clock, counters
        self.max_devices = 20_000
        self._names = names or Names()
        self._making_profiles: dict[str, DeviceProfile] = {}

    def find(self, gateway: Device | None, name: str, profile: str) -> tuple[Device, Receipt | None]:
        """The device of this name, made when there is none: then with the receipt of its making.

        Raises:
            FullError: There are `max_devices`.
            RejectedError: The name, or the profile's, cannot be used.
        """
        device = self._state.device_named(name)
        if device is not None:
            if gateway is not None and (changes := self._seen_behind(gateway, device)):
                self._pipeline.commit(changes)
            return device, None
        return self._names.coming(name) or self._make(gateway, name, profile or DEFAULT_PROFILE)

    def _make(self, gateway: Device | None, name: str, profile_name: str) -> tuple[Device, Receipt]:
        check_name("device", name)
        check_name("profile", profile_name)
        if name in (self._state.setting(REMOVED) or ()):
            raise RejectedError("a configured device of this name was deleted in the cloud; assign it there again")
        if self._state.device_count() + self._names.new >= self.max_devices:
            raise FullError(f"there are {self.max_devices} devices already: broker.max_devices")
        now_ms = self._clock.now_ms()
        profile, changes = self._profile(profile_name)
        device = Device(
            id=time_uuid(),
            name=name,
            type=profile_name,
            profile_id=profile.id if profile else None,
            created_ms=now_ms,
            credentials=new_token(),
        )
        changes += [
            SaveDevice(device),
            _event("DEVICE", Action.ADDED, device.id, now_ms),
        ]
        if gateway is not None:
            changes.insert(-1, SaveSetting(f"{LAST_GATEWAY}{device.id}", str(gateway.id)))
            changes += _relation(gateway, device, now_ms)
        receipt = self._pipeline.commit(changes)
        self._names.hold(name, device, receipt, is_new=True)
        self._counters.add("devices.made_by_gateways")
        receipt.add_done_callback(lambda done: self._made(done, profile_name))
        return device, receipt

    def _made(self, done: Receipt, profile_name: str) -> None:
        if not done.cancelled() and done.exception() is not None:
            self._counters.add("devices.not_made")
        self._making_profiles.pop(profile_name, None)

    def _profile(self, name: str) -> tuple[DeviceProfile | None, list[Change]]:
        profile = self._state.profile_named(name) or self._making_profiles.get(name)
        if profile is not None or name == DEFAULT_PROFILE:
            return profile, []
        profile = self._making_profiles[name] = DeviceProfile(id=time_uuid(), name=name)
        return profile, [SaveProfile(profile)]

    def _seen_behind(self, gateway: Device, device: Device) -> Sequence[Change]:
        """It has come behind another gateway than before: the cloud is told."""
        setting = f"{LAST_GATEWAY}{device.id}"
        if device.id == gateway.id or self._state.setting(setting) == str(gateway.id):
            return ()
        now_ms = self._clock.now_ms()
        changes: list[Change] = [SaveSetting(setting, str(gateway.id))]
        if device.origin == Origin.EDGE and not self._has_creator(device):
            changes += _relation(gateway, device, now_ms)
        return [*changes, _event("DEVICE", Action.UPDATED, device.id, now_ms)]

    def _has_creator(self, device: Device) -> bool:
        held = [self._state.entity_json(*place) for place in self._state.belongings(device.entity_id)]
        return any(
            isinstance(json, dict) and json.get("type") == CREATED and json.get("to") == _end(device) for json in held
        )

    def moved(self, old: Device, new: Device) -> Sequence[Change]:
        """The device goes on under another id, the cloud's: so do its gateway's mark and relation."""
        kept = self._state.setting(f"{LAST_GATEWAY}{old.id}")
        if kept is None:
            return ()
        changes: list[Change] = [
            SaveSetting(f"{LAST_GATEWAY}{old.id}", None),
            SaveSetting(f"{LAST_GATEWAY}{new.id}", kept),
        ]
        for type_, key in self._state.belongings(old.entity_id):
            json = self._state.entity_json(type_, key)
            if type_ == "RELATION" and isinstance(json, dict) and json.get("to") == _end(old):
                to = {**json, "to": _end(new)}
                changes += [DeleteEntity(type_, key), SaveEntity(type_, key.replace(str(old.id), str(new.id)), to)]
        return changes

    def last_gateway(self, device_id: UUID) -> UUID | None:
        """Behind which gateway it was seen last; None when that one is not here any more."""
        kept = self._state.setting(f"{LAST_GATEWAY}{device_id}")
        gateway = self._state.device(UUID(kept)) if kept else None
        return None if gateway is None else gateway.id

    def forget_gone(self) -> Sequence[Change]:
        """Marks of devices that are not here any more, after all of them got other ids."""
        names = self._state.settings(LAST_GATEWAY)
        return [
            SaveSetting(name, None) for name in names if self._state.device(UUID(name[len(LAST_GATEWAY) :])) is None
        ]


def _end(device: Device) -> dict[str, str]:
    return {"entityType": "DEVICE", "id": str(device.id)}


def _relation(gateway: Device, device: Device, now_ms: int) -> list[Change]:
    json: dict[str, Json] = {
        "from": _end(gateway),
        "to": _end(device),
        "type": CREATED,
        "typeGroup": "COMMON",
        "additionalInfo": None,
    }
    key = f"DEVICE:{gateway.id}>COMMON/{CREATED}>DEVICE:{device.id}"
    event = CloudEvent(
        type="RELATION",
        action=Action.RELATION_ADD_OR_UPDATE.value,
        entity_id=None,
        created_ms=now_ms,
        body=orjson.dumps(json),
    )
    return [SaveEntity("RELATION", key, json), AppendEvent(event)]


def _event(type_: str, action: Action, entity_id: UUID, now_ms: int) -> AppendEvent:
    return AppendEvent(CloudEvent(type=type_, action=action.value, entity_id=entity_id, created_ms=now_ms))
