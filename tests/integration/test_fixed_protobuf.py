"""Protobuf for gateways and provisioning over real sockets, with bytes that are put together by hand."""

import asyncio
import struct
from contextlib import asynccontextmanager

import orjson
import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack, Disconnect, Publish
from gateway.domain.entity import DeviceProfile, time_uuid
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import TsKv
from tests.integration.broker_peer import site
from tests.integration.test_provisioning import REQUEST, RESPONSE, peer, street

UP = "v1/gateway/"
BOTH = pytest.mark.parametrize("version", [4, 5])


def varint(number):
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    """One field on the wire: an int (or bool), a double, a text or the bytes of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def pair(key, kind, value):
    return field(1, key) + field(2, kind) + field(3 + kind, value)


def row(ts, *pairs):
    return field(1, field(1, ts) + b"".join(field(2, item) for item in pairs))


def of_device(name, number, said=b""):
    return field(1, field(1, name) + field(number, said))


def stored(ts, key, kind, value):
    """A TsKv as it goes down: what is 0 is not on the wire."""
    return field(1, ts) + field(2, field(1, key) + (field(2, kind) if kind else b"") + field(3 + kind, value))


def profile(**members):
    payload = {"transportPayloadType": "PROTOBUF"} | members
    transport = {"type": "MQTT", "transportPayloadTypeConfiguration": payload}
    return DeviceProfile(id=time_uuid(), name="default", json={"profileData": {"transportConfiguration": transport}})


@asynccontextmanager
async def gateway(version=4, receipts="next_turn", **members):
    async with site(receipts) as here:
        here.inlet.add_device("gw", "gw-tok", is_gateway=True)
        here.inlet.profiles["default"] = profile(**members)
        client, session = await here.connect(version, "gw-tok")
        yield here, client, session


async def say(client, topic, payload):
    client.publish(UP + topic, payload, 1, 1)
    return await client.receive()


async def heard(client):
    packet = await client.receive()
    assert isinstance(packet, Publish)
    return packet.topic, packet.payload


def test_the_bytes_of_these_tests_are_protobuf():
    connect = bytes.fromhex("0a 01 41 12 04 70 75 6d 70")
    assert field(1, "A") + field(2, "pump") == connect
    assert field(1, 300) == bytes.fromhex("08 ac 02")
    assert field(5, 1.5) == bytes.fromhex("29 00 00 00 00 00 00 f8 3f")


async def test_connect_and_disconnect():
    async with gateway() as (here, client, _):
        assert await say(client, "connect", bytes.fromhex("0a 01 41 12 04 70 75 6d 70")) == Ack(PUBACK, 1)
        assert here.inlet.sub("A").device.type == "pump"
        assert await say(client, "disconnect", field(1, "A")) == Ack(PUBACK, 1)
        assert not here.inlet.sub("A").is_open


async def test_telemetry_keeps_the_types_that_were_sent():
    a = row(
        5, pair("b", 0, True), pair("l", 1, -7), pair("d", 2, 1.5), pair("s", 3, "00123"), pair("j", 4, '{"x":[1]}')
    )
    async with gateway() as (here, client, _):
        payload = of_device("A", 3, a + row(0, pair("l", 1, 9))) + of_device("B", 3, row(6, pair("l", 1, 2)))
        assert await say(client, "telemetry", payload) == Ack(PUBACK, 1)
        assert here.inlet.sub("A").posted == [
            [
                TsKv(5, {"b": True, "l": -7, "d": 1.5, "s": "00123", "j": {"x": [1]}}),
                TsKv(here.clock.now_ms(), {"l": 9}),
            ]
        ]
        assert here.inlet.sub("B").posted == [[TsKv(6, {"l": 2})]]


async def test_attributes_and_claims():
    async with gateway() as (here, client, _):
        said = field(1, pair("fw", 3, "1.2")) + field(2, True)
        assert await say(client, "attributes", of_device("A", 2, said)) == Ack(PUBACK, 1)
        assert here.inlet.sub("A").posted == [{"fw": "1.2"}]
        claim = field(1, "secret") + field(2, 60_000)
        assert await say(client, "claim", of_device("A", 2, claim) + field(1, field(1, "B"))) == Ack(PUBACK, 1)
        assert here.inlet.sub("A").posted[1] == ("claim", "secret", 60_000)
        assert here.inlet.sub("B").posted == [("claim", "", 0)]


@BOTH
@pytest.mark.parametrize(
    "bad", [pair("d", 2, float("nan")), pair("j", 4, "{"), field(1, "k") + field(2, 9)], ids=["nan", "json", "type"]
)
async def test_one_device_with_invalid_data_does_not_stop_the_others(version, bad):
    async with gateway(version) as (here, client, _):
        payload = of_device("A", 3, row(5, bad)) + of_device("B", 3, row(5, pair("t", 1, 1)))
        assert await say(client, "telemetry", payload) == (Ack(PUBACK, 1, 0x99) if version == 5 else None)
        assert here.inlet.sub("B").posted == [[TsKv(5, {"t": 1})]]
        assert here.counters.get("broker.bad_payloads") == 1


@pytest.mark.parametrize(
    ("topic", "payload"),
    [("connect", field(2, "pump")), ("telemetry", b""), ("attributes", field(1, field(2, b""))),
     ("attributes/request", field(1, 1)), ("rpc", field(2, 7))],
)  # fmt: skip
async def test_a_message_without_a_device_is_a_wrong_shape(topic, payload):
    async with gateway(5) as (_, client, _):
        assert await say(client, topic, payload) == Ack(PUBACK, 1, 0x83)
        assert await client.receive() == Disconnect(0x83)


async def test_json_is_not_understood_unless_the_profile_says_so():
    body = b'{"A":[{"ts":5,"values":{"t":"21"}}]}'
    async with gateway(5) as (_, client, _):
        assert await say(client, "telemetry", body) == Ack(PUBACK, 1, 0x99)
    async with gateway(5, enableCompatibilityWithJsonPayloadFormat=True) as (here, client, _):
        assert await say(client, "telemetry", body) == Ack(PUBACK, 1)
        assert await say(client, "telemetry", of_device("A", 3, row(6, pair("t", 3, "21")))) == Ack(PUBACK, 1)
        assert here.inlet.sub("A").posted == [[TsKv(5, {"t": 21})], [TsKv(6, {"t": "21"})]]
        assert await say(client, "telemetry", b"{") == Ack(PUBACK, 1, 0x99)


async def test_what_goes_down():
    async with gateway() as (here, client, _):
        await say(client, "connect", field(1, "A"))
        channel, now = here.inlet.sub("A").channel, here.clock.now_ms()
        channel.send_attributes({"target": 5})
        changed = field(1, "A") + field(2, field(1, stored(now, "target", 1, 5)))
        assert await heard(client) == (UP + "attributes", changed)
        channel.send_attributes_deleted(["target"])
        assert await heard(client) == (UP + "attributes", field(1, "A") + field(2, field(2, "target")))
        call = RpcRequest(
            device_id=time_uuid(), method="set", params={"v": 1}, request_id=9, expires_ms=300, is_oneway=True
        )
        done = asyncio.ensure_future(channel.send_rpc(7, call))
        body = field(1, 7) + field(2, "set") + field(3, '{"v":1}') + field(4, 300) + field(7, True)
        packet = await client.receive()
        assert (packet.topic, packet.payload) == (UP + "rpc", field(1, "A") + field(2, body))
        client.send(encode.ack(PUBACK, packet.packet_id))
        assert await done is None
        answer = field(1, "A") + field(2, 7) + field(3, '{"ok":1}')
        assert await say(client, "rpc", answer) == Ack(PUBACK, 1)
        assert here.inlet.sub("A").answers == [(7, '{"ok":1}')]


async def test_v1_topics_down_may_stay_json():
    flags = {
        "enableCompatibilityWithJsonPayloadFormat": True,
        "useJsonPayloadFormatForDefaultDownlinkTopics": True,
    }
    async with gateway(**flags) as (here, client, _):
        await say(client, "connect", field(1, "A"))
        here.inlet.sub("A").channel.send_attributes({"target": 5})
        assert await heard(client) == (UP + "attributes", b'{"device":"A","data":{"target":5}}')
        here.inlet.profiles["default"] = profile()  # a change counts at once
        here.inlet.sub("A").channel.send_attributes_deleted(["k"])
        assert await heard(client) == (UP + "attributes", field(1, "A") + field(2, field(2, "k")))


async def test_a_question_for_attributes():
    async with gateway() as (here, client, _):
        await say(client, "connect", field(1, "A"))
        session, now = here.inlet.sub("A"), here.clock.now_ms()
        session.attributes = ({"fw": "1"}, {})
        client.publish(UP + "attributes/request", field(1, 3) + field(2, "A") + field(3, True) + field(4, "fw"), 1, 1)
        got = sorted([await client.receive(), await client.receive()], key=lambda packet: type(packet).__name__)
        assert got[0] == Ack(PUBACK, 1)
        found = field(1, 3) + field(2, stored(now, "fw", 3, "1"))
        assert (got[1].topic, got[1].payload) == (UP + "attributes/response", field(1, "A") + field(2, found))


# ── provisioning ──


def asked(name, secret="s3cret", kind=0, wish=b"", is_gateway=False):
    key = field(3, field(1, "key") + field(2, secret))
    return field(1, name) + field(2, kind) + key + field(4, wish) + (field(5, True) if is_gateway else b"")


async def provision(client, payload):
    client.publish(REQUEST, payload, 1, 7)
    assert await client.receive() == Ack(PUBACK, 7)
    packet = await client.receive()
    assert packet.topic == RESPONSE
    client.send(encode.ack(PUBACK, packet.packet_id))
    return packet.payload


async def test_a_protobuf_request_is_answered_in_protobuf():
    async with street() as (house, room), peer(room, user_name="provision") as client:
        await client.receive()
        answer = await provision(client, asked("D", wish=field(1, field(1, "tok")), is_gateway=True))
        assert answer == bytes.fromhex("08 01 1a 03") + b"tok"
        assert house.state.device_named("D").credentials.credentials_id == "tok"
        assert house.state.device_named("D").is_gateway
        assert await provision(client, asked("D")) == field(1, 3)
        assert await provision(client, asked("E", secret="wrong")) == field(1, 2)
        basic = field(1, "c") + field(2, "u") + field(3, "p")
        answer = await provision(client, asked("F", kind=2, wish=field(3, basic)))
        assert answer[:4] == field(1, 1) + field(2, 2)
        assert orjson.loads(answer[6:]) == {"clientId": "c", "userName": "u", "password": "p"}
        json_too = b'{"provisionDeviceKey":"key","provisionDeviceSecret":"s3cret","deviceName":"D"}'
        assert orjson.loads(await provision(client, json_too))["status"] == "FAILURE"


@pytest.mark.parametrize(
    "payload", [b"", field(1, "D"), asked("D", kind=3), b"\xff\xff", b'{"deviceName":"D"}'],
    ids=["empty", "no key", "kind", "neither", "JSON without a key"],
)  # fmt: skip
async def test_a_request_that_cannot_be_used_is_acknowledged_and_the_connection_ends(payload):
    async with street() as (house, room), peer(room, 5, user_name="provision") as client:
        await client.receive()
        client.publish(REQUEST, payload, 1, 7)
        assert [await client.receive(), await client.receive()] == [Ack(PUBACK, 7), Disconnect(0x83)]
        assert house.counters.get("broker.bad_payloads") == 1
