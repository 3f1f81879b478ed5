import pytest
from pydantic import ValidationError

from gateway.fieldbus.report import Reporter
from gateway.ports import Report


def reported(rule, values, every_s=1.0):
    """The values that pass, read each `every_s`."""
    reporter = Reporter(rule, every_s)
    return [value for turn, value in enumerate(values) if reporter.passes(value, turn * every_s)]


@pytest.mark.parametrize(
    ("rule", "values", "passed"),
    [
        ({}, [1, 1, 2, 2], [1, 1, 2, 2]),
        ({"on_change": True}, [1, 1, 2, 2, 1], [1, 2, 1]),
        ({"on_change": True}, [0, 0.0, False, False, 0, "", ""], [0, False, 0, ""]),
        ({"on_change": True}, [1, True, "1", [1], [1], {"a": 1}, {"a": 1}], [1, True, "1", [1], {"a": 1}]),
        ({"on_change": True, "deadband": 0.5}, [10.0, 10.5, 10.51, 10.1, 10.0], [10.0, 10.51, 10.0]),
        ({"on_change": True, "deadband": 1}, [0, 0.4, 0.8, 1.2, 1.6, 2.3], [0, 1.2, 2.3]),
        ({"on_change": True, "deadband_percent": 10}, [100, 109, 111, 121, 123, -123], [100, 111, 123, -123]),
        ({"on_change": True, "deadband_percent": 10, "deadband": 5}, [1, 5, 7], [1, 7]),
        ({"on_change": True, "max_silence_s": 3}, [1, 1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 2, 2]),
        ({"min_gap_s": 3}, [0, 1, 2, 3, 4, 5, 6], [0, 3, 6]),
        ({"on_change": True, "min_gap_s": 3}, [0, 1, 2, 2, 2, 2], [0, 2]),
    ],
)
def test_what_is_reported(rule, values, passed):
    assert [(type(value), value) for value in reported(Report(**rule), values)] == [
        (type(value), value) for value in passed
    ]


def test_a_turn_a_moment_early_counts_as_its_turn():
    reporter = Reporter(Report(min_gap_s=10, on_change=False), 1.0)
    assert [second for second in range(41) if reporter.passes(1, second - 0.01 * (second % 3))] == [0, 10, 20, 30, 40]


def test_what_was_forgotten_is_reported_again():
    reporter = Reporter(Report(on_change=True, min_gap_s=100))
    assert reporter.passes(1, 0.0)
    assert not reporter.passes(1, 1.0)
    reporter.forget()
    assert reporter.passes(1, 2.0)


@pytest.mark.parametrize("wrong", [{"deadband": -1}, {"max_silence_s": 0}, {"dead_band": 1}, {"min_gap_s": "x"}])
def test_a_wrong_rule_is_refused(wrong):
    with pytest.raises(ValidationError):
        Report(**wrong)
