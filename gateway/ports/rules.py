"""Rules: what they are given, and what they answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from gateway.domain.changes import Change
from gateway.domain.entity import Device, DeviceProfile, EdgeIdentity, EntityId, Json
from gateway.domain.message import Message
from gateway.domain.rpc import RpcRequest, RpcResponse
from gateway.domain.telemetry import Attribute, Summary, Value


class Outcome:
    """What a rule chain made of one message. Nothing has happened yet.

    `errors` has a text when the message failed without a `Failure` connection to take it (it is then logged
    and counted; a telemetry message is acknowledged all the same, as the cloud's SKIP_ALL_FAILURES does).

    One is made for each message, and most have changes alone: the other lists are made when somebody looks at them.
    """

    __slots__ = ("calls", "changes", "emitted", "errors", "has_more", "notices", "replies", "waits")

    changes: list[Change]
    calls: list[RuleCall]
    replies: list[RuleReply]
    notices: list[AttributeNotice | StateNotice]
    errors: list[str]
    emitted: list[Message]
    waits: list[Callable[[], Awaitable[Outcome]]]
    """Nodes that ask somebody (the store, another server) before they answer. What each gives belongs to the same
    unit of work: the receipt waits for it, and so do later messages of the originator. None of them raises."""
    has_more: bool
    """False: there is nothing but changes."""

    def __init__(
        self,
        changes: list[Change] | None = None,
        notices: list[AttributeNotice | StateNotice] | None = None,
        waits: list[Callable[[], Awaitable[Outcome]]] | None = None,
    ) -> None:
        self.changes = [] if changes is None else changes
        self.has_more = False
        if notices is not None:
            self.has_more, self.notices = True, notices
        if waits is not None:
            self.has_more, self.waits = True, waits

    if not TYPE_CHECKING:  # else every wrong name would be one of a list

        def __getattr__(self, name: str) -> list[Any]:
            if name not in _LISTS:
                raise AttributeError(f"an outcome has no {name!r}", name=name, obj=self)
            made: list[Any] = []
            setattr(self, name, made)
            self.has_more = True
            return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Outcome):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _LISTS)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Outcome({', '.join(f'{name}={held}' for name in _LISTS if (held := getattr(self, name)))})"


_LISTS: Final = ("changes", "calls", "replies", "notices", "errors", "emitted", "waits")
"""Of an `Outcome`."""


@dataclass(slots=True)
class RuleCall:
    """`rpc call request`: call the device after the commit, then go on behind the node with the reply."""

    request: RpcRequest
    resume: Callable[[RpcResponse], Outcome]


@dataclass(slots=True)
class RuleReply:
    """`rpc call reply`: answer a call that the device made."""

    device_id: UUID
    session_id: str
    request_id: int
    response: str


@dataclass(slots=True)
class AttributeNotice:
    """Shared attributes changed by a node: tell the device after the commit."""

    entity: EntityId
    values: Mapping[str, Value] | None
    deleted: Sequence[str] = ()


@dataclass(slots=True)
class StateNotice:
    """A chain reports that a device connected, was active, fell silent …: `event` is the type of the message about it.
    Known to connectivity after the commit; `ts_ms` is when that was.
    """

    device_id: UUID
    event: str
    ts_ms: int


def attributes_mark(entity: EntityId, scope: str) -> str:
    """Name of the setting with the time of the newest attribute event, where that is ahead of the clock."""
    return f"attributes_ms:{entity.type}:{entity.id}:{scope}"


class StateReader(Protocol):
    """What rule nodes and the codec may ask of the present state; answers from memory, never blocks."""

    def device(self, device_id: UUID) -> Device | None:
        """By id."""
        ...

    def device_named(self, name: str) -> Device | None:
        """By the name in the configuration, else by the cloud's."""
        ...

    def profile(self, profile_id: UUID) -> DeviceProfile | None:
        """By id."""
        ...

    def profile_named(self, name: str) -> DeviceProfile | None:
        """By name."""
        ...

    def devices(self) -> Iterator[Device]:
        """All."""
        ...

    def profiles(self) -> Iterator[DeviceProfile]:
        """All."""
        ...

    def attribute(self, entity: EntityId, scope: str, key: str) -> Attribute | None:
        """Latest durable value."""
        ...

    def attributes_bytes(self) -> int:
        """What the attributes of all entities weigh in memory, about; those of devices up to `MAX_ATTRIBUTES_BYTES`."""
        ...

    def newest_attribute_ms(self, entity: EntityId, scope: str) -> int:
        """What an attribute event of this scope has to be later than: the newest durable attribute (each is looked
        at), the `attributes_mark`, and all that was sent before this start.
        """
        ...

    def identity(self) -> EdgeIdentity | None:
        """Who the cloud says we are; None before the first connect."""
        ...

    def entity_json(self, type_: str, key: str) -> Json | None:
        """An opaque entity kept by `SaveEntity`."""
        ...

    def entities(self, type_: str) -> Mapping[str, Json]:
        """All opaque entities of a type that is kept in memory, by key, oldest first."""
        ...

    def entity_keys(self, type_: str) -> Collection[str]:
        """Keys of all opaque entities of a type, those that are only in the store included."""
        ...

    def open_alarm(self, originator: EntityId, alarm_type: str) -> tuple[str, Json] | None:
        """Key and JSON of the alarm of this originator and type that is not cleared."""
        ...

    def belongings(self, entity: EntityId) -> Sequence[tuple[str, str]]:
        """Type and key of the relations, alarms and calculated fields that go when this entity goes."""
        ...

    def documents_bytes(self) -> int:
        """What the kept documents (`DOCUMENT_TYPES`) weigh, about."""
        ...

    def setting(self, name: str) -> Json | None:
        """A small named value of the gateway itself (`SaveSetting`)."""
        ...

    def settings(self, prefix: str) -> Mapping[str, Json]:
        """Those whose name begins so; walks through all of them: for a person."""
        ...


class SeriesReader(Protocol):
    """The telemetry that is kept here, for nodes that ask for it (`Outcome.waits`). A `Store` is one."""

    async def latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        """Newest time and value of every key. TransientError: the store cannot be read now."""
        ...

    async def history(
        self, entity: EntityId, key: str, from_ms: int, to_ms: int, limit: int, *, newest_first: bool = False
    ) -> Sequence[tuple[int, Value]]:
        """`from_ms` ≤ time < `to_ms`, oldest first unless `newest_first`, at most `limit`."""
        ...

    async def summary(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> Summary:
        """Of `from_ms` ≤ time < `to_ms`, in one pass: nothing of it is held in memory."""
        ...


class AlarmBook(Protocol):
    """Alarms as they will be when everything under way is durable. Implemented by the rules.

    Who writes an alarm asks here what it is now, and tells of the changes before anything else runs.
    """

    def alarm(self, key: str) -> Json | None:
        """By its id as text; None when there is none."""
        ...

    def open_alarm(self, originator: EntityId, alarm_type: str) -> tuple[str, Json] | None:
        """Id and JSON of the alarm of this originator and type that is not cleared."""
        ...

    def note(self, changes: Iterable[Change]) -> None:
        """These are on their way to the disk, those of alarms among them."""
        ...

    def leaving(self, originator: EntityId) -> Sequence[str]:
        """It is about to be deleted: keys of its alarms that are on their way to the disk and go with it. It gets no
        more until it is there again.
        """
        ...


class RuleProcessor(Protocol):
    """The rule engine: synchronous, no I/O."""

    def process(self, message: Message, chain_id: UUID | None = None) -> Outcome:
        """Walk one message through the given chain, or the root chain; never raises."""
        ...


class RuleTimers(Protocol):
    """What nodes do by themselves: windows that end, delays, generators. Implemented by the engine."""

    on_earlier: Callable[[], None]
    """Called when `due_s` has come nearer."""

    @property
    def due_s(self) -> float:
        """When the next one is due, on the monotonic clock; infinite when there is none."""
        ...

    def fire(self) -> Outcome | None:
        """The next one that is due now: what it caused, like that of a message; None: nothing is due."""
        ...


class RuleView(Protocol):
    """What a person and the monitoring may ask of the rules. Methods raise `RejectedError` with a text for a person."""

    def overview(self) -> dict[str, Any]:
        """Chains with their nodes, counts and times; problems."""
        ...

    def document(self, chain: str) -> dict[str, Any]:
        """One chain, by id or name, in ThingsBoard's export form; credentials hidden."""
        ...

    def debug_events(self, chain: str | None, node: str | None, after: int, limit: int) -> list[Json]:
        """The newest `limit` debug events numbered above `after`, oldest first."""
        ...

    def debug(self, chain: str, node: str, seconds: float) -> float:
        """Record all events of this node for so long; the seconds granted."""
        ...

    def metrics(self) -> Iterable[str]:
        """Lines in the format of Prometheus."""
        ...


class RuleChains(Protocol):
    """The chains of the engine, as the downlink changes them (after they are durable)."""

    def put_chain(self, chain_id: UUID, chain: Json) -> None:
        """RuleChain JSON; `root` true makes it the root chain."""
        ...

    def put_metadata(self, chain_id: UUID, metadata: Json) -> None:
        """RuleChainMetaData JSON; empty `nodes` is ignored. A bad node answers Failure, the chain loads."""
        ...

    def remove_chain(self, chain_id: UUID) -> None:
        """Unknown id is no error."""
        ...
