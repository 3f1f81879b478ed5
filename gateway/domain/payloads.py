"""Device JSON ⇄ domain values: the shapes, the typing and the leniency of ThingsBoard's device API.

The common case (valid JSON, plain numbers) is orjson and one pass over the values. Two slower roads are
taken only when the bytes demand it: numbers whose *text* decides their type (an exponent, a long row of
digits) go through the standard parser, which shows the text; what is no JSON at all goes to `lenient`.

Source: ThingsBoard 4.3 device API: payload shapes, typing of numbers and of numeric text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import orjson

from gateway.domain.entity import Json
from gateway.domain.lenient import parse_lenient
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import MAX_KEY_CHARS, TsKv, Value
from gateway.errors import RejectedError

MAX_DEPTH: Final = 100
"""Nesting of a payload. orjson writes at most 254 levels, and events wrap a value in a few more."""

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
_MAX_NUMBER_DIGITS: Final = 400  # `1e999999999` written out in plain digits would be a gigabyte

_PARSABLE: Final = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)", re.ASCII)
_NUMERIC_START: Final = frozenset("-.0123456789")

# Every digit becomes 0 and every E becomes e: then "a digit before an e" and "17 digits in a row" are plain
# substring searches. A hit inside a text only costs time, a miss proves that orjson's numbers are exact.
_FOLD: Final = bytes(0x30 if 0x30 <= i <= 0x39 else 0x65 if i == 0x45 else i for i in range(256))
_EXPONENT: Final = b"0e"
_MANY_DIGITS: Final = b"0" * 17


class PayloadError(RejectedError):
    """Not what the topic takes. The text says where and what would be right, never a value.

    `is_fatal`: ThingsBoard does not answer such a message but ends the connection.
    """

    def __init__(self, problem: str, *, is_fatal: bool = False) -> None:
        super().__init__(problem)
        self.is_fatal = is_fatal


def parse_telemetry(
    payload: bytes, now_ms: int, *, cast: bool = True, left_out: list[str] | None = None
) -> list[TsKv] | None:
    """Telemetry in any of its shapes; items without a value are left out, so the list may be empty.

    Args:
        payload: `{key: value}`, `{"ts": ms, "values": {…}}`, or an array of these.
        now_ms: Time of items without `ts` (UTC epoch, milliseconds).
        cast: Text that reads as a number becomes a number.
        left_out: Takes the reasons why keys were left out.

    Returns:
        Items in the order of the payload; None for an empty array (ThingsBoard takes it, and never answers).

    Raises:
        PayloadError: This message is refused, by the rules of its MQTT version.
    """
    tree = _load(payload, cast)
    if type(tree) is dict:
        item = _item(tree, now_ms, cast, left_out)
        return [item] if item.values else []
    if type(tree) is not list:
        raise PayloadError(f"telemetry must be a JSON object or an array of objects, not {_kind(tree)}")
    return telemetry_items(tree, now_ms, cast, left_out) if tree else None


def telemetry_items(tree: Sequence[Json], now_ms: int, cast: bool, left_out: list[str] | None) -> list[TsKv]:
    """The elements of a parsed array as items, changed in place; without those that have no value.

    Raises:
        PayloadError: One of them is no telemetry.
    """
    items: list[TsKv] = []
    for index, element in enumerate(tree):
        if type(element) is not dict:
            raise PayloadError(f"telemetry[{index}] must be an object, not {_kind(element)}")
        item = _item(element, now_ms, cast, left_out)
        if item.values:
            items.append(item)
    return items


def parse_attributes(payload: bytes, *, cast: bool = True, left_out: list[str] | None = None) -> dict[str, Value]:
    """Client attributes: exactly one object, null members left out. `left_out`: as for telemetry.

    Raises:
        PayloadError: Not an object.
    """
    tree = _load(payload, cast)
    if type(tree) is not dict:
        raise PayloadError(f"attributes must be one JSON object, not {_kind(tree)}")
    return typed_values(tree, cast, left_out)


def parse_attribute_request(payload: bytes) -> tuple[list[str] | None, list[str] | None]:
    """Client and shared keys; None: nothing of that scope, an empty list: all of it (the request `{}`).

    Keys are one comma-separated text; spaces belong to the key. An array of one text happens to work.

    Raises:
        PayloadError: Not an object, or a member of another shape.
    """
    tree = _load(payload, cast=True)
    if type(tree) is not dict:
        raise PayloadError(f"an attribute request must be a JSON object, not {_kind(tree)}")
    client, shared = _keys(tree, "clientKeys"), _keys(tree, "sharedKeys")
    return ([], []) if client is None and shared is None else (client, shared)


def parse_client_rpc(payload: bytes, *, needs_params: bool = False) -> tuple[str, Json]:
    """Method and params of a call that the device makes; missing params are null, unless they are needed.

    Raises:
        PayloadError: Not an object; fatal when there is no method, or no params where they are needed.
    """
    tree = _load(payload, cast=True)
    if type(tree) is not dict:
        raise PayloadError(f"an RPC request must be a JSON object, not {_kind(tree)}")
    method = tree.get("method")
    if method is None or isinstance(method, dict | list):
        raise PayloadError('an RPC request needs a "method"', is_fatal=True)
    if needs_params and "params" not in tree:
        raise PayloadError('an RPC request needs "params", null when there are none', is_fatal=True)
    return method if isinstance(method, str) else orjson.dumps(method).decode(), tree.get("params")


def load_json(payload: bytes, cast: bool) -> Json:
    """Any JSON, read as leniently as a server reads it, with numbers of their stored type.

    Raises:
        PayloadError: Not JSON; where, and what was expected.
    """
    return _load(payload, cast)


def parse_object(payload: bytes, what: str) -> dict[str, Json]:
    """Any JSON object, read as leniently as the others; texts stay texts. `what` names it in a complaint.

    Raises:
        PayloadError: Not an object.
    """
    tree = _load(payload, cast=True)
    if type(tree) is not dict:
        raise PayloadError(f"{what} must be a JSON object, not {_kind(tree)}")
    return tree


def rpc_answer_text(payload: bytes) -> str:
    """A device's RPC answer as JSON text. What is no JSON becomes a JSON string, so that nothing is lost."""
    try:
        tree = orjson.loads(payload)
    except orjson.JSONDecodeError:
        text = payload.decode("utf-8", "replace")
        try:
            tree = parse_lenient(text, MAX_DEPTH, _exact_number) if text.strip() else text
        except RejectedError:
            tree = text
        return orjson.dumps(tree).decode()
    return "null" if tree is None else payload.decode()


