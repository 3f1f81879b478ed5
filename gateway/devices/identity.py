"""Another edge identity: what belonged to the old one leaves the active store, our own devices are announced anew.

What still waits for the old edge is parked, not sent. First in portions, while the old identity stands: whoever is
killed there goes on with it at the next connect. Then the rest, in one transaction with the new identity.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from gateway.devices.names import call_it, is_alias
from gateway.devices.state import IN_MEMORY_ENTITIES, REMOVED, State
from gateway.domain.changes import (
    AppendEvent,
    Change,
    DeleteDevice,
    DeleteEntity,
    DeleteProfile,
    ParkPending,
    SaveDevice,
    SaveSetting,
)
from gateway.domain.cloud_event import Action, CloudEvent, Lane
from gateway.domain.downlink import DOCUMENT_TYPES, IDENTITY_MS, MOVED_DEVICES, SYNC_MS
from gateway.domain.entity import Device, EdgeIdentity, Json, Origin, time_uuid
from gateway.ports import CloudEvents

PORTION: Final = 5_000
"""So many events are parked in one transaction: about 30 ms of the writer."""
OLD_EDGE: Final = "waited for another edge"
"""How the reason of such an event begins."""


async def park_portions(
    events: CloudEvents,
    commit: Callable[[Sequence[Change]], Awaitable[None]],
    reason: str,
    now_ms: Callable[[], int],
) -> int:
    """Park what waits until less than a portion is left for the transaction of the change; how many so far."""
    count = 0
    for lane in Lane:
        while (place := events.cursor(lane)) + PORTION <= events.last(lane):
            await commit([ParkPending(lane, place + PORTION, reason, now_ms())])
            count += events.cursor(lane) - place
    return count


def old_edge_reason(old: EdgeIdentity | None) -> str:
    """Why an event of the old edge is parked."""
    return OLD_EDGE if old is None else f"{OLD_EDGE}: {old.name!r} ({old.edge_id})"


def change_identity(identity: EdgeIdentity, state: State, now_ms: int) -> Sequence[Change]:
    """One unit of work; after it a full sync is needed.

    Devices, profiles, assets, relations, alarms and documents that the cloud had sent are deleted. Devices that were
    made here stay, without what the old cloud made of them, and are announced again. Under another tenant they
    get new ids: ids are unique on a server, and the old ones belong to the old tenant; what they said while this
    became durable, and what a person sends again, goes up under the new ones. The rule chains stay at work until
    the sync that brings others is complete; then those that it has not named go (`gateway.downlink.dispatch`).
    """
    old = state.identity()
    is_other_tenant = old is None or old.tenant_id != identity.tenant_id
    clouds = {profile.id for profile in state.profiles() if profile.origin == Origin.CLOUD}
    changes: list[Change] = [ParkPending(lane, 1 << 62, old_edge_reason(old), now_ms) for lane in Lane]
    now_known_as: dict[str, str] = {}
    for device in list(state.devices()):
        is_told_apart = is_alias(state, device.id)
        changes += call_it(state, device.id, None)
        if device.origin == Origin.CLOUD and (device.local_name is None or is_told_apart):
            changes.append(DeleteDevice(device.id))
            continue
        if is_other_tenant:
            changes.append(DeleteDevice(device.id))
        ours = _as_ours(device, now_ms, new_id=is_other_tenant, without_profile=device.profile_id in clouds)
        if is_told_apart:
            ours = replace(ours, local_name=None)
        now_known_as[str(device.id)] = str(ours.id)
        event = CloudEvent(type="DEVICE", action=Action.ADDED.value, entity_id=ours.id, created_ms=now_ms)
        changes += [SaveDevice(ours), AppendEvent(event)]
    changes += [DeleteProfile(profile_id) for profile_id in clouds]
    for kind in sorted(IN_MEMORY_ENTITIES | DOCUMENT_TYPES | {"TENANT", "TENANT_PROFILE"}):
        changes += [DeleteEntity(kind, key) for key in state.entity_keys(kind)]
    changes += [SaveSetting(name, None) for name in (REMOVED, SYNC_MS)]
    moved = _moved(state.setting(MOVED_DEVICES) or {}, now_known_as)
    changes += [SaveSetting(MOVED_DEVICES, moved or None), SaveSetting(IDENTITY_MS, now_ms)]
    changes += [SaveSetting("edge_identity", identity.to_json()), SaveSetting("sync_done", False)]
    return changes


def _moved(before: Mapping[str, Json], now_known_as: Mapping[str, str]) -> dict[str, str]:
    """Under which id a device that had another one is known now."""
    moved = {old: now_known_as[then] for old, then in before.items() if then in now_known_as}
    return moved | {old: new for old, new in now_known_as.items() if old != new}


def moved_to(settled: Mapping[str, Json], old: UUID, new: UUID) -> dict[str, Json]:
    """The setting after one device more got another id; who had moved to the old one has moved on."""
    return {one: str(new) if then == str(old) else then for one, then in settled.items()} | {str(old): str(new)}


def _as_ours(device: Device, now_ms: int, *, new_id: bool, without_profile: bool) -> Device:
    return replace(
        device,
        id=time_uuid() if new_id else device.id,
        name=device.local_name or device.name,
        profile_id=None if without_profile else device.profile_id,
        created_ms=now_ms,
        origin=Origin.EDGE,
        json=None,
    )
