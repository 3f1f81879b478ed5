"""Protobuf payloads of devices: those of a profile's own schemas, and the fixed ones of the device API.

A schema becomes a message class once; the class lives as long as somebody holds the codec. Only this module
knows the protobuf library.

Source: ThingsBoard 4.3 device API: MQTT transport of a device profile, fixed messages and their field numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message

from gateway.broker.proto_schema import EnumType, Field, MessageType, Schema, SchemaError, parse_schema
from gateway.domain.entity import Json
from gateway.domain.payloads import PayloadError, load_json
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final[dict[str, Any]] = {
    name.removeprefix("TYPE_").lower(): number for name, number in _FIELD.Type.items() if name != "TYPE_GROUP"
}

DEFAULT_RPC_REQUEST: Final = """syntax = "proto3";
message RpcRequestMsg { optional string method = 1; optional int32 requestId = 2; optional string params = 3; }
"""
DEFAULT_RPC_RESPONSE: Final = """syntax = "proto3";
message RpcResponseMsg { optional string payload = 1; }
"""
_FIXED: Final = """syntax = "proto3";
enum KeyValueType { BOOLEAN_V = 0; LONG_V = 1; DOUBLE_V = 2; STRING_V = 3; JSON_V = 4; }
message KeyValue {
  string key = 1; KeyValueType type = 2; bool bool_v = 3; int64 long_v = 4; double double_v = 5;
  string string_v = 6; string json_v = 7;
}
message TsKv { int64 ts = 1; KeyValue kv = 2; optional int64 version = 3; }
message AttributeRequest { string clientKeys = 1; string sharedKeys = 2; }
message AttributeResponse {
  int32 requestId = 1; repeated TsKv clientAttributeList = 2; repeated TsKv sharedAttributeList = 3;
  bool isMultipleAttributesRequest = 4; string error = 5;
}
message AttributeUpdate { repeated TsKv sharedUpdated = 1; repeated string sharedDeleted = 2; }
message RpcRequest { string method = 1; string params = 2; }
message RpcResponse { int32 requestId = 1; string payload = 2; string error = 3; }
message Claim { string secretKey = 1; int64 durationMs = 2; }
"""


class Codec:
    """The last message of one schema: bytes to JSON and back."""

    def __init__(self, text: str) -> None:
        """Compile.

        Raises:
            SchemaError: The schema cannot be used; which line.
        """
        schema = parse_schema(text)
        self._class = _classes(schema)[schema.messages[-1].name]

    def to_json(self, payload: bytes) -> dict[str, Json]:
        """As protobuf's JSON: fields without a value have their default, `optional` ones are absent.

        Raises:
            PayloadError: Not this message.
        """
        tree: dict[str, Json] = json_format.MessageToDict(
            decode(self._class, payload), always_print_fields_with_no_presence=True
        )
        return tree

    def from_json(self, tree: Mapping[str, Json]) -> bytes:
        """Unknown members are left out.

        Raises:
            RejectedError: A member is of a wrong kind.
        """
        message = self._class()
        try:
            json_format.ParseDict(dict(tree), message, ignore_unknown_fields=True)
        except json_format.ParseError as error:
            name = self._class.DESCRIPTOR.name
            raise RejectedError(f"it does not fit the message {name} of the profile's schema") from error
        return message.SerializeToString()

    def is_message(self, name: str) -> bool:
        """Is this field a message (and so takes a JSON object)?"""
        of = self._class.DESCRIPTOR.fields_by_name.get(name)
        return of is not None and of.message_type is not None


def encode_rpc_request(codec: Codec, rpc_id: int, request: RpcRequest) -> bytes:
    """A call; params that the schema takes as text are JSON text, a text as it is.

    Raises:
        RejectedError: It does not fit the profile's schema.
    """
    params = request.params
    if not codec.is_message("params") and not isinstance(params, str):
        params = orjson.dumps(params).decode()
    return codec.from_json({"method": request.method, "requestId": rpc_id, "params": params})


def attribute_keys(payload: bytes) -> tuple[list[str] | None, list[str] | None]:
    """As `payloads.parse_attribute_request`. A scope without keys is not asked for; none in both: everything.

    Raises:
        PayloadError: Not this message.
    """
    message = decode(_classes_fixed["AttributeRequest"], payload)
    client, shared = (text.split(",") if text else None for text in (message.clientKeys, message.sharedKeys))
    return ([], []) if client is None and shared is None else (client, shared)


def client_rpc(payload: bytes) -> tuple[str, Json]:
    """Method and params; params are JSON text, or any other text.

    Raises:
        PayloadError: Not this message; fatal without a method.
    """
    message = decode(_classes_fixed["RpcRequest"], payload)
    if not message.method:
        raise PayloadError('an RPC request needs a "method"', is_fatal=True)
    if not message.params:
        return message.method, None
    try:
        return message.method, load_json(message.params.encode(), cast=True)
    except PayloadError:
        return message.method, message.params


def claim(payload: bytes) -> tuple[str, int]:
    """Secret key and duration in milliseconds.

    Raises:
        PayloadError: Not this message.
    """
    message = decode(_classes_fixed["Claim"], payload)
    return message.secretKey, message.durationMs


def rpc_response(request_id: int, text: str) -> bytes:
    """The answer to a call that the device made."""
    message: bytes = _classes_fixed["RpcResponse"](requestId=request_id, payload=text).SerializeToString()
    return message


def attribute_response(request_id: int, client: Mapping[str, Value], shared: Mapping[str, Value], now_ms: int) -> bytes:
    """Attributes that were found, with the time of the answer."""
    message = _classes_fixed["AttributeResponse"](requestId=request_id, isMultipleAttributesRequest=True)
    add_values(message.clientAttributeList, client, now_ms)
    add_values(message.sharedAttributeList, shared, now_ms)
    body: bytes = message.SerializeToString()
    return body


def attribute_update(values: Mapping[str, Value], deleted: Sequence[str], now_ms: int) -> bytes:
    """A push of changed or deleted shared attributes, with the time of the push."""
    message = _classes_fixed["AttributeUpdate"](sharedDeleted=deleted)
    add_values(message.sharedUpdated, values, now_ms)
    body: bytes = message.SerializeToString()
    return body


def add_values(into: Any, values: Mapping[str, Value], now_ms: int) -> None:
    """To a list of TsKv messages."""
    for key, value in values.items():
        item = into.add(ts=now_ms)
        item.kv.key = key
        if isinstance(value, bool):
            item.kv.type, item.kv.bool_v = 0, value
        elif isinstance(value, int):
            item.kv.type, item.kv.long_v = 1, value
        elif isinstance(value, float):
            item.kv.type, item.kv.double_v = 2, value
        elif isinstance(value, str):
            item.kv.type, item.kv.string_v = 3, value
        else:
            item.kv.type, item.kv.json_v = 4, orjson.dumps(value).decode()


def fixed_messages(text: str) -> Mapping[str, Any]:
    """Classes by name of more fixed messages, which may use the ones of this module."""
    return _classes(parse_schema(_FIXED + text))


def decode(kind: Any, payload: bytes) -> Any:
    """A message of one of these classes.

    Raises:
        PayloadError: Not this message.
    """
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise PayloadError(f"not the protobuf message {kind.DESCRIPTOR.name}") from error


def _classes(schema: Schema) -> dict[str, type[Message]]:
    """Message classes by name, outermost messages only."""
    file = descriptor_pb2.FileDescriptorProto(name="profile.proto", package=schema.package, syntax="proto3")
    for message in schema.messages:
        _describe(message, file.message_type.add())
    for enum in schema.enums:
        _describe_enum(enum, file.enum_type.add())
    pool = descriptor_pool.DescriptorPool()
    try:
        made = pool.AddSerializedFile(file.SerializeToString())
    except TypeError as error:
        raise SchemaError(1, f"the schema contradicts itself: {error}") from error
    return {name: message_factory.GetMessageClass(of) for name, of in made.message_types_by_name.items()}


def _describe(message: MessageType, into: descriptor_pb2.DescriptorProto) -> None:
    into.name = message.name
    into.options.map_entry = message.is_map
    for name in message.oneofs:
        into.oneof_decl.add(name=name)
    for of in message.fields:
        _describe_field(of, message, into)
    for inner in message.messages:
        _describe(inner, into.nested_type.add())
    for enum in message.enums:
        _describe_enum(enum, into.enum_type.add())


def _describe_field(of: Field, message: MessageType, into: descriptor_pb2.DescriptorProto) -> None:
    made = into.field.add(name=of.name, number=of.number)
    made.label = _FIELD.LABEL_REPEATED if of.is_repeated else _FIELD.LABEL_OPTIONAL
    if of.type.startswith("."):
        made.type, made.type_name = (_FIELD.TYPE_ENUM if of.is_enum else _FIELD.TYPE_MESSAGE), of.type
    else:
        made.type = _SCALARS[of.type]
    if of.json_name is not None:
        made.json_name = of.json_name
    if of.oneof is not None:
        made.oneof_index = message.oneofs.index(of.oneof)
    elif of.is_optional:  # presence is a oneof of its own, behind the others
        made.proto3_optional = True
        made.oneof_index = len(into.oneof_decl)
        into.oneof_decl.add(name=f"_{of.name}")


def _describe_enum(enum: EnumType, into: descriptor_pb2.EnumDescriptorProto) -> None:
    into.name = enum.name
    into.options.allow_alias = enum.allows_alias
    for name, number in enum.values:
        into.value.add(name=name, number=number)


_classes_fixed: Final[dict[str, Any]] = dict(_classes(parse_schema(_FIXED)))
