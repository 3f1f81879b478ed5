"""Nodes of our own that let through what matters: a value that has changed enough, a limit that is passed for long.

ThingsBoard's *calculate delta* compares with the value before, so that slow drift never passes; here it is the value
that passed last. Alarm rules with a duration exist there in device profiles only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any, Final, Literal

import orjson
from pydantic import Field, model_validator

from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.kept import MARK, frozen, thawed
from gateway.rules.node import FALSE, OTHER, TRUE, Answer, NodeConfig, NodeEnv, Recent, Routed, Run, changed, node
from gateway.rules.nodes.telemetry import value_sets
from gateway.rules.timers import Timer

REMEMBERED: Final = 100_000
"""Keys of originators whose last value a node knows; beyond that one passes once more than it had to."""

LONGEST_KEPT: Final = 64
"""Bytes of a value that is no number; of a longer one its hash is kept."""


class ChangeFilterConfig(NodeConfig):
    """`keys` may have `*` and `?`; none means all. `percent` is of the value that passed last."""

    keys: tuple[str, ...] = ()
    by: float = Field(0, ge=0)
    unit: Literal["ABSOLUTE", "PERCENT"] = "ABSOLUTE"
    longest_silence_seconds: float = Field(0, ge=0)


@node("edge.gateway.rules.ChangeFilterNode", "change filter", ChangeFilterConfig)
def change_filter(config: ChangeFilterConfig, env: NodeEnv) -> Run:
    """`True`: the keys that differ by more than `by` from what passed last, or were silent for so long, and those that
    are not looked at; a message for each time, where it is not the whole. `False`: nothing of the message has changed.
    What passed last is durable with the message: a restart lets nothing through again.
    """
    silence_ms = round(config.longest_silence_seconds * 1000)
    kept, wanted = env.kept, Recent(10_000)

    def is_watched(key: str) -> bool:
        if not config.keys:
            return True
        known = wanted.get(key)
        if known is None:
            known = any(fnmatchcase(key, pattern) for pattern in config.keys)
            wanted.put(key, known)
        return bool(known)

    def passes(originator: EntityId, ts_ms: int, key: str, value: Json, out: Outcome) -> bool:
        place = f"{originator.type} {originator.id} {key}".replace(MARK, " ")
        if isinstance(value, list | dict | str):
            value = _short(value)
        last: Any = kept.get(place)
        if last is not None and not (silence_ms and ts_ms - last[0] >= silence_ms):
            if type(value) in (int, float) and type(last[1]) in (int, float):
                limit = config.by if config.unit == "ABSOLUTE" else abs(last[1]) * config.by / 100
                if abs(value - last[1]) <= limit:
                    return False
            elif value == last[1] and type(value) is type(last[1]):
                return False
        if last is None and len(kept) >= REMEMBERED:
            kept.drop(out, next(iter(kept.items)))
        kept.put(out, place, [ts_ms, value])
        return True

    def run(msg: Message, out: Outcome) -> Answer:
        if msg.type != "POST_TELEMETRY_REQUEST":
            raise RejectedError(f"messages of type {msg.type!r} are no telemetry")
        sets = value_sets(msg.data, msg.data_ts_ms)
        left: list[Message] = []
        is_whole = True
        for ts_ms, values in sets:
            fresh = {
                key: value
                for key, value in values.items()
                if not is_watched(key) or passes(msg.originator, ts_ms, key, value, out)
            }
            is_whole = is_whole and len(fresh) == len(values)
            if fresh:
                left.append(changed(msg, data=fresh, metadata={**msg.metadata, "ts": str(ts_ms)}))
        if not left:
            return FALSE
        return TRUE if is_whole else Routed((TRUE,), left)

    return run


def _short(value: Json) -> str:
    """Only to be compared: a long text is not kept twice."""
    body = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return body.decode() if len(body) <= LONGEST_KEPT else blake2b(body, digest_size=16).hexdigest()


COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
RAISE: Final = "raise"
CLEAR: Final = "clear"
MOST_WAITING: Final = 10_000


class ThresholdConfig(NodeConfig):
    """`clearOperator` and `clearValue` default to the opposite of the condition."""

    key: str
    operator: Literal[">", ">=", "<", "<=", "==", "!="] = ">"
    value: float
    clear_operator: Literal[">", ">=", "<", "<=", "==", "!="] | None = None
    clear_value: float | None = None
    duration_seconds: float = Field(0, ge=0, le=86_400)

    @model_validator(mode="after")
    def _both_or_none(self) -> ThresholdConfig:
        if (self.clear_operator is None) != (self.clear_value is None):
            raise ValueError("clearOperator and clearValue go together")
        return self


@node("edge.gateway.rules.ThresholdNode", "threshold", ThresholdConfig)
def threshold(config: ThresholdConfig, env: NodeEnv) -> Run:
    """`Raise` when the condition has held for the duration, `Clear` when the other one holds, else `Other`."""
    return _Threshold(config, env).take


class _Threshold:
    """An originator waits from the first message for which the condition holds until one for which it does not. What
    waits is durable, and the time counts from when it came here: a device that falls silent meanwhile is told of, too.
    """

    def __init__(self, config: ThresholdConfig, env: NodeEnv) -> None:
        self._config, self._env = config, env
        self._holds = COMPARISONS[config.operator]
        self._clears = COMPARISONS[config.clear_operator] if config.clear_operator else None
        self._raised = Recent(REMEMBERED)  # whose condition has held for long enough
        self._timers: dict[str, Timer] = {}
        now_ms = env.clock.now_ms()
        for name in list(env.kept.items):
            held = env.kept.get(name)
            self._arm(name, min(max(0.0, (held["due"] - now_ms) / 1000), config.duration_seconds))

    def take(self, msg: Message, out: Outcome) -> Answer:
        """`Failure` when the body is no object, or too many originators wait."""
        if not isinstance(msg.data, dict):
            raise RejectedError("the body is no object")
        value = msg.data.get(self._config.key)
        if type(value) not in (int, float):
            return OTHER
        name = f"{msg.originator.type} {msg.originator.id}"
        if self._holds(value, self._config.value):
            if not self._config.duration_seconds or self._raised.get(name):
                return RAISE
            if self._env.kept.get(name) is None:
                if len(self._env.kept) >= MOST_WAITING:
                    raise RejectedError(f"{MOST_WAITING} originators wait already")
                due_ms = self._env.clock.now_ms() + round(self._config.duration_seconds * 1000)
                self._env.kept.hold(out, name, {"due": due_ms, "msg": frozen(msg)})
                self._arm(name, self._config.duration_seconds)
            return OTHER
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
            self._env.kept.drop(out, name)
        if self._clears is not None and not self._clears(value, self._config.clear_value):
            return OTHER
        self._raised.put(name, False)
        return CLEAR

    def _arm(self, name: str, after_s: float) -> None:
        timer = self._timers[name] = self._env.timer(lambda out: self._tick(name, out))
        timer.arm(self._env.clock.monotonic_s() + after_s)

    def _tick(self, name: str, out: Outcome) -> Routed | None:
        held: Any = self._env.kept.get(name)
        left_s = (held["due"] - self._env.clock.now_ms()) / 1000
        if left_s > 0:  # the clock was set back
            self._arm(name, min(left_s, self._config.duration_seconds))
            return None
        del self._timers[name]
        self._env.kept.drop(out, name)
        self._raised.put(name, True)
        return Routed((RAISE,), (thawed(held["msg"]),))
