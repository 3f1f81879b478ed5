"""The math function node. Source: reference rule-engine §8.7."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final, Literal

from pydantic import Field

from gateway.domain.changes import SaveAttributes, SaveTelemetry
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.domain.telemetry import MAX_ATTRIBUTES_BYTES, MAX_KEY_CHARS, AttributeScope, Value
from gateway.errors import RejectedError
from gateway.ports import AttributeNotice, Outcome
from gateway.rules.expression import FUNCTIONS, Expression
from gateway.rules.node import (
    SUCCESS,
    Answer,
    Later,
    NodeConfig,
    NodeEnv,
    Recent,
    Routed,
    Run,
    as_text,
    changed,
    node,
)
from gateway.rules.template import template

Source = Literal["ATTRIBUTE", "TIME_SERIES", "MESSAGE_BODY", "MESSAGE_METADATA", "CONSTANT"]
Target = Literal["ATTRIBUTE", "TIME_SERIES", "MESSAGE_BODY", "MESSAGE_METADATA"]

MAX_FORMULA_CHARS: Final = 256
MAX_ARGUMENTS: Final = 16
_INT64: Final = 2**63 - 1
_DECIMALS: Final = Context(prec=400)  # a double written out has at most 309 digits before its point
_MAX_PRECISION: Final = 40


class MathArgument(NodeConfig):
    """One number that goes in."""

    name: str = "x"
    type: Source = "MESSAGE_BODY"
    key: str = ""
    attribute_scope: str = ""
    default_value: float | None = None


class MathResult(NodeConfig):
    """Where the number goes that comes out."""

    type: Target = "MESSAGE_BODY"
    key: str = "temperatureCelsius"
    result_value_precision: int = Field(2, ge=0)
    add_to_body: bool = False
    add_to_metadata: bool = False
    attribute_scope: str = ""


class MathConfig(NodeConfig):
    """`customFunction` is the formula of `CUSTOM`, over the arguments' names; other operations take them in order."""

    operation: str = Field("CUSTOM", description="One of the operations below.")
    arguments: tuple[MathArgument, ...] = Field(
        (MathArgument(name="x", type="MESSAGE_BODY", key="temperature"),),
        description="`name`, `type` (`ATTRIBUTE`, `TIME_SERIES`, `MESSAGE_BODY`, `MESSAGE_METADATA`, `CONSTANT`), "
        "`key` (a template; of a constant the number), `attributeScope`, `defaultValue`.",
    )
    custom_function: str = Field("(x - 32) / 1.8", description="The formula of `CUSTOM`, up to 256 characters.")
    result: MathResult = Field(
        MathResult(),
        description="`type` (as above, no constant), `key`, `resultValuePrecision`, `addToBody`, `addToMetadata`, "
        "`attributeScope`.",
    )


def _exponent(x: float) -> float:
    """As a double has it: -1023 of zero and what is smaller than normal, 1024 of what is infinite."""
    if math.isinf(x) or math.isnan(x):
        return 1024
    return max(-1023, math.frexp(x)[1] - 1) if x else -1023


def _whole(call: Callable[[int, int], int]) -> Callable[[float, float], float]:
    return lambda a, b: float(call(int(a), int(b)))


# fmt: off
_ONE: Final = (
    "SIN", "SINH", "COS", "COSH", "TAN", "TANH", "ACOS", "ASIN", "ATAN", "EXP", "EXPM1", "SQRT", "CBRT",
    "LOG", "LOG10", "LOG1P", "ABS", "SIGNUM",
)
# fmt: on
_OPERATIONS: Final[dict[str, tuple[int, Callable[..., float]]]] = {
    **{name: (1, FUNCTIONS[name.lower()].call) for name in _ONE},
    "RAD": (1, math.radians),
    "DEG": (1, math.degrees),
    "GET_EXP": (1, _exponent),
    "CEIL": (1, math.ceil),
    "FLOOR": (1, math.floor),
    "ADD": (2, operator.add),
    "SUB": (2, operator.sub),
    "MULT": (2, operator.mul),
    "DIV": (2, operator.truediv),
    "ATAN2": (2, math.atan2),
    "HYPOT": (2, math.hypot),
    "FLOOR_DIV": (2, _whole(operator.floordiv)),
    "FLOOR_MOD": (2, _whole(operator.mod)),
    "MIN": (2, min),
    "MAX": (2, max),
    "POW": (2, math.pow),
}
_WHOLE: Final = frozenset({"GET_EXP", "CEIL", "FLOOR"})


