"""What becomes of the results of a calculated field: saved at once, or a message into the chain of its entity.

Source: reference rule-engine §7.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from gateway.domain.changes import SaveAttributes, SaveTelemetry
from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.domain.telemetry import MAX_ATTRIBUTES_BYTES, AttributeScope, Value
from gateway.ports import AttributeNotice, Outcome
from gateway.rules.alarm_state import Update
from gateway.rules.field_compute import Field, Result
from gateway.rules.field_spec import Output
from gateway.rules.node import Shared
from gateway.rules.nodes.telemetry import changed_values, fitting_values, storable


def hand_out(
    shared: Shared, field: Field, entity: EntityId, found: Sequence[Result], led_by: tuple[UUID, ...], out: Outcome
) -> list[Update]:
    """`led_by`: the fields that led to it, this one last. What other fields of the entity are to be fed with.

    Raises:
        RejectedError: A key or a value cannot be stored.
    """
    output = field.spec.output if field.spec is not None else None
    fed: list[Update] = []
    if output is None:
        return fed
    for result in found:
        values = storable(result.values)
        if not output.is_immediate:
            out.emitted.append(_message(shared, field, entity, output, result.ts_ms, values, led_by))
            continue
        update: Update | None
        if output.is_series:
            update = _series(shared, entity, output, result.ts_ms, values, out)
        else:
            update = _attributes(shared, entity, output, values, led_by, out)
        if update is not None and output.feeds_others:
            fed.append(update)
    return fed


def _message(
    shared: Shared,
    field: Field,
    entity: EntityId,
    output: Output,
    ts_ms: int | None,
    values: Mapping[str, Value],
    led_by: tuple[UUID, ...],
) -> Message:
    metadata = {"cfName": field.name}
    data: dict[str, Json] = dict(values)
    if output.is_series:
        type_ = "POST_TELEMETRY_REQUEST"
        if ts_ms is not None:
            data = {"ts": ts_ms, "values": data}
    else:
        type_ = "POST_ATTRIBUTES_REQUEST"
        metadata["scope"] = output.scope
    return Message(type_, entity, data, metadata, shared.clock.now_ms(), fields=led_by)


def _series(
    shared: Shared, entity: EntityId, output: Output, ts_ms: int | None, values: Mapping[str, Value], out: Outcome
) -> Update:
    at_ms = shared.clock.now_ms() if ts_ms is None else ts_ms
    if output.keeps_history or output.keeps_latest:
        out.changes.append(SaveTelemetry(entity, at_ms, values, output.keeps_history))
    return Update(at_ms, "", values)


def _attributes(
    shared: Shared,
    entity: EntityId,
    output: Output,
    values: Mapping[str, Value],
    led_by: tuple[UUID, ...],
    out: Outcome,
) -> Update | None:
    now_ms, scope = shared.clock.now_ms(), output.scope
    if output.only_changes:
        values = changed_values(shared, entity, scope, values)
    if shared.state.attributes_bytes() > MAX_ATTRIBUTES_BYTES:
        values = fitting_values(shared, entity, scope, values)
    if not values:
        return None
    if output.keeps_latest:
        out.changes.append(SaveAttributes(entity, scope, now_ms, values))
        if scope == AttributeScope.SHARED_SCOPE:
            out.notices.append(AttributeNotice(entity, values))
    if output.tells_rules and scope != AttributeScope.CLIENT_SCOPE:
        out.emitted.append(Message("ATTRIBUTES_UPDATED", entity, dict(values), {"scope": scope}, now_ms, fields=led_by))
    return Update(now_ms, scope, values)
