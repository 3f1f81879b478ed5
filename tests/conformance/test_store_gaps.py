"""What `drop_oldest` drops is told to the cloud for each device: durable, once, and never dropped itself."""

import json

from gateway.domain.changes import AppendEvent, MoveCursor, SaveSetting
from gateway.domain.cloud_event import CloudEvent, Lane, WhenFull
from gateway.domain.entity import time_uuid

ONE, TWO = time_uuid(), time_uuid()
LIMIT = 600_000


def event(number: int, action: str = "TIMESERIES_UPDATED") -> AppendEvent:
    body = b'{"ts":%d,"data":{"x":"%s"}}' % (1_000_000 + number, b"x" * 300)
    device = TWO if number % 4 == 0 else ONE
    return AppendEvent(CloudEvent(type="DEVICE", action=action, entity_id=device, created_ms=number, body=body))


async def waiting(store):
    return await store.events.peek(Lane.MAIN, store.events.cursor(Lane.MAIN), 100_000)


def gaps_among(events) -> dict:
    found = {}
    for one in events:
        data = json.loads(one.body)["data"]
        if "droppedCount" in data:
            assert one.entity_id not in found
            found[one.entity_id] = (data["droppedFrom"], data["droppedTo"], data["droppedCount"])
    return found


async def test_each_device_has_its_gap_announced_after_a_restart_when_the_cloud_listens_again(durable):
    settings = {"max_bytes": LIMIT, "when_full": WhenFull.DROP_OLDEST, "keep_deployed": 0}
    async with durable.open(**settings) as store:
        await store.commit([[event(0, "ATTRIBUTES_UPDATED")], [event(0, "ALARM_ACK")]])
        for start in range(1, 8_001, 500):
            await store.commit([[event(n)] for n in range(start, start + 500)])
    dropped = durable.counters.get("store.dropped_events")
    assert dropped > 4_000
    async with durable.open(**settings) as store:
        await store.commit([[SaveSetting("s", 1)]])
        assert gaps_among(await waiting(store)) == {}  # nobody listens yet
        events = await waiting(store)
        assert [one.action for one in events[:2]] == ["ATTRIBUTES_UPDATED", "ALARM_ACK"]
        numbers = [one.created_ms for one in events[2:]]
        gone = sorted(set(range(1, 8_001)) - set(numbers))
        assert len(gone) == dropped
        for place in (len(events) // 2, len(events) - 1):  # the cloud confirms: what it has is removed
            await store.commit([[MoveCursor(Lane.MAIN, events[place].seq_id)]])
            await store.events.purge(0)
        found = gaps_among(await waiting(store))
        for device, ours in ((ONE, [n for n in gone if n % 4]), (TWO, [n for n in gone if n % 4 == 0])):
            assert found[device] == (1_000_000 + ours[0], 1_000_000 + ours[-1], len(ours))
        await durable.clock.advance(60)
        last = store.events.last(Lane.MAIN)
        await store.commit([[MoveCursor(Lane.MAIN, last)]])
        assert store.events.last(Lane.MAIN) == last  # once
    assert sum(row[0] for row in durable.sql("SELECT total FROM cloud_event_gap")) == dropped
    assert sum(row[0] for row in durable.sql("SELECT count FROM cloud_event_gap")) == 0


async def test_an_announcement_is_not_dropped(durable):
    settings = {"max_bytes": LIMIT, "when_full": WhenFull.DROP_OLDEST, "keep_deployed": 0}
    async with durable.open(**settings) as store:
        for start in range(1, 4_001, 500):
            await store.commit([[event(n)] for n in range(start, start + 500)])
        events = await waiting(store)
        await store.commit([[MoveCursor(Lane.MAIN, events[-1].seq_id)]])
        await store.events.purge(0)
        await store.commit([[event(4_001)]])
        await store.commit([[MoveCursor(Lane.MAIN, store.events.cursor(Lane.MAIN) + 1)]])
        announced = [one for one in await waiting(store) if b"droppedCount" in (one.body or b"")]
        assert announced
        for start in range(5_001, 13_001, 500):
            await store.commit([[event(n)] for n in range(start, start + 500)])
        left = [one.id for one in await waiting(store)]
        assert left[: len(announced)] == [one.id for one in announced]
