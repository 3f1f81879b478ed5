"""The port in memory: for tests and for a look around. It forgets everything at exit."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

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
from gateway.domain.cloud_event import Action, EventStatus, Lane, ParkedChoice, ParkedEvent, StoredEvent
from gateway.domain.downlink import DOCUMENT_TYPES
from gateway.domain.entity import Device, DeviceProfile, EntityId, Json
from gateway.domain.rpc import RpcState
from gateway.domain.telemetry import Attribute, Summary, Value
from gateway.ports import FINISHED_RPCS, CloudEvents, QueueDepth, Snapshot, StoreUse
from gateway.store.lanes import Lanes, Positions
from gateway.store.plan import SQLITE, Owner, Plan
from gateway.store.series import Series
from gateway.store.values import decode_value, encode_json, encode_value


class MemoryStore:
    """Port `Store`. Rejects what the durable ones reject: their fold is run over the units first."""

    def __init__(self) -> None:
        self.devices: dict[UUID, Device] = {}
        self.profiles: dict[UUID, DeviceProfile] = {}
        self.attributes: dict[tuple[EntityId, str, str], Attribute] = {}
        self.entities: dict[tuple[str, str], Json] = {}
        self.settings: dict[str, Json] = {}
        self.local: dict[tuple[str, str], bytes] = {}
        self.rpcs: dict[UUID, tuple[UUID, UUID, str, int, Json]] = {}
        self.telemetry: dict[EntityId, dict[str, tuple[int, Value]]] = {}
        self.series: dict[tuple[EntityId, str], dict[int, Value]] = {}
        self.queue = MemoryEvents()

    @property
    def events(self) -> CloudEvents:
        """The queue's reading side."""
        return self.queue

    async def load(self) -> Snapshot:
        """What is kept now."""
        return Snapshot(
            devices=list(self.devices.values()),
            profiles=list(self.profiles.values()),
            attributes=[(*key, attribute) for key, attribute in self.attributes.items()],
            entities=[(*key, json) for key, json in self.entities.items() if key[0] not in DOCUMENT_TYPES],
            documents=[
                (*key, len(encode_json(json))) for key, json in self.entities.items() if key[0] in DOCUMENT_TYPES
            ],
            settings=dict(self.settings),
            local=[(*key, body) for key, body in self.local.items()],
            open_rpcs=[call for call in self.rpcs.values() if call[2] != RpcState.DONE],
            finished_rpcs=[
                call[0]
                for call in sorted(self.rpcs.values(), key=lambda call: call[3], reverse=True)
                if call[2] == RpcState.DONE
            ][:FINISHED_RPCS],
        )

    async def commit(self, units: Sequence[UnitOfWork]) -> None:
        """All or none."""
        Plan(SQLITE, self.queue.lanes.now, Series(), Owner(None, SQLITE)).add(units)
        positions = self.queue.lanes.now.copy()
        for unit in units:
            for change in unit:
                self._apply(change, positions)
        self.queue.lanes.publish(positions)

    async def latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        """Latest telemetry of one entity."""
        return dict(self.telemetry.get(entity, {}))

    async def history(
        self, entity: EntityId, key: str, from_ms: int, to_ms: int, limit: int, *, newest_first: bool = False
    ) -> Sequence[tuple[int, Value]]:
        """See `Store`."""
        found = sorted(self.series.get((entity, key), {}).items(), key=lambda pair: pair[0], reverse=newest_first)
        return [pair for pair in found if from_ms <= pair[0] < to_ms][:limit]

    async def summary(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> Summary:
        """See `Store`."""
        values = [value for ts, value in self.series.get((entity, key), {}).items() if from_ms <= ts < to_ms]
        whole = [value for value in values if type(value) is int]
        real = [value for value in values if type(value) is float and value == value]
        numbers = [*whole, *real]
        return Summary(
            len(values),
            len(numbers),
            sum(whole) + sum(real) if real else sum(whole),
            min(numbers, default=None),
            max(numbers, default=None),
        )

    async def use(self) -> StoreUse:
        """Nothing is counted, and nothing is full."""
        return StoreUse(used_bytes=0, limit_bytes=0)

    async def maintain(self) -> None:
        """Nothing to do: nothing lasts."""

    def _apply(self, change: Change, positions: Positions) -> None:
        match change:
            case AppendEvent():
                self.queue.append(change, positions)
            case SaveTelemetry(entity, ts_ms, values, keep_history):
                latest = self.telemetry.setdefault(entity, {})
                for key, value in values.items():
                    kept = _copy(value)
                    if keep_history:
                        self.series.setdefault((entity, key), {})[ts_ms] = kept
                    if key not in latest or latest[key][0] <= ts_ms:
                        latest[key] = (ts_ms, kept)
            case SaveAttributes(entity, scope, ts_ms, values):
                for key, value in values.items():
                    self.attributes[entity, scope, key] = Attribute(ts_ms, _copy(value))
            case DeleteAttributes(entity, scope, keys):
                for key in keys:
                    self.attributes.pop((entity, scope, key), None)
            case SaveDevice(device):
                self.devices[device.id] = device
            case DeleteDevice(device_id):
                self._forget(EntityId("DEVICE", device_id))
            case SaveProfile(profile):
                self.profiles[profile.id] = profile
            case DeleteProfile(profile_id):
                self.profiles.pop(profile_id, None)
            case SaveEntity(kind, key, json, _):
                self.entities[kind, key] = json
            case DeleteEntity(kind, key):
                self.entities.pop((kind, key), None)
            case SaveRpc(request_uuid, device_id, state, expires_ms, request):
                self.rpcs[request_uuid] = (request_uuid, device_id, state, expires_ms, request)
            case SaveSetting(name, json):
                if json is None:
                    self.settings.pop(name, None)
                else:
                    self.settings[name] = json
            case SaveLocal(kind, key, body):
                self.local[kind, key] = body
            case DropLocal(kind, key):
                self.local.pop((kind, key), None)
            case MoveCursor(lane, seq_id):
                reached = min(seq_id, positions.last[lane])
                positions.cursor[lane] = max(positions.cursor[lane], reached)
            case ParkEvent(event, reason, tries, parked_ms):
                parked = ParkedEvent(event=event, reason=reason, tries=tries, parked_ms=parked_ms)
                self.queue.parked_events[event.lane, event.seq_id] = parked
                positions.parked = len(self.queue.parked_events)
            case ParkPending():
                self.queue.park_pending(change, positions)
            case DropParked(lane, seq_id):
                self.queue.drop_parked(lane, seq_id, positions)

    def _forget(self, entity: EntityId) -> None:
        self.devices.pop(entity.id, None)
        self.telemetry.pop(entity, None)
        kept: Any
        for kept in (self.attributes, self.series):
            for key in [key for key in kept if key[0] == entity]:
                del kept[key]


class MemoryEvents:
    """Port `CloudEvents` on two lists."""

    def __init__(self) -> None:
        self.lanes = Lanes(Positions())
        self.parked_events: dict[tuple[Lane, int], ParkedEvent] = {}
        self._events: dict[Lane, list[StoredEvent]] = {lane: [] for lane in Lane}

    def append(self, change: AppendEvent, positions: Positions) -> None:
        """To the end of its lane."""
        event = change.event
        positions.last[event.lane] += 1
        self._events[event.lane].append(
            StoredEvent(
                seq_id=positions.last[event.lane],
                lane=event.lane,
                id=event.id,
                type=str(event.type),
                action=str(event.action),
                entity_id=event.entity_id,
                created_ms=event.created_ms,
                body=event.body,
            )
        )

    def park_pending(self, change: ParkPending, positions: Positions) -> None:
        """A range of pending events is moved; what is parked already keeps its reason."""
        lane, low, high = change.lane, positions.cursor[change.lane], min(change.up_to_seq, positions.last[change.lane])
        if high <= low:
            return
        kept = self._events[lane]
        start, end = (bisect.bisect_right(kept, seq_id, key=_seq_id) for seq_id in (low, high))
        for event in kept[start:end]:
            parked = ParkedEvent(event=event, reason=change.reason, tries=0, parked_ms=change.parked_ms)
            self.parked_events.setdefault((lane, event.seq_id), parked)
        del kept[start:end]
        positions.cursor[lane] = high
        if positions.first[lane] == low + 1:
            positions.first[lane] = high + 1
        positions.parked = len(self.parked_events)

    def drop_parked(self, lane: Lane, seq_id: int, positions: Positions) -> None:
        """With its confirmed copy."""
        self.parked_events.pop((lane, seq_id), None)
        if seq_id <= positions.cursor[lane]:
            self._events[lane] = [event for event in self._events[lane] if event.seq_id != seq_id]
        positions.parked = len(self.parked_events)

    async def peek(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """Nothing is removed."""
        start = bisect.bisect_right(self._events[lane], after_seq, key=_seq_id)
        return self._events[lane][start : start + max(0, limit)]

    async def peek_added(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """Nothing is removed."""
        start = bisect.bisect_right(self._events[lane], after_seq, key=_seq_id)
        added = (event for event in islice(self._events[lane], start, None) if event.action == Action.ADDED)
        return list(islice(added, max(0, limit)))

    def cursor(self, lane: Lane) -> int:
        """Highest confirmed."""
        return self.lanes.now.cursor[lane]

    def last(self, lane: Lane) -> int:
        """Highest stored."""
        return self.lanes.now.last[lane]

    async def wait_beyond(self, lane: Lane, seq_id: int) -> None:
        """Woken by commits."""
        await self.lanes.wait_beyond(lane, seq_id)

    async def depth(self) -> QueueDepth:
        """From memory."""
        now = self.lanes.now
        oldest = [events[0] for lane in Lane if (events := await self.peek(lane, now.cursor[lane], 1))]
        return QueueDepth(
            pending={lane: now.last[lane] - now.cursor[lane] for lane in Lane},
            deployed={lane: now.deployed(lane) for lane in Lane},
            parked=now.parked,
            oldest_ms=min((event.created_ms for event in oldest), default=None),
        )

    async def find(
        self, status: EventStatus | None, limit: int, before_seq: int | None = None
    ) -> Sequence[tuple[StoredEvent, EventStatus]]:
        """Newest first, by creation."""
        if status is EventStatus.PARKED:
            pairs = [(parked.event, EventStatus.PARKED) for parked in await self.parked(len(self.parked_events))]
        else:
            pairs = [(event, self._status(event)) for events in self._events.values() for event in events]
            pairs.sort(key=lambda pair: (pair[0].created_ms, pair[0].seq_id), reverse=True)
        return [
            pair
            for pair in pairs
            if (before_seq is None or pair[0].seq_id < before_seq) and (status is None or pair[1] is status)
        ][:limit]

    async def parked(self, limit: int) -> Sequence[ParkedEvent]:
        """Newest first."""
        by_time = sorted(self.parked_events.values(), key=lambda one: (one.parked_ms, one.event.seq_id), reverse=True)
        return by_time[:limit]

    async def choose_parked(
        self, lane: Lane, after_seq: int, limit: int, choice: ParkedChoice
    ) -> Sequence[ParkedEvent]:
        """Oldest number first."""
        found = sorted(self.parked_events.items(), key=lambda pair: pair[0])
        chosen = [one for place, one in found if place[0] == lane and place[1] > after_seq and choice.holds(one)]
        return chosen[:limit]

    async def purge(self, keep: int) -> int:
        """Confirmed events beyond the newest `keep` of each lane."""
        positions = self.lanes.now.copy()
        count = 0
        for lane in Lane:
            up_to = positions.cursor[lane] - keep
            end = bisect.bisect_right(self._events[lane], up_to, key=_seq_id)
            del self._events[lane][:end]
            count += end
            positions.first[lane] = max(positions.first[lane], up_to + 1)
        self.lanes.publish(positions)
        return count

    def _status(self, event: StoredEvent) -> EventStatus:
        if (event.lane, event.seq_id) in self.parked_events:
            return EventStatus.PARKED
        return EventStatus.DEPLOYED if event.seq_id <= self.lanes.now.cursor[event.lane] else EventStatus.PENDING


def _seq_id(event: StoredEvent) -> int:
    return event.seq_id


def _copy(value: Value) -> Value:
    return decode_value(*encode_value(value))
