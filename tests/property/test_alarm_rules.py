"""Alarm rules against a naive model that remembers everything and counts afresh each time."""

from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rules.alarm_rules import CLEAR, Counts, decide, parse_alarms
from gateway.rules.conditions import SERIES, Key

TOUCHED = frozenset({Key(SERIES, "t")})


def rule(operation, limit, spec):
    value = {"defaultValue": limit, "userValue": None, "dynamicValue": None}
    predicate = {"type": "NUMERIC", "operation": operation, "value": value}
    key = {"type": "TIME_SERIES", "key": "t"}
    return {"condition": {"condition": [{"key": key, "valueType": "NUMERIC", "predicate": predicate}], "spec": spec}}


specs = st.one_of(
    st.just({"type": "SIMPLE"}),
    st.integers(1, 4).map(lambda n: {"type": "REPEATING", "predicate": {"defaultValue": n}}),
    st.integers(0, 9).map(lambda n: {"type": "DURATION", "unit": "MILLISECONDS", "predicate": {"defaultValue": n}}),
)
steps = st.lists(
    st.tuples(st.sampled_from(["value", "value", "value", "tick", "lost"]), st.integers(0, 9), st.integers(0, 6)),
    max_size=40,
)


class Facts:
    """One number."""

    fields: ClassVar[list[str]] = []

    def __init__(self):
        self.t = None

    def value(self, key):
        return self.t

    def dynamic(self, source, name, inherits):
        return None


class Naive:
    """Keeps the times of all matches in a row, for each rule; durations and counts are their sums."""

    def __init__(self, rules, clear):
        self.rules, self.clear = rules, clear  # (name, test, spec), the highest first
        self.rows = {name: [] for name, _, _ in [*rules, *([clear] if clear else [])]}
        self.is_open = False

    def holds(self, name, spec, now=None):
        row = self.rows[name]
        if spec["type"] == "SIMPLE":
            return now is None and bool(row)
        required = spec["predicate"]["defaultValue"]
        if spec["type"] == "REPEATING":
            return now is None and len(row) >= required
        if not row or (now is not None and now <= max(row)):
            return False
        forward = [row[0]]  # a time that goes back adds nothing
        for at in [*row[1:], *([] if now is None else [now])]:
            forward.append(max(at, forward[-1]))
        return forward[-1] - forward[0] > required

    def judge(self, name, test, spec, value, ts, is_tick):
        if not is_tick:
            if not test(value):
                self.rows[name].clear()
                return False
            self.rows[name].append(ts)
        return self.holds(name, spec, ts if is_tick else None)

    def step(self, value, ts, is_tick):
        for name, test, spec in self.rules:
            if self.judge(name, test, spec, value, ts, is_tick):
                self.is_open = True
                if self.clear:
                    self.rows[CLEAR].clear()
                return name
        if self.clear and self.is_open and self.judge(*self.clear, value, ts, is_tick):
            self.is_open = False
            for row in self.rows.values():
                row.clear()
            return CLEAR
        return None


@settings(max_examples=150, deadline=None)
@given(specs, specs, st.one_of(st.none(), specs), steps)
def test_the_rules_are_what_a_naive_model_says(critical, minor, clear, walk):
    creates = {"MINOR": rule("GREATER", 4, minor), "CRITICAL": rule("GREATER", 6, critical)}
    tree = {"alarmType": "Hot", "createRules": creates, "clearRule": clear and rule("LESS", 3, clear)}
    ((alarm,), problems) = parse_alarms({"alarms": [tree]})
    assert problems == []
    naive = Naive(
        [("CRITICAL", lambda v: v > 6, critical), ("MINOR", lambda v: v > 4, minor)],
        clear and (CLEAR, lambda v: v < 3, clear),
    )
    counts, facts, now, is_open = {one.name: Counts() for one in alarm.rules}, Facts(), 1, False
    for kind, value, passed in walk:
        now += passed
        if kind == "lost":  # a restart: what is kept is read again
            counts = {name: Counts(*held.to_json()) for name, held in counts.items()}
            continue
        is_tick = kind == "tick"
        ts = now if is_tick else max(1, now - value % 3)  # data may lag behind
        if not is_tick:
            facts.t = value
        decision = decide(alarm, counts, facts, ts, touched=None if is_tick else TOUCHED, is_open=is_open)
        said = CLEAR if decision.is_cleared else decision.fired.name if decision.fired else None
        assert said == naive.step(facts.t, ts, is_tick)
        is_open = naive.is_open
