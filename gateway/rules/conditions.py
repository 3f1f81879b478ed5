"""Conditions of alarm rules: from the JSON of a device profile to functions of what is known of a device. Pure.

Source: reference device-api §4.2 (shapes, operators, thresholds, conversions).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import orjson

from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

SERIES: Final = "TIME_SERIES"
ATTRIBUTE: Final = "ATTRIBUTE"
_FIELD: Final = "ENTITY_FIELD"
_CONSTANT: Final = "CONSTANT"
_SOURCES: Final = ("CURRENT_DEVICE", "CURRENT_CUSTOMER", "CURRENT_TENANT", "CURRENT_USER")
_QUOTES: Final = "'\""


class Key(NamedTuple):
    """TIME_SERIES, ATTRIBUTE, ENTITY_FIELD or CONSTANT, and the name."""

    type: str
    name: str


class Facts(Protocol):
    """What is known of one device now."""

    def value(self, key: Key) -> Value | None:
        """None: not known."""
        ...

    def dynamic(self, source: str, name: str, inherits: bool) -> Value | None:
        """An attribute of the device, its customer or the tenant; with `inherits` of the next one up that has it."""
        ...


T = TypeVar("T")
Test = Callable[[Facts], bool]
_Threshold = Callable[[Facts], T | None]


@dataclass(frozen=True, slots=True)
class Condition:
    """`test` is true when all of its filters are; `keys` are those of which it speaks, of thresholds included."""

    test: Test
    keys: frozenset[Key]


def parse_condition(filters: Json, where: str) -> Condition:
    """`condition.condition`, a list of filters.

    Raises:
        RejectedError: Says where and what would be right.
    """
    if not isinstance(filters, list) or not filters:
        raise RejectedError(f"{where} must be a list of at least one filter")
    keys: set[Key] = set()
    tests = [_parse_filter(tree, f"{where}[{number}]", keys) for number, tree in enumerate(filters)]
    return Condition(tests[0] if len(tests) == 1 else lambda facts: all(test(facts) for test in tests), frozenset(keys))


# ── conversions ──


def to_number(value: Value | None) -> float | None:
    """None: it is none."""
    if value is None or isinstance(value, dict | list):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def to_text(value: Value | None) -> str | None:
    """Plain text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else str(value)


def to_bool(value: Value | None) -> bool | None:
    """A number above 0, the text `true`."""
    if value is None or isinstance(value, bool):
        return value
    return value > 0 if isinstance(value, int | float) else (to_text(value) or "").lower() == "true"


# ── filters ──


def _parse_filter(tree: Json, where: str, keys: set[Key]) -> Test:
    if not isinstance(tree, dict) or not isinstance(tree.get("key"), dict):
        raise RejectedError(f"{where} must be an object with key, valueType and predicate")
    key = Key(str(tree["key"].get("type")), str(tree["key"].get("key")))
    if key.type not in (SERIES, ATTRIBUTE, _FIELD, _CONSTANT):
        raise RejectedError(
            f"{where}.key.type {key.type!r} is unknown; there are TIME_SERIES, ATTRIBUTE, ENTITY_FIELD and CONSTANT"
        )
    is_constant = key.type == _CONSTANT
    compare = _parse_predicate(tree.get("predicate"), f"{where}.predicate", keys, is_constant)
    if is_constant:
        constant: Value | None = tree.get("value")
        return lambda facts: constant is not None and compare(facts, constant)
    keys.add(key)

    def test(facts: Facts) -> bool:
        value = facts.value(key)
        return value is not None and compare(facts, value)

    return test


_Compare = Callable[[Facts, Value], bool]


def _parse_predicate(tree: Json, where: str, keys: set[Key], is_constant: bool) -> _Compare:
    if not isinstance(tree, dict):
        raise RejectedError(f"{where} must be an object with type and operation")
    kind, operation = tree.get("type"), tree.get("operation")
    if kind == "COMPLEX":
        parts = tree.get("predicates")
        if operation not in ("AND", "OR") or not isinstance(parts, list) or not parts:
            raise RejectedError(f"{where}: a COMPLEX predicate needs operation AND or OR, and predicates")
        inner = [
            _parse_predicate(part, f"{where}.predicates[{number}]", keys, is_constant)
            for number, part in enumerate(parts)
        ]
        if operation == "AND":
            return lambda facts, value: all(compare(facts, value) for compare in inner)
        return lambda facts, value: any(compare(facts, value) for compare in inner)
    convert, holds = parse_operation(tree, where)
    threshold = parse_threshold(tree.get("value"), f"{where}.value", keys, convert, is_dynamic_only=is_constant)
    return _comparing(convert, holds, threshold, folds=tree.get("ignoreCase") is True)


