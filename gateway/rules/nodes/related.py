"""Enrichment from other entities: related ones, the customer, the tenant; and a device's credentials.

Source: reference rule-engine §4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

import orjson
from pydantic import Field

from gateway.domain.entity import CredentialsType, EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.enrich import Target, enriched, series_of
from gateway.rules.entities import ABSENT, customer_of, entity_fields, field_at, field_text, profile_name, tenant_of
from gateway.rules.node import SUCCESS, Answer, Later, NodeConfig, NodeEnv, Routed, Run, node
from gateway.rules.nodes.enrichment import GetAttributesConfig, attributes_of
from gateway.rules.relations import Direction, RelationFilter, RelationsQuery, related
from gateway.rules.template import template

Find = Callable[[Message], EntityId]


class DeviceRelationsQuery(NodeConfig):
    """`deviceTypes`: names of profiles."""

    direction: Direction = "FROM"
    max_level: int = 1
    relation_type: str = "Contains"
    device_types: tuple[str, ...] = ("default",)
    fetch_last_level_only: bool = False


class RelatedDeviceConfig(GetAttributesConfig):
    """Of the first related device."""

    device_relations_query: DeviceRelationsQuery = Field(default_factory=DeviceRelationsQuery)


@node("metadata.TbGetDeviceAttrNode", "related device attributes", RelatedDeviceConfig)
def get_device_attributes(config: RelatedDeviceConfig, env: NodeEnv) -> Run:
    """As *originator attributes*, of the first device that is related; none is Failure."""
    wish = config.device_relations_query
    query = RelationsQuery(
        direction=wish.direction,
        max_level=wish.max_level,
        fetch_last_level_only=wish.fetch_last_level_only,
        filters=(RelationFilter(relation_type=wish.relation_type, entity_types=("DEVICE",)),),
    )
    answer = attributes_of(config, env)

    def run(msg: Message, out: Outcome) -> Answer:
        for entity in related(env.state, msg.originator, query):
            if profile_name(env.state, entity) in wish.device_types:
                return answer(msg, entity)
        raise RejectedError("no related device of these types is known here")

    return run


class MappedConfig(NodeConfig):
    """Key there to key in the message, both templates."""

    data_mapping: dict[str, str] = Field(default_factory=lambda: {"alarmThreshold": "threshold"})
    data_to_fetch: Literal["ATTRIBUTES", "LATEST_TELEMETRY"] = "ATTRIBUTES"
    fetch_to: Target = "METADATA"


class RelatedDataConfig(NodeConfig):
    """FIELDS: paths of the entity's own JSON."""

    data_mapping: dict[str, str] = Field(default_factory=lambda: {"serialNumber": "sn"})
    data_to_fetch: Literal["ATTRIBUTES", "LATEST_TELEMETRY", "FIELDS"] = "ATTRIBUTES"
    fetch_to: Target = "METADATA"
    relations_query: RelationsQuery = Field(default_factory=RelationsQuery)


@node("metadata.TbGetRelatedAttributeNode", "related entity data", RelatedDataConfig)
def get_related_data(config: RelatedDataConfig, env: NodeEnv) -> Run:
    """Of the first entity that is related; none is Failure, a key that it does not have is left out."""

    def find(msg: Message) -> EntityId:
        found = next(related(env.state, msg.originator, config.relations_query), None)
        return _needed(found, "no related entity is known here")

    return _mapped(config, env, find)


@node("metadata.TbGetCustomerAttributeNode", "customer attributes", MappedConfig)
def get_customer_attributes(config: MappedConfig, env: NodeEnv) -> Run:
    """Of the originator's customer; none is Failure."""
    return _mapped(
        config, env, lambda msg: _needed(customer_of(env.state, msg.originator), "the originator has no customer")
    )


@node("metadata.TbGetTenantAttributeNode", "tenant attributes", MappedConfig)
def get_tenant_attributes(config: MappedConfig, env: NodeEnv) -> Run:
    """As far as the cloud has sent them."""
    return _mapped(config, env, lambda msg: _needed(tenant_of(env.state), _NO_TENANT))


_NO_TENANT: Final = "the tenant is not known before the cloud has told it"


def _needed(entity: EntityId | None, text: str) -> EntityId:
    if entity is None:
        raise RejectedError(text)
    return entity


