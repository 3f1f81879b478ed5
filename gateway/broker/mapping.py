"""Foreign topics and payloads ⇄ domain values, by rules. Pure: no I/O, no clock.

The first rule that fits a topic decides: one that names another device than its set may have, or whose `when` does not
hold, does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import orjson

from gateway.broker.mapping_rules import NAMED, PLACE, Answer, DownRule, Map, Presence, RuleSet, Take, UpRule, to_filter
from gateway.broker.topic_tree import FilterTree
from gateway.broker.topics import parse_id
from gateway.domain import payloads
from gateway.domain.entity import Json
from gateway.domain.payloads import PayloadError
from gateway.domain.telemetry import TsKv, Value
from gateway.errors import RejectedError

_UP: Final[Mapping[str, Value]] = {"ON": True, "On": True, "on": True, "OFF": False, "Off": False, "off": False}
_DOWN: Final[Mapping[str, Value]] = {"true": "ON", "false": "OFF", "1": "ON", "0": "OFF"}
MAX_VALUES: Final = 1000
"""Of one payload; more is not what a rule was written for."""


class Question(NamedTuple):
    """A device asks for attributes: id, client keys, shared keys (None: none of that scope)."""

    id: int
    client: Sequence[str] | None
    shared: Sequence[str] | None


class Heard(NamedTuple):
    """What one message says of one device."""

    set: RuleSet
    rule: int  # from 1
    device: str
    profile: str
    parts: Mapping[str, str]
    telemetry: Sequence[TsKv] = ()
    attributes: Mapping[str, Value] = {}
    is_online: bool | None = None
    question: Question | None = None
    left_out: Sequence[str] = ()


class MisfitError(PayloadError):
    """The rule fits the topic, but not the payload."""

    def __init__(self, set_: RuleSet, rule: int, reason: str) -> None:
        super().__init__(f"{set_.name}: up[{rule - 1}]: {reason}")


class Rules:
    """All rule sets together."""

    def __init__(self, sets: Sequence[RuleSet]) -> None:
        self._rules: list[tuple[RuleSet, int, UpRule, list[str]]] = []
        self._tree: FilterTree[int] = FilterTree()
        for set_ in sets:
            for number, rule in enumerate(set_.rules.up, 1):
                self._tree.add(to_filter(rule.topic), len(self._rules), 1)
                self._rules.append((set_, number, rule, rule.topic.split("/")))
        answers = {to_filter_of_place(d.answer.topic) for s in sets for d in s.rules.down if d.answer is not None}
        self.filters: Sequence[str] = sorted({to_filter(rule.topic) for _, _, rule, _ in self._rules} | answers)

    def read(self, topic: str, payload: bytes, now_ms: int, *, cast: bool = True) -> Heard | None:
        """What the message says; None: no rule fits, or one says that it is to be ignored.

        Raises:
            MisfitError: Counted and shown; the text has no value in it.
        """
        found = self._tree.matching(topic)
        if not found:
            return None
        levels = topic.split("/")
        tree: Any = _UNREAD
        for index in sorted(found):
            set_, number, rule, pattern = self._rules[index]
            if rule.ignore:
                return None
            parts = {level[1:-1]: part for level, part in zip(pattern, levels, strict=False) if NAMED.fullmatch(level)}
            try:
                if rule.payload == "text":
                    body: Any = _plain(payload)
                elif rule.payload == "json":
                    tree = body = _json(payload, cast) if tree is _UNREAD else tree
                else:
                    body = None
                if rule.when and not all(_holds(body, path, wanted) for path, wanted in rule.when.items()):
                    continue
                device = _device(rule, parts, body)
                if not set_.devices.fullmatch(device):
                    continue
                heard = Heard(set_, number, device, rule.profile or set_.rules.profile, parts)
                return _contents(heard, rule, body, payload, now_ms, cast)
            except PayloadError as error:
                raise MisfitError(set_, number, str(error)) from None
        return None


_UNREAD: Final = object()


def to_filter_of_place(topic: str) -> str:
    """A template of a topic as a filter; levels with a place in them are `+`."""
    return "/".join("+" if PLACE.search(level) else level for level in topic.split("/"))


def render(template: Json, names: Mapping[str, Json]) -> Json:
    """Places such as `{device}` or `{params.on}` filled in. A text that is one place alone becomes its value.

    Raises:
        RejectedError: There is no such thing.
    """
    if isinstance(template, str):
        alone = PLACE.fullmatch(template)
        if alone is not None:
            return _named(alone[1], names)
        return PLACE.sub(lambda place: as_text(_named(place[1], names)), template)
    if isinstance(template, dict):
        return {key: render(value, names) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [render(value, names) for value in template]
    return template


def publish_of(rule: DownRule, names: Mapping[str, Json]) -> tuple[str, bytes]:
    """Topic and payload of a downlink. RejectedError: it cannot be written."""
    default = "{params}" if rule.rpc is not None else "{value}"
    mapped = {name: map_down(names[name], rule.map) for name in ("params", "value") if name in names}
    names = {**names, **mapped}
    body = render(default if rule.payload is None else rule.payload, names)
    payload = body.encode() if isinstance(body, str) else b"" if body is None else orjson.dumps(body)
    return topic_of(rule.topic, names), payload


def topic_of(template: str, names: Mapping[str, Json]) -> str:
    """A topic to publish to. RejectedError: what was filled in has a wildcard in it."""
    topic = as_text(render(template, names))
    if not topic or any(char in topic for char in "+#\0") or len(topic) > 1024:
        raise RejectedError(f"the topic {template!r} cannot be filled in: a wildcard in it, empty or too long")
    return topic


def answer_of(answer: Answer, payload: bytes, rpc_id: int) -> str | None:
    """The answer as JSON text; None: this is not the answer to that call."""
    try:
        tree = _json(payload, True)
    except PayloadError:
        tree = payload.decode("utf-8", "replace")
    if answer.has is not None and not any(True for _ in select(tree, answer.has)):
        return None
    if answer.correlation is not None:
        found = next((value for _, value in select(tree, answer.correlation)), None)
        if as_text(found) != str(rpc_id):
            return None
    values = [value for _, value in select(tree, answer.path)]
    return orjson.dumps(values[0] if values else tree).decode()


def map_down(value: Json, mapping: Map) -> Json:
    """A value as the device says it; one that the map does not name stays."""
    if mapping is None or isinstance(value, dict | list):
        return value
    return (_DOWN if mapping == "on_off" else mapping).get(as_text(value), value)


def as_text(value: Json) -> str:
    """Texts as they are, everything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def select(tree: Json, path: str) -> Iterator[tuple[list[str], Json]]:
    """What stands at the path: names from the first wildcard on (without one: the last), and the value."""
    if not path:
        yield [], tree
        return
    segments = path.split(".")
    first = next((index for index, segment in enumerate(segments) if "*" in segment), len(segments) - 1)
    for names, value in _walk(tree, segments, 0):
        yield names[first:], value


