"""Change originator and json path. Source: reference rule-engine §4.3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from pydantic import Field

from gateway.domain.entity import EntityId
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome, StateReader
from gateway.rules.entities import customer_of, named, reference, tenant_of
from gateway.rules.jsonpath import JsonPath
from gateway.rules.node import SUCCESS, Answer, NodeConfig, NodeEnv, Routed, Run, changed, node
from gateway.rules.relations import RelationsQuery, related
from gateway.rules.template import template

BY_NAME: Final = frozenset({"DEVICE", "ASSET", "EDGE", "ENTITY_VIEW", "USER"})


class ChangeOriginatorConfig(NodeConfig):
    """`entityNamePattern` is a template; it counts with ENTITY, `relationsQuery` with RELATED."""

    originator_source: Literal["CUSTOMER", "TENANT", "RELATED", "ALARM_ORIGINATOR", "ENTITY"] = "CUSTOMER"
    relations_query: RelationsQuery = Field(default_factory=RelationsQuery)
    entity_type: str = ""
    entity_name_pattern: str = ""


@node("transform.TbChangeOriginatorNode", "change originator", ChangeOriginatorConfig)
def change_originator(config: ChangeOriginatorConfig, env: NodeEnv) -> Run:
    """The same message about another entity; it stays in this chain."""
    find = _finder(config, env)

    def run(msg: Message, out: Outcome) -> Answer:
        originator = find(msg)
        moved = Message(
            type=msg.type,
            originator=originator,
            data=msg.data,
            metadata=msg.metadata,
            ts_ms=msg.ts_ms,
            id=msg.id,
        )
        return Routed((SUCCESS,), (moved,))

    return run


def _finder(config: ChangeOriginatorConfig, env: NodeEnv) -> Callable[[Message], EntityId]:
    state = env.state
    match config.originator_source:
        case "CUSTOMER":
            return lambda msg: _found(customer_of(state, msg.originator), "the originator has no customer")
        case "TENANT":
            return lambda msg: _found(tenant_of(state), "the tenant is not known before the cloud has told it")
        case "RELATED":
            return lambda msg: _found(
                next(related(state, msg.originator, config.relations_query), None), "no related entity is known here"
            )
        case "ALARM_ORIGINATOR":
            return lambda msg: _alarm_originator(env, msg)
    if config.entity_type not in BY_NAME or not config.entity_name_pattern:
        raise RejectedError(f"ENTITY needs entityNamePattern, and an entityType of {', '.join(sorted(BY_NAME))}")
    return _by_name(state, config.entity_type, template(config.entity_name_pattern))


def _by_name(state: StateReader, type_: str, name: Callable[[Message], str]) -> Callable[[Message], EntityId]:
    def find(msg: Message) -> EntityId:
        wanted = name(msg)
        return _found(named(state, type_, wanted), f"no {type_.lower()} is named {wanted[:100]!r} here")

    return find


def _alarm_originator(env: NodeEnv, msg: Message) -> EntityId:
    if msg.originator.type != "ALARM":
        raise RejectedError(f"the originator is a {msg.originator.type.lower()} and no alarm")
    alarm = env.shared.alarms.alarm(str(msg.originator.id))
    return _found(reference((alarm or {}).get("originator")), "this alarm is not known here")


def _found(entity: EntityId | None, text: str) -> EntityId:
    if entity is None:
        raise RejectedError(text)
    return entity


class JsonPathConfig(NodeConfig):
    """See `gateway.rules.jsonpath`."""

    json_path: str = "$"


@node("transform.TbJsonPathNode", "json path", JsonPathConfig)
def json_path(config: JsonPathConfig, env: NodeEnv) -> Run:
    """The body becomes what the path finds in it."""
    path = JsonPath(config.json_path)
    if path.is_root:
        return lambda msg, out: SUCCESS
    return lambda msg, out: Routed((SUCCESS,), (changed(msg, data=path.read(msg.data)),))
