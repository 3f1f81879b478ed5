"""Rate limits on the wire: device API §1.3, §1.7, §1.16, gateway API §2.4, HTTP §3. Time stands still unless moved."""

import asyncio

import httpx
import orjson
import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack, Connack, Connect, Disconnect, Publish, Suback
from gateway.config import HttpConfig, RateLimitsConfig
from gateway.web import DeviceHttp
from tests.fakes.house import House
from tests.integration.broker_peer import site

TELEMETRY = "v1/devices/me/telemetry"
VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])


def limits(**texts):
    return RateLimitsConfig(**texts).rates()


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1])
async def test_device_rate_limit_exceeded(version, qos):
    """§1.7: 3.x close, no PUBACK; 5.0 DISCONNECT 0x83, close. What was taken before keeps its answer."""
    async with site("held", rates=limits(device_telemetry_messages="2:10")) as here:
        peer, session = await here.connect(version)
        for packet_id in (1, 2, 3):
            peer.publish(TELEMETRY, b'{"a":1}', qos, packet_id if qos else 0)
        peer.publish(TELEMETRY, b'{"late":1}', qos, 4 if qos else 0)
        await here.until(lambda: here.counters.get("broker.rate_limited") == 1)
        here.inlet.release()
        if qos:
            assert [await peer.receive() for _ in "12"] == [Ack(PUBACK, 1), Ack(PUBACK, 2)]
        if version == 5:
            assert await peer.receive() == Disconnect(0x83)
        assert await peer.receive() is None
        assert [items[0].values for items in session.posted] == [{"a": 1}] * 2


async def test_a_new_connection_begins_with_what_is_left_and_the_others_are_not_limited(caplog):
    async with site(rates=limits(device_telemetry_data_points="3:10")) as here:
        peer, _ = await here.connect()
        peer.publish(TELEMETRY, b'{"a":1,"b":2}', 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        for _ in range(2):
            peer, _ = await here.connect()
            peer.publish("v1/devices/me/attributes", b'{"a":1,"b":2}', 1, 1)
            assert await peer.receive() is None
        other, _ = await here.connect(token="tok2")
        other.publish(TELEMETRY, b'{"a":1,"b":2}', 1, 1)
        assert await other.receive() == Ack(PUBACK, 1)
        peer, _ = await here.connect()
        peer.publish(TELEMETRY, b'{"a":1}', 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
    (line,) = [text for text in caplog.messages if "too much" in text]
    assert "'pump'" in line
    assert "2 more is over rate_limits.device_telemetry_data_points 3:10" in line


@pytest.mark.parametrize(("version", "code"), [(3, 3), (4, 3), (5, 0x9F)])
async def test_rate_limit_hit_while_opening_the_session(version, code):
    """§1.3; the older session of the device stays."""
    async with site(rates=limits(device_messages="1:10")) as here:
        first, session = await here.connect(version)
        peer = await here.open(version)
        peer.send(encode.connect(Connect(version=version, user_name="tok", client_id="peer")))
        assert await peer.receive() == Connack(False, code)
        if version == 5:
            assert await peer.receive() == Disconnect(0x97)
        assert await peer.receive() is None
        assert session.is_open
        assert await first.ping() == []
        await here.clock.advance(10)
        await here.connect(version)
        assert here.counters.get("broker.rate_limited") == 1


async def test_subscribe_over_limit():
    """§1.16: SUBACK still granted, subscription silently not active; here it is counted."""
    async with site(rates=limits(device_messages="2:10")) as here:
        peer, session = await here.connect()
        peer.send(encode.subscribe(4, 1, [("v1/devices/me/attributes", 1), ("v1/devices/me/rpc/request/+", 1)]))
        assert await peer.receive() == Suback(1, [1, 1])
        assert (session.has_attributes, session.has_rpc) == (True, False)
        assert here.counters.get("broker.subscriptions_rate_limited") == 1


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("v1/devices/me/attributes/request/1", b"{}"),
        ("v1/devices/me/rpc/response/1", b"{}"),
        ("v1/devices/me/rpc/request/1", b'{"method":"m"}'),
        ("v1/devices/me/claim", b""),
        (TELEMETRY, b"{}"),
    ],
)
async def test_everything_else_is_one_regular_message(topic, payload):
    """§1.16: session open, request, RPC, claim. Telemetry without a data point is one, too."""
    async with site(rates=limits(device_messages="2:10")) as here:
        here.inlet.attributes = ({}, {})
        peer, _ = await here.connect(5)
        peer.publish(TELEMETRY, b'{"a":1}', 1, 1)  # this is not
        peer.publish(topic, payload, 1, 2)
        peer.publish(topic, payload, 1, 3)
        answers = []
        while not isinstance(packet := await peer.receive(), Disconnect):
            answers += [packet] * isinstance(packet, Ack)
        assert answers == [Ack(PUBACK, 1), Ack(PUBACK, 2)]
        assert packet == Disconnect(0x83)