def _walk(tree: Json, segments: Sequence[str], at: int) -> Iterator[tuple[list[str], Json]]:
    if at == len(segments):
        yield [], tree
        return
    segment = segments[at]
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in members:
        name = str(key)
        if name == segment or ("*" in segment and fnmatchcase(name, segment)):
            for names, found in _walk(value, segments, at + 1):
                yield [name, *names], found


def _named(name: str, names: Mapping[str, Json]) -> Json:
    first, _, rest = name.partition(".")
    if first in names:
        if not rest:
            return names[first]
        for _, value in select(names[first], rest):
            return value
    raise RejectedError(f"there is no {{{name}}} here; known: {', '.join(sorted(names))}")


def _contents(heard: Heard, rule: UpRule, body: Any, payload: bytes, now_ms: int, cast: bool) -> Heard:
    left_out: list[str] = []
    if rule.payload == "telemetry":
        items = payloads.parse_telemetry(payload, now_ms, cast=cast, left_out=left_out)
        return heard._replace(telemetry=items or (), left_out=left_out)
    if rule.payload == "attributes":
        values = payloads.parse_attributes(payload, cast=cast, left_out=left_out)
        return heard._replace(attributes=values, left_out=left_out)
    if rule.payload == "attribute_request":
        number = parse_id(heard.parts.get("id", ""))
        if number is None:
            raise PayloadError("the request id in the topic must be a 32-bit integer")
        return heard._replace(question=Question(number, *payloads.parse_attribute_request(payload)))
    cast = cast or rule.payload == "text"  # there a number cannot be written otherwise
    telemetry = payloads.typed_values(_taken(rule.telemetry, body, heard.parts), cast, left_out)
    attributes = payloads.typed_values(_taken(rule.attributes, body, heard.parts), cast, left_out)
    is_online = None if rule.presence is None else _presence(rule.presence, body)
    if not telemetry and not attributes and is_online is None:
        paths = ", ".join(take.path or "(the whole payload)" for take in rule.telemetry + rule.attributes)
        raise PayloadError(f"nothing is at {paths}")
    ts_ms = now_ms if rule.time is None else _time(rule, body)
    return heard._replace(
        telemetry=[TsKv(ts_ms, telemetry)] if telemetry else (),
        attributes=attributes,
        is_online=is_online,
        left_out=left_out,
    )


