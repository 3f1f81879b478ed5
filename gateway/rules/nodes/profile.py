"""The device profile node: evaluates the alarm rules of the profile of a message's device.

Rules act on messages, and by themselves when a duration is over. What they have counted is durable. ThingsBoard looks
after durations each minute; here a duration that runs with the clock ends at its millisecond.
Source: reference rule-engine §7.2, device-api §4.2.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from gateway.domain.alarm import SEVERITIES, with_status
from gateway.domain.entity import Device, DeviceProfile, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError, TransientError
from gateway.ports import Outcome
from gateway.rules.alarm_rules import AlarmRules, Decision, Rule, decide
from gateway.rules.alarm_state import DeviceState, ProfileRules, Update, updates_of
from gateway.rules.conditions import Key
from gateway.rules.node import FAILURE, SUCCESS, Answer, Later, NodeConfig, NodeEnv, Routed, Run, node

EVERY_S: Final = 60.0
_READ: Final = frozenset(
    {
        "POST_TELEMETRY_REQUEST", "TIMESERIES_UPDATED", "POST_ATTRIBUTES_REQUEST", "ATTRIBUTES_UPDATED",
        "ATTRIBUTES_DELETED", "ACTIVITY_EVENT", "INACTIVITY_EVENT",
    }
)  # fmt: skip
_ALARM_EVENTS: Final = frozenset({"ALARM_CLEAR", "ALARM_ACK", "ALARM_DELETE"})


class DeviceProfileConfig(NodeConfig):
    """Accepted and without effect: the state is always kept, and always found again at a start."""

    persist_alarm_rules_state: bool = False
    fetch_alarm_rules_state_on_start: bool = False


@node("profile.TbDeviceProfileNode", "device profile (deprecated)", DeviceProfileConfig)
def device_profile(config: DeviceProfileConfig, env: NodeEnv) -> Run:
    """Passes every message on by Success; alarms leave by Alarm Created, Updated, Severity Updated, Cleared."""
    return _DeviceProfile(env).run


class _DeviceProfile:
    def __init__(self, env: NodeEnv) -> None:
        self._env, self._state, self._alarms = env, env.state, env.shared.alarms
        self._profiles: dict[int, ProfileRules] = {}  # by the identity of the profile's value, which each holds
        self._devices: dict[UUID, DeviceState] = {}
        self._noted: set[str] = set()
        self._sweeper = env.timer(self._sweep)
        for name in list(env.kept.items):
            self._restore(name)

    def run(self, msg: Message, out: Outcome) -> Answer:
        """See `device_profile`."""
        originator = msg.originator
        if originator.type != "DEVICE":
            return SUCCESS
        device = self._state.device(originator.id)
        if device is None or msg.type == "ENTITY_DELETED":
            self._drop(out, originator.id)
            return None if device is None and msg.type != "ENTITY_DELETED" else SUCCESS
        profile = self._state.profile(device.profile_id) if device.profile_id is not None else None
        rules = None if profile is None else self._rules_of(profile)
        if rules is None or not rules.alarms:
            if self._devices:
                self._drop(out, device.id)
            return SUCCESS
        if msg.type not in _READ:
            if msg.type in _ALARM_EVENTS and (held := self._devices.get(device.id)) is not None:
                self._look(held)
                self._keep(held, out)
            return SUCCESS
        held = self._held(device, rules)
        if not rules.series <= held.asked and self._env.shared.series is not None:
            return Later(lambda later: self._ask(held, msg, later))
        return self._evaluate(held, msg, out)

    # ── who is known ──

    def _rules_of(self, profile: DeviceProfile) -> ProfileRules:
        rules = self._profiles.get(id(profile))
        if rules is None:
            for old in [key for key, held in self._profiles.items() if held.profile.id == profile.id]:
                del self._profiles[old]
            rules = self._profiles[id(profile)] = ProfileRules(profile)
            for problem in rules.problems:
                self._note(f"profile {profile.name!r}: {problem}")
        return rules

    def _held(self, device: Device, rules: ProfileRules) -> DeviceState:
        held = self._devices.get(device.id)
        if held is None:
            held = self._devices[device.id] = DeviceState(device, self._state, self._env.kept.get(str(device.id)))
            if not self._sweeper.is_armed:
                self._sweeper.arm(self._env.clock.monotonic_s() + EVERY_S)
        held.device = device
        if held.rules is not rules:
            held.adopt(rules)
        return held

    def _restore(self, name: str) -> None:
        """A device that was here before a restart: its durations go on without a message of it."""
        device = self._state.device(UUID(name))
        profile = None if device is None or device.profile_id is None else self._state.profile(device.profile_id)
        if device is not None and profile is not None and (rules := self._rules_of(profile)).alarms:
            self._arm(self._held(device, rules))
        elif not self._sweeper.is_armed:
            self._sweeper.arm(self._env.clock.monotonic_s() + EVERY_S)

    def _drop(self, out: Outcome, device_id: UUID) -> None:
        held = self._devices.pop(device_id, None)
        if held is not None and held.timer is not None:
            held.timer.cancel()
        self._env.kept.drop(out, str(device_id))

    def _sweep(self, out: Outcome) -> None:
        """What is known of devices and profiles that are gone, goes."""
        gone = [id_ for id_ in self._devices if self._state.device(id_) is None]
        gone += [id_ for name in self._env.kept.items if (id_ := UUID(name)) not in self._devices]
        for id_ in gone:
            self._drop(out, id_)
        for key in [key for key, held in self._profiles.items() if self._state.profile(held.profile.id) is None]:
            del self._profiles[key]
        if self._devices or len(self._env.kept):
            self._sweeper.arm(self._env.clock.monotonic_s() + EVERY_S)

    # ── what happens ──

    async def _ask(self, held: DeviceState, msg: Message, out: Outcome) -> Answer:
        """The first message of a device: what is stored of its telemetry counts, too."""
        series = self._env.shared.series
        if series is not None and held.rules is not None:
            asked = held.rules.series
            try:
                held.learn(await series.latest(msg.originator))
                held.asked = asked
            except TransientError:  # the message must not fail for that: the next one asks again
                self._env.shared.counters.add("rules.alarm_values_unread")
        return self._evaluate(held, msg, out)

    def _evaluate(self, held: DeviceState, msg: Message, out: Outcome) -> Answer:
        held.metadata = msg.metadata
        also: list[Routed] = []
        errors: list[str] = []
        for update in updates_of(msg, self._env.clock.now_ms()):
            self._take(held, update, also, errors, out)
        self._keep(held, out)
        self._arm(held)
        if errors:
            return Routed((FAILURE,), (msg,), "; ".join(dict.fromkeys(errors)), also)
        return Routed((SUCCESS,), (msg,), "", also) if also else SUCCESS

    def _take(self, held: DeviceState, update: Update, also: list[Routed], errors: list[str], out: Outcome) -> None:
        touched = held.merge(update)
        if touched:
            self._judge(held, update.ts_ms, touched, also, errors, out)

    def _tick(self, held: DeviceState, out: Outcome) -> Routed | None:
        """Time has passed."""
        device = self._state.device(held.device.id)
        if device is None or held.rules is None:
            self._drop(out, held.device.id)
            return None
        also: list[Routed] = []
        errors: list[str] = []
        self._judge(held, self._env.clock.now_ms(), None, also, errors, out)
        self._keep(held, out)
        self._arm(held)
        for error in errors:
            self._note(f"device {device.name!r}: {error}")
        return Routed((), (), "", also) if also else None

    def _judge(
        self,
        held: DeviceState,
        ts_ms: int,
        touched: set[Key] | None,
        also: list[Routed],
        errors: list[str],
        out: Outcome,
    ) -> None:
        """Every type of alarm for itself: one that cannot be evaluated keeps no other from it."""
        for alarm in held.rules.alarms if held.rules is not None else ():
            current = self._current(held, alarm)
            try:
                decision = decide(
                    alarm, held.counts[alarm.id], held, ts_ms, touched=touched, is_open=current is not None
                )
            except RejectedError as error:
                errors.append(f"alarm {alarm.type!r}: {error}")
                continue
            held.is_changed |= decision.is_changed
            if decision.fired is not None or decision.is_cleared:
                self._carry_out(held, alarm, decision, current, also, out)

    def _current(self, held: DeviceState, alarm: AlarmRules) -> tuple[str, Json] | None:
        """The alarm that is not cleared. Where it is not the one of which the rules know, they begin again."""
        found = self._alarms.open_alarm(held.device.entity_id, alarm.type)
        known = held.open.get(alarm.id)
        if known is not None and (found is None or found[0] != known):
            held.forget_alarm(alarm)
        return found

    def _look(self, held: DeviceState) -> None:
        for alarm in held.rules.alarms if held.rules is not None else ():
            self._current(held, alarm)

    def _carry_out(
        self,
        held: DeviceState,
        alarm: AlarmRules,
        decision: Decision,
        found: tuple[str, Json] | None,
        also: list[Routed],
        out: Outcome,
    ) -> None:
        now_ms, entity, rule = self._env.clock.now_ms(), held.device.entity_id, decision.fired
        key, current = found or ("", None)
        flags: dict[str, str] = {}
        fresh: dict[str, Any] | None
        if rule is None:
            if current is None or alarm.clear is None:
                return
            rule = alarm.clear
            fresh = self._alarms.clear(out, key, current, rule.details(held, current.get("details")))
            held.open.pop(alarm.id, None)
            label, flags["isClearedAlarm"] = "alarm cleared", "true"
        elif current is None:
            start_ms = held.last_ms if 0 < held.last_ms <= now_ms else now_ms
            fresh = self._alarms.create(
                out,
                entity,
                alarm.type,
                rule.name,
                start_ms=start_ms,
                details=rule.details(held, None),
                propagation=alarm.propagation,
            )
            if fresh is None:
                return
            key = fresh["id"]["id"]
            label, flags["isNewAlarm"] = "alarm created", "true"
        else:
            if SEVERITIES.index(rule.name) > _rank(current):
                return
            details = rule.details(held, current.get("details"))
            fresh = with_status(current, severity=rule.name, endTs=now_ms, details=details)
            self._alarms.save(out, key, fresh)
            label, flags["isExistingAlarm"] = "alarm updated", "true"
            if current.get("severity") != rule.name:
                label, flags["isSeverityUpdated"] = "alarm severity updated", "true"
        if not decision.is_cleared and held.open.get(alarm.id) != key:
            held.open[alarm.id] = key
            held.is_changed = True
        held.is_changed |= decision.is_cleared
        also.append(self._message(held, decision, rule, label, flags, fresh, now_ms))

    def _message(
        self,
        held: DeviceState,
        decision: Decision,
        rule: Rule,
        label: str,
        flags: dict[str, str],
        fresh: Json,
        now_ms: int,
    ) -> Routed:
        if rule.kind == "REPEATING":
            flags["alarmConditionRepeats"] = str(decision.matches)
        elif rule.kind == "DURATION":
            flags["alarmConditionDuration"] = str(decision.duration_ms)
        device = held.device
        metadata = held.metadata or {"deviceName": device.name, "deviceType": device.type}
        message = Message(
            type="ALARM", originator=device.entity_id, data=fresh, metadata={**metadata, **flags}, ts_ms=now_ms
        )
        return Routed((label,), (message,))

    # ── what stays, and what comes ──

    def _keep(self, held: DeviceState, out: Outcome) -> None:
        if not held.is_changed:
            return
        held.is_changed = False
        json = held.to_json()
        if json is None:
            self._env.kept.drop(out, str(held.device.id))
        else:
            self._env.kept.put(out, str(held.device.id), json)

    def _arm(self, held: DeviceState) -> None:
        """For the next duration that ends. One whose data lags behind the clock waits for a minute: what the device
        has still to say comes first.
        """
        if held.rules is None:
            return
        waits = [wait for alarm in held.rules.alarms for wait in self._waits(held, alarm)]
        if not waits:
            if held.timer is not None:
                held.timer.cancel()
            return
        if held.timer is None:
            held.timer = self._env.timer(lambda out: self._tick(held, out))
        held.timer.arm(self._env.clock.monotonic_s() + min(waits))

    def _waits(self, held: DeviceState, alarm: AlarmRules) -> list[float]:
        found: list[float] = []
        now_ms = self._env.clock.now_ms()
        for rule in alarm.rules:
            try:
                due_ms = rule.due_ms(held.counts[alarm.id][rule.name], held)
            except RejectedError:  # the threshold may be a number again in a minute
                due_ms = 0
            if due_ms is None:
                continue
            wait_s = (due_ms - now_ms) / 1000
            wait_s = wait_s if wait_s > 0 else EVERY_S
            found.append(min(wait_s, EVERY_S) if rule.has_schedule else wait_s)
        return found

    def _note(self, text: str) -> None:
        if text not in self._noted and len(self._noted) < 100:
            self._noted.add(text)
            self._env.note(text)


def _rank(alarm: Json) -> int:
    severity = alarm.get("severity")
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
