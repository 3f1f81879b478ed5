"""Shared attributes that a device asks for and that are not here: the cloud is asked, and waited for a while.

A question goes up as one ATTRIBUTES_REQUEST event of the device, in the express lane, and the cloud answers with all
shared attributes of the device in a later message. So one question serves everybody who waits for this device, and
what is still missing after it does not exist: for `ASK_AGAIN_S` the device is answered from here. A new connection to
the cloud begins anew, because changes made while we were away are not told. Client attributes are never asked for:
they are the device's own, and the protocol has no question for them.

Nobody waits while the link is down, longer than `wait_s` after the question, after the link was lost, or after his
session was closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from gateway.devices.load import Load
from gateway.devices.questions import Questions
from gateway.domain.changes import AppendEvent
from gateway.domain.cloud_event import Action, CloudEvent, Lane
from gateway.domain.entity import EntityId
from gateway.domain.telemetry import AttributeScope
from gateway.ports import Clock, CloudLink
from gateway.supervise import Counters

if TYPE_CHECKING:
    from gateway.devices.inlet import Session
    from gateway.devices.pipeline import Pipeline
    from gateway.devices.state import State

ASK_AGAIN_S: Final = 60.0
"""From one question about a device to the next."""
MAX_WAITING: Final = 1000
"""Requests that wait for the cloud; one more is answered at once."""
MAX_WAITING_OF_DEVICE: Final = 16
_REMEMBERED: Final = 10_000  # devices whose last question is known


@dataclass(slots=True, eq=False)
class _Waiting:
    """One request. `keys`: all of them are wanted; none named: anything."""

    session: Session
    keys: Sequence[str]
    answered: asyncio.Future[None]


class Asking:
    """Asks the cloud. Without a `link` nothing is ever asked."""

    def __init__(
        self, pipeline: Pipeline, state: State, clock: Clock, counters: Counters, questions: Questions
    ) -> None:
        self._questions = questions
        self._pipeline, self._state, self._clock, self._counters = pipeline, state, clock, counters
        self.link: CloudLink | None = None
        self.wait_s = 0.0
        self._asked: dict[UUID, tuple[int, float]] = {}  # device: number of the cloud session, monotonic seconds
        self._waiting: dict[UUID, list[_Waiting]] = {}
        self._load = Load(MAX_WAITING, MAX_WAITING_OF_DEVICE)

    async def complete(self, session: Session, keys: Sequence[str]) -> None:
        """Returns when these shared attributes of the session's device (none named: any) are here or will not be."""
        link, device_id = self.link, session.device.id
        if link is None or self.wait_s <= 0 or not link.is_ready or self._is_known(device_id, keys):
            return
        cloud_session = await link.wait_ready()
        now_s = self._clock.monotonic_s()
        asked_session, asked_s = self._asked.get(device_id, (0, 0.0))
        is_asked = asked_session == cloud_session and now_s < asked_s + ASK_AGAIN_S
        left_s = (asked_s if is_asked else now_s) + self.wait_s - now_s
        if left_s <= 0:
            return
        if not self._load.has_room(device_id):
            self._counters.add("devices.attribute_waits_refused")
            return
        if not is_asked:
            self._ask(device_id, cloud_session, now_s)
        await self._wait(link, session, keys, left_s)

    def _ask(self, device_id: UUID, cloud_session: int, now_s: float) -> None:
        self._asked.pop(device_id, None)
        self._asked[device_id] = (cloud_session, now_s)
        if len(self._asked) > _REMEMBERED:
            del self._asked[next(iter(self._asked))]
        self._counters.add("devices.attributes_asked")
        event = CloudEvent(
            type="DEVICE",
            action=Action.ATTRIBUTES_REQUEST.value,
            entity_id=device_id,
            created_ms=self._clock.now_ms(),
            lane=Lane.EXPRESS,
        )
        receipt = self._pipeline.commit([AppendEvent(event)])
        self._questions.opened([EntityId("DEVICE", device_id)], receipt, Lane.EXPRESS)

    async def _wait(self, link: CloudLink, session: Session, keys: Sequence[str], left_s: float) -> None:
        device_id = session.device.id
        waiting = _Waiting(session, keys, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(device_id, []).append(waiting)
        self._load.enter(device_id)
        timer = asyncio.ensure_future(self._clock.sleep(left_s))
        lost = asyncio.ensure_future(link.wait_lost())
        try:
            await asyncio.wait([waiting.answered, timer, lost], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            lost.cancel()
            self._load.leave(device_id)
            same_device = self._waiting[device_id]
            same_device.remove(waiting)
            if not same_device:
                del self._waiting[device_id]

    def arrived(self, device_id: UUID) -> None:
        """Shared attributes of this device have changed here."""
        for waiting in self._waiting.get(device_id, ()):
            if not waiting.answered.done() and self._is_known(device_id, waiting.keys):
                waiting.answered.set_result(None)

    def session_closed(self, session: Session) -> None:
        """Nobody waits for its answers any more."""
        for waiting in self._waiting.get(session.device.id, ()):
            if waiting.session is session and not waiting.answered.done():
                waiting.answered.set_result(None)

    def waiting(self) -> int:
        """Requests that wait for the cloud now."""
        return len(self._load)

    def _is_known(self, device_id: UUID, keys: Sequence[str]) -> bool:
        device = self._state.device(device_id)
        if device is None:
            return True
        held = self._state.attributes(device.entity_id, AttributeScope.SHARED_SCOPE)
        return all(key in held for key in keys) if keys else bool(held)
