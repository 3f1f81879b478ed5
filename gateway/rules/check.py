"""What can be said of rule chains without a message: faults, and what is probably not meant. Pure; for whoever writes
rules (`edge-gateway rules check`).

A node's relations are those of reference rule-engine §4.1–§4.5; `Failure` belongs to every node.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.config import RulesConfig
from gateway.ports import Clock, StateReader
from gateway.rules.chain import ChainGraph, Connection, NodeSpec, entity_uuid
from gateway.rules.compiled import CompiledChain
from gateway.rules.node import FAILURE, FALSE, OTHER, REGISTRY, SUCCESS, TRUE, Shared, short_type
from gateway.rules.nodes.filter import SWITCH_LABELS
from gateway.supervise import Counters

ERROR: Final = "error"
"""Messages will fail, or get lost."""
WARNING: Final = "warning"
"""Probably not what was meant."""
NOTE: Final = "note"

_INPUT: Final = "flow.TbRuleChainInputNode"
_OUTPUT: Final = "flow.TbRuleChainOutputNode"
_PUSH: Final = "edge.TbMsgPushToCloudNode"
_TRUE_FALSE: Final = frozenset({TRUE, FALSE})
_ANY: Final = (
    "filter.TbJsSwitchNode",
    "filter.TbOriginatorTypeSwitchNode",
    "filter.TbDeviceTypeSwitchNode",
    "filter.TbAssetTypeSwitchNode",
)
_LABELS: Final[Mapping[str, frozenset[str] | None]] = {
    **dict.fromkeys(_ANY),
    **dict.fromkeys(
        (
            "filter.TbMsgTypeFilterNode",
            "filter.TbJsFilterNode",
            "filter.TbCheckMessageNode",
            "filter.TbOriginatorTypeFilterNode",
            "filter.TbCheckRelationNode",
            "filter.TbCheckAlarmStatusNode",
            "geo.TbGpsGeofencingFilterNode",
        ),
        _TRUE_FALSE,
    ),
    "filter.TbMsgTypeSwitchNode": frozenset({*SWITCH_LABELS.values(), OTHER}),
    "metadata.CalculateDeltaNode": frozenset({SUCCESS, OTHER}),
    "action.TbCreateAlarmNode": frozenset({"created", "updated", SUCCESS, FALSE}),
    "action.TbClearAlarmNode": frozenset({"cleared", SUCCESS, FALSE}),
    "profile.TbDeviceProfileNode": frozenset(
        {SUCCESS, "alarm created", "alarm updated", "alarm severity updated", "alarm cleared"}
    ),
    "action.TbDeviceStateNode": frozenset({SUCCESS, "rate limited"}),
    "geo.TbGpsGeofencingActionNode": frozenset({SUCCESS, "entered", "left", "inside", "outside"}),
    "edge.gateway.rules.AggregateNode": frozenset({SUCCESS, "raw"}),
    "edge.gateway.rules.ChangeFilterNode": _TRUE_FALSE,
    "edge.gateway.rules.ThresholdNode": frozenset({"raise", "clear", OTHER}),
    _OUTPUT: frozenset(),
}
"""None: any label. A class that is not here answers Success."""

_SOURCES: Final = frozenset({"debug.TbMsgGeneratorNode"})
_ONLY_DECIDE: Final = (
    "filter.",
    "metadata.",
    "transform.",
    "deduplication.",
    "delay.",
    "edge.gateway.rules.",
    "flow.TbAckNode",
    "flow.TbCheckpointNode",
    "transaction.",
)
"""Nodes that change nothing but the message."""
_OTHER_BODY: Final = frozenset({"transform.TbTransformMsgNode", "transform.TbSplitArrayMsgNode"})


@dataclass(frozen=True, slots=True)
class Finding:
    """`node` is empty when the chain is meant, `index` is its place in `nodes`."""

    severity: str
    code: str
    chain: str
    text: str
    node: str = ""
    index: int | None = None

    def __str__(self) -> str:
        """For a person."""
        place = f"{self.chain} / {self.node} (nodes[{self.index}])" if self.index is not None else self.chain
        return f"{self.severity}: {place}: {self.text} [{self.code}]"


def check(graphs: Sequence[ChainGraph], state: StateReader, config: RulesConfig, clock: Clock) -> list[Finding]:
    """Of chains that belong together: one may enter the other."""
    by_id = {graph.id: graph for graph in graphs}
    by_name: dict[str, list[ChainGraph]] = {}
    for graph in graphs:
        by_name.setdefault(graph.name.lower(), []).append(graph)
    shared = Shared(state, config, clock, Counters())
    found: list[Finding] = []
    entered: dict[UUID, list[UUID]] = {}
    for graph in graphs:
        targets = {index: _target(spec, by_id, by_name) for index, spec in enumerate(graph.nodes) if _is(spec, _INPUT)}
        entered[graph.id] = [target.id for target in targets.values() if target is not None]
        found += _Chain(graph, targets).findings(CompiledChain(graph, "file", shared))
    return found + list(_circles(by_id, entered))


def _is(spec: NodeSpec, short: str) -> bool:
    return short_type(spec.type) == short


def _target(
    spec: NodeSpec, by_id: Mapping[UUID, ChainGraph], by_name: Mapping[str, list[ChainGraph]]
) -> ChainGraph | None:
    wanted = entity_uuid(spec.config.get("ruleChainId"))
    if wanted is not None and wanted in by_id:
        return by_id[wanted]
    named = by_name.get(spec.name.lower(), [])
    return named[0] if len(named) == 1 else None


class _Chain:
    """One chain. `targets`: of its input nodes, by index; None where the chain is not there."""

    def __init__(self, graph: ChainGraph, targets: Mapping[int, ChainGraph | None]) -> None:
        self._graph, self._targets = graph, targets
        self._leaving: dict[int, list[Connection]] = {}
        for connection in graph.connections:
            self._leaving.setdefault(connection.source, []).append(connection)
        starts = [index for index, spec in enumerate(graph.nodes) if short_type(spec.type) in _SOURCES]
        self._reached = self._behind(starts if graph.first is None else [graph.first, *starts])

    def findings(self, compiled: CompiledChain) -> list[Finding]:
        """All of this chain, in the order of its nodes."""
        graph = self._graph
        found = [
            self._of_chain(ERROR, "loop" if "lead in a circle" in remark else "dangling", remark)
            for remark in graph.remarks
        ]
        if graph.first is None and graph.nodes:
            found.append(self._of_chain(ERROR, "no_entry", "firstNodeIndex names no node: every message ends at once"))
        for index, (spec, node) in enumerate(zip(graph.nodes, compiled.nodes, strict=True)):
            short = short_type(spec.type)
            kind = REGISTRY.get(short)
            if node.problem:
                code = (
                    "unknown_class"
                    if kind is None
                    else "unsupported"
                    if not kind.is_supported
                    else "script"
                    if node.problem.startswith("the script")
                    else "configuration"
                )
                found.append(self._of(index, ERROR, code, f"answers Failure to everything: {node.problem}"))
            else:
                found += [
                    self._of(index, NOTE, "note", problem.text)
                    for problem in compiled.problems
                    if (problem.node, problem.type) == (spec.name, spec.type)
                ]
            if index in self._targets and self._targets[index] is None:
                text = "the chain that it enters is in none of these files; Failure unless the cloud sends it"
                found.append(self._of(index, WARNING, "no_chain", text))
            if index not in self._reached:
                found.append(self._of(index, WARNING, "unreached", "nothing leads here"))
            elif index not in self._leaving and short.startswith(_ONLY_DECIDE):
                found.append(self._of(index, WARNING, "no_effect", "nothing is connected behind it: no effect"))
            if kind is not None and kind.is_supported:
                found += self._labels(index, short)
            found += self._arrays(index, short)
        return found

    def _labels(self, index: int, short: str) -> Iterable[Finding]:
        known = self._answers(index, short)
        if known is None:
            return
        for connection in self._leaving.get(index, ()):
            if connection.label == FAILURE or connection.label in known:
                continue
            near = difflib.get_close_matches(connection.label, sorted(known), 1)
            right = f"did you mean {near[0]!r}?" if near else f"it answers {_listed(known)}"
            target = self._graph.nodes[connection.target].name
            said = connection.said or connection.label
            yield self._of(index, WARNING, "label", f"never answers {said!r}, which leads to {target!r}; {right}")

    def _answers(self, index: int, short: str) -> frozenset[str] | None:
        if short != _INPUT:
            return _LABELS.get(short, frozenset({SUCCESS}))
        target = self._targets[index]
        if target is None or self._graph.nodes[index].config.get("forwardMsgToDefaultRuleChain") in (True, "true"):
            return None
        return frozenset(spec.name.lower() for spec in target.nodes if _is(spec, _OUTPUT))

    def _arrays(self, index: int, short: str) -> Iterable[Finding]:
        config = self._graph.nodes[index].config
        path = config.get("jsonPath")
        makes = (short == "deduplication.TbMsgDeduplicationNode" and config.get("strategy") == "ALL") or (
            short == "transform.TbJsonPathNode"
            and isinstance(path, str)
            and any(sign in path for sign in ("*", "..", "?(", ":"))
        )
        if not makes:
            return
        nexts = [c.target for c in self._leaving.get(index, ()) if c.label != FAILURE]
        for at in sorted(self._behind(nexts, _OTHER_BODY)):
            if _is(self._graph.nodes[at], _PUSH):
                text = f"its body is an array, which {self._graph.nodes[at].name!r} answers with Failure; put a script"
                yield self._of(index, WARNING, "array", f"{text} or 'split array msg' between")

    def _behind(self, starts: Sequence[int], but: frozenset[str] = frozenset()) -> set[int]:
        """Those, and all that they lead to; what is in `but` ends the way."""
        seen: set[int] = set()
        waiting = list(starts)
        while waiting:
            at = waiting.pop()
            if at not in seen:
                seen.add(at)
                if short_type(self._graph.nodes[at].type) not in but:
                    waiting += [connection.target for connection in self._leaving.get(at, ())]
        return seen

    def _of(self, index: int, severity: str, code: str, text: str) -> Finding:
        return Finding(severity, code, self._graph.name, text, self._graph.nodes[index].name, index)

    def _of_chain(self, severity: str, code: str, text: str) -> Finding:
        return Finding(severity, code, self._graph.name, text)


def _listed(labels: frozenset[str]) -> str:
    if not labels:
        return "nothing"
    return ", ".join(sorted(labels)) if len(labels) <= 6 else f"{len(labels)} others"


def _circles(graphs: Mapping[UUID, ChainGraph], entered: Mapping[UUID, list[UUID]]) -> Iterable[Finding]:
    """Chains that lead into themselves, directly or through others."""
    for start in entered:
        waiting = list(entered[start])
        seen: set[UUID] = set()
        while waiting:
            at = waiting.pop()
            if at == start:
                name = graphs[start].name
                yield Finding(ERROR, "loop", name, "the chain leads into itself through the chains that it enters")
                break
            if at not in seen:
                seen.add(at)
                waiting += entered.get(at, [])
