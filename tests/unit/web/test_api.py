import asyncio
import stat
import time
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from gateway.domain.cloud_event import EventStatus, Lane, ParkedEvent, StoredEvent
from gateway.errors import TransientError
from gateway.status_view import LocalApiError, ask, judge
from gateway.web import LocalApi


def event(seq_id):
    return StoredEvent(
        seq_id=seq_id,
        lane=Lane.MAIN,
        id=UUID(int=seq_id),
        type="DEVICE",
        action="TIMESERIES_UPDATED",
        entity_id=UUID(int=9),
        created_ms=1000,
        body=b'{"ts":1}',
    )


class FakeEvents:
    def __init__(self):
        self.asked = []

    async def find(self, status, limit, before_seq=None):
        self.asked.append((status, limit, before_seq))
        return [(event(2), EventStatus.PENDING), (event(1), EventStatus.DEPLOYED)]

    async def parked(self, limit):
        return [ParkedEvent(event=event(3), reason="bad", tries=10, parked_ms=5)]


@asynccontextmanager
async def api(path, events):
    async def status():
        return {"version": "x"}

    room = LocalApi(path, status, events, lambda: {"broker.connects": 3})
    serving = asyncio.create_task(room.serve())
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.01)
    try:
        yield room
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_status_events_and_bad_questions(tmp_path):
    path, events = tmp_path / "api.sock", FakeEvents()
    async with api(path, events):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert await asyncio.to_thread(ask, path, "/status") == {"version": "x"}
        rows = await asyncio.to_thread(ask, path, "/events?status=pending&limit=7&before=9")
        assert events.asked == [(EventStatus.PENDING, 7, 9)]
        assert [(row["seqId"], row["status"], row["entityBody"]) for row in rows] == [
            (2, "PENDING", '{"ts":1}'),
            (1, "DEPLOYED", '{"ts":1}'),
        ]
        (parked,) = await asyncio.to_thread(ask, path, "/events?status=parked")
        assert (parked["reason"], parked["tries"]) == ("bad", 10)
        with pytest.raises(LocalApiError, match="PENDING, DEPLOYED, PARKED"):
            await asyncio.to_thread(ask, path, "/events?status=gone")
        with pytest.raises(LocalApiError, match="numbers"):
            await asyncio.to_thread(ask, path, "/events?limit=many")
    assert not path.exists()


async def test_what_the_last_sync_left_is_asked_with_and_without_the_details(tmp_path):
    path, asked = tmp_path / "api.sock", []

    async def sync(with_diff):
        asked.append(with_diff)
        return {"last": None}

    async with api(path, FakeEvents()) as room:
        with pytest.raises(LocalApiError, match="no cloud"):
            await asyncio.to_thread(ask, path, "/sync")
        room.sync = sync
        for query in ("", "?diff=1", "?diff=0"):
            assert await asyncio.to_thread(ask, path, f"/sync{query}") == {"last": None}
    assert asked == [False, True, False]


async def test_points_of_the_buses_are_asked_by_bus_device_and_quality(tmp_path):
    path, asked = tmp_path / "api.sock", []

    def points(*question):
        asked.append(question)
        return {"points": [{"key": "t"}], "more": True}

    async with api(path, FakeEvents()) as room:
        assert await asyncio.to_thread(ask, path, "/points") == {"points": [], "more": False}
        room.points = points
        answer = await asyncio.to_thread(ask, path, "/points?bus=b&device=d&quality=bad&limit=5")
        assert answer == {"points": [{"key": "t"}], "more": True}
        await asyncio.to_thread(ask, path, "/points?limit=99999999")
        for wrong, text in (("quality=fine", "good, stale, bad"), ("limit=x", "limit is a number")):
            with pytest.raises(LocalApiError, match=text):
                await asyncio.to_thread(ask, path, f"/points?{wrong}")
    assert asked == [("b", "d", "bad", 5), (None, None, None, 10_000)]


async def test_events_while_the_store_does_not_answer_are_an_error_and_no_traceback(tmp_path, caplog):
    class Away(FakeEvents):
        async def find(self, status, limit, before_seq=None):
            raise TransientError("PostgreSQL: connection refused")

    async with api(tmp_path / "api.sock", Away()):
        with pytest.raises(LocalApiError, match="the store cannot be read: PostgreSQL: connection refused"):
            await asyncio.to_thread(ask, tmp_path / "api.sock", "/events")
    assert "Traceback" not in caplog.text


def test_no_gateway_is_said_plainly(tmp_path):
    with pytest.raises(LocalApiError, match="is it running"):
        ask(tmp_path / "api.sock", "/status")


def healthy():
    return {
        "queue": {"pending": 0, "lag_s": 0.0, "parked": 0},
        "cloud": {"state": "ready"},
        "store": {"oldest_waiting_s": 0},
        "rules": {"problems": []},
    }


def test_judgement_of_a_status():
    assert judge(healthy()) == []
    (remark,) = judge(healthy() | {"counters": {"rules.attributes_no_room": 3}})
    assert remark.startswith("3 attributes were not kept here")
    sick = healthy() | {
        "queue": {"pending": 5001, "lag_s": 31.0, "parked": 2},
        "cloud": {"state": "closed", "last_error": "refused"},
        "buses": [{"name": "plant", "connected": False}],
    }
    text = "\n".join(judge(sick))
    for part in ("5001 events wait", "31 s old", "2 events are parked", "closed: refused", "bus plant"):
        assert part in text


async def test_metrics_are_counters_and_what_is_known_now(tmp_path):
    path = tmp_path / "api.sock"
    server = LocalApi(path, lambda: None, FakeEvents(), lambda: {"a.b": 2}, lambda: {"store.hours_left": 1.5})
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(10):
            while not path.exists():
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = (await reader.read()).decode()
            writer.close()
    finally:
        serving.cancel()
        await asyncio.wait([serving])
    assert "edge_gateway_a_b_total 2\n" in answer
    assert "edge_gateway_store_hours_left 1.5\n" in answer


def test_what_is_soon_full_or_was_damaged_is_told():
    status = {"queue": {"pending": 0, "lag_s": 0, "parked": 0}, "store": {"oldest_waiting_s": 50, "commit_every_s": 60}}
    status |= {"rules": {"problems": []}}
    assert judge({**status, "forecast": {"hours_left": 40.0}, "salvage": None}) == []
    assert judge({**status, "forecast": {"hours_left": 2.0}}) == []  # all of it is confirmed, and makes room
    filling = {**status, "queue": {"pending": 1001, "lag_s": 0, "parked": 0}, "forecast": {"hours_left": 2.0}}
    assert judge(filling) == ["the store is full in 2.0 hours at the present rate"]
    salvage = {"time": int(time.time() * 1000), "why": "page 3", "kept_as": "x.damaged", "lost": {"cloud_event": 7}}
    (remark,) = judge({**status, "salvage": salvage})
    assert "about 7 of cloud_event" in remark
    assert "x.damaged" in remark
    assert judge({**status, "salvage": {**salvage, "time": 1_000}}) == []
