"""Alarms of the cloud: what is written of them here, and what rules hear. Only decides.

By id, as the vendor's edge does it, and one thing more: an alarm that was made here may have met one in the cloud that
was not cleared, and lives there under that one's id. What is done to it means ours.
Source: reference edge-protocol §4.7 and trap 15, rule-engine §7.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from gateway.domain.alarm import with_status
from gateway.domain.changes import Change, DeleteEntity, SaveEntity
from gateway.domain.downlink import EntityUpdated, UpdateKind
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.ports import AlarmBook, StateReader

_KIND: Final = "ALARM"


class DurableAlarms:
    """An `AlarmBook` for a house whose rules write no alarms: what is durable is all there is."""

    def __init__(self, state: StateReader) -> None:
        self._state = state

    def alarm(self, key: str) -> Json | None:
        """See `AlarmBook`."""
        return self._state.entity_json(_KIND, key)

    def open_alarm(self, originator: EntityId, alarm_type: str) -> tuple[str, Json] | None:
        """See `AlarmBook`."""
        return self._state.open_alarm(originator, alarm_type)

    def note(self, changes: Iterable[Change]) -> None:
        """See `AlarmBook`."""

    def leaving(self, originator: EntityId) -> Sequence[str]:
        """See `AlarmBook`."""
        return ()


@dataclass(slots=True)
class Applied:
    """What to write; empty: nothing has changed. `message`: the originator's chain hears of it in the same unit."""

    changes: list[Change] = field(default_factory=list)
    message: Message | None = None


def apply_alarm(
    update: EntityUpdated,
    id_: UUID,
    json: Mapping[str, Json],
    state: StateReader,
    book: AlarmBook,
    *,
    most: int,
    is_known: Callable[[EntityId], bool],
    now_ms: int,
) -> Applied:
    """`json` is empty where a deletion came without it; `most`: so many alarms are kept."""
    if update.kind is UpdateKind.CREATED:
        return Applied(_created(id_, json, state, book, most, is_known))
    key = str(id_)
    known = book.alarm(key)
    if known is None:
        key, known = _merged(update.kind, json, book) or (key, None)
    if known is None:
        return Applied()
    match update.kind:
        case UpdateKind.DELETED:
            return Applied([DeleteEntity(_KIND, key)], _message("ALARM_DELETE", known, now_ms))
        case UpdateKind.UPDATED:
            return Applied([SaveEntity(_KIND, key, with_status({**json, "id": known.get("id", json.get("id"))}))])
        case UpdateKind.ALARM_ACK if known.get("acknowledged") is not True:
            fresh = with_status(known, acknowledged=True, ackTs=json.get("ackTs") or 0)
            return Applied([SaveEntity(_KIND, key, fresh)], _message("ALARM_ACK", fresh, now_ms))
        case UpdateKind.ALARM_CLEAR if known.get("cleared") is not True:
            details = known.get("details") if json.get("details") is None else json["details"]
            fresh = with_status(known, cleared=True, clearTs=json.get("clearTs") or 0, details=details)
            return Applied([SaveEntity(_KIND, key, fresh)], _message("ALARM_CLEAR", fresh, now_ms))
    return Applied()


def entity_of(value: Json) -> EntityId | None:
    """`{"entityType", "id"}`; None when it is not that."""
    if not isinstance(value, dict):
        return None
    try:
        return EntityId(str(value["entityType"]), UUID(str(value["id"])))
    except (KeyError, ValueError):
        return None


def _created(
    id_: UUID,
    json: Mapping[str, Json],
    state: StateReader,
    book: AlarmBook,
    most: int,
    is_known: Callable[[EntityId], bool],
) -> list[Change]:
    originator = entity_of(json.get("originator"))
    if originator is None or not is_known(originator):
        return []
    is_open = json.get("cleared") is not True
    rival = book.open_alarm(originator, str(json.get("type"))) if is_open else None
    if rival is not None and rival[0] != str(id_):
        key, other = rival
        merged = with_status({**json, "id": other.get("id"), "createdTime": other.get("createdTime")})
        return [SaveEntity(_KIND, key, merged)]
    changes: list[Change] = []
    alarms = state.entities(_KIND)
    if str(id_) not in alarms and len(alarms) >= most:
        oldest = next((key for key, alarm in alarms.items() if alarm.get("cleared") is True), next(iter(alarms)))
        changes.append(DeleteEntity(_KIND, oldest))
    return [*changes, SaveEntity(_KIND, str(id_), with_status(json))]


def _merged(kind: UpdateKind, json: Mapping[str, Json], book: AlarmBook) -> tuple[str, Json] | None:
    """Ours, of the same originator and type, when it was open as this was done to the cloud's."""
    originator = entity_of(json.get("originator"))
    if originator is None or (kind is not UpdateKind.ALARM_CLEAR and json.get("cleared") is True):
        return None
    ours = book.open_alarm(originator, str(json.get("type")))
    if ours is None:
        return None
    at_ms = {UpdateKind.ALARM_ACK: json.get("ackTs"), UpdateKind.ALARM_CLEAR: json.get("clearTs")}.get(kind)
    start_ms = ours[1].get("startTs")
    is_earlier = isinstance(at_ms, int) and isinstance(start_ms, int) and at_ms < start_ms
    return None if is_earlier else ours


def _message(type_: str, alarm: Mapping[str, Json], now_ms: int) -> Message | None:
    originator = entity_of(alarm.get("originator"))
    if originator is None:
        return None
    return Message(type=type_, originator=originator, data=alarm, metadata={}, ts_ms=now_ms)
