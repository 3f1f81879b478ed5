"""How a gateway speaks of the devices behind it: JSON, protobuf, or protobuf for whoever is not understood as JSON.

The profile of the gateway itself says which. Up, protobuf values keep the types that they were sent with: no text
becomes a number.

Source: ThingsBoard 4.3 gateway API and its fixed protobuf messages with their field numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import orjson

from gateway.broker import gateway_payloads as json_forms
from gateway.broker import protobuf
from gateway.broker.gateway_payloads import AttributeQuestion, Latency, ShapeError
from gateway.domain import payloads
from gateway.domain.entity import Json
from gateway.domain.payloads import PayloadError
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import TsKv, Value

T = TypeVar("T")

_MESSAGES: Final = """
message Open { string device = 1; string profile = 2; }
message Close { string device = 1; }
message Closed { string device = 1; int32 reason = 2; }
message Row { int64 ts = 1; repeated KeyValue kv = 2; }
message Rows { repeated Row rows = 1; }
message Values { repeated KeyValue kv = 1; }
message DeviceTelemetry { string device = 1; Rows said = 3; }
message DeviceAttributes { string device = 1; Values said = 2; }
message DeviceClaim { string device = 1; Claim said = 2; }
message Telemetry { repeated DeviceTelemetry devices = 1; }
message Attributes { repeated DeviceAttributes devices = 1; }
message Claims { repeated DeviceClaim devices = 1; }
message Question { int32 id = 1; string device = 2; bool is_client = 3; repeated string keys = 4; }
message CallAnswer { string device = 1; int32 id = 2; string data = 3; }
message Found { string device = 1; AttributeResponse found = 2; }
message Changed { string device = 1; AttributeUpdate changed = 2; }
message CallBody {
  int32 id = 1; string method = 2; string params = 3; int64 expires_ms = 4;
  bool is_oneway = 7; bool is_persisted = 8;
}
message Call { string device = 1; CallBody call = 2; }
"""
_CLASSES: Final = protobuf.fixed_messages(_MESSAGES)


class Members(NamedTuple):
    """What one packet says of devices: names, and what `form` reads of each; how many are no `wanted`."""

    usable: list[tuple[str, Any]]
    skipped: int
    form: GatewayForm
    wanted: str


class GatewayForm(Protocol):
    """Readers raise `PayloadError` for what cannot be read at all or of one device, `ShapeError` for a packet in
    which something needed is missing.
    """

    def connect(self, payload: bytes) -> tuple[str, str]:
        """Name of the device and of its profile ("" for none)."""
        ...

    def disconnect(self, payload: bytes) -> str:
        """Name of the device."""
        ...

    def telemetry_members(self, payload: bytes, cast: bool) -> Members:
        """Telemetry by device."""
        ...

    def attribute_members(self, payload: bytes, cast: bool) -> Members:
        """Client attributes by device."""
        ...

    def claim_members(self, payload: bytes, cast: bool) -> Members:
        """Claims by device."""
        ...

    def telemetry(
        self, said: Any, now_ms: int, cast: bool, left_out: list[str], latencies: list[Latency]
    ) -> list[TsKv]:
        """One device's items."""
        ...

    def attributes(self, said: Any, cast: bool, left_out: list[str]) -> dict[str, Value]:
        """One device's client attributes."""
        ...

    def claim(self, said: Any) -> tuple[str, int]:
        """One device's secret key and duration in milliseconds."""
        ...

    def question(self, payload: bytes) -> AttributeQuestion:
        """Attributes asked for."""
        ...

    def rpc_answer(self, payload: bytes) -> tuple[str, int, str]:
        """Name of the device, id of the call, and the answer as JSON text."""
        ...

    def attribute_update(self, device: str, values: Mapping[str, Value], now_ms: int) -> bytes:
        """Changed shared attributes."""
        ...

    def attributes_deleted(self, device: str, keys: Sequence[str]) -> bytes:
        """Deleted shared attributes."""
        ...

    def rpc_request(self, device: str, rpc_id: int, request: RpcRequest) -> bytes:
        """A call."""
        ...

    def attribute_answer(
        self, question: AttributeQuestion, client: Mapping[str, Value], shared: Mapping[str, Value], now_ms: int
    ) -> bytes:
        """What was found."""
        ...

    def disconnected(self, device: str, reason: int) -> bytes:
        """Why a device's session ended."""
        ...


class GatewayForms(NamedTuple):
    """What a gateway's profile asks for."""

    up: GatewayForm
    down: GatewayForm


