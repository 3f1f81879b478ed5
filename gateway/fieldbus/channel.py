"""One device of a bus, in both directions: readings into its session, calls and shared attributes to the bus."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, overload

import orjson

from gateway.domain.entity import Json
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.domain.telemetry import TsKv, Value
from gateway.errors import GatewayError, RejectedError, TransientError
from gateway.ports import Clock, DeviceInlet, DeviceSession, Query, Receipt, WriteTogether, Wrote
from gateway.supervise import Backoff, Counters

log = logging.getLogger(__name__)

AGAIN_S: Final = 10.0
AGAIN_MAX_S: Final = 600.0
"""A shared attribute that did not get through is written again at the device's first answer after a silence; when it
answers all the while but not this, after a pause that grows."""

TAKEN_OVER_S: Final = 60.0
"""Pause before a session is opened again that somebody else has taken over: two owners must not fight each second."""


class CallExpired(RejectedError):
    """Its deadline passed before its turn came; it was not executed."""


class Calls(Protocol):
    """What a channel needs of its bus."""

    @overload
    def submit(self, command: Query, expires_ms: int | None = None) -> asyncio.Future[Value]: ...

    @overload
    def submit(self, command: WriteTogether, expires_ms: int | None = None) -> asyncio.Future[Wrote]: ...

    def submit(self, command: Any, expires_ms: int | None = None) -> asyncio.Future[Any]:
        """Into the bus' inbox; done with the value read. Fails with a `GatewayError`."""
        ...

    def together(self, device: str, keys: Sequence[str]) -> Sequence[Sequence[str]]:
        """The same keys in the same order, cut into those that one command can write."""
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
        self._again_s = math.inf  # when shared attributes that did not get through are tried again
        self._again = Backoff(AGAIN_S, AGAIN_MAX_S)

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
        if self._again_s != math.inf:
            self._tell_again()
        receipts: list[Receipt] = []
        if telemetry:
            receipts.append(self._session.post_telemetry(telemetry))
        if attributes:
            receipts.append(self._session.post_attributes(attributes))
        return receipts

    def touch(self) -> None:
        """It answered, and nothing of it was worth a message."""
        if self._session is not None:
            if self._again_s != math.inf:
                self._tell_again()
            self._session.touch()

    def fall_silent(self) -> None:
        """Its unit, or the whole bus, does not answer."""
        if self._again_s != math.inf:
            self._again_s = 0.0  # at its next answer
        if self._session is not None:
            self._session.fall_silent()

    def _tell_again(self) -> None:
        """It answers: what did not get through is due again, its newest values."""
        if self._session is not None and self._clock.monotonic_s() >= self._again_s:
            self._again_s = math.inf
            self._session.subscribe_attributes(True)

    def _not_told(self, keys: Sequence[str]) -> None:
        if self._session is not None:
            self._session.owe_attributes(keys)
            self._again_s = self._clock.monotonic_s() + self._again.next_s()

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
        keys = [key for key in values if self._calls.is_writable(self._name, key)]
        for group in self._calls.together(self._name, keys):
            future = self._calls.submit(WriteTogether(device=self._name, values={key: values[key] for key in group}))
            future.add_done_callback(partial(self._attributes_written, group))

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """A register cannot be deleted: the device keeps its value."""

    async def send_rpc(self, rpc_id: int, request: RpcRequest) -> RpcResponse:
        """Execute a call; the answer is `{"result":{"value":…}}` or `{"result":{"error":"…"}}`.

        A write adds `note` (of several `notes`, by key) when the device holds another value than was written, and one
        that failed on its way `written`: the values of the keys before.

        Source of the shape: what devices behind ThingsBoard's own gateway answer.
        """
        try:
            result = await self._execute(request.method, request.params, request.expires_ms)
        except CallExpired:
            self._counters.add("fieldbus.calls_expired")
            return RpcResponse(error=RpcError.TIMEOUT)
        except (RejectedError, TransientError) as error:
            result = {"error": str(error)}
        if "error" in result:
            self._counters.add("fieldbus.calls_failed")
        return RpcResponse(response=orjson.dumps({"result": result}).decode())

    async def _execute(self, method: str, params: Json, expires_ms: int) -> dict[str, Any]:
        is_writable = self._calls.is_writable(self._name, method)
        if is_writable is not None:
            # What can only be read is read, though a widget sends its empty params along; a value is refused.
            if params is None or (not is_writable and params in ("", {}, [])):
                return await self._get(method, expires_ms)
            return await self._set_one(method, params, expires_ms)
        if method == "get":
            if isinstance(params, str):
                return await self._get(params, expires_ms)
            if isinstance(params, dict) and isinstance(params.get("key"), str):
                return await self._get(params["key"], expires_ms)
            raise RejectedError('get needs params {"key": "<key>"}')
        if method == "set":
            if isinstance(params, str):
                return await self._set_text(params, expires_ms)
            if not isinstance(params, dict) or not params:
                raise RejectedError('set needs params {"key": "<key>", "value": <value>} or {"<key>": <value>, …}')
            if params.keys() == {"key", "value"} and isinstance(params["key"], str):
                return await self._set_one(params["key"], params["value"], expires_ms)
            return await self._set(params, expires_ms)
        raise RejectedError(f"Method not found for {method}")

    async def _get(self, key: str, expires_ms: int) -> dict[str, Any]:
        return {"value": await self._calls.submit(Query(device=self._name, key=key), expires_ms)}

    async def _set_one(self, key: str, value: Json, expires_ms: int) -> dict[str, Any]:
        done = await self._set({key: value}, expires_ms)
        if "value" in done:
            done["value"] = done["value"][key]
        if "notes" in done:
            done["note"] = done.pop("notes")[key]
        return done

    async def _set_text(self, text: str, expires_ms: int) -> dict[str, Any]:
        """`…;value=9;` as the vendor's gateway takes it: what stands before names the place; the answer is text too."""
        parts = [part for part in text.split(";") if part]
        value = [part for part in parts if part.startswith("value=")]
        if len(value) != 1 or len(parts) == 1:
            raise RejectedError("set needs a text like type=16int;functionCode=6;objectsCount=1;address=6;value=9;")
        place = "".join(f"{part};" for part in parts if part != value[0])
        done = await self._set_one(place, value[0].removeprefix("value="), expires_ms)
        held = done.get("value")
        if held is not None and not isinstance(held, str):
            done["value"] = orjson.dumps(held).decode()
        return done

    async def _set(self, values: Mapping[str, Json], expires_ms: int) -> dict[str, Any]:
        written: dict[str, Value] = {}
        notes: dict[str, str] = {}
        failed: RejectedError | TransientError | None = None
        for group in self._calls.together(self._name, list(values)):
            command = WriteTogether(device=self._name, values={key: values[key] for key in group})
            try:
                wrote = await self._calls.submit(command, expires_ms)
            except (RejectedError, TransientError) as error:
                if not written:
                    raise
                failed = error
                break
            written |= wrote.values
            notes |= wrote.notes
            if isinstance(wrote.error, RejectedError | TransientError):
                failed = wrote.error
                break
        done: dict[str, Any] = {"value": written}
        if failed is not None:
            done = {"error": f"{failed}; already written: {', '.join(written)}", "written": written}
        if notes:
            done["notes"] = notes
        return done

    def _attributes_written(self, keys: Sequence[str], done: asyncio.Future[Wrote]) -> None:
        if done.cancelled():
            return
        error: BaseException | None = done.exception()
        wrote = done.result() if error is None else Wrote(values={})
        error = error or wrote.error
        for key, note in wrote.notes.items():
            self._counters.add("fieldbus.attributes_not_taken")
            log.warning("%s: shared attribute %r: %s", self._name, key, note)
        telemetry = {k: v for k, v in wrote.values.items() if not self._calls.is_attribute(self._name, k)}
        attributes = {key: value for key, value in wrote.values.items() if key not in telemetry}
        if wrote.values:
            items = (TsKv(self._clock.now_ms(), telemetry),) if telemetry else ()
            for receipt in self.post(items, attributes):
                self._receipts.add(receipt)
                receipt.add_done_callback(self._posted)
        if error is None:
            self._again.reset()
            return
        if not isinstance(error, GatewayError):
            raise error
        missing = [key for key in keys if key not in wrote.values]
        is_away = isinstance(error, TransientError | CallExpired)
        for key in missing:
            self._counters.add("fieldbus.attributes_not_written")
            end = "; it is written when the device answers again" if is_away else ""
            log.warning("%s: shared attribute %r is not written: %s%s", self._name, key, error, end)
        if is_away and missing:
            self._not_told(missing)

    def _posted(self, receipt: Receipt) -> None:
        self._receipts.discard(receipt)
        if not receipt.cancelled() and receipt.exception() is not None:
            self._counters.add("fieldbus.readings_rejected")
