"""One suite for every store: events that are moved aside, and what a person decides about them."""

from typing import Any
from uuid import UUID

from gateway.domain.changes import AppendEvent, DropParked, MoveCursor, ParkEvent, ParkPending
from gateway.domain.cloud_event import CloudEvent, EventStatus, Lane, ParkedChoice
from gateway.domain.entity import time_uuid

PUMP, FAN = time_uuid(), time_uuid()
NAUGHTY = "the server said \0 \ue000 100 % 'no'"


def event(number: int, *, lane: Lane = Lane.MAIN, entity_id: UUID | None = PUMP) -> CloudEvent:
    return CloudEvent(
        type="DEVICE",
        action="TIMESERIES_UPDATED",
        entity_id=entity_id,
        created_ms=1_000 + number,
        body=b'{"n":%d}' % number,
        lane=lane,
    )


async def filled(store: Any, count: int = 6, lane: Lane = Lane.MAIN) -> list[CloudEvent]:
    events = [event(n, lane=lane, entity_id=PUMP if n % 2 else FAN) for n in range(1, count + 1)]
    await store.commit([[AppendEvent(one)] for one in events])
    return events


async def parked(store: Any, lane: Lane = Lane.MAIN, **choice: Any) -> list[int]:
    found = await store.events.choose_parked(lane, 0, 100, ParkedChoice(**choice))
    return [one.event.seq_id for one in found]


async def pending(store: Any, lane: Lane = Lane.MAIN) -> list[int]:
    return [one.seq_id for one in await store.events.peek(lane, store.events.cursor(lane), 100)]


async def test_what_waits_is_parked_up_to_a_number_and_the_rest_still_waits(backend):
    async with backend.open() as store:
        sent = await filled(store)
        await filled(store, 2, Lane.EXPRESS)
        await store.commit([[MoveCursor(Lane.MAIN, 1)]])
        await store.commit([[ParkPending(Lane.MAIN, 4, NAUGHTY, 77)]])
        assert await parked(store) == [2, 3, 4]
        assert (await pending(store), await pending(store, Lane.EXPRESS)) == ([5, 6], [1, 2])
        (_, third, _) = await store.events.choose_parked(Lane.MAIN, 0, 9, ParkedChoice())
        assert (third.reason, third.tries, third.parked_ms) == (NAUGHTY, 0, 77)
        assert (third.event.id, third.event.body, third.event.created_ms) == (sent[2].id, sent[2].body, 1_003)
        depth = await store.events.depth()
        assert (depth.parked, depth.pending[Lane.MAIN], depth.oldest_ms) == (3, 2, 1_001)
        assert [one.event.seq_id for one in await store.events.parked(2)] == [4, 3]
        assert {status for _, status in await store.events.find(EventStatus.PARKED, 9)} == {EventStatus.PARKED}


async def test_what_comes_after_the_parking_in_one_unit_is_not_parked(backend):
    async with backend.open() as store:
        await store.commit(
            [
                [AppendEvent(event(1)), AppendEvent(event(2))],
                [ParkPending(Lane.MAIN, 1 << 60, "old", 1), AppendEvent(event(3))],
                [AppendEvent(event(4))],
            ]
        )
        assert (await parked(store), await pending(store)) == ([1, 2], [3, 4])


async def test_parking_is_remembered_and_numbers_go_on(durable):
    async with durable.open() as store:
        await filled(store, 3)
        await store.commit([[ParkPending(Lane.MAIN, 99, "old", 1)]])
    async with durable.open() as store:
        assert (store.events.cursor(Lane.MAIN), store.events.last(Lane.MAIN)) == (3, 3)
        assert (await store.events.depth()).parked == 3
        await filled(store, 1)
        assert (await parked(store), await pending(store)) == ([1, 2, 3], [4])
        await store.events.purge(0)
        assert (await parked(store), await pending(store)) == ([1, 2, 3], [4])


