"""Nodes and relations: a checked graph out of every form in which ThingsBoard writes a chain down.

Forms: the export of the page `{"ruleChain", "metadata"}`, the bulk export `{"ruleChains": […], "metadata":
[…]}`, bare metadata as the REST API and old repositories have it, and what comes from the cloud. Unknown
keys are ignored, node ids are dropped: the cloud's are new with every update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeGuard
from uuid import UUID, uuid5

from gateway.domain.entity import Json
from gateway.errors import ConfigError

INPUT_NODE: Final = "org.thingsboard.rule.engine.flow.TbRuleChainInputNode"
_LOCAL_IDS: Final = UUID("6f1f1d4e-8f0b-4d38-9a6e-5b1f0f9f7c11")
"""Name space of the ids of chains that bring none: the same file has the same id after a restart."""


@dataclass(frozen=True, slots=True)
class DebugWish:
    """Record what fails, everything, or everything until a time (UTC epoch, ms). Source: reference rule-engine §1.3."""

    failures: bool = False
    everything: bool = False
    until_ms: int = 0


NO_DEBUG: Final = DebugWish()


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node as it was written. `problem` is set when its configuration is no object.

    `debug` (`debugSettings`, or the older `debugMode`) is what to record of it: it changes nothing that the node does.
    """

    type: str
    name: str
    version: int
    config: Mapping[str, Json]
    problem: str = ""
    debug: DebugWish = field(default=NO_DEBUG, compare=False)


@dataclass(frozen=True, slots=True)
class Connection:
    """From one node to another; `label` in lower case, because relations compare ignoring case; `said` as written."""

    source: int
    target: int
    label: str
    said: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ChainGraph:
    """A chain. `first` is None for a chain without entry; `remarks` are faults that it survives."""

    id: UUID
    name: str
    is_root: bool
    first: int | None
    nodes: tuple[NodeSpec, ...]
    connections: tuple[Connection, ...]
    remarks: tuple[str, ...] = field(default=())


def parse_document(tree: Json, name: str) -> list[ChainGraph]:
    """All chains of one file. `name` is used where the file gives none.

    Raises:
        ConfigError: `where` is the path inside the document: not a chain, an index that points to no node,
            a connection that leads back to where the message has been.
    """
    graphs = parse_loosely(tree, name)
    for graph in graphs:
        if graph.remarks:
            raise ConfigError(graph.name, graph.remarks[0])
    return graphs


def parse_loosely(tree: Json, name: str) -> list[ChainGraph]:
    """The same; what a chain can live with is among its `remarks`.

    Raises:
        ConfigError: This is no chain at all.
    """
    if not isinstance(tree, dict):
        raise ConfigError("(file)", "must be an object with 'ruleChain' and 'metadata'")
    if isinstance(tree.get("ruleChains"), list):
        graphs = _parse_bulk(tree)
    elif "metadata" in tree:
        head = tree.get("ruleChain") or {}
        if not isinstance(head, dict):
            raise ConfigError("ruleChain", "must be an object")
        graphs = [parse_chain(head, tree["metadata"], name, "metadata")]
    elif "nodes" in tree:
        graphs = [parse_chain({}, tree, name, "")]
    else:
        raise ConfigError("(file)", "is no rule chain: 'metadata' (or 'nodes') is missing")
    return graphs


def _parse_bulk(tree: Mapping[str, Json]) -> list[ChainGraph]:
    metadata = tree.get("metadata")
    if not isinstance(metadata, list):
        raise ConfigError("metadata", "must be a list, as 'ruleChains' is one")
    by_id = {entity_uuid(m.get("ruleChainId")): m for m in metadata if isinstance(m, dict)}
    graphs = []
    for index, head in enumerate(tree["ruleChains"]):
        where = f"ruleChains[{index}]"
        if not isinstance(head, dict) or entity_uuid(head.get("id")) is None:
            raise ConfigError(where, "must be an object with an id, which tells its metadata")
        found = by_id.get(entity_uuid(head["id"]))
        if found is None:
            raise ConfigError(where, "has no entry in 'metadata' with its ruleChainId")
        graphs.append(parse_chain(head, found, f"chain {index + 1}", f"metadata of {where}"))
    return graphs


def parse_chain(head: Mapping[str, Json], metadata: Json, name: str, where: str) -> ChainGraph:
    """One chain from its RuleChain and RuleChainMetaData.

    What a chain can live with (an index without node, a circle) becomes a remark: the cloud cuts nodes that
    it thinks unknown to us, and does not renumber the connections.

    Raises:
        ConfigError: `metadata` is no chain at all.
    """
    dot = f"{where}." if where else ""
    if not isinstance(metadata, dict):
        raise ConfigError(where or "(file)", "must be an object with 'nodes' and 'connections'")
    raw_nodes = metadata.get("nodes")
    if not isinstance(raw_nodes, list):
        raise ConfigError(f"{dot}nodes", "must be a list of nodes")
    nodes = [_parse_node(raw, f"{dot}nodes[{index}]") for index, raw in enumerate(raw_nodes)]
    remarks: list[str] = []
    connections = _parse_connections(metadata.get("connections"), len(nodes), f"{dot}connections", remarks)
    _add_legacy(metadata.get("ruleChainConnections"), nodes, connections, f"{dot}ruleChainConnections", remarks)
    first = _first_index(metadata, head, raw_nodes, remarks, f"{dot}firstNodeIndex")
    own_name = head.get("name")
    name = own_name if isinstance(own_name, str) and own_name else name
    chain_id = entity_uuid(head.get("id")) or entity_uuid(metadata.get("ruleChainId")) or uuid5(_LOCAL_IDS, name)
    graph = ChainGraph(
        chain_id, name, head.get("root") is True, first, tuple(nodes), tuple(connections), tuple(remarks)
    )
    circle = _find_circle(graph)
    if circle:
        text = f"the nodes {' → '.join(circle)} lead in a circle; ThingsBoard refuses such a chain"
        graph = replace(graph, remarks=(*graph.remarks, text))
    return graph