async def test_get_session_limits_tells_them_and_costs_nothing():
    """§1.12: for a gateway `rateLimits` are those of its own messages, `gatewayRateLimits` those of its devices."""
    rates = limits(
        device_messages="7:1", gateway_own_messages="1:60", gateway_telemetry_messages="9:1,50:60",
        gateway_telemetry_data_points="99:1",
    )  # fmt: skip
    unlimited = dict.fromkeys(("messages", "telemetryMessages", "telemetryDataPoints"))
    async with site(rates=rates) as here:
        here.inlet.add_device("gw", "gw-tok", is_gateway=True)
        for token, told in (
            ("tok", {"rateLimits": unlimited | {"messages": "7:1"}}),
            (
                "gw-tok",
                {
                    "rateLimits": unlimited | {"messages": "1:60"},
                    "gatewayRateLimits": unlimited | {"telemetryMessages": "9:1,50:60", "telemetryDataPoints": "99:1"},
                },
            ),
        ):
            peer, _ = await here.connect(token=token)
            for _ in range(3):
                peer.publish("v1/devices/me/rpc/request/1", b'{"method":"getSessionLimits"}')
                answer = orjson.loads((await peer.receive()).payload)
                assert {key: value for key, value in answer.items() if key.endswith("ateLimits")} == told


@VERSIONS
async def test_rate_limit_on_a_sub_device(version):
    """§2.4, 5.0: PUBACK 0x97, close, plus `v1/gateway/disconnect` reason 150. 3.x: closed, and not acknowledged, for
    an acknowledged message is kept. The other devices of the packet are processed.
    """
    async with site("next_turn", rates=limits(sub_device_telemetry_messages="1:10")) as here:
        here.inlet.add_device("gw", "gw-tok", is_gateway=True)
        peer, _ = await here.connect(version, "gw-tok")
        peer.publish("v1/gateway/telemetry", b'{"A":[{"n":1}]}', 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        peer.publish("v1/gateway/telemetry", b'{"A":[{"n":2}],"B":[{"n":2}]}', 1, 2)
        if version == 5:
            told = await peer.receive()
            assert isinstance(told, Publish)
            assert (told.topic, orjson.loads(told.payload)) == ("v1/gateway/disconnect", {"device": "A", "reason": 150})
            assert [await peer.receive() for _ in "12"] == [Ack(PUBACK, 2, 0x97), Disconnect(0x97)]
        assert await peer.receive() is None
        said = {name: [items[0].values["n"] for items in here.inlet.sub(name).posted] for name in "AB"}
        assert said == {"A": [1], "B": [2]}
        assert here.counters.get("broker.gateway_rate_limited") == 1


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("attributes", b'{"B":{"a":1}}'),
        ("claim", b'{"B":{}}'),
        ("connect", b'{"device":"B"}'),
        ("rpc", b'{"device":"B","id":1,"data":1}'),
        ("attributes/request", b'{"id":1,"device":"B","client":true,"key":"k"}'),
    ],
)
async def test_devices_of_a_gateway_share_its_limits_and_the_gateway_itself_has_others(topic, body):
    rates = limits(gateway_messages="1:10", gateway_telemetry_messages="1:10")
    async with site("next_turn", rates=rates) as here:
        here.inlet.add_device("gw", "gw-tok", is_gateway=True)
        peer, session = await here.connect(5, "gw-tok")
        peer.publish("v1/gateway/telemetry", b'{"A":[{"n":1}]}', 1, 1)  # opens it, too: both are used up
        assert await peer.receive() == Ack(PUBACK, 1)
        peer.publish(TELEMETRY, b'{"own":1}', 1, 2)
        assert await peer.receive() == Ack(PUBACK, 2)
        peer.publish("v1/gateway/" + topic, body, 1, 3)
        assert orjson.loads((await peer.receive()).payload) == {"device": "B", "reason": 150}
        assert await peer.receive() == Ack(PUBACK, 3, 0x97)
        assert session.posted[0][0].values == {"own": 1}


async def test_over_http_what_is_posted_is_500_and_what_is_asked_for_429():
    """§3: 500, rate limit on a POST. Nothing is taken of it, the connection stays, and the text names the limit."""
    async with House() as house:
        house.add_device("Boiler", "secret")
        rates = limits(device_telemetry_data_points="2:10", device_messages="1:10")
        config = HttpConfig(host="127.0.0.1", port=0)
        room = DeviceHttp(config, house.inlet, house.clock, house.counters, rates=rates)
        serving = asyncio.create_task(room.serve())
        await asyncio.wait_for(room.ready.wait(), 10)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{room.port}/api/v1/secret") as client:
                assert (await client.post("/telemetry", content=b'{"a":1,"b":2}')).status_code == 200
                for call in ("/telemetry", "/attributes"):
                    over = await client.post(call, content=b'{"a":1}')
                    assert (over.status_code, over.headers["retry-after"]) == (500, "1")
                    assert over.text == "1 more is over rate_limits.device_telemetry_data_points 2:10"
                assert (await client.get("/attributes")).status_code == 200
                assert (await client.get("/attributes")).status_code == 429
                assert (await client.get("/rpc?timeout=1")).status_code == 429
                assert (await client.get("/attributes/updates?timeout=1")).status_code == 429
                for call, body in (("/claim", b""), ("/rpc/1", b"1"), ("/rpc", b'{"method":"m","params":1}')):
                    assert (await client.post(call, content=body)).status_code == 500
                assert house.counters.get("http.rate_limited") == 8
                assert len(house.rules.seen) == 1
        finally:
            serving.cancel()
            await asyncio.wait([serving])
