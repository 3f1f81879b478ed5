"""Devices of the configuration: created once, announced to the cloud before their first telemetry."""

from __future__ import annotations

import hashlib
import logging
import secrets
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import orjson

from gateway.devices.state import REMOVED, State
from gateway.domain.changes import AppendEvent, Change, SaveDevice, SaveProfile, SaveSetting
from gateway.domain.cloud_event import Action, CloudEvent
from gateway.domain.entity import Credentials, CredentialsType, Device, DeviceProfile, Json, time_uuid
from gateway.errors import ConfigError

log = logging.getLogger(__name__)

DEFAULT_PROFILE: Final = "default"
"""Every server has a profile of this name; ours would only clash with it, so none is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the configuration says of one device. `credentials` None: keep what there is, else make a token."""

    name: str
    profile: str = DEFAULT_PROFILE
    label: str | None = None
    is_gateway: bool = False
    credentials: Credentials | None = field(default=None, repr=False)


def found_devices(wanted: Iterable[Found], state: State, now_ms: int) -> Sequence[Change]:
    """The changes that make the store agree with the configuration; none when it does already.

    A device that the cloud has assigned under the same name is taken over, not doubled; one that the cloud has
    taken away is not made again while it stands in the configuration.

    Raises:
        ConfigError: Two devices would have the same credentials.
    """
    changes: list[Change] = []
    new_profiles: dict[str, DeviceProfile] = {}
    holders: dict[str, UUID] = {
        device.credentials.credentials_id: device.id for device in state.devices() if device.credentials
    }
    names: dict[UUID, str] = {}
    removed: dict[str, Json] = state.setting(REMOVED) or {}
    still_removed: dict[str, Json] = {}
    for item in wanted:
        known = state.device_named(item.name)
        if known is None and item.name in removed:
            log.warning(
                "device %r was deleted in the cloud, or is no longer assigned to this edge: it is not made again."
                " Assign it there, or start once without it in the configuration to have a new one",
                item.name,
            )
            still_removed[item.name] = removed[item.name]
            continue
        profile_id, profile_changes = _profile_for(item, known, state, new_profiles)
        changes += profile_changes
        device = known or Device(id=time_uuid(), name=item.name, type=item.profile, created_ms=now_ms)
        names[device.id] = item.name
        credentials, credential_changes = _credentials_for(item, known, state)
        changes += credential_changes
        holder = holders.setdefault(credentials.credentials_id, device.id)
        if holder != device.id:
            other = state.device(holder)
            raise ConfigError(
                f"devices[{item.name}]",
                f"has the same credentials as {other.name if other else names.get(holder)!r}; they are unique",
            )
        wished = replace(
            device,
            local_name=item.name,
            type=item.profile if known is None or known.json is None else device.type,
            profile_id=profile_id if known is None or known.json is None else device.profile_id,
            label=item.label if item.label is not None else device.label,
            is_gateway=item.is_gateway or device.is_gateway,
            credentials=credentials,
        )
        if wished == known:
            continue
        changes.append(SaveDevice(wished))
        if known is None:
            changes.append(_event(wished.id, Action.ADDED, now_ms))
        else:
            if credentials != known.credentials:
                changes.append(_event(wished.id, Action.CREDENTIALS_UPDATED, now_ms))
            if replace(wished, credentials=None, local_name=None) != replace(known, credentials=None, local_name=None):
                changes.append(_event(wished.id, Action.UPDATED, now_ms))
    if still_removed != removed:
        changes.append(SaveSetting(REMOVED, still_removed or None))
    return changes


def basic_credentials(client_id: str | None, user_name: str | None, password: str | None) -> Credentials:
    """MQTT_BASIC as the cloud stores it; the id is the look-up key of device API §1.2."""
    if client_id and user_name:
        credentials_id = hashlib.sha3_256(f"{client_id}|{user_name}".encode()).hexdigest()
    elif client_id:
        credentials_id = hashlib.sha3_256(client_id.encode()).hexdigest()
    else:
        credentials_id = user_name or ""
    value = orjson.dumps({"clientId": client_id, "userName": user_name, "password": password}).decode()
    return Credentials(type=CredentialsType.MQTT_BASIC.value, credentials_id=credentials_id, value=value)


def token_credentials(token: str) -> Credentials:
    """An access token."""
    return Credentials(type=CredentialsType.ACCESS_TOKEN.value, credentials_id=token)


def new_token() -> Credentials:
    """Made up: 20 letters and digits."""
    alphabet = string.ascii_letters + string.digits
    return token_credentials("".join(secrets.choice(alphabet) for _ in range(20)))


def _credentials_for(item: Found, known: Device | None, state: State) -> tuple[Credentials, list[Change]]:
    """Those of the configuration, unless the cloud has given others since they were first read there.

    A token that was changed in the cloud because it leaked must not come back with the next start.
    """
    present = known.credentials if known else None
    if item.credentials is None:
        return present or new_token(), []
    wished = item.credentials
    setting = f"configured_credentials/{item.name}"
    mark = hashlib.sha256("\0".join((wished.type, wished.credentials_id, wished.value or "")).encode()).hexdigest()
    if state.setting(setting) != mark:
        return wished, [SaveSetting(setting, mark)]
    if present is None or present == wished:
        return wished, []
    log.warning(
        "devices[%s]: the cloud has given it other credentials; those of the configuration are used when they change",
        item.name,
    )
    return present, []


def _profile_for(
    item: Found, known: Device | None, state: State, new_profiles: dict[str, DeviceProfile]
) -> tuple[UUID | None, list[Change]]:
    profile = state.profile_named(item.profile) or new_profiles.get(item.profile)
    if profile is not None:
        return profile.id, []
    if item.profile == DEFAULT_PROFILE or (known is not None and known.type == item.profile):
        return known.profile_id if known else None, []
    profile = new_profiles[item.profile] = DeviceProfile(id=time_uuid(), name=item.profile)
    return profile.id, [SaveProfile(profile)]


def _event(device_id: UUID, action: Action, now_ms: int) -> AppendEvent:
    return AppendEvent(CloudEvent(type="DEVICE", action=action.value, entity_id=device_id, created_ms=now_ms))
