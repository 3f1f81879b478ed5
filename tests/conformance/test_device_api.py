"""ThingsBoard's MQTT device API, row by row, over real sockets.

What has a whole file of its own is not repeated: every shape of every payload and who gets in are in
`test_device_api_rows.py`, the acknowledgement matrix and calls are in
`tests/integration/test_broker_api.py`, rate limits in `test_rate_limits.py`, profiles and protobuf in `test_broker_profiles.py`, shapes and typing of
values in `tests/unit/domain/test_payloads.py`, deadlines and restarts of calls in `tests/unit/devices/test_rpc.py`.
"""

import pytest

from gateway.broker import encode
from gateway.broker.packets import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Ack,
    Connack,
    Connect,
    Publish,
    Suback,
    Unsuback,
)
from gateway.domain.rpc import RpcRequest
from tests.integration.broker_peer import site

TELEMETRY, ATTRIBUTES = "v1/devices/me/telemetry", "v1/devices/me/attributes"
V1 = ("v1/devices/me/telemetry", "v1/devices/me/attributes", "v1/devices/me/attributes/request/",
      "v1/devices/me/attributes/response/", "v1/devices/me/rpc/request/", "v1/devices/me/rpc/response/")  # fmt: skip
V2 = ("v2/t", "v2/a", "v2/a/req/", "v2/a/res/", "v2/r/req/", "v2/r/res/")
V2_JSON = ("v2/t/j", "v2/a/j", "v2/a/req/j/", "v2/a/res/j/", "v2/r/req/j/", "v2/r/res/j/")
SPELLINGS = pytest.mark.parametrize(
    ("telemetry", "attributes", "ask", "told", "call", "answer"), [V1, V2, V2_JSON], ids=["v1", "v2", "v2-json"]
)
VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])


def request(method="m", params=None):
    return RpcRequest(device_id=None, method=method, params=params, request_id=1, expires_ms=0)


async def subscribe(peer, *filters, qos=1):
    peer.send(encode.subscribe(peer.version, 3, [(name, qos) for name in filters]))
    answer = await peer.receive()
    assert isinstance(answer, Suback)
    return list(answer.codes)


# ── listener ──


@pytest.mark.parametrize(("client_id", "code"), [("a", 0), ("a" * 23, 0), ("", 2), ("a" * 24, 2)])
async def test_mqtt_3_1_wants_a_client_id_of_1_to_23_characters(client_id, code):
    async with site() as here:
        peer = await here.open(3)
        peer.send(encode.connect(Connect(version=3, user_name="tok", client_id=client_id)))
        assert await peer.receive() == Connack(False, code)
        assert len(here.inlet.opened) == (code == 0)
        if code:
            assert await peer.receive() is None


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("client_id", ["", "a" * 200, "späße/#+"])
async def test_later_versions_take_any_client_id(version, client_id):
    async with site() as here:
        assert await here.connect(version, client_id=client_id)


async def test_connack_of_5_0_says_what_may_be_sent_and_a_name_for_who_has_none():
    """A server says nothing (§1.1); the SDKs keep to the two limits where they are said (§1.12)."""
    async with site() as here:
        for client_id, length in (("c", 8), ("", 8 + 3 + 40)):
            peer = await here.open(5)
            peer.send(encode.connect(Connect(version=5, user_name="tok", client_id=client_id)))
            said = await peer.reader.readexactly(5 + length)
            assert said[2:] == bytes([0, 0, length]) + bytes.fromhex("21 03 e8 27 00 01 00 00") + said[13:]
            assert said[13:16] == (b"" if client_id else b"\x12\x00\x28")


@VERSIONS
async def test_qos_2_is_done_as_mqtt_defines_it(version):
    """The server answers PUBACK, on which QoS 2 clients fail; here the whole exchange works."""
    async with site() as here:
        peer, session = await here.connect(version)
        peer.publish(TELEMETRY, b'{"a":1}', 2, 7)
        assert await peer.receive() == Ack(PUBREC, 7)
        peer.send(encode.ack(PUBREL, 7, version))
        assert await peer.receive() == Ack(PUBCOMP, 7)
        assert len(session.posted) == 1


@pytest.mark.parametrize("topic", [TELEMETRY, ATTRIBUTES])
async def test_the_retain_flag_of_api_messages_means_nothing(topic):
    async with site() as here:
        peer, session = await here.connect()
        peer.send(encode.publish(4, topic, b'{"a":1}', 1, 1, is_retained=True))
        assert await peer.receive() == Ack(PUBACK, 1)
        await subscribe(peer, ATTRIBUTES)
        session.channel.send_attributes({"a": 2})
        push = await peer.receive()
        assert (push.payload, push.is_retained) == (b'{"a":2}', False)
        assert await peer.ping() == []


