import math

import pytest

from gateway.fieldbus.scheduler import PollScheduler
from gateway.ports import Poll


def poll(key: str, every_s: float = 1.0, unit: str = "1") -> Poll:
    return Poll(key=key, every_s=every_s, unit=unit)


def drain(scheduler: PollScheduler, now_s: float) -> str:
    taken = ""
    while (due := scheduler.take(now_s)) is not None:
        taken += due.key
    return taken


def test_everything_is_read_once_at_the_start_fast_ones_first():
    scheduler = PollScheduler([poll("a"), poll("b", 60.0), poll("c")], 5.0)
    assert scheduler.wait_s(5.0) == 0
    assert drain(scheduler, 5.0) == "acb"


def test_nothing_is_due_before_its_time():
    scheduler = PollScheduler([poll("a", 2.0)], 0.0)
    assert scheduler.take(0.0) is not None
    assert scheduler.take(1.9) is None
    assert scheduler.wait_s(1.5) == pytest.approx(0.5)
    assert drain(scheduler, 2.0) == "a"


def test_no_polls_means_to_wait_for_ever():
    scheduler = PollScheduler([], 0.0)
    assert scheduler.wait_s(0.0) == math.inf
    assert scheduler.take(0.0) is None


def test_polls_of_one_period_are_spread_over_it():
    scheduler = PollScheduler([poll(key) for key in "abcd"], 0.0)
    drain(scheduler, 0.0)
    turns = []
    for step in range(1, 9):
        turns.append(drain(scheduler, step * 0.25))
    assert turns == ["a", "b", "c", "d", "a", "b", "c", "d"]


def test_a_late_poll_runs_once_and_forgets_the_turns_it_missed():
    scheduler = PollScheduler([poll("a")], 0.0)
    drain(scheduler, 0.0)
    assert drain(scheduler, 7.3) == "a"
    assert scheduler.merged == 6
    assert scheduler.wait_s(7.3) == pytest.approx(0.7)


def test_the_grid_does_not_drift_when_each_turn_is_a_little_late():
    scheduler = PollScheduler([poll("a")], 0.0)
    drain(scheduler, 0.0)
    for turn in range(1, 1000):
        assert drain(scheduler, turn + 0.3) == "a"
    assert scheduler.wait_s(999.3) == pytest.approx(0.7)
    assert scheduler.merged == 0


def test_on_an_overloaded_bus_the_slow_poll_still_has_its_turns():
    scheduler = PollScheduler([poll("f", 0.1), poll("g", 0.1), poll("s", 10.0)], 0.0)
    taken, now_s = "", 0.0
    while now_s < 100.0:
        due = scheduler.take(now_s)
        assert due is not None
        taken += due.key
        now_s += 0.2  # each read takes longer than the fast period
    assert taken.count("s") == 10
    assert abs(taken.count("f") - taken.count("g")) <= 2


def test_a_suspended_unit_waits_and_the_others_go_on():
    scheduler = PollScheduler([poll("a", unit="1"), poll("b", unit="2")], 0.0)
    drain(scheduler, 0.0)
    scheduler.suspend("1", 5.0)
    assert drain(scheduler, 1.0) == "b"
    assert drain(scheduler, 4.0) == "b"
    assert drain(scheduler, 5.1) == "ab"


def test_turns_of_a_suspended_unit_are_not_counted_as_late():
    scheduler = PollScheduler([poll("a")], 0.0)
    drain(scheduler, 0.0)
    scheduler.suspend("1", 30.0)
    assert drain(scheduler, 30.0) == "a"
    assert scheduler.merged == 0


def test_a_lost_bus_suspends_all_units():
    scheduler = PollScheduler([poll("a", unit="1"), poll("b", unit="2")], 0.0)
    drain(scheduler, 0.0)
    scheduler.suspend_all(3.0)
    assert drain(scheduler, 2.9) == ""
    assert scheduler.wait_s(2.9) == pytest.approx(0.1)
    assert sorted(drain(scheduler, 3.0)) == ["a", "b"]


def test_of_the_polls_that_are_due_the_one_with_the_earliest_deadline_goes_first():
    scheduler = PollScheduler([poll("s", 10.0), poll("f", 1.0)], 0.0)
    drain(scheduler, 0.0)
    assert drain(scheduler, 20.0) == "fs"
    assert scheduler.late_s > 5.0  # of s, which was taken last


def test_periods_have_phases_of_their_own():
    scheduler = PollScheduler([poll("a", 1.0), poll("b", 2.0), poll("c", 4.0)], 0.0)
    drain(scheduler, 0.0)
    together = [turn for step in range(1, 41) if len(turn := drain(scheduler, step * 0.1)) > 1]
    assert together == []


def test_a_poll_put_off_alone_leaves_its_unit_in_peace():
    first, second = poll("a"), poll("b")
    scheduler = PollScheduler([first, second], 0.0)
    drain(scheduler, 0.0)
    scheduler.suspend_poll(first, 10.0)
    assert "".join(drain(scheduler, float(now_s)) for now_s in range(1, 10)) == "b" * 9
    assert drain(scheduler, 10.0) == "ab"


def test_a_unit_that_answers_is_read_at_once_and_not_at_the_end_of_its_suspension():
    scheduler = PollScheduler([poll("a", unit="1"), poll("b", unit="2")], 0.0)
    drain(scheduler, 0.0)
    scheduler.suspend("1", 50.0)
    scheduler.suspend("2", 50.0)
    assert drain(scheduler, 5.0) == ""
    scheduler.resume("1", 6.0)
    assert drain(scheduler, 6.0) == "a"
    assert drain(scheduler, 7.0) == "a"
    assert scheduler.merged == 0


def test_a_line_that_is_back_is_read_at_once_except_for_units_that_wait_for_themselves():
    scheduler = PollScheduler([poll("a", unit="1"), poll("b", unit="2")], 0.0)
    drain(scheduler, 0.0)
    scheduler.suspend("2", 90.0)
    scheduler.suspend_all(50.0)
    assert drain(scheduler, 5.0) == ""
    scheduler.resume_all(6.0)
    assert drain(scheduler, 6.0) == "a"
    assert drain(scheduler, 8.0) == "a"
    assert scheduler.wait_s(8.0) < 1.0