class JsonGateway:
    """JSON, see `gateway.broker.gateway_payloads`."""

    connect = staticmethod(json_forms.parse_connect)
    disconnect = staticmethod(json_forms.parse_disconnect)
    telemetry = staticmethod(json_forms.telemetry)
    attributes = staticmethod(payloads.typed_values)
    claim = staticmethod(json_forms.parse_claim)
    question = staticmethod(json_forms.parse_attribute_question)
    rpc_answer = staticmethod(json_forms.parse_rpc_answer)
    attributes_deleted = staticmethod(json_forms.deleted_json)
    rpc_request = staticmethod(json_forms.rpc_request_json)
    disconnected = staticmethod(json_forms.disconnect_json)

    def telemetry_members(self, payload: bytes, cast: bool) -> Members:
        """Arrays by name."""
        return Members(*json_forms.parse_devices(payload, list, cast), self, "an array")

    def attribute_members(self, payload: bytes, cast: bool) -> Members:
        """Objects by name."""
        return Members(*json_forms.parse_devices(payload, dict, cast), self, "an object")

    claim_members = attribute_members

    def attribute_update(self, device: str, values: Mapping[str, Value], now_ms: int) -> bytes:
        """Without a time."""
        return json_forms.attributes_json(device, values)

    def attribute_answer(
        self, question: AttributeQuestion, client: Mapping[str, Value], shared: Mapping[str, Value], now_ms: int
    ) -> bytes:
        """Without a time."""
        return json_forms.attribute_answer_json(question, client, shared)


class ProtobufGateway:
    """The fixed messages."""

    def connect(self, payload: bytes) -> tuple[str, str]:
        """As JSON's `device` and `type`."""
        message = _decode("Open", payload)
        return _name(message), message.profile

    def disconnect(self, payload: bytes) -> str:
        """As JSON's `device`."""
        return _name(_decode("Close", payload))

    def telemetry_members(self, payload: bytes, cast: bool) -> Members:
        """One message for each device; the same device may come twice."""
        return self._members("Telemetry", payload)

    def attribute_members(self, payload: bytes, cast: bool) -> Members:
        """One message for each device."""
        return self._members("Attributes", payload)

    def claim_members(self, payload: bytes, cast: bool) -> Members:
        """One message for each device."""
        return self._members("Claims", payload)

    def telemetry(
        self, said: Any, now_ms: int, cast: bool, left_out: list[str], latencies: list[Latency]
    ) -> list[TsKv]:
        """Rows without a time (0) are of now; those without a value are left out."""
        items = (TsKv(row.ts or now_ms, _values(row.kv, cast, left_out)) for row in said.rows)
        return [item for item in items if item.values]

    def attributes(self, said: Any, cast: bool, left_out: list[str]) -> dict[str, Value]:
        """All of it is client attributes, whatever a gateway may set besides."""
        return _values(said.kv, cast, left_out)

    def claim(self, said: Any) -> tuple[str, int]:
        """0 is the default duration."""
        return said.secretKey, said.durationMs

    def question(self, payload: bytes) -> AttributeQuestion:
        """No keys: all of both scopes."""
        message = _decode("Question", payload)
        return AttributeQuestion(message.id, _name(message), message.is_client, tuple(message.keys))

    def rpc_answer(self, payload: bytes) -> tuple[str, int, str]:
        """`data` is JSON text; any other text becomes a JSON string."""
        message = _decode("CallAnswer", payload)
        return _name(message), message.id, payloads.rpc_answer_text(message.data.encode())

    def attribute_update(self, device: str, values: Mapping[str, Value], now_ms: int) -> bytes:
        """With the time of the push."""
        message = _CLASSES["Changed"](device=device)
        protobuf.add_values(message.changed.sharedUpdated, values, now_ms)
        return _encode(message)

    def attributes_deleted(self, device: str, keys: Sequence[str]) -> bytes:
        """Names alone."""
        return _encode(_CLASSES["Changed"](device=device, changed={"sharedDeleted": list(keys)}))

    def rpc_request(self, device: str, rpc_id: int, request: RpcRequest) -> bytes:
        """Params are JSON text."""
        call = {
            "id": rpc_id,
            "method": request.method,
            "params": orjson.dumps(request.params).decode(),
            "expires_ms": request.expires_ms,
            "is_oneway": request.is_oneway,
            "is_persisted": request.is_persisted,
        }
        return _encode(_CLASSES["Call"](device=device, call=call))

    def attribute_answer(
        self, question: AttributeQuestion, client: Mapping[str, Value], shared: Mapping[str, Value], now_ms: int
    ) -> bytes:
        """Each scope in a list of its own, with the time of the answer."""
        message = _CLASSES["Found"](device=question.device)
        message.found.requestId = question.id
        message.found.isMultipleAttributesRequest = len(question.keys) > 1
        protobuf.add_values(message.found.clientAttributeList, client, now_ms)
        protobuf.add_values(message.found.sharedAttributeList, shared, now_ms)
        return _encode(message)

    def disconnected(self, device: str, reason: int) -> bytes:
        """With its reason."""
        return _encode(_CLASSES["Closed"](device=device, reason=reason))

    def _members(self, kind: str, payload: bytes) -> Members:
        devices = _decode(kind, payload).devices
        usable = [(of.device, of.said) for of in devices if of.device and not of.device.isspace()]
        if not usable:
            raise ShapeError("no device in it: each message in field 1 needs a device's name")
        return Members(usable, len(devices) - len(usable), self, "a message")