def parse_operation(
    tree: Mapping[str, Json], where: str
) -> tuple[Callable[[Value | None], Any], Callable[[Any, Any], bool]]:
    """How the values of a predicate are converted, and the comparison.

    Raises:
        RejectedError: Says where and what there is.
    """
    kind, operation = tree.get("type"), tree.get("operation")
    if kind not in _KINDS:
        raise RejectedError(f"{where}.type {kind!r} is unknown; there are {', '.join(_KINDS)} and COMPLEX")
    convert, operations = _KINDS[kind]
    if operation not in operations:
        raise RejectedError(f"{where}.operation {operation!r} is unknown; there are {', '.join(operations)}")
    return convert, operations[operation]


def _comparing(
    convert: Callable[[Value | None], Any], test: Callable[[Any, Any], bool], threshold: _Threshold[Any], folds: bool
) -> _Compare:
    def compare(facts: Facts, value: Value) -> bool:
        left, right = convert(value), threshold(facts)
        if left is None or right is None:
            return False
        if folds:
            left, right = left.lower(), right.lower()
        return test(left, right)

    return compare


def parse_threshold(
    tree: Json,
    where: str,
    keys: set[Key],
    convert: Callable[[Value | None], T | None],
    *,
    is_dynamic_only: bool = False,
) -> _Threshold[T]:
    """The dynamic attribute where it is there and can be converted, else the default."""
    if not isinstance(tree, dict):
        raise RejectedError(f"{where} must be an object with defaultValue")
    default = None if is_dynamic_only else convert(tree.get("defaultValue"))
    dynamic = parse_dynamic(tree.get("dynamicValue"), f"{where}.dynamicValue", keys)
    if dynamic is None:
        return lambda facts: default

    def threshold(facts: Facts) -> T | None:
        found = convert(dynamic(facts))
        return default if found is None else found

    return threshold


def parse_dynamic(tree: Json, where: str, keys: set[Key]) -> _Threshold[Value] | None:
    """None: there is none, or it names nothing."""
    if tree is None:
        return None
    if not isinstance(tree, dict):
        raise RejectedError(f"{where} must be an object with sourceType and sourceAttribute")
    source, name, inherits = tree.get("sourceType"), tree.get("sourceAttribute"), tree.get("inherit") is True
    if source is None or not name:
        return None
    if source not in _SOURCES:
        raise RejectedError(f"{where}.sourceType {source!r} is unknown; there are {', '.join(_SOURCES[:3])}")
    if source == "CURRENT_DEVICE":
        keys.add(Key(ATTRIBUTE, str(name)))
    return lambda facts: facts.dynamic(source, str(name), inherits)


def _items(text: str) -> list[str]:
    """A list separated by commas; quotes go where each item has the same ones."""
    items = [item.strip() for item in text.split(",")]
    quote = items[0][:1]
    if quote and quote in _QUOTES and all(len(i) > 1 and i[0] == i[-1] == quote for i in items):
        return [item[1:-1] for item in items]
    return items


_NUMERIC: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "EQUAL": operator.eq,
    "NOT_EQUAL": operator.ne,
    "GREATER": operator.gt,
    "LESS": operator.lt,
    "GREATER_OR_EQUAL": operator.ge,
    "LESS_OR_EQUAL": operator.le,
}
_TEXT: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "EQUAL": operator.eq,
    "NOT_EQUAL": operator.ne,
    "STARTS_WITH": lambda left, right: left.startswith(right),
    "ENDS_WITH": lambda left, right: left.endswith(right),
    "CONTAINS": lambda left, right: right in left,
    "NOT_CONTAINS": lambda left, right: right not in left,
    "IN": lambda left, right: left in _items(right),
    "NOT_IN": lambda left, right: left not in _items(right),
}
_KINDS: Final[Mapping[Any, tuple[Callable[[Any], Any], Mapping[Any, Callable[[Any, Any], bool]]]]] = {
    "NUMERIC": (to_number, _NUMERIC),
    "STRING": (to_text, _TEXT),
    "BOOLEAN": (to_bool, {"EQUAL": operator.eq, "NOT_EQUAL": operator.ne}),
}
