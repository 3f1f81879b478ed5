"""Mapped topics on a real socket: receipts, devices made on the fly, last wills, calls and attributes down."""

import json
from contextlib import asynccontextmanager

import pytest

from gateway.broker import encode
from gateway.broker.mapping import Rules
from gateway.broker.mapping_rules import load_sets
from gateway.broker.packets import PUBACK, Ack, Publish
from gateway.config import MappingsConfig, parse_config
from gateway.domain.entity import time_uuid
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.errors import FullError, RejectedError
from tests.fakes.house import settle
from tests.integration.broker_peer import site

OWN = {
    "up": [{"topic": "own/{device}", "telemetry": [{"path": "*"}]}],
    "down": [{"attributes": "*", "topic": "own/{device}/set", "payload": "{values}"}],
}


@asynccontextmanager
async def house(receipts="next_turn", *, mappings=None, **settings):
    async with site(receipts, **settings) as here:
        config = parse_config(MappingsConfig, mappings or {"sets": [{"use": "tasmota"}, OWN], "idle_s": 60}, "")
        here.broker.map_topics(Rules(load_sets(config)), config)
        peer, _ = await here.connect()
        yield here, peer


def say(peer, topic, body, packet_id=1):
    peer.publish(topic, body if isinstance(body, bytes) else json.dumps(body).encode(), 1, packet_id)


def call(method="setPower", params=True, here=None, **more):
    expires_ms = (here.clock.now_ms() if here else 0) + 60_000
    return RpcRequest(device_id=time_uuid(), method=method, params=params, request_id=1, expires_ms=expires_ms, **more)


async def test_the_publisher_hears_when_the_device_and_its_data_are_durable():
    async with house("held") as (here, peer):
        say(peer, "tele/plug/SENSOR", {"a": 1})
        say(peer, "tele/plug/SENSOR", {"a": 2}, 2)
        await here.until(lambda: len(here.inlet.held) == 1)  # the device is being made
        assert await peer.ping() == []
        here.inlet.release()
        await here.until(lambda: len(here.inlet.held) == 2)  # its data, in order
        assert [items[0].values["a"] for items in here.inlet.sub("plug").posted] == [1, 2]
        assert await peer.ping() == []
        here.inlet.release()
        assert [await peer.receive(), await peer.receive()] == [Ack(PUBACK, 1), Ack(PUBACK, 2)]
        assert here.inlet.sub("plug").device.type == "tasmota"


async def test_a_mapped_topic_still_goes_to_local_subscribers():
    async with house() as (here, peer):
        other, _ = await here.connect(token="tok2")
        other.send(encode.subscribe(4, 1, [("tele/#", 0)]))
        await other.receive()
        say(peer, "tele/plug/SENSOR", {"a": 1})
        heard = await other.receive()
        assert (heard.topic, heard.payload) == ("tele/plug/SENSOR", b'{"a": 1}')
        assert await peer.receive() == Ack(PUBACK, 1)
        assert here.inlet.sub("plug").posted[0][0].values == {"a": 1}


async def test_what_does_not_fit_is_acknowledged_counted_and_shown_and_stops_nothing(caplog):
    async with house() as (here, peer):
        say(peer, "tele/plug/SENSOR", b"[hush")
        say(peer, "tele/plug/LWT", b"Maybe", 2)
        say(peer, "own/x", {"a": 1}, 3)
        assert [await peer.receive() for _ in range(3)] == [Ack(PUBACK, number) for number in (1, 2, 3)]
        assert here.counters.get("mapping.misfits") == 2
        shown = here.broker.status()["mappings"]
        assert [problem["topic"] for problem in shown["problems"]] == ["tele/plug/SENSOR", "tele/plug/LWT"]
        assert shown["devices"] == 1
        assert "hush" not in caplog.text
        assert caplog.text.count("further ones are only counted") == 1


@pytest.mark.parametrize("refusal", [FullError("broker.max_devices"), RejectedError("a name that cannot be")])
async def test_a_device_that_cannot_be_made_stops_nothing(refusal):
    async with house() as (here, peer):
        here.inlet.refusal = refusal
        say(peer, "own/x", {"a": 1})
        assert await peer.receive() == Ack(PUBACK, 1)
        assert here.counters.get("mapping.devices_refused") == 1


async def test_data_that_the_store_refuses_is_counted_and_the_publisher_goes_on():
    async with house("held") as (here, peer):
        say(peer, "own/x", {"a": 1})
        await here.until(lambda: len(here.inlet.held) == 1)
        here.inlet.release()
        await here.until(lambda: len(here.inlet.held) == 1)
        here.inlet.release(error=RejectedError("too big"))
        assert await peer.receive() == Ack(PUBACK, 1)
        assert here.counters.get("mapping.data_refused") == 1
        assert await peer.ping() == []


