"""Random appends, moves, parkings, saves, deletions, purges and restarts agree with some dicts and integers."""

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import SqliteStore
from gateway.domain.changes import (
    AppendEvent,
    DeleteAttributes,
    DeleteDevice,
    DropParked,
    MoveCursor,
    ParkEvent,
    ParkPending,
    SaveAttributes,
    SaveSetting,
    SaveTelemetry,
)
from gateway.domain.cloud_event import CloudEvent, Lane, ParkedChoice, StoredEvent
from gateway.domain.entity import EntityId
from gateway.errors import RejectedError
from gateway.store import open_store
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock

ENTITIES = [EntityId("DEVICE", UUID(int=n)) for n in (1, 2)]
keys = st.sampled_from(["a", "b", "\0", "ü"])
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),  # JSON has neither
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=2),
)
entities = st.sampled_from(ENTITIES)
lanes = st.sampled_from(list(Lane))
numbers = st.integers(1, 12)


@dataclass(frozen=True)
class Park:
    """The sender parks an event, if it is there."""

    lane: Lane
    seq_id: int
    reason: str


@dataclass(frozen=True)
class Decide:
    """A person sends a parked event again, or discards it, if it is there."""

    lane: Lane
    seq_id: int
    is_again: bool


Wish = Park | Decide
changes = st.one_of(
    st.builds(
        lambda lane, body: AppendEvent(
            CloudEvent(type="DEVICE", action="ADDED", entity_id=None, created_ms=1, body=body, lane=lane)
        ),
        lanes,
        st.one_of(st.none(), st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass"))),
    ),
    st.builds(MoveCursor, lanes, st.integers(0, 30)),
    st.builds(lambda lane, up_to, reason: ParkPending(lane, up_to, reason, 1), lanes, numbers, keys),
    st.builds(lambda lane, n, reason: Park(lane, n, reason), lanes, numbers, keys),
    st.builds(lambda lane, n, again: Decide(lane, n, again), lanes, numbers, st.booleans()),
    st.builds(lambda e, ts, v: SaveTelemetry(e, ts, v), entities, st.integers(0, 5), st.dictionaries(keys, values)),
    st.builds(lambda e, v: SaveAttributes(e, "CLIENT_SCOPE", 1, v), entities, st.dictionaries(keys, values)),
    st.builds(lambda e, k: DeleteAttributes(e, "CLIENT_SCOPE", k), entities, st.lists(keys, max_size=2)),
    st.builds(lambda e: DeleteDevice(e.id), entities),
    st.builds(SaveSetting, keys, st.one_of(st.none(), values)),
)
units = st.lists(changes, max_size=4)
steps = st.one_of(
    st.tuples(st.just("commit"), st.lists(units, max_size=4)),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("purge"), st.integers(0, 3)),
)


