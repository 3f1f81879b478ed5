"""Calculate delta. Source: reference rule-engine §8.5.

The last value of each originator is kept durably, with the changes of the message that brought it: a restart goes on
where ThingsBoard would ask the store.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

from pydantic import Field

from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.enrich import series_of
from gateway.rules.node import FAILURE, OTHER, SUCCESS, Answer, Later, NodeConfig, NodeEnv, Routed, Run, changed, node

MAX_ORIGINATORS: Final = 20_000
"""Of more than so many the oldest is forgotten: the store is asked for its last value, as at first."""
_WIDE: Final = Context(prec=400)

Number = int | float
Point = tuple[Number, int]
"""Value and data time."""


class DeltaConfig(NodeConfig):
    """`round`: decimals."""

    input_value_key: str = "pulseCounter"
    output_value_key: str = "delta"
    use_cache: bool = False
    add_period_between_msgs: bool = False
    period_value_key: str = "periodInMs"
    round: int | None = Field(None, ge=0, le=30)
    tell_failure_if_delta_is_negative: bool = False
    exclude_zero_deltas: bool = False


@node("metadata.CalculateDeltaNode", "calculate delta", DeltaConfig)
def calculate_delta(config: DeltaConfig, env: NodeEnv) -> Run:
    """Adds the difference to the value before; without one before it is 0."""
    return _Delta(config, env).run


class _Delta:
    def __init__(self, config: DeltaConfig, env: NodeEnv) -> None:
        self._config, self._env = config, env

    def run(self, msg: Message, out: Outcome) -> Answer:
        """Only the first message of an originator waits for the store; without cache each does."""
        key = self._config.input_value_key
        if msg.type != "POST_TELEMETRY_REQUEST" or not isinstance(msg.data, dict) or key not in msg.data:
            return OTHER
        if self._config.use_cache and (last := self._cached(msg.originator)) is not None:
            return self._answer(msg, last, out)

        async def ask(out: Outcome) -> Answer:
            last = self._cached(msg.originator) if self._config.use_cache else None
            return self._answer(msg, last or await self._stored(msg.originator), out)

        return Later(ask)

    def _cached(self, originator: EntityId) -> Point | None:
        held = self._env.kept.get(_name(originator))
        is_mine = isinstance(held, list) and held[0] == self._config.input_value_key
        return (held[1], held[2]) if is_mine else None

    async def _stored(self, originator: EntityId) -> Point | None:
        found = (await series_of(self._env).latest(originator)).get(self._config.input_value_key)
        if found is None:
            return None
        ts_ms, value = found
        number = None if isinstance(value, bool) else _parsed(value)
        if number is None:
            raise RejectedError(f"the stored value of {self._config.input_value_key!r} is no number")
        return number, ts_ms

    def _answer(self, msg: Message, last: Point | None, out: Outcome) -> Answer:
        config = self._config
        value, ts_ms = _parsed(msg.data[config.input_value_key]) or 0, msg.data_ts_ms
        if config.use_cache:
            self._remember(msg.originator, value, ts_ms, out)
        delta = value - last[0] if last is not None else 0
        if delta < 0 and config.tell_failure_if_delta_is_negative:
            return Routed((FAILURE,), (msg,), "the delta is negative")
        if delta == 0 and config.exclude_zero_deltas:
            return SUCCESS
        data: dict[str, Json] = {**msg.data, config.output_value_key: _rounded(delta, config.round)}
        if config.add_period_between_msgs:
            data[config.period_value_key] = ts_ms - last[1] if last is not None else 0
        return Routed((SUCCESS,), (changed(msg, data=data),))

    def _remember(self, originator: EntityId, value: Number, ts_ms: int, out: Outcome) -> None:
        kept, name = self._env.kept, _name(originator)
        if len(kept) >= MAX_ORIGINATORS and kept.get(name) is None:
            kept.drop(out, next(iter(kept.items)))
        kept.put(out, name, [self._config.input_value_key, value, ts_ms])


def _name(originator: EntityId) -> str:
    return f"{originator.type}/{originator.id}"


def _parsed(value: Json) -> Number | None:
    """None: it is no number. A text may be one."""
    if type(value) is int:
        return value
    if isinstance(value, str) and "_" in value:
        return None
    try:
        number = float(value) if isinstance(value, float | str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _rounded(delta: Number, decimals: int | None) -> Number:
    """Half up; without decimals when it is whole."""
    if isinstance(delta, int):
        return delta
    if not math.isfinite(delta):
        raise RejectedError("the delta is too large for a number")
    exact = Decimal(repr(delta))
    if decimals is not None:
        exact = exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP, _WIDE)
    is_whole = exact == exact.to_integral_value() and abs(exact) < 1 << 63
    return int(exact) if is_whole else float(exact)
