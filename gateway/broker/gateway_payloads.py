"""The JSON of the gateway API ⇄ domain values: what a gateway says of the devices behind it, and is told for them.

Source: ThingsBoard 4.3 gateway API: payloads up and down, latency metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from gateway.domain import payloads
from gateway.domain.entity import Json
from gateway.domain.payloads import PayloadError
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import TsKv, Value
from gateway.errors import RejectedError

OTHER_ERROR: Final = 128
RATE_LIMIT: Final = 150
"""Reason in `v1/gateway/disconnect`: what was said could not be kept."""

_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")


class ShapeError(RejectedError):
    """JSON, but not what the topic takes: ThingsBoard acknowledges such a packet and ends the connection."""


class Latency(NamedTuple):
    """When the gateway's connector got a reading, and when the gateway sent it (UTC epoch, milliseconds)."""

    connector: str
    received_ms: int
    published_ms: int


class AttributeQuestion(NamedTuple):
    """A gateway asks for attributes of one scope; no `keys`: for all of both scopes."""

    id: int
    device: str
    is_client: bool
    keys: tuple[str, ...]


def parse_connect(payload: bytes) -> tuple[str, str]:
    """Name of the device, and of the profile that it gets when it is new ("" for none)."""
    tree = _object(payload)
    profile = tree.get("type")
    return _device(tree), "" if profile is None else _scalar("type", profile)


def parse_disconnect(payload: bytes) -> str:
    """Name of the device."""
    return _device(_object(payload))


def parse_devices(payload: bytes, kind: type, cast: bool) -> tuple[list[tuple[str, Any]], int]:
    """Names with what is said of each, and how many members were skipped: not of this `kind`, or without a name.

    Raises:
        PayloadError: Not JSON.
        ShapeError: No object, or nothing usable in it.
    """
    tree = _object(payload, cast)
    usable = [(name, value) for name, value in tree.items() if type(value) is kind and name and not name.isspace()]
    if not usable:
        wanted = "an array of telemetry" if kind is list else "an object"
        raise ShapeError(f"no device in it: each member must be a device's name with {wanted}")
    return usable, len(tree) - len(usable)


def parse_attribute_question(payload: bytes) -> AttributeQuestion:
    """`key` is one of them, `keys` an array (a text counts as one key)."""
    tree = _object(payload)
    name, is_client = _device(tree), tree.get("client")
    if type(is_client) is not bool:
        raise ShapeError('"client" must be true (client attributes) or false (shared attributes)')
    keys = [tree["key"]] if "key" in tree else tree.get("keys")
    if isinstance(keys, str):
        keys = [keys]
    if not isinstance(keys, list):
        raise ShapeError('"key" with one key or "keys" with an array of them is missing')
    return AttributeQuestion(_id(tree), name, is_client, tuple(_scalar("keys", key) for key in keys))


def parse_rpc_answer(payload: bytes) -> tuple[str, int, str]:
    """Name of the device, id of the call, and the answer as JSON text."""
    tree = _object(payload)
    if "data" not in tree:
        raise ShapeError('"data", the answer to the call, is missing; null when there is none')
    return _device(tree), _id(tree), orjson.dumps(tree["data"]).decode()


def parse_claim(tree: Mapping[str, Json]) -> tuple[str, int]:
    """Secret key and duration of one device's claim; nothing given: "" and 0 (the default one).

    Raises:
        PayloadError: A member of a wrong kind; the text holds no value.
    """
    duration = tree.get("durationMs")
    if type(duration) is str and _WHOLE.fullmatch(duration):
        duration = int(duration)
    if duration is not None and type(duration) not in (int, float):
        raise PayloadError('"durationMs" must be a number of milliseconds')
    secret = tree.get("secretKey")
    if isinstance(secret, dict | list):
        raise PayloadError('"secretKey" must be a text')
    return "" if secret is None else _scalar("secretKey", secret), int(duration or 0)


def telemetry(tree: list[Json], now_ms: int, cast: bool, left_out: list[str], latencies: list[Latency]) -> list[TsKv]:
    """One device's items; their latency metadata is taken out of them.

    Raises:
        PayloadError: This device's data is invalid.
    """
    for element in tree:
        if type(element) is dict and "metadata" in element:
            latencies.append(_latency(element.pop("metadata")))
    return payloads.telemetry_items(tree, now_ms, cast, left_out)


def attributes_json(device: str, values: Mapping[str, Value]) -> bytes:
    """A push of changed shared attributes."""
    return orjson.dumps({"device": device, "data": values})


def deleted_json(device: str, keys: Sequence[str]) -> bytes:
    """A push of deleted shared attributes."""
    return orjson.dumps({"device": device, "data": {"deleted": list(keys)}})


def rpc_request_json(device: str, rpc_id: int, request: RpcRequest) -> bytes:
    """A call to one device."""
    return orjson.dumps({"device": device, "data": {"id": rpc_id, "method": request.method, "params": request.params}})


def disconnect_json(device: str, reason: int) -> bytes:
    """Why this device's session ended."""
    return orjson.dumps({"device": device, "reason": reason})


def attribute_answer_json(
    question: AttributeQuestion, client: Mapping[str, Value], shared: Mapping[str, Value]
) -> bytes:
    """`value` for one that is found when not several were asked for, else `values`; neither when nothing is found."""
    answer: dict[str, Any] = {"id": question.id, "device": question.device}
    for found in (client, shared):
        if len(found) == 1 and len(question.keys) <= 1:
            answer["value"] = next(iter(found.values()))
        elif found:
            answer["values"] = {**answer.get("values", {}), **found}
    return orjson.dumps(answer)


def _latency(tree: Json) -> Latency:
    if type(tree) is not dict or not isinstance(tree.get("connector"), str):
        raise PayloadError('"metadata" must be an object with "connector", "receivedTs" and "publishedTs"')
    received, published = tree.get("receivedTs"), tree.get("publishedTs")
    if not isinstance(received, int | float) or not isinstance(published, int | float):
        raise PayloadError('"metadata" needs "receivedTs" and "publishedTs", numbers of milliseconds')
    return Latency(tree["connector"], int(received), int(published))


def _object(payload: bytes, cast: bool = True) -> dict[str, Any]:
    tree = payloads.load_json(payload, cast)
    if type(tree) is not dict:
        raise ShapeError("it must be a JSON object")
    return tree


def _device(tree: Mapping[str, Json]) -> str:
    name = tree.get("device")
    if name is None or isinstance(name, dict | list) or name == "":
        raise ShapeError('"device", the name of a device, is missing')
    return _scalar("device", name)


def _id(tree: Mapping[str, Json]) -> int:
    number = tree.get("id")
    if type(number) is str and _WHOLE.fullmatch(number):
        number = int(number)
    if type(number) is not int or not -(2**31) <= number < 2**31:
        raise ShapeError('"id" must be a 32-bit integer')
    return number


def _scalar(what: str, value: Json) -> str:
    if value is None or isinstance(value, dict | list):
        raise ShapeError(f'"{what}" must be text')
    return value if isinstance(value, str) else orjson.dumps(value).decode()
