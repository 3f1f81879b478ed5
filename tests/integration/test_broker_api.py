"""The device API byte by byte: CONNACK codes, the acknowledgement matrix, subscriptions, downlinks, limits."""

import asyncio
import logging
from typing import Any

import orjson
import pytest

from gateway.broker import MqttBroker, encode
from gateway.broker.packets import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Publish,
    Suback,
    Unsuback,
)
from gateway.config import BrokerConfig
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import TsKv
from gateway.errors import RejectedError, TransientError
from tests.integration.broker_peer import site

TELEMETRY = "v1/devices/me/telemetry"
ATTRIBUTES = "v1/devices/me/attributes"
CLOSED = None


def call(method="m", params=None):
    return RpcRequest(device_id=None, method=method, params=params, request_id=1, expires_ms=0)


# ── CONNECT ──


@pytest.mark.parametrize(
    ("fields", "code_3", "code_5"),
    [
        ({"user_name": "wrong"}, 5, 0x86),
        ({"user_name": "wrong", "password": b"s3cret"}, 5, 0x86),
        ({"client_id": "c"}, 2, 0x85),
        ({}, 5, 0x87),
    ],
)
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_refused_connections_get_their_code_and_are_closed(version, fields, code_3, code_5, caplog):
    caplog.set_level(logging.DEBUG)
    async with site() as here:
        peer = await here.open(version)
        if version == 3:  # which needs a client id
            fields, code_3 = {"client_id": "c"} | fields, 5 if "user_name" in fields else 2
        peer.send(encode.connect(Connect(version=version, **fields)))
        assert await peer.receive() == Connack(False, code_5 if version == 5 else code_3)
        if version == 5:
            assert await peer.receive() == Disconnect(0x87)
        assert await peer.receive() is CLOSED
        assert here.inlet.opened == []
    assert "s3cret" not in caplog.text
    assert "wrong'" not in caplog.text


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("is_clean", [True, False])
async def test_session_present_mirrors_the_clean_flag_before_5_0(version, is_clean):
    async with site() as here:
        peer = await here.open(version)
        peer.send(encode.connect(Connect(version=version, user_name="tok", is_clean=is_clean)))
        assert await peer.receive() == Connack(version == 4 and not is_clean, 0)


async def test_packets_behind_connect_in_the_same_bytes_are_handled():
    async with site() as here:
        peer = await here.open()
        publish = encode.publish(4, TELEMETRY, b'{"a":1}', 1, 7)
        peer.send(encode.connect(Connect(version=4, user_name="tok")) + publish + encode.PINGREQ)
        assert await peer.receive() == Connack(False, 0)
        assert await peer.receive() == Ack(PUBACK, 7)
        assert here.inlet.opened[0].posted == [[TsKv(here.clock.now_ms(), {"a": 1})]]
        assert here.inlet.opened[0].touches >= 1


async def test_an_unknown_level_gets_code_1_and_no_connect_first_is_closed():
    async with site() as here:
        peer = await here.open()
        peer.send(bytes.fromhex("10 0C 00 04 4D 51 54 54 06 02 00 3C 00 00"))
        assert await peer.receive() == Connack(False, 1)
        assert await peer.receive() is CLOSED
        for rubbish in (encode.PINGREQ, b"GET / HTTP/1.1\r\n\r\n"):
            peer = await here.open()
            peer.send(rubbish)
            assert await peer.receive() is CLOSED


async def test_who_does_not_finish_connect_is_closed():
    async with site(connect_timeout_s=10) as here:
        peer = await here.open()
        peer.send(b"\x10\x20\x00")
        await here.until(lambda: here.broker.connections() == 1)
        await here.clock.advance(9)
        assert here.broker.connections() == 1
        await here.clock.advance(3)
        assert await peer.receive() is CLOSED
        assert here.counters.get("broker.connect_timeouts") == 1


async def test_wrong_passwords_block_the_address_for_a_while(caplog):
    async with site(wrong_password_limit=3, block_s=60) as here:
        for _ in range(3):
            peer = await here.open()
            peer.send(encode.connect(Connect(version=4, user_name="guess-me")))
            assert await peer.receive() == Connack(False, 5)
        peer = await here.open()
        peer.send(encode.connect(Connect(version=4, user_name="tok")))
        assert await peer.receive() is CLOSED
        await here.clock.advance(61)
        await here.connect()
    assert caplog.text.count("blocked for 60 s") == 1
    assert "guess-me" not in caplog.text


async def test_the_number_of_connections_is_limited():
    async with site(max_connections=1) as here:
        peer, _ = await here.connect()
        late = await here.open()
        assert await late.receive() is CLOSED
        assert await peer.ping() == []


