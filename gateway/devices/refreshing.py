"""After an outage: the attributes of everything that the cloud knows here are asked for again.

The cloud queues no changes of attributes for an edge that is away, and a sync brings none. So once per connection, when
it has lasted `HOLD_S`, one round: requests through the queue, `PORTION` entities in one message, behind all that was
said before; never more than `MOST_UNANSWERED` entities without an answer, so that neither our queue nor the cloud's
grows by it. A round that is cut off goes on in the next connection with those whose turn had not come, and then begins
anew, because the outage may have cost any of them a change. A request that still waits in the queue is not repeated.
Relations are not asked for: the cloud queues their changes for an edge that is away.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Final
from uuid import UUID

import orjson

from gateway.devices.pipeline import Pipeline
from gateway.devices.questions import Questions
from gateway.devices.state import State
from gateway.domain.changes import AppendEvent
from gateway.domain.cloud_event import Action, CloudEvent
from gateway.domain.entity import EntityId
from gateway.errors import RejectedError
from gateway.ports import Clock, CloudLink
from gateway.supervise import Counters

HOLD_S: Final = 2.0
"""A link that comes and goes faster is asked nothing."""
PORTION: Final = 50
"""Entities in one message: the cloud's rate limits count messages."""
MOST_UNANSWERED: Final = 200
_TICK_S: Final = 0.1


class Refreshing:
    """The rounds, one for each connection that lasts."""

    name = "refresh"

    def __init__(
        self, link: CloudLink, questions: Questions, pipeline: Pipeline, state: State, clock: Clock, counters: Counters
    ) -> None:
        self._link, self._questions, self._pipeline = link, questions, pipeline
        self._state, self._clock, self._counters = state, clock, counters
        self._lost_s = float("-inf")  # what was asked before it may have changed since
        self._left: list[EntityId] = []  # their turn had not come when the round was cut off

    async def serve(self) -> None:
        """Until cancelled."""
        while True:
            session = await self._link.wait_ready()
            await self._clock.sleep(HOLD_S)
            if await self._lasts(session):
                await self._round(session)
            while await self._lasts(session):
                if self._questions.sweep():
                    await self._clock.sleep(10 * _TICK_S)
                else:
                    await self._link.wait_lost()
            self._questions.sweep()  # what was confirmed so far, was before the outage
            self._lost_s = self._clock.monotonic_s()

    async def _lasts(self, session: int) -> bool:
        return self._link.is_ready and await self._link.wait_ready() == session

    async def _round(self, session: int) -> None:
        todo = deque(self._everything())
        unanswered: list[EntityId] = []
        while True:
            if not await self._lasts(session):
                self._left = list(todo)
                return
            unanswered = [entity for entity in unanswered if self._questions.is_waited_for(entity)]
            if todo and len(unanswered) <= MOST_UNANSWERED - PORTION:
                portion, asked_before = self._portion(todo)
                unanswered += portion + asked_before
                if portion:
                    await self._ask(portion)
            elif todo or unanswered:
                await self._clock.sleep(_TICK_S)
            else:
                break
        self._left = []
        self._counters.add("devices.attribute_rounds")

    def _everything(self) -> Iterator[EntityId]:
        """Devices and assets of the cloud: first those whose turn had not come."""
        known = [device.entity_id for device in self._state.devices() if device.json is not None]
        known += [EntityId("ASSET", UUID(key)) for key in self._state.entities("ASSET")]
        everything = set(known)
        left = [entity for entity in self._left if entity in everything]
        yield from left
        everything.difference_update(left)
        yield from (entity for entity in known if entity in everything)

    def _portion(self, todo: deque[EntityId]) -> tuple[list[EntityId], list[EntityId]]:
        """Whom to ask about next, and whose answer is on its way already."""
        portion: list[EntityId] = []
        asked_before: list[EntityId] = []
        while todo and len(portion) + len(asked_before) < PORTION:
            entity = todo.popleft()
            if self._is_asked(entity):
                asked_before.append(entity)
            elif self._is_known(entity):
                portion.append(entity)
        return portion, asked_before

    def _is_asked(self, entity: EntityId) -> bool:
        """Since the outage, or the cloud has heard it since."""
        question = self._questions.find(entity)
        if question is None:
            return False
        return question.confirmed_s is None or question.asked_s >= self._lost_s or question.confirmed_s > self._lost_s

    def _is_known(self, entity: EntityId) -> bool:
        if entity.type == "DEVICE":
            return self._state.device(entity.id) is not None
        return self._state.entity_json(entity.type, str(entity.id)) is not None

    async def _ask(self, portion: list[EntityId]) -> None:
        body = {"entities": [[entity.type, str(entity.id)] for entity in portion]}
        event = CloudEvent(
            type="DEVICE",
            action=Action.ATTRIBUTES_REQUEST.value,
            entity_id=None,
            created_ms=self._clock.now_ms(),
            body=orjson.dumps(body),
        )
        receipt = self._pipeline.commit([AppendEvent(event)])
        self._questions.opened(portion, receipt)
        self._counters.add("devices.attributes_refreshed", len(portion))
        with contextlib.suppress(RejectedError):  # counted by the committer; the next connection asks again
            await receipt
