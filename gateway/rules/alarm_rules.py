"""The alarm rules of a device profile, parsed, and how they count. Pure: facts and times are arguments.

Source: reference device-api §4.2 (evaluation facts), rule-engine §7.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import isfinite
from typing import Any, Final

import orjson

from gateway.domain.alarm import SEVERITIES, Propagation
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.rules.conditions import Facts, Key, Test, parse_condition, parse_dynamic, to_number, to_text
from gateway.rules.schedule import Active, parse_schedule

CLEAR: Final = "clear"
"""Name of the rule that clears; a create rule is named by its severity."""

UNIT_MS: Final[Mapping[Any, float]] = {
    "NANOSECONDS": 1e-6, "MICROSECONDS": 1e-3, "MILLISECONDS": 1, "SECONDS": 1_000,
    "MINUTES": 60_000, "HOURS": 3_600_000, "DAYS": 86_400_000,
}  # fmt: skip
_PLACE: Final = re.compile(r"\$\{([^{}]+)\}")


class Counts:
    """What a rule has seen in a row: time of the last match (0: none), accumulated milliseconds, matches."""

    __slots__ = ("duration_ms", "last_ms", "matches")

    def __init__(self, last_ms: int = 0, duration_ms: int = 0, matches: int = 0) -> None:
        self.last_ms, self.duration_ms, self.matches = last_ms, duration_ms, matches

    def __bool__(self) -> bool:
        return bool(self.last_ms or self.matches)

    def reset(self) -> bool:
        """Begin again; True when there was something."""
        had = bool(self)
        self.last_ms = self.duration_ms = self.matches = 0
        return had

    def to_json(self) -> list[int]:
        """The reverse of the constructor."""
        return [self.last_ms, self.duration_ms, self.matches]


class Verdict(Enum):
    """Of one evaluation."""

    TRUE = 1
    NOT_YET = 2  #: it matches, not long or often enough
    FALSE = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One create rule (`name` is its severity), or the clear rule."""

    name: str
    kind: str  # SIMPLE, DURATION, REPEATING
    test: Test
    keys: frozenset[Key]  # a message that touches none of them is none of its business
    own: frozenset[str]  # names of the keys that its text may quote
    required: Callable[[Facts], float]  # milliseconds or matches; RejectedError: the threshold is no number
    is_active: Callable[[Facts, int], bool]
    has_schedule: bool
    text: str | None
    dashboard: str | None

    def evaluate(self, counts: Counts, facts: Facts, ts_ms: int) -> Verdict:
        """Something has come; counts on."""
        if not (self.is_active(facts, ts_ms) and self.test(facts)):
            return Verdict.FALSE
        if self.kind == "SIMPLE":
            return Verdict.TRUE
        if self.kind == "REPEATING":
            required = self.required(facts)
            counts.matches += 1
            return Verdict.TRUE if counts.matches >= required else Verdict.NOT_YET
        required = self.required(facts)
        if counts.last_ms <= 0:
            counts.last_ms, counts.duration_ms = ts_ms, 0
        elif ts_ms > counts.last_ms:
            counts.duration_ms += ts_ms - counts.last_ms
            counts.last_ms = ts_ms
        return Verdict.TRUE if counts.duration_ms > required else Verdict.NOT_YET

    def look_again(self, counts: Counts, facts: Facts, now_ms: int) -> Verdict:
        """Nothing has come; time has passed. Counts nothing."""
        if self.kind != "DURATION" or not 0 < counts.last_ms < now_ms:
            return Verdict.NOT_YET
        if not self.is_active(facts, now_ms):
            return Verdict.FALSE
        passed_ms = counts.duration_ms + now_ms - counts.last_ms
        return Verdict.TRUE if passed_ms > self.required(facts) else Verdict.NOT_YET

    def due_ms(self, counts: Counts, facts: Facts) -> int | None:
        """From when on `look_again` says true, if nothing comes; None: never."""
        if self.kind != "DURATION" or counts.last_ms <= 0:
            return None
        return counts.last_ms + max(0, int(self.required(facts)) - counts.duration_ms) + 1

    def details(self, facts: Facts, former: Json) -> Json:
        """Of the alarm that it creates, updates or clears."""
        details: dict[str, Json] = {}
        if self.text is not None:
            details["data"] = _PLACE.sub(lambda found: self._quoted(found, facts), self.text)
        if self.dashboard is not None:
            details["dashboardId"] = self.dashboard
        return details or ({} if former is None else former)

    def _quoted(self, found: re.Match[str], facts: Facts) -> str:
        for key in self.keys:
            if key.name == found[1] and key.name in self.own:
                text = to_text(facts.value(key))
                if text is not None:
                    return text
        return found[0]


