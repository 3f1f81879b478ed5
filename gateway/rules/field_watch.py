"""How far the rules of alarm fields are with each entity, what time does to them, and the alarms that they lead to.

What was counted is durable with the changes of the message that moved it: a duration goes on after a restart.
Source: reference device-api §4.3, rule-engine §7.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from gateway.domain.alarm import SEVERITIES, with_status
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.field_alarm import Counts, Decision, FieldAlarm, Rule, decide
from gateway.rules.field_compute import Arguments, Field
from gateway.rules.kept import Kept
from gateway.rules.node import Shared
from gateway.rules.timers import Timer

LOOK_EVERY_S: Final = 60.0

_Place = tuple[UUID, EntityId]


class _State:
    """Of one field and entity. `open` is the alarm that it has made or updated."""

    __slots__ = ("counts", "is_kept", "open", "said", "timer")

    def __init__(self, kept: Json) -> None:
        kept = kept if isinstance(kept, dict) else None
        self.is_kept = kept is not None
        self.counts: dict[str, Counts] = (
            {} if kept is None else {name: Counts(*held) for name, held in kept["counts"].items()}
        )
        self.open: str = "" if kept is None else kept["open"]
        self.said: Json = kept
        self.timer: Timer | None = None

    def adopt(self, alarm: FieldAlarm) -> None:
        """Rules that stay keep their counts."""
        self.counts = {rule.name: self.counts.get(rule.name) or Counts() for rule in alarm.rules}

    def to_json(self, *, is_watched: bool) -> Json:
        """None: nothing has to survive. Who is watched by time has to be found again."""
        counts = {name: held.to_json() for name, held in self.counts.items() if held}
        return {"counts": counts, "open": self.open} if counts or self.open or is_watched else None


class FieldWatch:
    """All alarm fields. `again` is called when time asks for another look at a field of an entity."""

    def __init__(self, shared: Shared, kept: Kept, again: Callable[[UUID, EntityId, Outcome], None]) -> None:
        self._shared, self._kept, self._again = shared, kept, again
        self._states: dict[_Place, _State] = {}

    def evaluate(self, field: Field, arguments: Arguments, *, is_news: bool | None, out: Outcome) -> None:
        """`is_news` None: only time has passed. RejectedError: a rule cannot be evaluated; others have been."""
        alarm, entity = field.alarm, arguments.entity
        if alarm is None:
            return
        place = (field.id, entity)
        state = self._states.get(place)
        if state is None:
            state = self._states[place] = _State(self._kept.get(_name(place)))
        state.adopt(alarm)
        current = self._shared.alarms.open_alarm(entity, field.name)
        if state.open and (current is None or current[0] != state.open):  # somebody else has cleared or deleted it
            state.open = ""
            for counts in state.counts.values():
                counts.reset()
        try:
            decision = decide(alarm, state.counts, arguments, is_news=is_news, is_open=current is not None)
            self._carry_out(field, arguments, state, decision, current, out, is_timed=is_news is None)
        finally:
            self._keep(place, state, alarm, out)
            self._arm(place, state, alarm, arguments)

    def places(self) -> list[_Place]:
        """Fields and entities of which something is kept, those of before a restart too."""
        found = dict.fromkeys(self._states)
        for name in self._kept.items:
            field_id, _, rest = name.partition("/")
            kind, _, id_ = rest.partition(":")
            found[UUID(field_id), EntityId(kind, UUID(id_))] = None
        return list(found)

    def restore(self, place: _Place) -> None:
        """After a restart: a first look soon, at what time has done meanwhile."""
        state = self._states.get(place)
        if state is None:
            state = self._states[place] = _State(self._kept.get(_name(place)))
            self._timer(place, state).arm(self._shared.clock.monotonic_s())

    def postpone(self, place: _Place) -> None:
        """What is needed for a look cannot be read now."""
        state = self._states.get(place)
        if state is not None:
            self._timer(place, state).arm(self._shared.clock.monotonic_s() + LOOK_EVERY_S)

    def forget(self, place: _Place, out: Outcome) -> None:
        """Field or entity are gone."""
        state = self._states.pop(place, None)
        if state is not None and state.timer is not None:
            state.timer.cancel()
        self._kept.drop(out, _name(place))

    def _timer(self, place: _Place, state: _State) -> Timer:
        if state.timer is None:

            def fire(out: Outcome) -> None:
                self._again(*place, out)

            state.timer = Timer(self._shared.timers, self, fire)
        return state.timer

    def _keep(self, place: _Place, state: _State, alarm: FieldAlarm, out: Outcome) -> None:
        json = state.to_json(is_watched=any(rule.needs_looks for rule in alarm.rules))
        if json is not None:
            if json != state.said:
                self._kept.put(out, _name(place), json)
        elif state.said is not None:
            self._kept.drop(out, _name(place))
        state.said = json

    def _arm(self, place: _Place, state: _State, alarm: FieldAlarm, arguments: Arguments) -> None:
        waits: list[float] = []
        for rule in alarm.rules:
            if rule.needs_looks:
                waits.append(LOOK_EVERY_S)
            try:
                due_ms = rule.due_ms(state.counts[rule.name], arguments)
            except RejectedError:  # the required duration may be a number again in a minute
                due_ms = arguments.now_ms + LOOK_EVERY_S * 1000
            if due_ms is not None:
                waits.append(max(0.0, (due_ms - arguments.now_ms) / 1000))
        if waits:
            self._timer(place, state).arm(self._shared.clock.monotonic_s() + min(waits))
        elif state.timer is not None:
            state.timer.cancel()
        if not waits and state.said is None:
            self._states.pop(place, None)

    # ── alarms ──

    def _carry_out(
        self,
        field: Field,
        arguments: Arguments,
        state: _State,
        decision: Decision,
        found: tuple[str, Json] | None,
        out: Outcome,
        *,
        is_timed: bool,
    ) -> None:
        rule, alarm, alarms, now_ms = decision.fired, field.alarm, self._shared.alarms, arguments.now_ms
        if rule is None or alarm is None:
            return
        key, current = found or ("", None)
        names = [argument.name for argument in field.spec.arguments] if field.spec is not None else []
        fresh: dict[str, Any] | None
        if decision.is_cleared:
            if current is None:
                return
            fresh = alarms.clear(out, key, current, rule.details(arguments, names, current.get("details")))
            state.open = ""
            self._tell("ALARM_CLEAR", {"isClearedAlarm": "true"}, arguments, decision, rule, fresh, out)
            return
        if current is None:
            start_ms = arguments.latest_ms if 0 < arguments.latest_ms <= now_ms else now_ms
            fresh = alarms.create(
                out,
                arguments.entity,
                field.name,
                rule.name,
                start_ms=start_ms,
                details=rule.details(arguments, names, None),
                propagation=alarm.propagation,
            )
            if fresh is None:
                return
            state.open = fresh["id"]["id"]
            self._tell("ALARM_CREATED", {"isNewAlarm": "true"}, arguments, decision, rule, fresh, out)
            return
        state.open = key
        rank, held = SEVERITIES.index(rule.name), _rank(current)
        if rank > held or (rank == held and is_timed):
            return
        details = rule.details(arguments, names, current.get("details"))
        fresh = with_status(current, severity=rule.name, endTs=now_ms, details=details)
        alarms.save(out, key, fresh)
        if rank == held:
            self._tell("ALARM_UPDATED", {"isExistingAlarm": "true"}, arguments, decision, rule, fresh, out)
        else:
            flags = {"isExistingAlarm": "true", "isSeverityUpdated": "true"}
            self._tell("ALARM_SEVERITY_UPDATED", flags, arguments, decision, rule, fresh, out)

    def _tell(
        self,
        type_: str,
        flags: dict[str, str],
        arguments: Arguments,
        decision: Decision,
        rule: Rule,
        alarm: Mapping[str, Json],
        out: Outcome,
    ) -> None:
        if rule.kind == "REPEATING":
            flags["alarmConditionRepeats"] = str(decision.matches)
        elif rule.kind == "DURATION":
            flags["alarmConditionDuration"] = str(decision.duration_ms)
        out.emitted.append(
            Message(type=type_, originator=arguments.entity, data=alarm, metadata=flags, ts_ms=arguments.now_ms)
        )


def _name(place: _Place) -> str:
    field_id, entity = place
    return f"{field_id}/{entity.type}:{entity.id}"


def _rank(alarm: Mapping[str, Json]) -> int:
    severity = alarm.get("severity")
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
