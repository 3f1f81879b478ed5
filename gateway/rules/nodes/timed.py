"""Nodes that hold messages back for a while. Source: reference rule-engine §3.6, §8.2, §8.3.

A message that is held is durable before its receipt is given, and is found again after a restart.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import Field

from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.kept import frozen, thawed
from gateway.rules.node import SUCCESS, Answer, NodeConfig, NodeEnv, Routed, Run, node
from gateway.rules.template import template


class DeduplicationConfig(NodeConfig):
    """`interval` in seconds. `maxRetries` is accepted and without effect: what is kept is durable, not retried."""

    interval: int = Field(60, ge=1)
    strategy: Literal["FIRST", "LAST", "ALL"] = "FIRST"
    out_msg_type: str | None = None
    max_pending_msgs: int = Field(100, ge=1)


class _Pack:
    """What waits of one originator: names and data times, in the order of arrival."""

    def __init__(self, originator: EntityId) -> None:
        self.originator = originator
        self.waiting: list[tuple[str, int]] = []


@node("deduplication.TbMsgDeduplicationNode", "deduplication", DeduplicationConfig)
def deduplication(config: DeduplicationConfig, env: NodeEnv) -> Run:
    """One message for those of an originator within an interval, which begins with the first of them (data time)."""
    if config.strategy == "ALL" and not (config.out_msg_type or "").strip():
        raise RejectedError("outMsgType is needed with strategy ALL")
    return _Deduplication(config, env).take


class _Deduplication:
    def __init__(self, config: DeduplicationConfig, env: NodeEnv) -> None:
        self._config, self._env = config, env
        self._interval_ms = config.interval * 1000
        self._packs: dict[EntityId, _Pack] = {}
        self._numbers = itertools.count(1 + max((int(name) for name in env.kept.items), default=0))
        for name in sorted(env.kept.items, key=int):
            msg = thawed(env.kept.get(name))
            self._pack(msg.originator).waiting.append((name, msg.data_ts_ms))
        now_ms = env.clock.now_ms()
        for pack in self._packs.values():  # what has ended meanwhile is sent at once
            start_ms = min(ts_ms for _, ts_ms in pack.waiting)
            self._arm(pack, min(max(0.0, (start_ms + self._interval_ms - now_ms) / 1000), config.interval))

    def take(self, msg: Message, out: Outcome) -> Answer:
        """Held, and acknowledged when that is durable; `Failure` when too many of the originator wait."""
        pack = self._packs.get(msg.originator)
        if pack is not None and len(pack.waiting) >= self._config.max_pending_msgs:
            raise RejectedError(f"{len(pack.waiting)} messages of this originator wait already (maxPendingMsgs)")
        name = str(next(self._numbers))
        self._env.kept.hold(out, name, frozen(msg))
        is_first = pack is None
        pack = self._pack(msg.originator)
        pack.waiting.append((name, msg.data_ts_ms))
        if is_first:
            self._arm(pack, self._config.interval)
        return None

    def _pack(self, originator: EntityId) -> _Pack:
        pack = self._packs.get(originator)
        if pack is None:
            pack = self._packs[originator] = _Pack(originator)
        return pack

    def _arm(self, pack: _Pack, after_s: float) -> None:
        timer = self._env.timer(lambda out: self._tick(pack, out))
        timer.arm(self._env.clock.monotonic_s() + after_s + 0.001)

    def _tick(self, pack: _Pack, out: Outcome) -> Routed | None:
        now_ms = self._env.clock.now_ms()
        results: list[Message] = []
        while pack.waiting:
            start_ms = min(ts_ms for _, ts_ms in pack.waiting)
            if start_ms + self._interval_ms > now_ms:
                break
            ended = [item for item in pack.waiting if item[1] < start_ms + self._interval_ms]
            pack.waiting = [item for item in pack.waiting if item[1] >= start_ms + self._interval_ms]
            results.append(self._result(pack.originator, ended, now_ms))
            for name, _ in ended:
                self._env.kept.drop(out, name)
        if pack.waiting:
            self._arm(pack, self._config.interval)
        else:
            del self._packs[pack.originator]
        return Routed((SUCCESS,), results) if results else None

    def _result(self, originator: EntityId, ended: list[tuple[str, int]], now_ms: int) -> Message:
        kept = self._env.kept
        if self._config.strategy == "ALL":
            messages: list[Json] = []
            for name, _ in ended:
                held = kept.get(name)
                messages.append({"msg": held["data"], "metadata": held["metadata"]})
            return Message(
                type=self._config.out_msg_type or "",
                originator=originator,
                data=messages,
                metadata={"ts": str(now_ms)},
                ts_ms=now_ms,
            )
        times = [ts_ms for _, ts_ms in ended]
        wanted = min(times) if self._config.strategy == "FIRST" else max(times)
        return thawed(kept.get(ended[times.index(wanted)][0]))


class DelayConfig(NodeConfig):
    """`periodInSecondsPattern` is a template, used when `useMetadataPeriodInSecondsPatterns` is true."""

    period_in_seconds: int = Field(60, ge=0)
    max_pending_msgs: int = Field(1000, ge=1)
    period_in_seconds_pattern: str | None = None
    use_metadata_period_in_seconds_patterns: bool = False


@node("delay.TbMsgDelayNode", "delay (deprecated)", DelayConfig)
def delay(config: DelayConfig, env: NodeEnv) -> Run:
    """Sends each message on after a while."""
    return _Delay(config, env).take


class _Delay:
    def __init__(self, config: DelayConfig, env: NodeEnv) -> None:
        self._config, self._env = config, env
        self._pattern = template(config.period_in_seconds_pattern or "")
        items = env.kept.items
        self._numbers = itertools.count(1 + max((int(name) for name in items), default=0))
        now_ms = env.clock.now_ms()
        for name in sorted(items, key=int):
            held: Any = items[name]
            # Never longer than asked for, whatever the clock says after a start.
            self._arm(name, min(max(0.0, (held["due"] - now_ms) / 1000), held["period"]))

    def take(self, msg: Message, out: Outcome) -> Answer:
        """Held, and acknowledged when that is durable; `Failure` when too many wait."""
        if len(self._env.kept) >= self._config.max_pending_msgs:
            raise RejectedError(f"{len(self._env.kept)} messages wait already (maxPendingMsgs)")
        period_s = self._period_s(msg)
        name = str(next(self._numbers))
        due_ms = self._env.clock.now_ms() + period_s * 1000
        self._env.kept.hold(out, name, {"due": due_ms, "period": period_s, "msg": frozen(msg)})
        self._arm(name, period_s)
        return None

    def _period_s(self, msg: Message) -> int:
        if not self._config.use_metadata_period_in_seconds_patterns:
            return self._config.period_in_seconds
        text = self._pattern(msg)
        try:
            return max(0, int(text))
        except ValueError:
            raise RejectedError(f"the period {text[:50]!r} is no whole number of seconds") from None

    def _arm(self, name: str, after_s: float) -> None:
        timer = self._env.timer(lambda out: self._tick(name, out))
        timer.arm(self._env.clock.monotonic_s() + after_s)

    def _tick(self, name: str, out: Outcome) -> Routed | None:
        held: Any = self._env.kept.get(name)
        if held is None:
            return None
        self._env.kept.drop(out, name)
        return Routed((SUCCESS,), (thawed(held["msg"]),))
