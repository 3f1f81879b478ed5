"""Enrichment: what the gateway knows of the originator is added. Source: reference rule-engine §4.2."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.enrich import Target, enriched, series_of
from gateway.rules.entities import ABSENT, entity_fields, field_at, field_text
from gateway.rules.node import FAILURE, SUCCESS, Answer, Later, NodeConfig, NodeEnv, Routed, Run, node
from gateway.rules.template import template


class GetAttributesConfig(NodeConfig):
    """Names may be templates. `getLatestValueWithTs`: telemetry as `{"ts", "value"}`."""

    fetch_to: Target = "METADATA"
    client_attribute_names: tuple[str, ...] = ()
    shared_attribute_names: tuple[str, ...] = ()
    server_attribute_names: tuple[str, ...] = ()
    latest_ts_key_names: tuple[str, ...] = ()
    tell_failure_if_absent: bool = False
    get_latest_value_with_ts: bool = False


@node("metadata.TbGetAttributesNode", "originator attributes", GetAttributesConfig)
def get_attributes(config: GetAttributesConfig, env: NodeEnv) -> Run:
    """Adds `cs_…`, `shared_…`, `ss_…` and latest telemetry under its own key."""
    answer = attributes_of(config, env)
    return lambda msg, out: answer(msg, msg.originator)


def attributes_of(config: GetAttributesConfig, env: NodeEnv) -> Callable[[Message, EntityId], Answer]:
    """The answer for a message and the entity that is asked for. What is missing fails the message, enriched by what
    was found.
    """
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
    latest_keys = [template(name) for name in config.latest_ts_key_names]

    def attributes(msg: Message, entity: EntityId) -> tuple[dict[str, Json], list[str]]:
        found: dict[str, Json] = {}
        missing: list[str] = []
        for prefix, scope, name in wanted:
            key = name(msg)
            attribute = state.attribute(entity, scope, key)
            if attribute is None:
                missing.append(prefix + key)
            else:
                found[prefix + key] = attribute.value
        return found, missing

    def answer(msg: Message, found: dict[str, Json], missing: list[str]) -> Answer:
        fuller = enriched(msg, found, config.fetch_to)
        if missing and config.tell_failure_if_absent:
            return Routed((FAILURE,), (fuller,), f"not found: {', '.join(missing)}")
        return Routed((SUCCESS,), (fuller,))

    def with_telemetry(msg: Message, entity: EntityId) -> Answer:
        async def ask(out: Outcome) -> Answer:
            latest = await series_of(env).latest(entity)
            found, missing = attributes(msg, entity)
            for name in latest_keys:
                key = name(msg)
                if key not in latest:
                    missing.append(key)
                    continue
                ts_ms, value = latest[key]
                found[key] = {"ts": ts_ms, "value": value} if config.get_latest_value_with_ts else value
            return answer(msg, found, missing)

        return Later(ask)

    return with_telemetry if latest_keys else lambda msg, entity: answer(msg, *attributes(msg, entity))


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
        fields = entity_fields(state, msg.originator)
        if fields is None:
            raise RejectedError(f"this {msg.originator.type.lower()} is not known here")
        found: dict[str, Json] = {}
        for path, target in mapping:
            value = field_at(fields, path)
            if value is ABSENT:
                continue
            text = field_text(value)
            if not (config.ignore_null_strings and (value is None or text == "")):
                found[target(msg)] = text
        return Routed((SUCCESS,), (enriched(msg, found, config.fetch_to),))

    return run
