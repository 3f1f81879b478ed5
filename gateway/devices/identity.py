"""Another edge identity: what belonged to the old one leaves the active store, our own devices are announced anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.devices.state import IN_MEMORY_ENTITIES, REMOVED, State
from gateway.domain.changes import (
    AppendEvent,
    Change,
    DeleteDevice,
    DeleteEntity,
    DeleteProfile,
    SaveDevice,
    SaveSetting,
)
from gateway.domain.cloud_event import Action, CloudEvent
from gateway.domain.downlink import MOVED_DEVICES, SYNC_MS
from gateway.domain.entity import Device, EdgeIdentity, Origin, time_uuid


def change_identity(identity: EdgeIdentity, state: State, now_ms: int) -> Sequence[Change]:
    """One unit of work; after it a full sync is needed.

    Devices, profiles, assets, relations and alarms that the cloud had sent are deleted. Devices that were
    made here stay, without what the old cloud made of them, and are announced again. Under another tenant they
    get new ids: ids are unique on a server, and the old ones belong to the old tenant. The rule chains stay at
    work until the sync brings others.
    """
    old = state.identity()
    is_other_tenant = old is None or old.tenant_id != identity.tenant_id
    clouds = {profile.id for profile in state.profiles() if profile.origin == Origin.CLOUD}
    changes: list[Change] = []
    for device in list(state.devices()):
        if device.origin == Origin.CLOUD and device.local_name is None:
            changes.append(DeleteDevice(device.id))
            continue
        if is_other_tenant:
            changes.append(DeleteDevice(device.id))
        ours = _as_ours(device, now_ms, new_id=is_other_tenant, without_profile=device.profile_id in clouds)
        event = CloudEvent(type="DEVICE", action=Action.ADDED.value, entity_id=ours.id, created_ms=now_ms)
        changes += [SaveDevice(ours), AppendEvent(event)]
    changes += [DeleteProfile(profile_id) for profile_id in clouds]
    for kind in sorted(IN_MEMORY_ENTITIES):
        changes += [DeleteEntity(kind, key) for key in state.entities(kind)]
    changes += [SaveSetting(name, None) for name in (REMOVED, MOVED_DEVICES, SYNC_MS)]
    changes += [SaveSetting("edge_identity", identity.to_json()), SaveSetting("sync_done", False)]
    return changes


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
