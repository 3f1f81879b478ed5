"""One device of a bus, in both directions: readings into its session, calls and shared attributes to the bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import orjson

from gateway.domain.entity import Json
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.domain.telemetry import TsKv, Value
from gateway.errors import GatewayError, RejectedError, TransientError
from gateway.ports import Clock, DeviceInlet, DeviceSession, Query, Receipt, Write
from gateway.supervise import Counters

log = logging.getLogger(__name__)

TAKEN_OVER_S: Final = 60.0
"""Pause before a session is opened again that somebody else has taken over: two owners must not fight each second."""


class CallExpired(RejectedError):
    """Its deadline passed before its turn came; it was not executed."""


class Calls(Protocol):
    """What a channel needs of its bus."""

    def submit(self, command: Write | Query, expires_ms: int | None = None) -> asyncio.Future[Value]:
        """Into the bus' inbox; done with the value read. Fails with a `GatewayError`."""
        ...

    def is_writable(self, device: str, key: str) -> bool | None:
        """None: no such tag."""
        ...

    def is_attribute(self, device: str, key: str) -> bool:
        """True when readings of this tag are attributes."""
        ...


class BusChannel:
    """Implements `DeviceChannel` for one device of a bus. Opens its own session, and opens it again after a loss."""

    def __init__(self, name: str, calls: Calls, inlet: DeviceInlet, clock: Clock, counters: Counters) -> None:
        self._name, self._calls, self._inlet = name, calls, inlet
        self._clock, self._counters = clock, counters
        self._session: DeviceSession | None = None
        self._open_after_s = 0.0
        self._receipts: set[Receipt] = set()

    # ── up ──

    def open(self) -> bool:
        """Make sure that there is a session; False while the device does not exist."""
        if self._session is not None:
            return True
        if self._clock.monotonic_s() < self._open_after_s:
            return False
        device = self._inlet.find_device(self._name)
        if device is None:
            return False
        try:
            session = self._inlet.open_session(device, self)
        except RejectedError:
            return False
        self._session = session
        session.subscribe_attributes(True)
        session.subscribe_rpc(True)
        session.fall_silent()  # nothing was read yet
        return True

    def post(self, telemetry: Sequence[TsKv], attributes: Mapping[str, Value]) -> list[Receipt]:
        """Into the rules; nothing when the device has no session (counted)."""
        if not self.open() or self._session is None:
            self._counters.add("fieldbus.readings_without_device", len(telemetry) + len(attributes))
            return []
        receipts: list[Receipt] = []
        if telemetry:
            receipts.append(self._session.post_telemetry(telemetry))
        if attributes:
            receipts.append(self._session.post_attributes(attributes))
        return receipts

    def touch(self) -> None:
        """It answered, and nothing of it was worth a message."""
        if self._session is not None:
            self._session.touch()

    def fall_silent(self) -> None:
        """Its unit, or the whole bus, does not answer."""
        if self._session is not None:
            self._session.fall_silent()

    def end(self) -> None:
        """The bus stops."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # ── down: `DeviceChannel` ──

    def close(self, reason: str) -> None:
        """The session is over: deleted or renamed devices are looked up again by name at the next poll."""
        self._session = None
        if reason == "taken_over":
            self._open_after_s = self._clock.monotonic_s() + TAKEN_OVER_S
            self._counters.add("fieldbus.taken_over")

    def send_attributes(self, values: Mapping[str, Value]) -> None:
        """Write those that name a writable tag, and post what the device then has; the others are not ours."""
        for key, value in values.items():
            if self._calls.is_writable(self._name, key):
                future = self._calls.submit(Write(device=self._name, key=key, value=value))
                future.add_done_callback(partial(self._attribute_written, key))

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """A register cannot be deleted: the device keeps its value."""

    async def send_rpc(self, rpc_id: int, request: RpcRequest) -> RpcResponse:
        """Execute a call; the answer is `{"result":{"value":…}}` or `{"result":{"error":"…"}}`.

        Source of the shape: what devices behind ThingsBoard's own gateway answer.
        """
        try:
            result = {"value": await self._execute(request.method, request.params, request.expires_ms)}
        except CallExpired:
            self._counters.add("fieldbus.calls_expired")
            return RpcResponse(error=RpcError.TIMEOUT)
        except (RejectedError, TransientError) as error:
            self._counters.add("fieldbus.calls_failed")
            result = {"error": str(error)}
        return RpcResponse(response=orjson.dumps({"result": result}).decode())

    async def _execute(self, method: str, params: Json, expires_ms: int) -> Value:
        if self._calls.is_writable(self._name, method) is not None:
            if params is None:
                return await self._calls.submit(Query(device=self._name, key=method), expires_ms)
            return await self._calls.submit(Write(device=self._name, key=method, value=params), expires_ms)
        if method == "get":
            if isinstance(params, dict) and isinstance(params.get("key"), str):
                return await self._calls.submit(Query(device=self._name, key=params["key"]), expires_ms)
            raise RejectedError('get needs params {"key": "<key>"}')
        if method == "set":
            return await self._set(params, expires_ms)
        raise RejectedError(f"Method not found for {method}")

    async def _set(self, params: Json, expires_ms: int) -> Value:
        if not isinstance(params, dict) or not params:
            raise RejectedError('set needs params {"key": "<key>", "value": <value>} or {"<key>": <value>, …}')
        if params.keys() == {"key", "value"} and isinstance(params["key"], str):
            return await self._calls.submit(
                Write(device=self._name, key=params["key"], value=params["value"]), expires_ms
            )
        written: dict[str, Any] = {}
        for key, value in params.items():
            try:
                written[key] = await self._calls.submit(Write(device=self._name, key=key, value=value), expires_ms)
            except (RejectedError, TransientError) as error:
                if not written:
                    raise
                raise RejectedError(f"{error}; already written: {', '.join(written)}") from error
        return written

    def _attribute_written(self, key: str, done: asyncio.Future[Value]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            value = done.result()
            if self._calls.is_attribute(self._name, key):
                receipts = self.post((), {key: value})
            else:
                receipts = self.post((TsKv(self._clock.now_ms(), {key: value}),), {})
            for receipt in receipts:
                self._receipts.add(receipt)
                receipt.add_done_callback(self._posted)
        elif isinstance(error, GatewayError):
            self._counters.add("fieldbus.attributes_not_written")
            log.warning("%s: shared attribute %r is not written: %s", self._name, key, error)
        else:
            raise error

    def _posted(self, receipt: Receipt) -> None:
        self._receipts.discard(receipt)
        if not receipt.cancelled() and receipt.exception() is not None:
            self._counters.add("fieldbus.readings_rejected")
