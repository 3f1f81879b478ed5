"""What the aggregate node folds per second, beside a plain dictionary: `python -m bench.rules_aggregate`.

Limit: 100,000 readings/s through the chain (walk, fold, changes), 1,000 devices. The dictionary loop folds the same
readings into minimum, maximum, sum and count, and keeps nothing: it is what Python itself allows.
"""

from __future__ import annotations

import time
from uuid import uuid4

from gateway.config import RulesConfig
from gateway.devices import State
from gateway.domain.changes import SaveLocal
from gateway.domain.entity import EntityId
from gateway.domain.message import Message
from gateway.ports import Snapshot
from gateway.rules import RuleEngine
from gateway.supervise import Counters, SystemClock

LIMIT = 100_000
DEVICES, ROUNDS = 1_000, 20


def main() -> None:
    now_ms = SystemClock().now_ms()
    originators = [EntityId("DEVICE", uuid4()) for _ in range(DEVICES)]
    print(f"{'':<34}{'readings/s':>12}{'limit':>10}{'ratio':>8}{'bytes/reading':>15}")
    for keys in (1, 10):
        values = {f"k{number}": 20.5 + number for number in range(keys)}
        messages = [
            Message(
                type="POST_TELEMETRY_REQUEST",
                originator=originator,
                data=values,
                metadata={"deviceName": "Press", "deviceType": "press", "ts": str(now_ms)},
                ts_ms=now_ms,
            )
            for originator in originators
        ] * ROUNDS
        plain = _dictionary(messages)
        print(f"{f'dictionary, {keys} keys a message':<34}{plain:>12,.0f}")
        for name, functions in (("min max avg count", ["min", "max", "avg", "count"]), ("and p95", ["avg", "p95"])):
            speed, weight = _node(messages, functions, keys)
            print(f"{f'  node, {name}':<34}{speed:>12,.0f}{LIMIT:>10,}{speed / plain:>8.2f}{weight:>15.0f}")


def _dictionary(messages: list[Message]) -> float:
    held: dict[tuple[EntityId, str], list[float]] = {}
    started_s, count = time.perf_counter(), 0
    for msg in messages:
        for key, value in msg.data.items():
            place = (msg.originator, key)
            row = held.get(place)
            if row is None:
                held[place] = [value, value, value, 1]
            else:
                row[0], row[1], row[2], row[3] = min(row[0], value), max(row[1], value), row[2] + value, row[3] + 1
            count += 1
    return count / (time.perf_counter() - started_s)


def _node(messages: list[Message], functions: list[str], keys: int) -> tuple[float, float]:
    """Readings a second, and bytes handed to the store for each (before it folds what one commit has several times)."""
    engine = RuleEngine(State(Snapshot()), RulesConfig(), SystemClock(), Counters())
    chain_id = uuid4()
    config = {"windowSeconds": 86_400, "functions": functions}
    node = {"type": "edge.gateway.rules.AggregateNode", "name": "n", "configuration": config}
    engine.put_chain(chain_id, {"name": "n"})
    engine.put_metadata(chain_id, {"nodes": [node], "firstNodeIndex": 0, "connections": []})
    weight, started_s = 0, time.perf_counter()
    for msg in messages:
        for change in engine.process(msg, chain_id).changes:
            if type(change) is SaveLocal:
                weight += len(change.body)
    count = len(messages) * keys
    return count / (time.perf_counter() - started_s), weight / count


if __name__ == "__main__":
    main()
