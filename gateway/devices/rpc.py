"""RPC: request ids, deadlines, one-way and two-way; a repeated call reaches the device once.

A call from the cloud is durable before it is acknowledged (state QUEUED), SENT before it is handed to the
device, and DONE together with its answer's cloud event. After a restart a call that was SENT is answered
with TIMEOUT and never executed again; a QUEUED one is still executed while its deadline allows.

A persisted call that the device does not acknowledge is handed over again, see `gateway.devices.handover`: at least
once. One that it has acknowledged is DELIVERED, and is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson

from gateway.devices.handover import (
    ACK_WAIT_S,
    RESPONSE_WAIT_S,
    Lines,
    NotAcknowledgedError,
    Progress,
    Turn,
    most_retries,
    one_of,
    one_within,
    order_of,
    progress_from,
    state_when_sent,
)
from gateway.devices.load import Load
from gateway.devices.waiting import within
from gateway.domain.changes import AppendEvent, Change, SaveRpc
from gateway.domain.cloud_event import Action, CloudEvent, Lane
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message, MessageType
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse, RpcState, RpcStrategy
from gateway.errors import TransientError
from gateway.ports import FINISHED_RPCS, Clock, Outcome, Receipt, RuleCall, RuleReply, Snapshot
from gateway.supervise import Counters, follow

if TYPE_CHECKING:
    from gateway.devices.inlet import Session
    from gateway.devices.pipeline import Pipeline
    from gateway.devices.state import State

log = logging.getLogger(__name__)

MAX_OPEN: Final = 1000
"""Calls under way; one more is answered INTERNAL. As many calls of devices to the server may wait."""

MAX_OPEN_OF_DEVICE: Final = 100
"""Of them those of one device: a noisy one takes no more than this from the others."""

CLIENT_RPC_TIMEOUT_S: Final = 60.0
"""How long a device's own call waits for its answer (device API §1.12)."""


@dataclass(slots=True)
class _Open:
    """A call on its way to a device."""

    request: RpcRequest
    resume: Callable[[RpcResponse], Outcome]
    turn: Turn
    progress: Progress
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Future[RpcResponse] | None = None
    receipt: Receipt | None = None  # of the device's answer: done when what it caused is durable
    was_sent: bool = False


