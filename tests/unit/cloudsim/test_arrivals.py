"""What arrived is counted exactly."""

import random

from gateway.cloud.pb import queue_pb2
from gateway.cloudsim.arrivals import Arrivals, Seen, SequenceCheck, Series


def message(ts: int, **values: int) -> queue_pb2.TsKvListProto:
    kvs = [queue_pb2.KeyValueProto(key=key, type=1, long_v=value) for key, value in values.items()]
    return queue_pb2.TsKvListProto(ts=ts, kv=kvs)


def test_a_sequence_agrees_with_a_naive_set():
    rng = random.Random(7)
    for _ in range(50):
        check, seen, highest = SequenceCheck(), set(), 0
        for _ in range(300):
            number = rng.randint(1, 120)
            verdict = check.see(number)
            expected = Seen.REPEATED if number in seen else Seen.LATE if number < highest else Seen.NEXT
            assert verdict is expected
            seen.add(number)
            highest = max(highest, number)
            missing = set(range(1, highest)) - seen
            assert check.high == highest
            assert check.missing == len(missing)
            assert check.contiguous == (min(missing) - 1 if missing else highest)
        ranges = check.first_missing(1000)
        assert {n for start, end in ranges for n in range(start, end + 1)} == set(range(1, highest)) - seen


def test_a_sequence_forgets_the_oldest_of_too_many_ranges_and_says_so():
    check = SequenceCheck()
    for number in range(2, 50_002, 2):
        check.see(number)
    assert check.forgotten == 15_000
    assert check.missing == 25_000
    assert check.see(1) is Seen.REPEATED  # forgotten: it can no longer be told apart


def test_a_jump_costs_one_range():
    check = SequenceCheck()
    check.see(10**15)
    assert check.missing == 10**15 - 1
    assert check.first_missing(5) == [(1, 10**15 - 1)]


def test_a_sequence_may_begin_at_zero():
    arrivals, series = Arrivals(0), Series()
    for number in (0, 1, 2, 0):
        arrivals.take(series, [message(number, seq=number)])
    assert series.sequence is not None
    assert (series.sequence.contiguous, series.sequence.missing) == (2, 0)
    assert (series.duplicates, series.out_of_order) == (1, 0)


def test_without_a_sequence_equal_messages_of_one_entity_are_repeated():
    arrivals, one, other = Arrivals(0), Series(), Series()
    arrivals.take(one, [message(1, t=5), message(1, t=5), message(1, t=6), message(2, t=5)])
    arrivals.take(other, [message(1, t=5)])
    assert (arrivals.events, arrivals.duplicates, one.duplicates, other.duplicates) == (5, 1, 1, 0)


def test_the_latest_value_is_the_one_with_the_newest_time():
    arrivals, series = Arrivals(2), Series()
    arrivals.take(series, [message(5, t=50), message(3, t=30), message(7, t=70), message(6, t=60)])
    assert series.latest["t"] == (7, 70)
    assert list(series.history["t"]) == [(7, 70), (6, 60)]
    assert (series.events, series.points) == (4, 4)
