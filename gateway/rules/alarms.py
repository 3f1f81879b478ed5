"""The alarms of one box, as they will be when everything under way is durable.

At most one alarm of an originator and type is not cleared: also between two messages whose commit is still under
way, and between two nodes of one walk. The state knows what is durable; what is being written stands here until its
unit of work has ended, well or badly (`settled`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from gateway.domain.alarm import MAX_ALARMS, Propagation, new_alarm, with_status
from gateway.domain.changes import Change, DeleteDevice, DeleteEntity, SaveEntity
from gateway.domain.entity import EntityId, Json, time_uuid
from gateway.ports import Clock, Outcome, StateReader
from gateway.supervise import Counters

log = logging.getLogger(__name__)

_KIND: Final = "ALARM"
_LOOK_AGAIN_S: Final = 1.0
_GONE: Final = object()
_MOST_GONE: Final = 10_000

_Place = tuple[str, str, str]


class Alarms:
    """Implements `AlarmBook`."""

    def __init__(self, state: StateReader, clock: Clock, counters: Counters) -> None:
        self._state, self._clock, self._counters = state, clock, counters
        self._under_way: dict[str, Json | None] = {}  # None: being deleted
        self._open: dict[_Place, str] = {}  # of these the ones that are not cleared
        self._full_until_s = 0.0
        self._leaving: dict[EntityId, bool] = {}  # True: the deletion is durable, or has failed

    def alarm(self, key: str) -> Json | None:
        """By its id as text; None when there is none."""
        held = self._under_way.get(key, _GONE)
        return self._state.entity_json(_KIND, key) if held is _GONE else held

    def open_alarm(self, originator: EntityId, alarm_type: str) -> tuple[str, Json] | None:
        """Id and JSON of the alarm of this originator and type that is not cleared."""
        key = self._open.get((originator.type, str(originator.id), alarm_type))
        if key is not None:
            return key, self._under_way[key]
        durable = self._state.open_alarm(originator, alarm_type)
        return None if durable is None or durable[0] in self._under_way else durable

    def note(self, changes: Iterable[Change]) -> None:
        """These are on their way to the disk, those of alarms among them."""
        for change in changes:
            if isinstance(change, SaveEntity | DeleteEntity) and change.type == _KIND:
                self._put(change.key, change.json if isinstance(change, SaveEntity) else None)

    def leaving(self, originator: EntityId) -> list[str]:
        """See `AlarmBook`."""
        self._leaving.pop(originator, None)
        self._leaving[originator] = False
        if len(self._leaving) > _MOST_GONE:
            del self._leaving[next(iter(self._leaving))]
        end = (originator.type, str(originator.id))
        return [
            key
            for key, json in self._under_way.items()
            if isinstance(json, dict) and (place := _place(json)) is not None and place[:2] == end
        ]

    def settled(self, changes: Iterable[Change]) -> None:
        """A unit of work is durable, or never will be: the state says what holds."""
        if self._leaving:
            for change in changes:
                if isinstance(change, DeleteDevice):
                    entity = EntityId("DEVICE", change.device_id)
                    if entity in self._leaving:
                        self._leaving[entity] = True
        if not self._under_way:
            return
        for change in changes:
            if isinstance(change, SaveEntity | DeleteEntity) and change.type == _KIND:
                json = change.json if isinstance(change, SaveEntity) else None
                if self._under_way.get(change.key, _GONE) is json:
                    self._close(change.key)
                    del self._under_way[change.key]

    def create(
        self,
        out: Outcome,
        originator: EntityId,
        type_: str,
        severity: str,
        *,
        start_ms: int,
        details: Json,
        propagation: Propagation,
    ) -> dict[str, Json] | None:
        """A new one, where none is open.

        None: `MAX_ALARMS` are kept and none of them is cleared (counted), or the originator is being deleted.
        """
        if self._is_leaving(originator) or not self._make_room(out):
            return None
        alarm = new_alarm(
            time_uuid(),
            originator,
            type_,
            severity,
            created_ms=self._clock.now_ms(),
            start_ms=start_ms,
            details=details,
            propagation=propagation,
            identity=self._state.identity(),
        )
        self.save(out, alarm["id"]["id"], alarm)
        return alarm

    def clear(self, out: Outcome, key: str, alarm: Mapping[str, Json], details: Json) -> dict[str, Json]:
        """At this moment; `details` None: they stay."""
        kept = alarm.get("details") if details is None else details
        cleared = with_status(alarm, cleared=True, clearTs=self._clock.now_ms(), details=kept)
        self.save(out, key, cleared)
        return cleared

    def save(self, out: Outcome, key: str, alarm: Json) -> None:
        """As it is now."""
        out.changes.append(SaveEntity(_KIND, key, alarm))
        self._put(key, alarm)

    def _put(self, key: str, json: Json | None) -> None:
        self._close(key)
        self._under_way[key] = json
        if isinstance(json, dict) and json.get("cleared") is not True and (place := _place(json)) is not None:
            self._open[place] = key

    def _close(self, key: str) -> None:
        old = self._under_way.get(key)
        if isinstance(old, dict) and (place := _place(old)) is not None and self._open.get(place) == key:
            del self._open[place]

    def _is_leaving(self, originator: EntityId) -> bool:
        is_decided = self._leaving.get(originator)
        if is_decided and self._state.device(originator.id) is not None:  # it stayed, or is there again
            del self._leaving[originator]
            return False
        return is_decided is not None

    def _make_room(self, out: Outcome) -> bool:
        kept = self._state.entities(_KIND)
        if len(kept) < MAX_ALARMS:
            return True
        now_s = self._clock.monotonic_s()
        if now_s >= self._full_until_s:
            for key, alarm in kept.items():
                if alarm.get("cleared") is True and key not in self._under_way:
                    out.changes.append(DeleteEntity(_KIND, key))
                    self._put(key, None)
                    self._counters.add("rules.alarms_forgotten")
                    return True
            self._full_until_s = now_s + _LOOK_AGAIN_S
        if not self._counters.get("rules.alarms_no_room"):
            log.warning(
                "rules: %d alarms are kept and none of them is cleared: no more are created (said once;"
                " counted in rules.alarms_no_room)",
                len(kept),
            )
        self._counters.add("rules.alarms_no_room")
        return False


def _place(alarm: Mapping[str, Json]) -> _Place | None:
    originator = alarm.get("originator")
    if not isinstance(originator, dict):
        return None
    return str(originator.get("entityType")), str(originator.get("id")).lower(), str(alarm.get("type"))
