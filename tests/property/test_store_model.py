"""Random appends, moves, saves, deletions, purges and restarts agree with a list, two integers and a dict."""

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import SqliteStore
from gateway.domain.changes import (
    AppendEvent,
    DeleteAttributes,
    DeleteDevice,
    MoveCursor,
    SaveAttributes,
    SaveSetting,
    SaveTelemetry,
)
from gateway.domain.cloud_event import CloudEvent, Lane
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
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=2),
)
entities = st.sampled_from(ENTITIES)
lanes = st.sampled_from(list(Lane))
changes = st.one_of(
    st.builds(
        lambda lane, body: AppendEvent(
            CloudEvent(type="DEVICE", action="ADDED", entity_id=None, created_ms=1, body=body, lane=lane)
        ),
        lanes,
        st.one_of(st.none(), st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass"))),
    ),
    st.builds(MoveCursor, lanes, st.integers(0, 30)),
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
        self.events: dict[Lane, list[bytes | None]] = {lane: [] for lane in Lane}
        self.purged = dict.fromkeys(Lane, 0)
        self.cursor = dict.fromkeys(Lane, 0)
        self.attributes: dict[tuple[EntityId, str], Any] = {}
        self.latest: dict[tuple[EntityId, str], tuple[int, Any]] = {}
        self.history: dict[tuple[EntityId, str], dict[int, Any]] = {}
        self.settings: dict[str, Any] = {}

    def apply(self, change: Any) -> None:
        match change:
            case AppendEvent(event):
                self.events[event.lane].append(event.body)
            case MoveCursor(lane, seq_id):
                self.cursor[lane] = max(self.cursor[lane], min(seq_id, len(self.events[lane])))
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

    def purge(self, keep: int) -> None:
        for lane in Lane:
            self.purged[lane] = max(self.purged[lane], self.cursor[lane] - keep)


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
        assert store.events.last(lane) == len(model.events[lane])
        found = await store.events.peek(lane, 0, 1_000)
        expected = list(enumerate(model.events[lane], start=1))[model.purged[lane] :]
        assert [(one.seq_id, one.body) for one in found] == expected
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
                try:
                    await store.commit(argument)
                except RejectedError:
                    assert is_refused(argument)
                else:
                    assert not is_refused(argument)
                    for unit in argument:
                        for change in unit:
                            model.apply(change)
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
