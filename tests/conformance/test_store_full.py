"""What happens at the limit: it waits, it drains, it drops, and nothing is lost in silence."""

import asyncio

from gateway.domain.changes import AppendEvent, MoveCursor, SaveSetting, SaveTelemetry
from gateway.domain.cloud_event import CloudEvent, Lane, WhenFull
from gateway.domain.entity import EntityId, time_uuid
from gateway.store import GroupCommitter
from gateway.store.full import StoreFullError
from gateway.supervise import Counters, SystemClock

BOILER = EntityId("DEVICE", time_uuid())
LIMIT = 600_000


def event(number: int, action: str = "TIMESERIES_UPDATED", lane: Lane = Lane.MAIN) -> AppendEvent:
    body = b'{"n":%d,"x":"%s"}' % (number, b"x" * 300)
    return AppendEvent(
        CloudEvent(type="DEVICE", action=action, entity_id=BOILER.id, created_ms=number, body=body, lane=lane)
    )


async def fill(store) -> int:
    count = 0
    for _ in range(1_000):
        try:
            await store.commit([[event(n)] for n in range(count, count + 50)])
        except StoreFullError:
            return count
        count += 50
    raise AssertionError("never full")


async def test_telemetry_waits_while_cursor_state_and_rpc_pass(durable):
    async with durable.open(max_bytes=LIMIT) as store:
        count = await fill(store)
        assert store.events.last(Lane.MAIN) == count > 100
        await store.commit([[SaveSetting("s", 1)], [event(0, "RPC_CALL", Lane.EXPRESS)]])
        await store.commit([[MoveCursor(Lane.MAIN, count // 2)]])
        await store.commit([[event(count)]])  # the confirmed ones made room
        seen = [one.created_ms for one in await store.events.peek(Lane.MAIN, count // 2, 10_000)]
        assert seen == list(range(count // 2, count + 1))


async def test_a_hundredfold_of_the_limit_drains_through_the_committer(durable):
    counters = Counters()
    async with durable.open(max_bytes=LIMIT, keep_deployed=0) as store:
        committer = GroupCommitter(store, SystemClock(), counters)
        serving = asyncio.create_task(committer.serve())
        receipts = [committer.submit([event(n)]) for n in range(6_000)]
        seen: list[int] = []
        async with asyncio.timeout(60):
            while len(seen) < 6_000:
                await store.events.wait_beyond(Lane.MAIN, store.events.cursor(Lane.MAIN))
                portion = await store.events.peek(Lane.MAIN, store.events.cursor(Lane.MAIN), 500)
                seen += [one.created_ms for one in portion]
                await committer.submit([MoveCursor(Lane.MAIN, portion[-1].seq_id)])
            await asyncio.gather(*receipts)
        serving.cancel()
        await asyncio.wait([serving])
    assert seen == list(range(6_000))
    assert counters.get("committer.outages") >= 1


async def test_history_goes_before_anything_has_to_wait(durable):
    async with durable.open(max_bytes=LIMIT // 2) as store:
        for minute in range(400):
            values = {f"k{n}": minute for n in range(50)}
            await store.commit([[SaveTelemetry(BOILER, minute * 60_000, values)]])
        assert durable.counters.get("store.dropped_history") > 0
        newest = await store.history(BOILER, "k0", 0, 10**12, 10_000)
        assert newest[-1] == (399 * 60_000, 399)
        assert len(newest) < 400


async def test_drop_oldest_drops_telemetry_only_and_counts_it(durable):
    async with durable.open(max_bytes=LIMIT, when_full=WhenFull.DROP_OLDEST) as store:
        await store.commit([[event(0, "ADDED")]])
        for start in range(0, 20_000, 500):
            await store.commit([[event(n)] for n in range(start, start + 500)])
        dropped = durable.counters.get("store.dropped_events")
        kept = await store.events.peek(Lane.MAIN, 0, 100_000)
        assert kept[0].action == "ADDED"
        assert len(kept) + dropped == 20_001
        assert dropped > 15_000
        numbers = [one.created_ms for one in kept[1:]]
        assert numbers == list(range(numbers[0], 20_000))
        assert store.events.cursor(Lane.MAIN) == 0
        await store.commit([[MoveCursor(Lane.MAIN, 1)]])  # the cloud listens: the gap is announced to it
        assert store.events.last(Lane.MAIN) == 20_002
        await store.commit([[MoveCursor(Lane.MAIN, 20_002)]])
        for start in range(0, 6_000, 500):
            await store.commit([[event(n)] for n in range(start, start + 500)])
        depth = await store.events.depth()
        last = store.events.last(Lane.MAIN)
        waiting = await store.events.peek(Lane.MAIN, store.events.cursor(Lane.MAIN), 100_000)
        assert depth.pending[Lane.MAIN] == len(waiting)
        assert waiting[-1].seq_id == last == 26_002
