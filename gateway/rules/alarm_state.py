"""What the device profile node knows of one device: values of the keys of its rules, and how far each rule is.

Counts, values and the ids of open alarms are durable with the changes of the message that moved them: a duration goes
on after a restart. Source: reference device-api §4.2, rule-engine §7.2, §9 (18).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from gateway.domain.alarm import SEVERITIES
from gateway.domain.entity import Device, DeviceProfile, EntityId, Json
from gateway.domain.message import Message
from gateway.domain.telemetry import AttributeScope, Value
from gateway.ports import StateReader
from gateway.rules.alarm_rules import CLEAR, AlarmRules, Counts, parse_alarms
from gateway.rules.chain import entity_uuid
from gateway.rules.conditions import ATTRIBUTE, SERIES, Key
from gateway.rules.timers import Timer

_SCOPES: Final = (
    AttributeScope.SERVER_SCOPE.value,
    AttributeScope.SHARED_SCOPE.value,
    AttributeScope.CLIENT_SCOPE.value,
)
"""All are one name space: the first that has a key wins."""
_NAMES: Final = (*SEVERITIES, CLEAR)


class ProfileRules:
    """Of one profile, as it is now."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self.alarms, self.problems = parse_alarms(profile.json.get("profileData") if profile.json else None)
        keys = {key for alarm in self.alarms for rule in alarm.rules for key in rule.keys}
        self.series = frozenset(key.name for key in keys if key.type == SERIES)
        self.attributes = frozenset(key.name for key in keys if key.type == ATTRIBUTE)


class Update(NamedTuple):
    """What a message says: telemetry (`scope` empty) or attributes of a scope, written or deleted."""

    ts_ms: int
    scope: str
    values: Mapping[str, Any]
    deleted: Iterable[str] = ()


def updates_of(msg: Message, now_ms: int) -> list[Update]:
    """In ascending order of time; empty for messages in which no rule is interested."""
    data, metadata = msg.data, msg.metadata
    match msg.type:
        case "POST_TELEMETRY_REQUEST":
            return _series(data, msg.data_ts_ms)
        case "TIMESERIES_UPDATED":
            return _series(data.get("timeseries", data) if isinstance(data, dict) else data, msg.data_ts_ms)
        case "ACTIVITY_EVENT" | "INACTIVITY_EVENT" if not metadata.get("scope"):
            return _series(data, msg.data_ts_ms)
    if not isinstance(data, dict):
        return []
    match msg.type:
        case "POST_ATTRIBUTES_REQUEST":
            return [Update(now_ms, AttributeScope.CLIENT_SCOPE.value, data)]
        case "ATTRIBUTES_UPDATED" | "ACTIVITY_EVENT" | "INACTIVITY_EVENT":
            return [Update(now_ms, metadata.get("scope") or AttributeScope.CLIENT_SCOPE.value, data)]
        case "ATTRIBUTES_DELETED":
            names = data.get("attributes")
            if isinstance(names, list):
                scope = metadata.get("scope") or AttributeScope.CLIENT_SCOPE.value
                return [Update(now_ms, scope, {}, [name for name in names if isinstance(name, str)])]
    return []


def _series(data: Json, ts_ms: int) -> list[Update]:
    found = []
    for item in data if isinstance(data, list) else [data]:
        if not isinstance(item, dict):
            continue
        if type(item.get("ts")) is int and isinstance(item.get("values"), dict):
            found.append(Update(item["ts"], "", item["values"]))
        else:
            found.append(Update(ts_ms, "", item))
    return sorted(found, key=lambda update: update.ts_ms) if len(found) > 1 else found


