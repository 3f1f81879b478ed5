"""Which chains there are, which of them is the root, and where a message enters."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from math import inf
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.config import RulesConfig
from gateway.domain.changes import Change
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import ConfigError
from gateway.ports import AlarmBook, Clock, Outcome, SeriesReader, StateReader
from gateway.rules.chain import ChainGraph, entity_uuid, parse_chain, parse_document
from gateway.rules.compiled import CompiledChain, CompiledNode
from gateway.rules.debug import Debugger
from gateway.rules.fields import PLACE as FIELDS
from gateway.rules.fields import Fields
from gateway.rules.node import Enter, NodeProblem, Shared
from gateway.rules.short import DEFAULT_CHAIN, short_chain
from gateway.rules.walk import Walker
from gateway.rules.watch import Observer
from gateway.supervise import Counters

log = logging.getLogger(__name__)

BUILT_IN: Final = "built-in"
FILE: Final = "file"
SHORT: Final = "short"
CLOUD: Final = "cloud"


@dataclass(slots=True)
class _CloudChain:
    """What the cloud has sent of one chain; `claim` grows with each claim to be the root, 0 is none."""

    head: dict[str, Any]
    metadata: Json = None
    compiled: CompiledChain | None = None
    claim: int = 0
    problem: NodeProblem | None = None


PROFILED: Final = ("DEVICE", "ASSET", "DEVICE_PROFILE", "ASSET_PROFILE")
"""What may have a chain of its own: by its profile, or as one."""

_PROFILE_KEYS: Final = {"DEVICE": "deviceProfileId", "ASSET": "assetProfileId"}


class RuleEngine:
    """Implements `RuleProcessor`, `RuleChains` and `RuleTimers`. All calls come from the event loop's thread.

    The local root is `config.root_chain`, else the built-in edge root chain. With `config.prefer_cloud` the
    chain that the cloud calls root takes its place as soon as its nodes are here, until it is removed.
    """

    def __init__(
        self,
        state: StateReader,
        config: RulesConfig,
        clock: Clock,
        counters: Counters,
        series: SeriesReader | None = None,
    ) -> None:
        self._state, self._config = state, config
        self._shared = Shared(state, config, clock, counters)
        self._shared.series = series
        self._fields = Fields(self._shared)
        self._walker = Walker(self._shared, self._find_chain)
        self.debugger = Debugger(clock, counters)
        self._local: dict[UUID, CompiledChain] = {}
        self._local_root: CompiledChain | None = None
        self._cloud: dict[UUID, _CloudChain] = {}
        self._claims = itertools.count(1)
        self._chains: dict[UUID, CompiledChain] = {}
        self._root: CompiledChain | None = None
        self._is_settled = False
        self._observer: Observer | None = None
        self._left: list[Change] = []  # what nodes kept that are gone

    def restore(self, local: Iterable[tuple[str, str, bytes]]) -> None:
        """`Snapshot.local`: what nodes kept when the gateway stopped. Before any chain is loaded."""
        self._shared.keeping.load(local)

    def settle(self) -> None:
        """All chains are here: what was kept for nodes that are not is dropped, now and whenever a chain goes."""
        self._is_settled = True
        self._forget()
        self._fields.load()

    def load_files(self) -> None:
        """Load the local chains; what the cloud has sent stays.

        Raises:
            ConfigError: A file is missing, or is no rule chain; with the file and what is wrong. A node that
                cannot work is no error: it is listed in `problems()`.
        """
        local: dict[UUID, CompiledChain] = {}
        path = self._config.root_chain
        if path is None and self._config.short:
            graphs = parse_document(short_chain(self._config.short), "")
            root, source = graphs[0], SHORT
        elif path is None:
            graphs = parse_document(orjson.loads(resources.files(__package__).joinpath(DEFAULT_CHAIN).read_bytes()), "")
            root, source = graphs[0], BUILT_IN
        else:
            graphs, source = _read_file(path), FILE
            root = _root_of(graphs, path)
        for graph in graphs:
            self._add_local(local, graph, source, path)
        for more in self._config.chains:
            for graph in _read_file(more):
                self._add_local(local, graph, FILE, more)
        for chain in self._local.values():
            chain.end(local.get(chain.id))
        self._local, self._local_root = local, local[root.id]
        self._choose()

    def _add_local(self, local: dict[UUID, CompiledChain], graph: ChainGraph, source: str, path: Path | None) -> None:
        if graph.id in local:
            raise ConfigError(str(path), f"the chain {graph.name!r} is here already (same id, or same name without id)")
        local[graph.id] = self._compiled(graph, source)

    def _compiled(self, graph: ChainGraph, source: str) -> CompiledChain:
        chain = CompiledChain(graph, source, self._shared, self._observer)
        self.debugger.dress(chain, [spec.debug for spec in graph.nodes])
        return chain

    # ── chains of the cloud ──

    def put_chain(self, chain_id: UUID, chain: Json) -> None:
        """RuleChain JSON. A new root takes over when its metadata is here. Never raises."""
        head = dict(chain) if isinstance(chain, dict) else {}
        head["id"] = str(chain_id)
        held = self._cloud.setdefault(chain_id, _CloudChain(head))
        held.head = head
        is_root = head.get("root") is True
        if not is_root:
            held.claim = 0
        elif held.claim == 0:
            held.claim = next(self._claims)
        self._compile(held)
        self._choose()

    def put_metadata(self, chain_id: UUID, metadata: Json) -> None:
        """RuleChainMetaData JSON; empty `nodes` is ignored. Never raises.

        Metadata that is no chain leaves the former one at work, and is listed in `problems()`.
        """
        if isinstance(metadata, dict) and metadata.get("nodes") in ([], None):
            return
        held = self._cloud.setdefault(chain_id, _CloudChain({"id": str(chain_id)}))
        held.metadata = metadata
        self._compile(held)
        self._choose()

    def remove_chain(self, chain_id: UUID) -> None:
        """Unknown id is no error."""
        held = self._cloud.pop(chain_id, None)
        if held is not None and held.compiled is not None:
            held.compiled.end()
            self.debugger.forget(chain_id)
        self._choose()

    def _compile(self, held: _CloudChain) -> None:
        if held.metadata is None:
            return
        try:
            graph = parse_chain(held.head, held.metadata, f"rule chain {held.head['id']}", "metadata")
        except ConfigError as error:
            held.problem = NodeProblem(str(held.head.get("name")), "", "", f"not usable as sent by the cloud: {error}")
            log.warning("rules: %s", held.problem)
            return
        held.problem = None
        # Root or not changes nothing inside. The cloud repeats its chains with every sync: state is kept.
        graph = replace(graph, is_root=False, id=UUID(held.head["id"]))
        if held.compiled is None or held.compiled.graph != graph:
            former = held.compiled
            if former is not None:
                former.end()  # before the new one takes over what it holds
            held.compiled = self._compiled(graph, CLOUD)
            if former is not None:
                former.end(held.compiled)
        elif [spec.debug for spec in graph.nodes] != [spec.debug for spec in held.compiled.graph.nodes]:
            held.compiled.graph = graph  # equal, but for what is to be recorded
            self.debugger.dress(held.compiled, [spec.debug for spec in graph.nodes])

    def _choose(self) -> None:
        """Who is known, who is root. A new root ends the claims of earlier ones: an edge has one."""
        ready = {chain_id: held for chain_id, held in self._cloud.items() if held.compiled is not None}
        newest = max(ready.values(), key=lambda held: held.claim, default=None)
        root = self._local_root
        if newest is not None and newest.claim:
            for held in ready.values():
                if held.claim < newest.claim:
                    held.claim = 0
            if self._config.prefer_cloud:
                root = newest.compiled
        chains = dict(self._local)
        chains |= {chain_id: held.compiled for chain_id, held in ready.items() if held.compiled is not None}
        if root is not self._root and self._root is not None and root is not None:
            log.info("rules: %r (%s) is the root chain now", root.name, root.source)
            if root.source == CLOUD and self._root.source in (FILE, SHORT):
                log.warning(
                    "rules: %r of the configuration is not used: the cloud's root chain has taken its place"
                    " (rules.prefer_cloud: false keeps the local one)",
                    self._root.name,
                )
        self._chains, self._root = chains, root
        if self._is_settled:
            self._forget()

    def _forget(self) -> None:
        places = [FIELDS, *(place for chain in self._chains.values() for place in chain.places)]
        changes, count = self._shared.keeping.forget(places)
        if count:
            self._shared.counters.add("rules.kept_dropped", count)
            log.warning("rules: %d items of nodes that are gone are dropped (rules.kept_dropped)", count)
            self._left += changes
            self.on_earlier()

    async def close(self) -> None:
        """What nodes hold open outside is closed; no message comes any more."""
        await self._shared.outside.close()

    # ── what nodes do by themselves ──

    @property
    def on_earlier(self) -> Callable[[], None]:
        """See `RuleTimers`."""
        return self._shared.timers.on_earlier

    @on_earlier.setter
    def on_earlier(self, call: Callable[[], None]) -> None:
        self._shared.timers.on_earlier = call

    @property
    def due_s(self) -> float:
        """When the next one is due."""
        return -inf if self._left else self._shared.timers.due_s

    def fire(self) -> Outcome | None:
        """The next one that is due."""
        out = Outcome()
        if self._left:
            out.changes, self._left = self._left, []
            return out
        timer = self._shared.timers.take(self._shared.clock.monotonic_s())
        if timer is None:
            return None
        self._walker.fire(timer, out)
        return out

    @property
    def alarms(self) -> AlarmBook:
        """For whoever else writes alarms."""
        return self._shared.alarms

    def settled(self, changes: Iterable[Change]) -> None:
        """A unit of work is durable, or never will be."""
        self._shared.alarms.settled(changes)
        self._fields.settled(changes)

    # ── messages ──

    def process(self, message: Message, chain_id: UUID | None = None) -> Outcome:
        """Walk one message through the given chain, else its profile's, else the root chain; never raises."""
        out = Outcome()
        if chain_id is not None:
            chain = self._chains.get(chain_id)
            if chain is None:
                return out  # §1.7: a chain that is not (or no longer) here has nothing to say
        else:
            chain = (
                self._profile_chain(message.originator, message) if message.originator.type in PROFILED else None
            ) or self._root
            if chain is None:
                out.errors.append("there is no root chain")
                return out
        fields = self._shared.fields
        if fields is not None and message.type == "ATTRIBUTES_UPDATED" and message.metadata.get("source") == "cloud":
            fields.overhear(message, out)
        if chain.first is not None:
            self._walker.walk(chain.first, message, out)
        return out

    def _profile_chain(self, originator: EntityId, message: Message | None = None) -> CompiledChain | None:
        """`message`: one of a deletion says itself of which profile the entity was."""
        if originator.type != "DEVICE":
            return self._other_profile_chain(originator, message)
        device = self._state.device(originator.id)
        profile_id = _profile_of_deleted("DEVICE", message) if device is None else device.profile_id
        if profile_id is None:
            return None
        profile = self._state.profile(profile_id)
        if profile is None or profile.default_rule_chain_id is None:
            return None
        return self._chains.get(profile.default_rule_chain_id)

    def _other_profile_chain(self, originator: EntityId, message: Message | None) -> CompiledChain | None:
        if originator.type == "DEVICE_PROFILE":
            profile = self._state.profile(originator.id)
            chain_id = profile.default_rule_chain_id if profile is not None else None
        else:
            profile_id: UUID | None = originator.id
            if originator.type == "ASSET":
                asset = self._json("ASSET", originator.id)
                profile_id = entity_uuid(asset.get("assetProfileId")) or _profile_of_deleted("ASSET", message)
            chain_id = entity_uuid(self._json("ASSET_PROFILE", profile_id).get("defaultEdgeRuleChainId"))
        return self._chains.get(chain_id) if chain_id else None

    def _json(self, type_: str, id_: UUID | None) -> Mapping[str, Json]:
        json = self._state.entity_json(type_, str(id_)) if id_ else None
        return json if isinstance(json, dict) else {}

    def _find_chain(self, wish: Enter, originator: EntityId) -> CompiledChain | None:
        if wish.by_profile and originator.type in _PROFILE_KEYS:
            chain = self._profile_chain(originator)
            if chain is not None:
                return chain
        if wish.chain_id is not None and wish.chain_id in self._chains:
            return self._chains[wish.chain_id]
        # Exported files carry no ids; an input node is named after its chain.
        wanted = wish.name.lower()
        named = [chain for chain in self._local.values() if chain.name.lower() == wanted]
        return named[0] if len(named) == 1 else None

    # ── for a person ──

    def watch(self, observer: Observer | None) -> None:
        """Tell of every answer of every node, also of chains that come later; None: nobody looks any more."""
        self._observer = observer
        for chain in self._chains.values():
            chain.watch(observer)

    def problems(self) -> list[NodeProblem]:
        """Nodes that do not do all that their chain expects, chains and fields that cannot be used."""
        found = [held.problem for held in self._cloud.values() if held.problem is not None]
        found += [problem for chain in self._chains.values() for problem in chain.problems]
        return found + self._fields.problems()

    def fields(self) -> list[dict[str, Any]]:
        """One summary a calculated field, see `Fields.summaries`."""
        return self._fields.summaries()

    def chains(self) -> list[dict[str, Any]]:
        """One summary a chain: id, name, root, source (`built-in`, `file`, `cloud`), nodes with their counters.

        A node has `mean_us` once it was measured, `problem` when it answers Failure to everything, `debug` when its
        events are recorded.
        """
        return [
            {
                "id": str(chain.id),
                "name": chain.name,
                "root": chain is self._root,
                "source": chain.source,
                "nodes": [_summary(node) for node in chain.nodes],
            }
            for chain in self._chains.values()
        ]

    def all(self) -> Iterable[CompiledChain]:
        """The chains, as they are now."""
        return self._chains.values()

    def is_root(self, chain: CompiledChain) -> bool:
        """Of what has no chain of its own."""
        return chain is self._root


