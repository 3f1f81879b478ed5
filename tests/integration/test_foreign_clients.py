"""Clients as their users run them, side by side at one gateway process with a cloud: everything a device does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomqtt
import gmqtt
import paho.mqtt.client as paho
import pytest

from tests.e2e.parts import CloudProcess, GatewayProcess, until

pytestmark = pytest.mark.server

ME = "v1/devices/me/"
PATIENCE_S = 15


class Client:
    """One connected client: what it heard, by topic; `say` returns when it is acknowledged."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    async def hears(self, topic: str) -> Any:
        async def heard() -> Any:
            return next(([body] for name, body in self.heard if name == topic), None)

        (body,) = await until(heard, PATIENCE_S, f"nothing on {topic}: {self.heard}")
        return body

    def note(self, topic: str, payload: bytes) -> None:
        self.heard.append((topic, json.loads(payload)))

    async def listen(self, topic: str) -> None:
        raise AssertionError

    async def say(self, topic: str, body: Any, qos: int = 1) -> None:
        raise AssertionError


class Paho(Client):
    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version

    @asynccontextmanager
    async def connected(self, port: int, token: str) -> AsyncIterator[Paho]:
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=self.version)
        self.client.username_pw_set(token)
        self.client.on_message = lambda *args: self.note(args[-1].topic, args[-1].payload)
        await asyncio.to_thread(self.client.connect, "127.0.0.1", port)
        self.client.loop_start()
        try:
            yield self
        finally:
            self.client.disconnect()
            await asyncio.to_thread(self.client.loop_stop)

    async def listen(self, topic: str) -> None:
        self.client.subscribe(topic, 1)

    async def say(self, topic: str, body: Any, qos: int = 1) -> None:
        info = self.client.publish(topic, json.dumps(body), qos)
        await asyncio.to_thread(info.wait_for_publish, PATIENCE_S)
        assert info.is_published()


class Aiomqtt(Client):
    @asynccontextmanager
    async def connected(self, port: int, token: str) -> AsyncIterator[Aiomqtt]:
        async with aiomqtt.Client("127.0.0.1", port, username=token) as self.client:
            reading = asyncio.create_task(self._read())
            try:
                yield self
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def _read(self) -> None:
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            self.note(str(message.topic), message.payload)

    async def listen(self, topic: str) -> None:
        await self.client.subscribe(topic, 1)

    async def say(self, topic: str, body: Any, qos: int = 1) -> None:
        await self.client.publish(topic, json.dumps(body), qos)


class Gmqtt(Client):
    @asynccontextmanager
    async def connected(self, port: int, token: str) -> AsyncIterator[Gmqtt]:
        self.client = gmqtt.Client(f"gmqtt-{token}", clean_session=True)
        self.client.set_auth_credentials(token, None)
        self.client.on_message = self._on_message
        await self.client.connect("127.0.0.1", port)
        try:
            yield self
        finally:
            await self.client.disconnect()

    async def _on_message(self, client: Any, topic: str, payload: bytes, qos: int, properties: Any) -> int:
        self.note(topic, payload)
        return 0

    async def listen(self, topic: str) -> None:
        self.client.subscribe(topic, 1)

    async def say(self, topic: str, body: Any, qos: int = 1) -> None:
        self.client.publish(topic, body, qos=qos)


CLIENTS = {
    "paho-3": lambda: Paho(paho.MQTTv311),
    "paho-5": lambda: Paho(paho.MQTTv5),
    "aiomqtt": Aiomqtt,
    "gmqtt": Gmqtt,
}
DEVICES = [{"name": name, "access_token": name} for name in CLIENTS]


async def does_everything(name: str, client: Any, cloud: CloudProcess) -> None:
    await client.say(f"{ME}telemetry", {"ts": 1_700_000_000_000, "values": {"t": 21.5}})
    await client.say(f"{ME}attributes", {"fw": "1.2-a"})
    await client.listen(f"{ME}attributes")
    await client.listen(f"{ME}attributes/response/+")
    await client.listen(f"{ME}rpc/request/+")
    await client.listen(f"{ME}rpc/response/+")
    await client.say(f"{ME}attributes/request/1", {"clientKeys": "fw"})
    assert await client.hears(f"{ME}attributes/response/1") == {"client": {"fw": "1.2-a"}}  # and it is subscribed now
    await client.say(f"{ME}rpc/request/7", {"method": "getSessionLimits", "params": {}})
    assert (await client.hears(f"{ME}rpc/response/7"))["maxPayloadSize"] > 0

    async def arrived() -> Any:
        device = await cloud.device(name)
        return device.get("telemetry") and device["attributes"].get("CLIENT_SCOPE")

    await until(arrived, PATIENCE_S, f"{name} is not in the cloud")
    device = await cloud.device(name)
    assert device["telemetry"]["t"] == {"ts": 1_700_000_000_000, "value": 21.5}
    assert device["attributes"]["CLIENT_SCOPE"] == {"fw": "1.2-a"}
    await cloud.call("POST", f"/api/devices/{name}/attributes/SHARED_SCOPE", {"target": 7})
    assert await client.hears(f"{ME}attributes") == {"target": 7}
    calling = asyncio.create_task(cloud.call("POST", f"/api/devices/{name}/rpc", {"method": "set", "params": {"x": 1}}))
    assert await client.hears(f"{ME}rpc/request/0") == {"method": "set", "params": {"x": 1}}
    await client.say(f"{ME}rpc/response/0", {"done": name})
    assert await calling == {"done": name}
    for qos in (0, 1, 2):
        await client.say(f"{ME}telemetry", {"ts": 1_700_000_001_000 + qos, "values": {"qos": qos}}, qos)

    async def all_arrived() -> Any:
        return (await cloud.device(name))["telemetry"].get("qos", {}).get("value") == 2

    await until(all_arrived, PATIENCE_S, f"{name}: the last of three QoS is missing")


