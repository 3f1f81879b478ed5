"""Save nodes. They write nothing: they add changes, which become durable together with the cloud events.

Source: reference rule-engine §2.4, §4.4, §4.6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.domain.changes import DeleteAttributes, SaveAttributes, SaveTelemetry
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message, MessageType
from gateway.domain.telemetry import (
    MAX_ATTRIBUTES_BYTES,
    MAX_KEY_CHARS,
    AttributeScope,
    Value,
    attribute_bytes,
)
from gateway.errors import RejectedError
from gateway.ports import AttributeNotice, Outcome
from gateway.rules.alarm_state import Update
from gateway.rules.node import LAST_MS, SUCCESS, Answer, NodeConfig, NodeEnv, Run, Shared, node
from gateway.rules.strategy import keeps_all, strategy
from gateway.rules.template import template

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
_SCOPES: Final = frozenset(AttributeScope)


class SaveTelemetryConfig(NodeConfig):
    """`defaultTTL` is accepted and without effect: how long history stays is the store's setting."""

    use_server_ts: bool = False
    processing_settings: dict[str, Any] | None = None


@node("telemetry.TbMsgTimeseriesNode", "save time series", SaveTelemetryConfig)
def save_telemetry(config: SaveTelemetryConfig, env: NodeEnv) -> Run:
    """Saves a flat object, `{"ts", "values"}`, or a list of either."""
    keeps_history = strategy(config.processing_settings, "timeseries")
    keeps_latest = strategy(config.processing_settings, "latest")
    # The store has no history without latest value, so the latest value is then kept as well.
    keeps_everything = keeps_all(keeps_history)
    feeds = strategy(config.processing_settings, "calculatedFields")
    use_server_ts, clock, shared = config.use_server_ts, env.clock, env.shared

    def run(msg: Message, out: Outcome) -> Answer:
        if msg.type != "POST_TELEMETRY_REQUEST":
            raise RejectedError(f"messages of type {msg.type!r} are no telemetry")
        data = msg.data
        ts_ms = clock.now_ms() if use_server_ts else msg.data_ts_ms
        if type(data) is dict and data and "values" not in data:
            sets: Sequence[tuple[int, dict[str, Json]]] = ((ts_ms, data),)
        else:
            sets = value_sets(data, ts_ms)
        for at_ms, values in sets:
            clean = storable(values)
            if not INT64_MIN <= at_ms <= INT64_MAX:
                raise RejectedError("its time does not fit 64 bits")
            if keeps_everything:
                out.changes.append(SaveTelemetry(msg.originator, at_ms, clean))
            else:
                with_history = keeps_history(msg.originator, at_ms)
                if keeps_latest(msg.originator, at_ms) or with_history:
                    out.changes.append(SaveTelemetry(msg.originator, at_ms, clean, with_history))
        if shared.fields is None or not shared.fields.concerns(msg.originator):
            return SUCCESS
        updates = [Update(at_ms, "", storable(values)) for at_ms, values in sets if feeds(msg.originator, at_ms)]
        return shared.fields.hear(msg, sorted(updates, key=lambda update: update.ts_ms), out)

    return run


def value_sets(data: Json, ts_ms: int) -> list[tuple[int, dict[str, Json]]]:
    """Times and values of a body in any form. RejectedError: it is no telemetry, or empty."""
    sets: list[tuple[int, dict[str, Json]]] = []
    for item in data if isinstance(data, list) else [data]:
        if not isinstance(item, dict):
            raise RejectedError("the body is no object")
        if "ts" in item and isinstance(item.get("values"), dict):
            if type(item["ts"]) is not int:
                raise RejectedError("'ts' must be a number of milliseconds")
            sets.append((item["ts"], item["values"]))
        else:
            sets.append((ts_ms, item))
    sets = [(at_ms, values) for at_ms, values in sets if values]
    if not sets:
        raise RejectedError("the body is empty")
    return sets


def storable(values: Mapping[str, Json]) -> Mapping[str, Value]:
    """The same values; whole numbers beyond 64 bits become text. RejectedError: a value is null, a key is no key."""
    is_clean = True
    for key, value in values.items():
        if not 0 < len(key) <= MAX_KEY_CHARS or key.isspace():
            raise RejectedError(f"a key has {len(key)} characters; it needs 1 to {MAX_KEY_CHARS}, not all blanks")
        if value is None or (type(value) is int and not INT64_MIN <= value <= INT64_MAX):
            is_clean = False
    if is_clean:
        return values
    clean: dict[str, Value] = {}
    for key, value in values.items():
        if value is None:
            raise RejectedError(f"the value of {key!r} is null")
        is_too_large = type(value) is int and not INT64_MIN <= value <= INT64_MAX
        clean[key] = str(value) if is_too_large else value
    return clean


class SaveAttributesConfig(NodeConfig):
    """`scope` is for messages whose metadata names none."""

    scope: str = "SERVER_SCOPE"
    notify_device: bool = False
    send_attributes_updated_notification: bool = False
    update_attributes_only_on_value_change: bool = False
    processing_settings: dict[str, Any] | None = None


