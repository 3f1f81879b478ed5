"""A rule chain made of the short forms in `rules.short`: the built-in chain, with other ways for telemetry.

Nodes are ThingsBoard's where it has one that does the same; the others are `edge.gateway.rules.…`, and a chain with
such a node does not open there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

import orjson

from gateway.domain.short_rules import AlarmRule, Every, OnChange, ShortRule, Step

NAME: Final = "Short rules"
DEFAULT_CHAIN: Final = "default_chain.json"
_PREFIX: Final = "org.thingsboard.rule.engine."
_SAVE: Final = "telemetry.TbMsgTimeseriesNode"
_PUSH: Final = "edge.TbMsgPushToCloudNode"
_Place = tuple[int, str]
"""A node, and the relation by which telemetry leaves it."""


def short_chain(rules: Sequence[ShortRule]) -> dict[str, Any]:
    """The export form of ThingsBoard. The first rule that a device fits to is its rule; no rule: saved and pushed."""
    draft = _Draft(orjson.loads(resources.files(__package__).joinpath(DEFAULT_CHAIN).read_bytes()))
    at: _Place | None = draft.entry
    for number, rule in enumerate(rules, 1):
        draft.begin_line()
        if at is None:
            break
        condition = _selection(rule)
        if condition is None:
            draft.follow(rule.steps, at, number)
            at = None
        else:
            chosen = draft.add(
                "filter.TbJsFilterNode",
                f"Rule {number}: for this device?",
                {"scriptLang": "JS", "jsScript": f"return {condition};", "tbelScript": "return true;"},
                at,
            )
            draft.follow(rule.steps, (chosen, "True"), number)
            at = (chosen, "False")
    if at is not None:
        draft.connect(at, draft.save)
    return draft.tree


def _selection(rule: ShortRule) -> str | None:
    parts = []
    if rule.profiles:
        parts.append(f"{_js(rule.profiles)}.indexOf(metadata.deviceType) >= 0")
    if rule.devices:
        patterns = "|".join(re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in rule.devices)
        parts.append(f"new RegExp({_js(f'^(?:{patterns})$')}).test(metadata.deviceName)")
    return " && ".join(parts) or None


def _js(value: object) -> str:
    return orjson.dumps(value).decode()


class _Draft:
    """A chain that grows to the right, one line for each rule."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree = tree
        head, metadata = tree["ruleChain"], tree["metadata"]
        head["name"] = NAME
        head["additionalInfo"] = {"description": "Made of rules.short in the gateway's configuration."}
        self._nodes: list[dict[str, Any]] = metadata["nodes"]
        self._connections: list[dict[str, Any]] = metadata["connections"]
        (way,) = (link for link in self._connections if link["type"] == "Post telemetry")
        self._connections.remove(way)
        self.entry: _Place = (way["fromIndex"], way["type"])
        self.save: int = way["toIndex"]
        self._push = next(link["toIndex"] for link in self._connections if link["fromIndex"] == self.save)
        self._x, self._y = 350, 250
        self._alarms: int | None = None

    def begin_line(self) -> None:
        """The next nodes stand below."""
        self._x, self._y = 350, self._y + 250

    def add(self, kind: str, name: str, config: dict[str, Any], at: _Place | None, version: int = 0) -> int:
        """A node, connected to the place."""
        self._x += 250
        self._nodes.append(
            {
                "type": kind if kind.startswith("edge.gateway.") else _PREFIX + kind,
                "name": name,
                "singletonMode": False,
                "queueName": None,
                "configurationVersion": version,
                "configuration": config,
                "additionalInfo": {"description": "", "layoutX": self._x, "layoutY": self._y},
            }
        )
        if at is not None:
            self.connect(at, len(self._nodes) - 1)
        return len(self._nodes) - 1

    def connect(self, at: _Place, to: int) -> None:
        """By the relation."""
        self._connections.append({"fromIndex": at[0], "toIndex": to, "type": at[1]})

    def follow(self, steps: Sequence[Step], at: _Place, number: int) -> None:
        """The steps of one rule, from here to the cloud."""
        is_saved = False
        for count, step in enumerate(steps, 1):
            name = f"Rule {number}, step {count}"
            if step.alarm is not None:
                self._alarm(step.alarm, at, name)
            elif step.every is not None:
                at = self._every(step.every, at, name, is_saved)
                is_saved = False
            elif step.on_change is not None:
                if step.on_change.rest == "save" and not is_saved:
                    at, is_saved = (self._save(f"{name}: save", at), "Success"), True
                at = self._on_change(step.on_change, at, name)
        self.connect(at, self._push if is_saved else self.save)

    def _save(self, name: str, at: _Place) -> int:
        config = {"defaultTTL": 0, "useServerTs": False, "processingSettings": {"type": "ON_EVERY_MESSAGE"}}
        return self.add(_SAVE, name, config, at, 1)

    def _every(self, every: Every, at: _Place, name: str, is_saved: bool) -> _Place:
        config = {
            "windowSeconds": every.seconds,
            "timeZone": every.time_zone,
            "functions": list(every.send),
            "keys": list(every.keys),
            "late": every.late.upper(),
            "keepOpenSeconds": every.keep_open_s,
            "resultTime": every.time.upper(),
        }
        node = self.add("edge.gateway.rules.AggregateNode", f"{name}: every {every.seconds:g} s", config, at)
        if every.raw == "save" and not is_saved:
            self._save(f"{name}: save raw", (node, "Raw"))
        return node, "Success"

    def _on_change(self, on_change: OnChange, at: _Place, name: str) -> _Place:
        percent = on_change.percent
        config = {
            "keys": list(on_change.keys),
            "by": on_change.by if percent is None else percent,
            "unit": "ABSOLUTE" if percent is None else "PERCENT",
            "longestSilenceSeconds": on_change.longest_silence_s,
        }
        return self.add("edge.gateway.rules.ChangeFilterNode", f"{name}: on change", config, at), "True"

    def _alarm(self, alarm: AlarmRule, at: _Place, name: str) -> None:
        (sign, limit), (clear_sign, clear_limit) = alarm.condition, alarm.clear_condition
        key, type_ = _js(alarm.key), alarm.type or f"{alarm.key} {alarm.when.strip()}"
        if alarm.for_s:
            config: dict[str, Any] = {
                "key": alarm.key,
                "operator": sign,
                "value": limit,
                "clearOperator": clear_sign,
                "clearValue": clear_limit,
                "durationSeconds": alarm.for_s,
            }
            asked = self.add("edge.gateway.rules.ThresholdNode", f"{name}: for {alarm.for_s:g} s?", config, at)
        else:
            script = (
                f"var value = msg[{key}];\n"
                "if (typeof value !== 'number') { return []; }\n"
                f"if (value {sign} {limit}) {{ return ['Raise']; }}\n"
                f"if (value {clear_sign} {clear_limit}) {{ return ['Clear']; }}\n"
                "return [];"
            )
            config = {"scriptLang": "JS", "jsScript": script, "tbelScript": "return [];"}
            asked = self.add("filter.TbJsSwitchNode", f"{name}: {alarm.key} {alarm.when.strip()}?", config, at)
        raised = self.add(
            "action.TbCreateAlarmNode",
            f"{name}: create alarm",
            {
                "alarmType": type_,
                "scriptLang": "JS",
                "alarmDetailsBuildJs": f"return {{value: msg[{key}], limit: {_js(alarm.when.strip())}}};",
                "alarmDetailsBuildTbel": "return {};",
                "severity": alarm.severity,
                "dynamicSeverity": False,
                "propagate": False,
                "propagateToOwner": False,
                "propagateToTenant": False,
                "relationTypes": [],
                "useMessageAlarmData": False,
                "overwriteAlarmDetails": False,
            },
            (asked, "Raise"),
        )
        details = (
            "var details = {};\n"
            "if (metadata.prevAlarmDetails) { details = JSON.parse(metadata.prevAlarmDetails); }\n"
            f"details.clearedBy = msg[{key}];\n"
            "return details;"
        )
        cleared = self.add(
            "action.TbClearAlarmNode",
            f"{name}: clear alarm",
            {
                "alarmType": type_,
                "scriptLang": "JS",
                "alarmDetailsBuildJs": details,
                "alarmDetailsBuildTbel": "return {};",
            },
            (asked, "Clear"),
        )
        # An alarm that goes on is updated with each reading; its beginning and its end are what the cloud is told.
        if self._alarms is None:
            self._alarms = self.add(_PUSH, "Push alarms", {"scope": "SERVER_SCOPE"}, None)
        self.connect((raised, "Created"), self._alarms)
        self.connect((cleared, "Cleared"), self._alarms)
