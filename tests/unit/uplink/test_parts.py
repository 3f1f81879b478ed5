"""Events that are larger than a message."""

from uuid import UUID

import orjson

from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.uplink.batch import cut, join
from tests.unit.uplink.build import Bench, entity


def event(body, action="TIMESERIES_UPDATED") -> StoredEvent:
    return StoredEvent(
        seq_id=7,
        lane=Lane.MAIN,
        id=UUID(int=5),
        type="DEVICE",
        action=action,
        entity_id=entity(1),
        created_ms=1,
        body=orjson.dumps(body),
    )


def test_it_is_cut_between_keys_and_keeps_time_and_order():
    values = {f"key{i}": "x" * 100 for i in range(20)}
    parts = cut(event({"ts": 5, "data": values}), 500)
    bodies = [orjson.loads(part.body) for part in parts]
    assert all(body["ts"] == 5 for body in bodies)
    assert all(len(part.body) <= 500 for part in parts)
    assert [key for body in bodies for key in body["data"]] == list(values)
    whole = parts[0]
    for part in parts[1:]:
        whole = join(whole, part)
    assert orjson.loads(whole.body) == {"ts": 5, "data": values}
    assert whole.seq_id == 7


def test_what_seemed_small_enough_is_halved():
    assert len(cut(event({"data": {"a": 1, "b": 2, "c": 3}}), 10_000)) == 2


def test_attributes_and_relations_are_cut_too():
    parts = cut(event({"kv": {"a": 1, "b": 2}, "ts": 3, "scope": "SERVER_SCOPE"}, "ATTRIBUTES_UPDATED"), 100)
    assert [orjson.loads(part.body)["scope"] for part in parts] == ["SERVER_SCOPE"] * 2
    parts = cut(event({"relations": [{"a": 1}, {"b": 2}]}, "RELATIONS_DELETED"), 100)
    assert [orjson.loads(part.body)["relations"] for part in parts] == [[{"a": 1}], [{"b": 2}]]


def test_what_cannot_be_cut():
    assert cut(event({"data": {"a": 1}}), 10) == []
    assert cut(event({"data": {"a": 1, "b": 2}}, "ADDED"), 10) == []
    assert cut(event([1, 2]), 10) == []


async def drain(bench, rounds=30):
    """Answer everything; what went, by message."""
    for _ in range(rounds):
        bench.link.answer_all()
        await bench.settle()
    return [[(one.seq_id, orjson.loads(one.body)["data"]) for one in message.events] for message in bench.link.sent]


async def test_an_event_is_confirmed_when_all_its_parts_are():
    bench = Bench(max_message_bytes=500, window=1)
    bench.events.append(1, body=orjson.dumps({"ts": 1, "data": {"before": 1}}))
    bench.events.append(1, body=orjson.dumps({"ts": 2, "data": {str(i): "x" * 100 for i in range(10)}}))
    bench.events.append(1, body=orjson.dumps({"ts": 3, "data": {"after": 1}}))
    async with bench:
        cursors = []
        for _ in range(12):
            bench.link.answer_all()
            await bench.settle()
            cursors.append(bench.cursor)
        sent = [one for message in await drain(bench) for one in message]
        keys = [key for seq_id, data in sent for key in data]
        assert keys == ["before", *(str(i) for i in range(10)), "after"]
        assert len([seq_id for seq_id, _ in sent if seq_id == 2]) > 2
        assert cursors.count(1) >= 3  # it stays while parts are missing
        assert bench.cursor == 3
        assert not bench.parked
        assert bench.counters.get("uplink.acked") == 3


async def test_only_values_that_are_too_large_alone_are_parked():
    bench = Bench(max_message_bytes=500)
    data = {"a": 1, "huge": "x" * 900, "b": 2, "vast": "y" * 901, "c": 3}
    bench.events.append(1, body=orjson.dumps({"ts": 2, "data": data}))
    bench.events.append(1, body=orjson.dumps({"ts": 3, "data": {"after": 1}}))
    async with bench:
        sent = await drain(bench)
        assert [key for message in sent for _, values in message for key in values] == ["a", "b", "c", "after"]
        parked = bench.parked[-1]  # one copy for the event: the second replaces the first
        assert {one.event.seq_id for one in bench.parked} == {1}
        assert orjson.loads(parked.event.body) == {"ts": 2, "data": {"huge": "x" * 900, "vast": "y" * 901}}
        for key, size in (("huge", 927), ("vast", 928)):
            assert f"DEVICE {entity(1)}: the value of {key!r} alone makes a message of {size} bytes" in parked.reason
        assert "the cloud takes 500" in parked.reason
        assert bench.cursor == 2
        assert bench.uplink.status()["main"]["in_flight"] == 0


async def test_parts_survive_a_lost_link_and_a_refusal_in_order():
    bench = Bench(max_message_bytes=300, window=2, max_retries=3, retry_interval_ms=100)
    bench.events.append(1, body=orjson.dumps({"ts": 2, "data": {str(i): "x" * 100 for i in range(6)}}))
    bench.events.append(1, body=orjson.dumps({"ts": 3, "data": {"after": 1}}))
    async with bench:
        bench.link.lose()
        await bench.settle()
        bench.link.connect()
        await bench.settle()
        confirmed = []
        for step in range(40):
            for message in list(bench.link.waiting):
                error = "no" if step in (0, 2) else None
                if error is None:
                    confirmed += [key for one in message.events for key in orjson.loads(one.body)["data"]]
                bench.link.answer(message, error)
            await bench.settle()
            await bench.clock.advance(0.2)
        assert confirmed == [*(str(i) for i in range(6)), "after"]
        assert bench.cursor == 2
        assert not bench.parked
