"""Push to cloud: the one door by which telemetry, attributes and alarms go up.

Success means *stored here*; order, batching and retries are the uplink's. Source: reference rule-engine §5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import UUID

import orjson

from gateway.domain.changes import AppendEvent, SaveSetting
from gateway.domain.cloud_event import Action, CloudEvent, Lane
from gateway.domain.entity import EntityType, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome, attributes_mark
from gateway.rules.chain import entity_uuid
from gateway.rules.node import LAST_MS, SUCCESS, Answer, NodeConfig, NodeEnv, Run, Shared, node

_TIMESERIES: Final = Action.TIMESERIES_UPDATED.value
_SOON_MS: Final = 1_000  # a start takes longer
_ORIGINATORS: Final = frozenset(kind.value for kind in EntityType) - {"RULE_NODE", "ALARM"}

_Build = Callable[[Message, str, Shared, Outcome], CloudEvent]


class PushConfig(NodeConfig):
    """The scope of attributes whose metadata names none."""

    scope: str = "SERVER_SCOPE"


@node("edge.TbMsgPushToCloudNode", "push to cloud", PushConfig)
def push_to_cloud(config: PushConfig, env: NodeEnv) -> Run:
    """Appends an event. What came from the cloud ends here: it is not sent back."""
    scope, shared = config.scope, env.shared
    build_of = _BUILDERS.get

    def run(msg: Message, out: Outcome) -> Answer:
        source = msg.metadata.get("source")
        if source is not None and source.lower() == "cloud":
            return None
        build = build_of(msg.type)
        if build is None:
            raise RejectedError(f"messages of type {msg.type!r} cannot go to the cloud")
        if msg.originator.type not in _ORIGINATORS and build is not _alarm:
            raise RejectedError(f"the cloud takes no data of a {msg.originator.type.lower()}")
        out.changes.append(AppendEvent(build(msg, scope, shared, out)))
        return SUCCESS

    return run


def _event(msg: Message, action: str, body: Json, shared: Shared, lane: Lane = Lane.MAIN) -> CloudEvent:
    try:
        text = orjson.dumps(body)
    except TypeError as error:
        raise RejectedError(f"the body is no valid JSON: {error}") from None
    originator = msg.originator
    return CloudEvent(originator.type, action, originator.id, shared.clock.now_ms(), text, lane)


def _values(msg: Message) -> dict[str, Json]:
    """Only an object survives the way up: an array would be stored, confirmed, and lost without a word."""
    data = msg.data
    if not isinstance(data, dict):
        raise RejectedError("the body is no object, the cloud would drop it: split or transform it first")
    if None in data.values():
        return {key: value for key, value in data.items() if value is not None}
    return data


def _telemetry(msg: Message, scope: str, shared: Shared, out: Outcome) -> CloudEvent:
    values, ts_ms = _values(msg), msg.data_ts_ms
    if "values" in values and isinstance(values["values"], dict) and type(values.get("ts")) is int:
        values, ts_ms = values["values"], values["ts"]
    return _event(msg, _TIMESERIES, {"ts": ts_ms, "data": values}, shared)


def _attributes_body(msg: Message, configured: str, shared: Shared, out: Outcome) -> dict[str, Json]:
    values, scope = _values(msg), msg.metadata.get("scope") or configured
    ts_ms = shared.attributes_ms(msg.originator, scope, msg.data_ts_ms)
    if shared.clock.now_ms() + _SOON_MS < ts_ms <= LAST_MS:  # no clock will say after a restart what was reached
        out.changes.append(SaveSetting(attributes_mark(msg.originator, scope), ts_ms))
    return {"kv": values, "ts": ts_ms, "scope": scope}


def _post_attributes(msg: Message, scope: str, shared: Shared, out: Outcome) -> CloudEvent:
    body = {**_attributes_body(msg, scope, shared, out), "isPostAttributes": True}
    return _event(msg, Action.POST_ATTRIBUTES.value, body, shared)


def _attributes_updated(msg: Message, scope: str, shared: Shared, out: Outcome) -> CloudEvent:
    return _event(msg, Action.ATTRIBUTES_UPDATED.value, _attributes_body(msg, scope, shared, out), shared)


def _attributes_deleted(msg: Message, scope: str, shared: Shared, out: Outcome) -> CloudEvent:
    keys = _values(msg).get("attributes")
    if not isinstance(keys, list):
        raise RejectedError("the body needs 'attributes', the list of deleted keys")
    body = {"keys": keys, "scope": msg.metadata.get("scope") or scope}
    return _event(msg, Action.ATTRIBUTES_DELETED.value, body, shared)


def _activity(msg: Message, scope: str, shared: Shared, out: Outcome) -> CloudEvent:
    return (_attributes_updated if msg.metadata.get("scope") else _telemetry)(msg, scope, shared, out)


def _rpc_call(msg: Message, scope: str, shared: Shared, out: Outcome) -> CloudEvent:
    data, metadata = msg.data, msg.metadata
    if not isinstance(data, dict) or "method" not in data or "params" not in data:
        raise RejectedError("the body needs 'method' and 'params'")
    body = {
        "requestId": metadata.get("requestId"),
        "serviceId": metadata.get("serviceId"),
        "sessionId": metadata.get("sessionId"),
        "method": data["method"],
        "params": orjson.dumps(data["params"]).decode(),
    }
    if body["requestId"] is None:
        raise RejectedError("metadata has no requestId: the answer would find nobody")
    return _event(msg, Action.RPC_CALL.value, body, shared, Lane.EXPRESS)


def _alarm(msg: Message, scope: str, shared: Shared, out: Outcome) -> CloudEvent:
    """Without a body: the alarm is read from the store when it is sent."""
    alarm_id: UUID | None = entity_uuid(msg.data.get("id")) if isinstance(msg.data, dict) else None
    if alarm_id is None:
        raise RejectedError("the body is no alarm: it has no id")
    if msg.type in (Action.ALARM_ACK, Action.ALARM_CLEAR):
        action = msg.type
    elif msg.metadata.get("isNewAlarm") == "true":
        action = Action.ADDED.value
    elif msg.metadata.get("isClearedAlarm") == "true":
        action = Action.ALARM_CLEAR.value
    else:
        action = Action.UPDATED.value
    return CloudEvent(type="ALARM", action=action, entity_id=alarm_id, created_ms=shared.clock.now_ms())


_BUILDERS: Final[dict[str, _Build]] = {
    "POST_TELEMETRY_REQUEST": _telemetry,
    "TIMESERIES_UPDATED": _telemetry,
    "POST_ATTRIBUTES_REQUEST": _post_attributes,
    "ATTRIBUTES_UPDATED": _attributes_updated,
    "ATTRIBUTES_DELETED": _attributes_deleted,
    "CONNECT_EVENT": _activity,
    "DISCONNECT_EVENT": _activity,
    "ACTIVITY_EVENT": _activity,
    "INACTIVITY_EVENT": _activity,
    "TO_SERVER_RPC_REQUEST": _rpc_call,
    "ALARM": _alarm,
    "ALARM_CREATED": _alarm,
    "ALARM_UPDATED": _alarm,
    "ALARM_SEVERITY_UPDATED": _alarm,
    "ALARM_ACK": _alarm,
    "ALARM_CLEAR": _alarm,
}
