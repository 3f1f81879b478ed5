"""Device profiles over real sockets: own topics, protobuf payloads, bad schemas, and their change while connected."""

import asyncio

import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack, Disconnect, Publish, Suback
from gateway.broker.protobuf import DEFAULT_RPC_REQUEST, DEFAULT_RPC_RESPONSE, Codec
from gateway.config import ProfileConfig
from gateway.domain.entity import DeviceProfile, time_uuid
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.domain.telemetry import TsKv
from tests.integration.broker_peer import site

HEAD = 'syntax = "proto3";'
TELEMETRY = HEAD + "message T { optional int32 temp = 1; optional string state = 2; }"
ATTRIBUTES = HEAD + "message A { optional string fw = 1; }"
V1_TELEMETRY, V1_ATTRIBUTES = "v1/devices/me/telemetry", "v1/devices/me/attributes"
ACCEPTED = Ack(PUBACK, 9)
DOWN = {  # fixed messages, written here by their field numbers and not by the gateway's own table
    "response": Codec(
        HEAD + "message K { string key=1; int32 type=2; bool b=3; int64 l=4; double d=5; string s=6; string j=7; }"
        "message V { int64 ts=1; K kv=2; }"
        "message R { int32 id=1; repeated V client=2; repeated V shared=3; bool many=4; string error=5; }"
    ),
    "update": Codec(
        HEAD + "message K { string key=1; int32 type=2; bool b=3; int64 l=4; double d=5; string s=6; string j=7; }"
        "message V { int64 ts=1; K kv=2; } message U { repeated V updated=1; repeated string deleted=2; }"
    ),
    "rpc": Codec(HEAD + "message R { int32 id=1; string payload=2; string error=3; }"),
}
UP = {
    "keys": Codec(HEAD + "message Q { string client=1; string shared=2; }"),
    "rpc": Codec(HEAD + "message Q { string method=1; string params=2; }"),
    "claim": Codec(HEAD + "message Q { string secret=1; int64 ms=2; }"),
}


def profile(payload=None, **settings):
    transport = {"type": "MQTT", "transportPayloadTypeConfiguration": payload or {"transportPayloadType": "JSON"}}
    return DeviceProfile(
        id=time_uuid(), name="default", json={"profileData": {"transportConfiguration": transport | settings}}
    )


def protobuf(**members):
    return profile(
        {"transportPayloadType": "PROTOBUF", "deviceTelemetryProtoSchema": TELEMETRY,
         "deviceAttributesProtoSchema": ATTRIBUTES} | members
    )  # fmt: skip


async def publish(peer, topic, payload, qos=1):
    peer.publish(topic, payload, qos, 9 if qos else 0)
    return await peer.ping()


async def subscribe(peer, *filters):
    peer.send(encode.subscribe(peer.version, 1, [(name, 1) for name in filters]))
    answer = await peer.receive()
    assert isinstance(answer, Suback)
    return list(answer.codes)


def values(session):
    return [items[0].values if isinstance(items, list) else items for items in session.posted]


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_own_topics_take_the_place_of_the_v1_names_and_are_named_to_the_rules(version):
    unknown = Ack(PUBACK, 9, 0x90 if version == 5 else 0)
    async with site() as here:
        here.inlet.profiles["default"] = profile(
            deviceTelemetryTopic="plant/+/data/#", deviceAttributesTopic="plant/info"
        )
        peer, session = await here.connect(version)
        assert await publish(peer, "plant/7/data/x/y", b'{"a":1}') == [ACCEPTED]
        assert await publish(peer, "plant/info", b'{"b":1}') == [ACCEPTED]
        assert await publish(peer, V1_TELEMETRY, b'{"c":1}') == [unknown]
        assert await publish(peer, V1_ATTRIBUTES, b'{"d":1}') == [unknown]
        assert await publish(peer, "v2/t", b'{"e":1}') == [ACCEPTED]
        assert values(session) == [{"a": 1}, {"b": 1}, {"e": 1}]
        assert session.told == [{"mqttTopic": "plant/7/data/x/y"}, {"mqttTopic": "plant/info"}, None]


