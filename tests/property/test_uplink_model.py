"""Random clouds against the sender's promises."""

import asyncio
from collections import defaultdict
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.domain.cloud_event import Lane
from tests.unit.uplink.build import Bench

ACTIONS = ("TIMESERIES_UPDATED",) * 5 + ("ADDED", "ATTRIBUTES_UPDATED")

queued = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(ACTIONS), st.booleans()), min_size=1, max_size=60
)  # entity, action, is it refused for ever
moves = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.integers(0, 5)),
        st.tuples(st.just("refuse"), st.integers(0, 5)),
        st.tuples(st.just("limit"), st.integers(0, 5)),
        st.tuples(st.just("lose"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 3)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(queued=queued, moves=moves, batch_size=st.integers(1, 8), window=st.integers(1, 5), bad_rate=st.integers(0, 1))
def test_none_lost_and_in_order_whatever_the_cloud_does(queued, moves, batch_size, window, bad_rate):
    asyncio.run(_run(queued, moves, batch_size, window, bad_rate))


async def _run(queued, moves, batch_size, window, bad_rate):
    bench = Bench(batch_size=batch_size, window=window, max_retries=2, retry_interval_ms=1000, batch_timeout_ms=500)
    bad, who_of = set(), {}
    for who, action, is_bad in queued:
        is_relation = action == "ADDED" and who == 4
        seq_id = bench.events.append(
            None if is_relation else who,
            "RELATION_ADD_OR_UPDATE" if is_relation else action,
            type_="RELATION" if is_relation else "DEVICE",
        )
        who_of[seq_id] = "relation" if is_relation else who
        if is_bad and bad_rate:
            bad.add(seq_id)
    total = len(queued)
    accepted = []  # in the order in which the cloud said yes

    async with bench:
        await _play(bench, moves, bad, accepted)
        await _finish(bench, bad, accepted, total)
        parked = [one.event.seq_id for one in bench.parked]
        assert bench.cursor == total
        assert set(accepted) | set(parked) == set(range(1, total + 1))
        assert bad <= set(parked)
        assert len(parked) == len(set(parked))
        first = defaultdict(list)
        for seq_id in dict.fromkeys(accepted):
            first[who_of[seq_id]].append(seq_id)
        for seq_ids in first.values():
            assert seq_ids == sorted(seq_ids)


def _check_cursor(bench, accepted):
    if bench.config.drain == "live_first":
        settled = set(accepted)
        assert all(seq_id in settled for seq_id in range(1, bench.cursor + 1))
        return
    settled = set(accepted) | {one.event.seq_id for one in bench.parked}
    assert all(seq_id in settled for seq_id in range(1, bench.cursor + 1))
    on_its_way = defaultdict(int)
    for message in bench.link.waiting:
        for key in {event.entity_id for event in message.events}:
            on_its_way[key] += 1
    assert all(count == 1 for count in on_its_way.values())


async def _play(bench, moves, bad, accepted):
    for move, number in moves:
        waiting = bench.link.waiting
        if move == "lose":
            bench.link.lose()
            await bench.settle()
            bench.link.connect()
        elif move == "wait":
            await bench.clock.advance(number)
        elif waiting:
            message = waiting[number % len(waiting)]
            if move == "limit":
                bench.link.answer(message, "Rate limit reached")
            else:
                _answer(bench, message, bad, accepted, is_refused=move == "refuse")
        await bench.settle()
        _check_cursor(bench, accepted)


def _answer(bench, message, bad, accepted, *, is_refused):
    if is_refused or bad & set(message.seq_ids):
        bench.link.answer(message, "refused")
    else:
        accepted.extend(message.seq_ids)
        bench.link.answer(message)


async def _finish(bench, bad, accepted, total):
    for _ in range(100 + 40 * total):  # a rate limit alone pauses for 60 s
        if bench.cursor == total:
            return
        for message in reversed(list(bench.link.waiting)):
            _answer(bench, message, bad, accepted, is_refused=False)
        await bench.settle()
        _check_cursor(bench, accepted)
        if not bench.link.waiting:
            await bench.clock.advance(1)
    raise AssertionError("the queue did not drain")


# ── live_first ───────────────────────────────────────────────────────────────────────────────


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    queued=queued,
    later=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(ACTIONS)), max_size=40),
    moves=moves,
    batch_size=st.integers(1, 8),
    window=st.integers(1, 5),
)
def test_live_first_loses_nothing_and_keeps_each_stream_in_order(queued, later, moves, batch_size, window):
    with (
        patch("gateway.uplink.overtaking._LONG_BACKLOG", 3),
        patch("gateway.uplink.overtaking.PAGE", 4),
        patch("gateway.uplink.drain.PAGE", 4),
    ):
        asyncio.run(_run_live(queued, later, moves, batch_size, window))


async def _run_live(queued, later, moves, batch_size, window):
    bench = Bench(
        is_up=False,
        batch_size=batch_size,
        window=window,
        max_retries=50,
        retry_interval_ms=1000,
        batch_timeout_ms=500,
        drain="live_first",
    )
    main = bench.uplink._lanes[0]
    main._capacity = 8
    stored = bench.events.stored[Lane.MAIN]
    for who, action, _ in queued:
        bench.events.append(who, action)
    accepted, streams = [], {}
    give = main._give

    def watch(stream, batch):
        kind = "backlog" if stream is main._backlog else id(stream)
        for event in batch:
            streams[event.seq_id] = kind
        give(stream, batch)

    main._give = watch
    async with bench:
        bench.link.connect()
        await bench.settle()
        for number, (move, at) in enumerate(moves):
            for who, action in later[number * 2 : number * 2 + 2]:
                bench.events.append(who, action)
            await bench.settle()
            await _play_live(bench, move, at, accepted)
        for who, action in later[len(moves) * 2 :]:
            bench.events.append(who, action)
        await bench.settle()
        await _finish(bench, set(), accepted, len(stored))
        assert bench.cursor == len(stored)
        assert not bench.parked
        assert set(accepted) == {event.seq_id for event in stored}
        assert main._overtaking.live is None or main._overtaking.live.backlog.is_idle

    first = list(dict.fromkeys(accepted))
    place = {seq_id: number for number, seq_id in enumerate(first)}
    by_stream = defaultdict(list)
    for seq_id in first:
        by_stream[stored[seq_id - 1].entity_id, streams[seq_id]].append(seq_id)
    for seq_ids in by_stream.values():
        assert seq_ids == sorted(seq_ids)
    created = {}
    for event in stored:
        if event.action == "ADDED":
            created.setdefault(event.entity_id, event.seq_id)
        elif event.entity_id in created:
            assert place[created[event.entity_id]] < place[event.seq_id]
        if event.action != "TIMESERIES_UPDATED":
            assert streams[event.seq_id] == "backlog"


async def _play_live(bench, move, number, accepted):
    waiting = bench.link.waiting
    if move == "lose":
        bench.link.lose()
        await bench.settle()
        bench.link.connect()
    elif move == "wait":
        await bench.clock.advance(number)
    elif waiting:
        message = waiting[number % len(waiting)]
        if move == "limit":
            bench.link.answer(message, "Rate limit reached")
        else:
            _answer(bench, message, set(), accepted, is_refused=move == "refuse")
    await bench.settle()
    settled = set(accepted)
    assert all(seq_id in settled for seq_id in range(1, bench.cursor + 1))
