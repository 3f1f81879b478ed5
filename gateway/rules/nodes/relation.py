"""Create and delete relation. Both are durable here and told to the cloud. Source: reference rule-engine §4.4.

The state knows what is durable. What these nodes have sent to the disk since is remembered beside it, so that the
second of two messages sees what the first has done. What is remembered may repeat a write, it never prevents one.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator
from typing import Any, Final, Literal

import orjson
from pydantic import Field

from gateway.domain.changes import AppendEvent, DeleteEntity, SaveDevice, SaveEntity, SaveProfile
from gateway.domain.cloud_event import Action, CloudEvent
from gateway.domain.entity import Credentials, CredentialsType, Device, DeviceProfile, EntityId, Json, time_uuid
from gateway.domain.message import Message, MessageType
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.entities import named, reference
from gateway.rules.node import SUCCESS, Answer, NodeConfig, NodeEnv, Recent, Routed, Run, node
from gateway.rules.template import template

MAX_RELATIONS: Final = 50_000
MAX_MADE: Final = 20_000
"""Devices, or assets, with which no node makes another one."""
MAX_REMEMBERED: Final = 100
MAX_NAME_CHARS: Final = 255
ON_THE_WAY_S: Final = 60.0

Direction = Literal["FROM", "TO"]
_TYPES: Final = frozenset({"ASSET", "DEVICE", "ENTITY_VIEW", "CUSTOMER", "TENANT", "EDGE", "USER", "DASHBOARD"})


class CreateRelationConfig(NodeConfig):
    """Between the originator and an entity of this type and name."""

    direction: Direction = Field("FROM", description="`FROM` the originator, or `TO` it.")
    relation_type: str = Field("Contains", description="A template.")
    entity_type: str = Field("", description=f"One of {', '.join(sorted(_TYPES))}.")
    entity_name_pattern: str = Field("", description="A template; the whole name (of a customer: the title).")
    entity_type_pattern: str = Field("", description="A template; profile of an entity that is made.")
    create_entity_if_not_exists: bool = Field(False, description="Devices and assets only.")
    change_originator_to_related_entity: bool = Field(False, description="What goes on is about that entity.")
    remove_current_relations: bool = Field(
        False, description="Before, the originator's relations of this type and direction are deleted."
    )


class DeleteRelationConfig(NodeConfig):
    """All relations of a type and direction, or only that to one entity."""

    direction: Direction = Field("FROM", description="`FROM` the originator, or `TO` it.")
    relation_type: str = Field("Contains", description="A template.")
    delete_for_single_entity: bool = Field(False, description="Only the relation to the named entity.")
    entity_type: str = ""
    entity_name_pattern: str = Field("", description="A template.")


class _Relation:
    """One, with the key under which it is kept."""

    def __init__(self, ends: tuple[EntityId, EntityId], type_: str, key: str = "") -> None:
        self.ends, self.type = ends, type_
        (near, far) = ends
        self.key = key or f"{near.type}:{near.id}>COMMON/{type_}>{far.type}:{far.id}"

    @property
    def json(self) -> dict[str, Json]:
        near, far = self.ends
        return {
            "from": {"entityType": near.type, "id": str(near.id)},
            "to": {"entityType": far.type, "id": str(far.id)},
            "type": self.type,
            "typeGroup": "COMMON",
            "additionalInfo": None,
        }

    def of(self, entity: EntityId, direction: Direction) -> bool:
        """Does it go from (or to) this entity?"""
        return self.ends[0 if direction == "FROM" else 1] == entity


class _Desk:
    """What both nodes do with relations."""

    def __init__(self, env: NodeEnv) -> None:
        self._env = env
        self._under_way: Recent = env.shared.relations  # of an entity: key to relation, None: deleted

    def held(self, entity: EntityId) -> Iterator[_Relation]:
        """All that this entity has, those under way included."""
        state, under_way = self._env.state, self._under_way.get(entity) or {}
        seen = set()
        for kind, key in state.belongings(entity):
            json: Json = state.entity_json(kind, key) if kind == "RELATION" else None
            if not isinstance(json, dict) or (json.get("typeGroup") or "COMMON") != "COMMON":
                continue
            near, far, type_ = reference(json.get("from")), reference(json.get("to")), json.get("type")
            if near is None or far is None or not isinstance(type_, str):
                continue
            relation = _Relation((near, far), type_, key)
            seen.add(key)
            if under_way.get(key, relation) is not None:
                yield relation
        yield from (one for key, one in under_way.items() if one is not None and key not in seen)

    def add(self, relation: _Relation, out: Outcome) -> None:
        """Nothing when it is there."""
        under_way = self._under_way.get(relation.ends[0]) or {}
        is_held = self._env.state.entity_json("RELATION", relation.key) is not None
        if is_held and under_way.get(relation.key, relation) is not None:
            return
        if len(self._env.state.entities("RELATION")) >= MAX_RELATIONS:
            raise RejectedError(f"there are {MAX_RELATIONS} relations already")
        out.changes.append(SaveEntity("RELATION", relation.key, relation.json))
        self._tell(relation, Action.RELATION_ADD_OR_UPDATE, out)
        self._remember(relation.key, relation, relation.ends)

    def remove(self, relation: _Relation, out: Outcome) -> None:
        """In the store, and in the cloud."""
        out.changes.append(DeleteEntity("RELATION", relation.key))
        self._tell(relation, Action.RELATION_DELETED, out)
        self._remember(relation.key, None, relation.ends)

    def _tell(self, relation: _Relation, action: Action, out: Outcome) -> None:
        event = CloudEvent(
            type="RELATION",
            action=action.value,
            entity_id=None,
            created_ms=self._env.clock.now_ms(),
            body=orjson.dumps(relation.json),
        )
        out.changes.append(AppendEvent(event))

    def _remember(self, key: str, relation: _Relation | None, ends: tuple[EntityId, EntityId]) -> None:
        for end in ends:
            mine = {**(self._under_way.get(end) or {}), key: relation}
            while len(mine) > MAX_REMEMBERED:
                del mine[next(iter(mine))]
            self._under_way.put(end, mine)


@node("action.TbCreateRelationNode", "create relation", CreateRelationConfig)
def create_relation(config: CreateRelationConfig, env: NodeEnv) -> Run:
    """One that is there already is Success; an entity that is not there is made where that is wished, else Failure."""
    _check_type(config.entity_type)
    if config.create_entity_if_not_exists and config.entity_type not in ("DEVICE", "ASSET"):
        raise RejectedError(f"a {config.entity_type.lower()} cannot be made here, only a device or an asset")
    desk, maker = _Desk(env), _Maker(env)
    type_of, name_of = template(config.relation_type), template(config.entity_name_pattern)
    profile_of = template(config.entity_type_pattern)

    def run(msg: Message, out: Outcome) -> Answer:
        type_, name = type_of(msg), name_of(msg)
        if not 0 < len(type_) <= MAX_NAME_CHARS:
            raise RejectedError(f"a relation's type needs 1 to {MAX_NAME_CHARS} characters")
        other = named(env.state, config.entity_type, name) or maker.under_way(config.entity_type, name)
        if other is None and config.create_entity_if_not_exists:
            other = maker.make(config.entity_type, name, profile_of(msg) or "default", msg, out)
        if other is None:
            raise RejectedError(f"there is no {config.entity_type.lower()} {name[:100]!r} here")
        ends = (msg.originator, other) if config.direction == "FROM" else (other, msg.originator)
        if config.remove_current_relations:
            for relation in list(desk.held(msg.originator)):
                if relation.type == type_ and relation.of(msg.originator, config.direction) and relation.ends != ends:
                    desk.remove(relation, out)
        desk.add(_Relation(ends, type_), out)
        if not config.change_originator_to_related_entity:
            return SUCCESS
        moved = Message(
            type=msg.type, originator=other, data=msg.data, metadata=msg.metadata, ts_ms=msg.ts_ms, id=msg.id
        )
        return Routed((SUCCESS,), (moved,))

    return run


@node("action.TbDeleteRelationNode", "delete relation", DeleteRelationConfig)
def delete_relation(config: DeleteRelationConfig, env: NodeEnv) -> Run:
    """Nothing to delete is Success."""
    if config.delete_for_single_entity:
        _check_type(config.entity_type)
    desk, type_of, name_of = _Desk(env), template(config.relation_type), template(config.entity_name_pattern)

    def run(msg: Message, out: Outcome) -> Answer:
        type_, other = type_of(msg), None
        if config.delete_for_single_entity:
            other = named(env.state, config.entity_type, name_of(msg))
            if other is None:
                raise RejectedError(f"there is no {config.entity_type.lower()} {name_of(msg)[:100]!r} here")
        for relation in list(desk.held(msg.originator)):
            if relation.type != type_ or not relation.of(msg.originator, config.direction):
                continue
            if other is None or other in relation.ends:
                desk.remove(relation, out)
        return SUCCESS

    return run


def _check_type(type_: str) -> None:
    if type_ not in _TYPES:
        raise RejectedError(f"entityType {type_!r} cannot be; {', '.join(sorted(_TYPES))} can")


class _Maker:
    """Makes devices and assets, announces them, and knows them before they are durable."""

    def __init__(self, env: NodeEnv) -> None:
        self._env = env
        self._made: Recent = env.shared.made  # type and name to the entity

    def under_way(self, type_: str, name: str) -> EntityId | None:
        """Made, and perhaps not durable yet."""
        made: EntityId | None = self._young((type_, name))
        return made

    def _young(self, key: tuple[str, str]) -> Any:
        """Nothing is longer on its way than `ON_THE_WAY_S`; what is not known by then was deleted again."""
        held = self._made.get(key)
        return held[1] if held is not None and self._env.clock.monotonic_s() - held[0] < ON_THE_WAY_S else None

    def _keep(self, key: tuple[str, str], made: object) -> None:
        self._made.put(key, (self._env.clock.monotonic_s(), made))

    def make(self, type_: str, name: str, profile: str, msg: Message, out: Outcome) -> EntityId:
        """RejectedError: it cannot be made."""
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable() or not name.strip():
            raise RejectedError(f"a name needs 1 to {MAX_NAME_CHARS} characters that can be printed")
        entity = EntityId(type_, time_uuid())
        json = (
            self._device(entity, name, profile, out) if type_ == "DEVICE" else self._asset(entity, name, profile, out)
        )
        now_ms = self._env.clock.now_ms()
        out.changes.append(
            AppendEvent(CloudEvent(type=type_, action=Action.ADDED.value, entity_id=entity.id, created_ms=now_ms))
        )
        out.emitted.append(
            Message(
                type=MessageType.ENTITY_CREATED.value,
                originator=entity,
                data=json,
                metadata={"entityName": name, "entityType": type_},
                ts_ms=now_ms,
            )
        )
        self._keep((type_, name), entity)
        self._env.shared.counters.add("rules.entities_made")
        return entity

    def _device(self, entity: EntityId, name: str, profile_name: str, out: Outcome) -> Json:
        state, now_ms = self._env.state, self._env.clock.now_ms()
        if sum(1 for _ in state.devices()) >= MAX_MADE:
            raise RejectedError(f"there are {MAX_MADE} devices already; no more are made")
        profile: DeviceProfile | None = state.profile_named(profile_name) or self._young(("profile", profile_name))
        if profile is None and profile_name != "default":
            profile = DeviceProfile(id=time_uuid(), name=profile_name)
            out.changes.append(SaveProfile(profile))
            self._keep(("profile", profile_name), profile)
        token = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(20))
        device = Device(
            id=entity.id,
            name=name,
            type=profile_name,
            profile_id=profile.id if profile else None,
            created_ms=now_ms,
            credentials=Credentials(type=CredentialsType.ACCESS_TOKEN.value, credentials_id=token),
        )
        out.changes.append(SaveDevice(device))
        return {
            "id": {"entityType": "DEVICE", "id": str(entity.id)},
            "createdTime": now_ms,
            "name": name,
            "type": profile_name,
        }

    def _asset(self, entity: EntityId, name: str, profile_name: str, out: Outcome) -> Json:
        state = self._env.state
        if len(state.entities("ASSET")) >= MAX_MADE:
            raise RejectedError(f"there are {MAX_MADE} assets already; no more are made")
        profile = named(state, "ASSET_PROFILE", profile_name)
        if profile is None:
            raise RejectedError(f"there is no asset profile {profile_name!r} here: make it in the cloud")
        json = {
            "id": {"entityType": "ASSET", "id": str(entity.id)},
            "createdTime": self._env.clock.now_ms(),
            "name": name,
            "type": profile_name,
            "assetProfileId": {"entityType": "ASSET_PROFILE", "id": str(profile.id)},
        }
        out.changes.append(SaveEntity("ASSET", str(entity.id), json))
        return json