async def test_the_number_of_open_devices_is_bounded():
    async with house(mappings={"sets": [OWN], "max_devices": 1}) as (here, peer):
        for number, name in enumerate(("x", "y", "x"), 1):
            say(peer, f"own/{name}", {"a": number}, number)
            assert await peer.receive() == Ack(PUBACK, number)
        assert here.inlet.sub("x").posted[-1][0].values == {"a": 3}
        assert "y" not in here.inlet.behind
        assert here.counters.get("mapping.devices_refused") == 1


async def test_online_and_offline_come_from_last_wills():
    async with house() as (here, peer):
        device, _ = await here.connect(token="tok2", client_id="c", will=Publish("tele/plug/LWT", b"Offline", 1))
        device.publish("tele/plug/LWT", b"Online", 1, 1)
        assert await device.receive() == Ack(PUBACK, 1)
        session = here.inlet.sub("plug")
        assert session.is_open
        assert session.has_rpc
        assert not session.confirms_rpc
        await here.clock.advance(70)
        assert session.is_open  # it has a will: silence says nothing
        device.writer.close()
        await here.until(lambda: not session.is_open)
        say(peer, "tele/plug/SENSOR", {"a": 1})
        assert await peer.receive() == Ack(PUBACK, 1)
        assert here.inlet.sub("plug").is_open


async def test_who_has_no_last_will_is_offline_after_silence():
    async with house() as (here, peer):
        say(peer, "own/x", {"a": 1})
        await peer.receive()
        session = here.inlet.sub("x")
        await here.clock.advance(50)
        assert session.is_open
        await here.clock.advance(20)
        assert not session.is_open


async def test_a_call_is_a_publish_and_its_answer_comes_on_its_topic():
    async with house() as (here, peer):
        say(peer, "tele/plug/LWT", b"Online")
        await peer.receive()
        session = here.inlet.sub("plug")
        peer.send(encode.subscribe(4, 1, [("cmnd/#", 0), ("own/+/set", 0)]))
        await peer.receive()
        assert await session.channel.send_rpc(7, call(here=here)) is None
        packet = await peer.receive()
        assert (packet.topic, packet.payload) == ("cmnd/plug/POWER", b"ON")
        say(peer, "stat/plug/RESULT", {"Dimmer": 1}, 2)  # has no POWER: not the answer
        say(peer, "stat/plug/RESULT", {"POWER": "ON"}, 3)
        assert [await peer.receive(), await peer.receive()] == [Ack(PUBACK, 2), Ack(PUBACK, 3)]
        assert session.answers == [(7, '{"POWER":"ON"}')]
        assert session.posted[-1][0].values == {"POWER": True}
        assert await session.channel.send_rpc(8, call("nothing")) == RpcResponse(error=RpcError.NOT_FOUND)
        assert await session.channel.send_rpc(9, call("command", {}, here)) == RpcResponse(error=RpcError.INTERNAL)
        assert await session.channel.send_rpc(9, call("command", {"command": "a/#", "value": 1}, here)) == RpcResponse(
            error=RpcError.INTERNAL
        )
        assert await session.channel.send_rpc(10, call(here=here)) is None
        await here.clock.advance(6)
        say(peer, "stat/plug/RESULT", {"POWER": "ON"}, 4)  # too late
        await here.until(lambda: len(session.posted) == 2)
        assert session.answers == [(7, '{"POWER":"ON"}')]


async def test_shared_attributes_become_publishes_and_our_own_word_is_not_mapped():
    loop = {"up": [{"topic": "own/{device}", "telemetry": [{"path": "*"}]}],
            "down": [{"attributes": "t*", "topic": "own/{device}", "payload": {"{key}x": 1, "v": "{value}"}}]}  # fmt: skip
    async with house(mappings={"sets": [loop]}) as (here, peer):
        say(peer, "own/x", {"a": 1})
        await peer.receive()
        peer.send(encode.subscribe(4, 1, [("own/#", 0)]))
        await peer.receive()
        session = here.inlet.sub("x")
        session.channel.send_attributes({"target": 5, "other": 6})
        packet = await peer.receive()
        assert json.loads(packet.payload) == {"{key}x": 1, "v": 5}
        await settle()
        assert len(session.posted) == 1
        session.channel.close("taken_over")
        assert here.broker.status()["mappings"]["devices"] == 0