@pytest.mark.parametrize("version", [4, 5])
async def test_a_second_session_of_the_device_closes_the_first(version):
    async with site() as here:
        peer, session = await here.connect(version)
        newer, _ = await here.connect(version)
        if version == 5:
            assert await peer.receive() == Disconnect(0x8E)
        assert await peer.receive() is CLOSED
        await here.until(lambda: not session.is_open)
        assert await newer.ping() == []
        assert here.inlet.opened[-1].is_open


@pytest.mark.parametrize(("keepalive_s", "silence_s", "reason"), [(10, 16, 0x8D), (0, 602, 0x83), (1000, 602, 0x83)])
async def test_silence_ends_a_session(keepalive_s, silence_s, reason):
    async with site() as here:
        peer, _ = await here.connect(5, keepalive_s=keepalive_s)
        await here.clock.advance(silence_s - 4)
        assert await peer.ping() == []
        await here.clock.advance(silence_s)
        assert await peer.receive() == Disconnect(reason)
        assert await peer.receive() is CLOSED


# ── the acknowledgement matrix ──

STAY, NOTHING = "stay", "nothing"
BAD = [b"not json at all", b"[1]", b"", b'{"a":1}}']
FATAL = [
    (TELEMETRY, b'{"ts":null,"values":{"a":1}}'),
    ("v1/devices/me/rpc/request/1", b'{"params":1}'),
    ("v1/devices/me/rpc/request/x", b'{"method":"m"}'),
]
CASES = (
    [(topic, payload, "ok") for topic, payload in [
        (TELEMETRY, b'{"a":1}'), (TELEMETRY, b"{}"), (TELEMETRY, b'[{"a":1}]'), ("v2/t", b'{"a":1}'),
        ("v2/t/j", b"{a:1}"), (ATTRIBUTES, b'{"a":1}'), ("v2/a", b'{"a":1}'), ("v1/devices/me/rpc/response/1", b"{}"),
        ("v1/devices/me/attributes/request/1", b"{}"), ("v1/devices/me/rpc/request/1", b'{"method":"getTime"}'),
    ]]
    + [(TELEMETRY, payload, "bad") for payload in BAD]
    + [("v2/t/p", b"x", "bad"), ("v2/a/p", b"x", "bad"), ("v2/a/req/p/1", b"", "ok"), ("v2/r/req/p/1", b"", "fatal")]
    + [(ATTRIBUTES, b"[]", "bad"), ("v1/devices/me/attributes/request/x", b"{}", "bad")]
    + [(topic, payload, "fatal") for topic, payload in FATAL]
    + [(topic, b"x", "unknown") for topic in ("v1/x", "v2/t/x", "$SYS/x", "/provision/request")]
    + [("v1/devices/me/claim", payload, kind) for payload, kind in ((b"", "ok"), (b"{}", "ok"), (b"[]", "bad"))]
    + [("v1/gateway/telemetry", b"{}", "silent"), (TELEMETRY, b"[]", "silent")]
)  # fmt: skip


def expected(kind: str, version: int, qos: int):
    """Answer or None, DISCONNECT reason or None, and whether the connection stays."""
    answer = {1: PUBACK, 2: PUBREC}.get(qos)
    is_v5 = version == 5
    if kind == "ok":
        return answer and Ack(answer, 9), None, True
    if kind == "unknown":
        return answer and Ack(answer, 9, 0x90 if is_v5 else 0), None, True
    if kind == "silent":
        return None, None, True
    if kind == "bad" and is_v5 and qos:
        return Ack(answer, 9, 0x99), None, True
    return None, ({"bad": 0x99, "fatal": 0x8B}[kind] if is_v5 else None), False


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_the_acknowledgement_matrix(version, qos):
    async with site() as here:
        for topic, payload, kind in CASES:
            peer, _ = await here.connect(version, "tok")
            answer, reason, stays = expected(kind, version, qos)
            peer.publish(topic, payload, qos, 9 if qos else 0)
            seen = [packet for packet in await peer.ping() if not isinstance(packet, Publish)]
            wanted = (
                ([answer] if answer else []) + ([Disconnect(reason)] if reason else []) + ([] if stays else [CLOSED])
            )
            assert seen == wanted, (topic, payload)