async def test_a_will_on_an_api_topic_is_accepted_and_never_published():
    async with site() as here:
        peer, session = await here.connect(will=Publish(TELEMETRY, b'{"dead":1}', 1))
        peer.writer.transport.abort()
        await here.until(lambda: not session.is_open)
        assert session.posted == []


@pytest.mark.parametrize(("asked", "granted"), [(0, 0), (1, 1), (2, 1)])
async def test_what_goes_down_has_the_granted_qos(asked, granted):
    async with site() as here:
        peer, session = await here.connect()
        assert await subscribe(peer, ATTRIBUTES, qos=asked) == [granted]
        session.channel.send_attributes({"a": 1})
        assert (await peer.receive()).qos == granted


# ── session ──


async def test_every_packet_counts_as_activity():
    async with site() as here:
        peer, session = await here.connect()
        for data in (
            encode.PINGREQ,
            encode.publish(4, "v1/nothing", b"x"),
            encode.subscribe(4, 1, [(ATTRIBUTES, 1)]),
            encode.unsubscribe(4, 2, [ATTRIBUTES]),
            encode.ack(PUBACK, 9),
        ):
            before = session.touches
            peer.send(data)
            await here.until(lambda before=before: session.touches > before)


async def test_a_new_session_of_a_device_begins_without_subscriptions():
    async with site() as here:
        old, older = await here.connect(is_clean=False)
        await subscribe(old, ATTRIBUTES, "v1/devices/me/rpc/request/+")
        _, newer = await here.connect(is_clean=False)
        await here.until(lambda: not older.is_open)
        assert (newer.has_attributes, newer.has_rpc) == (False, False)


# ── topics ──


@SPELLINGS
async def test_each_spelling_does_everything(telemetry, attributes, ask, told, call, answer):
    async with site() as here:
        here.inlet.attributes = ({"c": 1}, {"s": 2})
        peer, session = await here.connect()
        session.server_answer = '{"r":1}'
        assert await subscribe(peer, attributes, told + "+", call + "+", answer + "+") == [1] * 4
        peer.publish(telemetry, b'{"a":1}', 1, 1)
        peer.publish(attributes, b'{"b":2}', 1, 2)
        assert await peer.ping() == [Ack(PUBACK, 1), Ack(PUBACK, 2)]
        assert (session.posted[0][0].values, session.posted[1]) == ({"a": 1}, {"b": 2})

        peer.publish(f"{ask}5", b"{}")
        found = await peer.receive()
        assert (found.topic, found.payload) == (f"{told}5", b'{"client":{"c":1},"shared":{"s":2}}')
        peer.publish(f"{call}6", b'{"method":"m"}')
        reply = await peer.receive()
        assert (reply.topic, reply.payload) == (f"{answer}6", b'{"r":1}')
        assert session.calls == [(6, "m", None)]

        session.channel.send_attributes({"k": 1})
        session.channel.send_attributes_deleted(["k", "l"])
        session.channel.send_rpc(0, request("set", {"x": None}))
        down = [await peer.receive() for _ in range(3)]
        assert [(packet.topic, packet.payload) for packet in down] == [
            (attributes, b'{"k":1}'),
            (attributes, b'{"deleted":["k","l"]}'),
            (f"{call}0", b'{"method":"set","params":{"x":null}}'),
        ]
        peer.publish(f"{answer}0", b'{"ok":true}')
        await peer.ping()
        assert session.answers == [(0, '{"ok":true}')]


async def test_pushes_and_calls_follow_the_spelling_of_the_last_subscription_and_answers_that_of_their_request():
    async with site() as here:
        peer, session = await here.connect()
        session.server_answer = "1"
        await subscribe(peer, "v2/a", ATTRIBUTES, "v2/a/j", "v1/devices/me/rpc/request/+", "v2/r/req/+")
        session.channel.send_attributes({"a": 1})
        session.channel.send_rpc(1, request())
        assert [(await peer.receive()).topic for _ in range(2)] == ["v2/a/j", "v2/r/req/1"]
        for asked, told in ((V1[2], V1[3]), (V2[2], V2[3]), (V1[4], V1[5]), (V2_JSON[4], V2_JSON[5])):
            peer.publish(f"{asked}8", b'{"method":"m"}')
            assert (await peer.receive()).topic == f"{told}8"


# ── SUBSCRIBE, UNSUBSCRIBE ──

