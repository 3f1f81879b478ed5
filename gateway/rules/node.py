"""What a rule node is: a configuration model and a function that is made once and called for every message.

The function gets the message and the outcome to which it adds changes, and answers with

- a `str`: the relation, in lower case, by which the unchanged message goes on (no allocation);
- a `Message`: another message, by Success;
- `Routed`: other relations, another message, several messages, or a failure that carries a message;
- `Enter`, `Leave`, `Call`: nested chains and RPC, which the engine carries out;
- `Later`: it has to ask somebody (the store, another server) before it knows;
- None: the message is acknowledged here, nothing behind the node runs.

What a node holds back for later it puts into `NodeEnv.kept`, and wakes itself by a `NodeEnv.timer`.

`RejectedError` is the `Failure` relation. Messages are values: a node makes a new one to change it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from gateway.config import RulesConfig
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.domain.rpc import RpcRequest
from gateway.errors import RejectedError, TransientError
from gateway.ports import Clock, Outcome, SeriesReader, StateReader
from gateway.rules.alarms import Alarms
from gateway.rules.kept import Keeping, Kept
from gateway.rules.outside import Outside
from gateway.rules.timers import Fire, Timer, Timers
from gateway.supervise import Counters

if TYPE_CHECKING:
    from gateway.rules.fields import Fields

PREFIXES: Final = ("org.thingsboard.rule.engine.", "org.winstarcloud.rule.engine.")
OWN_PREFIX: Final = "edge.gateway.rules."
"""Of nodes that ThingsBoard does not have."""
SUCCESS: Final = "success"
FAILURE: Final = "failure"
TRUE: Final = "true"
FALSE: Final = "false"
OTHER: Final = "other"
LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999: no time of data is later."""


@dataclass(slots=True)
class Routed:
    """These messages by these relations (lower case). `error` is the text of a `failure`.

    `also` goes first: other messages by other relations.
    """

    labels: Sequence[str]
    messages: Sequence[Message]
    error: str = ""
    also: Sequence[Routed] = ()


@dataclass(frozen=True, slots=True)
class Enter:
    """Go on at the first node of another chain: of the originator's profile, else of `chain_id`, else so named."""

    chain_id: UUID | None
    name: str
    by_profile: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """Go back to the node that entered this chain and leave it by this relation."""

    label: str


@dataclass(slots=True)
class Call:
    """Call a device after the commit; what it answers goes on behind the node."""

    request: RpcRequest


@dataclass(frozen=True, slots=True)
class Later:
    """The answer needs awaiting. `ask` gets an outcome of its own, ends in bounded time, and may raise as a node may
    (besides a `TransientError`, which is a failure too). The receipt of the message waits for it.
    """

    ask: Callable[[Outcome], Awaitable[Answer]]


class Unreachable(TransientError):
    """Somebody outside did not answer: asked again by `rules.retry`, then the failure carries this message."""

    def __init__(self, text: str, message: Message) -> None:
        super().__init__(text)
        self.message = message


Answer = str | Message | Routed | Enter | Leave | Call | Later | None
Run = Callable[[Message, Outcome], Answer]


