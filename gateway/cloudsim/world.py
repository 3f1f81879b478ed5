"""What the simulated tenant has: its entities by id, their attributes, telemetry, credentials and relations."""

from __future__ import annotations

import secrets
import string
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from gateway.cloudsim import entities
from gateway.cloudsim.arrivals import Series
from gateway.cloudsim.entities import JsonObject
from gateway.cloudsim.options import CloudSimOptions, CustomerKind
from gateway.cloudsim.values import Key, key_of
from gateway.domain.entity import NULL_UUID, Json, time_uuid
from gateway.domain.telemetry import Attribute, AttributeScope, Value
from gateway.errors import RejectedError

SCOPES: Final = tuple(scope.value for scope in AttributeScope)
_REMEMBERED_IDS: Final = 10_000
STATE_KEYS: Final = frozenset(
    ["active", "lastConnectTime", "lastDisconnectTime", "lastActivityTime", "inactivityAlarmTime", "inactivityTimeout"]
)


@dataclass(slots=True)
class Entity:
    """Anything with an id. `json` is what the server would send."""

    type: str
    id: UUID
    json: JsonObject
    series: Series = field(default_factory=Series)
    attributes: dict[str, dict[str, Attribute]] = field(default_factory=lambda: {scope: {} for scope in SCOPES})
    last_activity_ms: int = 0
    is_of_edge: bool = False  # the edge made it, not the cloud
    is_assigned: bool = True  # to the edge; what is not has no part in syncs and downlinks

    @property
    def name(self) -> str:
        """As it is shown to people."""
        return str(self.json.get("name") or self.json.get("title") or "")

    def write_attributes(self, scope: str, values: dict[str, Value], ts_ms: int) -> None:
        """Upsert."""
        held = self.attributes[scope]
        for key, value in values.items():
            held[key] = Attribute(ts_ms, value)

    def telemetry_values(self, key: str, limit: int) -> list[tuple[int, Value]]:
        """The newest values that are kept, newest first."""
        kept = list(self.series.history.get(key, ()))
        if not kept and key in self.series.latest:
            kept = [self.series.latest[key]]
        return kept[::-1][:limit]


