"""Alarm rules of a calculated field, parsed, and how they count. Pure: facts and times are arguments.

They differ from those of a device profile (`alarm_rules`): every rule is looked at when any argument has news,
durations run with the clock from the first matching event on, and time alone never writes an alarm of equal severity
anew.
Source: reference device-api §4.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import isfinite
from typing import Any, Final, Protocol

import orjson

from gateway.domain.alarm import SEVERITIES, Propagation
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.rules.alarm_rules import CLEAR, UNIT_MS
from gateway.rules.conditions import parse_operation, to_number, to_text
from gateway.rules.schedule import Active, always, parse_schedule

_PLACE: Final = re.compile(r"\$\{([^{}]+)\}")


class Facts(Protocol):
    """The arguments of one entity now; all of them are known."""

    now_ms: int
    latest_ms: int  # of the newest argument

    def value(self, name: str) -> Value:
        """Of one."""
        ...

    def ts_ms(self, name: str) -> int:
        """When it was told."""
        ...


Test = Callable[[Facts], bool]
_Compare = Callable[[Facts, str], bool]  # with the name of the argument
Compile = Callable[[str], Test]
"""Makes a test of a TBEL expression. RejectedError: it cannot be read."""


class Counts:
    """What a rule has seen in a row: the first match and the last look at it (0: none), and how many matches.

    `was_active` is what its schedule said last; None: nobody has asked.
    """

    __slots__ = ("checked_ms", "first_ms", "matches", "was_active")

    def __init__(self, first_ms: int = 0, matches: int = 0) -> None:
        self.first_ms, self.checked_ms, self.matches = first_ms, first_ms, matches
        self.was_active: bool | None = None

    def __bool__(self) -> bool:
        return bool(self.first_ms or self.matches)

    def reset(self) -> None:
        """Begin again."""
        self.first_ms = self.checked_ms = self.matches = 0

    def to_json(self) -> list[int]:
        """The reverse of the constructor."""
        return [self.first_ms, self.matches]


class Verdict(Enum):
    """Of one look at one rule."""

    TRUE = 1
    NOT_YET = 2  #: it matches, not long or often enough; or there is nothing to say
    FALSE = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One create rule (`name` is its severity), or the clear rule."""

    name: str
    kind: str  # SIMPLE, DURATION, REPEATING
    test: Test
    required: Callable[[Facts], float]  # milliseconds or matches; RejectedError: it is no number
    is_active: Callable[[Facts, int], bool]
    has_schedule: bool
    has_no_data: bool
    text: str | None
    dashboard: str | None

    @property
    def needs_looks(self) -> bool:
        """Time alone may make it true or false."""
        return self.has_schedule or self.has_no_data

    def evaluate(self, counts: Counts, facts: Facts, *, is_news: bool) -> Verdict:
        """An argument has news (or the rules have)."""
        counts.was_active = self.is_active(facts, facts.latest_ms if is_news else facts.now_ms)
        if not counts.was_active or not self.test(facts):
            return Verdict.FALSE
        if self.kind == "SIMPLE":
            return Verdict.TRUE
        required = self.required(facts)
        if self.kind == "REPEATING":
            counts.matches += is_news
            return Verdict.TRUE if 0 < required <= counts.matches else Verdict.NOT_YET
        if counts.first_ms == 0:
            counts.first_ms = facts.latest_ms if facts.latest_ms > 0 else facts.now_ms
        counts.checked_ms = facts.now_ms
        return Verdict.TRUE if 0 < required <= facts.now_ms - counts.first_ms else Verdict.NOT_YET

    def look_again(self, counts: Counts, facts: Facts) -> Verdict:
        """Only time has passed."""
        is_active, was_active = self.is_active(facts, facts.now_ms), counts.was_active
        counts.was_active = is_active
        if self.kind == "DURATION":
            if not is_active:
                return Verdict.FALSE
            required = self.required(facts)
            if counts.first_ms <= 0 or required <= 0 or facts.now_ms <= counts.first_ms:
                return Verdict.NOT_YET
            was_ms, counts.checked_ms = counts.checked_ms - counts.first_ms, facts.now_ms
            return Verdict.TRUE if was_ms < required <= facts.now_ms - counts.first_ms else Verdict.NOT_YET
        has_opened = self.has_schedule and is_active and not was_active
        if (has_opened or (is_active and self.has_no_data)) and (
            self.evaluate(counts, facts, is_news=False) is Verdict.TRUE
        ):
            return Verdict.TRUE
        return Verdict.NOT_YET

    def due_ms(self, counts: Counts, facts: Facts) -> float | None:
        """When its duration is over; None: it has none under way, or that has been seen."""
        if self.kind != "DURATION" or counts.first_ms <= 0:
            return None
        required = self.required(facts)
        return counts.first_ms + required if counts.checked_ms - counts.first_ms < required else None

    def details(self, facts: Facts, names: Collection[str], former: Json) -> Json:
        """Of the alarm that it creates, updates or clears."""
        details: dict[str, Json] = {}
        if self.text is not None:
            details["data"] = _PLACE.sub(
                lambda found: (to_text(facts.value(found[1])) or "") if found[1] in names else found[0], self.text
            )
        if self.dashboard is not None:
            details["dashboardId"] = self.dashboard
        return details or ({} if former is None else former)