def entity_uuid(value: Json) -> UUID | None:
    """`{"entityType", "id"}` or the bare text; None when there is no valid id."""
    if isinstance(value, dict):
        value = value.get("id")
    if not isinstance(value, str):
        return None
    try:
        return UUID(value)
    except ValueError:
        return None


def _parse_node(raw: Json, where: str) -> NodeSpec:
    if not isinstance(raw, dict):
        raise ConfigError(where, "must be an object with 'type', 'name' and 'configuration'")
    kind, name, version = raw.get("type"), raw.get("name"), raw.get("configurationVersion")
    config = raw.get("configuration")
    return NodeSpec(
        type=kind if isinstance(kind, str) else "",
        name=name if isinstance(name, str) and name else "(without a name)",
        version=version if isinstance(version, int) and not isinstance(version, bool) else 0,
        config=config if isinstance(config, dict) else {},
        problem="" if config is None or isinstance(config, dict) else "its configuration is no object",
        debug=_parse_debug(raw),
    )


def _parse_debug(raw: Mapping[str, Json]) -> DebugWish:
    wish = raw.get("debugSettings")
    if not isinstance(wish, dict):
        return DebugWish(everything=True) if raw.get("debugMode") is True else NO_DEBUG
    until_ms = wish.get("allEnabledUntil")
    return DebugWish(
        failures=wish.get("failuresEnabled") is True,
        everything=wish.get("allEnabled") is True,
        until_ms=until_ms if isinstance(until_ms, int) else 0,
    )


def _parse_connections(raw: Json, count: int, where: str, remarks: list[str]) -> list[Connection]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise ConfigError(where, "must be a list")
    connections = []
    for index, item in enumerate(raw):
        place = f"{where}[{index}]"
        if not isinstance(item, dict):
            raise ConfigError(place, "must be an object with 'fromIndex', 'toIndex' and 'type'")
        source, target, label = item.get("fromIndex"), item.get("toIndex"), item.get("type")
        if not isinstance(label, str):
            raise ConfigError(f"{place}.type", "must be a relation such as 'Success'")
        if not (_is_index(source, count) and _is_index(target, count)):
            remarks.append(f"{place}: there is no node {source} or {target}; {count} nodes are counted from 0")
        elif source == target:
            remarks.append(f"{place}: node {source} is connected to itself")
        else:
            connections.append(Connection(source, target, label.lower(), label))
    return connections


def _add_legacy(
    raw: Json, nodes: list[NodeSpec], connections: list[Connection], where: str, remarks: list[str]
) -> None:
    """Up to 3.3 a chain was entered by a connection; now by a node. Source: reference rule-engine §1.4."""
    if raw is None:
        return
    if not isinstance(raw, list):
        raise ConfigError(where, "must be a list")
    count = len(nodes)
    for index, item in enumerate(raw):
        place = f"{where}[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise ConfigError(place, "must be an object with 'fromIndex', 'targetRuleChainId' and 'type'")
        if not _is_index(item.get("fromIndex"), count):
            remarks.append(f"{place}: there is no node {item.get('fromIndex')}; {count} nodes are counted from 0")
            continue
        target = entity_uuid(item.get("targetRuleChainId"))
        connections.append(Connection(item["fromIndex"], len(nodes), item["type"].lower(), item["type"]))
        config = {"ruleChainId": str(target) if target else None}
        nodes.append(NodeSpec(INPUT_NODE, "Rule Chain Input", 1, config))


def _first_index(
    metadata: Mapping[str, Json], head: Mapping[str, Json], raw_nodes: Sequence[Json], remarks: list[str], where: str
) -> int | None:
    first = metadata.get("firstNodeIndex")
    if first is None:
        wanted = entity_uuid(head.get("firstRuleNodeId"))
        ids = [entity_uuid(raw.get("id")) for raw in raw_nodes]
        return ids.index(wanted) if wanted is not None and wanted in ids else None
    if not _is_index(first, len(raw_nodes)):
        remarks.append(f"{where}: there is no node {first}; {len(raw_nodes)} nodes are counted from 0")
        return None
    return int(first)


def _is_index(value: Json, count: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count


def _find_circle(graph: ChainGraph) -> list[str]:
    """Names of nodes from which every way leads on to one another; empty for a proper chain."""
    entering = [0] * len(graph.nodes)
    leaving: dict[int, list[int]] = {}
    for connection in graph.connections:
        entering[connection.target] += 1
        leaving.setdefault(connection.source, []).append(connection.target)
    free = [index for index, count in enumerate(entering) if count == 0]
    while free:
        for target in leaving.pop(free.pop(), ()):
            entering[target] -= 1
            if entering[target] == 0:
                free.append(target)
    if not any(entering):
        return []
    # What is left lies on circles or behind one; every such node has a predecessor that is left too.
    back = {c.target: c.source for c in graph.connections if entering[c.source] and entering[c.target]}
    at, seen = next(iter(back)), []
    while at not in seen:
        seen.append(at)
        at = back[at]
    circle = seen[seen.index(at) :]
    return [graph.nodes[index].name for index in (at, *reversed(circle[1:]), at)]
