"""What scripts cost beside Python functions written by hand that do the same: `python -m bench.rules_scripts`.

The function is the limit: no engine, no border, no sandbox, called with the same message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from bench.report import figure, note
from gateway.config import RulesConfig
from gateway.devices import State
from gateway.domain.entity import EntityId
from gateway.domain.message import Message
from gateway.ports import Snapshot
from gateway.rules.node import Shared, changed
from gateway.rules.script import Script
from gateway.supervise import Counters, SystemClock

ROUNDS, CALLS = 7, 5_000
FILTER = "return msg.temperature > 20;"
SWITCH = "if (msg.temperature > 30) { return ['hot']; } return ['cold', 'all'];"
TRANSFORM = "msg.f = msg.temperature * 1.8 + 32; return {msg: msg, metadata: metadata, msgType: msgType};"
FRESH = "return {msg: {f: msg.temperature * 1.8 + 32, on: msg.on}, metadata: metadata, msgType: msgType};"
ANNOTATE = "metadata.unit = 'C'; return {msg: msg, metadata: metadata, msgType: msgType};"
LOOP = "var s = 0.0; for (var i = 0; i < msg.values.length; i++) { s = s + msg.values[i]; } return s > 5;"


def _fahrenheit(msg: Message) -> list[Message]:
    data: Any = msg.data
    return [changed(msg, data={**data, "f": data["temperature"] * 1.8 + 32})]


def _fresh(msg: Message) -> list[Message]:
    data: Any = msg.data
    return [changed(msg, data={"f": data["temperature"] * 1.8 + 32, "on": data["on"]})]


def _annotated(msg: Message) -> list[Message]:
    return [changed(msg, metadata={**msg.metadata, "unit": "C"})]


def _is_warm(msg: Message) -> bool:
    data: Any = msg.data
    return bool(data["temperature"] > 20)


def _labels(msg: Message) -> list[str]:
    data: Any = msg.data
    return ["hot"] if data["temperature"] > 30 else ["cold", "all"]


def _summed(msg: Message) -> bool:
    data: Any = msg.data
    total = 0.0
    for value in data["values"]:
        total += value
    return total > 5


def _best_us(call: Callable[[Message], object], msg: Message) -> float:
    best_s = float("inf")
    for _ in range(ROUNDS):
        started_s = time.process_time()
        for _ in range(CALLS):
            call(msg)
        best_s = min(best_s, time.process_time() - started_s)
    return best_s / CALLS * 1e6


def main() -> None:
    """Each script in both languages, and the function."""
    shared = Shared(State(Snapshot()), RulesConfig(), SystemClock(), Counters())
    msg = Message(
        type="POST_TELEMETRY_REQUEST",
        originator=EntityId("DEVICE", uuid4()),
        data={"temperature": 21.5, "humidity": 40, "on": True, "values": [1, 2, 3, 4]},
        metadata={"deviceName": "Press 1", "deviceType": "default", "ts": "1700000000000"},
        ts_ms=1_700_000_000_000,
    )

    def call(kind: Any, body: str, is_tbel: bool) -> Callable[[Message], object]:
        script = Script(kind, body, is_tbel, shared)
        how: dict[str, Any] = {"filter": script.is_true, "switch": script.labels, "transform": script.transformed}

        def run(one: Message) -> object:
            shared.script_s = 0.0  # the walk does it for each message
            return how[kind](one)

        return run

    rows: tuple[tuple[str, str, str, Callable[[Message], object]], ...] = (
        ("filter", "filter", FILTER, _is_warm),
        ("filter with a loop over a list", "filter", LOOP, _summed),
        ("switch", "switch", SWITCH, _labels),
        ("transformation, one value more", "transform", TRANSFORM, _fahrenheit),
        ("transformation, a new body", "transform", FRESH, _fresh),
        ("transformation, metadata", "transform", ANNOTATE, _annotated),
    )
    for label, kind, body, function in rows:
        limit_us = _best_us(function, msg)
        for language in ("JS", "TBEL"):
            cost_us = _best_us(call(kind, body, language == "TBEL"), msg)
            figure(f"{label}, {language}", cost_us, "µs")
            note(f"{cost_us / limit_us:.1f} times the Python function ({limit_us:.2f} µs)")


if __name__ == "__main__":
    main()
