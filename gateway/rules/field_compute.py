"""A calculated field ready to be computed: what its expression makes of its arguments.

Source: reference rule-engine §6.3, §7.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from math import isfinite
from typing import Any, Final, NamedTuple
from uuid import UUID

from gateway.domain.entity import EntityId, Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.rules.conditions import to_number
from gateway.rules.expression import Expression
from gateway.rules.field_alarm import Facts, FieldAlarm, Test, parse_alarm
from gateway.rules.field_spec import ROLLING, Argument, FieldSpec, parse_field
from gateway.rules.field_values import POINTS, Interest, Place, Rolling, Window
from gateway.rules.node import LAST_MS, Shared
from gateway.rules.script import Script

_DECIMALS: Final = Context(prec=400)
_NO_NUMBERS: Final = ("NaN", "Infinity", "-Infinity")


class Held(NamedTuple):
    """A single value. A default has the time at which it was taken for want of another."""

    ts_ms: int
    value: Value
    is_default: bool = False


class Arguments:
    """Of one entity, complete. Implements `Facts`."""

    __slots__ = ("_held", "entity", "latest_ms", "now_ms")

    def __init__(self, entity: EntityId, held: Mapping[str, Held | Rolling], now_ms: int) -> None:
        self.entity, self._held, self.now_ms = entity, held, now_ms
        told = [one.times[-1] for one in held.values() if isinstance(one, Rolling) and one.times]
        told += [one.ts_ms for one in held.values() if isinstance(one, Held) and not one.is_default]
        self.latest_ms = max(told, default=now_ms)

    def value(self, name: str) -> Value:
        """Of a single one."""
        held = self._held[name]
        if isinstance(held, Rolling):
            raise RejectedError(f"the argument {name!r} is a rolling one")
        return held.value

    def ts_ms(self, name: str) -> int:
        """When it was told."""
        held = self._held[name]
        return held.ts_ms if isinstance(held, Held) else self.latest_ms

    def for_script(self) -> Json:
        """See `Script.computed`."""
        values: list[Json] = []
        for held in self._held.values():
            if isinstance(held, Held):
                values.append([held.ts_ms, held.value])
            else:
                values.append([self.now_ms - held.span_ms, self.now_ms, held.times.tolist(), held.values.tolist()])
        return [self.latest_ms, list(self._held), values]


class Result(NamedTuple):
    """Values of one time; `ts_ms` None: none was given."""

    ts_ms: int | None
    values: dict[str, Json]


class Field:
    """One field as the cloud has sent it. `problem` says why it is not evaluated; `error` is the last failure."""

    def __init__(self, id_: UUID, json: Json, shared: Shared) -> None:
        self.id, self.json = id_, json
        tree = json if isinstance(json, dict) else {}
        self.name, self.kind = str(tree.get("name") or id_), str(tree.get("type"))
        self.evaluations = self.failures = 0
        self.problem = self.error = ""
        self.spec: FieldSpec | None = None
        self.alarm: FieldAlarm | None = None
        self.places: frozenset[Place] = frozenset()
        self.own = Interest()
        self._shared = shared
        try:
            self._compile(parse_field(id_, json))
        except RejectedError as error:
            self.problem = str(error)

    def _compile(self, spec: FieldSpec) -> None:
        names = [argument.name for argument in spec.arguments]
        if spec.kind == "SIMPLE":
            self._compute = self._simple(Expression(spec.expression, names), names)
        elif spec.kind == "SCRIPT":
            script = self._script(spec.expression, names)
            self._compute = lambda arguments: results(script.computed(arguments.entity, arguments.for_script()))
        else:
            self.alarm = parse_alarm(spec.configuration, names, lambda text: self._test(text, names))
        for argument in spec.arguments:
            if argument.is_own:
                self.own.add(interest_of(argument))
        self.places = frozenset(
            {
                *self.own.attributes,
                *(Place("", key) for key in self.own.series),
                *(Place(POINTS, window.key) for window in self.own.windows),
            }
        )
        self.spec = spec

    def _script(self, text: str, names: list[str]) -> Script:
        return Script("field", text, True, self._shared, tuple(names))

    def _test(self, text: str, names: list[str]) -> Test:
        script = self._script(text, names)

        def test(facts: Facts) -> bool:
            if not isinstance(facts, Arguments):
                raise TypeError("facts of another kind")
            verdict = script.computed(facts.entity, facts.for_script())
            if type(verdict) is not bool:
                raise RejectedError("the condition must give true or false")
            return verdict

        return test

    def _simple(self, formula: Expression, names: list[str]) -> Callable[[Arguments], list[Result]]:
        def compute(arguments: Arguments) -> list[Result]:
            numbers: dict[str, float] = {}
            for name in names:
                number = to_number(arguments.value(name))
                if number is None:
                    raise RejectedError(f"the argument {name!r} is no number")
                numbers[name] = number
            spec = self.spec
            if spec is None or spec.output is None:
                return []
            value = formula(numbers)
            if not isfinite(value):
                raise RejectedError("the result is no number: a division by zero, or no such root or logarithm")
            ts_ms = arguments.latest_ms if spec.uses_latest_ts else None
            return [Result(ts_ms, {spec.output.name: rounded(value, spec.output.decimals)})]

        return compute

    def compute(self, arguments: Arguments) -> list[Result]:
        """Of a field that is no alarm. RejectedError: it failed, or gave nothing that can be kept."""
        return self._compute(arguments)

    _compute: Callable[[Arguments], list[Result]]

    def summary(self) -> dict[str, Any]:
        """For a person."""
        told: dict[str, Any] = {"id": str(self.id), "name": self.name, "type": self.kind, "of": self._owner()}
        told |= {"evaluations": self.evaluations, "failures": self.failures}
        return told | {key: text for key, text in (("problem", self.problem), ("error", self.error)) if text}

    def _owner(self) -> str:
        owner = self.json.get("entityId") if isinstance(self.json, dict) else None
        return f"{owner.get('entityType')} {owner.get('id')}" if isinstance(owner, dict) else "nobody"


def interest_of(argument: Argument) -> Interest:
    """What an argument needs of the entity from which it is taken."""
    interest = Interest()
    if argument.scope:
        interest.attributes.add(Place(argument.scope, argument.key))
    elif argument.kind == ROLLING:
        interest.windows.add(Window(argument.key, argument.limit, argument.window_ms))
    else:
        interest.series.add(argument.key)
    return interest


def rounded(value: float, decimals: int | None) -> float | int:
    """Half up; without decimals a whole number, not rounded at all when nothing is said."""
    if decimals is None:
        return value
    exact = Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP, _DECIMALS)
    return int(exact) if decimals == 0 else float(exact)


def results(given: Json) -> list[Result]:
    """What a script may give: values, `{"ts", "values"}`, or a list of either; nothing for nothing.

    Raises:
        RejectedError: It is something else, or a value is no number.
    """
    found: list[Result] = []
    for item in given if isinstance(given, list) else [] if given is None else [given]:
        if not isinstance(item, dict):
            raise RejectedError("the expression must give an object, or a list of objects")
        ts_ms, values = None, item
        if isinstance(item.get("values"), dict):
            ts_ms, values = item.get("ts"), item["values"]
            if ts_ms is not None and (type(ts_ms) is not int or not 0 <= ts_ms <= LAST_MS):
                raise RejectedError("the expression must give 'ts' as a number of milliseconds")
        for key, value in values.items():
            if value in _NO_NUMBERS:
                raise RejectedError(f"the value of {key[:50]!r} is no number")
        values = {key: value for key, value in values.items() if value is not None}
        if values:
            found.append(Result(ts_ms, values))
    return found
