"""A group of units folded into rows: pure, the same for both databases.

Rows of keyed tables are folded by key, the last change wins, so their order within a group is kept without
writing row by row. Telemetry is folded in the same way; events are appended in the order of the units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.domain.changes import (
    AppendEvent,
    Change,
    DeleteAttributes,
    DeleteDevice,
    DeleteEntity,
    DeleteProfile,
    DropLocal,
    DropParked,
    MoveCursor,
    ParkEvent,
    ParkPending,
    SaveAttributes,
    SaveDevice,
    SaveEntity,
    SaveLocal,
    SaveProfile,
    SaveRpc,
    SaveSetting,
    SaveTelemetry,
    UnitOfWork,
)
from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.store import tables
from gateway.store.full import BULK_ACTIONS
from gateway.store.lanes import Positions
from gateway.store.series import MAX_SERIES, Series
from gateway.store.tables import Table
from gateway.store.values import body_text, device_columns, encode_json, encode_value, profile_columns

SLOT_MS: Final = 60_000
"""History lies in slots of this length: see the schema."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one database likes its columns."""

    uuid: Callable[[UUID], Any]
    blob: Callable[[UUID], Any]  #: the same of an event: no key, and as it is bound fastest
    text: Callable[[str], str]
    value: Callable[[Value], Row]  #: kind first
    attribute: Table
    latest: Table
    history: Table
    is_plain: bool  #: `value` is `encode_value` and `text` changes nothing


class Owner:
    """Tenant and edge that new events carry, as the setting `edge_identity` says."""

    __slots__ = ("edge", "tenant")

    def __init__(self, identity: Any, dialect: Dialect) -> None:
        self.tenant = self.edge = None
        if isinstance(identity, dict):
            try:
                self.tenant = dialect.blob(UUID(identity["tenant_id"]))
                self.edge = dialect.blob(UUID(identity["edge_id"]))
            except (KeyError, ValueError, TypeError, AttributeError):
                self.tenant = self.edge = None


@dataclass(frozen=True, slots=True)
class Parking:
    """Events of one lane, `low` < seq_id ≤ `high`, that are moved to the parked ones."""

    lane: int
    low: int
    high: int
    reason: str
    parked_ms: int


