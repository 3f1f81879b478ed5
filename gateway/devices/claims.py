"""Claiming: a device says that it may have an owner, a person who knows its key becomes that owner.

The record is a setting of the gateway, one for each device, with an end; the key itself is not kept, only its
fingerprint. What a successful claim does here: the record is used up, and the server attribute `claimed` says so here
and in the cloud, where a rule may give the device to a customer. (The edge protocol has no message for a claim, and a
customer of the cloud is nobody here.) Setting `claimed` to anything but true, or deleting it, frees the device again.

Source: ThingsBoard 4.3 device API: claiming.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson

from gateway.domain.changes import AppendEvent, SaveAttributes, SaveSetting
from gateway.domain.cloud_event import Action, CloudEvent
from gateway.domain.entity import NULL_UUID, Device, Json
from gateway.domain.onboarding import ClaimStatus
from gateway.domain.telemetry import AttributeScope, Value
from gateway.ports import Clock, Receipt
from gateway.supervise import Counters, FewLines

if TYPE_CHECKING:
    from gateway.devices.pipeline import Pipeline
    from gateway.devices.state import State

log = logging.getLogger(__name__)

CLAIM: Final = "claim:"
"""Setting, with the device's id: `{"key", "until_ms"}`; the fingerprint of the secret key, and the end."""
DEFAULT_DURATION_MS: Final = 86_400_000
MAX_DURATION_MS: Final = 10 * 365 * 86_400_000
ALLOWED_KEY: Final = "claimingAllowed"
CLAIMED_KEY: Final = "claimed"


class Claims:
    """`is_allowed_by_default` False: a device needs the server attribute `claimingAllowed` = true."""

    def __init__(self, state: State, pipeline: Pipeline, clock: Clock, counters: Counters) -> None:
        self._state, self._pipeline, self._clock, self._counters = state, pipeline, clock, counters
        self._log = FewLines(log, clock)  # a device may say it as often as it likes
        self.is_allowed_by_default = True
        self._coming: dict[UUID, Json] = {}  # records on their way to the disk
        self._ending: set[UUID] = set()  # claims on their way to the disk

    def record(self, device: Device, secret_key: str, duration_ms: int) -> Receipt:
        """The device may be claimed from now on. The first record wins until it is used or has expired."""
        now_ms = self._clock.now_ms()
        refusal = self._refusal(device, now_ms)
        if refusal is not None:
            self._counters.add("devices.claims_ignored")
            self._log.warning("device %r: its claim is ignored: %s", device.name, refusal)
            return self._pipeline.commit(())
        if not 0 < duration_ms <= MAX_DURATION_MS:
            duration_ms = DEFAULT_DURATION_MS if duration_ms <= 0 else MAX_DURATION_MS
        record = {"key": _fingerprint(device.id, secret_key), "until_ms": now_ms + duration_ms}
        self._coming[device.id] = record
        receipt = self._pipeline.commit([SaveSetting(f"{CLAIM}{device.id}", record)])
        receipt.add_done_callback(lambda _: self._coming.pop(device.id, None))
        return receipt

    async def claim(self, name: str, secret_key: str) -> ClaimStatus:
        """A person claims a device, by its local name or the cloud's. Success is durable.

        Raises:
            RejectedError: It can not be stored.
        """
        device = self._state.device_named(name)
        if device is None:
            return ClaimStatus.FAILURE
        if self._is_owned(device) or device.id in self._ending:
            return ClaimStatus.CLAIMED
        now_ms = self._clock.now_ms()
        record = self._record(device.id, now_ms)
        offered = _fingerprint(device.id, secret_key)
        if record is None or not hmac.compare_digest(str(record["key"]), offered):
            self._counters.add("devices.claims_refused")
            return ClaimStatus.FAILURE
        values: dict[str, Value] = {CLAIMED_KEY: True}
        scope = AttributeScope.SERVER_SCOPE.value
        event = CloudEvent(
            type="DEVICE",
            action=Action.ATTRIBUTES_UPDATED.value,
            entity_id=device.id,
            created_ms=now_ms,
            body=orjson.dumps({"kv": values, "ts": now_ms, "scope": scope}),
        )
        receipt = self._pipeline.commit(
            [
                SaveSetting(f"{CLAIM}{device.id}", None),
                SaveAttributes(device.entity_id, scope, now_ms, values),
                AppendEvent(event),
            ]
        )
        self._ending.add(device.id)
        receipt.add_done_callback(lambda _: self._ending.discard(device.id))
        await asyncio.wait([receipt])
        receipt.result()
        self._counters.add("devices.claimed")
        log.info("device %r was claimed", device.name)
        return ClaimStatus.SUCCESS

    def _refusal(self, device: Device, now_ms: int) -> str | None:
        if self._is_owned(device) or device.id in self._ending:
            return "it has an owner"
        if not self.is_allowed_by_default:
            allowed = self._state.attribute(device.entity_id, AttributeScope.SERVER_SCOPE, ALLOWED_KEY)
            if allowed is None or allowed.value is not True:
                return f"it needs the server attribute {ALLOWED_KEY} = true"
        return None if self._record(device.id, now_ms) is None else "an earlier one still stands"

    def _record(self, device_id: UUID, now_ms: int) -> Json | None:
        record = self._coming.get(device_id) or self._state.setting(f"{CLAIM}{device_id}")
        return record if record is not None and record["until_ms"] > now_ms else None

    def _is_owned(self, device: Device) -> bool:
        """By a customer of the cloud, or by somebody here."""
        customer = (device.json or {}).get("customerId")
        if isinstance(customer, dict) and str(customer.get("id")) not in ("None", str(NULL_UUID)):
            return True
        claimed = self._state.attribute(device.entity_id, AttributeScope.SERVER_SCOPE, CLAIMED_KEY)
        return claimed is not None and claimed.value is True


def _fingerprint(device_id: UUID, secret_key: str) -> str:
    return hashlib.sha256(device_id.bytes + secret_key.encode("utf-8", "surrogatepass")).hexdigest()
