"""Devices that ask instead of listening: one visit for each, and the long polls in which it hears of us.

A visit stays open between requests, so that a device reads its own writes and its calls are matched; it ends after
`IDLE_S` without any, or with its device.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import orjson

from gateway.domain.entity import Device
from gateway.domain.payloads import attributes_json, deleted_json
from gateway.domain.rpc import RpcRequest, RpcResponse
from gateway.domain.telemetry import Value
from gateway.errors import TransientError
from gateway.ports import Clock, DeviceInlet

IDLE_S: Final = 600.0
"""As long as an MQTT session may be silent (device API §1.4)."""

_CLOSED: Final[Mapping[str, tuple[int, bytes]]] = {
    "deleted": (403, b"Device was deleted!"),
    "shutdown": (503, b""),
}
"""What an open poll is answered with; in any other case it has timed out."""


@dataclass(slots=True, eq=False)
class Poll:
    """One long poll: status and body, once there is something to tell. `sent`: a call waits to be on its way."""

    answer: asyncio.Future[tuple[int, bytes]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    sent: asyncio.Future[None] | None = None
    again_s: float = 0.0  # its device counts as connected for so long after its end

    def was_sent(self) -> None:
        """The answer is on the wire."""
        if self.sent is not None and not self.sent.done():
            self.sent.set_result(None)

    def was_lost(self) -> None:
        """The device left before the answer: a call waits for its next poll."""
        if self.sent is not None and not self.sent.done():
            self.sent.set_exception(TransientError("the long poll ended before the call"))


class Visit:
    """One device over HTTP. Implements `DeviceChannel`: what comes down is the answer to a long poll.

    A change goes to every open poll, a call to the oldest one; then it is for the device to ask again.
    """

    def __init__(self, directory: Visits, device: Device) -> None:
        self._directory = directory
        self.key = device.id
        self.session = directory.inlet.open_visit(device, self)
        self.is_open = True
        self.open_requests = 0
        self.used_s = 0.0
        self.complained_s: float | None = None
        self.large_body = asyncio.Lock()
        self._attribute_polls: deque[Poll] = deque()
        self._call_polls: deque[Poll] = deque()

    def poll_attributes(self) -> Poll:
        """Wait for changed or deleted shared attributes; what changed since the last time comes at once."""
        poll = Poll()
        self._attribute_polls.append(poll)
        self.session.subscribe_attributes(True)
        return poll

    def poll_calls(self, timeout_s: float = 0.0) -> Poll:
        """Wait for a call; one that waits already comes at once. The next poll is expected within `timeout_s` more."""
        poll = Poll(again_s=timeout_s)
        self._call_polls.append(poll)
        self.session.subscribe_rpc(True)
        return poll

    def give_up(self, poll: Poll) -> None:
        """Timed out, or the device has left."""
        if poll in self._attribute_polls:
            self._attribute_polls.remove(poll)
            if not self._attribute_polls:
                self.session.subscribe_attributes(False)
        elif poll in self._call_polls:
            self._call_polls.remove(poll)
            if not self._call_polls:
                self.session.subscribe_rpc(False, poll.again_s)

    def send_attributes(self, values: Mapping[str, Value]) -> None:
        """Changed shared attributes."""
        self._tell(attributes_json(values))

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """Deleted shared attributes."""
        self._tell(deleted_json(keys))

    def send_rpc(self, rpc_id: int, request: RpcRequest) -> Awaitable[RpcResponse | None]:
        """A call; done when it is on the wire.

        Raises:
            TransientError: No poll is open.
        """
        if not self._call_polls:
            raise TransientError("the device does not ask for calls now")
        poll = self._call_polls.popleft()
        poll.sent = asyncio.get_running_loop().create_future()
        body = orjson.dumps({"id": rpc_id, "method": request.method, "params": request.params})
        poll.answer.set_result((200, body))
        if not self._call_polls:
            self.session.subscribe_rpc(False, poll.again_s)
        return poll.sent

    def close(self, reason: str) -> None:
        """End every poll, and the visit."""
        self.is_open = False
        self._directory.forget(self)
        answer = _CLOSED.get(reason, (408, b""))
        for polls in (self._attribute_polls, self._call_polls):
            while polls:
                polls.popleft().answer.set_result(answer)

    def _tell(self, body: bytes) -> None:
        while self._attribute_polls:
            self._attribute_polls.popleft().answer.set_result((200, body))
        self.session.subscribe_attributes(False)


class Visits:
    """All of them, by device."""

    def __init__(self, inlet: DeviceInlet, clock: Clock) -> None:
        self.inlet, self._clock = inlet, clock
        self._visits: dict[UUID, Visit] = {}

    def of(self, device: Device) -> Visit:
        """The device's visit, opened when there is none.

        Raises:
            RejectedError: The device was deleted meanwhile.
        """
        visit = self._visits.get(device.id)
        if visit is None:
            visit = self._visits[device.id] = Visit(self, device)
        visit.used_s = self._clock.monotonic_s()
        return visit

    def forget(self, visit: Visit) -> None:
        """It has ended."""
        if self._visits.get(visit.key) is visit:
            del self._visits[visit.key]

    def close_idle(self) -> None:
        """Now and then: who has not asked for long is gone."""
        now_s = self._clock.monotonic_s()
        for visit in list(self._visits.values()):
            if not visit.open_requests and now_s - visit.used_s > IDLE_S:
                visit.session.close()
                visit.close("idle")

    def close(self) -> None:
        """The room closes: open polls are answered."""
        for visit in list(self._visits.values()):
            visit.session.close()
            visit.close("shutdown")