async def test_a_puback_comes_when_the_receipt_is_done_and_in_the_order_of_the_publishes():
    async with site("held") as here:
        peer, session = await here.connect()
        for packet_id in (5, 6, 7):
            peer.publish(TELEMETRY, b'{"a":%d}' % packet_id, 1, packet_id)
        assert await peer.ping() == []
        assert [items[0].values["a"] for items in session.posted] == [5, 6, 7]
        here.inlet.held[1].set_result(None)
        assert await peer.ping() == []
        here.inlet.held[0].set_result(None)
        here.inlet.held[2].set_result(None)
        assert await peer.ping() == [Ack(PUBACK, 5), Ack(PUBACK, 6), Ack(PUBACK, 7)]


@pytest.mark.parametrize("version", [4, 5])
async def test_a_message_that_can_never_be_stored_ends_the_connection(version):
    async with site("held") as here:
        peer, _ = await here.connect(version)
        peer.publish(TELEMETRY, b'{"a":1}', 1, 1)
        peer.publish(TELEMETRY, b'{"a":2}', 1, 2)
        await peer.ping()
        here.inlet.release(1)
        here.inlet.release(1, RejectedError("too large"))
        assert await peer.receive() == Ack(PUBACK, 1)
        if version == 5:
            assert await peer.receive() == Disconnect(0x83)
        assert await peer.receive() is CLOSED


async def test_qos_2_is_taken_once_however_often_it_is_sent():
    async with site("held") as here:
        peer, session = await here.connect(5)
        peer.publish(TELEMETRY, b'{"a":1}', 2, 3)
        peer.publish(TELEMETRY, b'{"a":1}', 2, 3)
        assert await peer.ping() == []
        here.inlet.release()
        assert await peer.receive() == Ack(PUBREC, 3)
        peer.publish(TELEMETRY, b'{"a":1}', 2, 3)
        assert await peer.receive() == Ack(PUBREC, 3)
        peer.send(encode.ack(PUBREL, 3))
        assert await peer.receive() == Ack(PUBCOMP, 3)
        peer.send(encode.ack(PUBREL, 3))
        assert await peer.receive() == Ack(PUBCOMP, 3, 0x92)
        assert len(session.posted) == 1
        peer.publish(TELEMETRY, b'{"a":1}', 2, 3)
        await peer.ping()
        assert len(session.posted) == 2


async def test_a_bad_payload_behind_good_ones_does_not_take_their_acknowledgement():
    async with site("held") as here:
        peer, _ = await here.connect()
        peer.publish(TELEMETRY, b'{"a":1}', 1, 1)
        peer.publish(TELEMETRY, b"{", 1, 2)
        await here.until(lambda: here.counters.get("broker.bad_payloads") == 1)
        here.inlet.release()
        assert await peer.receive() == Ack(PUBACK, 1)
        assert await peer.receive() is CLOSED


async def test_bad_payloads_are_logged_once_whatever_is_sent_between_them(caplog):
    async with site() as here:
        peer, _ = await here.connect(5)
        for payload in (b'{"s3cret', b'{"s3cret', b"{}", b'{"s3cret'):
            peer.publish(TELEMETRY, payload, 1, 1)
        await peer.ping()
        assert here.counters.get("broker.bad_payloads") == 3
    assert caplog.text.count("device 'pump': bad payload on v1/devices/me/telemetry") == 1
    assert "s3cret" not in caplog.text


