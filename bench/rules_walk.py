"""What the rules cost per message, in microseconds: `python -m bench.rules_walk`.

Limit of the standard chain: 8 µs for a telemetry message. The figures beside the scripts (0.9 and 4.3 µs) are
those of the script engine alone, with JSON parsing, that the decision for it was based on; ours contain the
node, the copy of the message and the changes as well.
"""

from __future__ import annotations

import time
from uuid import uuid4

from bench.report import figure
from gateway.config import RulesConfig
from gateway.devices import State
from gateway.domain.entity import Device, DeviceProfile, EntityId, Json
from gateway.domain.message import Message
from gateway.ports import Snapshot
from gateway.rules import RuleEngine
from gateway.supervise import Counters, SystemClock

GOALS = {
    "standard chain": 100_000,
    "standard chain behind a JS filter and a JS transformation": 60_000,
    "standard chain behind a TBEL filter": 60_000,
    "20 nodes": 30_000,
}
"""Messages a second on one core."""

ROUNDS, MESSAGES = 7, 10_000
PREFIX = "org.thingsboard.rule.engine."


def _metadata(short_type: str, body: str) -> Json:
    node = {"type": PREFIX + short_type, "name": "n", "configuration": {"jsScript": body}}
    return {"nodes": [node], "firstNodeIndex": 0, "connections": []}


def _in_front(short_types: list[tuple[str, str, str]], count: int = 0) -> Json:
    """The nodes that a telemetry message passes in the standard chain, behind these scripts and `count` checks."""
    nodes: list[dict[str, Json]] = [
        {
            "type": PREFIX + kind,
            "name": str(i),
            "configuration": {"scriptLang": lang, "jsScript": body, "tbelScript": body},
        }
        for i, (kind, lang, body) in enumerate(short_types)
    ]
    check: Json = {"messageNames": ["temperature"]}
    nodes += [
        {"type": PREFIX + "filter.TbCheckMessageNode", "name": f"check {i}", "configuration": check}
        for i in range(count)
    ]
    nodes += [
        {"type": PREFIX + "filter.TbMsgTypeSwitchNode", "name": "types", "configuration": {}},
        {"type": PREFIX + "telemetry.TbMsgTimeseriesNode", "name": "save", "configuration": {}},
        {"type": PREFIX + "edge.TbMsgPushToCloudNode", "name": "push", "configuration": {}},
    ]
    labels = ["Success" if "transform" in kind else "True" for kind, _, _ in short_types] + ["True"] * count
    labels += ["Post telemetry", "Success"]
    connections: Json = [{"fromIndex": i, "toIndex": i + 1, "type": label} for i, label in enumerate(labels)]
    return {"nodes": list[Json](nodes), "firstNodeIndex": 0, "connections": connections}


def main() -> None:
    profile = DeviceProfile(id=uuid4(), name="default")
    device = Device(id=uuid4(), name="Press 1", type="default", profile_id=profile.id)
    state = State(Snapshot(devices=[device], profiles=[profile]))
    engine = RuleEngine(state, RulesConfig(), SystemClock(), Counters())
    engine.load_files()
    chain_ids = {}
    for name, short_type, body in (
        ("filter", "filter.TbJsFilterNode", "return msg.temperature > 20;"),
        (
            "transform",
            "transform.TbTransformMsgNode",
            "msg.f = msg.temperature * 1.8 + 32; return {msg: msg, metadata: metadata, msgType: msgType};",
        ),
    ):
        chain_ids[name] = uuid4()
        engine.put_chain(chain_ids[name], {"name": name})
        engine.put_metadata(chain_ids[name], _metadata(short_type, body))
    is_warm = "return msg.temperature > 20;"
    changes = "msg.f = msg.temperature * 1.8 + 32; return {msg: msg, metadata: metadata, msgType: msgType};"
    chains: dict[str, Json] = {
        "standard chain behind a JS filter and a JS transformation": _in_front(
            [("filter.TbJsFilterNode", "JS", is_warm), ("transform.TbTransformMsgNode", "JS", changes)]
        ),
        "standard chain behind a TBEL filter": _in_front([("filter.TbJsFilterNode", "TBEL", is_warm)]),
        "20 nodes": _in_front(
            [("filter.TbJsFilterNode", "JS", is_warm), ("transform.TbTransformMsgNode", "JS", changes)], 15
        ),
    }
    for name, content in chains.items():
        chain_ids[name] = uuid4()
        engine.put_chain(chain_ids[name], {"name": name})
        engine.put_metadata(chain_ids[name], content)
    message = Message(
        type="POST_TELEMETRY_REQUEST",
        originator=EntityId("DEVICE", device.id),
        data={"temperature": 21.5, "humidity": 40, "on": True},
        metadata={"deviceName": device.name, "deviceType": device.type, "ts": "1700000000000"},
        ts_ms=1_700_000_000_000,
    )
    print(f"{'':<18}{'µs/message':>12}{'beside':>10}{'ratio':>8}")
    for label, chain_id, figure_us in (
        ("standard chain", None, 8.0),
        ("script filter", chain_ids["filter"], 0.9),
        ("script transform", chain_ids["transform"], 4.3),
    ):
        best_s = float("inf")
        for _ in range(ROUNDS):
            started_s = time.perf_counter()
            for _ in range(MESSAGES):
                outcome = engine.process(message, chain_id)
            best_s = min(best_s, time.perf_counter() - started_s)
        assert not outcome.errors, outcome.errors
        cost_us = best_s / MESSAGES * 1e6
        print(f"{label:<18}{cost_us:>12.2f}{figure_us:>10.1f}{cost_us / figure_us:>8.2f}")
    for label, goal in GOALS.items():
        best_s = float("inf")
        for _ in range(ROUNDS):
            started_s = time.process_time()
            for _ in range(MESSAGES):
                outcome = engine.process(message, chain_ids.get(label))
            best_s = min(best_s, time.process_time() - started_s)
        assert not outcome.errors, outcome.errors
        assert outcome.changes
        figure(label, MESSAGES / best_s, "msg/s", at_least=goal)


if __name__ == "__main__":
    main()