@node("math.TbMathNode", "math function", MathConfig)
def math_function(config: MathConfig, env: NodeEnv) -> Run:
    """Computes one number of others; what it saves it reads again at once, before it is durable."""
    return _Math(config, env).run


class _Math:
    def __init__(self, config: MathConfig, env: NodeEnv) -> None:
        self._config, self._env = config, env
        self._compute = _computer(config)
        self._is_whole = config.operation in _WHOLE
        result = config.result
        self._scope = _scope(result.attribute_scope)
        self._key = template(result.key)
        if result.type in ("ATTRIBUTE", "TIME_SERIES") and not 0 < len(result.key) <= MAX_KEY_CHARS:
            raise RejectedError(f"result.key needs 1 to {MAX_KEY_CHARS} characters")
        self._keys = [template(argument.key) for argument in config.arguments]
        self._scopes = [_scope(argument.attribute_scope) for argument in config.arguments]
        self._asks = any(argument.type == "TIME_SERIES" for argument in config.arguments)
        self._needs_body = any(argument.type == "MESSAGE_BODY" for argument in config.arguments) or (
            result.type == "MESSAGE_BODY" or result.add_to_body
        )
        # What this node has written and what is not durable yet: entity, place and key to time and value.
        self._written = Recent(10_000)

    def run(self, msg: Message, out: Outcome) -> Answer:
        """At once; later only when time series are asked for."""
        if self._needs_body and not isinstance(msg.data, dict):
            raise RejectedError("the body is no object")
        if not self._asks:
            return self._answer(msg, out, {})
        series = self._env.shared.series
        if series is None:
            raise RejectedError("there is no store that could be asked for time series")

        async def ask(later: Outcome) -> Answer:
            return self._answer(msg, later, await series.latest(msg.originator))

        return Later(ask)

    def _answer(self, msg: Message, out: Outcome, latest: Mapping[str, tuple[int, Value]]) -> Answer:
        numbers = [self._number(place, msg, latest) for place in range(len(self._keys))]
        try:
            value = self._compute(numbers)
        except (OverflowError, ValueError, ZeroDivisionError):
            value = math.nan
        if math.isnan(value) or math.isinf(value):
            raise RejectedError("the result is no number: a division by zero, or no such root or logarithm")
        rounded: Json = self._rounded(value)
        result, data, metadata = self._config.result, msg.data, msg.metadata
        key = self._key(msg)
        if result.type in ("ATTRIBUTE", "TIME_SERIES"):
            key = result.key
            self._save(msg.originator, rounded if result.type == "ATTRIBUTE" else value, out)
        if result.type == "MESSAGE_BODY" or (result.add_to_body and result.type != "MESSAGE_METADATA"):
            data = {**data, key: rounded}
        if result.type == "MESSAGE_METADATA" or (result.add_to_metadata and result.type != "MESSAGE_BODY"):
            metadata = {**metadata, key: as_text(rounded)}
        if data is msg.data and metadata is msg.metadata:
            return SUCCESS
        return Routed((SUCCESS,), (changed(msg, data=data, metadata=metadata),))

    def _number(self, place: int, msg: Message, latest: Mapping[str, tuple[int, Value]]) -> float:
        argument, key = self._config.arguments[place], self._keys[place](msg)
        value: Json
        match argument.type:
            case "CONSTANT":
                value = key
            case "MESSAGE_BODY":
                value = msg.data.get(key)
            case "MESSAGE_METADATA":
                value = msg.metadata.get(key)
            case "ATTRIBUTE":
                held = self._env.state.attribute(msg.originator, self._scopes[place], key)
                value = self._newest(msg.originator, self._scopes[place], key, held)
            case _:
                value = self._newest(msg.originator, "", key, latest.get(key))
        if value is None or value == "":
            if argument.default_value is None:
                raise RejectedError(f"the argument {argument.name!r} ({argument.type} {key!r}) is missing")
            return argument.default_value
        return _read(value, argument.name)

    def _newest(self, entity: EntityId, scope: str, key: str, held: tuple[int, Value] | None) -> Json:
        """The durable value, or what this node has sent to the disk since."""
        written = self._written.get((entity, scope, key))
        if written is not None and (held is None or held[0] < written[0]):
            return written[1]
        return None if held is None else held[1]

    def _rounded(self, value: float) -> float | int:
        precision = self._config.result.result_value_precision
        if self._is_whole or precision == 0:
            return max(-_INT64 - 1, min(_INT64, int(value)))
        if precision > _MAX_PRECISION:
            return value
        exact = Decimal(repr(value))
        return float(exact.quantize(Decimal(1).scaleb(-precision), ROUND_HALF_UP, _DECIMALS))

    def _save(self, entity: EntityId, value: Value, out: Outcome) -> None:
        result, now_ms = self._config.result, self._env.clock.now_ms()
        scope = self._scope if result.type == "ATTRIBUTE" else ""
        last = self._written.get((entity, scope, result.key))
        at_ms = now_ms if last is None or last[0] < now_ms else last[0] + 1  # the newer of two in a millisecond is told
        if result.type == "TIME_SERIES":
            out.changes.append(SaveTelemetry(entity, at_ms, {result.key: value}))
        else:
            state = self._env.state
            if state.attributes_bytes() > MAX_ATTRIBUTES_BYTES and not state.attribute(entity, scope, result.key):
                raise RejectedError("there is no room for more attributes")
            out.changes.append(SaveAttributes(entity, scope, at_ms, {result.key: value}))
            if scope == AttributeScope.SHARED_SCOPE:
                out.notices.append(AttributeNotice(entity, {result.key: value}))
        self._written.put((entity, scope, result.key), (at_ms, value))