@dataclass(frozen=True, slots=True)
class AlarmRules:
    """All rules of one type of alarm. `create`: the highest severity first."""

    id: str
    type: str
    create: Sequence[Rule]
    clear: Rule | None
    propagation: Propagation

    @property
    def rules(self) -> list[Rule]:
        """All."""
        return [*self.create] if self.clear is None else [*self.create, self.clear]


@dataclass(slots=True)
class Decision:
    """What an evaluation has led to. `is_changed`: some counts are not what they were.

    `duration_ms` and `matches` are those of the rule that fired or cleared, up to now.
    """

    fired: Rule | None = None
    is_cleared: bool = False
    is_changed: bool = False
    duration_ms: int = 0
    matches: int = 0


def decide(
    alarm: AlarmRules,
    counts: Mapping[str, Counts],
    facts: Facts,
    ts_ms: int,
    *,
    touched: Set[Key] | None,
    is_open: bool,
) -> Decision:
    """`touched`: keys that a message has changed, at its time; None: only time has passed, and it is `ts_ms` now.

    Raises:
        RejectedError: A required duration or count is no number.
    """
    decision = Decision()

    def judge(rule: Rule) -> Verdict:
        held = counts[rule.name]
        before = (held.last_ms, held.duration_ms, held.matches)
        verdict = (rule.look_again if touched is None else rule.evaluate)(held, facts, ts_ms)
        if verdict is Verdict.FALSE:
            held.reset()
        elif verdict is Verdict.TRUE:
            decision.matches = held.matches
            decision.duration_ms = held.duration_ms + (ts_ms - held.last_ms if touched is None else 0)
        decision.is_changed |= before != (held.last_ms, held.duration_ms, held.matches)
        return verdict

    for rule in alarm.create:
        if (touched is None or not rule.keys.isdisjoint(touched)) and judge(rule) is Verdict.TRUE:
            decision.fired = rule
            if alarm.clear is not None:
                decision.is_changed |= counts[CLEAR].reset()
            return decision
    clear = alarm.clear
    if clear is None or not is_open or (touched is not None and clear.keys.isdisjoint(touched)):
        return decision
    if judge(clear) is Verdict.TRUE:
        decision.is_cleared = True
        for held in counts.values():
            decision.is_changed |= held.reset()
    return decision


def parse_alarms(profile_data: Json) -> tuple[list[AlarmRules], list[str]]:
    """`profileData` of a profile: its alarms, and what is wrong with those that are left out."""
    trees = profile_data.get("alarms") if isinstance(profile_data, dict) else None
    found: list[AlarmRules] = []
    problems: list[str] = []
    for number, tree in enumerate(trees if isinstance(trees, list) else ()):
        name = tree.get("alarmType") if isinstance(tree, dict) else None
        try:
            alarm = _parse_alarm(tree)
            if any(other.id == alarm.id or other.type == alarm.type for other in found):
                raise RejectedError("alarmType and id must be unique within the profile")
        except RejectedError as error:
            problems.append(f"alarms[{number}] ({name or 'without a type'}) is not evaluated: {error}")
        else:
            found.append(alarm)
    return found, problems


