"""How payloads are written: JSON, protobuf, or protobuf for whoever is not understood as JSON.

A *form* reads what a device publishes and writes what it gets. All forms have the same methods, so that the
device API need not know which one a profile or a topic asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import orjson

from gateway.broker import protobuf
from gateway.broker.proto_schema import SchemaError
from gateway.domain import payloads
from gateway.domain.entity import Json
from gateway.domain.onboarding import parse_claim
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import TsKv, Value

T = TypeVar("T")


class Form(Protocol):
    """Readers raise `PayloadError`; what they return is described at `gateway.domain.payloads`."""

    def telemetry(
        self, payload: bytes, now_ms: int, *, cast: bool = True, left_out: list[str] | None = None
    ) -> list[TsKv] | None:
        """Items; None for an empty array."""
        ...

    def attributes(self, payload: bytes, *, cast: bool = True, left_out: list[str] | None = None) -> dict[str, Value]:
        """Client attributes."""
        ...

    def attribute_request(self, payload: bytes) -> tuple[list[str] | None, list[str] | None]:
        """Client and shared keys."""
        ...

    def rpc_answer(self, payload: bytes) -> str:
        """JSON text."""
        ...

    def client_rpc(self, payload: bytes) -> tuple[str, Json]:
        """Method and params."""
        ...

    def claim(self, payload: bytes) -> tuple[str, int]:
        """Secret key and duration in milliseconds."""
        ...

    def attribute_response(
        self, request_id: int, client: Mapping[str, Value], shared: Mapping[str, Value], now_ms: int
    ) -> bytes:
        """What was found."""
        ...

    def attribute_update(self, values: Mapping[str, Value], now_ms: int) -> bytes:
        """Changed shared attributes."""
        ...

    def attributes_deleted(self, keys: Sequence[str], now_ms: int) -> bytes:
        """Deleted shared attributes."""
        ...

    def rpc_request(self, rpc_id: int, request: RpcRequest) -> bytes:
        """A call to the device. RejectedError: its params do not fit the profile's schema."""
        ...

    def rpc_response(self, request_id: int, text: str) -> bytes:
        """The answer (JSON text) to a call of the device."""
        ...


class JsonForm:
    """JSON, see `gateway.domain.payloads`."""

    telemetry = staticmethod(payloads.parse_telemetry)
    attributes = staticmethod(payloads.parse_attributes)
    attribute_request = staticmethod(payloads.parse_attribute_request)
    rpc_answer = staticmethod(payloads.rpc_answer_text)
    claim = staticmethod(parse_claim)

    def client_rpc(self, payload: bytes) -> tuple[str, Json]:
        """Method and params."""
        return payloads.parse_client_rpc(payload)

    def attribute_response(
        self, request_id: int, client: Mapping[str, Value], shared: Mapping[str, Value], now_ms: int
    ) -> bytes:
        """The id is in the topic."""
        return payloads.attribute_response_json(client, shared)

    def attribute_update(self, values: Mapping[str, Value], now_ms: int) -> bytes:
        """A flat object."""
        return payloads.attributes_json(values)

    def attributes_deleted(self, keys: Sequence[str], now_ms: int) -> bytes:
        """The member `deleted`."""
        return payloads.deleted_json(keys)

    def rpc_request(self, rpc_id: int, request: RpcRequest) -> bytes:
        """The id is in the topic."""
        return payloads.rpc_request_json(request)

    def rpc_response(self, request_id: int, text: str) -> bytes:
        """The JSON as it is."""
        return text.encode()


class Schemas:
    """The four schemas of a profile, each compiled at its first use; a bad one stands in for its own payloads only."""

    def __init__(self, texts: Mapping[str, str | None]) -> None:
        """`texts` by the names of the profile's members; without a text: `default`, or nothing can be read."""
        self._texts = texts
        self._codecs: dict[str, protobuf.Codec | SchemaError] = {}

    def codec(self, name: str, default: str = "") -> protobuf.Codec:
        """The compiled schema.

        Raises:
            PayloadError: There is none, or it is bad: which line.
        """
        codec = self._codecs.get(name)
        if codec is None:
            text = self._texts.get(name) or default
            if not text:
                raise payloads.PayloadError(f"the device profile has no {name} to read protobuf with")
            try:
                codec = protobuf.Codec(text)
            except SchemaError as error:
                codec = error
            self._codecs[name] = codec
        if isinstance(codec, SchemaError):
            raise payloads.PayloadError(f"{name} of the device profile cannot be used: {codec}")
        return codec