async def test_a_profile_takes_no_topic_of_the_gateway_api():
    async with site() as here:
        here.inlet.profiles["default"] = profile(deviceTelemetryTopic="#")
        peer, session = await here.connect()
        assert await publish(peer, "v1/gateway/telemetry", b'{"a":1}') == []
        assert await publish(peer, "anything", b'{"a":1}') == [ACCEPTED]
        assert values(session) == [{"a": 1}]


@pytest.mark.parametrize(
    ("own", "subscribed", "pushed"),
    [("plant/set", "plant/set", "plant/set"), ("plant/+/set", "plant/7/set", "plant/7/set"),
     ("plant/+/set", "plant/+/set", V1_ATTRIBUTES), ("plant/set", V1_ATTRIBUTES, V1_ATTRIBUTES)],
)  # fmt: skip
async def test_pushes_go_to_the_subscribed_topic_of_the_profile(own, subscribed, pushed):
    async with site() as here:
        here.inlet.profiles["default"] = profile(deviceAttributesSubscribeTopic=own)
        peer, session = await here.connect()
        assert await subscribe(peer, subscribed) == [1]
        assert session.has_attributes
        session.channel.send_attributes({"a": 1})
        push = await peer.receive()
        assert (push.topic, push.payload) == (pushed, b'{"a":1}')
        peer.send(encode.unsubscribe(peer.version, 2, [subscribed]))
        await peer.ping()
        assert not session.has_attributes


@pytest.mark.parametrize(("version", "answer"), [(3, ACCEPTED), (4, ACCEPTED), (5, Ack(PUBACK, 9, 0x99))])
async def test_a_profile_may_have_bad_payloads_acknowledged(version, answer):
    async with site() as here:
        here.inlet.profiles["default"] = profile(sendAckOnValidationException=True)
        peer, _ = await here.connect(version)
        assert await publish(peer, V1_TELEMETRY, b"[1]") == [answer]
        assert await publish(peer, V1_TELEMETRY, b'{"a":1}') == [ACCEPTED]
        assert here.counters.get("broker.bad_payloads") == 1
        assert await publish(peer, V1_TELEMETRY, b"[1]", qos=0) == ([Disconnect(0x99)] if version == 5 else []) + [None]


async def test_a_change_of_the_profile_counts_from_the_next_packet_on():
    async with site() as here:
        peer, session = await here.connect(5)
        assert await publish(peer, V1_TELEMETRY, b'{"a":1}') == [ACCEPTED]
        here.inlet.profiles["default"] = profile(deviceTelemetryTopic="other")
        assert await publish(peer, V1_TELEMETRY, b'{"a":2}') == [Ack(PUBACK, 9, 0x90)]
        del here.inlet.profiles["default"]
        assert await publish(peer, V1_TELEMETRY, b'{"a":3}') == [ACCEPTED]
        assert values(session) == [{"a": 1}, {"a": 3}]


async def test_a_profile_of_the_configuration_counts_where_the_cloud_says_nothing():
    item = ProfileConfig(name="default", payload="protobuf", telemetry_schema=TELEMETRY, telemetry_topic="t")
    async with site(profiles=(item,)) as here:
        peer, session = await here.connect()
        assert await publish(peer, "t", b"\x08\x05") == [ACCEPTED]
        assert values(session) == [{"temp": 5}]
        here.inlet.profiles["default"] = profile()
        assert await publish(peer, V1_TELEMETRY, b'{"a":1}') == [ACCEPTED]


async def test_protobuf_payloads_become_what_json_would_be():
    async with site() as here:
        here.inlet.profiles["default"] = protobuf()
        peer, session = await here.connect(5)
        for topic in (V1_TELEMETRY, "v2/t", "v2/t/p"):
            assert await publish(peer, topic, b"\x08\x05\x12\x0242") == [ACCEPTED]
        assert await publish(peer, "v2/t/j", b'{"temp":6}') == [ACCEPTED]
        assert await publish(peer, "v2/a", b"\x0a\x03v1a") == [ACCEPTED]
        assert values(session) == [{"temp": 5, "state": 42}] * 3 + [{"temp": 6}, {"fw": "v1a"}]
        assert isinstance(session.posted[0][0], TsKv)
        assert await publish(peer, V1_TELEMETRY, b'{"temp":6}') == [Ack(PUBACK, 9, 0x99)]


