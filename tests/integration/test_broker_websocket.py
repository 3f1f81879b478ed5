"""MQTT over WebSocket: what a browser or a paho client does, and what goes wrong frame by frame."""

import asyncio
import logging
import threading

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.broker import encode
from gateway.broker.packets import Connect
from tests.integration.broker_peer import site
from tests.integration.broker_web import WebPeer, frame, request

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CONNECT = encode.connect(Connect(version=4, user_name="tok"))
CONNACK = b"\x20\x02\x00\x00"
PUBLISH = encode.publish(4, "v1/devices/me/telemetry", b'{"t":1}', 1, 7)
PUBACK = b"\x40\x02\x00\x07"


@pytest.fixture
async def here():
    async with site(websocket_port=0) as place:
        yield place


@pytest.fixture
async def peer(here):
    peer = await WebPeer.open(here.broker.websocket_port)
    yield peer
    peer.close()


async def test_each_listener_has_a_line_in_the_log(caplog):
    with caplog.at_level(logging.INFO):
        async with site(websocket_port=0) as here:
            ports = here.broker.port, here.broker.websocket_port
    assert [line for line in caplog.messages if line.startswith("listening for")] == [
        f"listening for MQTT on 127.0.0.1 port {ports[0]}",
        f"listening for MQTT over WebSocket on 127.0.0.1 port {ports[1]}",
    ]


def publish_with_paho(port, version):
    acknowledged = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, transport="websockets", protocol=version)
    client.username_pw_set("tok")
    client.on_connect = lambda c, *_: c.publish("v1/devices/me/telemetry", '{"t":1}', qos=1)
    client.on_publish = lambda *_: acknowledged.set()
    client.connect("localhost", port)
    client.loop_start()
    try:
        assert acknowledged.wait(5)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize("version", [mqtt.MQTTv311, mqtt.MQTTv5])
async def test_paho_publishes_over_websocket(here, version):
    await asyncio.to_thread(publish_with_paho, here.broker.websocket_port, version)
    assert here.inlet.opened[0].posted[0][0].values == {"t": 1}
    await here.until(lambda: here.broker.connections() == 0)


async def test_packets_need_not_end_where_frames_end(here, peer):
    answer = await peer.shake_hands()
    assert answer.startswith("HTTP/1.1 101 ")
    assert "sec-websocket-protocol: mqtt\r\n" in answer.lower()
    stream = CONNECT + PUBLISH
    peer.send(frame(BINARY, stream[:5]) + frame(BINARY, stream[5:9], fin=False) + frame(PING, b"still there?"))
    assert await peer.read() == (PONG, b"still there?")
    peer.send(frame(CONT, stream[9:]))
    received = b""
    while len(received) < 8:
        opcode, payload = await peer.read()
        assert opcode == BINARY
        received += payload
    assert received == CONNACK + PUBACK


async def test_what_was_sent_before_the_goodbye_is_taken(here, peer):
    await peer.shake_hands()
    peer.send(frame(BINARY, CONNECT + PUBLISH) + frame(CLOSE, b"\x03\xe8"))
    await here.until(lambda: here.broker.connections() == 0)
    assert here.inlet.opened[0].posted[0][0].values == {"t": 1}


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("/other"), "404"),
        (request(Sec_WebSocket_Protocol=None), "400"),
        (request(Sec_WebSocket_Protocol="soap"), "400"),
        (request(Sec_WebSocket_Version="8"), "400"),
        (request(Sec_WebSocket_Key="short"), "400"),
        (request(Sec_WebSocket_Key=None), "400"),
        (request(Upgrade=None), "426"),
        (b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ab\r\n\r\n", ""),
        (b"GET /mqtt HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n", ""),
    ],
)
async def test_handshakes_that_are_none(here, peer, raw, status):
    assert (await peer.shake_hands(raw))[9:12] == status
    assert await peer.reader.read() == b"" or status
    await here.until(lambda: here.broker.connections() == 0)
    names = here.counters.all()
    assert names.get("broker.websocket_refused", 0) + names.get("broker.websocket_errors", 0) >= 1


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(TEXT, b"hello"), 1003),
        (frame(BINARY, CONNECT, mask=False), 1002),
        (frame(CONT, CONNECT), 1002),
        (frame(BINARY, CONNECT, reserved=0x40), 1002),
        (frame(3, b""), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(BINARY, b"", fin=False) + frame(BINARY, CONNECT), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"mask", 1009),
    ],
)
async def test_frames_against_the_rules_end_with_their_code(here, peer, raw, code):
    await peer.shake_hands()
    peer.send(raw)
    opcode, payload = await peer.read()
    assert opcode == CLOSE
    assert int.from_bytes(payload[:2], "big") == code
    await here.until(lambda: here.broker.connections() == 0)


async def test_pages_of_other_origins_stay_outside():
    async with site(websocket_port=0, websocket_origins=["https://plant.example"]) as here:
        for headers, status in (
            ({"Origin": "https://evil.example"}, "403"),
            ({"Origin": "https://plant.example"}, "101"),
            ({}, "101"),
        ):
            peer = await WebPeer.open(here.broker.websocket_port)
            assert (await peer.shake_hands(request(**headers)))[9:12] == status
            peer.close()


async def test_a_handshake_that_does_not_end_is_closed_in_time(here, peer):
    peer.send(b"GET /mqtt HTTP/1.1\r\nHost:")
    await here.until(lambda: here.broker.connections() == 1)
    await here.clock.advance(12)
    await here.until(lambda: here.broker.connections() == 0)
    assert here.counters.get("broker.connect_timeouts") == 1


async def test_half_a_frame_counts_as_half_a_packet(here, peer):
    await peer.shake_hands()
    peer.send(frame(BINARY, CONNECT + b"\x00" * 30_000)[:20_000])
    await here.until(lambda: here.broker.partial_bytes() > 19_000)
    peer.close()
    await here.until(lambda: here.broker.partial_bytes() == 0)


async def test_the_broker_says_goodbye_and_waits_for_the_answer(here, peer):
    await peer.shake_hands()
    peer.send(frame(BINARY, CONNECT))
    assert await peer.read() == (BINARY, CONNACK)
    peer.send(frame(BINARY, b"\xe0\x00"))  # DISCONNECT
    opcode, _ = await peer.read()
    assert opcode == CLOSE
    assert here.broker.connections() == 1
    peer.send(frame(CLOSE, b"\x03\xe9"))
    assert await peer.read() is None
    await here.until(lambda: here.broker.connections() == 0)
