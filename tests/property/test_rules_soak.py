"""Random chains, random messages, time that passes, restarts: no message disappears, nothing grows, nobody else suffers.

What is counted: each answer of a node leads along the connections of its chain, or ends a branch. So the number of
answers is the number of entries and of what was led on; whatever differs has disappeared, or come from nowhere.
`EDGE_GATEWAY_SOAK` is the number of rounds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from gateway.domain.message import Message
from gateway.ports import Outcome
from gateway.rules.node import FAILURE, REGISTRY
from gateway.rules.walk import MAX_EXECUTIONS
from gateway.rules.watch import Step
from tests.unit.rules.kit import DEVICE, Rules, js, message, metadata

ROUNDS = int(os.environ.get("EDGE_GATEWAY_SOAK", "40"))
LABELS = ["Success", "Success", "Success", "Failure", "True", "False", "Other", "Post telemetry", "two"]
BYSTANDER, STRANGER = UUID(int=7), UUID(int=8)
OUTSIDE = ("rest.", "mqtt.")  # nodes that talk to somebody else have their own tests
SCRIPTS = {
    "filter.TbJsFilterNode": ["return msg.temperature > 20;", "return 1;", "throw 1;"],
    "filter.TbJsSwitchNode": ["return ['Success', 'two'];", "return [];", "return msg.x.y;"],
    "transform.TbTransformMsgNode": [
        "return {msg: {temperature: 1}};",
        "return [{msg: {temperature: 1}}, {msg: {temperature: 2}}];",
        "return null;",
    ],
}
CONFIGS: dict[str, list[dict[str, Any]]] = {
    "deduplication.TbMsgDeduplicationNode": [
        {"interval": 2, "strategy": "FIRST", "maxPendingMsgs": 3},
        {"interval": 1, "strategy": "ALL", "outMsgType": "POST_TELEMETRY_REQUEST"},
    ],
    "delay.TbMsgDelayNode": [{"periodInSeconds": 1, "maxPendingMsgs": 5}],
}


def random_chain(rng: random.Random) -> Any:
    nodes: list[tuple[Any, ...]] = []
    kinds = [name for name in sorted(REGISTRY) if not name.startswith(OUTSIDE)]
    for index in range(rng.randint(1, 9)):
        kind = rng.choice(kinds)
        name = f"node {index}"
        if kind in SCRIPTS:
            nodes.append(js(name, rng.choice(SCRIPTS[kind]), kind))
        else:
            nodes.append((kind, name, rng.choice(CONFIGS.get(kind, [{}]))))
    edges = (
        {
            (a, b, rng.choice(LABELS))
            for _ in range(2 * len(nodes))
            for a, b in [sorted(rng.sample(range(len(nodes)), 2))]
        }
        if len(nodes) > 1
        else set()
    )
    return metadata(nodes, *sorted(edges))


def random_message(rng: random.Random) -> Message:
    data = rng.choice([{"temperature": rng.random() * 40}, {}, [], [{"temperature": 1}, {"temperature": 2}], "x", None])
    type_ = rng.choice(["POST_TELEMETRY_REQUEST", "POST_TELEMETRY_REQUEST", "POST_ATTRIBUTES_REQUEST", "ODD"])
    made = message({} if data is None else data, type_, metadata={"ts": str(rng.randint(0, 10_000)), "scope": ""})
    if data is None:
        made.data = None
    return made


class Ledger:
    """The books of one engine: entries, answers, and what each answer led on to."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.steps = rules, list[Step]()
        rules.engine.watch(self.steps.append)

    def balance(self, entries: int, outcomes: list[Outcome], at_first: int) -> None:
        nodes = {node.name: node for chain in self.rules.engine._chains.values() for node in chain.nodes}
        led_on = unrouted = 0
        for step in self.steps:
            if step.node not in nodes:
                continue
            # No chain has the name of an input node here: entering it is a failure.
            labels = [FAILURE if label.startswith("into ") else label.lower() for label in step.labels]
            messages = step.messages or ([step.message] if labels else [])
            targets = [target for label in labels for target in nodes[step.node].edges.get(label, ())]
            led_on += len(targets) * len(messages)
            unrouted += FAILURE in labels and not targets
        answers = sum(step.message is not None for step in self.steps)
        assert answers == entries * at_first + led_on
        assert sum(len(outcome.errors) for outcome in outcomes) == unrouted
        self.steps.clear()


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_no_message_disappears(seed):
    rng = random.Random(seed)
    rules = Rules()
    rules.put(BYSTANDER, "Bystander", metadata([("edge.TbMsgPushToCloudNode", "up", {})]))
    rules.put(STRANGER, "Stranger", random_chain(rng))
    rules.engine.settle()
    ledger = Ledger(rules)
    for _ in range(30):
        act = rng.random()
        if act < 0.75:
            outcomes = [rules.commit(rules.engine.process(random_message(rng), STRANGER))]
            outcomes += [rules.commit(await wait()) for wait in outcomes[0].waits]
            has_first = rules.engine._chains[STRANGER].first is not None
            ledger.balance(1, outcomes, int(has_first))
        elif act < 0.95:
            ledger.balance(0, await rules.wait(rng.random() * 3), 0)
        else:
            rules.restart()
            ledger = Ledger(rules)
        bystander = rules.engine.process(message({"t": 1}), BYSTANDER)
        assert (len(bystander.changes), bystander.errors) == (1, [])
        ledger.steps.clear()
    assert rules.counters.get("rules.node_bugs") == 0
    # Whatever was held back comes out, or belongs to a state that nodes keep on purpose; nothing grows with time.
    await rules.wait(3600)
    held = Counter(key.split("\x1f")[1] for _, key in rules.local)
    assert all(count <= 100 for count in held.values()), held
    assert not [kind for kind in held if kind.startswith(("deduplication.", "delay."))]
    assert len(rules.engine._shared.timers) < 50


def test_a_flood_of_copies_ends_and_says_so():
    nodes = [("transaction.TbSynchronizationBeginNode", f"n{i}", {}) for i in range(16)]
    doubled = [(i, i + 1, label) for i in range(15) for label in ("Success", "success ")]
    chain = metadata(nodes, *((a, b, label.strip()) for a, b, label in doubled))
    rules = Rules()
    rules.put(STRANGER, "Stranger", chain)
    outcome = rules.engine.process(message({}, originator=DEVICE), STRANGER)
    assert f"more than {MAX_EXECUTIONS} nodes" in outcome.errors[0]