async def test_an_event_that_was_refused_keeps_its_reason(backend):
    async with backend.open() as store:
        await filled(store, 3)
        (_, second, _) = await store.events.peek(Lane.MAIN, 0, 9)
        await store.commit([[ParkEvent(second, "refused", 10, 5)]])
        assert (await store.events.depth()).parked == 1
        await store.commit([[ParkEvent(second, "refused again", 10, 6)]])
        await store.commit([[ParkPending(Lane.MAIN, 99, "old", 7)]])
        assert (await store.events.depth()).parked == 3
        assert await parked(store, reason="refused again") == [2]
        assert await parked(store, reason="old") == [1, 3]


async def test_choices(backend):
    async with backend.open() as store:
        await filled(store, 6)
        await filled(store, 1, Lane.EXPRESS)
        await store.commit([[ParkPending(Lane.MAIN, 3, NAUGHTY, 1)], [ParkPending(Lane.MAIN, 9, "other", 1)]])
        assert await parked(store, seq_ids=frozenset({2, 5, 99})) == [2, 5]
        assert await parked(store, seq_ids=frozenset()) == []
        assert await parked(store, reason="100 % 'no'") == [1, 2, 3]
        assert await parked(store, reason="\0 \ue000") == [1, 2, 3]
        assert await parked(store, entity_ids=frozenset({FAN})) == [2, 4, 6]
        assert await parked(store, entity_ids=frozenset({FAN}), reason="other") == [4, 6]
        assert await parked(store, lane=Lane.EXPRESS) == []
        found = await store.events.choose_parked(Lane.MAIN, 2, 2, ParkedChoice())
        assert [one.event.seq_id for one in found] == [3, 4]


async def test_a_person_sends_one_again_and_discards_another(backend):
    async with backend.open() as store:
        sent = await filled(store, 3)
        for stored in await store.events.peek(Lane.MAIN, 0, 2):
            await store.commit([[ParkEvent(stored, "refused", 10, 5)]])
        await store.commit([[MoveCursor(Lane.MAIN, 3)]])
        await store.commit([[AppendEvent(sent[0]), DropParked(Lane.MAIN, 1)], [DropParked(Lane.MAIN, 2)]])
        await store.commit([[DropParked(Lane.MAIN, 2), DropParked(Lane.EXPRESS, 2), DropParked(Lane.MAIN, 99)]])
        assert (await store.events.depth()).parked == 0
        (again,) = await store.events.peek(Lane.MAIN, 3, 9)
        assert (again.seq_id, again.id, again.created_ms, again.body) == (4, sent[0].id, 1_001, sent[0].body)
        found = {one.seq_id: status for one, status in await store.events.find(None, 9)}
        # What was discarded must not look as if the cloud had it.
        assert found == {4: EventStatus.PENDING, 3: EventStatus.DEPLOYED}


async def test_the_numbers_of_one_group_are_as_if_its_changes_came_one_by_one(backend):
    async with backend.open() as store:
        await filled(store, 5)
        (first, *_) = await store.events.peek(Lane.MAIN, 0, 1)
        await store.commit(
            [
                [DropParked(Lane.MAIN, 2), ParkEvent(first, "refused", 1, 1), DropParked(Lane.MAIN, 1)],
                [ParkPending(Lane.MAIN, 4, "old", 2), DropParked(Lane.MAIN, 3)],
                [ParkEvent(first, "refused", 1, 3)],
            ]
        )
        assert (await parked(store), await pending(store)) == ([1, 2, 4], [5])
        assert await parked(store, reason="refused") == [1]
        assert (await store.events.depth()).parked == 3


async def test_fifty_thousand_are_parked_in_portions(durable):
    portion = 5_000
    async with durable.open() as store:
        for start in range(0, 50_000, 10_000):
            await store.commit([[AppendEvent(event(n))] for n in range(start, start + 10_000)])
        for up_to in range(portion, 50_001, portion):
            await store.commit([[ParkPending(Lane.MAIN, up_to, "old", 1)]])
            depth = await store.events.depth()
            assert (depth.parked, depth.pending[Lane.MAIN]) == (up_to, 50_000 - up_to)
    assert durable.sql("SELECT (SELECT count(*) FROM cloud_event), (SELECT count(*) FROM cloud_event_parked)") == [
        (0, 50_000)
    ]