class CompatibleGateway(ProtobufGateway):
    """Gateways in the middle of a change: protobuf is tried first, then JSON; what goes down is protobuf."""

    def connect(self, payload: bytes) -> tuple[str, str]:
        """Either."""
        return _either(lambda: ProtobufGateway.connect(self, payload), lambda: JSON_GATEWAY.connect(payload))

    def disconnect(self, payload: bytes) -> str:
        """Either."""
        return _either(lambda: ProtobufGateway.disconnect(self, payload), lambda: JSON_GATEWAY.disconnect(payload))

    def telemetry_members(self, payload: bytes, cast: bool) -> Members:
        """Either; the members are read by the form that has understood the packet."""
        return _either(
            lambda: ProtobufGateway.telemetry_members(self, payload, cast),
            lambda: JSON_GATEWAY.telemetry_members(payload, cast),
        )

    def attribute_members(self, payload: bytes, cast: bool) -> Members:
        """Either."""
        return _either(
            lambda: ProtobufGateway.attribute_members(self, payload, cast),
            lambda: JSON_GATEWAY.attribute_members(payload, cast),
        )

    def claim_members(self, payload: bytes, cast: bool) -> Members:
        """Either."""
        return _either(
            lambda: ProtobufGateway.claim_members(self, payload, cast),
            lambda: JSON_GATEWAY.claim_members(payload, cast),
        )

    def question(self, payload: bytes) -> AttributeQuestion:
        """Either."""
        return _either(lambda: ProtobufGateway.question(self, payload), lambda: JSON_GATEWAY.question(payload))

    def rpc_answer(self, payload: bytes) -> tuple[str, int, str]:
        """Either."""
        return _either(lambda: ProtobufGateway.rpc_answer(self, payload), lambda: JSON_GATEWAY.rpc_answer(payload))


def _either(first: Callable[[], T], second: Callable[[], T]) -> T:
    """A message that is protobuf, but lacks something, is not tried as JSON."""
    try:
        return first()
    except PayloadError as error:
        try:
            return second()
        except PayloadError:
            raise error from None


def _values(pairs: Iterable[Any], cast: bool, left_out: list[str]) -> dict[str, Value]:
    """Of two values with one key the last one counts."""
    return payloads.typed_values({pair.key: _value(pair, cast) for pair in pairs}, False, left_out)


def _value(pair: Any, cast: bool) -> Json:
    kind = pair.type
    if kind == 0:
        return bool(pair.bool_v)
    if kind == 1:
        return int(pair.long_v)
    if kind == 2:
        if not math.isfinite(pair.double_v):
            raise PayloadError("a double must be a finite number")
        return float(pair.double_v)
    if kind == 3:
        return str(pair.string_v)
    if kind == 4:
        return payloads.load_json(pair.json_v.encode(), cast)
    raise PayloadError("the type of a value must be 0 (bool), 1 (long), 2 (double), 3 (string) or 4 (JSON)")


def _name(message: Any) -> str:
    if not message.device:
        raise ShapeError("the name of the device is missing")
    return str(message.device)


def _decode(kind: str, payload: bytes) -> Any:
    return protobuf.decode(_CLASSES[kind], payload)


def _encode(message: Any) -> bytes:
    body: bytes = message.SerializeToString()
    return body


JSON_GATEWAY: Final = JsonGateway()
PROTOBUF_GATEWAY: Final = ProtobufGateway()
COMPATIBLE_GATEWAY: Final = CompatibleGateway()
EVERYTHING_JSON: Final = GatewayForms(JSON_GATEWAY, JSON_GATEWAY)
