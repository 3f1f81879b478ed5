"""Who is connected, who is active: five attributes in the server's scope, and the messages about their changes.

A publish costs nothing here: sessions keep the time of their last packet, and a sweep reads it. What is written:

- a device that connects, disconnects, becomes active or inactive: one unit of work each, within `TICK_S`, all of one
  sweep in one commit;
- `lastActivityTime` alone: once in `WRITE_S` for all devices together, none when nobody said anything. In memory it is
  known every `REPORT_S`; after a kill it is at most `WRITE_S` old.

Silence is measured with the clock that never jumps: setting the time makes nobody inactive. While the gateway was away,
nobody could be heard: the first look at silences comes `CHECK_S` after the start, when devices had time to come back.
Whoever is recorded as connected at a start was disconnected by it.

Source: ThingsBoard 4.3 device state: keys, messages, 600 s, every 60 s, every 3 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from gateway.domain.changes import Change, SaveAttributes
from gateway.domain.entity import Device, Json
from gateway.domain.message import Message, MessageType
from gateway.domain.telemetry import AttributeScope, Value
from gateway.ports import Clock, Committer, Receipt, StateNotice
from gateway.supervise import Counters

if TYPE_CHECKING:
    from gateway.devices.inlet import Session
    from gateway.devices.pipeline import Pipeline
    from gateway.devices.state import State

TICK_S: Final = 1.0
REPORT_S: Final = 3.0
CHECK_S: Final = 60.0
WRITE_S: Final = 60.0
DEFAULT_TIMEOUT_MS: Final = 600_000
"""Of a device without `inactivityTimeout`."""
SLICE: Final = 200
"""Devices that are looked after before others have their turn."""

_SCOPE: Final = AttributeScope.SERVER_SCOPE.value


@dataclass(slots=True)
class _Record:
    """One device, as the attributes will be when all commits are done."""

    is_active: bool | None  # None: never written
    connect_ms: int
    disconnect_ms: int
    activity_ms: int
    alarm_ms: int
    is_connected: bool
    written_ms: int  # the activity that is written
    heard_s: float  # when the activity was, by the clock that never jumps


@dataclass(slots=True)
class _News:
    """What happened to the sessions of one device since the last sweep: the last of each."""

    opened_ms: int = 0
    closed_ms: int = 0
    activity_ms: int = 0


class Connectivity:
    """Looks after all devices. `own`, `guests`, `visits`: the live sessions of the inlet; a visit does not connect."""

    name = "connectivity"

    def __init__(
        self,
        state: State,
        pipeline: Pipeline,
        committer: Committer,
        clock: Clock,
        counters: Counters,
        own: Mapping[UUID, Session],
        guests: Mapping[UUID, Session],
        visits: Mapping[UUID, Session],
    ) -> None:
        self._state, self._pipeline, self._committer = state, pipeline, committer
        self._clock, self._counters = clock, counters
        self._connecting, self._visits = (own, guests), visits
        self._news: dict[UUID, _News] = {}
        self._records: dict[UUID, _Record] = {}

    # ── what the inlet tells ──

    def opened(self, session: Session, *, takes_over: bool = False) -> None:
        """A session of its own, or through a gateway. `takes_over`: from an older one, which was closed just now."""
        news = self._news.setdefault(session.device.id, _News())
        news.opened_ms = session.opened_ms
        if takes_over:
            news.closed_ms = 0

    def withdrawn(self, session: Session) -> None:
        """What `opened` has told is not true yet: nobody was heard."""
        if news := self._news.get(session.device.id):
            news.opened_ms = 0

    def closed(self, session: Session, *, is_visit: bool = False) -> None:
        """A session is over, or its wire is silent; it is not among the live ones any more."""
        news = self._news.setdefault(session.device.id, _News())
        news.activity_ms = max(news.activity_ms, session.last_activity_ms)
        if not is_visit and not any(other is not session for other in self._live(session.device.id)):
            news.closed_ms = self._clock.now_ms()

    def is_active(self, device_id: UUID) -> bool:
        """As the attribute will be when all commits are done."""
        record = self._records.get(device_id)
        return record is not None and record.is_active is True

    def reported(self, notice: StateNotice) -> None:
        """A rule chain says so: for a device that has no session here, or whose session does not tell. What is older
        than what is known changes nothing.
        """
        device = self._state.device(notice.device_id)
        if device is None:
            return
        record, now_ms = self._record(device), self._clock.now_ms()
        at_ms, event = min(notice.ts_ms, now_ms), MessageType(notice.event)
        written: dict[str, Value] = {}
        match event:
            case MessageType.ACTIVITY_EVENT if at_ms > record.activity_ms:
                record.activity_ms = at_ms
                record.heard_s = self._clock.monotonic_s() - (now_ms - at_ms) / 1000
                if record.is_active:
                    return  # written with the others, once a minute
                record.is_active = written["active"] = True
                record.alarm_ms = written["inactivityAlarmTime"] = 0
            case MessageType.CONNECT_EVENT if at_ms > record.connect_ms:
                record.connect_ms = written["lastConnectTime"] = at_ms
            case MessageType.DISCONNECT_EVENT if at_ms > record.disconnect_ms:
                record.disconnect_ms = written["lastDisconnectTime"] = at_ms
            case MessageType.INACTIVITY_EVENT if at_ms > max(record.activity_ms, record.alarm_ms):
                record.is_active = written["active"] = False
                record.alarm_ms = written["inactivityAlarmTime"] = at_ms
            case _:
                return
        self._tell(device, record, written, [self._message(device, record, event, now_ms)], now_ms)

    # ── the rounds ──

    async def serve(self) -> None:
        """Until cancelled."""
        await self._recover()
        started_s = self._clock.monotonic_s()
        report_s, check_s = started_s + REPORT_S, started_s + CHECK_S
        while True:
            await self._clock.sleep(TICK_S)
            await self._committer.wait_uncongested()
            now_s = self._clock.monotonic_s()
            if now_s >= report_s:
                report_s = now_s + REPORT_S
                await self._settle_all(self._spoken())
            elif self._news:
                await self._settle_all(list(self._news))
            if now_s >= check_s:
                check_s = now_s + CHECK_S
                await self._check()
                await self._write()

    def stop(self) -> None:
        """The last sweep, when the sessions are closed: what it submits is written by the committer's last commit."""
        for device_id in list(self._news):
            self._settle(device_id)
        for changes in self._unwritten():
            self._submit(self._pipeline.commit(changes))

    async def _recover(self) -> None:
        for device in list(self._state.devices()):
            if device.id not in self._records and self._record(device).is_connected:
                news = self._news.setdefault(device.id, _News())
                news.closed_ms = news.closed_ms or self._clock.now_ms()
        await self._settle_all(list(self._news))

    async def _settle_all(self, device_ids: Iterable[UUID]) -> None:
        for number, device_id in enumerate(device_ids, 1):
            self._settle(device_id)
            if number % SLICE == 0:
                await self._pause()

    async def _pause(self) -> None:
        await self._clock.sleep(0)
        await self._committer.wait_uncongested()

    def _spoken(self) -> list[UUID]:
        """Who was heard since the last time, or has news."""
        spoken = dict.fromkeys(self._news)
        records = self._records
        for sessions in (*self._connecting, self._visits):
            for device_id, session in sessions.items():
                record = records.get(device_id)
                if session.is_heard and (record is None or session.last_activity_ms != record.activity_ms):
                    spoken[device_id] = None
        return list(spoken)

    def _live(self, device_id: UUID) -> list[Session]:
        """Sessions that count as connected."""
        found = (sessions.get(device_id) for sessions in self._connecting)
        return [session for session in found if session is not None and session.is_heard]

    def _record(self, device: Device) -> _Record:
        record = self._records.get(device.id)
        if record is None:
            kept = self._state.attributes(device.entity_id, _SCOPE)
            numbers = {key: attribute.value for key, attribute in kept.items() if type(attribute.value) is int}
            connect_ms, disconnect_ms = numbers.get("lastConnectTime", 0), numbers.get("lastDisconnectTime", 0)
            activity_ms = numbers.get("lastActivityTime", 0)
            is_active = kept["active"].value if "active" in kept else None
            silent_s = max(0.0, (self._clock.now_ms() - activity_ms) / 1000)
            record = self._records[device.id] = _Record(
                is_active=is_active if isinstance(is_active, bool) else None,
                connect_ms=connect_ms,
                disconnect_ms=disconnect_ms,
                activity_ms=activity_ms,
                alarm_ms=numbers.get("inactivityAlarmTime", 0),
                is_connected=connect_ms > disconnect_ms,
                written_ms=activity_ms,
                heard_s=self._clock.monotonic_s() - silent_s,
            )
        return record

    def _settle(self, device_id: UUID) -> None:
        """Bring one device's record up to what its sessions say, and tell the rules."""
        news = self._news.pop(device_id, None) or _News()
        device = self._state.device(device_id)
        if device is None:
            self._records.pop(device_id, None)
            return
        record = self._record(device)
        live = self._live(device_id)
        written: dict[str, Value] = {}
        messages: list[Message] = []
        now_ms = self._clock.now_ms()

        def say(type_: MessageType) -> None:
            messages.append(self._message(device, record, type_, now_ms))

        if record.is_connected and (news.closed_ms or not live):
            written["lastDisconnectTime"] = record.disconnect_ms = max(news.closed_ms or now_ms, record.connect_ms)
            record.is_connected = False
            say(MessageType.DISCONNECT_EVENT)
            is_new = bool(live)
        else:
            is_new = not record.is_connected and bool(live or news.opened_ms)
        if is_new:
            since_ms = news.opened_ms or max(session.last_activity_ms for session in live)
            written["lastConnectTime"] = record.connect_ms = max(since_ms, record.disconnect_ms + 1)
            record.is_connected = True
            say(MessageType.CONNECT_EVENT)
        activity_ms = self._newest_activity(device_id, live, news)
        if activity_ms and activity_ms != record.activity_ms:
            record.activity_ms, record.heard_s = activity_ms, self._clock.monotonic_s()
            if not record.is_active:
                record.is_active = written["active"] = True
                record.alarm_ms = written["inactivityAlarmTime"] = 0
                say(MessageType.ACTIVITY_EVENT)
        if is_new and not live:  # came and went
            written["lastDisconnectTime"] = record.disconnect_ms = max(news.closed_ms or now_ms, record.connect_ms)
            record.is_connected = False
            say(MessageType.DISCONNECT_EVENT)
        if messages:
            self._tell(device, record, written, messages, now_ms)

    def _newest_activity(self, device_id: UUID, live: list[Session], news: _News) -> int:
        visit = self._visits.get(device_id)
        here = [session.last_activity_ms for session in live]
        if visit is not None:
            here.append(visit.last_activity_ms)
        return max(here) if here else news.activity_ms

    async def _check(self) -> None:
        """Who was silent for too long; and nobody is without `active`."""
        fresh: list[Device] = []
        for number, device in enumerate(list(self._state.devices()), 1):
            if number % SLICE == 0:
                await self._pause()
            if self._state.device(device.id) is not device:
                continue
            record = self._record(device)
            if record.is_active:
                self._check_one(device, record)
            elif record.is_active is None:
                record.is_active = False
                fresh.append(device)
        for start in range(0, len(fresh), SLICE):
            now_ms = self._clock.now_ms()
            changes = [
                SaveAttributes(device.entity_id, _SCOPE, now_ms, {"active": False})
                for device in fresh[start : start + SLICE]
                if self._state.device(device.id) is not None and not self.is_active(device.id)
            ]
            self._submit(self._pipeline.commit(changes))
            await self._pause()
        gone = [device_id for device_id in self._records if self._state.device(device_id) is None]
        for device_id in gone:
            del self._records[device_id]

    def _check_one(self, device: Device, record: _Record) -> None:
        timeout_ms, now_ms = self._timeout_ms(device), self._clock.now_ms()
        silent_ms = (self._clock.monotonic_s() - record.heard_s) * 1000
        if silent_ms < timeout_ms or 0 <= now_ms - device.created_ms < timeout_ms:
            return
        record.is_active = False
        record.alarm_ms = now_ms
        written: dict[str, Value] = {"active": False, "inactivityAlarmTime": now_ms}
        message = self._message(device, record, MessageType.INACTIVITY_EVENT, now_ms)
        self._counters.add("devices.inactive")
        self._tell(device, record, written, [message], now_ms)

    def _timeout_ms(self, device: Device) -> int:
        kept = self._state.attribute(device.entity_id, _SCOPE, "inactivityTimeout")
        value = kept.value if kept is not None else None
        return int(value) if type(value) in (int, float) and value > 0 else DEFAULT_TIMEOUT_MS  # type: ignore[operator, arg-type]

    def _message(self, device: Device, record: _Record, type_: MessageType, now_ms: int) -> Message:
        data: dict[str, Json] = {
            "lastConnectTime": record.connect_ms,
            "lastActivityTime": record.activity_ms,
            "lastDisconnectTime": record.disconnect_ms,
            "lastInactivityAlarmTime": record.alarm_ms,
            "inactivityTimeout": self._timeout_ms(device),
        }
        if type_ != MessageType.CONNECT_EVENT:
            data = {"active": bool(record.is_active), **data}
        metadata = {
            "deviceName": device.name,
            "deviceType": device.type,
            "deviceLabel": device.label or "",
            "scope": _SCOPE,
        }
        return Message(type=type_.value, originator=device.entity_id, data=data, metadata=metadata, ts_ms=now_ms)

    def _tell(
        self, device: Device, record: _Record, written: dict[str, Value], messages: list[Message], now_ms: int
    ) -> None:
        if record.activity_ms != record.written_ms:
            written["lastActivityTime"] = record.written_ms = record.activity_ms
        self._submit(self._pipeline.run(messages, first=[SaveAttributes(device.entity_id, _SCOPE, now_ms, written)]))

    async def _write(self) -> None:
        for changes in self._unwritten():
            self._submit(self._pipeline.commit(changes))
            await self._pause()

    def _unwritten(self) -> Iterator[list[Change]]:
        """Activity that is known in memory only, in slices."""
        changes: list[Change] = []
        now_ms = self._clock.now_ms()
        for device_id, record in list(self._records.items()):
            device = self._state.device(device_id) if record.activity_ms != record.written_ms else None
            if device is None:
                continue
            record.written_ms = record.activity_ms
            changes.append(SaveAttributes(device.entity_id, _SCOPE, now_ms, {"lastActivityTime": record.activity_ms}))
            if len(changes) == SLICE:
                yield changes
                changes = []
        if changes:
            yield changes

    def _submit(self, receipt: Receipt) -> None:
        receipt.add_done_callback(self._submitted)

    def _submitted(self, done: Receipt) -> None:
        if not done.cancelled() and done.exception() is not None:
            self._counters.add("devices.states_not_written")
