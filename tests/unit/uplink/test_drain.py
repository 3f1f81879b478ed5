"""What the sender does with messages, answers and outages."""

import asyncio

import pytest

from gateway.domain.cloud_event import Lane
from gateway.errors import TransientError
from tests.unit.uplink.build import Bench, entity


async def test_an_idle_link_sends_at_once():
    async with Bench() as bench:
        bench.events.append(1)
        await bench.settle()
        assert bench.waiting == [[1]]
        await bench.answer(0)
        assert bench.cursor == 1
        assert bench.counters.get("uplink.acked") == 1


async def test_a_backlog_shares_messages_entity_by_entity():
    bench = Bench(batch_size=4, window=3, max_retries=2)
    for _ in range(3):
        for who in (1, 2, 3, 4):
            bench.events.append(who)
    async with bench:
        assert bench.waiting == [[1, 5, 9, 2], [3, 7, 11, 4]]  # 2 and 4 may have one message at a time
        await bench.answer(0)
        assert bench.cursor == 2
        assert bench.waiting == [[3, 7, 11, 4]]  # a partial batch waits for company
        await bench.answer(0)
        assert bench.waiting == [[6, 10, 8, 12]]


async def test_a_partial_batch_waits_for_company_for_a_while_only():
    async with Bench(batch_size=3, batch_timeout_ms=1000) as bench:
        bench.events.append(1)
        await bench.settle()
        bench.events.append(2)
        await bench.settle()
        assert bench.waiting == [[1]]
        await bench.clock.advance(0.9)
        assert bench.waiting == [[1]]
        await bench.clock.advance(0.2)
        assert bench.waiting == [[1], [2]]
        for who in (3, 4, 5):
            bench.events.append(who)
        await bench.settle()
        assert bench.waiting == [[1], [2], [3, 4, 5]]  # full: no need to wait


async def test_one_busy_entity_may_use_the_whole_window():
    bench = Bench(batch_size=10, window=4)
    for _ in range(100):
        bench.events.append(1)
    async with bench:
        assert [len(seq_ids) for seq_ids in bench.waiting] == [40]


async def test_events_that_are_not_telemetry_travel_alone():
    bench = Bench()
    bench.events.append(1, "ADDED")
    bench.events.append(1)
    bench.events.append(2, "ATTRIBUTES_UPDATED")
    bench.events.append(3)
    async with bench:
        assert bench.waiting == [[1], [3]]
        await bench.answer(0, 1)
        assert bench.waiting == [[2, 4]]


async def test_telemetry_stays_behind_the_creation_of_its_device():
    bench = Bench(retry_interval_ms=1000)
    bench.events.append(1, "ADDED")
    bench.events.append(1)
    bench.events.append(2)
    async with bench:
        await bench.answer(0, error="no")
        assert bench.waiting == [[3]]
        await bench.answer(0)
        assert bench.waiting == []
        assert bench.cursor == 0
        await bench.clock.advance(1)
        assert bench.waiting == [[1]]
        await bench.answer(0)
        assert bench.waiting == [[2]]
        await bench.answer(0)
        assert bench.cursor == 3


@pytest.mark.parametrize(
    ("action", "type_"), [("RELATION_ADD_OR_UPDATE", "RELATION"), ("ATTRIBUTES_REQUEST", "DEVICE")]
)
async def test_what_is_about_several_entities_waits_for_everything_before_it(action, type_):
    bench = Bench()
    bench.events.append(1, "ADDED")
    bench.events.append(None, action, type_=type_)
    bench.events.append(2)
    async with bench:
        assert bench.waiting == [[1]]
        await bench.clock.advance(1)
        assert bench.waiting == [[1], [3]]
        await bench.answer(1)
        assert bench.waiting == [[1]]
        await bench.answer(0)
        assert bench.waiting == [[2]]


async def test_a_refused_message_is_halved_until_the_bad_event_is_alone_then_parked():
    bench = Bench(batch_size=8, window=1, max_retries=3, retry_interval_ms=500)
    for who in range(1, 9):
        bench.events.append(who)
    async with bench:
        for _ in range(100):
            if not bench.link.waiting:
                await bench.clock.advance(0.5)
            if not bench.link.waiting:
                break
            await bench.answer(0, error="bad\nstack trace" if 6 in bench.waiting[0] else None)
        assert [message.seq_ids for message in bench.link.sent if 6 in message.seq_ids] == [
            [1, 2, 3, 4, 5, 6, 7, 8],
            [5, 6, 7, 8],
            [5, 6],
            [6],
            [6],
            [6],
        ]
        assert [(one.event.seq_id, one.tries) for one in bench.parked] == [(6, 3)]
        assert bench.cursor == 8
        assert bench.counters.get("uplink.parked") == 1


