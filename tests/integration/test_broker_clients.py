"""Foreign clients, unchanged, against the broker."""

import asyncio
import json
import os
from pathlib import Path

import aiomqtt
import gmqtt
import paho.mqtt.client as paho
import pytest

from gateway.domain.rpc import RpcRequest
from tests.integration.broker_peer import PATIENCE_S, site

TELEMETRY = "v1/devices/me/telemetry"
ROOT = Path(__file__).parents[2]


class PahoDevice:
    """paho's client on its own thread; answers come back to the loop."""

    def __init__(self, port: int, version: int) -> None:
        loop = asyncio.get_running_loop()
        self.messages: asyncio.Queue = asyncio.Queue()
        self.published: asyncio.Queue = asyncio.Queue()
        self.ended: asyncio.Queue = asyncio.Queue()
        self.subscribed: asyncio.Queue = asyncio.Queue()

        def post(queue):
            return lambda *args: loop.call_soon_threadsafe(queue.put_nowait, args)

        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=version, reconnect_on_failure=False)
        self.client.username_pw_set("tok")
        self.client.on_message = post(self.messages)
        self.client.on_publish = post(self.published)
        self.client.on_disconnect = post(self.ended)
        self.client.on_subscribe = post(self.subscribed)
        self.port = port

    async def __aenter__(self):
        await asyncio.to_thread(self.client.connect, "127.0.0.1", self.port)
        self.client.loop_start()
        return self

    async def __aexit__(self, *_):
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)


async def get(queue):
    async with asyncio.timeout(PATIENCE_S):
        return await queue.get()


@pytest.mark.parametrize("version", [paho.MQTTv31, paho.MQTTv311, paho.MQTTv5])
async def test_paho_publishes_and_gets_its_downlinks(version):
    async with site("next_turn") as here, PahoDevice(here.broker.port, version) as device:
        for qos in (1, 2):
            device.client.publish(TELEMETRY, '{"t": 21.5}', qos)
            _, _, _, reason, _ = await get(device.published)
            assert reason == 0
        device.client.subscribe([("v1/devices/me/attributes", 1), ("v1/devices/me/rpc/request/+", 1)])
        await get(device.subscribed)
        session = here.inlet.opened[0]
        session.channel.send_attributes({"limit": 5})
        assert (await get(device.messages))[2].payload == b'{"limit":5}'
        call = RpcRequest(device_id=None, method="m", params=1, request_id=1, expires_ms=0)
        async with asyncio.timeout(PATIENCE_S):
            await session.channel.send_rpc(0, call)
        assert (await get(device.messages))[2].topic == "v1/devices/me/rpc/request/0"
        assert [items[0].values for items in session.posted] == [{"t": 21.5}, {"t": 21.5}]


async def test_paho_5_sees_the_reason_codes():
    async with site() as here, PahoDevice(here.broker.port, paho.MQTTv5) as device:
        device.client.publish(TELEMETRY, "{", 1)
        assert (await get(device.published))[3].value == 0x99
        device.client.publish("v1/devices/me/nothing", "{}", 1)
        assert (await get(device.published))[3].value == 0x90
        device.client.publish(TELEMETRY, "{", 0)
        await get(device.published)
        assert (await get(device.ended))[3].value == 0x99


async def test_paho_3_is_closed_for_a_bad_payload():
    async with site() as here, PahoDevice(here.broker.port, paho.MQTTv311) as device:
        device.client.publish(TELEMETRY, "{", 1)
        _, _, flags, _, _ = await get(device.ended)
        assert not flags.is_disconnect_packet_from_server
        assert device.published.empty()


async def test_aiomqtt():
    async with site() as here, aiomqtt.Client("127.0.0.1", here.broker.port, username="tok") as client:
        await client.publish(TELEMETRY, '{"a":1}', qos=1)
        await client.subscribe("v1/devices/me/attributes")
        here.inlet.opened[0].channel.send_attributes({"b": 2})
        async with asyncio.timeout(PATIENCE_S):
            message = await anext(aiter(client.messages))
        assert message.payload == b'{"b":2}'
        assert here.inlet.opened[0].posted[0][0].values == {"a": 1}


async def test_gmqtt():
    async with site() as here:
        client = gmqtt.Client("some-id", clean_session=True)
        client.set_auth_credentials("tok", None)
        await client.connect("127.0.0.1", here.broker.port)
        client.publish(TELEMETRY, {"a": 1}, qos=1)
        await here.until(lambda: here.inlet.opened[0].posted)
        assert here.inlet.opened[0].posted[0][0].values == {"a": 1}
        await client.disconnect()
        await here.until(lambda: here.broker.connections() == 0)


@pytest.mark.server  # its environment is made by `make test` only
async def test_the_vendors_sdk():
    python = Path(os.environ.get("EDGE_GATEWAY_TB_PYTHON") or ROOT / ".venv-tb" / "bin" / "python")
    if not python.is_file():
        pytest.fail(
            f"{python} does not exist: this test runs the vendor's SDK in an environment of its own. "
            "Make one (python -m venv .venv-tb && .venv-tb/bin/pip install tb-mqtt-client), "
            "or name its python in EDGE_GATEWAY_TB_PYTHON."
        )
    async with site("next_turn") as here:
        here.inlet.attributes = ({"fw": "2.1"}, {"limit": 5})
        process = await asyncio.create_subprocess_exec(
            str(python),
            str(Path(__file__).parent / "broker_sdk.py"),
            str(here.broker.port),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(30):
                await here.until(lambda: here.inlet.opened and here.inlet.opened[0].has_rpc)
                session = here.inlet.opened[0]
                await here.until(lambda: len(session.posted) == 2)
                await here.until(lambda: session.asked)
                session.channel.send_attributes({"limit": 6})
                call = RpcRequest(device_id=None, method="setSpeed", params={"rpm": 5}, request_id=1, expires_ms=0)
                await session.channel.send_rpc(0, call)
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        assert json.loads(output.decode().strip().splitlines()[-1]) == {
            "telemetry": True,
            "posted": True,
            "attributes": {"client": {"fw": "2.1"}, "shared": {"limit": 5}},
            "push": {"limit": 6},
            "rpc": {"method": "setSpeed", "params": {"rpm": 5}},
            "in_time": [True, True, True],
            "limits": True,
        }
        assert session.posted[0][0].values == {"temperature": 41.9}
        assert session.posted[1] == {"fw": 2.1}
        assert session.answers == [(0, '{"done": true}')] or session.answers == [(0, '{"done":true}')]