class RpcDesk:
    """All calls that are under way."""

    name = "rpc"

    def __init__(
        self,
        pipeline: Pipeline,
        state: State,
        clock: Clock,
        counters: Counters,
        strategy: RpcStrategy = RpcStrategy.BURST,
    ) -> None:
        self._pipeline, self._state, self._clock, self._counters = pipeline, state, clock, counters
        self._lines = Lines(strategy)
        self._progress: dict[UUID, Progress] = {}
        self._last_order = 0
        self.session_of: Callable[[UUID], Session | None] = lambda _: None
        self._open: dict[tuple[UUID, int], _Open] = {}
        self._load = Load(MAX_OPEN, MAX_OPEN_OF_DEVICE)  # open ones, and those on their way through the rules
        self._next_id: dict[UUID, int] = {}
        self._seen: OrderedDict[UUID, None] = OrderedDict()
        self._routed: set[UUID] = set()
        self._server_load = Load(MAX_OPEN, MAX_OPEN_OF_DEVICE)
        self._server_calls: dict[tuple[UUID, int], tuple[UUID, asyncio.Future[str | None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._early: list[RuleCall] = []
        pipeline.on_call = self._start
        pipeline.on_reply = self._reply

    async def serve(self) -> None:
        """Own the calls under way until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            for call in self._early:
                self._start(call)
            self._early.clear()
            try:
                await asyncio.Event().wait()
            finally:
                self._tasks = None  # what comes now is durable and waits for the next life

    def recover(self, snapshot: Snapshot) -> None:
        """Calls that were open at the last exit: answered when they may have run, run when they have not.

        Those that are done are remembered, so that their repetition does not reach the device.
        """
        for request_uuid in reversed(snapshot.finished_rpcs):
            self._remember(request_uuid)
        for request_uuid, _, state, expires_ms, kept in sorted(snapshot.open_rpcs, key=order_of):
            request = _request_from(kept, request_uuid)
            self._remember(request_uuid)
            progress = progress_from(kept, state)
            if progress is None or expires_ms <= self._clock.now_ms():
                self._pipeline.commit(self._answer_changes(request, RpcResponse(error=RpcError.TIMEOUT)))
            elif self._state.device(request.device_id) is None:
                self._pipeline.commit(self._answer_changes(request, RpcResponse(error=RpcError.NOT_FOUND)))
            else:
                self._last_order = max(self._last_order, progress.order)
                self._enter(request, progress)

    def call_device(self, request: RpcRequest) -> Receipt | None:
        """A call from the cloud: its receipt, or None when it was here before."""
        uuid = request.request_uuid
        if uuid is not None:
            if uuid in self._seen:
                self._counters.add("rpc.repeated")
                return None
            self._remember(uuid)
        self._counters.add("rpc.calls")
        receipt = self._admit(request)
        receipt.add_done_callback(lambda done: self._forget_refused(done, uuid))
        return receipt

    def _forget_refused(self, done: Receipt, uuid: UUID | None) -> None:
        """What could not be stored was not done: its repetition is a new call."""
        if uuid is not None and not done.cancelled() and done.exception() is not None:
            self._seen.pop(uuid, None)

    def _admit(self, request: RpcRequest) -> Receipt:
        if request.expires_ms <= self._clock.now_ms():
            return self._refuse(request, RpcError.TIMEOUT)
        if self._state.device(request.device_id) is None:
            return self._refuse(request, RpcError.NOT_FOUND)
        if not self._load.has_room(request.device_id):
            self._counters.add("rpc.refused")
            return self._refuse(request, RpcError.INTERNAL)
        self._last_order = max(self._clock.now_ms(), self._last_order + 1)
        return self._enter(request, Progress(self._last_order))

    def _refuse(self, request: RpcRequest, error: RpcError) -> Receipt:
        """It was never taken: the caller is told, of a persisted call as well (no id has been sent for it)."""
        event = _answer_event(request, RpcResponse(error=error), self._clock.now_ms())
        return self._pipeline.commit([*self._state_change(request, RpcState.DONE), event])

    def _enter(self, request: RpcRequest, progress: Progress) -> Receipt:
        device = self._state.device(request.device_id)
        metadata = {
            "requestUUID": str(request.request_uuid),
            "originServiceId": "cloud",
            "expirationTime": str(request.expires_ms),
            "oneway": "true" if request.is_oneway else "false",
            "persistent": "true" if request.is_persisted else "false",
            "deviceName": device.name if device else "",
            "deviceType": device.type if device else "",
            "requestId": str(request.request_id),
        }
        if request.retries:
            metadata["retries"] = str(request.retries)
        try:
            # As JSON text, texts too: the text "5" must not reach the device as the number 5.
            params = orjson.dumps(request.params).decode()
        except TypeError:  # nested too deeply
            log.warning("rpc: the params of the call %r cannot be carried", request.method)
            answer = _answer_event(request, RpcResponse(error=RpcError.INTERNAL), self._clock.now_ms())
            return self._pipeline.commit([answer])
        message = Message(
            type=MessageType.RPC_CALL_FROM_SERVER_TO_DEVICE.value,
            originator=EntityId("DEVICE", request.device_id),
            data={"method": request.method, "params": params, "requestId": request.request_id},
            metadata=metadata,
            ts_ms=self._clock.now_ms(),
        )
        self._load.enter(request.device_id)
        if request.request_uuid is not None:
            self._progress[request.request_uuid] = progress
        state = RpcState.TIMEOUT if progress.was_sent else RpcState.QUEUED
        receipt = self._pipeline.run([message], first=self._state_change(request, state), overtakes=True)
        receipt.add_done_callback(lambda done: self._check_routed(done, request))
        return receipt

    def _check_routed(self, done: Receipt, request: RpcRequest) -> None:
        """After the rules: a chain without an `rpc call request` node answers nothing, so it is closed here."""
        self._load.leave(request.device_id)
        uuid = request.request_uuid
        if uuid in self._routed:
            self._routed.discard(uuid)
        elif uuid is not None and (done.cancelled() or done.exception() is not None):
            self._progress.pop(uuid, None)
        elif not done.cancelled() and done.exception() is None:
            self._counters.add("rpc.unrouted")
            log.warning("rpc: no rule sent the call %r on to its device", request.method)
            self._refuse(request, RpcError.INTERNAL)

    def _start(self, call: RuleCall) -> None:
        """`rpc call request`, after the commit."""
        if call.request.request_uuid is not None:
            self._routed.add(call.request.request_uuid)
        if self._tasks is None:
            self._early.append(call)
            return
        device_id = call.request.device_id
        if not call.request.is_from_cloud and not self._load.has_room(device_id):
            self._counters.add("rpc.refused")
            self._pipeline.resume(call.resume(RpcResponse(error=RpcError.INTERNAL)))
            return
        rpc_id = self._next_id.get(device_id, 0)
        self._next_id[device_id] = (rpc_id + 1) & 0x7FFFFFFF
        progress = Progress()
        if call.request.is_from_cloud and call.request.request_uuid is not None:
            progress = self._progress.get(call.request.request_uuid, progress)
        entry = _Open(call.request, call.resume, self._lines.enter(device_id), progress, was_sent=progress.was_sent)
        self._open[device_id, rpc_id] = entry
        self._load.enter(device_id)
        self._tasks.create_task(self._conduct(device_id, rpc_id, entry), name=f"rpc {call.request.method}")

    async def _conduct(self, device_id: UUID, rpc_id: int, entry: _Open) -> None:
        request = entry.request
        try:
            if request.is_persisted and request.is_from_cloud and not entry.progress.was_sent:
                text = orjson.dumps({"rpcId": str(request.request_uuid)}).decode()
                self._pipeline.commit([_answer_event(request, RpcResponse(response=text), self._clock.now_ms())])
            left_s = (request.expires_ms - self._clock.now_ms()) / 1000
            try:
                response = await within(self._clock, left_s, self._talk(device_id, rpc_id, entry))
            except TimeoutError:
                is_ours = entry.was_sent or left_s <= 0  # it had no time left when its turn came
                error = RpcError.TIMEOUT if is_ours else RpcError.NO_ACTIVE_CONNECTION
                response = RpcResponse(error=error)
            self._counters.add("rpc.failed" if response.error else "rpc.answered")
            outcome = entry.resume(response)
            first = [] if not request.is_from_cloud else self._answer_changes(request, response)
            done = self._pipeline.resume(outcome, first)
            if entry.receipt is not None:
                follow(done, entry.receipt)
                entry.receipt = None
        finally:
            if entry.receipt is not None:
                entry.receipt.cancel()
            self._open.pop((device_id, rpc_id), None)
            self._load.leave(device_id)
            entry.turn.pass_on()

    async def _talk(self, device_id: UUID, rpc_id: int, entry: _Open) -> RpcResponse:
        """Hand the call over (again after a lost connection, or a missing acknowledgement) and wait for the answer."""
        request = entry.request
        while True:
            # Cleared before looking: who subscribes from here on wakes us, also while an older connection is given up.
            entry.listening.clear()
            session = self.session_of(device_id)
            if session is None or not session.hears_rpc:
                is_away = session is None or not session.asks_again
                if is_away and request.is_oneway and not request.is_persisted:
                    return RpcResponse(error=RpcError.NO_ACTIVE_CONNECTION)
                if (late := await self._heard(entry)) is not None:
                    return late
                continue
            if not entry.turn.is_here:
                await entry.turn.wait()
                continue
            is_first, entry.was_sent = not entry.was_sent, True
            if (is_first or request.is_persisted) and request.is_from_cloud:
                state = state_when_sent(request, confirms=session.confirms_rpc)
                await asyncio.shield(self._pipeline.commit(self._state_change(request, state)))
            if request.expires_ms <= self._clock.now_ms():  # the disk took too long: never executed
                return RpcResponse(error=RpcError.TIMEOUT)
            entry.answer = entry.answer or asyncio.get_running_loop().create_future()
            try:
                answer = await self._hand_over(session, rpc_id, entry, entry.answer)
            except TransientError as error:
                if request.is_persisted and not self._tries_again(entry, is_counted=session.confirms_rpc):
                    return RpcResponse(error=RpcError.TIMEOUT)
                is_at_once = self._lines.is_sequential and isinstance(error, NotAcknowledgedError)
                if not is_at_once and (late := await self._heard(entry)) is not None:
                    return late
                continue
            if answer is not None:
                return answer
            if request.is_oneway:
                return RpcResponse(response="{}")
            return await self._answer(session, entry, entry.answer)

    async def _heard(self, entry: _Open) -> RpcResponse | None:
        """Returns when the device listens anew, or with the answer to a call it has not acknowledged."""
        listening = asyncio.ensure_future(entry.listening.wait())
        try:
            await one_of(listening, *([entry.answer] if entry.answer else []))
        finally:
            listening.cancel()
        return entry.answer.result() if entry.answer is not None and entry.answer.done() else None

    async def _hand_over(
        self, session: Session, rpc_id: int, entry: _Open, answer: asyncio.Future[RpcResponse]
    ) -> RpcResponse | None:
        """The device has it: None, or its answer.

        Raises:
            TransientError: It does not have it, or (`NotAcknowledgedError`) a persisted call may not have arrived.
        """
        if answer.done():  # meanwhile, to an earlier sending
            return answer.result()
        delivery = asyncio.ensure_future(session.channel.send_rpc(rpc_id, entry.request))
        try:
            if session.confirms_rpc and not await one_within(self._clock, ACK_WAIT_S, delivery, answer):
                self._counters.add("rpc.not_acknowledged")
                if entry.request.is_persisted:
                    raise NotAcknowledgedError(f"no acknowledgement within {ACK_WAIT_S:g} s")
                entry.turn.pass_on()
            await one_of(delivery, answer)
            if not answer.done():
                return await delivery
            if delivery.done():
                delivery.exception()  # its connection ended, and the answer was faster
            return answer.result()
        finally:
            delivery.cancel()

    def _tries_again(self, entry: _Open, *, is_counted: bool) -> bool:
        """A persisted call that the device may not have: False when it was tried often enough."""
        request, progress = entry.request, entry.progress
        most = most_retries(request.retries)
        if is_counted and progress.retries >= most:
            self._counters.add("rpc.given_up")
            device = self._state.device(request.device_id)
            name = device.name if device else request.device_id
            text = "rpc: device %r did not acknowledge the persisted call %r, which was sent %d times; it has failed"
            log.warning(text, name, request.method, most + 1)
            return False
        progress.retries += is_counted
        if request.is_from_cloud:
            self._pipeline.commit(self._state_change(request, RpcState.TIMEOUT))
        return True

    async def _answer(self, session: Session, entry: _Open, answer: asyncio.Future[RpcResponse]) -> RpcResponse:
        """The device has the call: wait for what it says."""
        request = entry.request
        if session.confirms_rpc and request.is_persisted and request.is_from_cloud:
            self._pipeline.commit(self._state_change(request, RpcState.DELIVERED))
        if self._lines.waits_for_answers:
            await one_within(self._clock, RESPONSE_WAIT_S, answer)
        entry.turn.pass_on()
        return await answer

    def answered(self, device_id: UUID, rpc_id: int, response: str) -> Receipt:
        """The device's answer; the receipt is done when the answer's event is durable."""
        entry = self._open.get((device_id, rpc_id))
        answer = None if entry is None or entry.request.is_oneway else entry.answer
        if entry is None or answer is None or answer.done():
            self._counters.add("rpc.stale_answers")
            return self._pipeline.commit(())
        answer.set_result(RpcResponse(response=response))
        entry.receipt = asyncio.get_running_loop().create_future()
        return entry.receipt

    def device_listens(self, device_id: UUID) -> None:
        """The device subscribed to RPC: pending calls go out."""
        for (owner, _), entry in self._open.items():
            if owner == device_id:
                entry.listening.set()

    # ── calls made by devices ──

    async def call_server(self, session: Session, request_id: int, method: str, params: Json) -> str | None:
        """Through the rules; answered by a reply node or by the cloud, None when nobody does in time."""
        key = (session.device.id, request_id)
        if not self._server_load.has_room(session.device.id):
            # Not this device's fault: it is told, and stays connected.
            self._counters.add("rpc.server_calls_refused")
            return '{"error":"too many calls wait for answers, try again later"}'
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._server_calls[key] = (session.id, future)
        self._server_load.enter(key[0])
        message = Message(
            type=MessageType.TO_SERVER_RPC_REQUEST.value,
            originator=session.device.entity_id,
            data={"method": method, "params": params},
            metadata={
                "deviceName": session.device.name,
                "deviceType": session.device.type,
                "requestId": str(request_id),
                "serviceId": "edge-gateway",
                "sessionId": str(session.id),
            },
            ts_ms=self._clock.now_ms(),
        )
        try:
            self._pipeline.run([message])
            return await within(self._clock, CLIENT_RPC_TIMEOUT_S, _result(future))
        except TimeoutError:
            return None
        finally:
            self._server_load.leave(key[0])
            if self._server_calls.get(key) == (session.id, future):
                del self._server_calls[key]

    def _reply(self, reply: RuleReply) -> None:
        self.server_answered(reply.device_id, reply.request_id, reply.session_id, reply.response)

    def server_answered(self, device_id: UUID, request_id: int, session_id: str | None, response: str) -> None:
        """By a rule or by the cloud; an answer nobody waits for is ignored.

        Devices count their calls from the beginning with each connection: the session tells old from new.
        """
        caller, future = self._server_calls.get((device_id, request_id), (None, None))
        if future is not None and not future.done() and session_id in (None, "", str(caller)):
            future.set_result(response)

    def session_closed(self, session: Session) -> None:
        """Nobody waits for the answers to its calls any more."""
        for caller, future in list(self._server_calls.values()):
            if caller == session.id and not future.done():
                future.set_result(None)

    def open_calls(self) -> int:
        """Calls under way."""
        return len(self._open)

    def _remember(self, uuid: UUID) -> None:
        self._seen[uuid] = None
        if len(self._seen) > FINISHED_RPCS:
            self._seen.popitem(last=False)

    def _state_change(self, request: RpcRequest, state: RpcState) -> list[Change]:
        if request.request_uuid is None:
            return []
        kept = {
            "device_id": str(request.device_id),
            "method": request.method,
            "params": request.params,
            "request_id": request.request_id,
            "expires_ms": request.expires_ms,
            "is_oneway": request.is_oneway,
            "is_persisted": request.is_persisted,
        }
        if state is RpcState.DONE:
            self._progress.pop(request.request_uuid, None)
        elif progress := self._progress.get(request.request_uuid):
            kept |= {"order": progress.order, "retries": progress.retries}
            if request.retries:
                kept["most_retries"] = request.retries
        return [SaveRpc(request.request_uuid, request.device_id, state, request.expires_ms, kept)]

    def _answer_changes(self, request: RpcRequest, response: RpcResponse) -> list[Change]:
        changes = self._state_change(request, RpcState.DONE)
        if not request.is_persisted:
            changes.append(_answer_event(request, response, self._clock.now_ms()))
        return changes


async def _result(future: asyncio.Future[str | None]) -> str | None:
    return await future


def _answer_event(request: RpcRequest, response: RpcResponse, now_ms: int) -> AppendEvent:
    body: dict[str, Json] = {
        "requestUUID": str(request.request_uuid),
        "expirationTime": request.expires_ms,
        "oneway": request.is_oneway,
        "requestId": request.request_id,
    }
    if response.error is not None:
        body["error"] = response.error.value
    else:
        body["response"] = "{}" if response.response is None else response.response
    return AppendEvent(
        CloudEvent(
            type="DEVICE",
            action=Action.RPC_CALL.value,
            entity_id=request.device_id,
            created_ms=now_ms,
            body=orjson.dumps(body),
            lane=Lane.EXPRESS,
        )
    )


def _request_from(kept: Mapping[str, Json], request_uuid: UUID) -> RpcRequest:
    return RpcRequest(
        device_id=UUID(kept["device_id"]),
        method=kept["method"],
        params=kept["params"],
        request_id=kept["request_id"],
        expires_ms=kept["expires_ms"],
        is_oneway=kept["is_oneway"],
        is_persisted=kept["is_persisted"],
        request_uuid=request_uuid,
        retries=int(kept.get("most_retries", 0)),
    )