async def test_keys_that_no_server_keeps_are_left_out_counted_and_named(caplog):
    async with site() as here:
        peer, session = await here.connect()
        peer.publish(TELEMETRY, b'{"%s":1,"":2," ":3,"good":4}' % (b"k" * 256), 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        assert [dict(item.values) for item in session.posted[0]] == [{"good": 4}]
        assert here.counters.get("broker.keys_left_out") == 3
    assert "a key of 256 characters is left out" in caplog.text


async def test_a_device_whose_messages_are_slow_in_the_rules_lets_the_others_have_their_turn_between_them():
    async with site() as here:
        peer, session = await here.connect()
        happened: list[str] = []
        take = session.post_telemetry

        def slow(items: Any, metadata: Any = None) -> Any:
            happened.append("slow")
            here.clock._monotonic_s += 0.3
            rounds(5)
            return take(items)

        def rounds(left: int) -> None:  # from the socket to the disk and back takes several
            if left:
                asyncio.get_running_loop().call_soon(rounds, left - 1)
            else:
                happened.append("other")

        session.post_telemetry = slow
        peer.send(b"".join(encode.publish(4, TELEMETRY, b'{"a":1}', 1, number) for number in (1, 2, 3)))
        for number in (1, 2, 3):
            assert await peer.receive() == Ack(PUBACK, number)
        assert happened[:5] == ["slow", "other", "slow", "other", "slow"]


# ── limits ──


@pytest.mark.parametrize("version", [4, 5])
async def test_a_packet_over_the_limit_closes_the_connection(version):
    async with site() as here:
        peer, session = await here.connect(version)
        peer.publish(TELEMETRY, b'{"a":"%s"}' % (b"x" * 70_000), 1, 1)
        if version == 5:
            assert await peer.receive() == Disconnect(0x81)
        assert await peer.receive() is CLOSED
        assert session.posted == []


async def test_a_megabyte_is_fine_when_the_limit_allows_it():
    async with site(max_packet_bytes=2_000_000) as here:
        peer, session = await here.connect()
        peer.publish(TELEMETRY, b'{"a":"%s"}' % (b"x" * 1_000_000), 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        assert len(session.posted[0][0].values["a"]) == 1_000_000


async def test_reading_stops_at_the_limit_of_unanswered_publishes():
    async with site("held", max_inflight=4) as here:
        peer, session = await here.connect()
        for packet_id in range(1, 11):
            peer.publish(TELEMETRY, b'{"a":1}', 1, packet_id)
        await here.until(lambda: len(session.posted) == 4)
        await asyncio.sleep(0.02)
        assert len(session.posted) == 4
        here.inlet.release(2)
        await here.until(lambda: len(session.posted) > 4)
        assert len(here.inlet.held) <= 4
        while len(session.posted) < 10 or here.inlet.held:
            here.inlet.release()
            await asyncio.sleep(0.002)
        assert [await peer.receive() for _ in range(10)] == [Ack(PUBACK, n) for n in range(1, 11)]


async def test_reading_stops_while_too_much_waits_for_the_disk():
    async with site() as here:
        peer, session = await here.connect()
        peer.publish(TELEMETRY, b'{"a":1}', 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        here.inlet.calm.clear()
        peer.publish(TELEMETRY, b'{"a":2}', 1, 2)
        await asyncio.sleep(0.02)
        assert len(session.posted) == 1
        await here.clock.advance(1000)
        here.inlet.calm.set()
        assert await peer.receive() == Ack(PUBACK, 2)


async def test_a_device_that_does_not_read_is_closed():
    async with site() as here:
        peer, session = await here.connect()
        for _ in range(300):
            session.channel.send_attributes({"k": "x" * 100_000})
            await asyncio.sleep(0)
        await here.until(lambda: here.broker.connections() == 0)
        assert here.counters.get("broker.slow_readers_closed") == 1
        assert not session.is_open
        assert not peer.writer.is_closing()


# ── subscriptions and downlinks ──


@pytest.mark.parametrize(("version", "no"), [(4, 0x80), (5, 0x8F)])
async def test_only_the_known_filters_are_granted(version, no):
    async with site(local_topics=False) as here:
        peer, session = await here.connect(version)
        filters = [(ATTRIBUTES, 2), ("#", 1), ("v1/devices/me/rpc/request/+", 0), ("v1/devices/me/+", 1)]
        filters += [("v2/fw/response/+", 0), ("v1/gateway/rpc", 1), ("plant/x", 0)]
        peer.send(encode.subscribe(version, 4, filters))
        assert await peer.receive() == Suback(4, [1, no, 0, no, no, 1, no])
        assert session.has_attributes
        assert session.has_rpc
        assert session.confirms_rpc
        peer.send(encode.unsubscribe(version, 5, [ATTRIBUTES, ATTRIBUTES, "#", "v1/devices/me/+"]))
        assert await peer.receive() == Unsuback(5, [0, 0x11, 0x11, 0x8F] if version == 5 else [])
        assert not session.has_attributes
        assert session.has_rpc


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [(ATTRIBUTES, ATTRIBUTES), ("v2/a", "v2/a"), ("v2/a/j", "v2/a/j")],
)
@pytest.mark.parametrize("qos", [0, 1])
async def test_attribute_pushes_follow_the_last_subscription(topic_filter, topic, qos):
    async with site() as here:
        peer, session = await here.connect()
        peer.send(encode.subscribe(4, 1, [("v2/a", 1)]) + encode.subscribe(4, 2, [(topic_filter, qos)]))
        await peer.ping()
        session.channel.send_attributes({"limit": 5})
        session.channel.send_attributes_deleted(["old"])
        pushes = await peer.ping()
        assert [(p.topic, p.payload, p.qos) for p in pushes] == [
            (topic, b'{"limit":5}', qos),
            (topic, b'{"deleted":["old"]}', qos),
        ]


@pytest.mark.parametrize("version", [4, 5])
async def test_a_call_is_delivered_when_the_device_acknowledges_it(version):
    async with site() as here:
        peer, session = await here.connect(version)
        peer.send(encode.subscribe(version, 1, [("v1/devices/me/rpc/request/+", 1)]))
        await peer.ping()
        delivered = session.channel.send_rpc(3, call("setSpeed", {"rpm": 5}))
        push = await peer.receive()
        assert (push.topic, push.payload) == (
            "v1/devices/me/rpc/request/3",
            b'{"method":"setSpeed","params":{"rpm":5}}',
        )
        assert not delivered.done()
        peer.send(encode.ack(PUBACK, push.packet_id))
        assert await delivered is None
        peer.publish("v1/devices/me/rpc/response/3", b'{"ok":true}', 1, 8)
        assert await peer.receive() == Ack(PUBACK, 8)
        assert session.answers == [(3, '{"ok":true}')]


async def test_a_call_with_qos_0_is_delivered_when_sent_and_v2_follows_its_subscription():
    async with site() as here:
        peer, session = await here.connect()
        peer.send(encode.subscribe(4, 1, [("v2/r/req/+", 0)]))
        await peer.ping()
        assert await session.channel.send_rpc(0, call()) is None
        assert await peer.receive() == Publish("v2/r/req/0", b'{"method":"m","params":null}')


async def test_a_call_that_the_device_did_not_acknowledge_fails_with_its_connection():
    async with site() as here:
        peer, session = await here.connect()
        peer.send(encode.subscribe(4, 1, [("v1/devices/me/rpc/request/+", 1)]))
        await peer.ping()
        delivered = session.channel.send_rpc(3, call())
        peer.writer.close()
        with pytest.raises(TransientError):
            await delivered
        with pytest.raises(TransientError):
            await session.channel.send_rpc(4, call())


async def test_attribute_requests_are_answered_without_a_subscription_in_their_own_spelling():
    async with site() as here:
        peer, session = await here.connect()
        session.attributes = ({"fw": "1.0"}, {})
        peer.publish("v2/a/req/j/12", b'{"clientKeys":"fw,x","sharedKeys":"y"}', 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        assert await peer.receive() == Publish("v2/a/res/j/12", b'{"client":{"fw":"1.0"}}', 1, 1)
        assert session.asked == [(["fw", "x"], ["y"])]
        peer.publish("v1/devices/me/attributes/request/-1", b"{}", 1, 2)
        assert await peer.ping() == [Ack(PUBACK, 2)]


async def test_client_rpc_and_session_limits():
    async with site() as here:
        peer, session = await here.connect()
        session.server_answer = '{"time":1}'
        peer.publish("v1/devices/me/rpc/request/4", b'{"method":"getTime"}', 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        assert await peer.receive() == Publish("v1/devices/me/rpc/response/4", b'{"time":1}', 1, 1)
        session.server_answer = None
        peer.publish("v2/r/req/5", b'{"method":"getSessionLimits"}', 0)
        assert await peer.receive() == Publish("v2/r/res/5", b'{"error":"timeout"}', 1, 2)
        peer.publish("v1/devices/me/rpc/request/6", b'{"method":"getSessionLimits","params":{"timeout":5000}}', 0)
        limits = orjson.loads((await peer.receive()).payload)
        assert limits["maxPayloadSize"] == 65_536
        assert limits["maxInflightMessages"] == 100
        assert set(limits["rateLimits"]) == {"messages", "telemetryMessages", "telemetryDataPoints"}
        assert "gatewayRateLimits" not in limits
        assert [method for _, method, _ in session.calls] == ["getTime", "getSessionLimits"]


@pytest.mark.parametrize(("reason", "code"), [("not_authorized", 0x98), ("shutdown", 0x8B)])
async def test_the_device_room_can_end_a_connection(reason, code):
    async with site() as here:
        peer, session = await here.connect(5)
        session.channel.close(reason)
        assert await peer.receive() == Disconnect(code)
        assert await peer.receive() is CLOSED
        await here.until(lambda: not session.is_open)


async def test_shutdown_says_goodbye():
    async with site() as here:
        peer, session = await here.connect(5)
    assert await peer.receive() == Disconnect(0x8B)
    assert await peer.receive() is CLOSED
    assert not session.is_open
    assert here.broker.connections() == 0


async def test_a_port_in_use_is_an_outage_with_a_clear_text():
    async with site() as here:
        config = BrokerConfig(host="127.0.0.1", port=here.broker.port)
        second = MqttBroker(config, here.inlet, here.clock, here.counters)
        with pytest.raises(TransientError, match=f"127.0.0.1 port {here.broker.port}.*set broker.port"):
            await second.serve()