class ProtobufForm:
    """Messages of the profile's schemas, which become JSON and then go the way of JSON; and the fixed ones."""

    attribute_request = staticmethod(protobuf.attribute_keys)
    client_rpc = staticmethod(protobuf.client_rpc)
    claim = staticmethod(protobuf.claim)
    attribute_response = staticmethod(protobuf.attribute_response)
    rpc_response = staticmethod(protobuf.rpc_response)

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas

    def telemetry(
        self, payload: bytes, now_ms: int, *, cast: bool = True, left_out: list[str] | None = None
    ) -> list[TsKv] | None:
        """Items."""
        tree = self._schemas.codec("deviceTelemetryProtoSchema").to_json(payload)
        return payloads.parse_telemetry(orjson.dumps(tree), now_ms, cast=cast, left_out=left_out)

    def attributes(self, payload: bytes, *, cast: bool = True, left_out: list[str] | None = None) -> dict[str, Value]:
        """Client attributes."""
        tree = self._schemas.codec("deviceAttributesProtoSchema").to_json(payload)
        return payloads.parse_attributes(orjson.dumps(tree), cast=cast, left_out=left_out)

    def rpc_answer(self, payload: bytes) -> str:
        """The whole message as JSON text."""
        codec = self._schemas.codec("deviceRpcResponseProtoSchema", protobuf.DEFAULT_RPC_RESPONSE)
        return orjson.dumps(codec.to_json(payload)).decode()

    def attribute_update(self, values: Mapping[str, Value], now_ms: int) -> bytes:
        """The fixed message."""
        return protobuf.attribute_update(values, (), now_ms)

    def attributes_deleted(self, keys: Sequence[str], now_ms: int) -> bytes:
        """The fixed message."""
        return protobuf.attribute_update({}, keys, now_ms)

    def rpc_request(self, rpc_id: int, request: RpcRequest) -> bytes:
        """A message of the profile's schema."""
        codec = self._schemas.codec("deviceRpcRequestProtoSchema", protobuf.DEFAULT_RPC_REQUEST)
        return protobuf.encode_rpc_request(codec, rpc_id, request)


class CompatibleForm(ProtobufForm):
    """Devices in the middle of a change: protobuf is tried first, then JSON; what goes down is protobuf.

    JSON is no protobuf: its first byte `{` begins a group that nothing ends.
    """

    def telemetry(
        self, payload: bytes, now_ms: int, *, cast: bool = True, left_out: list[str] | None = None
    ) -> list[TsKv] | None:
        """Items."""
        return _either(
            lambda: ProtobufForm.telemetry(self, payload, now_ms, cast=cast, left_out=left_out),
            lambda: JSON.telemetry(payload, now_ms, cast=cast, left_out=left_out),
        )

    def attributes(self, payload: bytes, *, cast: bool = True, left_out: list[str] | None = None) -> dict[str, Value]:
        """Client attributes."""
        return _either(
            lambda: ProtobufForm.attributes(self, payload, cast=cast, left_out=left_out),
            lambda: JSON.attributes(payload, cast=cast, left_out=left_out),
        )

    @staticmethod
    def attribute_request(payload: bytes) -> tuple[list[str] | None, list[str] | None]:
        """Keys."""
        return _either(lambda: protobuf.attribute_keys(payload), lambda: JSON.attribute_request(payload))

    def rpc_answer(self, payload: bytes) -> str:
        """JSON text."""
        return _either(lambda: ProtobufForm.rpc_answer(self, payload), lambda: JSON.rpc_answer(payload))

    @staticmethod
    def client_rpc(payload: bytes) -> tuple[str, Json]:
        """Method and params."""
        return _either(lambda: protobuf.client_rpc(payload), lambda: JSON.client_rpc(payload))

    @staticmethod
    def claim(payload: bytes) -> tuple[str, int]:
        """Secret key and duration."""
        return _either(lambda: protobuf.claim(payload), lambda: JSON.claim(payload))


def _either(first: Callable[[], T], second: Callable[[], T]) -> T:
    """When both refuse, the complaint is the first one's: that is what the profile asks for."""
    try:
        return first()
    except payloads.PayloadError as error:
        try:
            return second()
        except payloads.PayloadError as other:
            raise (other if other.is_fatal else error) from None


JSON = JsonForm()