async def test_one_entity_s_refused_message_is_halved_in_order():
    bench = Bench(batch_size=4, window=2, max_retries=1)
    for _ in range(4):
        bench.events.append(1)
    async with bench:
        await bench.answer(0, error="bad")
        assert bench.waiting == [[1, 2]]
        await bench.answer(0)
        assert bench.waiting == [[3, 4]]
        await bench.answer(0, error="bad")
        assert bench.waiting == [[3]]
        await bench.answer(0, error="bad")
        assert [one.event.seq_id for one in bench.parked] == [3]
        assert bench.waiting == [[4]]


async def test_the_cursor_stays_behind_the_oldest_unconfirmed():
    bench = Bench(batch_size=1, window=3)
    for who in (1, 2, 3):
        bench.events.append(who)
    async with bench:
        await bench.answer(1, 2)
        assert bench.cursor == 0
        await bench.answer(0)
        assert bench.cursor == 3


async def test_cursor_moves_are_gathered_while_one_is_on_its_way():
    bench = Bench(batch_size=1, window=4)
    for who in (1, 2, 3, 4):
        bench.events.append(who)
    async with bench:
        bench.committer.hold()
        for _ in range(4):
            await bench.answer(0)
        bench.committer.release()
        await bench.settle()
        assert [change.seq_id for change in bench.committer.changes()] == [1, 4]


async def test_a_lost_link_is_no_try_and_everything_comes_again_in_order():
    bench = Bench(batch_size=1, window=3, max_retries=2)
    for who in (1, 2, 3):
        bench.events.append(who)
    async with bench:
        await bench.answer(1)
        for _ in range(5):
            bench.link.lose()
            await bench.settle()
            assert bench.waiting == []
            bench.link.connect()
            await bench.settle()
            assert bench.waiting == [[1], [3]]
        await bench.answer(0, 1)
        assert bench.cursor == 3
        assert not bench.parked
        assert bench.counters.get("uplink.resent") == 10


async def test_the_clock_of_retries_stands_still_while_the_link_is_down():
    bench = Bench(retry_interval_ms=3000)
    bench.events.append(1, "ADDED")
    async with bench:
        await bench.answer(0, error="no")
        await bench.clock.advance(1)
        bench.link.lose()
        bench.events.append(2)  # the sender notices at the next thing it does
        await bench.settle()
        await bench.clock.advance(3600)
        bench.link.connect()
        await bench.settle()
        await bench.answer(0)
        await bench.clock.advance(1.5)
        assert bench.waiting == []
        await bench.clock.advance(1)
        assert bench.waiting == [[1]]


async def test_a_delay_that_would_run_out_during_an_outage_does_not():
    bench = Bench(retry_interval_ms=3000)
    bench.events.append(1, "ADDED")
    async with bench:
        await bench.answer(0, error="no")
        await bench.clock.advance(1)
        bench.link.lose()  # nothing is on its way that could tell
        await bench.clock.advance(3600)
        bench.link.connect()
        await bench.settle()
        await bench.clock.advance(1.5)
        assert bench.waiting == []
        await bench.clock.advance(1)
        assert bench.waiting == [[1]]


async def test_after_a_rate_limit_the_same_messages_come_again():
    bench = Bench(batch_size=2, window=2)
    for who in (1, 2, 3, 4):
        bench.events.append(who)
    async with bench:
        before = bench.waiting
        await bench.answer(1, 0, error="Rate limit reached")
        bench.events.append(5)
        await bench.settle()
        await bench.clock.advance(61)
        assert sorted(bench.waiting) == before == [[1, 2], [3, 4]]
        assert not bench.parked


@pytest.mark.parametrize("pause_s", [60, 5])
async def test_a_rate_limit_pauses_and_is_no_try(pause_s):
    bench = Bench(batch_size=1, window=1, max_retries=1, rate_limit_pause_s=pause_s)
    bench.events.append(1)
    bench.events.append(2)
    async with bench:
        await bench.answer(0, error="Failed to process uplink message. Rate limit reached")
        assert bench.waiting == []
        assert bench.uplink.status()["main"]["is_paused"]
        await bench.clock.advance(pause_s - 1)
        assert bench.waiting == []
        await bench.clock.advance(2)
        assert bench.waiting == [[1]]
        assert not bench.parked


