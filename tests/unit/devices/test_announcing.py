"""Who is announced again after a sync that did not bring him: only whose announcement is out of the queue."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.devices.announcing import untaken
from gateway.domain.changes import AppendEvent, MoveCursor, ParkEvent
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.store.memory import MemoryStore

DEVICE = UUID(int=7)


async def store(*actions: str) -> MemoryStore:
    """The first event was made in ms 1000, each other a second later."""
    held = MemoryStore()
    for number, action in enumerate(actions, 1):
        event = CloudEvent(type="DEVICE", action=action, entity_id=DEVICE, created_ms=number * 1000, body=b"{}")
        await held.commit([[AppendEvent(event)]])
    return held


@pytest.mark.parametrize(("cursor", "expected"), [(0, []), (1, [DEVICE]), (2, [DEVICE])])
async def test_only_a_confirmed_announcement_is_repeated_whatever_waits_behind_it(cursor, expected):
    held = await store("ADDED", "TIMESERIES_UPDATED")
    await held.commit([[MoveCursor(Lane.MAIN, cursor)]])
    assert list(await untaken({DEVICE: 1000}, held.events)) == expected


@pytest.mark.parametrize(("action", "expected"), [("ADDED", []), ("TIMESERIES_UPDATED", [DEVICE])])
async def test_a_parked_announcement_waits_for_a_person(action, expected):
    held = await store("ADDED", "TIMESERIES_UPDATED")
    event = next(one for one in await held.events.peek(Lane.MAIN, 0, 10) if one.action == action)
    await held.commit([[ParkEvent(event, "refused", 3, 5000), MoveCursor(Lane.MAIN, 2)]])
    assert list(await untaken({DEVICE: 1000}, held.events)) == expected


async def test_an_announcement_is_found_behind_many_other_parked_events():
    held = await store(*["TIMESERIES_UPDATED"] * 120, "ADDED")
    events = await held.events.peek(Lane.MAIN, 0, 200)
    await held.commit([[*(ParkEvent(one, "refused", 3, 5000) for one in events), MoveCursor(Lane.MAIN, 121)]])
    assert list(await untaken({DEVICE: 121_000}, held.events)) == []
