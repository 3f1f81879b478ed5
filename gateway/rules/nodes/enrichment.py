"""Enrichment: what the gateway knows of the originator is added. Source: reference rule-engine §4.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from gateway.domain.entity import Device, EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome, StateReader
from gateway.rules.node import FAILURE, SUCCESS, Answer, NodeConfig, NodeEnv, Routed, Run, as_text, changed, node
from gateway.rules.template import template

Target = Literal["DATA", "METADATA"]


class GetAttributesConfig(NodeConfig):
    """Names may be templates."""

    fetch_to: Target = "METADATA"
    client_attribute_names: tuple[str, ...] = ()
    shared_attribute_names: tuple[str, ...] = ()
    server_attribute_names: tuple[str, ...] = ()
    latest_ts_key_names: tuple[str, ...] = ()
    tell_failure_if_absent: bool = False


@node("metadata.TbGetAttributesNode", "originator attributes", GetAttributesConfig)
def get_attributes(config: GetAttributesConfig, env: NodeEnv) -> Run:
    """Adds `cs_…`, `shared_…` and `ss_…`. What is missing fails the message, enriched by what was found."""
    state = env.state
    wanted = [
        (prefix, scope, template(name))
        for prefix, scope, names in (
            ("cs_", "CLIENT_SCOPE", config.client_attribute_names),
            ("shared_", "SHARED_SCOPE", config.shared_attribute_names),
            ("ss_", "SERVER_SCOPE", config.server_attribute_names),
        )
        for name in names
    ]
    absent = list(config.latest_ts_key_names)
    if absent:
        env.note("latest telemetry cannot be read by rules yet; its keys count as absent")

    def run(msg: Message, out: Outcome) -> Answer:
        found: dict[str, Json] = {}
        missing = list(absent)
        for prefix, scope, name in wanted:
            key = name(msg)
            attribute = state.attribute(msg.originator, scope, key)
            if attribute is None:
                missing.append(prefix + key)
            else:
                found[prefix + key] = attribute.value
        enriched = _enriched(msg, found, config.fetch_to)
        if missing and config.tell_failure_if_absent:
            return Routed((FAILURE,), (enriched,), f"not found: {', '.join(missing)}")
        return Routed((SUCCESS,), (enriched,))

    return run


class OriginatorFieldsConfig(NodeConfig):
    """Field of the entity (a dotted path) to key of the message (a template)."""

    data_mapping: dict[str, str] = Field(default_factory=lambda: {"name": "originatorName", "type": "originatorType"})
    ignore_null_strings: bool = False
    fetch_to: Target = "METADATA"


@node("metadata.TbGetOriginatorFieldsNode", "originator fields", OriginatorFieldsConfig)
def get_originator_fields(config: OriginatorFieldsConfig, env: NodeEnv) -> Run:
    """Adds fields of the entity as text; an unknown field is skipped."""
    state = env.state
    mapping = [(path.split("."), template(target)) for path, target in config.data_mapping.items()]

    def run(msg: Message, out: Outcome) -> Answer:
        fields = _entity_fields(state, msg.originator)
        if fields is None:
            raise RejectedError(f"this {msg.originator.type.lower()} is not known here")
        found: dict[str, Json] = {}
        for path, target in mapping:
            value: Json = fields
            for part in path:
                if not isinstance(value, Mapping) or part not in value:
                    break
                value = value[part]
            else:
                text = _field_text(value)
                if not (config.ignore_null_strings and (value is None or text == "")):
                    found[target(msg)] = text
        return Routed((SUCCESS,), (_enriched(msg, found, config.fetch_to),))

    return run


def _entity_fields(state: StateReader, entity: EntityId) -> Mapping[str, Json] | None:
    if entity.type == "DEVICE":
        device = state.device(entity.id)
        return _device_fields(device) if device else None
    json = state.entity_json(entity.type, str(entity.id))
    return json if isinstance(json, dict) else None


def _device_fields(device: Device) -> Mapping[str, Json]:
    own = {
        "id": str(device.id),
        "name": device.name,
        "type": device.type,
        "label": device.label,
        "createdTime": device.created_ms,
        "deviceProfileId": str(device.profile_id) if device.profile_id else None,
        "additionalInfo": {"gateway": device.is_gateway},
    }
    return {**own, **device.json} if device.json else own


def _field_text(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict) and isinstance(value.get("id"), str) and "entityType" in value:
        return str(value["id"])
    return as_text(value)


def _enriched(msg: Message, found: Mapping[str, Json], fetch_to: Target) -> Message:
    """Values keep their type in the body, and become text in metadata."""
    if fetch_to == "METADATA":
        return changed(msg, metadata={**msg.metadata, **{key: as_text(value) for key, value in found.items()}})
    if not isinstance(msg.data, dict):
        raise RejectedError("the body is no object")
    return changed(msg, data={**msg.data, **found})
