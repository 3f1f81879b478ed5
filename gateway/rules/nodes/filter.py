"""Filters: they choose the relation and leave the message as it is. Source: reference rule-engine §4.1."""

from __future__ import annotations

from typing import Final

from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome
from gateway.rules.node import FALSE, OTHER, TRUE, Answer, NoConfig, NodeConfig, NodeEnv, Routed, Run, node
from gateway.rules.script import Script

_LABELS: Final = {
    "POST_ATTRIBUTES_REQUEST": "Post attributes",
    "POST_TELEMETRY_REQUEST": "Post telemetry",
    "TO_SERVER_RPC_REQUEST": "RPC Request from Device",
    "RPC_CALL_FROM_SERVER_TO_DEVICE": "RPC Request to Device",
    "ALARM_ACK": "Alarm Acknowledged",
    "ALARM_CLEAR": "Alarm Cleared",
    "RELATION_ADD_OR_UPDATE": "Relation Added or Updated",
    "RELATIONS_DELETED": "All Relations Deleted",
}
# fmt: off
_LABELED_BY_THEIR_WORDS: Final = (
    "ACTIVITY_EVENT", "INACTIVITY_EVENT", "CONNECT_EVENT", "DISCONNECT_EVENT", "ENTITY_CREATED", "ENTITY_UPDATED",
    "ENTITY_DELETED", "ENTITY_ASSIGNED", "ENTITY_UNASSIGNED", "ATTRIBUTES_UPDATED", "ATTRIBUTES_DELETED",
    "TIMESERIES_UPDATED", "TIMESERIES_DELETED", "ENTITY_ASSIGNED_FROM_TENANT", "ENTITY_ASSIGNED_TO_TENANT",
    "ALARM", "ALARM_CREATED", "ALARM_UPDATED", "ALARM_SEVERITY_UPDATED", "ALARM_ASSIGNED", "ALARM_UNASSIGNED",
    "COMMENT_CREATED", "COMMENT_UPDATED", "RPC_QUEUED", "RPC_SENT", "RPC_DELIVERED", "RPC_SUCCESSFUL",
    "RPC_TIMEOUT", "RPC_EXPIRED", "RPC_FAILED", "RPC_DELETED", "RELATION_DELETED", "REST_API_REQUEST",
)
# fmt: on
SWITCH_LABELS: Final = {name: name.replace("_", " ").lower() for name in _LABELED_BY_THEIR_WORDS} | {
    name: label.lower() for name, label in _LABELS.items()
}
"""Message type to relation of the type switch; every other type takes `Other`. Source: §2.2."""


@node("filter.TbMsgTypeSwitchNode", "message type switch", NoConfig)
def message_type_switch(config: NoConfig, env: NodeEnv) -> Run:
    """The relation is the message's type."""
    label_of = SWITCH_LABELS.get
    return lambda msg, out: label_of(msg.type, OTHER)


class TypeFilterConfig(NodeConfig):
    """Any text may be a type."""

    message_types: tuple[str, ...] = ("POST_ATTRIBUTES_REQUEST", "POST_TELEMETRY_REQUEST", "TO_SERVER_RPC_REQUEST")


@node("filter.TbMsgTypeFilterNode", "message type filter", TypeFilterConfig)
def message_type_filter(config: TypeFilterConfig, env: NodeEnv) -> Run:
    """True when the type is in the list; case matters."""
    wanted = frozenset(config.message_types)
    return lambda msg, out: TRUE if msg.type in wanted else FALSE


class OriginatorTypeConfig(NodeConfig):
    """Entity types."""

    originator_types: tuple[str, ...] = ("DEVICE",)


@node("filter.TbOriginatorTypeFilterNode", "entity type filter", OriginatorTypeConfig)
def originator_type_filter(config: OriginatorTypeConfig, env: NodeEnv) -> Run:
    """True when the originator is of one of the types."""
    wanted = frozenset(config.originator_types)
    return lambda msg, out: TRUE if msg.originator.type in wanted else FALSE


@node("filter.TbOriginatorTypeSwitchNode", "entity type switch", NoConfig)
def originator_type_switch(config: NoConfig, env: NodeEnv) -> Run:
    """The relation is the originator's type in words."""
    return lambda msg, out: msg.originator.type.replace("_", " ").lower()


@node("filter.TbDeviceTypeSwitchNode", "device profile switch", NoConfig)
def device_profile_switch(config: NoConfig, env: NodeEnv) -> Run:
    """The relation is the name of the device's profile."""
    state = env.state

    def run(msg: Message, out: Outcome) -> Answer:
        device = state.device(msg.originator.id) if msg.originator.type == "DEVICE" else None
        if device is None:
            raise RejectedError("the originator is no device that is known here")
        profile = state.profile(device.profile_id) if device.profile_id else None
        return Routed(((profile.name if profile else device.type).lower(),), (msg,))

    return run


class CheckFieldsConfig(NodeConfig):
    """Keys of the body and of the metadata."""

    message_names: tuple[str, ...] = ()
    metadata_names: tuple[str, ...] = ()
    check_all_keys: bool = False


@node("filter.TbCheckMessageNode", "check fields presence", CheckFieldsConfig)
def check_fields(config: CheckFieldsConfig, env: NodeEnv) -> Run:
    """True when all (or at least one) of the keys are there; present but null counts."""
    in_body, in_metadata = config.message_names, config.metadata_names
    needs_all = config.check_all_keys

    def run(msg: Message, out: Outcome) -> Answer:
        data, metadata = msg.data, msg.metadata
        if in_body and not isinstance(data, dict):
            raise RejectedError("the body is no object")
        for key in in_body:
            if (key in data) is not needs_all:
                return FALSE if needs_all else TRUE
        for key in in_metadata:
            if (key in metadata) is not needs_all:
                return FALSE if needs_all else TRUE
        return TRUE if needs_all else FALSE

    return run


class ScriptConfig(NodeConfig):
    """Both texts are always there; only that of the language counts. No language means JavaScript."""

    script_lang: str = "JS"
    js_script: str = ""
    tbel_script: str = ""

    @property
    def is_tbel(self) -> bool:
        """The language."""
        return self.script_lang.upper() == "TBEL"

    @property
    def body(self) -> str:
        """The text of the chosen language."""
        return self.tbel_script if self.is_tbel else self.js_script


@node("filter.TbJsFilterNode", "script", ScriptConfig)
def script_filter(config: ScriptConfig, env: NodeEnv) -> Run:
    """True or False as the script says."""
    is_true = Script("filter", config.body or "return msg.temperature > 20;", config.is_tbel, env.shared).is_true
    return lambda msg, out: TRUE if is_true(msg) else FALSE


@node("filter.TbJsSwitchNode", "switch", ScriptConfig)
def script_switch(config: ScriptConfig, env: NodeEnv) -> Run:
    """The relations that the script names; an empty list ends the message."""
    if not config.body:
        raise RejectedError("it has no script")
    labels_of = Script("switch", config.body, config.is_tbel, env.shared).labels
    return lambda msg, out: Routed(tuple(dict.fromkeys(label.lower() for label in labels_of(msg))), (msg,))