def _mapped(config: MappedConfig | RelatedDataConfig, env: NodeEnv, find: Find) -> Run:
    state = env.state
    if not config.data_mapping:
        raise RejectedError("its mapping of keys is empty")
    mapping = [(template(source), template(target)) for source, target in config.data_mapping.items()]

    def answer(msg: Message, values: Mapping[str, Json]) -> Answer:
        found = {target: values[source] for source, target in _keys(msg) if source in values}
        return Routed((SUCCESS,), (enriched(msg, found, config.fetch_to),))

    def _keys(msg: Message) -> list[tuple[str, str]]:
        return [(source(msg), target(msg)) for source, target in mapping]

    def attributes(msg: Message, out: Outcome) -> Answer:
        entity = find(msg)
        held = {source: state.attribute(entity, "SERVER_SCOPE", source) for source, _ in _keys(msg)}
        return answer(msg, {key: attribute.value for key, attribute in held.items() if attribute is not None})

    def fields(msg: Message, out: Outcome) -> Answer:
        known = entity_fields(state, find(msg))
        if known is None:
            raise RejectedError("the related entity is not kept here")
        held = {source: field_at(known, source.split(".")) for source, _ in _keys(msg)}
        return answer(msg, {key: field_text(value) for key, value in held.items() if value not in (ABSENT, None)})

    def telemetry(msg: Message, out: Outcome) -> Answer:
        entity = find(msg)

        async def ask(out: Outcome) -> Answer:
            latest = await series_of(env).latest(entity)
            return answer(msg, {key: value for key, (_, value) in latest.items()})

        return Later(ask)

    return {"ATTRIBUTES": attributes, "FIELDS": fields, "LATEST_TELEMETRY": telemetry}[config.data_to_fetch]


_DETAILS: Final[Mapping[str, tuple[str, ...]]] = {
    "ID": ("id",), "TITLE": ("title",), "COUNTRY": ("country",), "CITY": ("city",), "STATE": ("state",),
    "ZIP": ("zip",), "ADDRESS": ("address",), "ADDRESS2": ("address2",), "PHONE": ("phone",), "EMAIL": ("email",),
    "ADDITIONAL_INFO": ("additionalInfo", "description"),
}  # fmt: skip


class DetailsConfig(NodeConfig):
    """At least one of the details."""

    details_list: tuple[str, ...] = ()
    fetch_to: Target = "DATA"


@node("metadata.TbGetCustomerDetailsNode", "customer details", DetailsConfig)
def get_customer_details(config: DetailsConfig, env: NodeEnv) -> Run:
    """Adds `customer_title` and the like."""
    return _details(
        config,
        env,
        "customer_",
        lambda msg: _needed(customer_of(env.state, msg.originator), "the originator has no customer"),
    )


@node("metadata.TbGetTenantDetailsNode", "tenant details", DetailsConfig)
def get_tenant_details(config: DetailsConfig, env: NodeEnv) -> Run:
    """Adds `tenant_title` and the like."""
    return _details(config, env, "tenant_", lambda msg: _needed(tenant_of(env.state), _NO_TENANT))


def _details(config: DetailsConfig, env: NodeEnv, prefix: str, find: Find) -> Run:
    wanted = config.details_list
    if not wanted or (unknown := [name for name in wanted if name not in _DETAILS]):
        what = f"{unknown[0]!r} is no detail" if wanted else "detailsList is empty"
        raise RejectedError(f"{what}; there are {', '.join(_DETAILS)}")

    def run(msg: Message, out: Outcome) -> Answer:
        entity = find(msg)
        fields = entity_fields(env.state, entity)
        if fields is None:
            raise RejectedError(f"the {entity.type.lower()} {entity.id} is not kept here")
        held = {prefix + _DETAILS[name][0]: field_at(fields, _DETAILS[name]) for name in wanted}
        held = {key: field_text(value) for key, value in held.items() if value not in (ABSENT, None)}
        return Routed((SUCCESS,), (enriched(msg, held, config.fetch_to),))

    return run


class CredentialsConfig(NodeConfig):
    """Where to."""

    fetch_to: Target = "METADATA"


@node("metadata.TbFetchDeviceCredentialsNode", "fetch device credentials", CredentialsConfig)
def fetch_credentials(config: CredentialsConfig, env: NodeEnv) -> Run:
    """Adds `credentialsType` and `credentials`, where the operator allows it: a secret leaves the store."""
    if not env.shared.config.allow_credentials:
        raise RejectedError("credentials are not given to rules; rules.allow_credentials: true allows it")

    def run(msg: Message, out: Outcome) -> Answer:
        device = env.state.device(msg.originator.id) if msg.originator.type == "DEVICE" else None
        if device is None or device.credentials is None:
            raise RejectedError("the originator is no device whose credentials are known here")
        held = device.credentials
        secret: Json = held.credentials_id if held.type == CredentialsType.ACCESS_TOKEN else held.value
        if secret is not None and held.type not in (CredentialsType.ACCESS_TOKEN, CredentialsType.X509_CERTIFICATE):
            secret = orjson.loads(secret)
        found = {"credentialsType": str(held.type), "credentials": secret}
        return Routed((SUCCESS,), (enriched(msg, found, config.fetch_to),))

    return run