GRANTED = [
    *(family[1] for family in (V1, V2, V2_JSON)), "v2/a/p",
    *(family[at] + "+" for family in (V1, V2, V2_JSON) for at in (3, 4, 5)),
    "v2/a/res/p/+", "v2/r/req/p/+", "v2/r/res/p/+", "v2/fw/response/+/chunk/+", "v2/sw/response/+/chunk/+",
    "v2/fw/error", "v2/sw/error", "v1/gateway/attributes", "v1/gateway/rpc", "v1/gateway/attributes/response",
]  # fmt: skip
REFUSED = ["v1/devices/me/+", "v1/#", TELEMETRY, "v2/fw/response/+", "v1/devices/me/rpc/request/1", "v2/t/p", "$SYS/#"]


@VERSIONS
async def test_filters_stand_each_for_itself(version):
    no = 0x8F if version == 5 else 0x80
    async with site() as here:
        peer, _ = await here.connect(version)
        assert await subscribe(peer, *GRANTED) == [1] * len(GRANTED)
        assert await subscribe(peer, ATTRIBUTES, *REFUSED, "v2/a") == [1] + [no] * len(REFUSED) + [1]
        peer.send(encode.unsubscribe(version, 4, [ATTRIBUTES, ATTRIBUTES, REFUSED[0]]))
        assert await peer.receive() == Unsuback(4, [0, 0x11, 0x8F] if version == 5 else [])


@pytest.mark.parametrize("others", [0, 1])
async def test_pushes_end_with_the_last_of_the_subscriptions(others):
    async with site() as here:
        peer, session = await here.connect()
        await subscribe(peer, ATTRIBUTES, *["v2/a"] * others)
        peer.send(encode.unsubscribe(4, 4, [ATTRIBUTES]))
        await peer.receive()
        assert session.has_attributes == bool(others)


# ── attributes ──


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b"{}", ([], [])),
        (b'{"clientKeys":"a,b"}', (["a", "b"], None)),
        (b'{"sharedKeys":"a, b"}', (None, ["a", " b"])),
        (b'{"clientKeys":["a"],"sharedKeys":"b"}', (["a"], ["b"])),
    ],
)
async def test_keys_of_an_attribute_request(body, asked):
    async with site() as here:
        peer, session = await here.connect()
        peer.publish(f"{V1[2]}1", body)
        assert await peer.receive() == Publish(f"{V1[3]}1", b"{}", 1, 1)
        assert session.asked == [asked]


@pytest.mark.parametrize(
    ("found", "answer"),
    [(({}, {}), b"{}"), (({"a": 1}, {}), b'{"client":{"a":1}}'), (({}, {"b": "x"}), b'{"shared":{"b":"x"}}')],
)
async def test_a_scope_without_found_keys_is_left_out(found, answer):
    async with site() as here:
        here.inlet.attributes = found
        peer, _ = await here.connect()
        peer.publish(f"{V1[2]}2147483647", b"{}")
        assert await peer.receive() == Publish(f"{V1[3]}2147483647", answer, 1, 1)


@VERSIONS
async def test_ids_of_attribute_requests(version):
    """Negative: no answer. Beyond 32 bits: a bad payload."""
    async with site() as here:
        peer, _ = await here.connect(version)
        peer.publish(f"{V1[2]}-7", b"{}", 1, 1)
        assert await peer.ping() == [Ack(PUBACK, 1)]
        peer.publish(f"{V1[2]}2147483648", b"{}", 1, 2)
        assert await peer.ping() == ([Ack(PUBACK, 2, 0x99)] if version == 5 else [None])


# ── calls ──


@pytest.mark.parametrize(
    ("reply", "text"), [(b"{a:1}", '{"a":1}'), (b"5", "5"), (b"not json", '"not json"'), (b"", '""')]
)
async def test_any_reply_to_a_call_arrives(reply, text):
    async with site() as here:
        peer, session = await here.connect()
        peer.publish(f"{V1[5]}3", reply, 1, 1)
        assert await peer.ping() == [Ack(PUBACK, 1)]
        assert session.answers == [(3, text)]


async def test_a_call_without_params_says_null():
    async with site() as here:
        peer, session = await here.connect()
        await subscribe(peer, "v1/devices/me/rpc/request/+")
        session.channel.send_rpc(0, request())
        assert (await peer.receive()).payload == b'{"method":"m","params":null}'


async def test_the_negative_id_of_a_devices_own_call_comes_back():
    async with site() as here:
        peer, session = await here.connect()
        session.server_answer = "true"
        peer.publish(f"{V1[4]}-3", b'{"method":"m","params":[1]}')
        assert await peer.receive() == Publish(f"{V1[5]}-3", b"true", 1, 1)
        assert session.calls == [(-3, "m", [1])]
