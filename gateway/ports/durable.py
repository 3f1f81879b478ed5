"""What lasts: committer, store, queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

from gateway.domain.again import HistoryOrder, ParkedOrder, Slice
from gateway.domain.changes import UnitOfWork
from gateway.domain.cloud_event import EventStatus, Lane, ParkedChoice, ParkedEvent, StoredEvent
from gateway.domain.entity import Device, DeviceProfile, EntityId, Json
from gateway.domain.telemetry import Attribute, Summary, Value
from gateway.ports.clock import Receipt


class Committer(Protocol):
    """Units of work in, receipts out; many units share one transaction and one fsync."""

    def submit(self, unit: UnitOfWork) -> Receipt:
        """Durable in the order of `submit`; only units of calls alone (`SaveRpc`, events of the express lane) may pass
        others, in their own order, and while the store is full what is not device data passes device data.

        An empty unit is done when everything submitted before it is. The receipt is never done yet when it
        is returned: callbacks added at once run before whoever awaits it goes on.
        """
        ...

    @property
    def is_congested(self) -> bool:
        """True while the waiting units exceed the configured bound."""
        ...

    async def wait_uncongested(self) -> None:
        """Returns when `is_congested` is False."""
        ...


FINISHED_RPCS: Final = 10_000
"""So many finished calls are recognised when the cloud repeats them, across restarts too."""


@dataclass(slots=True)
class Snapshot:
    """Everything that is kept in memory while the gateway runs, as the store had it at start."""

    devices: list[Device] = field(default_factory=list)
    profiles: list[DeviceProfile] = field(default_factory=list)
    attributes: list[tuple[EntityId, str, str, Attribute]] = field(default_factory=list)  # entity, scope, key
    entities: list[tuple[str, str, Json]] = field(default_factory=list)
    """type, key, json; without documents (`DOCUMENT_TYPES`)"""
    documents: list[tuple[str, str, int]] = field(default_factory=list)  # type, key, characters
    settings: dict[str, Json] = field(default_factory=dict)
    local: list[tuple[str, str, bytes]] = field(default_factory=list)
    """kind, key, body of what local publish/subscribe keeps (`SaveLocal`), in no order"""
    open_rpcs: list[tuple[UUID, UUID, str, int, Json]] = field(default_factory=list)
    """request uuid, device id, state, expires_ms, request: calls not in state DONE"""
    finished_rpcs: list[UUID] = field(default_factory=list)
    """Calls in state DONE, those that expire last first: at most `FINISHED_RPCS`"""
    newest_ms: int = 0
    """When the newest event that is still kept was made; filled in by who opens the store"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """How much waits. `oldest_ms` is the creation time of the oldest pending event, None when there is none."""

    pending: Mapping[Lane, int]
    deployed: Mapping[Lane, int]
    parked: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUse:
    """What is kept, and from when on `when_full` applies; PostgreSQL: about."""

    used_bytes: int
    limit_bytes: int


class Store(Protocol):
    """State and cloud_event behind one writer. Errors: `TransientError` (disk full, server away: the
    committer tries again), `RejectedError` (this unit can never be written).
    """

    async def load(self) -> Snapshot:
        """Once, at start."""
        ...

    async def commit(self, units: Sequence[UnitOfWork]) -> None:
        """All units in one durable transaction, in order; on an error none of them is written."""
        ...

    async def latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        """Latest telemetry of one entity: key to (ts_ms, value)."""
        ...

    async def history(
        self, entity: EntityId, key: str, from_ms: int, to_ms: int, limit: int, *, newest_first: bool = False
    ) -> Sequence[tuple[int, Value]]:
        """(ts_ms, value), oldest first unless `newest_first`, `from_ms` ≤ ts < `to_ms`."""
        ...

    async def summary(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> Summary:
        """Of the history with `from_ms` ≤ ts < `to_ms`."""
        ...

    @property
    def events(self) -> CloudEvents:
        """The queue's reading side."""
        ...

    async def use(self) -> StoreUse:
        """Cheap: its cost does not grow with what is kept."""
        ...

    async def maintain(self) -> None:
        """Once a minute: old history and old confirmed events go, the file gives space back."""
        ...


class CloudEvents(Protocol):
    """The reading side of the queue; it is written by changes only (`AppendEvent`, `MoveCursor`, `ParkEvent`)."""

    async def peek(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """Events with `seq_id` > `after_seq`, in order, at most `limit`; nothing is removed."""
        ...

    async def peek_added(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """The same of `Action.ADDED` alone; its cost does not grow with what lies between them."""
        ...

    def cursor(self, lane: Lane) -> int:
        """Highest confirmed `seq_id`; 0 at first. From memory."""
        ...

    def last(self, lane: Lane) -> int:
        """Highest stored `seq_id`; 0 at first. From memory: `last - cursor` is the depth."""
        ...

    async def wait_beyond(self, lane: Lane, seq_id: int) -> None:
        """Returns when `last(lane)` > `seq_id`."""
        ...

    async def depth(self) -> QueueDepth:
        """Cheap: its cost does not grow with the backlog."""
        ...

    async def find(
        self, status: EventStatus | None, limit: int, before_seq: int | None = None
    ) -> Sequence[tuple[StoredEvent, EventStatus]]:
        """Newest first, for a person; both lanes."""
        ...

    async def parked(self, limit: int) -> Sequence[ParkedEvent]:
        """Newest first."""
        ...

    async def choose_parked(
        self, lane: Lane, after_seq: int, limit: int, choice: ParkedChoice
    ) -> Sequence[ParkedEvent]:
        """Parked events with `seq_id` > `after_seq` that fit, in order, at most `limit`."""
        ...

    async def purge(self, keep: int) -> int:
        """Delete confirmed events beyond the newest `keep` of each lane, in ranges; how many went."""
        ...


class ParkedOrders(Protocol):
    """What a person has decided about parked events. Implemented by devices."""

    async def decide(self, order: ParkedOrder) -> Slice:
        """One slice of an order, durable when it is counted.

        Raises:
            RejectedError: The order is wrong; TransientError: the store cannot be read now.
        """
        ...


class HistoryOrders(Protocol):
    """Telemetry that is kept here, up to the cloud again. Implemented by devices."""

    async def send(self, order: HistoryOrder) -> Slice:
        """One slice of an order, in the queue when it is counted.

        Raises:
            RejectedError: The order is wrong; TransientError: the store cannot be read now.
        """
        ...
