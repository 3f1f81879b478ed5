"""Create alarm and clear alarm. Source: reference rule-engine §7.1, §7.3.

The alarm, and what tells of it, are changes of the message: durable together. Besides the message that goes on, the
originator's chain hears ENTITY_CREATED, ENTITY_UPDATED or ALARM_CLEAR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from uuid import uuid5

import orjson

from gateway.domain.alarm import SEVERITIES, Propagation, is_modified, with_status
from gateway.domain.entity import Json
from gateway.domain.message import Message, MessageType
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.node import FALSE, SUCCESS, Answer, NodeConfig, NodeEnv, Routed, Run, changed, node
from gateway.rules.script import Script
from gateway.rules.template import template

_CREATED: Final = "created"
_UPDATED: Final = "updated"
_CLEARED: Final = "cleared"

_Details = Callable[[Message, Mapping[str, Json] | None], Json]


class DetailsConfig(NodeConfig):
    """Both texts are always there; only that of the language counts. No language means JavaScript."""

    alarm_type: str = "General Alarm"
    script_lang: str = "JS"
    alarm_details_build_js: str = ""
    alarm_details_build_tbel: str = ""


class CreateAlarmConfig(DetailsConfig):
    """`alarmType`, and with `dynamicSeverity` also `severity`, are templates."""

    severity: str = "CRITICAL"
    dynamic_severity: bool = False
    propagate: bool = False
    propagate_to_owner: bool = False
    propagate_to_tenant: bool = False
    relation_types: tuple[str, ...] = ()
    use_message_alarm_data: bool = False
    overwrite_alarm_details: bool = True  # §4.9: absent is true


@node("action.TbCreateAlarmNode", "create alarm", CreateAlarmConfig)
def create_alarm(config: CreateAlarmConfig, env: NodeEnv) -> Run:
    """Creates the originator's alarm of this type, or updates the one that is not cleared."""
    if not (config.dynamic_severity or config.use_message_alarm_data):
        _severity(config.severity)
    return _Create(config, env).run


class _Create:
    def __init__(self, config: CreateAlarmConfig, env: NodeEnv) -> None:
        self._config, self._env, self._alarms = config, env, env.shared.alarms
        self._type, self._severity = template(config.alarm_type), template(config.severity)
        self._details = _details(config, env)
        self._node_id = _node_id(env)
        self._propagation = Propagation(
            relations=config.propagate,
            owner=config.propagate_to_owner,
            tenant=config.propagate_to_tenant,
            relation_types=config.relation_types,
        )

    def run(self, msg: Message, out: Outcome) -> Answer:
        """See `create_alarm`."""
        data = _alarm_data(msg) if self._config.use_message_alarm_data else None
        type_ = self._type(msg) if data is None else str(data["type"])
        held = self._alarms.open_alarm(msg.originator, type_)
        key, alarm = held or ("", None)
        severity, propagation, details = self._wanted(msg, data, alarm)
        if alarm is None:
            fresh = self._alarms.create(
                out,
                msg.originator,
                type_,
                severity,
                start_ms=msg.data_ts_ms,
                details=details,
                propagation=propagation,
            )
            if fresh is None:
                return FALSE
            return _told(msg, out, fresh, _CREATED, "isNewAlarm", MessageType.ENTITY_CREATED.value, self._node_id)
        now_ms = self._env.clock.now_ms()
        fresh = with_status(alarm, severity=severity, endTs=now_ms, details=details, **propagation.to_json())
        if not is_modified(alarm, fresh):
            return SUCCESS
        self._alarms.save(out, key, fresh)
        return _told(msg, out, fresh, _UPDATED, "isExistingAlarm", MessageType.ENTITY_UPDATED.value, self._node_id)

    def _wanted(
        self, msg: Message, data: Mapping[str, Json] | None, alarm: Mapping[str, Json] | None
    ) -> tuple[str, Propagation, Json]:
        if data is None:
            severity = self._severity(msg) if self._config.dynamic_severity else self._config.severity
            return _severity(severity), self._propagation, self._details(msg, alarm)
        types = data.get("propagateRelationTypes")
        propagation = Propagation(
            relations=data.get("propagate") is True,
            owner=data.get("propagateToOwner") is True,
            tenant=data.get("propagateToTenant") is True,
            relation_types=[str(one) for one in types] if isinstance(types, list) else None,
        )
        is_own = self._config.overwrite_alarm_details
        return (
            _severity(data.get("severity")),
            propagation,
            self._details(msg, alarm) if is_own else data.get("details"),
        )


@node("action.TbClearAlarmNode", "clear alarm", DetailsConfig)
def clear_alarm(config: DetailsConfig, env: NodeEnv) -> Run:
    """Clears the originator's alarm of this type; of an alarm as originator that alarm itself."""
    alarms, type_of, node_id = env.shared.alarms, template(config.alarm_type), _node_id(env)
    details_of = _details(config, env)

    def run(msg: Message, out: Outcome) -> Answer:
        if msg.originator.type == "ALARM":
            key = str(msg.originator.id)
            alarm = alarms.alarm(key)
        else:
            key, alarm = alarms.open_alarm(msg.originator, type_of(msg)) or ("", None)
        if alarm is None or alarm.get("cleared") is True:
            return FALSE
        cleared = alarms.clear(out, key, alarm, details_of(msg, alarm))
        return _told(msg, out, cleared, _CLEARED, "isClearedAlarm", "ALARM_CLEAR", node_id)

    return run


def _details(config: DetailsConfig, env: NodeEnv) -> _Details:
    """What the script makes of the message; it sees the old details as text in metadata `prevAlarmDetails`."""
    is_tbel = config.script_lang.upper() == "TBEL"
    body = config.alarm_details_build_tbel if is_tbel else config.alarm_details_build_js
    if not body:
        return lambda msg, alarm: {} if alarm is None else alarm.get("details")
    script = Script("details", body, is_tbel, env.shared)

    def make(msg: Message, alarm: Mapping[str, Json] | None) -> Json:
        if alarm is not None:
            text = orjson.dumps(alarm.get("details")).decode()
            msg = changed(msg, metadata={**msg.metadata, "prevAlarmDetails": text})
        return script.details(msg)

    return make


def _told(
    msg: Message, out: Outcome, alarm: Mapping[str, Json], label: str, flag: str, event: str, node_id: str
) -> Routed:
    """The message goes on as the alarm; a second one enters the originator's own chain."""
    out.emitted.append(
        Message(type=event, originator=msg.originator, data=alarm, metadata={"ruleNodeId": node_id}, ts_ms=msg.ts_ms)
    )
    return Routed((label,), (changed(msg, data=alarm, metadata={**msg.metadata, flag: "true"}, type_="ALARM"),))


def _severity(text: Json) -> str:
    if text not in SEVERITIES:
        raise RejectedError(f"{str(text)[:50]!r} is no severity; there are {', '.join(SEVERITIES)}")
    return str(text)


def _alarm_data(msg: Message) -> Mapping[str, Json]:
    data = msg.data
    if not isinstance(data, dict) or not isinstance(data.get("type"), str) or not data["type"]:
        raise RejectedError("the body is no alarm: it needs 'type' and 'severity' (useMessageAlarmData)")
    return data


def _node_id(env: NodeEnv) -> str:
    """Ids of nodes change with each update of a chain; this one does not."""
    return str(uuid5(env.chain_id, env.name))
