"""RPC nodes. Source: reference rule-engine §4.8."""

from __future__ import annotations

import random
from typing import TypeGuard
from uuid import UUID

import orjson

from gateway.domain.entity import Json
from gateway.domain.message import Message, MessageType
from gateway.domain.rpc import RpcRequest
from gateway.errors import RejectedError
from gateway.ports import Outcome, RuleReply
from gateway.rules.node import SUCCESS, Answer, Call, NodeConfig, NodeEnv, Run, node


class RpcRequestConfig(NodeConfig):
    """The time a call without `expirationTime` has."""

    timeout_in_seconds: int = 60


@node("rpc.TbSendRPCRequestNode", "rpc call request", RpcRequestConfig)
def rpc_call_request(config: RpcRequestConfig, env: NodeEnv) -> Run:
    """Calls the device after the commit; its answer is a new message by Success, an error one by Failure."""
    clock = env.clock

    def run(msg: Message, out: Outcome) -> Answer:
        data, metadata = msg.data, msg.metadata
        if msg.originator.type != "DEVICE":
            raise RejectedError(f"an RPC needs a device, the originator is a {msg.originator.type.lower()}")
        if not isinstance(data, dict):
            raise RejectedError("the body is no object")
        method = data.get("method")
        if not isinstance(method, str) or "params" not in data:
            raise RejectedError("the body needs 'method' (a text) and 'params'")
        request_id = data.get("requestId")
        request_uuid = _uuid(metadata.get("requestUUID"))
        is_from_server = msg.type == MessageType.RPC_CALL_FROM_SERVER_TO_DEVICE.value
        return Call(
            RpcRequest(
                device_id=msg.originator.id,
                method=method,
                params=_parsed(data["params"]),
                request_id=request_id if _is_int32(request_id) else random.getrandbits(31),
                expires_ms=_number(metadata.get("expirationTime")) or clock.now_ms() + config.timeout_in_seconds * 1000,
                is_oneway=metadata.get("oneway", "").lower() == "true",
                is_persisted=metadata.get("persistent", "").lower() == "true",
                request_uuid=request_uuid,
                is_from_cloud=is_from_server and request_uuid is not None,
                retries=_number(metadata.get("retries")) or 0,
            )
        )

    return run


class RpcReplyConfig(NodeConfig):
    """Where in metadata the caller's marks are."""

    service_id_meta_data_attribute: str = "serviceId"
    session_id_meta_data_attribute: str = "sessionId"
    request_id_meta_data_attribute: str = "requestId"


@node("rpc.TbSendRPCReplyNode", "rpc call reply", RpcReplyConfig)
def rpc_call_reply(config: RpcReplyConfig, env: NodeEnv) -> Run:
    """Sends the body to the device that has called."""

    def run(msg: Message, out: Outcome) -> Answer:
        metadata = msg.metadata
        if msg.originator.type != "DEVICE":
            raise RejectedError(f"a reply needs a device, the originator is a {msg.originator.type.lower()}")
        session_id = metadata.get(config.session_id_meta_data_attribute)
        request_id = _number(metadata.get(config.request_id_meta_data_attribute))
        if not session_id or request_id is None or not metadata.get(config.service_id_meta_data_attribute):
            raise RejectedError("metadata has no serviceId, sessionId or requestId: the caller is not known")
        if msg.data is None or msg.data == "":
            raise RejectedError("the body is empty")
        out.replies.append(RuleReply(msg.originator.id, session_id, request_id, orjson.dumps(msg.data).decode()))
        return SUCCESS

    return run


def _parsed(params: Json) -> Json:
    """Parameters travel as text; a text that is no JSON stays what it is."""
    if isinstance(params, str):
        try:
            return orjson.loads(params)
        except orjson.JSONDecodeError:
            return params
    return params


def _is_int32(value: Json) -> TypeGuard[int]:
    """What a `requestId` is on the wire."""
    return type(value) is int and -(1 << 31) <= value < 1 << 31


def _number(text: str | None) -> int | None:
    try:
        number = int(text) if text else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < 1 << 63 else None


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