async def test_json_is_understood_beside_protobuf_when_the_profile_says_so(caplog):
    async with site() as here:
        here.inlet.profiles["default"] = protobuf(enableCompatibilityWithJsonPayloadFormat=True)
        peer, session = await here.connect(5)
        for payload in (b"\x08\x05", b'{"temp":5}', b"{temp:5}"):
            assert await publish(peer, V1_TELEMETRY, payload) == [ACCEPTED]
        assert await publish(peer, "v1/devices/me/claim", b'{"secretKey":"k","durationMs":5}') == [ACCEPTED]
        assert await publish(peer, "v2/t/p", b'{"temp":5}') == [Ack(PUBACK, 9, 0x99)]
        assert values(session)[:3] == [{"temp": 5}] * 3
        assert session.posted[3] == ("claim", "k", 5)
    assert "not the protobuf message T" in caplog.text


async def test_the_fixed_messages_up_and_down():
    async with site() as here:
        here.inlet.profiles["default"] = protobuf()
        here.inlet.attributes = ({"a": 1, "b": True, "c": 1.5}, {"d": "x", "e": {"f": [1]}})
        peer, session = await here.connect()
        session.server_answer = '{"r":1}'
        now = str(here.clock.now_ms())
        assert await publish(peer, "v1/devices/me/claim", UP["claim"].from_json({"secret": "s", "ms": 5})) == [ACCEPTED]
        assert session.posted == [("claim", "s", 5)]

        peer.publish("v2/a/req/7", UP["keys"].from_json({"client": "a,b,c", "shared": "d,e"}), 1, 9)
        assert await peer.receive() == ACCEPTED
        answer = await peer.receive()
        assert answer.topic == "v2/a/res/7"
        found = DOWN["response"].to_json(answer.payload)
        assert session.asked == [(["a", "b", "c"], ["d", "e"])]
        assert (found["id"], {item["ts"] for item in found["client"] + found["shared"]}) == (7, {now})
        kinds = [(item["kv"]["key"], item["kv"]["type"]) for item in found["client"] + found["shared"]]
        assert kinds == [("a", 1), ("b", 0), ("c", 2), ("d", 3), ("e", 4)]
        texts = [item["kv"][name] for item, name in zip(found["client"] + found["shared"], "lbdsj", strict=True)]
        assert texts == ["1", True, 1.5, "x", '{"f":[1]}']

        peer.publish("v1/devices/me/rpc/request/3", UP["rpc"].from_json({"method": "m", "params": '{"p":1}'}), 1, 9)
        assert await peer.receive() == ACCEPTED
        answer = await peer.receive()
        assert DOWN["rpc"].to_json(answer.payload) == {"id": 3, "payload": '{"r":1}', "error": ""}
        assert session.calls == [(3, "m", {"p": 1})]

        await subscribe(peer, "v2/a/p")
        session.channel.send_attributes({"a": 1})
        session.channel.send_attributes_deleted(["x", "y"])
        pushes = [DOWN["update"].to_json((await peer.receive()).payload) for _ in range(2)]
        assert [(len(push["updated"]), push["deleted"]) for push in pushes] == [(1, []), (0, ["x", "y"])]


def call(params):
    return RpcRequest(device_id=None, method="set", params=params, request_id=1, expires_ms=0)


@pytest.mark.parametrize(("params", "text"), [({"a": 1}, '{"a":1}'), ("x", "x"), (5, "5"), (None, "null")])
async def test_calls_use_the_default_messages(params, text):
    async with site() as here:
        here.inlet.profiles["default"] = protobuf()
        peer, session = await here.connect()
        await subscribe(peer, "v1/devices/me/rpc/request/+")
        session.channel.send_rpc(4, call(params))
        request = await peer.receive()
        assert request.topic == "v1/devices/me/rpc/request/4"
        sent = Codec(DEFAULT_RPC_REQUEST).to_json(request.payload)
        assert sent == {"method": "set", "requestId": 4, "params": text}
        answer = Codec(DEFAULT_RPC_RESPONSE).from_json({"payload": "done"})
        assert await publish(peer, "v1/devices/me/rpc/response/4", answer) == [ACCEPTED]
        assert session.answers == [(4, '{"payload":"done"}')]