def _profile_of_deleted(type_: str, message: Message | None) -> UUID | None:
    if message is None or message.type != "ENTITY_DELETED" or not isinstance(message.data, dict):
        return None
    return entity_uuid(message.data.get(_PROFILE_KEYS[type_]))


def _summary(node: CompiledNode) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": node.name,
        "type": node.type,
        "messages": node.messages,
        "failures": node.failures,
    }
    if node.timed:
        told["mean_us"] = round(node.mean_s * 1e6, 1)
    if node.problem:
        told["problem"] = node.problem
    if node.is_debugged:
        told["debug"] = True
    return told


def read_tree(path: Path) -> Json:
    """The JSON of a file. Raises `ConfigError` with the file."""
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(str(path), f"is no JSON: {error}") from None


def _read_file(path: Path) -> list[ChainGraph]:
    tree = read_tree(path)
    try:
        return parse_document(tree, path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.where}", error.problem) from None


def _root_of(graphs: list[ChainGraph], path: Path) -> ChainGraph:
    if len(graphs) == 1:
        return graphs[0]
    roots = [graph for graph in graphs if graph.is_root]
    if len(roots) != 1:
        raise ConfigError(
            str(path), f"has {len(graphs)} chains and {len(roots)} of them are marked as root; one must be"
        )
    return roots[0]