class Model:
    def __init__(self) -> None:
        self.events: dict[Lane, dict[int, CloudEvent]] = {lane: {} for lane in Lane}
        self.last = dict.fromkeys(Lane, 0)
        self.parked: dict[tuple[Lane, int], tuple[CloudEvent, str]] = {}
        self.accepted: set[UUID] = set()
        self.acked: set[UUID] = set()
        self.discarded: set[UUID] = set()
        self.purged = dict.fromkeys(Lane, 0)
        self.cursor = dict.fromkeys(Lane, 0)
        self.attributes: dict[tuple[EntityId, str], Any] = {}
        self.latest: dict[tuple[EntityId, str], tuple[int, Any]] = {}
        self.history: dict[tuple[EntityId, str], dict[int, Any]] = {}
        self.settings: dict[str, Any] = {}

    def apply(self, change: Any) -> None:
        match change:
            case AppendEvent(event):
                self.last[event.lane] += 1
                self.events[event.lane][self.last[event.lane]] = event
                self.accepted.add(event.id)
            case MoveCursor(lane, seq_id):
                reached = max(self.cursor[lane], min(seq_id, self.last[lane]))
                for number in range(self.cursor[lane] + 1, reached + 1):
                    if (lane, number) not in self.parked:
                        self.acked.add(self.events[lane][number].id)
                self.cursor[lane] = reached
            case ParkPending(lane, up_to, reason, _):
                for number in range(self.cursor[lane] + 1, min(up_to, self.last[lane]) + 1):
                    event = self.events[lane].pop(number)
                    self.parked.setdefault((lane, number), (event, reason))
                    self.cursor[lane] = number
            case ParkEvent(event, reason, _, _):
                self.parked[event.lane, event.seq_id] = (self.events[event.lane][event.seq_id], reason)
            case DropParked(lane, seq_id):
                self.parked.pop((lane, seq_id), None)
                if seq_id <= self.cursor[lane]:
                    self.events[lane].pop(seq_id, None)
            case SaveTelemetry(entity, ts_ms, saved):
                for key, value in saved.items():
                    self.history.setdefault((entity, key), {})[ts_ms] = value
                    if self.latest.get((entity, key), (0, None))[0] <= ts_ms:
                        self.latest[entity, key] = (ts_ms, value)
            case SaveAttributes(entity, _, _, saved):
                self.attributes.update({(entity, key): value for key, value in saved.items()})
            case DeleteAttributes(entity, _, gone):
                for key in gone:
                    self.attributes.pop((entity, key), None)
            case DeleteDevice(device_id):
                for kept in (self.attributes, self.latest, self.history):
                    for place in [place for place in kept if place[0].id == device_id]:
                        del kept[place]  # type: ignore[attr-defined]
            case SaveSetting(name, None):
                self.settings.pop(name, None)
            case SaveSetting(name, json):
                self.settings[name] = json

    def unit(self, wish: Any) -> list[Any]:
        """What the sender, or the desk of a person, would submit now."""
        if isinstance(wish, Park):
            event = self.events[wish.lane].get(wish.seq_id)
            if event is None or wish.seq_id <= self.cursor[wish.lane]:
                return []
            return [ParkEvent(stored(wish.lane, wish.seq_id, event), wish.reason, 1, 1)]
        if isinstance(wish, Decide):
            held = self.parked.get((wish.lane, wish.seq_id))
            if held is None or wish.seq_id > self.cursor[wish.lane]:
                return []
            if wish.is_again:
                return [AppendEvent(held[0]), DropParked(wish.lane, wish.seq_id)]
            self.discarded.add(held[0].id)
            return [DropParked(wish.lane, wish.seq_id)]
        return [wish]

    def purge(self, keep: int) -> None:
        for lane in Lane:
            self.purged[lane] = max(self.purged[lane], self.cursor[lane] - keep)

    def check(self) -> None:
        """Everything accepted is acknowledged, parked, waiting or discarded by a person, and only one of them."""
        pending = [
            event.id
            for lane in Lane
            for number, event in self.events[lane].items()
            if number > self.cursor[lane] and (lane, number) not in self.parked
        ]
        parked = [event.id for event, _ in self.parked.values()]
        everything = [*pending, *parked, *self.acked, *self.discarded]
        assert len(everything) == len(set(everything)) == len(self.accepted)


def stored(lane: Lane, seq_id: int, event: CloudEvent) -> StoredEvent:
    return StoredEvent(
        seq_id=seq_id,
        lane=lane,
        id=event.id,
        type=event.type,
        action=event.action,
        entity_id=event.entity_id,
        created_ms=event.created_ms,
        body=event.body,
    )


def is_refused(group: list[list[Any]]) -> bool:
    """Bodies that are not UTF-8."""
    for unit in group:
        for change in unit:
            if isinstance(change, AppendEvent) and change.event.body is not None:
                try:
                    change.event.body.decode()
                except UnicodeDecodeError:
                    return True
    return False


