"""Calls from the cloud to the devices of the edge, and their answers."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import UUID, uuid4

import orjson

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim.events import EdgeEvent
from gateway.cloudsim.strict import StreamCheck
from gateway.cloudsim.values import Report, uuid_of
from gateway.domain.entity import Json
from gateway.domain.rpc import RpcError
from gateway.errors import RejectedError

_KEPT: Final = 50
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class RpcResult:
    """What the caller of ThingsBoard's REST API would see. `response` is the device's JSON text."""

    response: str | None = None
    error: str | None = None

    @property
    def status(self) -> int:
        """Of `/api/plugins/rpc/…`: 200, 406 (the answer is not JSON), 408, 409."""
        if self.error is not None:
            is_absent = self.error == RpcError.NO_ACTIVE_CONNECTION
            return HTTPStatus.CONFLICT if is_absent else HTTPStatus.REQUEST_TIMEOUT
        if self.response:
            try:
                orjson.loads(self.response)
            except orjson.JSONDecodeError:
                return HTTPStatus.NOT_ACCEPTABLE
        return HTTPStatus.OK

    @property
    def short_status(self) -> int:
        """Of `/api/rpc/…`: 504 in place of all errors."""
        return self.status if self.error is None else HTTPStatus.GATEWAY_TIMEOUT


@dataclass(slots=True)
class _Call:
    uuid: UUID
    device_id: UUID
    oneway: bool
    answer: asyncio.Future[RpcResult]
    is_closed: bool = False
    answered_in: tuple[StreamCheck | None, int] | None = None  # stream and UplinkMsg of the first answer


@dataclass(frozen=True, slots=True)
class RpcRecord:
    """One call for the view, in either direction."""

    device: str
    method: str
    result: str


class RpcCalls:
    """Who waits for which answer. An answer is found by `requestId` and must carry the right `requestUuid`."""

    def __init__(self, report: Report = lambda kind, what: None) -> None:
        self._report = report
        self._calls: dict[int, _Call] = {}
        self._ids = itertools.count(1)
        self.recent: deque[RpcRecord] = deque(maxlen=_KEPT)
        self.forget_counts()

    def forget_counts(self) -> None:
        """Count from zero."""
        self.answered = 0
        self.stale = 0
        self.oneway_unanswered = 0

    def open(
        self, device_id: UUID, method: str, params: Json, *, expires_ms: int, oneway: bool, persisted: bool
    ) -> tuple[int, EdgeEvent, asyncio.Future[RpcResult]]:
        """A new call: its number, what is to be sent, and the answer to come."""
        request_id, uuid = next(self._ids), uuid4()
        answer: asyncio.Future[RpcResult] = asyncio.get_running_loop().create_future()
        self._calls[request_id] = _Call(uuid, device_id, oneway, answer)
        if len(self._calls) > _REMEMBERED:
            self._calls.pop(next(iter(self._calls)))
        body = {
            "requestId": request_id,
            "requestUUID": str(uuid),
            "expirationTime": expires_ms,
            "oneway": oneway,
            "persisted": persisted,
            "method": method,
            "params": orjson.dumps(params).decode(),
        }
        return request_id, EdgeEvent("DEVICE", "RPC_CALL", device_id, body), answer

    def close(self, request_id: int, *, was_reachable: bool = False) -> None:
        """The caller waits no longer. `was_reachable`: the edge was there all the time and had to answer."""
        call = self._calls.get(request_id)
        if call is None:
            return
        call.is_closed = True
        if call.oneway and not call.answer.done():
            self.oneway_unanswered += 1
            if was_reachable:
                self._report("rpc_oneway_unanswered", f"requestId {request_id}")

    def take_answer(
        self, msg: edge_pb2.DeviceRpcCallMsg, stream: StreamCheck | None = None, uplink_id: int = 0
    ) -> None:
        """An answer of the edge; a late, repeated or foreign one is stale and ignored.

        Raises:
            RejectedError: An error text that is no `RpcError`; the whole UplinkMsg fails.
        """
        error = msg.responseMsg.error or None
        if error is not None and error not in RpcError.__members__:
            self._report("rpc_error_name", f"{error!r} for requestId {msg.requestId}")
            raise RejectedError(f"{error!r} is not one of the RPC errors")
        call = self._calls.get(msg.requestId)
        if call is None:
            self.stale += 1
            self._report("rpc_answer_unknown", f"requestId {msg.requestId} was never used")
            return
        uuid, device_id = uuid_of(msg.requestUuidMSB, msg.requestUuidLSB), uuid_of(msg.deviceIdMSB, msg.deviceIdLSB)
        if call.uuid != uuid or call.device_id != device_id:
            self.stale += 1
            what = "requestUuid" if call.uuid != uuid else "device"
            self._report("rpc_answer_pair", f"requestId {msg.requestId}: {what} is that of another call")
            return
        if call.answered_in is not None:
            self.stale += 1
            first_stream, first_id = call.answered_in
            if first_stream is stream and first_stream is not None and first_stream.is_confirmed(first_id):
                self._report("rpc_answer_twice", f"requestId {msg.requestId}: the first answer had been confirmed")
            return
        call.answered_in = (stream, uplink_id)
        if call.is_closed or call.answer.done():
            self.stale += 1
            return
        self.answered += 1
        call.answer.set_result(RpcResult(None if error else msg.responseMsg.response, error))