class World:
    """One tenant with one edge."""

    def __init__(self, options: CloudSimOptions, now_ms: int) -> None:
        self._entities: dict[str, dict[Key, Entity]] = {}
        self._subjects: dict[Key, Entity] = {}
        self._names: dict[tuple[str, str], Entity] = {}
        self._owners: dict[str, UUID] = {}
        self._removed: OrderedDict[UUID, None] = OrderedDict()
        self.credentials: dict[UUID, JsonObject] = {}
        self.user_credentials: dict[UUID, JsonObject] = {}
        self.metadata: dict[UUID, JsonObject] = {}
        self.relations: dict[tuple[str, str, str], JsonObject] = {}
        self.customer: CustomerKind = options.customer
        self.renew(options, now_ms)

    def renew(self, options: CloudSimOptions, now_ms: int) -> None:
        """Another tenant with another edge: everything anew, under new ids."""
        for held in (self._entities, self._subjects, self._names, self._owners, self._removed):
            held.clear()
        for json in (self.credentials, self.user_credentials, self.metadata, self.relations):
            json.clear()
        self.tenant_id, self.edge_id = time_uuid(), time_uuid()
        self.root_chain_id = self.default_chain_id = time_uuid()
        self._furnish(options, now_ms)

    def _furnish(self, options: CloudSimOptions, now_ms: int) -> None:
        tenant_profile_id, admin_id = time_uuid(), time_uuid()
        self.add("TENANT_PROFILE", tenant_profile_id, entities.tenant_profile(tenant_profile_id, now_ms))
        self.add("TENANT", self.tenant_id, entities.tenant(self.tenant_id, now_ms, tenant_profile_id, "Demo tenant"))
        edge = {"id": entities.reference("EDGE", self.edge_id), "name": "Demo edge", "type": "default"}
        self.add("EDGE", self.edge_id, edge)
        queue_id, settings_id = time_uuid(), time_uuid()
        self.add("QUEUE", queue_id, entities.queue(queue_id, now_ms))
        for owner in (NULL_UUID, self.tenant_id):
            settings_id = time_uuid()
            self.add("ADMIN_SETTINGS", settings_id, entities.admin_settings(settings_id, now_ms, owner))
        chain = entities.rule_chain(self.root_chain_id, now_ms, self.tenant_id, "Edge Root Rule Chain")
        self.add("RULE_CHAIN", self.root_chain_id, chain)
        self.metadata[self.root_chain_id] = entities.root_chain_metadata(self.root_chain_id, options.release)
        self.add("USER", admin_id, entities.user(admin_id, now_ms, self.tenant_id, "admin@demo.example"))
        self.user_credentials[admin_id] = entities.user_credentials(time_uuid(), now_ms, admin_id)
        names = ("Simple card", "Time series chart", "Digital gauge")
        for number in range(options.widgets):
            name = names[number] if number < len(names) else f"Widget {number + 1}"
            widget_id = time_uuid()
            self.add("WIDGET_TYPE", widget_id, entities.widget_type(widget_id, now_ms, name))
        bundle_id, dashboard_id = time_uuid(), time_uuid()
        self.add("WIDGETS_BUNDLE", bundle_id, entities.widgets_bundle(bundle_id, now_ms, "Cards"))
        customer_id = time_uuid()
        self.add("CUSTOMER", customer_id, entities.customer(customer_id, now_ms, self.tenant_id, "Demo customer"))
        self.add("DASHBOARD", dashboard_id, entities.dashboard(dashboard_id, now_ms, self.tenant_id, "Demo plant"))
        self.profile_named("DEVICE_PROFILE", "default", now_ms)
        hall_profile = self.profile_named("ASSET_PROFILE", "default", now_ms)
        for wanted in options.devices:
            self.create_device(wanted.name, wanted.profile, wanted.token or None, now_ms)
        hall_id = time_uuid()
        hall = entities.asset(hall_id, now_ms, self.tenant_id, "Machine hall", hall_profile.id, "default")
        self.add("ASSET", hall_id, hall)
        for device in self.of_type("DEVICE"):
            self.relate(entities.relation(hall["id"], device.json["id"], "Contains"))
        self._furnish_more(now_ms, hall["id"], admin_id)

    def _furnish_more(self, now_ms: int, hall: JsonObject, admin_id: UUID) -> None:
        """One of everything else that a full sync brings; a gateway has no use for most of it."""
        profile = self.profile_named("DEVICE_PROFILE", "default", now_ms)

        def add(type_: str, **keys: Json) -> JsonObject:
            id_ = time_uuid()
            return self.add(type_, id_, entities.other(type_, id_, now_ms, self.tenant_id, **keys)).json

        client = add("OAUTH2_CLIENT", title="Demo login", clientId="demo", clientSecret=entities.OAUTH2_SECRET)
        add("DOMAIN", name="demo.example", oauth2Enabled=True, oauth2ClientInfos=[{"id": client["id"]}])
        template = add("NOTIFICATION_TEMPLATE", name="Alarm", notificationType="ALARM", configuration={})
        add("NOTIFICATION_TARGET", name="Administrators", configuration={"type": "PLATFORM_USERS"})
        add("NOTIFICATION_RULE", name="On alarm", enabled=True, templateId=template["id"], triggerType="ALARM")
        add(
            "OTA_PACKAGE",
            deviceProfileId=profile.json["id"],
            type="FIRMWARE",
            title="Demo firmware",
            version="1.0",
            hasData=True,
            fileName="demo.bin",
            contentType="application/octet-stream",
            checksumAlgorithm="CRC32",
            checksum=zlib.crc32(bytes(1026)).to_bytes(4, "little").hex(),
            dataSize=1026,
            data="AAAA" * 342,  # that is Base64
        )
        add("TB_RESOURCE", title="Demo picture", resourceType="IMAGE", fileName="demo.png", resourceKey="demo.png")
        add("ENTITY_VIEW", name="Hall view", type="default", entityId=hall, customerId=entities.no_customer())
        add("CALCULATED_FIELD", **entities.mean_of(hall))
        add("AI_MODEL", name="Demo model", configuration={"provider": "OPENAI", "modelId": "demo"})
        add("API_KEY", description="Demo key", userId=entities.reference("USER", admin_id), value=entities.API_KEY)

    def add(self, type_: str, id_: UUID, json: JsonObject) -> Entity:
        """Put an entity in; one with the same id keeps its data and takes the new JSON."""
        known = self.get(type_, id_)
        if known is not None:
            self._names.pop((type_, known.name), None)
            known.json = json
            self._names[(type_, known.name)] = known
            return known
        entity = Entity(type_, id_, json)
        self._names[(type_, entity.name)] = entity
        self._entities.setdefault(type_, {})[key_of(id_)] = entity
        self._subjects[key_of(id_)] = entity
        return entity

    def get(self, type_: str, id_: UUID) -> Entity | None:
        """By kind and id."""
        return self._entities.get(type_, {}).get(key_of(id_))

    def subject(self, msb: int, lsb: int, type_: str) -> Entity | None:
        """What telemetry and attributes are about. The hot path: no id object is made."""
        entity = self._subjects.get((msb, lsb))
        return entity if entity is not None and entity.type == type_ else None

    def remove(self, type_: str, id_: UUID) -> Entity | None:
        """Take an entity out, with its credentials and relations; None: it was not there."""
        entity = self._entities.get(type_, {}).pop(key_of(id_), None)
        if entity is None:
            return None
        del self._subjects[key_of(id_)]
        self.forget(id_)
        self._names.pop((type_, entity.name), None)
        held = self.credentials.pop(id_, None)
        if held is not None:
            self._owners.pop(str(held["credentialsId"]), None)
        self.metadata.pop(id_, None)
        for place, json in list(self.relations.items()):
            if str(id_) in (json["from"]["id"], json["to"]["id"]):
                del self.relations[place]
        return entity

    def forget(self, id_: UUID) -> None:
        """Remember that data of this id are no surprise: it existed once, or was not created for want of quota."""
        self._removed[id_] = None
        if len(self._removed) > _REMEMBERED_IDS:
            self._removed.popitem(last=False)

    def was_removed(self, id_: UUID) -> bool:
        """See `forget`."""
        return id_ in self._removed

    def of_type(self, type_: str) -> list[Entity]:
        """All of one kind, in the order of their creation."""
        return list(self._entities.get(type_, {}).values())

    def all(self) -> Iterator[Entity]:
        """Everything."""
        return iter(self._subjects.values())

    def named(self, type_: str, name: str) -> Entity | None:
        """By name."""
        return self._names.get((type_, name))

    def device_named(self, name: str) -> Entity:
        """By name.

        Raises:
            RejectedError: There is no such device.
        """
        device = self.named("DEVICE", name)
        if device is None:
            raise RejectedError(f"no device is named {name!r}")
        return device

    def free_name(self, type_: str, name: str) -> str:
        """The name with fifteen random letters, as the server renames what clashes."""
        letters = "".join(secrets.choice(string.ascii_letters) for _ in range(15))
        return self.free_name(type_, name) if self.named(type_, f"{name}_{letters}") else f"{name}_{letters}"

    def profile_named(self, type_: str, name: str, now_ms: int) -> Entity:
        """A device or asset profile, made when it does not exist; the one named `default` is the default."""
        known = self.named(type_, name)
        if known is not None:
            return known
        make = entities.device_profile if type_ == "DEVICE_PROFILE" else entities.asset_profile
        id_ = time_uuid()
        return self.add(type_, id_, make(id_, now_ms, self.tenant_id, name, is_default=name == "default"))

    def create_device(self, name: str, profile: str, token: str | None, now_ms: int) -> Entity:
        """A device made in the cloud: with credentials, a made-up token when none is given.

        Raises:
            RejectedError: Name or token is taken.
        """
        if not name.strip():
            raise RejectedError("a device needs a name")
        if self.named("DEVICE", name) is not None:
            raise RejectedError(f"a device named {name!r} exists already")
        token = token or secrets.token_urlsafe(15)
        if self.owner_of(token) is not None:
            raise RejectedError("these credentials are already assigned to another device")
        held = self.profile_named("DEVICE_PROFILE", profile or "default", now_ms)
        id_ = time_uuid()
        made = self.add("DEVICE", id_, entities.device(id_, now_ms, self.tenant_id, name, held.id, held.name))
        self.set_credentials(id_, entities.credentials(time_uuid(), now_ms, id_, "ACCESS_TOKEN", token, None))
        return made

    def set_credentials(self, device_id: UUID, json: JsonObject) -> None:
        """Replace those of a device."""
        held = self.credentials.get(device_id)
        if held is not None:
            self._owners.pop(str(held["credentialsId"]), None)
        self.credentials[device_id] = json
        self._owners[str(json["credentialsId"])] = device_id

    def owner_of(self, credentials_id: str) -> UUID | None:
        """The device that has these credentials."""
        return self._owners.get(credentials_id)

    def relate(self, json: JsonObject) -> None:
        """Upsert a relation."""
        self.relations[_relation_place(json)] = json

    def unrelate(self, json: JsonObject) -> None:
        """Unknown relation is no error."""
        self.relations.pop(_relation_place(json), None)

    def relations_of(self, id_: UUID) -> list[JsonObject]:
        """In either direction, those that touch an EDGE left out."""
        return [
            json
            for json in self.relations.values()
            if str(id_) in (json["from"]["id"], json["to"]["id"])
            and "EDGE" not in (json["from"]["entityType"], json["to"]["entityType"])
        ]

    def has(self, reference: Json) -> bool:
        """Does the entity of an id exist?"""
        return self.get(str(reference["entityType"]), UUID(str(reference["id"]))) is not None

    @property
    def customer_id(self) -> UUID | None:
        """As the edge's configuration has it; None: both halves are 0."""
        if self.customer is CustomerKind.NONE:
            return None
        return NULL_UUID if self.customer is CustomerKind.NULL else self.of_type("CUSTOMER")[0].id


def _relation_place(json: JsonObject) -> tuple[str, str, str]:
    return str(json["from"]["id"]), str(json["to"]["id"]), str(json["type"])