class Plan:
    """What one transaction writes.

    Order: `wiped`, deletions, `replaced`, insertions, `parkings`, `dropped`, `forgotten`.

    Raises (by `add`):
        RejectedError: A unit that can never be written.
    """

    def __init__(self, dialect: Dialect, positions: Positions, series: Series, owner: Owner) -> None:
        self.dialect, self.positions, self.series, self.owner = dialect, positions.copy(), series, owner
        self.events: list[Row] = []
        self.history: list[Row] = []
        self.latest: dict[int, Row] = {}
        self.keyed: dict[Table, dict[Row, Row | None]] = {}
        self.wiped: dict[EntityId, None] = {}
        self.new_series: dict[EntityId, dict[str, int]] = {}
        self.last_series = series.last_id
        self.series_count = series.count
        self.refused_series = 0
        self.moved = False
        self.other_rows = 0  # of events, not in `events`: more or fewer, known when they are written
        self.replaced: dict[Row, None] = {}  # lane and seq_id of parked events that go, or come anew
        self.parkings: list[Parking] = []
        self.dropped: dict[Row, None] = {}  # of events that a parking of this plan parks, and that go at once
        self.forgotten: dict[Row, None] = {}  # of events whose confirmed copy goes with the parked one
        self.is_bulk = False
        self.size_bytes = 0

    def add(self, units: Iterable[UnitOfWork]) -> None:
        """Fold more units in, in order."""
        try:
            for unit in units:
                for change in unit:
                    kind = type(change)
                    if kind is AppendEvent:
                        self._event(change)  # type: ignore[arg-type]
                    elif kind is SaveTelemetry:
                        self._telemetry(change)  # type: ignore[arg-type]
                    else:
                        self._other(change)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RejectedError(f"cannot be stored: {type(error).__name__}: {error}") from error

    def rows(self) -> Iterable[tuple[Table, Sequence[Row]]]:
        """Insertions, by table."""
        if self.last_series > self.series.last_id:
            made = [
                (number, _plain(entity.type), self.dialect.uuid(entity.id), self.dialect.text(key))
                for entity, keys in self.new_series.items()
                for key, number in keys.items()
            ]
            yield tables.SERIES, made
            yield tables.SEQUENCE, [("series", self.last_series)]
        for table, kept in self.keyed.items():
            found = [row for row in kept.values() if row is not None]
            if found:
                yield table, found
        if self.history:
            yield self.dialect.history, self.history
        if self.latest:
            yield self.dialect.latest, list(self.latest.values())
        if self.events:
            yield tables.EVENT, self.events
        if self.moved:
            yield tables.CURSOR, [(lane, seq_id) for lane, seq_id in enumerate(self.positions.cursor)]

    def deletions(self) -> Iterable[tuple[Table, Row]]:
        """Rows of keyed tables that go, by key; parked events are in `replaced`, because they are counted."""
        for table, kept in self.keyed.items():
            for key, row in kept.items():
                if row is None and table is not tables.PARKED:
                    yield table, key

    def follow(self) -> None:
        """The transaction is committed: its series are durable."""
        for entity in self.wiped:
            self.series.forget(entity)
        for entity, keys in self.new_series.items():
            for key, number in keys.items():
                self.series.put(entity, key, number)
        self.series.last_id = max(self.series.last_id, self.last_series)

    def _event(self, change: AppendEvent) -> None:
        event = change.event
        lane = 1 if event.lane else 0
        last = self.positions.last
        seq_id = last[lane] = last[lane] + 1
        blob = self.dialect.blob
        body = body_text(event.body)
        if body is not None:
            self.size_bytes += len(body)
            if not self.dialect.is_plain:
                body = self.dialect.text(body)
        action = event.action
        if action in BULK_ACTIONS:
            self.is_bulk = True
        self.size_bytes += 130
        self.events.append(
            (
                lane,
                seq_id,
                blob(event.id),
                event.created_ms,
                self.owner.tenant,
                self.owner.edge,
                _plain(event.type),
                None if event.entity_id is None else blob(event.entity_id),
                _plain(action),
                body,
            )
        )

    def _telemetry(self, change: SaveTelemetry) -> None:
        self.is_bulk = True
        entity, ts_ms = change.entity, change.ts_ms
        known = self.series.by_entity.get(entity) if entity not in self.wiped else None
        slot = ts_ms // SLOT_MS
        value_columns = self.dialect.value
        latest = self.latest
        for key, value in change.values.items():
            series_id = known.get(key) if known is not None else None
            if series_id is None:
                series_id = self._new_series(entity, key)
                if series_id is None:
                    continue
            columns = value_columns(value)
            if change.keep_history:
                self.history.append((slot, series_id, ts_ms, *columns))
            present = latest.get(series_id)
            if present is None or ts_ms >= present[1]:
                latest[series_id] = (series_id, ts_ms, *columns)
            self.size_bytes += 40 if columns[0] < 3 else 40 + len(columns[-1])

    def _new_series(self, entity: EntityId, key: str) -> int | None:
        keys = self.new_series.setdefault(entity, {})
        number = keys.get(key)
        if number is None:
            if self.series_count >= MAX_SERIES:
                self.refused_series += 1
                return None
            self.series_count += 1
            self.last_series += 1
            number = keys[key] = self.last_series
        return number

    def _put(self, table: Table, row: Row) -> None:
        self.size_bytes += 100
        self.keyed.setdefault(table, {})[row[: len(table.key)]] = row

    def _drop(self, table: Table, *key: Any) -> None:
        self.keyed.setdefault(table, {})[key] = None

    def _other(self, change: Change) -> None:
        uuid, text = self.dialect.uuid, self.dialect.text
        match change:
            case SaveAttributes(entity, scope, ts_ms, values):
                for key, value in values.items():
                    place = (_plain(entity.type), uuid(entity.id), _plain(scope), text(key), ts_ms)
                    self._put(self.dialect.attribute, (*place, *self.dialect.value(value)))
            case DeleteAttributes(entity, scope, keys):
                for key in keys:
                    self._drop(self.dialect.attribute, _plain(entity.type), uuid(entity.id), _plain(scope), text(key))
            case SaveDevice(device):
                self._put(tables.DEVICE, self._row(device_columns(device)))
            case DeleteDevice(device_id):
                self._wipe(EntityId("DEVICE", device_id))
            case SaveProfile(profile):
                self._put(tables.PROFILE, self._row(profile_columns(profile)))
            case DeleteProfile(profile_id):
                self._drop(tables.PROFILE, uuid(profile_id))
            case SaveEntity(kind, key, json, _):
                self._put(tables.ENTITY, (_plain(kind), text(key), encode_json(json)))
            case DeleteEntity(kind, key):
                self._drop(tables.ENTITY, _plain(kind), text(key))
            case SaveRpc(request_uuid, device_id, state, expires_ms, request):
                call = (uuid(request_uuid), uuid(device_id), _plain(state), expires_ms, encode_json(request))
                self._put(tables.RPC, call)
            case SaveSetting(name, json):
                if name == "edge_identity":
                    self.owner = Owner(json, self.dialect)
                if json is None:
                    self._drop(tables.SETTING, text(name))
                else:
                    self._put(tables.SETTING, (text(name), encode_json(json)))
            case SaveLocal(kind, key, raw):
                self._put(tables.LOCAL, (text(kind), text(key), raw))
                self.size_bytes += len(raw)
            case DropLocal(kind, key):
                self._drop(tables.LOCAL, text(kind), text(key))
            case MoveCursor(lane, seq_id):
                # A cursor beyond the last event would confirm events that do not exist yet.
                reached = min(seq_id, self.positions.last[lane])
                if reached > self.positions.cursor[lane]:
                    self.positions.cursor[lane] = reached
                    self.moved = True
            case ParkPending(lane, up_to_seq, reason, parked_ms):
                low, high = self.positions.cursor[lane], min(up_to_seq, self.positions.last[lane])
                if high > low:
                    self.parkings.append(Parking(int(lane), low, high, text(reason), parked_ms))
                    self.positions.cursor[lane] = high
                    if self.positions.first[lane] == low + 1:
                        self.positions.first[lane] = high + 1
                    self.moved = True
            case DropParked(lane, seq_id):
                self._drop_parked(int(lane), seq_id)
            case ParkEvent(event, reason, tries, parked_ms):
                self.replaced[int(event.lane), event.seq_id] = None
                self.dropped.pop((int(event.lane), event.seq_id), None)
                body = body_text(event.body)
                parked = (
                    int(event.lane),
                    event.seq_id,
                    uuid(event.id),
                    event.created_ms,
                    _plain(event.type),
                    None if event.entity_id is None else uuid(event.entity_id),
                    _plain(event.action),
                    None if body is None else text(body),
                    text(reason),
                    tries,
                    parked_ms,
                )
                self._put(tables.PARKED, parked)
            case _:
                raise RejectedError(f"{type(change).__name__} is no change")

    def _drop_parked(self, lane: int, seq_id: int) -> None:
        place = (lane, seq_id)
        self._drop(tables.PARKED, *place)
        self.replaced[place] = None
        if seq_id <= self.positions.cursor[lane]:
            self.forgotten[place] = None
        if any(one.lane == lane and one.low < seq_id <= one.high for one in self.parkings):
            self.dropped[place] = None

    def _row(self, columns: Row) -> Row:
        uuid, text = self.dialect.uuid, self.dialect.text
        return tuple(
            uuid(column) if isinstance(column, UUID) else text(str(column)) if isinstance(column, str) else column
            for column in columns
        )

    def _wipe(self, entity: EntityId) -> None:
        uuid = self.dialect.uuid(entity.id)
        self._drop(tables.DEVICE, uuid)
        self.wiped[entity] = None
        attributes = self.keyed.get(self.dialect.attribute, {})
        for key in [key for key in attributes if key[0] == "DEVICE" and key[1] == uuid]:
            del attributes[key]
        numbers = {*self.series.by_entity.get(entity, {}).values(), *self.new_series.pop(entity, {}).values()}
        if numbers:
            self.history = [row for row in self.history if row[1] not in numbers]
            for number in numbers:
                self.latest.pop(number, None)


def _plain(text: str) -> str:
    """A member of a StrEnum as the text it is: drivers know `str` only."""
    return text if type(text) is str else str(text)


def identity_of(setting: str | None, dialect: Dialect) -> Owner:
    """From the stored setting `edge_identity`."""
    return Owner(orjson.loads(setting) if setting else None, dialect)


def same_text(text: str) -> str:
    """The dialect of a database that holds any text."""
    return text


SQLITE: Final = Dialect(
    uuid=lambda value: value.int.to_bytes(16, "big"),
    # sqlite3 looks for an adapter of everything that is neither number nor text nor bytearray (0.4 µs each).
    blob=lambda value: bytearray(value.int.to_bytes(16, "big")),
    text=same_text,
    value=encode_value,
    attribute=tables.attribute_table(("value",)),
    latest=tables.latest_table(("value",)),
    history=tables.history_table(("value",)),
    is_plain=True,
)