async def test_each_client_does_everything_a_device_does_and_they_hear_each_other(tmp_path):
    async with CloudProcess(tmp_path) as cloud, GatewayProcess(tmp_path, cloud.grpc_port, devices=DEVICES) as house:

        async def one(name: str, others: asyncio.Barrier) -> None:
            async with CLIENTS[name]().connected(house.port, name) as client:
                await does_everything(name, client, cloud)
                for other in CLIENTS:
                    await client.listen(f"plant/{other}")
                await client.listen(f"{ME}attributes/response/+")
                await client.say(f"{ME}attributes/request/2", {"clientKeys": "fw"})
                await client.hears(f"{ME}attributes/response/2")  # behind the subscriptions
                async with others:
                    await client.say(f"plant/{name}", {"from": name})
                for other in CLIENTS:
                    assert await client.hears(f"plant/{other}") == {"from": other}
                async with others:
                    pass

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            together = asyncio.Barrier(len(CLIENTS))
            for name in CLIENTS:
                tasks.create_task(one(name, together))
        assert (await cloud.state())["dropped_unknown"] == 0


async def mosquitto(tool: str, port: int, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        f"mosquitto_{tool}",
        *("-h", "127.0.0.1", "-p", str(port), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_mosquittos_tools_in_three_versions_with_the_exit_codes_of_a_refused_login(tmp_path):
    devices = [{"name": name, "access_token": name} for name in ("says", "hears")]
    async with CloudProcess(tmp_path) as cloud, GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as house:
        for number, (version, unknown, nobody) in enumerate((("31", 5, 2), ("311", 5, 2), ("5", 134, 133))):
            say = ["-V", version, "-u", "says"]
            for qos in "012":
                body = json.dumps({"ts": 1_700_000_000_000 + number * 10 + int(qos), "values": {"at": version + qos}})
                code, _ = await mosquitto("pub", house.port, *say, "-q", qos, "-t", f"{ME}telemetry", "-m", body)
                assert code == 0
            code, _ = await mosquitto(
                "pub", house.port, *say, "-q", "1", "-t", f"{ME}attributes", "-m", f"{{fw: v{version}}}"
            )
            assert code == 0

            async def arrived(version: str = version) -> Any:
                device = await cloud.device("says")
                last = device.get("telemetry", {}).get("at", {}).get("value")
                return str(last) == f"{version}2" and device["attributes"]["CLIENT_SCOPE"] == {"fw": f"v{version}"}

            await until(arrived, PATIENCE_S, f"what version {version} said is not in the cloud")
            common = ["-V", version, "-q", "1", "-t", f"{ME}telemetry", "-m", "{}"]
            assert (await mosquitto("pub", house.port, *common, "-u", "nobody"))[0] == unknown
            assert (await mosquitto("pub", house.port, *common, "-i", "some-id"))[0] == nobody

            await cloud.call("POST", "/api/devices/hears/attributes/SHARED_SCOPE", {"target": number})
            pushed = ["-V", version, "-u", "hears", "-q", "1", "-t", f"{ME}attributes", "-C", "1"]
            code, heard = await mosquitto("sub", house.port, *pushed)
            assert (code, json.loads(heard)) == (0, {"target": number})

            listening = asyncio.create_task(
                mosquitto(
                    "sub", house.port, "-V", version, "-u", "hears", "-q", "1", "-t", f"plant/{version}", "-C", "1"
                )
            )

            code, _ = await mosquitto("pub", house.port, *say, "-q", "1", "-t", f"plant/{version}", "-m", version, "-r")
            assert code == 0
            assert await listening == (0, version + "\n")

            calling = asyncio.create_task(
                mosquitto("sub", house.port, "-V", version, "-u", "hears", "-t", f"{ME}rpc/request/+", "-C", "1")
            )
            call = {"method": "beep", "params": number}

            async def is_called(call: Any = call) -> bool:
                try:
                    await cloud.call("POST", "/api/devices/hears/rpc", {**call, "oneway": True})
                except AssertionError:
                    return False  # it has not subscribed yet
                return True

            await until(is_called, PATIENCE_S, "a one-way call finds nobody")
            assert json.loads((await calling)[1]) == call
