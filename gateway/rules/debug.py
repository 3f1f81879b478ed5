"""Debug events: what went into a node and by which relation what came out, kept for a person.

Which nodes: those whose `debugSettings` say so (`failuresEnabled`, `allEnabled`, `allEnabledUntil`), and those that a
person has asked for, for a while. Nobody else's way is touched. Events are in memory only, each node's newest, at most
`MAX_BYTES` together; in front of that the original's limit of `RATE_COUNT` in `RATE_S` holds, with one event that says
so. What looks like a credential is not shown.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.domain.entity import Json
from gateway.domain.message import Message
from gateway.ports import Clock
from gateway.rules.chain import NO_DEBUG, DebugWish
from gateway.rules.compiled import CompiledChain, CompiledNode
from gateway.rules.node import FAILURE
from gateway.rules.watch import Step
from gateway.supervise import Counters

PER_NODE: Final = 200
MAX_BYTES: Final = 8 << 20
MAX_CHARS: Final = 2000
RATE_COUNT: Final = 50_000
RATE_S: Final = 3600.0
MAX_ASKED_S: Final = 900.0
"""The longest that a person may look without asking again, as in the original."""

_SECRET: Final = re.compile(r"passw|secret|token|credential|authorization|cookie|private_?key|api_?key", re.IGNORECASE)
_HIDDEN: Final = "(hidden)"

Place = tuple[UUID, str]
"""Chain and name of a node."""


class Debugger:
    """Belongs to the event loop."""

    def __init__(self, clock: Clock, counters: Counters) -> None:
        self._clock, self._counters = clock, counters
        self._asked: dict[Place, float] = {}  # until when, on the monotonic clock
        self._rings: dict[Place, deque[tuple[int, bytes]]] = {}
        self._bytes = 0
        self._numbers = itertools.count(1)
        self._tokens, self._filled_s = float(RATE_COUNT), clock.monotonic_s()
        self._is_limited = False

    def dress(self, chain: CompiledChain, wishes: list[DebugWish]) -> None:
        """A chain has come, or its wishes have changed: look at the nodes that are to be looked at."""
        now_s = self._clock.monotonic_s()
        for node, wish in zip(chain.nodes, wishes, strict=True):
            asked_s = self._asked.get((chain.id, node.name), 0.0)
            if wish == NO_DEBUG and asked_s <= now_s:
                node.debug(None)
            else:
                node.debug(_Look(self, node, wish, asked_s))

    def ask(self, chain: CompiledChain, name: str, seconds: float) -> float:
        """Everything of the nodes of this name, for so long from now on; the seconds that are granted."""
        now_s = self._clock.monotonic_s()
        self._asked = {place: until_s for place, until_s in self._asked.items() if until_s > now_s}
        granted_s = max(0.0, min(seconds, MAX_ASKED_S))
        self._asked[chain.id, name] = now_s + granted_s
        self.dress(chain, [spec.debug for spec in chain.graph.nodes])
        return granted_s

    def events(self, chain: UUID | None, name: str | None, after: int, limit: int) -> list[Json]:
        """The newest `limit` with a number above `after`, oldest first."""
        found = [
            event
            for place, ring in self._rings.items()
            if (chain is None or place[0] == chain) and (name is None or place[1] == name)
            for event in ring
            if event[0] > after
        ]
        found.sort()
        return [{"number": number, **orjson.loads(body)} for number, body in found[-limit:]]

    def forget(self, chain: UUID) -> None:
        """A chain is gone."""
        for place in [place for place in self._rings if place[0] == chain]:
            self._bytes -= sum(len(body) for _, body in self._rings.pop(place))

    def record(self, node: CompiledNode, step: Step) -> None:
        """One event, if the rate allows."""
        now_s = self._clock.monotonic_s()
        self._tokens = min(RATE_COUNT, self._tokens + (now_s - self._filled_s) * RATE_COUNT / RATE_S)
        self._filled_s = now_s
        if self._tokens < 1:
            self._counters.add("rules.debug_left_out")
            if not self._is_limited:
                self._is_limited = True
                text = f"debug events are limited to {RATE_COUNT} in {RATE_S:.0f} s: what follows is left out"
                self._keep(node, {"ts": self._clock.now_ms(), "chain": step.chain, "node": step.node, "error": text})
            return
        self._tokens -= 1
        self._is_limited = self._is_limited and self._tokens < 1
        self._keep(node, self._event(step))

    def _event(self, step: Step) -> dict[str, Any]:
        event: dict[str, Any] = {
            "ts": self._clock.now_ms(),
            "chain": step.chain,
            "node": step.node,
            "labels": list(step.labels),
            "took_us": round(step.took_s * 1e6),
        }
        if step.message is not None:
            event["in"] = _shown(step.message)
        out = [_shown(message) for message in step.messages[:10] if message is not step.message]
        if out:
            event["out"] = out
        if step.error:
            event["error"] = step.error[:MAX_CHARS]
        return event

    def _keep(self, node: CompiledNode, event: dict[str, Any]) -> None:
        body = orjson.dumps(event, default=str)
        ring = self._rings.setdefault((node.chain.id, node.name), deque())
        ring.append((next(self._numbers), body))
        self._bytes += len(body)
        if len(ring) > PER_NODE:
            self._drop(ring)
        while self._bytes > MAX_BYTES:
            self._drop(max(self._rings.values(), key=len))

    def _drop(self, ring: deque[tuple[int, bytes]]) -> None:
        self._bytes -= len(ring.popleft()[1])


class _Look:
    """The observer of one node."""

    def __init__(self, debugger: Debugger, node: CompiledNode, wish: DebugWish, asked_s: float) -> None:
        self._debugger, self._node, self._wish, self._asked_s = debugger, node, wish, asked_s

    def __call__(self, step: Step) -> None:
        wish, clock = self._wish, self._debugger._clock
        is_all = wish.everything or clock.now_ms() < wish.until_ms or clock.monotonic_s() < self._asked_s
        if is_all or (wish.failures and FAILURE in step.labels):
            self._debugger.record(self._node, step)
        elif not wish.failures:
            self._node.debug(None)  # its time is over


def _shown(message: Message) -> dict[str, Any]:
    try:
        body = orjson.dumps(masked(message.data), default=str).decode()
    except TypeError as error:
        body = f"(no JSON: {error})"
    return {
        "type": message.type,
        "originator": f"{message.originator.type} {message.originator.id}",
        "metadata": {key[:100]: str(value)[:200] for key, value in list(masked(message.metadata).items())[:50]},
        "msg": body if len(body) <= MAX_CHARS else body[:MAX_CHARS] + "…",
    }


def masked(value: Any) -> Any:
    """The same without what stands under a name that credentials have."""
    if isinstance(value, Mapping):
        return {key: _HIDDEN if _is_secret(key, item) else masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return value


def _is_secret(key: Any, item: Any) -> bool:
    return isinstance(key, str) and bool(item) and isinstance(item, str) and _SECRET.search(key) is not None