def attributes_json(values: Mapping[str, Value]) -> bytes:
    """A push of changed shared attributes."""
    return orjson.dumps(values)


def deleted_json(keys: Sequence[str]) -> bytes:
    """A push of deleted shared attributes."""
    return orjson.dumps({"deleted": list(keys)})


def attribute_response_json(client: Mapping[str, Value], shared: Mapping[str, Value]) -> bytes:
    """A scope in which nothing was found is left out."""
    answer: dict[str, Mapping[str, Value]] = {}
    if client:
        answer["client"] = client
    if shared:
        answer["shared"] = shared
    return orjson.dumps(answer)


def rpc_request_json(request: RpcRequest) -> bytes:
    """What a device gets of a call: the id is in the topic."""
    return orjson.dumps({"method": request.method, "params": request.params})


def _item(tree: dict[str, Any], now_ms: int, cast: bool, left_out: list[str] | None) -> TsKv:
    if "ts" in tree and "values" in tree:
        values = tree["values"]
        if type(values) is not dict:
            raise PayloadError(f'"values" must be an object, not {_kind(values)}')
        return TsKv(_ts_ms(tree["ts"]), typed_values(values, cast, left_out))
    return TsKv(now_ms, typed_values(tree, cast, left_out))


def typed_values(tree: dict[str, Any], cast: bool, left_out: list[str] | None) -> dict[str, Value]:
    """The same object with nulls gone and values of their stored type; changed in place, it is ours.

    Without the keys that the server would take and then lose, together with the rest of their message.
    """
    changes: dict[str, Any] | None = None
    for key, value in tree.items():
        kind = type(value)
        new: Any
        if not 0 < len(key) <= MAX_KEY_CHARS or key.isspace():
            if left_out is not None:
                left_out.append(f"a key of {len(key)} characters is left out; 1 to {MAX_KEY_CHARS}, not all blanks")
            new = None
        elif kind is float:
            if value:
                continue
            new = 0.0  # the server has no negative zero
        elif kind is int:
            if INT64_MIN <= value <= INT64_MAX:
                continue
            new = _too_big(str(value), cast)
        elif kind is str:
            if not cast or not value or value[0] not in _NUMERIC_START:
                continue
            new = _cast(value)
            if new is value:
                continue
        elif value is None:
            new = None
        else:
            continue
        if changes is None:
            changes = {}
        changes[key] = new
    if changes is not None:
        for key, new in changes.items():
            if new is None:
                del tree[key]
            else:
                tree[key] = new
    return tree


