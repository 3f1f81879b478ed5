"""Devices that get in by themselves: with a profile's key and secret, or with a certificate of a known maker.

Both work without the cloud. The device, its credentials and its place in the queue (profile included) are one unit
of work, and the answer waits for it: who was told a token has it after a power cut.

Source: ThingsBoard 4.3 device API: provisioning, X.509 chains. A profile comes from the cloud with its
`provisionType`, `provisionDeviceKey` and `provisionConfiguration`; the configuration may add keys of its own.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson

from gateway.devices.founding import DEFAULT_PROFILE, basic_credentials, token_credentials
from gateway.devices.names import MAX_NAME_CHARS, Names, check_name, check_printable
from gateway.devices.state import REMOVED
from gateway.domain.changes import AppendEvent, Change, SaveAttributes, SaveDevice, SaveProfile, SaveSetting
from gateway.domain.cloud_event import Action, CloudEvent
from gateway.domain.entity import Credentials, CredentialsType, Device, DeviceProfile, EntityId, Json, time_uuid
from gateway.domain.onboarding import (
    PROVISION_USER,
    CertificateChain,
    ProvisionAnswer,
    ProvisionRequest,
    ProvisionStatus,
    ProvisionType,
    certificate_hash,
    certificate_line,
)
from gateway.domain.telemetry import AttributeScope, Value
from gateway.errors import RejectedError
from gateway.ports import Clock
from gateway.supervise import Counters, FewLines

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.devices.pipeline import Pipeline
    from gateway.devices.state import State

log = logging.getLogger(__name__)

STATE_KEY: Final = "provisionState"
PROVISIONED: Final = "provisioned"
MAX_TEXT_CHARS: Final = 16_384  # of a certificate; far more than any token
_LETTERS: Final = string.ascii_letters + string.digits

NOT_FOUND: Final = ProvisionAnswer(ProvisionStatus.NOT_FOUND)
FAILURE: Final = ProvisionAnswer(ProvisionStatus.FAILURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionKey:
    """What one key opens. `name_pattern` and `may_create` count for certificates only."""

    profile: str
    type: str
    key: str
    secret: str = field(default="", repr=False)
    name_pattern: str = ""
    may_create: bool = False


class Provisioning:
    """`local` are the keys of the configuration; they go before those of the cloud."""

    def __init__(
        self, state: State, pipeline: Pipeline, clock: Clock, counters: Counters, names: Names | None = None
    ) -> None:
        self._names = names or Names()
        self._state, self._pipeline, self._clock, self._counters = state, pipeline, clock, counters
        self._log = FewLines(log, clock)  # whoever is refused comes again and again
        self.local: Sequence[ProvisionKey] = ()
        self.max_devices = 20_000
        self.on_replaced: Callable[[EntityId], None] = lambda entity: None
        self._taken: set[str] = set()  # credentials ids on their way to the disk

    async def provision(self, request: ProvisionRequest) -> ProvisionAnswer:
        """By key and secret; the answer is durable. What was wrong is logged, the device is told little."""
        key = self._key(request.key)
        secret = key.secret if key is not None else ""
        is_right = hmac.compare_digest(secret.encode(), request.secret.encode("utf-8", "surrogatepass"))
        if key is None or not secret or not is_right or key.type == ProvisionType.DISABLED:
            self._counters.add("devices.provisionings_refused")
            return NOT_FOUND
        name = request.device_name
        if name is None:
            name = _random_text()
        await self._names.turn_of(name)
        try:
            if key.type == ProvisionType.ALLOW_CREATE_NEW_DEVICES:
                answer = await self._create(key, name, request)
            elif key.type == ProvisionType.CHECK_PRE_PROVISIONED_DEVICES:
                answer = await self._check(key, name)
            else:
                raise RejectedError("its profile provisions by certificates only, over TLS")
        except RejectedError as error:
            self._counters.add("devices.provisionings_failed")
            self._log.warning("device %r, profile %r: not provisioned: %s", name[:MAX_NAME_CHARS], key.profile, error)
            return FAILURE
        self._counters.add("devices.provisioned")
        log.info("device %r was provisioned, profile %r", name, key.profile)
        return answer

    async def admit(self, chain: CertificateChain) -> Device | None:
        """Leaf first: the device that has the certificate, else a profile that vouches for it.

        Raises:
            RejectedError: It can not be stored.
        """
        for line in chain.lines:
            credentials_id = certificate_hash(line)
            found = self._state.device_by_credentials(credentials_id)
            if found is not None and found[0].type == CredentialsType.X509_CERTIFICATE:
                return found[1]
            key = self._key(credentials_id)
            if key is not None and key.type == ProvisionType.X509_CERTIFICATE_CHAIN:
                return await self._admit(key, chain)
        return None

    async def _admit(self, key: ProvisionKey, chain: CertificateChain) -> Device | None:
        name = _name_of(chain.common_name, key, self._log)
        if name is None:
            return None
        await self._names.turn_of(name)
        again = self._state.device_by_credentials(chain.leaf_hash)  # its other connection was quicker
        if again is not None:
            return again[1]
        known = self._state.device_named(name)
        credentials = x509_credentials(chain.lines[0])
        if known is None:
            if not key.may_create:
                self._log.warning("certificate of %r: no such device, and profile %r creates none", name, key.profile)
                return None
            device, changes = self._new(key, name, credentials, is_gateway=False)
            await self._commit(name, device, credentials, changes, is_new=True)
            self._counters.add("devices.provisioned")
            log.info("device %r was created by its certificate, profile %r", name, key.profile)
            return device
        if known.type != key.profile:
            self._log.warning("certificate of %r: the device has profile %r, not %r", name, known.type, key.profile)
            return None
        device = replace(known, credentials=credentials)
        event = self._event(known.id, Action.CREDENTIALS_UPDATED)
        await self._commit(name, device, credentials, [SaveDevice(device), event], is_new=False)
        self._counters.add("devices.certificates_replaced")
        log.info("device %r has another certificate now, profile %r", name, key.profile)
        self.on_replaced(device.entity_id)
        return self._state.device(known.id)

    # ── strategies ──

    async def _create(self, key: ProvisionKey, name: str, request: ProvisionRequest) -> ProvisionAnswer:
        check_name("device", name)
        if self._state.device_named(name) is not None:
            raise RejectedError("a device of this name exists")
        credentials = _wished(request)
        device, changes = self._new(key, name, credentials, is_gateway=request.is_gateway)
        await self._commit(name, device, credentials, changes, is_new=True)
        return ProvisionAnswer(ProvisionStatus.SUCCESS, credentials)

    async def _check(self, key: ProvisionKey, name: str) -> ProvisionAnswer:
        device = self._state.device_named(name)
        if device is None or device.type != key.profile:
            raise RejectedError("no device of this name and profile")
        if self._state.attribute(device.entity_id, AttributeScope.SERVER_SCOPE, STATE_KEY) is not None:
            raise RejectedError(
                "it is provisioned already: delete its server attribute provisionState to allow it again"
            )
        if device.credentials is None:
            raise RejectedError("its credentials have not come from the cloud yet")
        now_ms = self._clock.now_ms()
        values: dict[str, Value] = {STATE_KEY: PROVISIONED}
        scope = AttributeScope.SERVER_SCOPE.value
        body = orjson.dumps({"kv": values, "ts": now_ms, "scope": scope})
        changes: list[Change] = [
            SaveAttributes(device.entity_id, scope, now_ms, values),
            self._event(device.id, Action.ATTRIBUTES_UPDATED, body),
        ]
        await self._commit(name, device, None, changes, is_new=False)
        return ProvisionAnswer(ProvisionStatus.SUCCESS, device.credentials)

    def _new(
        self, key: ProvisionKey, name: str, credentials: Credentials, *, is_gateway: bool
    ) -> tuple[Device, list[Change]]:
        if self._state.device_count() + self._names.new >= self.max_devices:
            raise RejectedError(f"there are {self.max_devices} devices; broker.max_devices allows no more")
        changes: list[Change] = []
        profile = self._state.profile_named(key.profile)
        if profile is None and key.profile != DEFAULT_PROFILE:
            profile = DeviceProfile(id=time_uuid(), name=key.profile)
            changes.append(SaveProfile(profile))
        now_ms = self._clock.now_ms()
        device = Device(
            id=time_uuid(),
            name=name,
            type=key.profile,
            profile_id=profile.id if profile else None,
            created_ms=now_ms,
            local_name=name,
            is_gateway=is_gateway,
            credentials=credentials,
        )
        changes.append(SaveDevice(device))
        removed: Mapping[str, Json] = self._state.setting(REMOVED) or {}
        if name in removed:  # the cloud took one of this name away; this one is new
            left = {one: mark for one, mark in removed.items() if one != name}
            changes.append(SaveSetting(REMOVED, left or None))
        changes.append(self._event(device.id, Action.ADDED))
        return device, changes

    # ── the disk ──

    async def _commit(
        self, name: str, device: Device, credentials: Credentials | None, changes: Sequence[Change], *, is_new: bool
    ) -> None:
        """Name and credentials belong to nobody else until the receipt.

        Raises:
            RejectedError: They belong to somebody, or it can not be stored.
        """
        credentials_id = credentials.credentials_id if credentials is not None else ""
        if credentials_id and (
            credentials_id in self._taken or self._state.device_by_credentials(credentials_id) is not None
        ):
            raise RejectedError("another device has these credentials")
        receipt = self._pipeline.commit(changes)
        self._names.hold(name, device, receipt, is_new=is_new)
        self._taken.add(credentials_id)
        receipt.add_done_callback(lambda _: self._taken.discard(credentials_id))
        await asyncio.wait([receipt])  # who asked may leave: it is stored all the same
        receipt.result()

    def _event(self, device_id: UUID, action: Action, body: bytes | None = None) -> AppendEvent:
        now_ms = self._clock.now_ms()
        return AppendEvent(
            CloudEvent(type="DEVICE", action=action.value, entity_id=device_id, created_ms=now_ms, body=body)
        )

    # ── keys ──

    def _key(self, text: str) -> ProvisionKey | None:
        if not text:
            return None
        for known in self.local:
            if known.key == text:
                return known
        for profile in self._state.profiles():
            if profile.json is not None and profile.json.get("provisionDeviceKey") == text:
                return _key_of(profile, profile.json)
        return None


def x509_credentials(text: str) -> Credentials:
    """A certificate, given as its text in any form, or as its line."""
    line = certificate_line(text)
    return Credentials(type=CredentialsType.X509_CERTIFICATE.value, credentials_id=certificate_hash(line), value=line)


def _wished(request: ProvisionRequest) -> Credentials:
    """The credentials that a device asks for.

    Raises:
        RejectedError: Something is missing for their type.
    """
    given = (request.token, request.client_id, request.user_name, request.password, request.certificate)
    if max(map(len, given)) > MAX_TEXT_CHARS:
        raise RejectedError(f"credentials of more than {MAX_TEXT_CHARS} characters")
    for text in (request.token, request.client_id, request.user_name, request.password):
        check_printable("a text of its credentials", text)
    if PROVISION_USER in (request.token, request.client_id, request.user_name):
        raise RejectedError(f"{PROVISION_USER!r} is who asks for provisioning; no device can connect with it")
    if request.credentials_type == CredentialsType.MQTT_BASIC:
        if not (request.client_id or request.user_name):
            raise RejectedError("MQTT_BASIC needs clientId or username")
        if request.password and not request.user_name:
            raise RejectedError("a password needs a username")
        return basic_credentials(request.client_id or None, request.user_name or None, request.password or None)
    if request.credentials_type == CredentialsType.X509_CERTIFICATE:
        if not certificate_line(request.certificate):
            raise RejectedError('X509_CERTIFICATE needs "hash": the text of the certificate')
        return x509_credentials(request.certificate)
    return token_credentials(request.token or _random_text())


def _key_of(profile: DeviceProfile, json: Mapping[str, Json]) -> ProvisionKey:
    data = json.get("profileData")
    configured = data.get("provisionConfiguration") if isinstance(data, dict) else None
    configuration: Mapping[str, Json] = configured if isinstance(configured, dict) else {}
    kind = json.get("provisionType") or configuration.get("type")
    return ProvisionKey(
        profile=profile.name,
        type=str(kind or ProvisionType.DISABLED.value),
        key=str(json.get("provisionDeviceKey")),
        secret=str(configuration.get("provisionDeviceSecret") or ""),
        name_pattern=str(configuration.get("certificateRegExPattern") or ""),
        may_create=configuration.get("allowCreateNewDevicesByX509Certificate") is True,
    )


def _name_of(common_name: str, key: ProvisionKey, few: FewLines) -> str | None:
    """Group 1 of the profile's pattern in the leaf's common name; a pattern without a group: all of its match."""
    try:
        match = re.search(key.name_pattern, common_name[:MAX_NAME_CHARS]) if key.name_pattern else None
    except re.error as error:
        few.warning("profile %r: certificateRegExPattern cannot be used: %s", key.profile, error)
        return None
    name = (match[1] if match.re.groups else match[0]) if match is not None else None
    if not name:
        few.warning("a certificate's common name does not fit the pattern of profile %r", key.profile)
        return None
    try:
        check_name("device", name)
    except RejectedError as error:
        few.warning("a certificate of profile %r: %s", key.profile, error)
        return None
    return name


def _random_text() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(20))
