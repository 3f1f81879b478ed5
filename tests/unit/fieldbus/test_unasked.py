"""Points that come unasked: known beforehand, reported as told, and why they have no value."""

import pytest

from gateway.errors import TransientError
from gateway.fieldbus.outage import Outage, Unit
from gateway.fieldbus.overview import Overview
from gateway.fieldbus.records import Records
from gateway.ports import PollPoint, Reading, Report
from tests.fakes.clock import FakeClock


def point(key, **report):
    return "u", PollPoint(device="d", key=key, report=Report(**report) if report else None)


def reading(key, value):
    return Reading(device="d", key=key, value=value, ts_ms=1)


def test_they_are_reported_as_told():
    records = Records("b", (), [point("a", on_change=True), point("b")])

    def take(*readings):
        return [(each.key, each.value) for each in records.take("u", None, readings, 0.0)]

    assert take(reading("a", 1), reading("b", 1)) == [("a", 1), ("b", 1)]
    assert take(reading("a", 1), reading("b", 1), reading("c", 1)) == [("b", 1), ("c", 1)]
    records.forget(["other"])
    assert take(reading("a", 1)) == []
    records.forget(["d"])
    assert take(reading("a", 1)) == [("a", 1)]


@pytest.mark.parametrize(
    ("answers", "failures", "reason"), [(0, 0, None), (0, 1, "quiet"), (3, 1, None), (3, 2, "quiet")]
)
def test_the_reason_is_told_at_once_where_nothing_ever_came(answers, failures, reason):
    unit = Unit("b", "u")
    unit.answers = answers
    for _ in range(failures):
        unit.outage.failed(TransientError("quiet"), 1)
    records = Records("b", (), [point("a")])
    overview = Overview(FakeClock(), lambda: Driver(), lambda: records, {"u": unit}, Outage("b"))
    assert [row["reason"] for row in overview.points()] == [reason or "no value yet"]


class Driver:
    def faults(self):
        return {}