def _device(rule: UpRule, parts: Mapping[str, str], body: Any) -> str:
    if rule.device_path is None:
        return NAMED.sub(lambda name: parts[name[1]], rule.device)
    for _, value in select(body, rule.device_path):
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    raise PayloadError(f"no device's name is at {rule.device_path}")


def _taken(takes: Sequence[Take], body: Any, parts: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for take in takes:
        for names, value in select(body, take.path):
            places = {**parts, **{str(index): name for index, name in enumerate(names, 1)}}
            key = "_".join(names) if take.key is None else as_text(render_key(take.key, places))
            if take.flatten and isinstance(value, dict | list):
                _flatten(key, value, take, values)
            elif isinstance(value, dict) and not key:
                values.update({name: _up(each, take.map) for name, each in value.items() if name not in take.exclude})
            elif key and key not in take.exclude:
                values[key] = _up(value, take.map)
            elif not key:
                raise PayloadError("an object is expected, or the rule needs a key")
            if len(values) > MAX_VALUES:
                raise PayloadError(f"more than {MAX_VALUES} values")
    return values


def render_key(key: str, places: Mapping[str, str]) -> str:
    """A key with its places filled in; those that are not there become nothing."""
    return PLACE.sub(lambda place: places.get(place[1], ""), key)


def _flatten(prefix: str, tree: Any, take: Take, values: dict[str, Any]) -> None:
    members = tree.items() if isinstance(tree, dict) else enumerate(tree, 1)
    for name, value in members:
        if name in take.exclude:
            continue
        key = f"{prefix}_{name}" if prefix else str(name)
        if isinstance(value, dict | list):
            _flatten(key, value, take, values)
        else:
            values[key] = _up(value, take.map)


def _up(value: Json, mapping: Map) -> Json:
    if mapping is None or isinstance(value, dict | list):
        return value
    return (_UP if mapping == "on_off" else mapping).get(as_text(value), value)


def _presence(presence: Presence, body: Any) -> bool:
    found = next((value for _, value in select(body, presence.path)), body) if isinstance(body, dict) else body
    text = as_text(found)
    if text in presence.online or text in presence.offline:
        return text in presence.online
    raise PayloadError(f"neither {' nor '.join(presence.online + presence.offline)}")


def _holds(body: Any, path: str, wanted: Any) -> bool:
    return any(wanted == "*" or value == wanted for _, value in select(body, path))


def _time(rule: UpRule, body: Any) -> int:
    assert rule.time is not None  # the caller has looked
    value = next((value for _, value in select(body, rule.time.path)), None)
    if value is None:
        raise PayloadError(f"no time is at {rule.time.path}")
    try:
        return rule.time.read(value)
    except (ValueError, OverflowError):
        raise PayloadError(f"the time at {rule.time.path} is not written as {rule.time.format}") from None


def _json(payload: bytes, cast: bool) -> Any:
    return payloads.load_json(payload, cast)


def _plain(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise PayloadError("no text in UTF-8") from None
