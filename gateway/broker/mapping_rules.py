"""The typed form of mapping rules, and where they come from: the configuration, a file, or this package."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, PositiveFloat, field_validator, model_validator

from gateway.broker.topic_tree import is_valid_filter
from gateway.broker.topics import is_local
from gateway.config import MappingsConfig, MappingUse, Settings, load_settings, parse_config
from gateway.domain.entity import Json
from gateway.errors import ConfigError

READY: Final = Path(__file__).parent / "ready"
MAX_LEVELS: Final = 32
NAMED: Final = re.compile(r"\{([A-Za-z_]\w*)\}")
_LEVEL: Final = re.compile(r"\{[A-Za-z_]\w*\}|\+|#|[^{}+#]*")
PLACE: Final = re.compile(r"\{([A-Za-z_][\w.]*|[1-9])\}")

_DOWN_NAMES: Final = frozenset(("device", "method", "params", "rpc_id", "key", "value", "values", "keys", "id"))

Map = Literal["on_off"] | dict[str, str | bool | int | float] | None


def to_filter(topic: str) -> str:
    """The topic filter with its named parts as `+`."""
    return NAMED.sub("+", topic)


def _pattern(text: str | None) -> str | None:
    try:
        re.compile(text or "")
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


class _WithMap(Settings):
    map: Map = None

    @field_validator("map", mode="before")
    @classmethod
    def _has_text_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and (odd := [key for key in value if not isinstance(key, str)]):
            raise ValueError(f'the key {odd[0]!r} is no text; YAML reads ON, off, yes and 1 as values: write "ON"')
        return value


class Take(_WithMap):
    """Values at a path of the payload: `a.b`, `a.*`, `POWER*`; nothing: the whole payload."""

    path: str = ""
    key: str | None = None
    flatten: bool = False
    exclude: tuple[str, ...] = ()

    def places(self) -> set[str]:
        """What `key` may name beside parts of the topic: `1` is what the first wildcard of the path matched."""
        segments = self.path.split(".") if self.path else []
        first = next((index for index, segment in enumerate(segments) if "*" in segment), len(segments) - 1)
        return {str(number) for number in range(1, len(segments[max(first, 0) :]) + 1)}


class TimeAt(Settings):
    """Where the time stamp stands, and how it is written. Without it the time of arrival counts."""

    path: Annotated[str, Field(min_length=1)]
    format: str = "iso"
    zone: str = "UTC"

    @model_validator(mode="after")
    def _is_known(self) -> TimeAt:
        if self.format not in ("iso", "s", "ms") and "%" not in self.format:
            raise ValueError(f"format {self.format!r} is unknown; iso, s, ms, or a pattern such as %d.%m.%Y %H:%M:%S")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"zone {self.zone!r} is unknown here; such as UTC or Europe/Berlin") from None
        return self

    def read(self, value: Json) -> int:
        """UTC epoch, milliseconds. Raises ValueError: not written so."""
        if self.format in ("s", "ms"):
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError("no number")
            ts_ms = int(float(value) * (1000 if self.format == "s" else 1))
        else:
            text = str(value)
            is_iso = self.format == "iso"
            moment = datetime.fromisoformat(text) if is_iso else datetime.strptime(text, self.format)  # noqa: DTZ007
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=ZoneInfo(self.zone))
            ts_ms = int(moment.timestamp() * 1000)
        if not 0 <= ts_ms < 1 << 48:
            raise ValueError("out of range")
        return ts_ms


class Presence(Settings):
    """What a last-will topic says."""

    online: tuple[str, ...]
    offline: tuple[str, ...]
    path: str = ""


class UpRule(Settings):
    """A topic, and what its payload is for a device."""

    topic: str
    ignore: bool = False
    device: str = "{device}"
    device_path: str | None = None
    profile: str | None = None
    payload: Literal["json", "text", "telemetry", "attributes", "attribute_request"] = "json"
    when: dict[str, Any] = Field(default_factory=dict)
    telemetry: tuple[Take, ...] = ()
    attributes: tuple[Take, ...] = ()
    time: TimeAt | None = None
    presence: Presence | None = None

    @field_validator("topic")
    @classmethod
    def _is_filter(cls, topic: str) -> str:
        levels = topic.split("/")
        if odd := next((level for level in levels if _LEVEL.fullmatch(level) is None), None):
            raise ValueError(f"{odd!r} is no level of a topic: text, +, # or one named part such as {{device}}")
        if not topic or len(levels) > MAX_LEVELS or not is_valid_filter(to_filter(topic)):
            raise ValueError(f"is no topic filter: # stands at the end, and {MAX_LEVELS} levels are the most")
        if not is_local(topic):
            raise ValueError("belongs to the device API: v1/, v2/, $ and /provision cannot be mapped")
        return topic

    @model_validator(mode="after")
    def _does_something(self) -> UpRule:
        parts = set(NAMED.findall(self.topic))
        if self.ignore:
            return self
        if self.device_path is None:
            unknown = set(NAMED.findall(self.device)) - parts
            if unknown or not NAMED.search(self.device):
                name = min(unknown, default="device")
                raise ValueError(f"device: {{{name}}} is no part of the topic {self.topic!r}; or give device_path")
        if self.payload in ("json", "text") and not (self.telemetry or self.attributes or self.presence):
            raise ValueError("takes nothing; give telemetry, attributes or presence, or ignore: true")
        if self.payload == "text" and any(
            take.path == "" and not take.key for take in self.telemetry + self.attributes
        ):
            raise ValueError("a plain payload has no name of its own; give key")
        for where, takes in (("telemetry", self.telemetry), ("attributes", self.attributes)):
            for index, take in enumerate(takes):
                known = parts | take.places()
                unknown_ones = sorted(set(PLACE.findall(take.key or "")) - known)
                if unknown_ones:
                    names = ", ".join(sorted(known)) or "nothing"
                    raise ValueError(f"{where}[{index}].key: there is no {{{unknown_ones[0]}}} here; known: {names}")
        return self


class Answer(Settings):
    """Where the answer to a call comes, and how it is known to be the one."""

    topic: str
    path: str = ""
    correlation: str | None = None
    has: str | None = None
    timeout_s: PositiveFloat = 10.0


class DownRule(_WithMap):
    """A call or a change of shared attributes, and the publish that it becomes. Names are patterns with * and ?."""

    rpc: str | None = None
    attributes: str | None = None
    attributes_deleted: str | None = None
    attribute_answer: Literal[True] | None = None
    topic: str
    payload: Any = None
    qos: Literal[0, 1] = 1
    retain: bool = False
    answer: Answer | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> DownRule:
        kinds = [
            kind
            for kind in ("rpc", "attributes", "attributes_deleted", "attribute_answer")
            if getattr(self, kind) is not None
        ]
        if len(kinds) != 1:
            raise ValueError("needs exactly one of rpc, attributes, attributes_deleted, attribute_answer")
        if self.answer is not None and self.rpc is None:
            raise ValueError("answer is for rpc")
        if "+" in self.topic or "#" in self.topic or not self.topic or not is_local(self.topic):
            raise ValueError("topic must be a topic to publish to, with parts such as {device}")
        return self


class MappingFile(Settings):
    """One set of rules: a file, or what stands in the configuration."""

    source: str = ""
    profile: Annotated[str, Field(min_length=1, max_length=255)] = "default"
    devices: str = ".{1,255}"
    up: tuple[UpRule, ...] = ()
    down: tuple[DownRule, ...] = ()

    _check = field_validator("devices")(_pattern)

    @model_validator(mode="after")
    def _names_are_known(self) -> MappingFile:
        known = _DOWN_NAMES.union(*(NAMED.findall(rule.topic) for rule in self.up))
        for index, rule in enumerate(self.down):
            answer = "" if rule.answer is None else rule.answer.topic
            used = {name.partition(".")[0] for name in PLACE.findall(f"{rule.topic} {rule.payload} {answer}")}
            if unknown := min(used - known, default=None):
                raise ValueError(f"down[{index}]: {{{unknown}}} is unknown; known: {', '.join(sorted(known))}")
        return self


class RuleSet:
    """A set with its name, for messages."""

    def __init__(self, name: str, rules: MappingFile) -> None:
        self.name, self.rules = name, rules
        self.devices = re.compile(rules.devices)


def load_sets(config: MappingsConfig) -> list[RuleSet]:
    """All sets of the configuration, in their order.

    Raises:
        ConfigError: With file, number of the rule and path, and what would be right.
    """
    return [_load(use, f"mappings.sets[{index}]") for index, use in enumerate(config.sets)]


def load_file(name: str) -> RuleSet:
    """A file, or the name of a set that comes along. ConfigError as above."""
    path = READY / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        path = Path(name)
    return RuleSet(str(path), load_settings(MappingFile, path))


def ready_names() -> list[str]:
    """What `use` may say."""
    return sorted(path.stem for path in READY.glob("*.yaml"))


def _load(use: MappingUse, where: str) -> RuleSet:
    if use.use is not None:
        if use.use not in ready_names():
            raise ConfigError(f"{where}.use", f"{use.use!r} does not come along; there are {', '.join(ready_names())}")
        name, rules = use.use, load_settings(MappingFile, READY / f"{use.use}.yaml")
    elif use.file is not None:
        name, rules = str(use.file), load_settings(MappingFile, use.file)
    else:
        name, rules = where, parse_config(MappingFile, {"up": use.up, "down": use.down}, where)
    given = {key: value for key in ("profile", "devices") if (value := getattr(use, key)) is not None}
    return RuleSet(name, parse_config(MappingFile, rules.model_dump(exclude_unset=True) | given, where))
