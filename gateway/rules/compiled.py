"""A chain made ready to be walked: nodes with their function and their next nodes by relation."""

from __future__ import annotations

import logging
import time
from typing import Final
from uuid import UUID

import gateway.rules.nodes  # noqa: F401 - fills the registry
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.chain import ChainGraph, NodeSpec
from gateway.rules.node import REGISTRY, Answer, NodeEnv, NodeProblem, Run, Shared, read_config, short_type
from gateway.rules.upgrade import upgraded
from gateway.rules.watch import Observer, joined, watched

log = logging.getLogger(__name__)

MAX_PROBLEMS: Final = 100


class CompiledNode:
    """One node. `edges` holds no empty entries; labels are in lower case."""

    __slots__ = (
        "_debugger",
        "_left",
        "_run",
        "_watcher",
        "chain",
        "edges",
        "failures",
        "messages",
        "name",
        "observer",
        "problem",
        "run",
        "timed",
        "timed_s",
        "type",
    )

    def __init__(self, chain: CompiledChain, spec: NodeSpec) -> None:
        self.chain = chain
        self.name, self.type = spec.name, spec.type
        self.edges: dict[str, tuple[CompiledNode, ...]] = {}
        self.messages = 0
        self.failures = 0
        self.problem = ""  # why it answers Failure to everything
        self.run: Run = chain.start(self, spec)
        self._run = self.run
        self._watcher: Observer | None = None
        self._debugger: Observer | None = None
        self.observer: Observer | None = None
        self.timed, self.timed_s = 0, 0.0
        self._left = 0

    def watch(self, observer: Observer | None) -> None:
        """Tell the observer of every answer; None: nobody looks any more."""
        self._watcher = observer
        self._wire()

    def debug(self, observer: Observer | None) -> None:
        """The same for who records debug events; both may look."""
        if observer is not self._debugger:
            self._debugger = observer
            self._wire()

    def measure(self, messages: int) -> None:
        """Take the time of the next so many messages (`timed`, `timed_s`), without what they wait for."""
        self._left = messages
        self._wire()

    @property
    def mean_s(self) -> float:
        """Seconds of one message, of those that were measured; 0 when none was."""
        return self.timed_s / self.timed if self.timed else 0.0

    @property
    def is_debugged(self) -> bool:
        """Debug events of it are recorded."""
        return self._debugger is not None

    def _wire(self) -> None:
        """Whatever nobody wants costs nothing."""
        self.observer = joined(self._watcher, self._debugger)
        run = self._run if self.observer is None else watched(self, self._run, self.observer)
        self.run = self._measured(run) if self._left > 0 else run

    def _measured(self, run: Run) -> Run:
        def measure(msg: Message, out: Outcome) -> Answer:
            started_s = time.perf_counter()
            try:
                return run(msg, out)
            finally:
                self.timed_s += time.perf_counter() - started_s
                self.timed += 1
                self._left -= 1
                if self._left <= 0:
                    self._wire()

        return measure


class CompiledChain:
    """One chain. A node that cannot start is listed in `problems` and answers `Failure` with that text."""

    def __init__(self, graph: ChainGraph, source: str, shared: Shared, observer: Observer | None = None) -> None:
        self.graph, self.source, self._shared = graph, source, shared
        self.id: UUID = graph.id
        self.name = graph.name
        self.problems: list[NodeProblem] = []
        for remark in graph.remarks:
            self._note(None, remark)
        self.places: list[tuple[UUID, str, str, int]] = []  # of what its nodes keep
        self.nodes = [CompiledNode(self, spec) for spec in graph.nodes]
        if observer is not None:
            self.watch(observer)
        for connection in graph.connections:
            edges = self.nodes[connection.source].edges
            edges[connection.label] = (*edges.get(connection.label, ()), self.nodes[connection.target])
        self.first = self.nodes[graph.first] if graph.first is not None else None
        self.is_ended = False
        self.successor: CompiledChain | None = None

    def start(self, node: CompiledNode, spec: NodeSpec) -> Run:
        """The node's function; one that refuses everything when it cannot start."""
        try:
            return self._made(node, spec)
        except RejectedError as error:
            text = str(error)
        except Exception as error:  # a bug of ours; a chain of the cloud must not keep the gateway from starting
            self._shared.counters.add("rules.node_bugs")
            text = f"it cannot start: {type(error).__name__}: {error}"
        node.problem = text
        self._note(node, text)
        return _refusing(text)

    def _made(self, node: CompiledNode, spec: NodeSpec) -> Run:
        short = short_type(spec.type)
        kind = REGISTRY.get(short)
        if kind is None:
            raise RejectedError(f"unknown node class {spec.type!r}")
        if spec.problem:
            raise RejectedError(spec.problem)
        config = read_config(kind.config, upgraded(short, spec.version, spec.config))

        def note(text: str) -> None:
            self._note(node, text)

        number = sum((short, spec.name) == place[1:3] for place in self.places)
        self.places.append((self.id, short, spec.name, number))
        kept = self._shared.keeping.of(self.id, short, spec.name, number)
        return kind.make(config, NodeEnv(self._shared, self.id, self.name, spec.name, note, node, kept))

    def watch(self, observer: Observer | None) -> None:
        """All of its nodes, see `CompiledNode.watch`."""
        for node in self.nodes:
            node.watch(observer)

    def end(self, successor: CompiledChain | None = None) -> None:
        """Another version takes its place, or none: nothing in it acts by itself any more."""
        self.is_ended, self.successor = True, successor
        self._shared.timers.disarm_all(set(self.nodes))
        self._shared.outside.let_go(set(self.nodes))

    def counterpart(self, node: CompiledNode) -> CompiledNode | None:
        """The node here that has the place of one of an earlier version: same class, same name, same turn among those
        (ids change with every update of a chain).
        """
        alike = [one for one in node.chain.nodes if (one.type, one.name) == (node.type, node.name)]
        here = [one for one in self.nodes if (one.type, one.name) == (node.type, node.name)]
        turn = alike.index(node)
        return here[turn] if turn < len(here) else None

    def _note(self, node: CompiledNode | None, text: str) -> None:
        problem = NodeProblem(self.name, node.name if node else "", node.type if node else "", text)
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
            log.warning("rules: %s", problem)


def _refusing(text: str) -> Run:
    def run(msg: Message, out: Outcome) -> Answer:
        raise RejectedError(text)

    return run
