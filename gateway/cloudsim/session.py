"""One stream of an edge, from its connect to its end. Knows messages, not gRPC.

Three loops: one reads and handles requests in order, one writes answers when they are due, one delivers
downlinks in packs: a pack is pending until each of its ids is acknowledged, and is sent three times at most.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim.downlinks import new_message
from gateway.cloudsim.events import EdgeEvent, filter_page
from gateway.cloudsim.faults import RATE_LIMIT_TEXT
from gateway.cloudsim.strict import StreamCheck
from gateway.cloudsim.sync import sync_pages
from gateway.errors import RejectedError

if TYPE_CHECKING:
    from gateway.cloudsim.core import Cloud

CONNECT: Final = edge_pb2.CONNECT_RPC_MESSAGE
UPLINK: Final = edge_pb2.UPLINK_RPC_MESSAGE
SYNC: Final = edge_pb2.SYNC_REQUEST_RPC_MESSAGE
SENDINGS: Final = 3
_MAX_WAITING_ANSWERS: Final = 5_000
_SHUFFLE_S: Final = 0.005

Read = Callable[[], Awaitable[edge_pb2.RequestMsg | None]]
Write = Callable[[edge_pb2.ResponseMsg], Awaitable[None]]


class Session:
    """One stream. `serve` returns when it is over: True for a proper end, False when the edge was refused."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._options = cloud.options
        self._outbox: deque[tuple[float, bool, edge_pb2.ResponseMsg]] = deque()  # due, is it an answer, message
        self._out_wake, self._out_idle, self._out_room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._over = asyncio.Event()
        self._wake = asyncio.Event()
        self._pending: dict[int, edge_pb2.DownlinkMsg] = {}
        self._all_acked = asyncio.Event()
        self._sync_wanted: bool | None = None  # the value of fullSync
        self._client_limit = 0
        self._is_refused = False
        self._is_told = False  # that it was accepted
        self._report = cloud.violations.add
        self._check = StreamCheck(self._report)
        self.is_accepted = False
        self.is_muted = False
        """An old server forgets the stream of an edge that connects again, without ending it."""
        self.is_syncing = False
        self.announced = 0

    async def serve(self, read: Read, write: Write) -> bool:
        """Until the edge goes, is refused, or the cloud ends the stream."""
        loops = [
            asyncio.create_task(self._read(read), name="cloud-sim read"),
            asyncio.create_task(self._write(write), name="cloud-sim write"),
            asyncio.create_task(self._deliver(), name="cloud-sim deliver"),
            asyncio.create_task(self._over.wait(), name="cloud-sim end"),
        ]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            self._cloud.leave(self)
        return not self._is_refused

    def end(self) -> None:
        """Complete the stream with OK."""
        self._over.set()

    def wake(self) -> None:
        """There is something new to deliver."""
        self._wake.set()

    def start_sync(self, *, is_full: bool) -> bool:
        """False: one is running already."""
        if self.is_syncing:
            return False
        self.is_syncing = True
        self._sync_wanted = is_full
        self._wake.set()
        return True

    def send_now(self, response: edge_pb2.ResponseMsg) -> None:
        """Something that needs no acknowledgement."""
        self._send(response, is_answer=False)

    # ── in ──

    async def _read(self, read: Read) -> None:
        while (request := await read()) is not None:
            await self._cloud.faults.wait_speaking()
            if self.is_muted:
                continue
            if not self.is_accepted:
                if request.msgType == CONNECT and request.HasField("connectRequestMsg"):
                    self._connect(request.connectRequestMsg)
                    self._check_connect(request.connectRequestMsg)
                    if self._is_refused:
                        await self._out_idle.wait()
                        return
                else:
                    self._report("before_connect", f"msgType {request.msgType}: ignored")
                continue
            if not self._is_told:
                self._report("before_accepted", f"msgType {request.msgType} before the connect was answered")
            if request.HasField("downlinkResponseMsg") and request.msgType != UPLINK:
                self._report("ack_msg_type", f"an acknowledgement with msgType {request.msgType}: ignored")
            if request.msgType == UPLINK:
                if request.HasField("uplinkMsg"):
                    await self._uplink(request.uplinkMsg)
                if request.HasField("downlinkResponseMsg"):
                    self._acknowledged(request.downlinkResponseMsg)
            elif request.msgType == SYNC:
                if request.HasField("syncRequestMsg"):
                    if self.start_sync(is_full=request.syncRequestMsg.fullSync):
                        self._check.is_in_sync = True
                else:
                    self._report("sync_without_request", "msgType 2 without syncRequestMsg ends a running sync")
                    self.is_syncing = False
                    self._wake.set()
            elif request.HasField("connectRequestMsg"):
                self._report("second_connect", "on an accepted stream: ignored")

    def _check_connect(self, request: edge_pb2.ConnectRequestMsg) -> None:
        if not request.edgeVersion:
            self._report("version_unset", "edgeVersion is unset: servers up to 3.9 would speak their old dialect")
        if not request.maxInboundMessageSize:
            self._report("limit_unset", "maxInboundMessageSize is not announced: big messages would kill the stream")

    def _connect(self, request: edge_pb2.ConnectRequestMsg) -> None:
        error = None
        if self._cloud.faults.settings.unavailable:
            self._refuse(edge_pb2.SERVER_UNAVAILABLE, "Server is not available")
            return
        is_deleted = self._cloud.faults.settings.edge_deleted
        if is_deleted or request.edgeRoutingKey != self._options.routing_key:
            error = f"Failed to find the edge! Routing key: {request.edgeRoutingKey}"
        elif request.edgeSecret != self._options.routing_secret:
            error = f"Failed to validate the edge! Provided request secret: {request.edgeSecret}"
        if error is not None:
            self._refuse(edge_pb2.BAD_CREDENTIALS, error)
            return
        self._client_limit = request.maxInboundMessageSize
        self.announced = request.edgeVersion
        self._cloud.join(self)
        self.is_accepted = True
        answer = edge_pb2.ConnectResponseMsg(
            responseCode=edge_pb2.ACCEPTED,
            configuration=self._cloud.configuration(),
            maxInboundMessageSize=self._options.max_inbound,
        )
        self._send(edge_pb2.ResponseMsg(connectResponseMsg=answer), is_answer=False)
        self._wake.set()

    def _refuse(self, code: edge_pb2.ConnectResponseCode, error: str) -> None:
        self._is_refused = True
        self._cloud.counters.add("refused")
        answer = edge_pb2.ConnectResponseMsg(
            responseCode=code, errorMsg=error, configuration=edge_pb2.EdgeConfiguration()
        )
        self._send(edge_pb2.ResponseMsg(connectResponseMsg=answer), is_answer=False)

    async def _uplink(self, msg: edge_pb2.UplinkMsg) -> None:
        cloud = self._cloud
        slow_ms = cloud.faults.settings.slow_ms
        if slow_ms:
            await asyncio.sleep(slow_ms / 1000)
        answer = edge_pb2.UplinkResponseMsg(uplinkMsgId=msg.uplinkMsgId, success=True)
        cloud.counters.add("uplink_msgs")
        self._check.uplink(msg)
        try:
            if cloud.faults.is_over_rate(time.monotonic()):
                raise RejectedError(RATE_LIMIT_TEXT)
            if not cloud.uplink.apply(msg, self._check):
                cloud.counters.add("uplink_unanswered")
                return
            self._check.confirmed(msg.uplinkMsgId)
        except (RejectedError, KeyError, TypeError, ValueError, AttributeError) as error:
            # the server answers any failure, also over an entity whose JSON lacks what it needs
            cloud.counters.add("uplink_failures")
            answer.success, answer.errorMsg = False, str(error) or type(error).__name__
        self._send(edge_pb2.ResponseMsg(uplinkResponseMsg=answer), is_answer=True)
        while len(self._outbox) > _MAX_WAITING_ANSWERS:
            self._out_room.clear()
            await self._out_room.wait()

    def _acknowledged(self, answer: edge_pb2.DownlinkResponseMsg) -> None:
        self._check.acked(answer.downlinkMsgId)
        msg = self._pending.get(answer.downlinkMsgId)
        if msg is None:
            return
        if not answer.success:
            self._cloud.counters.add("downlink_failed_acks")
            release = self._options.release
            if release < (3, 9) or len(msg.entityData):
                return
        del self._pending[answer.downlinkMsgId]
        self._cloud.counters.add("downlink_acked")
        if not self._pending:
            self._all_acked.set()

    # ── out ──

    def _send(self, response: edge_pb2.ResponseMsg, *, is_answer: bool) -> None:
        delay_s = self._cloud.faults.settings.rtt_ms / 1000
        if is_answer and self._cloud.faults.settings.shuffle_answers:
            delay_s += _SHUFFLE_S  # so that there is something to shuffle
        self._outbox.append((time.monotonic() + delay_s, is_answer, response))
        self._out_idle.clear()
        self._out_wake.set()

    async def _write(self, write: Write) -> None:
        while True:
            if not self._outbox:
                self._out_idle.set()
                self._out_wake.clear()
                await self._out_wake.wait()
            wait_s = self._outbox[0][0] - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self._cloud.faults.wait_speaking()
            if self._cloud.faults.settings.shuffle_answers:
                self._shuffle_first()
            _, _, response = self._outbox.popleft()
            if len(self._outbox) <= _MAX_WAITING_ANSWERS:
                self._out_room.set()
            if not self.is_muted:
                self._before_write(response)
                await write(response)

    def _before_write(self, response: edge_pb2.ResponseMsg) -> None:
        if response.HasField("connectResponseMsg"):
            self._is_told = True
        elif response.HasField("downlinkMsg"):
            self._check.sent(response.downlinkMsg.downlinkMsgId)
            if response.downlinkMsg.HasField("syncCompletedMsg"):
                self._check.is_in_sync = False

    def _shuffle_first(self) -> None:
        """Let any waiting answer overtake; downlinks keep their places."""
        if self._outbox[0][1]:
            other = random.choice([i for i, item in enumerate(self._outbox) if item[1]])
            self._outbox[0], self._outbox[other] = self._outbox[other], self._outbox[0]

    async def _deliver(self) -> None:
        while not self.is_accepted:
            await self._woken()
        try:
            async with asyncio.timeout(self._options.poll_s):
                while self._sync_wanted is None:
                    await self._woken()
        except TimeoutError:
            pass
        while True:
            if self._sync_wanted is not None:
                await self._sync()
            elif self.is_syncing or self.is_muted or not await self._next_pack():
                await self._woken()

    async def _woken(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    async def _next_pack(self) -> bool:
        """Deliver what has priority, else a page; False: there is nothing."""
        events = self._cloud.events
        if urgent := events.take_priority():
            await self._send_pack(self._convert(urgent))
            return True
        page = events.page()
        if not page:
            return False
        await self._send_pack(self._convert(filter_page(page, self._options.release)))
        if not self.is_muted:  # else the stream that took over delivers this page
            events.commit(len(page))
        return True

    async def _sync(self) -> None:
        is_full, self._sync_wanted = bool(self._sync_wanted), None
        self._cloud.counters.add("syncs")
        for number, page in enumerate(sync_pages(self._cloud.world, self._options.release, is_full=is_full)):
            if number == self._cloud.faults.settings.sync_fails_after:
                return  # this fetcher failed: nothing says so, and the flag stays set
            await self._send_pack(self._convert(page))
        if self._cloud.faults.settings.sync_never_completes:
            return  # the flag stays set, as after a failed fetcher
        end = new_message()
        end.syncCompletedMsg.SetInParent()
        await self._send_pack([end])
        self.is_syncing = False
        self._cloud.counters.add("syncs_completed")

    def _convert(self, events: Sequence[EdgeEvent]) -> list[edge_pb2.DownlinkMsg]:
        messages = []
        for event in events:
            msg = self._cloud.converter.convert(event)
            if msg is None:
                continue
            if self._client_limit and msg.ByteSize() > self._client_limit:
                self._cloud.counters.add("downlink_too_big")
                continue
            messages.append(msg)
        return messages

    async def _wait_acked(self) -> bool:
        """False: it is time to send the rest of the pack again."""
        whole_s, patience_s = self._options.resend_interval_s, self._options.ack_within_s
        for wait_s, is_last in ((min(patience_s, whole_s), patience_s >= whole_s), (whole_s - patience_s, True)):
            try:
                async with asyncio.timeout(wait_s):
                    await self._all_acked.wait()
                    return True
            except TimeoutError:
                if is_last:
                    break
                if self._cloud.faults.settings.silent:
                    continue
                for msg in self._pending.values():
                    what = ", ".join(field.name for field, _ in msg.ListFields() if field.name != "downlinkMsgId")
                    self._report("ack_late", f"downlink {msg.downlinkMsgId} ({what}): none after {patience_s:g} s")
        return False

    async def _send_pack(self, messages: Sequence[edge_pb2.DownlinkMsg]) -> None:
        counters = self._cloud.counters
        self._pending = {msg.downlinkMsgId: msg for msg in messages}
        for sending in range(1, SENDINGS + 1):
            if not self._pending:
                return
            self._all_acked.clear()
            for msg in self._pending.values():
                self._send(edge_pb2.ResponseMsg(downlinkMsg=msg), is_answer=False)
            counters.add("downlink_sent" if sending == 1 else "downlink_resent", len(self._pending))
            if sending == SENDINGS:
                break  # right after the last sending the rest is given up
            if not await self._wait_acked():
                continue
        counters.add("downlink_dropped", len(self._pending))
        self._pending = {}