@dataclass(frozen=True, slots=True)
class FieldAlarm:
    """All rules of a field. `create`: the highest severity first."""

    create: Sequence[Rule]
    clear: Rule | None
    propagation: Propagation

    @property
    def rules(self) -> list[Rule]:
        """All."""
        return [*self.create] if self.clear is None else [*self.create, self.clear]


@dataclass(slots=True)
class Decision:
    """The rule that fired, or cleared; `duration_ms` and `matches` are what it had seen."""

    fired: Rule | None = None
    is_cleared: bool = False
    duration_ms: int = 0
    matches: int = 0


def decide(
    alarm: FieldAlarm, counts: Mapping[str, Counts], facts: Facts, *, is_news: bool | None, is_open: bool
) -> Decision:
    """`is_news` None: only time has passed.

    Raises:
        RejectedError: A threshold, a duration or a schedule cannot be used, or an expression failed.
    """
    decision = Decision()

    def judge(rule: Rule) -> bool:
        held = counts[rule.name]
        verdict = rule.look_again(held, facts) if is_news is None else rule.evaluate(held, facts, is_news=is_news)
        if verdict is Verdict.FALSE:
            held.reset()
        elif verdict is Verdict.TRUE:
            decision.fired, decision.matches = rule, held.matches
            decision.duration_ms = held.checked_ms - held.first_ms
        return verdict is Verdict.TRUE

    if any(judge(rule) for rule in alarm.create):
        if alarm.clear is not None:
            counts[CLEAR].reset()
    elif alarm.clear is not None and is_open and judge(alarm.clear):
        decision.is_cleared = True
        for held in counts.values():
            held.reset()
    return decision


# ── from JSON ──


def parse_alarm(tree: Mapping[str, Json], names: Collection[str], compile_: Compile) -> FieldAlarm:
    """`configuration` of a field of type ALARM; `names` are those of its arguments.

    Raises:
        RejectedError: Says where and what would be right.
    """
    creates = tree.get("createRules")
    if not isinstance(creates, dict) or not creates:
        raise RejectedError("configuration.createRules must be an object with at least one severity")
    for severity in creates:
        if severity not in SEVERITIES:
            raise RejectedError(f"createRules.{severity}: no severity; there are {', '.join(SEVERITIES)}")
    reader = _Reader(names, compile_)
    create = [reader.rule(creates[name], name, f"createRules.{name}") for name in SEVERITIES if name in creates]
    clear, types = tree.get("clearRule"), tree.get("propagateRelationTypes")
    return FieldAlarm(
        create=create,
        clear=None if clear is None else reader.rule(clear, CLEAR, "clearRule"),
        propagation=Propagation(
            relations=tree.get("propagate") is True,
            owner=tree.get("propagateToOwner") is True,
            tenant=tree.get("propagateToTenant") is True,
            relation_types=[str(one) for one in types] if isinstance(types, list) else None,
        ),
    )