async def test_a_call_that_does_not_fit_the_schema_is_answered_and_nothing_else_stops():
    schema = HEAD + "message P { int32 level = 1; } message R { string method = 1; int32 requestId = 2; P params = 3; }"
    async with site() as here:
        here.inlet.profiles["default"] = protobuf(deviceRpcRequestProtoSchema=schema)
        peer, session = await here.connect()
        await subscribe(peer, "v2/r/req/+")
        assert await session.channel.send_rpc(0, call({"level": "high"})) == RpcResponse(error=RpcError.INTERNAL)
        session.channel.send_rpc(1, call({"level": 3, "other": 1}))
        sent = Codec(schema).to_json((await peer.receive()).payload)
        assert sent == {"method": "set", "requestId": 1, "params": {"level": 3}}
        assert here.counters.get("broker.calls_not_written") == 1


@pytest.mark.parametrize("is_json", [True, False])
async def test_v1_topics_down_may_stay_json(is_json):
    async with site() as here:
        here.inlet.profiles["default"] = protobuf(
            enableCompatibilityWithJsonPayloadFormat=True, useJsonPayloadFormatForDefaultDownlinkTopics=is_json
        )
        peer, session = await here.connect()
        for topic, expects_json in ((V1_ATTRIBUTES, is_json), ("v2/a", False), ("v2/a/j", True)):
            await subscribe(peer, topic)
            session.channel.send_attributes({"a": 1})
            push = await peer.receive()
            assert push.topic == topic
            assert (push.payload == b'{"a":1}') == expects_json


async def test_a_bad_schema_stops_only_the_payloads_it_would_have_read(caplog):
    bad = 'syntax = "proto3";\nmessage T {\n  Foo x = 1;\n}'
    async with site() as here:
        here.inlet.profiles["default"] = protobuf(deviceTelemetryProtoSchema=bad)
        peer, session = await here.connect(5)
        assert await publish(peer, V1_TELEMETRY, b"\x08\x05") == [Ack(PUBACK, 9, 0x99)]
        assert await publish(peer, V1_ATTRIBUTES, b"\x0a\x01x") == [ACCEPTED]
        assert await publish(peer, "v2/t/j", b'{"a":1}') == [ACCEPTED]
        assert values(session) == [{"fw": "x"}, {"a": 1}]
    assert "deviceTelemetryProtoSchema of the device profile cannot be used: line 3: type Foo" in caplog.text


async def test_settings_of_a_profile_that_make_no_sense_leave_the_usual_ones(caplog):
    async with site() as here:
        here.inlet.profiles["default"] = profile(
            deviceTelemetryTopic="a/#/b", deviceAttributesTopic=7, sendAckOnValidationException="yes"
        )
        peer, _ = await here.connect()
        assert await publish(peer, V1_TELEMETRY, b'{"a":1}') == [ACCEPTED]
        assert await publish(peer, V1_ATTRIBUTES, b'{"a":1}') == [ACCEPTED]
        assert await publish(peer, V1_ATTRIBUTES, b"[]") == [None]
    assert "deviceTelemetryTopic is no topic filter" in caplog.text


async def test_a_schema_is_compiled_once_for_all_devices_of_its_profile(monkeypatch):
    made = []
    from gateway.broker import protobuf as door

    monkeypatch.setattr(door, "parse_schema", lambda text, parse=door.parse_schema: made.append(text) or parse(text))
    async with site() as here:
        here.inlet.profiles["default"] = protobuf()
        peers = [(await here.connect(token=token))[0] for token in ("tok", "tok2")]
        answers = await asyncio.gather(*(publish(peer, "v2/t", b"\x08\x05") for peer in peers for _ in (1,)))
        assert answers == [[ACCEPTED]] * 2
        assert not isinstance(answers[0][0], Publish)
    assert made == [TELEMETRY]
