"""Whatever the polls, their costs and their silences: the promises of the scheduler, in virtual time."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fieldbus.scheduler import PollScheduler
from gateway.ports import Poll

periods = st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.25, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0])
costs = st.floats(0.0005, 0.2)


def run(plan, until_s, silences=()):
    """One bus: starts of each poll, and how long it was busy. `plan` is [(period, cost)], all in seconds."""
    polls = [Poll(key=str(place), every_s=every_s, unit=str(place % 4)) for place, (every_s, _) in enumerate(plan)]
    cost = {poll: cost_s for poll, (_, cost_s) in zip(polls, plan, strict=True)}
    scheduler = PollScheduler(polls, 0.0)
    starts = {poll: [] for poll in polls}
    now_s = busy_s = 0.0
    silences = sorted(silences)
    while now_s < until_s:
        while silences and silences[0][0] <= now_s:
            _, unit, for_s = silences.pop(0)
            scheduler.suspend(str(unit), now_s + for_s)
        wait_s = scheduler.wait_s(now_s)
        assert len(scheduler._ready) + len(scheduler._waiting) == len(polls), "each poll is there once, never more"
        if wait_s > 0:
            assert scheduler.take(now_s) is None
            now_s += wait_s
            continue
        poll = scheduler.take(now_s)
        assert poll is not None, "what is due is handed out"
        starts[poll].append(now_s)
        now_s += cost[poll]
        busy_s += cost[poll]
    return scheduler, starts, busy_s, now_s


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(periods, costs), min_size=1, max_size=12))
def test_no_poll_starves_on_however_slow_a_bus(plan):
    worst = sum(cost for _, cost in plan) + max(cost for _, cost in plan)
    until_s = 3 * (1.5 * max(every_s for every_s, _ in plan) + worst)
    _, starts, busy_s, end_s = run(plan, until_s)
    assert busy_s <= end_s * (1 + 1e-9)
    for poll, times in starts.items():
        bound_s = 1.5 * poll.every_s + worst + 1e-6
        gaps = [later - earlier for earlier, later in zip([0.0, *times], [*times, until_s], strict=True)]
        assert max(gaps) <= bound_s, (poll, max(gaps), bound_s)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(periods, st.floats(0.001, 1.0)), min_size=1, max_size=12))
def test_a_bus_that_is_half_busy_misses_no_turn(plan):
    shortest = min(every_s for every_s, _ in plan)
    share = [weight / sum(weight for _, weight in plan) for _, weight in plan]
    plan = [
        (every_s, min(0.49 * part * every_s, 0.4 * shortest)) for (every_s, _), part in zip(plan, share, strict=True)
    ]
    scheduler, starts, _, _ = run(plan, 5 * max(every_s for every_s, _ in plan))
    assert scheduler.merged == 0
    for poll, times in starts.items():
        assert len(times) >= 4, poll


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(periods, costs), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 3), st.floats(0.01, 5)), max_size=10),
)
def test_silences_never_lose_a_poll_and_nothing_runs_before_its_turn(plan, silences):
    _, starts, _, _ = run(plan, 60.0, silences)
    worst = sum(cost for _, cost in plan) + max(cost for _, cost in plan)
    for poll, times in starts.items():
        assert times[-1] >= 60.0 - 1.5 * poll.every_s - worst - 1e-6, "it came back"
        assert len(times) <= 2 + 60.0 / poll.every_s, "silence is not made up for"


@pytest.mark.parametrize("every_s", [0.1, 0.3, 1 / 3, 1.0, 7.0])
def test_an_hour_of_turns_drifts_less_than_a_millisecond(every_s):
    rng = random.Random(5)
    poll = Poll(key="a", every_s=every_s)
    scheduler = PollScheduler([poll], 1_000_000.0)
    now_s, count, last_due_s = 1_000_000.0, 0, 0.0
    while now_s < 1_003_600.0:
        assert scheduler.take(now_s) is poll
        count += 1
        last_due_s = now_s - scheduler.late_s
        now_s += rng.random() * 0.5 * every_s  # the read takes a while
        now_s += scheduler.wait_s(now_s) + rng.random() * 0.4 * every_s  # and so does waking up
    assert scheduler.merged == 0
    turns = (last_due_s - 1_000_000.0) / every_s
    assert count == round(turns) + 1
    assert abs(turns - round(turns)) * every_s < 0.001


def test_fast_and_slow_polls_share_a_bus_that_cannot_do_both():
    plan = [(0.01, 0.02)] * 10 + [(10.0, 0.05)] * 5
    scheduler, starts, busy_s, end_s = run(plan, 200.0)
    runs = [len(times) for times in starts.values()]
    assert all(19 <= count <= 22 for count in runs[10:]), "each slow turn is taken, and no more"
    fast = (200.0 - sum(runs[10:]) * 0.05) / 0.02 / 10
    assert all(abs(count - fast) <= 0.02 * fast for count in runs[:10]), "the fast ones share what is left"
    assert busy_s / end_s > 0.999
    assert scheduler.merged > 0
