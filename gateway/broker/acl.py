"""Who may publish and hear which local topics: rules of the configuration and of a mosquitto-style file.

Without any rule every device may use every local topic. With one, only what a rule allows; a `deny` wins over
whatever allows. A subscription is granted when anything allowed can come through it; each message is looked at
again when it is delivered, so a wildcard reaches nothing that is not allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Final

from gateway.config import AclRule, BrokerConfig, parse_config
from gateway.domain.entity import Device
from gateway.errors import ConfigError

_ACCESS: Final = ("read", "write", "readwrite", "deny")
_MAX_REMEMBERED: Final = 2_000
_NAMED: Final = re.compile("%[dp]")
_ANY, _REST = object(), object()
_Level = str | object


@dataclass(frozen=True, slots=True)
class _Rule:
    device: re.Pattern[str]
    profile: re.Pattern[str]
    levels: tuple[str, ...]
    access: str


class Acl:
    """The rules; `of` gives one device's view of them."""

    def __init__(self, rules: Iterable[AclRule] = ()) -> None:
        self._rules = [
            _Rule(
                re.compile(translate(rule.device)),
                re.compile(translate(rule.profile)),
                tuple(rule.topic.split("/")),
                rule.access,
            )
            for rule in rules
        ]

    def of(self, device: Device) -> DeviceAcl:
        """By the device's name (its own here, or the cloud's) and profile as they are now."""
        if not self._rules:
            return DeviceAcl(None)
        name = device.local_name or device.name
        mine = [
            (rule.access, tuple(_level(level, name, device.type) for level in rule.levels))
            for rule in self._rules
            if (rule.device.match(name) or rule.device.match(device.name)) and rule.profile.match(device.type)
        ]
        return DeviceAcl(mine)


class DeviceAcl:
    """What one device may do. Memory is bounded: answers are remembered for so many topics, then anew."""

    def __init__(self, rules: Sequence[tuple[str, tuple[_Level, ...]]] | None) -> None:
        """`rules` None: everything."""
        self._rules = rules
        self._known: dict[tuple[str, str], bool] = {}

    def may_write(self, topic: str) -> bool:
        """May the device publish to this topic?"""
        return self._rules is None or self._may("write", topic)

    def may_read(self, topic: str) -> bool:
        """May the device hear what is published to this topic?"""
        return self._rules is None or self._may("read", topic)

    def may_subscribe(self, topic_filter: str) -> bool:
        """Can anything come through this filter that the device may read?"""
        if self._rules is None:
            return True
        asked = tuple(_level(level, "", "", is_pattern=False) for level in topic_filter.split("/"))
        if any(access == "deny" and _covers(levels, asked) for access, levels in self._rules):
            return False
        return any(access in ("read", "readwrite") and _overlap(levels, asked) for access, levels in self._rules)

    def _may(self, access: str, topic: str) -> bool:
        known = self._known.get((access, topic))
        if known is None:
            levels = tuple(topic.split("/"))
            known = False
            for granted, pattern in self._rules or ():
                if granted in (access, "readwrite", "deny") and _covers(pattern, levels):
                    known = granted != "deny"
                    if not known:
                        break
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            self._known[access, topic] = known
        return known


def load_acl(config: BrokerConfig) -> Acl:
    """The rules of the configuration and of its file.

    Raises:
        ConfigError: The file cannot be read or understood; with file and line.
    """
    rules = list(config.acl)
    if config.acl_file is not None:
        rules += read_acl_file(config.acl_file)
        if not rules:  # an empty file allows nothing, as mosquitto reads it
            rules.append(AclRule(topic="#", access="deny"))
    return Acl(rules)


def read_acl_file(path: Path) -> list[AclRule]:
    """A mosquitto-style file: `user NAME`, `profile NAME`, `topic [read|write|readwrite|deny] FILTER`, `pattern …`.

    `user` is a device name and may be a pattern. What stands in front of the first `user` or `profile` line, and every
    `pattern`, is for all devices; `%u` is read as `%d`.

    Raises:
        ConfigError: With file and line, and what would be right.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("broker.acl_file", f"{path} cannot be read: {error}") from None
    rules: list[AclRule] = []
    device = profile = "*"
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        word, _, rest = text.partition(" ")
        rest = rest.strip()
        where = f"{path}:{number}"
        if word in ("user", "profile"):
            if not rest:
                raise ConfigError(where, f"needs a name: {word} NAME")
            device, profile = (rest, "*") if word == "user" else ("*", rest)
        elif word in ("topic", "pattern"):
            first, _, more = rest.partition(" ")
            access, topic = (first, more.strip()) if first in _ACCESS and more.strip() else ("readwrite", rest)
            topic = topic.replace("%u", "%d") if word == "pattern" else topic
            who = {"device": "*", "profile": "*"} if word == "pattern" else {"device": device, "profile": profile}
            rules.append(parse_config(AclRule, {**who, "topic": topic, "access": access}, where))
        else:
            raise ConfigError(where, f"begins with {word!r}; known here: user, profile, topic, pattern, # comment")
    return rules


def _level(level: str, device: str, profile: str, *, is_pattern: bool = True) -> _Level:
    """A name stands for itself, whatever characters it has: a device called `#` opens nothing."""
    if level == "+":
        return _ANY
    if level == "#":
        return _REST
    return _NAMED.sub(lambda found: device if found[0] == "%d" else profile, level) if is_pattern else level


def _covers(pattern: Sequence[_Level], asked: Sequence[_Level]) -> bool:
    """Does the pattern match everything that `asked` (a topic, or a filter) can mean?"""
    for index, level in enumerate(pattern):
        if level is _REST:
            return True
        if index >= len(asked):
            return False
        other = asked[index]
        if other is _REST or (level is not _ANY and level != other):
            return False
    return len(pattern) == len(asked)


def _overlap(pattern: Sequence[_Level], asked: Sequence[_Level]) -> bool:
    """Is there a topic that both match?"""
    for index in range(max(len(pattern), len(asked)) + 1):
        one = pattern[index] if index < len(pattern) else None
        two = asked[index] if index < len(asked) else None
        if one is _REST or two is _REST:
            return True
        if one is None or two is None:
            return one is two
        if one is not _ANY and two is not _ANY and one != two:
            return False
    return True
