"""Entities without behaviour of their own: what the store keeps of them. Only decides; returns changes.

Rules of the vendor's edge, but for two things: what came from the cloud is never renamed, and everything is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from gateway.domain.alarm import MAX_ALARMS
from gateway.domain.changes import Change, DeleteEntity, SaveEntity
from gateway.domain.downlink import DOCUMENT_TYPES, EntityUpdated, UpdateKind
from gateway.domain.entity import EntityId, Json
from gateway.downlink.alarms import Applied, DurableAlarms, apply_alarm, entity_of
from gateway.errors import RejectedError
from gateway.ports import AlarmBook, StateReader

MOST: Final[Mapping[str, int]] = {
    "ALARM": MAX_ALARMS, "ASSET": 20_000, "ASSET_PROFILE": 1_000, "CUSTOMER": 10_000, "RELATION": 50_000,
    "CALCULATED_FIELD": 2_000,
}  # fmt: skip
"""So many of a kind are kept in memory; one more is acknowledged and not kept (alarms: the oldest goes)."""
PLAIN: Final = frozenset({"ASSET", "ASSET_PROFILE", "CALCULATED_FIELD", "TENANT", "TENANT_PROFILE"})
NAMES_ONLY: Final = frozenset({"WIDGETS_BUNDLE", "WIDGET_TYPE"})
LARGEST_DOCUMENT: Final = 4 << 20
ALL_DOCUMENTS: Final = 256 << 20
"""A larger document, and one that does not fit among the others, is kept by name only."""
_NAME_BYTES: Final = 200


class Full(Exception):
    """There are too many of this kind."""


def keep(update: EntityUpdated, state: StateReader) -> list[Change] | None:
    """What to write; nothing when it changes nothing; None when this kind of entity is not kept.

    Raises:
        RejectedError: No id, or no JSON where one is needed.
        Full: The bound of `MOST` is reached.
    """
    match update.type:
        case "ALARM":
            return keep_alarm(update, state, DurableAlarms(state), 0).changes
        case "RELATION":
            return _relation(update, state)
        case "CUSTOMER":
            return _customer(update, state)
        case kind if kind in DOCUMENT_TYPES:
            return _document(update, state)
        case kind if kind in PLAIN:
            return _plain(update, state)
    return None


def needs_id(update: EntityUpdated) -> UUID:
    """The id that a message of this kind has."""
    if update.id is None:
        raise RejectedError(f"{update.type} without an id")
    return update.id


def needs_json(update: EntityUpdated) -> Mapping[str, Json]:
    """The entity's JSON object."""
    if not isinstance(update.json, dict):
        raise RejectedError(f"{update.type} {update.id or ''}: no entity JSON")
    return update.json


def gone(entity: EntityId, state: StateReader) -> list[Change]:
    """Relations and alarms of an entity that is deleted."""
    return [DeleteEntity(kind, key) for kind, key in state.belongings(entity)]


def _plain(update: EntityUpdated, state: StateReader) -> list[Change]:
    id_ = needs_id(update)
    if update.kind is UpdateKind.DELETED:
        return [DeleteEntity(update.type, str(id_)), *gone(EntityId(update.type, id_), state)]
    _check_room(update.type, str(id_), state)
    json = needs_json(update)
    return [] if state.entity_json(update.type, str(id_)) == json else [SaveEntity(update.type, str(id_), json)]


def _customer(update: EntityUpdated, state: StateReader) -> list[Change]:
    """A customer of the same title and another id was deleted and made anew in the cloud."""
    id_ = needs_id(update)
    if update.kind is UpdateKind.DELETED:
        return _plain(update, state)
    json = needs_json(update)
    changes: list[Change] = []
    for key, other in state.entities("CUSTOMER").items():
        if key != str(id_) and other.get("title") == json.get("title"):
            changes += [DeleteEntity("CUSTOMER", key), *gone(EntityId("CUSTOMER", UUID(key)), state)]
    if not changes:
        _check_room("CUSTOMER", str(id_), state)
    return [*changes, SaveEntity("CUSTOMER", str(id_), json)]


def _document(update: EntityUpdated, state: StateReader) -> list[Change]:
    id_ = needs_id(update)
    if update.kind is UpdateKind.DELETED:
        return [DeleteEntity(update.type, str(id_))]
    json, size_bytes = needs_json(update), update.size_bytes
    is_large = size_bytes > LARGEST_DOCUMENT or state.documents_bytes() + size_bytes > ALL_DOCUMENTS
    if update.type in NAMES_ONLY or is_large:
        json = {key: json[key] for key in ("id", "name", "title", "type", "alias", "fqn") if key in json}
        json, size_bytes = {**json, "isNameOnly": True}, _NAME_BYTES
    if state.documents_bytes() + size_bytes > ALL_DOCUMENTS + LARGEST_DOCUMENT:
        raise Full
    return [SaveEntity(update.type, str(id_), json, size_bytes)]


def _relation(update: EntityUpdated, state: StateReader) -> list[Change]:
    json = needs_json(update)
    ends = [entity_of(json.get("from")), entity_of(json.get("to"))]
    if None in ends or not isinstance(json.get("type"), str):
        raise RejectedError("RELATION without from, to and type")
    key = f"{_end(ends[0])}>{json.get('typeGroup') or 'COMMON'}/{json['type']}>{_end(ends[1])}"
    if update.kind is UpdateKind.DELETED:
        return [DeleteEntity("RELATION", key)]
    if not all(end is not None and is_known(end, state) for end in ends):
        return []
    _check_room("RELATION", key, state)
    return [] if state.entity_json("RELATION", key) == json else [SaveEntity("RELATION", key, json)]


def keep_alarm(update: EntityUpdated, state: StateReader, book: AlarmBook, now_ms: int) -> Applied:
    """What to write of an alarm, and what the rules hear. RejectedError: as for `keep`."""
    is_deleted = update.kind is UpdateKind.DELETED
    json: Mapping[str, Json] = {} if is_deleted and update.json is None else needs_json(update)
    return apply_alarm(
        update,
        needs_id(update),
        json,
        state,
        book,
        most=MOST["ALARM"],
        is_known=lambda entity: is_known(entity, state),
        now_ms=now_ms,
    )


def is_known(entity: EntityId, state: StateReader) -> bool:
    """Is it here: a device, an entity that is kept, or one of those we belong to?"""
    if entity.type == "DEVICE":
        return state.device(entity.id) is not None
    identity = state.identity()
    if identity is not None and entity.id in (identity.edge_id, identity.tenant_id, identity.customer_id):
        return True
    return state.entity_json(entity.type, str(entity.id)) is not None


def _check_room(kind: str, key: str, state: StateReader) -> None:
    if kind in MOST and len(state.entities(kind)) >= MOST[kind] and key not in state.entities(kind):
        raise Full


def _end(entity: EntityId | None) -> str:
    return f"{entity.type}:{entity.id}" if entity else "?"