def typed(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


async def agree(store: Any, model: Model) -> None:
    for lane in Lane:
        assert store.events.cursor(lane) == model.cursor[lane]
        assert store.events.last(lane) == model.last[lane]
        found = await store.events.peek(lane, 0, 1_000)
        left = {number: event for number, event in model.events[lane].items() if number > model.purged[lane]}
        assert found == [stored(lane, number, event) for number, event in sorted(left.items())]
        held = {place[1]: one for place, one in model.parked.items() if place[0] == lane}
        aside = await store.events.choose_parked(lane, 0, 1_000, ParkedChoice())
        assert [(one.event, one.reason) for one in aside] == [
            (stored(lane, number, event), reason) for number, (event, reason) in sorted(held.items())
        ]
    depth = await store.events.depth()
    assert depth.parked == len(model.parked)
    assert depth.pending == {lane: model.last[lane] - model.cursor[lane] for lane in Lane}
    model.check()
    snapshot = await store.load()
    assert {name: typed(json) for name, json in snapshot.settings.items()} == {
        name: typed(json) for name, json in model.settings.items()
    }
    assert {(entity, key): typed(a.value) for entity, _, key, a in snapshot.attributes} == {
        place: typed(value) for place, value in model.attributes.items()
    }
    for entity in ENTITIES:
        latest = {key: (ts, typed(value)) for key, (ts, value) in (await store.latest(entity)).items()}
        assert latest == {key: (ts, typed(v)) for (e, key), (ts, v) in model.latest.items() if e == entity}
        for key in ("a", "\0"):
            history = [(ts, typed(value)) for ts, value in await store.history(entity, key, 0, 100, 100)]
            assert history == [(ts, typed(v)) for ts, v in sorted(model.history.get((entity, key), {}).items())]


async def run(plan: list[tuple[str, Any]], folder: Path) -> None:
    model = Model()
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(SqliteStore(), folder, FakeClock(), Counters()))
        for step, argument in plan:
            if step == "commit":
                if is_refused(argument):
                    with pytest.raises(RejectedError):
                        await store.commit([[one for one in unit if not isinstance(one, Wish)] for unit in argument])
                    continue
                group: list[list[Any]] = []
                for unit in argument:
                    group.append([])
                    for wish in unit:
                        for change in model.unit(wish):
                            group[-1].append(change)
                            model.apply(change)
                await store.commit(group)
            elif step == "purge":
                await store.events.purge(argument)
                model.purge(argument)
            else:
                await stack.aclose()
                store = await stack.enter_async_context(open_store(SqliteStore(), folder, FakeClock(), Counters()))
        await agree(store, model)


@settings(max_examples=120, deadline=None)
@given(st.lists(steps, max_size=8))
def test_the_store_agrees_with_a_naive_model(plan: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(plan, Path(folder)))


queue_changes = st.one_of(
    st.builds(
        lambda body: AppendEvent(CloudEvent(type="T", action="A", entity_id=None, created_ms=1, body=body)),
        st.sampled_from([b"1", b"2"]),
    ),
    st.builds(MoveCursor, st.just(Lane.MAIN), st.integers(1, 5)),
    st.builds(lambda up_to: ParkPending(Lane.MAIN, up_to, "old", 1), st.integers(1, 5)),
    st.builds(lambda n: Park(Lane.MAIN, n, "refused"), st.integers(1, 5)),
    st.builds(lambda n, again: Decide(Lane.MAIN, n, again), st.integers(1, 5), st.booleans()),
)
queue_steps = st.one_of(
    st.tuples(st.just("commit"), st.lists(st.lists(queue_changes, min_size=1, max_size=2), min_size=1, max_size=6)),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("purge"), st.integers(0, 3)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(queue_steps, min_size=1, max_size=5))
def test_every_accepted_event_is_in_exactly_one_place(plan: list[tuple[str, Any]]) -> None:
    first = [AppendEvent(CloudEvent(type="T", action="A", entity_id=None, created_ms=1, body=b"0")) for _ in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run([("commit", [[one] for one in first]), *plan], Path(folder)))