async def test_an_event_larger_than_the_limit_is_parked_at_once():
    bench = Bench(max_message_bytes=1000)
    bench.events.append(1, body=b"x" * 100)
    bench.events.append(1, body=b"x" * 2000)
    bench.events.append(1, body=b"x" * 100)
    async with bench:
        for _ in range(5):
            bench.link.answer_all()
            await bench.settle()
        [parked] = bench.parked
        assert parked.event.seq_id == 2
        assert parked.reason == f"DEVICE {entity(1)}: TIMESERIES_UPDATED has 2000 bytes, the cloud takes 1000"
        assert bench.cursor == 3


async def test_shared_messages_stay_below_the_limit():
    bench = Bench(max_message_bytes=1000, batch_size=4, window=20)
    for who in range(20):
        bench.events.append(who, body=b"x" * 200)
    async with bench:
        for _ in range(10):
            assert all(len(seq_ids) <= 3 for seq_ids in bench.waiting)
            bench.link.answer_all()
            await bench.settle()
        assert bench.cursor == 20
        assert not bench.parked


async def test_express_passes_a_backlog_and_knows_no_order():
    bench = Bench(batch_size=1, window=1)
    bench.events.append(1)
    async with bench:
        bench.events.append(1)
        bench.events.append(1, "RPC_CALL", lane=Lane.EXPRESS)
        bench.events.append(1, "RPC_CALL", lane=Lane.EXPRESS)
        await bench.settle()
        lanes = [(message.events[0].lane, message.seq_ids) for message in bench.link.waiting]
        assert lanes == [(Lane.MAIN, [1]), (Lane.EXPRESS, [1]), (Lane.EXPRESS, [2])]


async def test_memory_is_bounded_behind_a_stuck_event():
    bench = Bench(batch_size=1, window=2)
    bench.events.append(1, "ADDED")
    for _ in range(5000):
        bench.events.append(1)
    async with bench:
        for _ in range(20):
            await bench.settle()
        assert bench.uplink.status()["main"]["read"] == 2000
        for _ in range(20):
            bench.link.answer_all()
            await bench.settle()
        assert bench.uplink.status()["main"]["read"] > 2000


async def test_nothing_is_sent_before_the_link_is_ready():
    bench = Bench(is_up=False)
    bench.events.append(1)
    async with bench:
        assert bench.link.sent == []
        bench.link.connect()
        await bench.settle()
        assert bench.waiting == [[1]]


async def test_it_starts_behind_the_stored_cursor():
    bench = Bench()
    for who in (1, 2, 3):
        bench.events.append(who)
    bench.events.cursors[Lane.MAIN] = 2
    async with bench:
        assert bench.waiting == [[3]]


async def test_a_store_that_cannot_be_read_is_an_outage():
    bench = Bench()

    async def peek(lane, after_seq, limit):
        raise TransientError("database is away")

    bench.events.peek = peek
    bench.events.append(1)
    with pytest.raises(ExceptionGroup) as group:
        await asyncio.wait_for(bench.uplink.serve(), 5)
    assert group.value.subgroup(TransientError) is not None


async def test_what_was_read_ahead_is_not_sent_when_it_was_parked_meanwhile():
    for drain in ("oldest_first", "live_first"):
        bench = Bench(drain=drain, batch_size=2, window=1)
        for who in (1, 2, 3, 4):
            bench.events.append(who)
        async with bench:
            assert bench.waiting == [[1, 2]]
            bench.link.lose()
            await bench.settle()
            bench.events.cursors[Lane.MAIN] = 4  # as a change of identity parks everything
            bench.events.append(5)
            bench.link.connect()
            await bench.settle()
            await bench.settle()
            assert bench.waiting == [[5]]
            await bench.answer(0)
            assert bench.cursor == 5


async def test_a_stop_in_the_moment_of_a_parking_is_a_stop():
    bench = Bench(window=1)
    bench.events.append(1)
    async with bench:
        bench.link.lose()
        await bench.settle()
        bench.events.cursors[Lane.MAIN] = 1
        bench.link.connect()
        bench.task.cancel()
        await asyncio.wait([bench.task], timeout=2)
        assert bench.task.done()


@pytest.mark.parametrize("turns", range(8))
async def test_a_stop_is_heard_in_every_moment_of_a_wait_for_company(turns):
    async with Bench(batch_size=3, batch_timeout_ms=1000) as bench:
        bench.events.append(1)
        await bench.settle()
        bench.events.append(2)
        await bench.settle()
        assert bench.waiting == [[1]]  # the second waits for company, with a timer
        bench.events.append(3)  # and is woken
        for _ in range(turns):
            await asyncio.sleep(0)
        sender = next(task for task in asyncio.all_tasks() if task.get_name() == "uplink.main.send")
        sender.cancel()
        await bench.settle()
        assert sender.cancelled()