def _cast(text: str) -> Value:
    """Numeric text as the number it reads as, any other text unchanged (the same object)."""
    if len(text) > _MAX_NUMBER_DIGITS or _PARSABLE.fullmatch(text) is None:
        return text
    return _exact_number(text)


def _exact_number(text: str) -> Value:
    """A number's text as long, double, or text of plain digits when neither holds it.

    Long when it is integral and not written with a bare decimal point (`1e3`, not `42.0`); double up to 16
    decimal places; else plain digits.
    """
    if len(text) < 19 and (text.isdigit() or (text[0] == "-" and text[1:].isdigit())):
        return int(text)
    try:
        number = Decimal(text)
    except InvalidOperation:  # an exponent beyond all reason
        raise PayloadError(f"a number needs more than {_MAX_NUMBER_DIGITS} digits when written out") from None
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or abs(exponent) + len(digits) > _MAX_NUMBER_DIGITS:
        raise PayloadError(f"a number needs more than {_MAX_NUMBER_DIGITS} digits when written out")
    has_exponent = "e" in text or "E" in text
    if ("." not in text or has_exponent) and (exponent >= 0 or not any(digits[exponent:])):
        plain = format(number, "f")
        whole = int(plain.partition(".")[0])
        return whole if INT64_MIN <= whole <= INT64_MAX else str(whole)
    if -exponent <= 16:
        return float(number) + 0.0
    return format(number, "f")


def _strict_number(text: str) -> Value:
    number = _exact_number(text)
    if isinstance(number, str):
        return _too_big(number, cast=False)
    return number


def _too_big(digits: str, cast: bool) -> str:
    if not cast:
        raise PayloadError("a number does not fit 64 bits; allow it as text with broker.json_type_cast")
    return digits


def _ts_ms(value: Any) -> int:
    """Fractions are cut off, numeric text counts; anything else ends the connection, as ThingsBoard does."""
    if type(value) is str:
        try:
            value = int(value)
        except ValueError:
            value = None
    if type(value) not in (int, float):
        raise PayloadError('"ts" must be a number of milliseconds', is_fatal=True)
    if not INT64_MIN <= value <= INT64_MAX:
        raise PayloadError('"ts" does not fit 64 bits')
    return int(value)


def _keys(tree: dict[str, Any], name: str) -> list[str] | None:
    value = tree.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None and name not in tree:
        return None
    if isinstance(value, bool | int | float):
        value = orjson.dumps(value).decode()
    if not isinstance(value, str):
        raise PayloadError(f'"{name}" must be one text of keys separated by commas, not {_kind(value)}')
    return value.split(",")


def _load(payload: bytes, cast: bool) -> Any:
    try:
        tree = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        return _load_lenient(payload, cast, error)
    folded = payload.translate(_FOLD)
    if _EXPONENT in folded or _MANY_DIGITS in folded:
        number = _exact_number if cast else _strict_number
        try:
            tree = json.loads(payload, parse_float=number, parse_int=number)
        except RecursionError:
            raise PayloadError(f"nested deeper than {MAX_DEPTH} levels") from None
    if len(payload) > 2 * MAX_DEPTH and payload.count(b"{") + payload.count(b"[") > MAX_DEPTH:
        _check_depth(tree)
    return tree


def _load_lenient(payload: bytes, cast: bool, error: orjson.JSONDecodeError) -> Any:
    if not payload.strip():
        raise PayloadError("the payload is empty; a JSON object such as {} is expected")
    text = payload.decode("utf-8-sig", "replace")
    try:
        return parse_lenient(text, MAX_DEPTH, _exact_number if cast else _strict_number)
    except PayloadError:
        raise
    except RejectedError as lenient_error:
        raise PayloadError(str(lenient_error)) from error


def _check_depth(tree: Any) -> None:
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise PayloadError(f"nested deeper than {MAX_DEPTH} levels")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for types, name in ((bool, "true or false"), (dict, "an object"), (list, "an array"), (str, "text")):
        if isinstance(value, types):
            return name
    return "a number"