@node("telemetry.TbMsgAttributesNode", "save attributes", SaveAttributesConfig)
def save_attributes(config: SaveAttributesConfig, env: NodeEnv) -> Run:
    """Saves a flat object; may leave out what has not changed, tell the device, and tell the rules."""
    keeps = strategy(config.processing_settings, "attributes")
    feeds = strategy(config.processing_settings, "calculatedFields")
    shared, clock = env.shared, env.clock

    def run(msg: Message, out: Outcome) -> Answer:
        if msg.type != "POST_ATTRIBUTES_REQUEST":
            raise RejectedError(f"messages of type {msg.type!r} are no attributes")
        if not isinstance(msg.data, dict):
            raise RejectedError("the body is no object")
        scope = _scope(msg, config.scope)
        values = storable(msg.data)
        if config.update_attributes_only_on_value_change:
            values = changed_values(shared, msg.originator, scope, values)
        if not values:
            return SUCCESS
        written_ms = clock.now_ms()
        if scope == AttributeScope.CLIENT_SCOPE:  # nobody else writes it: what the next one must be later than
            written_ms = max(written_ms, min(msg.data_ts_ms, LAST_MS))
        if keeps(msg.originator, msg.data_ts_ms):
            save(msg, scope, values, written_ms, out)
        if shared.fields is None or not shared.fields.concerns(msg.originator):
            return SUCCESS
        if not feeds(msg.originator, msg.data_ts_ms):
            return SUCCESS
        return shared.fields.hear(msg, [Update(written_ms, scope, values)], out)

    def save(msg: Message, scope: str, values: Mapping[str, Value], written_ms: int, out: Outcome) -> None:
        if shared.state.attributes_bytes() > MAX_ATTRIBUTES_BYTES:
            values = fitting_values(shared, msg.originator, scope, values)
            if not values:
                return
        out.changes.append(SaveAttributes(msg.originator, scope, written_ms, values))
        wish = msg.metadata.get("notifyDevice", "")
        if scope == AttributeScope.SHARED_SCOPE and (config.notify_device or wish == "" or wish.lower() == "true"):
            out.notices.append(AttributeNotice(msg.originator, values))
        if config.send_attributes_updated_notification and scope != AttributeScope.CLIENT_SCOPE:
            out.emitted.append(_told(msg, MessageType.ATTRIBUTES_UPDATED.value, dict(values), scope))

    return run


def fitting_values(shared: Shared, entity: EntityId, scope: str, values: Mapping[str, Value]) -> Mapping[str, Value]:
    """There is no room: what weighs no more than the value it replaces; the rest still goes to the cloud."""
    fitting = {}
    for key, value in values.items():
        held = shared.state.attribute(entity, scope, key)
        if held is not None and attribute_bytes(key, value) <= attribute_bytes(key, held.value):
            fitting[key] = value
    shared.counters.add("rules.attributes_no_room", len(values) - len(fitting))
    return fitting


class DeleteAttributesConfig(NodeConfig):
    """Keys may be templates."""

    scope: str = "SERVER_SCOPE"
    keys: tuple[str, ...] = ()
    send_attributes_deleted_notification: bool = False
    notify_device: bool = False


@node("telemetry.TbMsgDeleteAttributesNode", "delete attributes", DeleteAttributesConfig)
def delete_attributes(config: DeleteAttributesConfig, env: NodeEnv) -> Run:
    """Deletes the keys; blank ones drop out."""
    templates = [template(key) for key in config.keys]
    written = env.shared.written

    def run(msg: Message, out: Outcome) -> Answer:
        scope = _scope(msg, config.scope)
        keys = list(dict.fromkeys(key for fill in templates if (key := fill(msg).strip())))
        if not keys:
            return SUCCESS
        out.changes.append(DeleteAttributes(msg.originator, scope, keys))
        for key in keys:
            written.put((msg.originator, scope, key), b"")
        is_told = config.notify_device or msg.metadata.get("notifyDevice", "").lower() == "true"
        if scope == AttributeScope.SHARED_SCOPE and is_told:
            out.notices.append(AttributeNotice(msg.originator, None, keys))
        if config.send_attributes_deleted_notification:
            out.emitted.append(_told(msg, MessageType.ATTRIBUTES_DELETED.value, {"attributes": keys}, scope))
        return SUCCESS

    return run


def _scope(msg: Message, configured: str) -> str:
    scope = msg.metadata.get("scope") or configured
    if scope not in _SCOPES:
        raise RejectedError(f"{scope!r} is no attribute scope")
    return scope


def changed_values(shared: Shared, entity: EntityId, scope: str, values: Mapping[str, Value]) -> Mapping[str, Value]:
    """Those that differ in value or type from what is durable, and from what is on its way to the disk.

    Both are asked: the durable value alone would take `1` for unchanged while a `2` still waits for its commit.
    """
    fresh: dict[str, Value] = {}
    for key, value in values.items():
        place, mark = (entity, scope, key), _mark(value)
        on_the_way = shared.written.get(place)
        held = shared.state.attribute(entity, scope, key)
        if held is not None and _mark(held.value) == mark and on_the_way in (None, mark):
            continue
        shared.written.put(place, mark)
        fresh[key] = value
    return fresh


def _mark(value: Value) -> bytes:
    """Equal for equal values of equal type; short, because many are remembered."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return text if len(text) <= 32 else hashlib.sha256(text).digest()


def _told(msg: Message, type_: str, data: dict[str, Json], scope: str) -> Message:
    """A new message to the originator's own chain."""
    return Message(
        type=type_,
        originator=msg.originator,
        data=data,
        metadata={**msg.metadata, "scope": scope},
        ts_ms=msg.ts_ms,
    )
