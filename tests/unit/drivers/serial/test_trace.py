"""What a person sees who looks on."""

from drivers.serial.trace import MAX_ROWS, WATCHED_S, Trace
from tests.fakes.clock import FakeClock


def seen(trace, after=0):
    return [(row["what"], bytes.fromhex(row["data"]) or row["text"]) for row in trace.rows(after)]


async def test_bytes_without_a_pause_are_one_row():
    clock = FakeClock()
    trace = Trace(clock)
    assert not trace.is_on
    assert seen(trace) == []
    assert trace.is_on
    trace.came(b"ab")
    trace.came(b"c")
    assert seen(trace) == [], "more may follow"
    await clock.advance(0.1)
    assert seen(trace) == [("came", b"abc")]
    trace.came(b"d")
    await clock.advance(0.1)
    trace.came(b"e")
    trace.sent(b"f")
    trace.said("bad", "why")
    assert seen(trace, after=1) == [("came", b"d"), ("came", b"e"), ("sent", b"f"), ("bad", "why")]


async def test_it_is_bounded_and_ends():
    clock = FakeClock()
    trace = Trace(clock)
    trace.rows(0)
    for number in range(MAX_ROWS + 5):
        trace.said("read", str(number))
    rows = trace.rows(0)
    assert (len(rows), rows[0]["n"]) == (MAX_ROWS, 6)
    await clock.advance(WATCHED_S + 1)
    assert not trace.is_on
    assert seen(trace) == []
