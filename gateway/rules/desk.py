"""What a person, and the monitoring, may ask of the rules. Implements `RuleView`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

from gateway.domain.entity import Json
from gateway.errors import RejectedError
from gateway.ports import Clock
from gateway.rules.compiled import CompiledChain
from gateway.rules.debug import masked
from gateway.rules.engine import RuleEngine

SAMPLE_EVERY_S: Final = 2.0
SAMPLED_NODES: Final = 16
"""So many nodes at a time, in turn, …"""
SAMPLED_MESSAGES: Final = 32
"""… with so many messages each. All others run as if nobody measured."""


class RuleDesk:
    """Looks only, debug events aside."""

    name = "rule statistics"

    def __init__(self, engine: RuleEngine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        self._turn = 0

    def overview(self) -> dict[str, Any]:
        """`{"chains": see RuleEngine.chains, "fields": see RuleEngine.fields, "problems": [text…]}`."""
        return {
            "chains": self._engine.chains(),
            "fields": self._engine.fields(),
            "problems": [str(problem) for problem in self._engine.problems()],
        }

    def document(self, chain: str) -> dict[str, Any]:
        """The export form of one chain, by id or name; credentials in configurations are hidden.

        Raises:
            RejectedError: There is none, or more than one.
        """
        found = self._find(chain)
        graph = found.graph
        nodes = [
            {
                "type": spec.type,
                "name": spec.name,
                "configurationVersion": spec.version,
                "configuration": masked(spec.config),
                "debugSettings": {
                    "failuresEnabled": spec.debug.failures,
                    "allEnabled": spec.debug.everything,
                    "allEnabledUntil": spec.debug.until_ms,
                },
            }
            for spec in graph.nodes
        ]
        connections = [
            {"fromIndex": one.source, "toIndex": one.target, "type": one.said or one.label} for one in graph.connections
        ]
        head = {"id": {"entityType": "RULE_CHAIN", "id": str(found.id)}, "name": graph.name}
        return {
            "ruleChain": {**head, "type": "EDGE", "root": self._engine.is_root(found)},
            "metadata": {"firstNodeIndex": graph.first, "nodes": nodes, "connections": connections},
        }

    def debug_events(self, chain: str | None, node: str | None, after: int, limit: int) -> list[Json]:
        """Oldest first. RejectedError: no such chain, no such node in it."""
        if chain is None:
            return self._engine.debugger.events(None, None, after, limit)
        found = self._find(chain)
        self._check(found, node)
        return self._engine.debugger.events(found.id, node, after, limit)

    def debug(self, chain: str, node: str, seconds: float) -> float:
        """Record all events of a node for so long; the seconds granted. RejectedError: no such chain or node."""
        found = self._find(chain)
        self._check(found, node)
        return self._engine.debugger.ask(found, node, seconds)

    def metrics(self) -> Iterator[str]:
        """Lines in the format of Prometheus: messages that entered a chain, runs, failures and time of its nodes."""
        for what, text in (
            ("messages", "messages that entered at the first node"),
            ("node_runs", "messages that its nodes have had"),
            ("failures", "answers Failure of its nodes"),
            ("seconds", "time in its nodes, from samples"),
        ):
            name = f"edge_gateway_rules_chain_{what}_total"
            yield f"# HELP {name} {text}\n# TYPE {name} counter\n"
            for chain in self._engine.all():
                labels = f'chain="{_label(chain.name)}",id="{chain.id}",source="{chain.source}"'
                yield f"{name}{{{labels}}} {_measure(chain, what)}\n"

    async def serve(self) -> None:
        """Takes the time of a few nodes after the other, until cancelled."""
        while True:
            await self._clock.sleep(SAMPLE_EVERY_S)
            self.sample()

    def sample(self) -> None:
        """The next few nodes are measured."""
        nodes = [node for chain in self._engine.all() for node in chain.nodes]
        start = self._turn if self._turn < len(nodes) else 0
        for node in itertools.islice(nodes, start, start + SAMPLED_NODES):
            node.measure(SAMPLED_MESSAGES)
        self._turn = start + SAMPLED_NODES

    def _find(self, wanted: str) -> CompiledChain:
        chains = list(self._engine.all())
        found = [chain for chain in chains if str(chain.id) == wanted.lower()]
        found = found or [chain for chain in chains if chain.name == wanted]
        found = found or [chain for chain in chains if chain.name.lower() == wanted.lower()]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(str(chain.id) for chain in found)
            raise RejectedError(f"{len(found)} chains are named {wanted!r}; say which by its id: {ids}")
        names = ", ".join(repr(chain.name) for chain in chains[:20])
        raise RejectedError(f"there is no chain {wanted!r}; there are {names or 'none'}")

    def _check(self, chain: CompiledChain, node: str | None) -> None:
        names = [one.name for one in chain.nodes]
        if node is not None and node not in names:
            some = ", ".join(repr(name) for name in names[:30])
            raise RejectedError(f"the chain {chain.name!r} has no node {node!r}; it has {some}")


def _measure(chain: CompiledChain, what: str) -> int | float:
    if what == "messages":
        return chain.first.messages if chain.first is not None else 0
    if what == "node_runs":
        return sum(node.messages for node in chain.nodes)
    if what == "failures":
        return sum(node.failures for node in chain.nodes)
    return round(sum(node.mean_s * node.messages for node in chain.nodes), 6)


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