class _Reader:
    def __init__(self, names: Collection[str], compile_: Compile) -> None:
        self._names, self._compile = names, compile_
        self._has_no_data = False

    def rule(self, tree: Json, name: str, where: str) -> Rule:
        condition = tree.get("condition") if isinstance(tree, dict) else None
        if not isinstance(condition, dict):
            raise RejectedError(f"{where} must be an object with condition")
        where = f"{where}.condition"
        kind = condition.get("type") or "SIMPLE"
        if kind not in ("SIMPLE", "DURATION", "REPEATING"):
            raise RejectedError(f"{where}.type {kind!r} is unknown; there are SIMPLE, DURATION and REPEATING")
        self._has_no_data = False
        test = self._expression(condition.get("expression"), f"{where}.expression")
        if self._has_no_data and kind != "SIMPLE":
            raise RejectedError(f"{where}: NO_DATA is for conditions of type SIMPLE only")
        schedule = condition.get("schedule")
        dashboard, text = tree.get("dashboardId"), tree.get("alarmDetails")
        return Rule(
            name=name,
            kind=kind,
            test=test,
            required=self._required(condition, kind, where),
            is_active=self._activity(schedule, f"{where}.schedule"),
            has_schedule=schedule is not None,
            has_no_data=self._has_no_data,
            text=text if isinstance(text, str) and text else None,
            dashboard=str(dashboard["id"]) if isinstance(dashboard, dict) and dashboard.get("id") else None,
        )

    def _expression(self, tree: Json, where: str) -> Test:
        if not isinstance(tree, dict):
            raise RejectedError(f"{where} must be an object")
        if tree.get("type") == "TBEL":
            if not isinstance(tree.get("expression"), str) or not tree["expression"].strip():
                raise RejectedError(f"{where}.expression must be a text")
            return self._compile(tree["expression"])
        filters = tree.get("filters")
        if not isinstance(filters, list) or not filters:
            raise RejectedError(f"{where}.filters must be a list of at least one filter")
        tests = [self._filter(one, f"{where}.filters[{number}]") for number, one in enumerate(filters)]
        if _joins(tree, where) == "OR":
            return lambda facts: any(test(facts) for test in tests)
        return lambda facts: all(test(facts) for test in tests)

    def _filter(self, tree: Json, where: str) -> Test:
        predicates = tree.get("predicates") if isinstance(tree, dict) else None
        if not isinstance(predicates, list) or not predicates:
            raise RejectedError(f"{where} must be an object with argument and predicates")
        name = self._known(tree.get("argument"), f"{where}.argument")
        tests = [self._predicate(one, f"{where}.predicates[{number}]") for number, one in enumerate(predicates)]
        if _joins(tree, where) == "OR":
            return lambda facts: any(test(facts, name) for test in tests)
        return lambda facts: all(test(facts, name) for test in tests)

    def _predicate(self, tree: Json, where: str) -> _Compare:
        if not isinstance(tree, dict):
            raise RejectedError(f"{where} must be an object with type and operation")
        match tree.get("type"):
            case "COMPLEX":
                parts = tree.get("predicates")
                if not isinstance(parts, list) or not parts:
                    raise RejectedError(f"{where}: a COMPLEX predicate needs operation and predicates")
                inner = [self._predicate(one, f"{where}.predicates[{number}]") for number, one in enumerate(parts)]
                if _joins(tree, where) == "OR":
                    return lambda facts, name: any(test(facts, name) for test in inner)
                return lambda facts, name: all(test(facts, name) for test in inner)
            case "NO_DATA":
                return self._no_data(tree, where)
        convert, holds = parse_operation(tree, where)
        if tree["type"] == "BOOLEAN":
            convert = _to_bool
        limit = self._value(tree.get("value"), f"{where}.value", convert)
        folds = tree.get("ignoreCase") is True

        def compare(facts: Facts, name: str) -> bool:
            left = convert(facts.value(name))
            if left is None:
                return False
            right = limit(facts)
            if folds and isinstance(left, str):
                left, right = left.lower(), right.lower()
            return bool(holds(left, right))

        return compare

    def _no_data(self, tree: Mapping[str, Json], where: str) -> _Compare:
        self._has_no_data = True
        factor = _unit_ms(tree.get("unit"), f"{where}.unit")
        duration = self._value(tree.get("duration"), f"{where}.duration", to_number)

        def is_silent(facts: Facts, name: str) -> bool:
            required = duration(facts) * factor
            return bool(0 < required <= facts.now_ms - facts.ts_ms(name))

        return is_silent

    def _required(self, condition: Mapping[str, Json], kind: str, where: str) -> Callable[[Facts], float]:
        if kind == "SIMPLE":
            return lambda facts: 0.0
        factor = _unit_ms(condition.get("unit"), f"{where}.unit") if kind == "DURATION" else 1.0
        key = "value" if kind == "DURATION" else "count"
        value = self._value(condition.get(key), f"{where}.{key}", to_number)
        return lambda facts: value(facts) * factor

    def _activity(self, tree: Json, where: str) -> Callable[[Facts, int], bool]:
        if tree is None:
            return lambda facts, ts_ms: True
        if not isinstance(tree, dict):
            raise RejectedError(f"{where} must be an object with staticValue or dynamicValueArgument")
        if tree.get("dynamicValueArgument"):
            name = self._known(tree["dynamicValueArgument"], f"{where}.dynamicValueArgument")
            return lambda facts, ts_ms: _schedule(to_text(facts.value(name)) or "", where)(ts_ms)
        try:
            active = parse_schedule(tree.get("staticValue"))
        except RejectedError as error:
            raise RejectedError(f"{where}.staticValue: {error}") from None
        return lambda facts, ts_ms: active(ts_ms)

    def _value(self, tree: Json, where: str, convert: Callable[[Value | None], Any]) -> Callable[[Facts], Any]:
        """What a holder holds, or the argument that it names."""
        if not isinstance(tree, dict):
            raise RejectedError(f"{where} must be an object with staticValue or dynamicValueArgument")
        if tree.get("staticValue") is None:
            name = self._known(tree.get("dynamicValueArgument"), f"{where}.dynamicValueArgument")
        else:
            static = convert(tree["staticValue"])
            if static is None or (isinstance(static, float) and not isfinite(static)):
                raise RejectedError(f"{where}.staticValue {str(tree['staticValue'])[:50]!r} cannot be compared")
            return lambda facts: static

        def resolve(facts: Facts) -> Any:
            found = convert(facts.value(name))
            if found is None or (isinstance(found, float) and not isfinite(found)):
                raise RejectedError(f"{where}: the argument {name!r} has no usable value")
            return found

        return resolve

    def _known(self, name: Json, where: str) -> str:
        if not isinstance(name, str) or name not in self._names:
            raise RejectedError(f"{where} {str(name)[:50]!r} is no argument; there are {', '.join(self._names)}")
        return name


def _joins(tree: Mapping[str, Json], where: str) -> str:
    operation = tree.get("operation") or "AND"
    if operation not in ("AND", "OR"):
        raise RejectedError(f"{where}.operation must be AND or OR")
    return str(operation)


def _unit_ms(unit: Json, where: str) -> float:
    if unit not in UNIT_MS:
        raise RejectedError(f"{where} {unit!r} is unknown; there are {', '.join(UNIT_MS)}")
    return UNIT_MS[unit]


def _to_bool(value: Value | None) -> bool | None:
    """Unlike in a profile every number but 0 is true."""
    if value is None or isinstance(value, bool):
        return value
    return value != 0 if isinstance(value, int | float) else (to_text(value) or "").lower() == "true"


@lru_cache(maxsize=512)
def _schedule(text: str, where: str) -> Active:
    """Of an argument's text; `{}` is any time."""
    try:
        tree = orjson.loads(text)
        return always if tree == {} else parse_schedule(tree)
    except orjson.JSONDecodeError:
        raise RejectedError(f"{where}: the argument's value is no schedule: {text[:50]!r}") from None
    except RejectedError as error:
        raise RejectedError(f"{where}: {error}") from None