class DeviceState:
    """One device. Implements `Facts`."""

    def __init__(self, device: Device, state: StateReader, kept: Json) -> None:
        self.device, self._state = device, state
        self.rules: ProfileRules | None = None
        self.counts: dict[str, dict[str, Counts]] = {}  # by id of the alarm rule, by name of the rule
        self.open: dict[str, str] = {}  # by id of the alarm rule: the alarm that it has created or updated
        self.metadata: dict[str, str] | None = None  # of the last message; alarms that time makes have it as well
        self.asked: frozenset[str] = frozenset()  # telemetry that was looked up in the store
        self.last_ms = 0
        self.is_changed = False
        self.timer: Timer | None = None
        self._series: dict[str, tuple[int, Value]] = {}
        self._attributes: dict[str, dict[str, Value]] = {scope: {} for scope in _SCOPES}
        if isinstance(kept, dict):
            self._read(kept)

    def adopt(self, rules: ProfileRules) -> None:
        """The rules are others, or the first ones: who stays keeps its counts, what is gone is forgotten."""
        known = self.rules.attributes if self.rules is not None else frozenset()
        self.rules = rules
        counts = {
            alarm.id: {rule.name: self.counts.get(alarm.id, {}).get(rule.name) or Counts() for rule in alarm.rules}
            for alarm in rules.alarms
        }
        self.is_changed |= any(
            bool(held) and counts.get(id_, {}).get(name) is not held
            for id_, of in self.counts.items()
            for name, held in of.items()
        )
        self.counts = counts
        self.open = {id_: key for id_, key in self.open.items() if id_ in counts}
        self._series = {name: held for name, held in self._series.items() if name in rules.series}
        entity = self.device.entity_id
        for scope in _SCOPES:
            for name in rules.attributes - known:
                attribute = self._state.attribute(entity, scope, name)
                if attribute is not None:
                    self._attributes[scope][name] = attribute.value

    def learn(self, latest: Mapping[str, tuple[int, Value]]) -> None:
        """What the store has of the telemetry; newer values stay."""
        rules = self.rules
        if rules is None:
            return
        for name in rules.series & latest.keys():
            held = self._series.get(name)
            if held is None or held[0] < latest[name][0]:
                self._series[name] = latest[name]

    def merge(self, update: Update) -> set[Key]:
        """Take over what a message says; the keys that it has touched.

        Telemetry that is older than what is known changes nothing, nor does the same value of the same time.
        """
        rules, touched = self.rules, set[Key]()
        if rules is None:
            return touched
        if not update.scope:
            for name in rules.series & update.values.keys():
                value, held = update.values[name], self._series.get(name)
                if value is None or (held is not None and (update.ts_ms < held[0] or held == (update.ts_ms, value))):
                    continue
                self._series[name] = (update.ts_ms, value)
                touched.add(Key(SERIES, name))
        else:
            values = self._attributes.get(update.scope)
            if values is None:
                return touched
            for name in rules.attributes & update.values.keys():
                if update.values[name] is not None:
                    values[name] = update.values[name]
                    touched.add(Key(ATTRIBUTE, name))
            for name in rules.attributes.intersection(update.deleted):
                values.pop(name, None)
                touched.add(Key(ATTRIBUTE, name))
        if touched:
            self.last_ms = update.ts_ms
        return touched

    def forget_alarm(self, alarm: AlarmRules) -> None:
        """It was cleared or deleted by somebody else: its rules begin again."""
        del self.open[alarm.id]
        self.is_changed = True
        for counts in self.counts[alarm.id].values():
            counts.reset()

    # ── facts ──

    def value(self, key: Key) -> Value | None:
        """See `Facts`."""
        if key.type == SERIES:
            held = self._series.get(key.name)
            return None if held is None else held[1]
        if key.type == ATTRIBUTE:
            return self._attribute(key.name)
        device = self.device
        fields: dict[str, Value | None] = {
            "name": device.name, "type": device.type, "label": device.label, "createdTime": device.created_ms,
        }  # fmt: skip
        return fields.get(key.name)

    def _attribute(self, name: str) -> Value | None:
        for scope in _SCOPES:
            if name in self._attributes[scope]:
                return self._attributes[scope][name]
        return None

    def dynamic(self, source: str, name: str, inherits: bool) -> Value | None:
        """See `Facts`."""
        if source == "CURRENT_DEVICE":
            value = self._attribute(name)
            if value is not None or not inherits:
                return value
        identity = self._state.identity()
        if source in ("CURRENT_DEVICE", "CURRENT_CUSTOMER"):
            customer_id = entity_uuid(self.device.json.get("customerId")) if self.device.json else None
            if customer_id is None and identity is not None:
                customer_id = identity.customer_id
            value = self._of("CUSTOMER", customer_id, name)
            if value is not None or not inherits:
                return value
        return self._of("TENANT", identity.tenant_id if identity else None, name)

    def _of(self, kind: str, id_: UUID | None, name: str) -> Value | None:
        if id_ is None:
            return None
        attribute = self._state.attribute(EntityId(kind, id_), AttributeScope.SERVER_SCOPE.value, name)
        return None if attribute is None else attribute.value

    # ── what is kept ──

    def to_json(self) -> Json:
        """None: there is nothing that has to survive."""
        counts = {id_: {name: held.to_json() for name, held in of.items() if held} for id_, of in self.counts.items()}
        counts = {id_: of for id_, of in counts.items() if of}
        if not counts and not self.open:
            return None
        return {"counts": counts, "open": self.open, "series": self._series, "last": self.last_ms}

    def _read(self, kept: Mapping[str, Any]) -> None:
        self.last_ms = kept["last"]
        self.open = dict(kept["open"])
        self._series = {name: (ts_ms, value) for name, (ts_ms, value) in kept["series"].items()}
        self.counts = {
            id_: {name: Counts(*held) for name, held in of.items() if name in _NAMES}
            for id_, of in kept["counts"].items()
        }
