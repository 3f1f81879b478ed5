"""What goes ahead of a long backlog, and what does not."""

import pytest

from gateway.domain.cloud_event import Lane
from gateway.uplink.live import Ranges
from tests.unit.uplink.build import Bench


def bench_with(backlog: int, **settings) -> Bench:
    bench = Bench(is_up=False, drain="live_first", batch_size=10, window=3, batch_timeout_ms=0, **settings)
    for number in range(backlog):
        bench.events.append(number % 5)
    return bench


async def reconnect(bench) -> None:
    bench.link.connect()
    await bench.settle()


def streams(bench, split):
    """The numbers on their way: of the backlog, and of what came later."""
    numbers = [seq_id for seq_ids in bench.waiting for seq_id in seq_ids]
    return [n for n in numbers if n <= split], [n for n in numbers if n > split]


async def test_new_telemetry_overtakes_and_the_cursor_does_not():
    bench = bench_with(5000)
    async with bench:
        await reconnect(bench)
        for _ in range(3):
            bench.events.append(1)
        await bench.settle()
        bench.link.answer_all()
        await bench.settle()
        old, new = streams(bench, 5000)
        assert new == [5001, 5002, 5003]
        assert old
        assert bench.uplink.status()["main"]["live_read"] == 5003
        before = bench.cursor
        await bench.answer(next(i for i, seq_ids in enumerate(bench.waiting) if 5001 in seq_ids))
        assert before <= bench.cursor <= 5000
        sent = len(bench.link.sent)
        for _ in range(600):
            bench.link.answer_all()
            await bench.settle()
        assert bench.cursor == 5003
        assert sum(message.seq_ids.count(5001) for message in bench.link.sent) == 1  # not sent again
        assert len(bench.link.sent) > sent
        assert bench.uplink.status()["main"]["live_read"] is None


async def test_a_third_of_the_messages_is_the_backlog_s():
    bench = bench_with(5000)
    async with bench:
        await reconnect(bench)
        old = new = 0
        for _ in range(60):
            for who in range(40):
                bench.events.append(who)
            await bench.settle()
            for message in list(bench.link.waiting):
                old += message.seq_ids[0] <= 5000
                new += message.seq_ids[0] > 5000
                bench.link.answer(message)
            await bench.settle()
        assert 0.3 <= old / (old + new) <= 0.45


@pytest.mark.parametrize("when", ["during", "after"])
async def test_the_data_of_a_new_device_wait_for_its_creation(when):
    bench = bench_with(5000)
    if when == "during":
        bench.events.append(77, "ADDED")
    async with bench:
        for _ in range(30):
            await bench.settle()
        await reconnect(bench)
        if when == "after":
            bench.events.append(77, "ADDED")
        creation = bench.events.last(Lane.MAIN)
        early = bench.events.append(77)
        other = bench.events.append(1)
        await bench.settle()
        sent = [seq_id for message in bench.link.sent for seq_id in message.seq_ids]
        for _ in range(900):
            bench.link.answer_all()
            await bench.settle()
        sent = [seq_id for message in bench.link.sent for seq_id in message.seq_ids]
        assert sent.index(creation) < sent.index(early)
        assert sent.index(other) < sent.index(creation)
        assert bench.cursor == other


async def test_attributes_stay_in_the_backlog():
    bench = bench_with(5000)
    async with bench:
        await reconnect(bench)
        attribute = bench.events.append(1, "ATTRIBUTES_UPDATED")
        bench.events.append(1)
        for _ in range(600):
            bench.link.answer_all()
            await bench.settle()
        sent = [seq_id for message in bench.link.sent for seq_id in message.seq_ids]
        assert sent.index(attribute + 1) < sent.index(attribute)
        assert sent.index(attribute) > 4000
        assert bench.cursor == attribute + 1


@pytest.mark.parametrize(("drain", "backlog"), [("oldest_first", 5000), ("live_first", 1000)])
async def test_otherwise_the_oldest_goes_first(drain, backlog):
    bench = Bench(is_up=False, drain=drain, batch_size=10, window=3)
    for number in range(backlog):
        bench.events.append(number % 5)
    async with bench:
        await reconnect(bench)
        bench.events.append(1)
        await bench.settle()
        assert bench.uplink.status()["main"]["live_read"] is None


async def test_another_outage_begins_again():
    bench = bench_with(5000)
    async with bench:
        await reconnect(bench)
        bench.events.append(1)
        await bench.settle()
        bench.link.lose()
        for number in range(3000):
            bench.events.append(number % 5)
        for _ in range(30):
            await bench.settle()
        await reconnect(bench)
        newest = bench.events.append(2)
        await bench.settle()
        for _ in range(3):
            bench.link.answer_all()
            await bench.settle()
        sent = [seq_id for message in bench.link.sent for seq_id in message.seq_ids]
        assert newest in sent
        for _ in range(900):
            bench.link.answer_all()
            await bench.settle()
        assert bench.cursor == newest


def test_ranges():
    ranges = Ranges()
    for number in (5, 7, 6, 1, 3, 2):
        ranges.add(number)
    assert len(ranges) == 2
    assert [number for number in range(10) if number in ranges] == [1, 2, 3, 5, 6, 7]
    ranges.forget_below(6)
    assert len(ranges) == 1
    assert 7 in ranges
    ranges.forget_below(8)
    assert not len(ranges)


async def test_the_streams_join_without_passing_what_is_still_on_its_way():
    bench = bench_with(5000)
    async with bench:
        await reconnect(bench)
        first = bench.events.append(7)
        await bench.settle()
        for _ in range(900):  # everything but the first live message is answered
            for message in list(bench.link.waiting):
                if first not in message.seq_ids:
                    bench.link.answer(message)
            await bench.settle()
        assert bench.waiting == [[first]]
        assert bench.uplink.status()["main"]["read"] == first  # the backlog's reader has arrived there
        assert bench.cursor == 5000
        same, other = bench.events.append(7), bench.events.append(2)
        await bench.settle()
        assert bench.waiting == [[first], [other]]  # others go on
        await bench.answer(1)
        assert bench.cursor == 5000
        for _ in range(100):
            bench.link.answer_all()
            await bench.settle()
        assert bench.cursor == other
        assert bench.uplink.status()["main"]["live_read"] is None
        sent = [seq_id for message in bench.link.sent for seq_id in message.seq_ids]
        assert sent.count(first) == 1
        assert sent.index(first) < sent.index(same)


async def test_right_after_a_start_a_long_backlog_is_not_read_before_something_may_overtake():
    bench = Bench(is_up=True, drain="live_first", batch_size=10, window=3, batch_timeout_ms=0)
    for number in range(20_000):
        bench.events.append(number % 5)
    reads = []
    peek = bench.events.peek

    async def counted(lane, after_seq, limit):
        reads.append(after_seq)
        return await peek(lane, after_seq, limit)

    bench.events.peek = counted
    async with bench:
        bench.events.append(1)
        await bench.settle()
        bench.link.answer_all()
        await bench.settle()
        _, new = streams(bench, 20_000)
        assert new == [20_001]
        assert not [place for place in reads if 5_000 < place < 20_000]
