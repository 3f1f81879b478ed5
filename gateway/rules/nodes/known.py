"""Filters that ask what the gateway knows of profiles, relations, alarms and places.

Source: reference rule-engine §4.1.
"""

from __future__ import annotations

from typing import Any

from gateway.domain.entity import EntityId
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.chain import entity_uuid
from gateway.rules.entities import is_known, profile_name
from gateway.rules.geofence import GeofenceConfig, geofence
from gateway.rules.node import FALSE, TRUE, Answer, NoConfig, NodeConfig, NodeEnv, Routed, Run, node
from gateway.rules.relations import Direction, relations


@node("filter.TbAssetTypeSwitchNode", "asset profile switch", NoConfig)
def asset_profile_switch(config: NoConfig, env: NodeEnv) -> Run:
    """The relation is the name of the asset's profile."""

    def run(msg: Message, out: Outcome) -> Answer:
        name = profile_name(env.state, msg.originator) if msg.originator.type == "ASSET" else None
        if name is None:
            raise RejectedError("the originator is no asset whose profile is known here")
        return Routed((name.lower(),), (msg,))

    return run


class CheckRelationConfig(NodeConfig):
    """`entityType` and `entityId` count with `checkForSingleEntity`."""

    direction: Direction = "FROM"
    relation_type: str = "Contains"
    check_for_single_entity: bool = False
    entity_type: str = ""
    entity_id: Any = None


@node("filter.TbCheckRelationNode", "check relation presence", CheckRelationConfig)
def check_relation(config: CheckRelationConfig, env: NodeEnv) -> Run:
    """True when the originator has such a relation, with one entity or with any. The entity is looked up when a
    message comes, because it may arrive later than the chain.
    """
    single: EntityId | None = None
    if config.check_for_single_entity:
        id_ = entity_uuid(config.entity_id)
        if id_ is None or not config.entity_type:
            raise RejectedError("checkForSingleEntity needs entityType and entityId")
        single = EntityId(config.entity_type, id_)

    def run(msg: Message, out: Outcome) -> Answer:
        if single is not None and not is_known(env.state, single):
            raise RejectedError(f"the {single.type.lower()} {single.id} is not known here")
        for type_, other in relations(env.state, msg.originator, config.direction):
            if type_ == config.relation_type and single in (None, other):
                return TRUE
        return FALSE

    return run


class AlarmStatusConfig(NodeConfig):
    """ACTIVE_UNACK, ACTIVE_ACK, CLEARED_UNACK, CLEARED_ACK."""

    alarm_status_list: tuple[str, ...] = ("ACTIVE_ACK", "ACTIVE_UNACK")


@node("filter.TbCheckAlarmStatusNode", "alarm status filter", AlarmStatusConfig)
def alarm_status(config: AlarmStatusConfig, env: NodeEnv) -> Run:
    """True when the alarm in the body has one of these statuses now, whatever the body says."""
    wanted = frozenset(config.alarm_status_list)

    def run(msg: Message, out: Outcome) -> Answer:
        id_ = entity_uuid(msg.data.get("id")) if isinstance(msg.data, dict) else None
        if id_ is None:
            raise RejectedError("the body is no alarm: it has no id")
        alarm = env.shared.alarms.alarm(str(id_))
        if not isinstance(alarm, dict):
            raise RejectedError(f"the alarm {id_} is not known here")
        status = ("CLEARED_" if alarm.get("cleared") is True else "ACTIVE_") + (
            "ACK" if alarm.get("acknowledged") is True else "UNACK"
        )
        return TRUE if status in wanted else FALSE

    return run


@node("geo.TbGpsGeofencingFilterNode", "gps geofencing filter", GeofenceConfig)
def geofencing_filter(config: GeofenceConfig, env: NodeEnv) -> Run:
    """True inside the perimeter."""
    is_inside = geofence(config)
    return lambda msg, out: TRUE if is_inside(msg) else FALSE
