"""The gateway API on a real socket: topics, errors of both protocol versions row by row, downlinks, sub-sessions."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson
import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack, Disconnect, Publish
from gateway.domain.entity import time_uuid
from gateway.domain.rpc import RpcRequest
from gateway.errors import FullError, RejectedError, TransientError
from tests.fakes.house import settle
from tests.integration.broker_peer import site

UP = "v1/gateway/"
BOTH = pytest.mark.parametrize("version", [4, 5])


@asynccontextmanager
async def gateway(version=4, receipts="next_turn", **settings):
    async with site(receipts, **settings) as here:
        here.inlet.add_device("gw", "gw-tok", is_gateway=True)
        peer, session = await here.connect(version, "gw-tok")
        yield here, peer, session


def say(peer, topic, body, qos=1, packet_id=1):
    peer.publish(UP + topic, body if isinstance(body, bytes) else json.dumps(body).encode(), qos, packet_id)


async def heard(peer):
    packet = await peer.receive()
    assert isinstance(packet, Publish)
    return packet.topic, orjson.loads(packet.payload), packet.qos


async def test_telemetry_of_several_devices_is_one_acknowledgement_when_all_are_durable():
    async with gateway(receipts="held") as (here, peer, _):
        say(peer, "telemetry", {"A": [{"ts": 5, "values": {"t": "21"}}, {"u": 1}], "B": [{"t": 2}]})
        await here.until(lambda: len(here.inlet.held) == 2)  # both are being made
        assert await peer.ping() == []
        here.inlet.release()
        await here.until(lambda: len(here.inlet.held) == 2)  # their data is behind them
        here.inlet.release(1)
        await settle()
        assert await peer.ping() == []
        here.inlet.release()
        assert await peer.receive() == Ack(PUBACK, 1)
        first = here.inlet.sub("A").posted[0]
        assert [(item.ts_ms, item.values) for item in first] == [(5, {"t": 21}), (here.clock.now_ms(), {"u": 1})]
        assert here.inlet.sub("B").posted[0][0].values == {"t": 2}
        assert here.inlet.sub("A").has_attributes
        assert here.inlet.sub("A").has_rpc
        assert here.inlet.sub("A").confirms_rpc


async def test_connect_names_the_profile_and_disconnect_ends_the_session():
    async with gateway() as (here, peer, _):
        say(peer, "connect", {"device": "A", "type": "pump"})
        assert await peer.receive() == Ack(PUBACK, 1)
        session = here.inlet.sub("A")
        assert session.device.type == "pump"
        say(peer, "disconnect", {"device": "A"}, packet_id=2)
        say(peer, "disconnect", {"device": "nobody"}, packet_id=3)
        assert [await peer.receive() for _ in "12"] == [Ack(PUBACK, 2), Ack(PUBACK, 3)]
        assert not session.is_open
        say(peer, "attributes", {"A": {"fw": "1.2"}}, packet_id=4)  # opens it again
        assert await peer.receive() == Ack(PUBACK, 4)
        assert here.inlet.sub("A").posted == [{"fw": 1.2}]


async def test_what_is_said_of_a_device_being_made_keeps_its_order():
    async with gateway(receipts="held") as (here, peer, _):
        say(peer, "connect", {"device": "A"}, packet_id=1)
        for number in (2, 3):
            say(peer, "telemetry", {"A": [{"n": number}]}, packet_id=number)
        say(peer, "disconnect", {"device": "A"}, packet_id=4)
        await peer.ping()
        here.inlet.release()
        await here.until(lambda: len(here.inlet.held) == 2)
        here.inlet.release()
        assert [await peer.receive() for _ in range(4)] == [Ack(PUBACK, number) for number in (1, 2, 3, 4)]
        session = here.inlet.sub("A")
        assert [items[0].values["n"] for items in session.posted] == [2, 3]
        assert not session.is_open


async def test_the_gateways_own_topics_and_limits_stay_its_own():
    async with gateway() as (here, peer, session):
        peer.publish("v1/devices/me/telemetry", b'{"own":1}', 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        peer.publish("v1/devices/me/rpc/request/1", b'{"method":"getSessionLimits","params":{}}')
        assert "gatewayRateLimits" in (await heard(peer))[1]
        assert session.posted[0][0].values == {"own": 1}
        assert not here.inlet.sub_sessions


async def test_downlinks_need_no_subscription():
    async with gateway(5) as (here, peer, _):
        say(peer, "connect", {"device": "A"})
        assert await peer.receive() == Ack(PUBACK, 1)
        channel = here.inlet.sub("A").channel
        channel.send_attributes({"target": 5})
        channel.send_attributes_deleted(["target"])
        assert await heard(peer) == (UP + "attributes", {"device": "A", "data": {"target": 5}}, 1)
        assert await heard(peer) == (UP + "attributes", {"device": "A", "data": {"deleted": ["target"]}}, 1)
        call = RpcRequest(device_id=time_uuid(), method="set", params=None, request_id=9, expires_ms=0)
        done = asyncio.ensure_future(channel.send_rpc(7, call))
        packet = await peer.receive()
        assert (packet.topic, orjson.loads(packet.payload)) == (
            UP + "rpc",
            {"device": "A", "data": {"id": 7, "method": "set", "params": None}},
        )
        peer.send(encode.ack(PUBACK, packet.packet_id, 5))
        assert await done is None
        say(peer, "rpc", {"device": "A", "id": 7, "data": {"ok": [1]}}, 0)
        await peer.ping()
        assert here.inlet.sub("A").answers == [(7, '{"ok":[1]}')]
        lost = asyncio.ensure_future(channel.send_rpc(8, call))
        await peer.receive()
        peer.writer.close()
        with pytest.raises(TransientError):
            await lost


@pytest.mark.parametrize(
    ("question", "asked", "answer"),
    [
        ({"client": True, "key": "a"}, (["a"], None), {"value": 1}),
        ({"client": True, "keys": ["a", "x"]}, (["a", "x"], None), {"values": {"a": 1}}),
        ({"client": False, "keys": ["s"]}, (None, ["s"]), {"value": "x"}),
        ({"client": False, "key": "none"}, (None, ["none"]), {}),
        ({"client": False, "keys": []}, ([], []), {"value": 1, "values": {"s": "x", "r": [2]}}),
    ],
)
async def test_questions_for_attributes(question, asked, answer):
    async with gateway() as (here, peer, _):
        has = ({"a": 1}, {"s": "x", "r": [2]})
        found = {
            "a": ({"a": 1}, {}), "s": ({}, {"s": "x"}), "none": ({}, {}), "x": ({"a": 1}, {})
        }  # fmt: skip
        keys = question.get("keys", [question.get("key")])
        here.inlet.attributes = found[keys[-1]] if keys else has
        say(peer, "attributes/request", {"id": 3, "device": "A", **question})
        seen = [await peer.receive(), await peer.receive()]
        assert Ack(PUBACK, 1) in seen
        packet = next(one for one in seen if isinstance(one, Publish))
        assert (packet.topic, packet.qos) == (UP + "attributes/response", 1)
        assert orjson.loads(packet.payload) == {"id": 3, "device": "A", **answer}
        assert here.inlet.sub("A").asked == [asked]


async def test_claims():
    async with gateway() as (here, peer, _):
        say(peer, "claim", {"A": {"secretKey": "s", "durationMs": 60000}, "B": {}})
        assert await peer.receive() == Ack(PUBACK, 1)
        assert here.inlet.sub("A").posted == [("claim", "s", 60000)]
        assert here.inlet.sub("B").posted == [("claim", "", 0)]


# ── errors, row by row ──

SHAPES = [
    ("telemetry", b"5"),
    ("telemetry", b"{}"),
    ("telemetry", b'{"A":{"t":1}}'),
    ("telemetry", b'{"":[{"t":1}]}'),
    ("attributes", b'{"A":[1]}'),
    ("connect", b'{"type":"x"}'),
    ("connect", b'{"device":""}'),
    ("disconnect", b"[]"),
    ("attributes/request", b'{"device":"A","id":1,"key":"k"}'),
    ("attributes/request", b'{"device":"A","client":true,"key":"k"}'),
    ("attributes/request", b'{"device":"A","id":1,"client":true}'),
    ("rpc", b'{"device":"A","data":1}'),
    ("rpc", b'{"device":"A","id":1}'),
]


@pytest.mark.parametrize(("topic", "body"), SHAPES)
async def test_a_wrong_shape_is_acknowledged_and_the_connection_closed(topic, body):
    for version, answers in ((4, [Ack(PUBACK, 1), None]), (5, [Ack(PUBACK, 1, 0x83), Disconnect(0x83), None])):
        async with gateway(version) as (here, peer, _):
            say(peer, topic, body)
            assert [await peer.receive() for _ in answers] == answers
            assert here.counters.get("broker.bad_payloads") == 1


@BOTH
async def test_what_is_not_json(version):
    async with gateway(version) as (_, peer, _):
        say(peer, "telemetry", b"{")
        assert await peer.receive() == (None if version == 4 else Ack(PUBACK, 1, 0x99))
        if version == 5:
            assert await peer.ping() == []


@BOTH
@pytest.mark.parametrize(
    "bad", [[5], [{"ts": "x", "values": {}}], [{"ts": None, "values": {}}], [{"metadata": {"connector": "c"}, "t": 1}]]
)
async def test_one_device_with_invalid_data_does_not_stop_the_others(version, bad):
    async with gateway(version) as (here, peer, _):
        say(peer, "telemetry", {"A": [{"t": 1}], "bad": bad, "C": [{"t": 3}]})
        assert await peer.receive() == (None if version == 4 else Ack(PUBACK, 1, 0x99))
        for name, value in (("A", 1), ("C", 3)):
            assert here.inlet.sub(name).posted[0][0].values == {"t": value}
        assert "bad" not in here.inlet.behind
        if version == 5:
            assert await peer.ping() == []


async def test_invalid_data_without_an_acknowledgement_ends_a_5_connection():
    async with gateway(5) as (_, peer, _):
        say(peer, "telemetry", {"bad": [5]}, 0, 0)
        assert [await peer.receive(), await peer.receive()] == [Disconnect(0x99), None]


@BOTH
@pytest.mark.parametrize(("error", "reason"), [(FullError("quota"), 0x97), (RejectedError("name"), 0x80)])
async def test_a_device_that_cannot_be_made(version, error, reason):
    async with gateway(version) as (here, peer, _):
        say(peer, "connect", {"device": "old"}, packet_id=1)
        assert await peer.receive() == Ack(PUBACK, 1)
        here.inlet.refusal = error
        say(peer, "telemetry", {"new": [{"t": 1}], "old": [{"t": 2}]}, packet_id=2)
        assert await peer.receive() == Ack(PUBACK, 2, reason if version == 5 else 0)
        assert here.inlet.sub("old").posted[0][0].values == {"t": 2}
        assert await peer.ping() == []
        assert here.counters.get("broker.gateway_devices_refused") == 1


async def test_of_several_troubles_the_worst_is_told():
    async with gateway(5) as (here, peer, _):
        here.inlet.refusal = RejectedError("name")
        say(peer, "telemetry", {"bad": [5], "new": [{"t": 1}]})
        assert await peer.receive() == Ack(PUBACK, 1, 0x99)
        say(peer, "telemetry", {"new": [{"t": 1}], "bad": [5]}, packet_id=2)
        assert await peer.receive() == Ack(PUBACK, 2, 0x99)


@BOTH
async def test_a_device_that_does_not_become_durable(version):
    async with gateway(version, "held") as (here, peer, _):
        say(peer, "telemetry", {"A": [{"t": 1}]})
        await here.until(lambda: here.inlet.held)
        here.inlet.release(error=RejectedError("refused by the store"))
        assert await peer.receive() == Ack(PUBACK, 1, 0x80 if version == 5 else 0)
        say(peer, "telemetry", {"A": [{"t": 2}]}, packet_id=2)  # tried anew
        await here.until(lambda: here.inlet.held)
        here.inlet.release()
        await here.until(lambda: here.inlet.held)
        here.inlet.release()
        assert await peer.receive() == Ack(PUBACK, 2)


@BOTH
async def test_data_that_cannot_be_kept_ends_the_connection(version):
    async with gateway(version, "held") as (here, peer, _):
        say(peer, "connect", {"device": "A"})
        await here.until(lambda: here.inlet.held)
        here.inlet.release()
        assert await peer.receive() == Ack(PUBACK, 1)
        say(peer, "telemetry", {"A": [{"t": 1}]}, packet_id=2)
        await here.until(lambda: here.inlet.held)
        here.inlet.release(error=RejectedError("cannot be written"))
        if version == 5:
            assert await heard(peer) == (UP + "disconnect", {"device": "A", "reason": 128}, 1)
            assert [await peer.receive() for _ in "123"] == [Ack(PUBACK, 2, 0x80), Disconnect(0x80), None]
        else:
            assert [await peer.receive(), await peer.receive()] == [Ack(PUBACK, 2), None]


@BOTH
async def test_an_unknown_topic_and_a_device_that_is_no_gateway(version):
    async with gateway(version) as (here, peer, _):
        say(peer, "nothing", {})
        assert await peer.receive() == Ack(PUBACK, 1, 0x90 if version == 5 else 0)
        other, _ = await here.connect(version)
        say(other, "telemetry", {"A": [{"t": 1}]})
        assert await other.ping() == []
        assert not here.inlet.behind


async def test_the_number_of_devices_is_bounded():
    async with gateway(5, max_gateway_devices=2) as (here, peer, _):
        say(peer, "telemetry", {name: [{"t": 1}] for name in "ABC"})
        assert await peer.receive() == Ack(PUBACK, 1, 0x97)
        assert sorted(here.inlet.behind) == ["A", "B"]
        say(peer, "disconnect", {"device": "A"}, packet_id=2)
        say(peer, "telemetry", {"C": [{"t": 1}]}, packet_id=3)
        assert [await peer.receive(), await peer.receive()] == [Ack(PUBACK, 2), Ack(PUBACK, 3)]


async def test_many_devices_in_one_packet_are_bounded():
    async with gateway(5) as (here, peer, _):
        say(peer, "telemetry", {f"d{number}": [{"t": 1}] for number in range(2_005)})
        assert await peer.receive() == Ack(PUBACK, 1, 0x97)
        assert len(here.inlet.behind) == 2_000


# ── sub-sessions ──


async def test_the_same_device_behind_a_second_gateway():
    async with gateway() as (here, peer, _):
        here.inlet.add_device("gw2", "gw2-tok", is_gateway=True)
        second, _ = await here.connect(4, "gw2-tok")
        say(peer, "connect", {"device": "A"})
        assert await peer.receive() == Ack(PUBACK, 1)
        first = here.inlet.sub("A")
        say(second, "telemetry", {"A": [{"t": 2}]})
        assert await second.receive() == Ack(PUBACK, 1)
        assert await peer.ping() == []  # it hears nothing of it
        assert not first.is_open
        assert here.inlet.sub("A").posted[0][0].values == {"t": 2}
        say(peer, "telemetry", {"A": [{"t": 3}]}, packet_id=2)  # and has it back with the next data
        assert await peer.receive() == Ack(PUBACK, 2)
        assert here.inlet.sub("A").posted[0][0].values == {"t": 3}


async def test_the_end_of_the_connection_ends_all_sessions_and_the_first_data_opens_them_again():
    async with gateway() as (here, peer, _):
        say(peer, "telemetry", {"A": [{"t": 1}], "B": [{"t": 1}]})
        assert await peer.receive() == Ack(PUBACK, 1)
        before = [here.inlet.sub(name) for name in "AB"]
        peer.writer.close()
        await here.until(lambda: not any(session.is_open for session in before))
        again, _ = await here.connect(4, "gw-tok", is_clean=False)
        say(again, "telemetry", {"A": [{"t": 2}]})
        assert await again.receive() == Ack(PUBACK, 1)
        assert here.inlet.sub("A") not in before


async def test_activity_of_the_gateway_is_that_of_its_devices_when_it_says_so():
    async with gateway() as (here, peer, session):
        say(peer, "connect", {"device": "A"})
        await peer.receive()
        sub = here.inlet.sub("A")
        await here.clock.advance(10)
        await peer.ping()
        assert sub.touches == 0
        session.device = replace(session.device, json={"additionalInfo": {"overwriteActivityTime": True}})
        await here.clock.advance(10)
        await peer.ping()
        await peer.ping()
        assert sub.touches == 1


async def test_latencies_become_telemetry_of_the_gateway_once_a_minute():
    async with gateway() as (here, peer, session):
        now_ms = here.clock.now_ms()
        items = [
            {"ts": 1, "values": {"t": 1}, "metadata": {"connector": "modbus", "receivedTs": now_ms - gw - way,
                                                       "publishedTs": now_ms - way}}
            for gw, way in ((10, 5), (30, 15))
        ]  # fmt: skip
        say(peer, "telemetry", {"A": items})
        assert await peer.receive() == Ack(PUBACK, 1)
        assert [item.values for item in here.inlet.sub("A").posted[0]] == [{"t": 1}, {"t": 1}]
        await here.clock.advance(61)
        await here.until(lambda: session.posted)
        assert session.posted[0][0].values == {
            "gatewayMetrics": {
                "modbus": {
                    "avgGwLatency": 20,
                    "minGwLatency": 10,
                    "maxGwLatency": 30,
                    "avgTransportLatency": 10,
                    "minTransportLatency": 5,
                    "maxTransportLatency": 15,
                }
            }
        }


@pytest.mark.parametrize(
    ("topic", "body", "reason"),
    [
        ("rpc", {"device": "A", "id": "--5", "data": 1}, 0x83),
        ("rpc", {"device": "A", "id": "5-", "data": 1}, 0x83),
        ("claim", {"A": {"secretKey": "s", "durationMs": "--5"}}, 0x99),
        ("claim", {"A": {"secretKey": "s", "durationMs": "-"}}, 0x99),
    ],
    ids=["id with two signs", "id with its sign behind", "duration with two signs", "duration without digits"],
)
async def test_a_number_with_its_sign_in_the_wrong_place_is_told_and_no_bug(topic, body, reason, caplog):
    async with gateway(5) as (_, peer, _):
        say(peer, topic, body)
        assert await peer.receive() == Ack(PUBACK, 1, reason)
    assert not [record for record in caplog.records if record.exc_info]