def _parse_alarm(tree: Json) -> AlarmRules:
    if not isinstance(tree, dict) or not isinstance(tree.get("alarmType"), str) or not tree["alarmType"]:
        raise RejectedError("alarmType must be a text")
    creates = tree.get("createRules")
    if not isinstance(creates, dict) or not creates:
        raise RejectedError("createRules must be an object with at least one severity")
    for severity in creates:
        if severity not in SEVERITIES:
            raise RejectedError(f"createRules.{severity}: no severity; there are {', '.join(SEVERITIES)}")
    create = [_parse_rule(creates[name], name, f"createRules.{name}") for name in SEVERITIES if name in creates]
    clear = tree.get("clearRule")
    types = tree.get("propagateRelationTypes")
    return AlarmRules(
        id=str(tree.get("id") or tree["alarmType"]),
        type=tree["alarmType"],
        create=create,
        clear=None if clear is None else _parse_rule(clear, CLEAR, "clearRule"),
        propagation=Propagation(
            relations=tree.get("propagate") is True,
            owner=tree.get("propagateToOwner") is True,
            tenant=tree.get("propagateToTenant") is True,
            relation_types=[str(one) for one in types] if isinstance(types, list) else None,
        ),
    )


def _parse_rule(tree: Json, name: str, where: str) -> Rule:
    if not isinstance(tree, dict) or not isinstance(tree.get("condition"), dict):
        raise RejectedError(f"{where} must be an object with condition")
    outer = tree["condition"]
    condition = parse_condition(outer.get("condition"), f"{where}.condition.condition")
    keys: set[Key] = set(condition.keys)
    kind, required = _parse_spec(outer.get("spec"), f"{where}.condition.spec", keys)
    schedule = tree.get("schedule")
    is_active = _parse_activity(schedule, f"{where}.schedule", keys)
    dashboard = tree.get("dashboardId")
    text = tree.get("alarmDetails")
    return Rule(
        name=name,
        kind=kind,
        test=condition.test,
        keys=frozenset(keys),
        own=frozenset(key.name for key in condition.keys),
        required=required,
        is_active=is_active,
        has_schedule=schedule is not None,
        text=text if isinstance(text, str) and text else None,
        dashboard=str(dashboard["id"]) if isinstance(dashboard, dict) and dashboard.get("id") else None,
    )


def _parse_spec(tree: Json, where: str, keys: set[Key]) -> tuple[str, Callable[[Facts], float]]:
    kind = tree.get("type", "SIMPLE") if isinstance(tree, dict) else "SIMPLE"
    if kind == "SIMPLE":
        return kind, lambda facts: 0.0
    if kind not in ("DURATION", "REPEATING"):
        raise RejectedError(f"{where}.type {kind!r} is unknown; there are SIMPLE, DURATION and REPEATING")
    factor = 1.0
    if kind == "DURATION":
        if tree.get("unit") not in UNIT_MS:
            raise RejectedError(f"{where}.unit {tree.get('unit')!r} is unknown; there are {', '.join(UNIT_MS)}")
        factor = UNIT_MS[tree["unit"]]
    value = tree.get("predicate")
    if not isinstance(value, dict):
        raise RejectedError(f"{where}.predicate must be an object with defaultValue")
    default = to_number(value.get("defaultValue"))
    dynamic = parse_dynamic(value.get("dynamicValue"), f"{where}.predicate.dynamicValue", keys)
    if default is None and dynamic is None:
        raise RejectedError(f"{where}.predicate.defaultValue must be a number")

    def required(facts: Facts) -> float:
        wish: Value | None = None if dynamic is None else dynamic(facts)
        number = default if wish is None else to_number(wish)
        if number is None or not isfinite(number):
            raise RejectedError(f"{where}.predicate: {str(wish)[:50]!r} is no number")
        return number * factor

    return kind, required


def _parse_activity(tree: Json, where: str, keys: set[Key]) -> Callable[[Facts, int], bool]:
    try:
        active = parse_schedule(tree)
    except RejectedError as error:
        raise RejectedError(f"{where}: {error}") from None
    dynamic = parse_dynamic(tree.get("dynamicValue"), f"{where}.dynamicValue", keys) if tree else None
    if dynamic is None:
        return lambda facts, ts_ms: active(ts_ms)

    def is_active(facts: Facts, ts_ms: int) -> bool:
        value = dynamic(facts)
        replaced = None if value is None else _replaced(to_text(value) or "")
        return (active if replaced is None else replaced)(ts_ms)

    return is_active


@lru_cache(maxsize=512)
def _replaced(text: str) -> Active | None:
    """The schedule that an attribute holds; one that cannot be read replaces nothing."""
    try:
        return parse_schedule(orjson.loads(text))
    except (orjson.JSONDecodeError, RejectedError):
        return None