class NodeConfig(BaseModel):
    """Tolerant: unknown keys are ignored, null is absent, `"false"` is a boolean.

    Defaults are those of the node's page, booleans aside: an absent one is false, as in ThingsBoard.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True, coerce_numbers_to_str=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, tree: Any) -> Any:
        return {key: value for key, value in tree.items() if value is not None} if isinstance(tree, dict) else tree


class NoConfig(NodeConfig):
    """A node without settings."""


class NodeProblem(str):
    """A node that does not do all that its chain expects: a sentence for a person (and for JSON), with its parts.

    `node` and `type` are empty when the chain itself is meant.
    """

    chain: str
    node: str
    type: str
    text: str

    def __new__(cls, chain: str, node: str, type_: str, text: str) -> NodeProblem:
        """The sentence names chain and node."""
        problem = super().__new__(cls, f"{chain} / {node}: {text}" if node else f"{chain}: {text}")
        problem.chain, problem.node, problem.type, problem.text = chain, node, type_, text
        return problem


class Shared:
    """What all nodes of one engine share."""

    def __init__(self, state: StateReader, config: RulesConfig, clock: Clock, counters: Counters) -> None:
        self.state, self.config, self.clock, self.counters = state, config, clock, counters
        self.keeping, self.timers = Keeping(), Timers()
        self.outside = Outside()  # what nodes hold open
        self.alarms = Alarms(state, clock, counters)
        self.series: SeriesReader | None = None  # for nodes that answer `Later`; None where chains are only checked
        self.tbel_context: Any = None  # of the script engine
        self.fields: Fields | None = None  # calculated fields; None while there are none
        self.script_s = 0.0  # what the scripts of the message under way have taken, by the clock on the wall
        self.script_cpu_s = 0.0  # CPU time of this thread when they had taken the limit of one script
        self.written: Recent = Recent(10_000)  # attributes on their way to the disk
        self.relations: Recent = Recent(10_000)  # by entity: those on their way to the disk
        self.made: Recent = Recent(1_000)  # entities that nodes have made
        self._sent_ms: Recent = Recent(10_000)  # time of the newest attribute event of an entity and scope

    def attributes_ms(self, entity: EntityId, scope: str, ts_ms: int) -> int:
        """The time of an attribute event: `ts_ms`, but later than all that this entity had in this scope before.

        The cloud drops an attribute that is not newer than the one it has, and says success: two messages in one
        millisecond, a clock that was set back, or old data would be lost without a word.
        """
        if not 0 <= ts_ms <= LAST_MS:
            return ts_ms  # nonsense of one message must not become the time of those that follow
        place = (entity, scope)
        last_ms = self._sent_ms.get(place)
        if last_ms is None:
            last_ms = self.state.newest_attribute_ms(entity, scope)
        ts_ms = max(ts_ms, last_ms + 1)
        self._sent_ms.put(place, ts_ms)
        return ts_ms


@dataclass(slots=True)
class NodeEnv:
    """The surroundings of one node. `note` lists and logs a problem without stopping the node."""

    shared: Shared
    chain_id: UUID
    chain_name: str
    name: str
    note: Callable[[str], None]
    owner: object = None
    kept: Kept = field(default_factory=lambda: Kept("", {}))
    """What this node holds, also from before a restart, and from before its chain was sent again."""

    def timer(self, fire: Fire) -> Timer:
        """Not armed yet. `fire` is called outside of any message, when it is due on `clock.monotonic_s`."""
        return Timer(self.shared.timers, self.owner, fire)

    @property
    def state(self) -> StateReader:
        """The present state."""
        return self.shared.state

    @property
    def clock(self) -> Clock:
        """Time."""
        return self.shared.clock


class Recent:
    """A small dictionary that forgets its oldest entries."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any) -> Any:
        """None when it is not (or no longer) here."""
        return self._held.get(key)

    def put(self, key: Any, value: Any) -> None:
        """The newest entry."""
        self._held[key] = value
        self._held.move_to_end(key)
        if len(self._held) > self._limit:
            self._held.popitem(last=False)


@dataclass(frozen=True, slots=True)
class NodeKind:
    """One class of nodes. `make` raises `RejectedError` for a configuration with which it cannot work."""

    java_class: str
    title: str
    config: type[NodeConfig]
    make: Callable[[Any, NodeEnv], Run]
    is_supported: bool = field(default=True)


REGISTRY: Final[dict[str, NodeKind]] = {}
"""By class without its package prefix. Filled by `gateway.rules.nodes`."""

ConfigT = TypeVar("ConfigT", bound=NodeConfig)
Make = Callable[[ConfigT, NodeEnv], Run]


def node(short_type: str, title: str, config: type[ConfigT]) -> Callable[[Make[ConfigT]], Make[ConfigT]]:
    """Register a node class: its Java name without the prefix, and its name in ThingsBoard's editor."""

    def register(make: Make[ConfigT]) -> Make[ConfigT]:
        REGISTRY[short_type] = NodeKind(short_type, title, config, make)
        return make

    return register


def short_type(java_class: str) -> str:
    """The class without the prefix that stock nodes share; our own keep theirs, any other class is empty."""
    if java_class.startswith(OWN_PREFIX):
        return java_class
    for prefix in PREFIXES:
        if java_class.startswith(prefix):
            return java_class.removeprefix(prefix)
    return ""


def read_config(model: type[NodeConfig], tree: Mapping[str, Json]) -> NodeConfig:
    """Raises `RejectedError` with the key and what would be right."""
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise RejectedError(f"its configuration is wrong: {place}: {first['msg']}") from None


def changed(
    msg: Message, *, data: Json = ..., metadata: dict[str, str] | None = None, type_: str | None = None
) -> Message:
    """The same message (same id) with another body, metadata or type."""
    return Message(
        msg.type if type_ is None else type_,
        msg.originator,
        msg.data if data is ... else data,
        msg.metadata if metadata is None else metadata,
        msg.ts_ms,
        msg.id,
        msg.fields,
    )


def copied(msg: Message) -> Message:
    """A copy with a new id."""
    copy = Message(msg.type, msg.originator, msg.data, msg.metadata, msg.ts_ms)
    if msg.fields:
        copy.fields = msg.fields
    return copy


def as_text(value: Json) -> str:
    """A value as it stands in metadata: text bare, everything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