def _computer(config: MathConfig) -> Callable[[Sequence[float]], float]:
    names = [argument.name for argument in config.arguments]
    if config.operation == "CUSTOM":
        text = config.custom_function
        if not text.strip() or len(text) > MAX_FORMULA_CHARS:
            raise RejectedError(f"customFunction needs 1 to {MAX_FORMULA_CHARS} characters")
        if len(names) > MAX_ARGUMENTS:
            raise RejectedError(f"CUSTOM takes up to {MAX_ARGUMENTS} arguments, not {len(names)}")
        if len({*names}) != len(names) or not all(name.isidentifier() for name in names):
            raise RejectedError("each of the arguments needs a name of its own, of letters and digits")
        formula = Expression(text, names)
        return lambda numbers: formula(dict(zip(names, numbers, strict=True)))
    if config.operation not in _OPERATIONS:
        raise RejectedError(f"operation {config.operation!r} is not known; there are {', '.join(OPERATIONS)}")
    count, call = _OPERATIONS[config.operation]
    if len(names) != count:
        raise RejectedError(f"{config.operation} takes {count} arguments, not {len(names)}")
    return lambda numbers: call(*numbers)


OPERATIONS: Final = (*_OPERATIONS, "CUSTOM")


def _scope(text: str) -> str:
    scope = text or AttributeScope.SERVER_SCOPE.value
    if scope not in AttributeScope.__members__:
        raise RejectedError(f"{scope!r} is no attribute scope")
    return scope


def _read(value: Json, name: str) -> float:
    if type(value) in (int, float):
        return float(value)
    try:
        if type(value) is str:
            number = float(value)
            if not math.isnan(number) and "_" not in value:
                return number
    except ValueError:
        pass
    shown = as_text(value)
    raise RejectedError(f"the argument {name!r} is no number: {shown if len(shown) <= 40 else shown[:40] + '…'}")
