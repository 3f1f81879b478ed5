"""What a person decides about parked events: they go into the queue again, or away.

An event that goes again keeps its id, its time and when it was made, and is tried anew. Event and decision are one unit
of work, so that a kill leaves it either parked or waiting. What belongs to an edge that this gateway was before
goes up again only when the new tenant can use it: telemetry and attributes of a device that is still here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from gateway.devices.identity import OLD_EDGE
from gateway.devices.slices import BUSY, Slices
from gateway.devices.state import State
from gateway.domain.again import PARKED_DISCARDED, PARKED_RESENT, ParkedOrder, Slice
from gateway.domain.changes import AppendEvent, Change, DropParked, SaveSetting
from gateway.domain.cloud_event import Action, CloudEvent, Lane, ParkedChoice, ParkedEvent
from gateway.domain.downlink import IDENTITY_MS, MOVED_DEVICES
from gateway.errors import RejectedError
from gateway.ports import CloudEvents
from gateway.supervise import Counters

SLICE: Final = 1_000
"""Events of one request, at most."""
SLICE_BYTES: Final = 4 << 20
"""Bodies of one request, about."""
_PAGE: Final = 100  # read at once
_DATA: Final = frozenset({Action.TIMESERIES_UPDATED, Action.ATTRIBUTES_UPDATED, Action.POST_ATTRIBUTES})
BECOMES_ANOTHER: Final = "the gateway is becoming another edge"


@dataclass(frozen=True, slots=True)
class _Place:
    """Behind which event of which lane an order goes on. What is beyond `up_to` was parked after it began."""

    lane: Lane
    after: int
    up_to: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.lane.value}:{self.after}:{self.up_to[0]}:{self.up_to[1]}"


class ParkedDesk:
    """Carries out `ParkedOrder`s."""

    def __init__(
        self,
        events: CloudEvents,
        state: State,
        slices: Slices,
        counters: Counters,
        becomes_another: Callable[[], bool] = lambda: False,
    ) -> None:
        """`becomes_another`: whether the identity is being changed, when it is not known whose an event is."""
        self._events, self._state, self._slices, self._counters = events, state, slices, counters
        self._becomes_another = becomes_another
        self._late = 0  # of a slice whose answer came before it was durable

    async def decide(self, order: ParkedOrder) -> Slice:
        """One slice of an order.

        Raises:
            RejectedError: Unknown device, or a place that is none.
            TransientError: The store cannot be read now.
        """
        async with self._slices.lock:
            choice = self._choice(order)
            if not await self._slices.is_free():
                return Slice(place=order.place, waits=BUSY)
            late, self._late = self._late, 0
            chosen, place = await self._choose(order, choice)
            if self._becomes_another():
                return Slice(done=late, place=order.place, waits=BECOMES_ANOTHER)
            stays: Counter[str] = Counter()
            decided: list[tuple[ParkedEvent, list[Change]]] = []
            for parked in chosen:
                change = self._decided(parked, discards=order.discards)
                if isinstance(change, str):
                    stays[change] += 1
                else:
                    decided.append((parked, change))
            written = await self._write(decided, stays, discards=order.discards)
            if written is None:
                self._late = late + len(decided)
                return Slice(place=order.place, waits=BUSY)
            return Slice(done=late + written, stays=stays, place=None if place is None else str(place))

    def tally(self, parked: int | None) -> dict[str, int | None]:
        """Where every event is that was ever taken in: accepted = acked + pending + parked + discarded.

        An event that goes again has got another number: it counts once. None: not known now.
        """
        last = sum(self._events.last(lane) for lane in Lane)
        done = sum(self._events.cursor(lane) for lane in Lane)
        discarded = int(self._state.setting(PARKED_DISCARDED) or 0)
        resent = int(self._state.setting(PARKED_RESENT) or 0)
        acked = None if parked is None else max(0, done - parked - discarded - resent)
        return {"accepted": last - resent, "acked": acked, "discarded": discarded, "resent": resent}

    async def _choose(self, order: ParkedOrder, choice: ParkedChoice) -> tuple[list[ParkedEvent], _Place | None]:
        """The next events, and where to go on behind them; None: nothing is left."""
        lane = Lane.MAIN if order.seq_ids is not None and order.lane is None else order.lane
        lanes = list(Lane) if lane is None else [lane]
        # What is parked and not passed by the cursor yet is still in the sender's hand.
        place: _Place | None = _place(order.place) or _Place(
            lanes[0], 0, (self._events.cursor(Lane.MAIN), self._events.cursor(Lane.EXPRESS))
        )
        chosen: list[ParkedEvent] = []
        size_bytes = 0
        while place is not None and len(chosen) < SLICE and size_bytes < SLICE_BYTES:
            page = await self._events.choose_parked(place.lane, place.after, _PAGE, choice)
            fit = [parked for parked in page if parked.event.seq_id <= place.up_to[place.lane]]
            chosen += fit
            size_bytes += sum(len(parked.event.body or b"") for parked in fit)
            if len(fit) == _PAGE:
                place = replace(place, after=fit[-1].event.seq_id)
            else:
                left = [one for one in lanes if one > place.lane]
                place = replace(place, lane=left[0], after=0) if left else None
        return chosen, place

    async def _write(
        self, decided: Sequence[tuple[ParkedEvent, list[Change]]], stays: Counter[str], *, discards: bool
    ) -> int | None:
        """All in one unit; each alone when the store refuses that. How many are durable; None: not yet."""
        if not decided:
            return 0
        name = PARKED_DISCARDED if discards else PARKED_RESENT
        total = int(self._state.setting(name) or 0)
        unit = [change for _, changes in decided for change in changes]
        try:
            if not await self._slices.write([*unit, SaveSetting(name, total + len(decided))]):
                return None
        except RejectedError as error:
            if len(decided) == 1:
                stays[str(error)] += 1
                return 0
            done = 0
            for one in decided:
                written = await self._write([one], stays, discards=discards)
                if written is None:
                    return None
                done += written
            return done
        self._counters.add(f"devices.{name}", len(decided))
        return len(decided)

    def _decided(self, parked: ParkedEvent, *, discards: bool) -> list[Change] | str:
        """What it takes, or why the event has to stay."""
        event = parked.event
        drop = DropParked(event.lane, event.seq_id)
        if discards:
            return [drop]
        entity_id = event.entity_id
        if self._is_of_old_edge(parked):
            if event.type != "DEVICE" or event.action not in _DATA:
                return f"{event.type}/{event.action} was meant for the edge that this gateway was before"
            moved = self._state.setting(MOVED_DEVICES) or {}
            entity_id = UUID(moved[str(entity_id)]) if str(entity_id) in moved else entity_id
            if entity_id is None or self._state.device(entity_id) is None:
                return "its device belonged to the edge that this gateway was before, and is gone"
        again = CloudEvent(
            type=event.type,
            action=event.action,
            entity_id=entity_id,
            created_ms=event.created_ms,
            body=event.body,
            lane=event.lane,
            id=event.id,
        )
        return [AppendEvent(again), drop]

    def _is_of_old_edge(self, parked: ParkedEvent) -> bool:
        """Also when it went up again since, and was refused by the new one."""
        since_ms: int = self._state.setting(IDENTITY_MS) or 0
        return parked.event.created_ms < since_ms or parked.reason.startswith(OLD_EDGE)

    def _choice(self, order: ParkedOrder) -> ParkedChoice:
        entity_ids = None if order.device is None else self._known_as(order.device)
        return ParkedChoice(seq_ids=order.seq_ids, reason=order.reason, entity_ids=entity_ids)

    def _known_as(self, name: str) -> frozenset[UUID]:
        """Every id under which a device may have parked events."""
        device = self._state.device_named(name)
        try:
            id_ = device.id if device is not None else UUID(name)
        except ValueError:
            raise RejectedError(
                f"device: there is no {name!r}; of one that is gone give the id that `events --status parked` shows"
            ) from None
        moved = self._state.setting(MOVED_DEVICES) or {}
        return frozenset({id_, *(UUID(old) for old, new in moved.items() if new == str(id_))})


def _place(text: str | None) -> _Place | None:
    if text is None:
        return None
    try:
        lane, after, main, express = (int(part) for part in text[:80].split(":"))
        if not max(abs(after), abs(main), abs(express)) < 1 << 63:
            raise ValueError(text)
        return _Place(Lane(lane), after, (main, express))
    except ValueError:
        raise RejectedError(f"place: {text!r} is not the place of an answer") from None
