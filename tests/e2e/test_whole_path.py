"""One reading all the way up, one command all the way down: real processes, clients, slave and databases."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from gateway.demo.processes import Process, free_port, until_listening
from tests.e2e.parts import CloudProcess, GatewayProcess, until


class Device:
    """A paho client that answers every call and remembers what it is told."""

    def __init__(self, port: int, token: str, protocol: Any) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.subscribed = False
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self.client.username_pw_set(token)
        self.client.on_connect = lambda client, *_: client.subscribe(
            [
                ("v1/devices/me/attributes", 1),
                ("v1/devices/me/rpc/request/+", 1),
                ("v1/devices/me/attributes/response/+", 1),
            ]
        )
        self.client.on_subscribe = self._subscribed
        self.client.on_message = self._message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _subscribed(self, *_: Any) -> None:
        self.subscribed = True

    def _message(self, client: Any, userdata: Any, message: Any) -> None:
        body = json.loads(message.payload)
        self.heard.append((message.topic, body))
        if "/rpc/request/" in message.topic:
            number = message.topic.rsplit("/", 1)[1]
            client.publish(f"v1/devices/me/rpc/response/{number}", json.dumps({"got": body["params"]}), qos=1)

    def publish(self, topic: str, body: Any) -> None:
        info = self.client.publish(f"v1/devices/me/{topic}", json.dumps(body), qos=1)
        info.wait_for_publish(10)
        assert info.is_published()

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@asynccontextmanager
async def plant(folder):
    port = free_port()
    process = Process("plant", ["-m", "drivers.simulator.plant", "--port", str(port)], folder / "plant.log")
    await process.start()
    try:
        await until_listening(port, process)
        yield port
    finally:
        await process.stop()


def sections(modbus_port: int) -> dict[str, Any]:
    buses = yaml.safe_load(files("drivers.simulator").joinpath("plant.yaml").read_text())["buses"]
    for bus in buses:
        bus["port"] = modbus_port
    devices = [
        {"name": "T3", "profile": "thermostat", "label": "Hall", "access_token": "token-3"},
        {"name": "T5", "profile": "thermostat", "access_token": "token-5"},
    ]
    return {"devices": devices, "buses": buses}


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "release"), [("sqlite", "4.3"), ("postgres", "3.7")])
async def test_readings_up_and_commands_down(tmp_path, kind, release, request):
    store = {"kind": "sqlite"}
    if kind == "postgres":
        store = {"kind": "postgres", "url": request.getfixturevalue("postgres_url")}
    async with (
        plant(tmp_path) as modbus_port,
        CloudProcess(tmp_path, version=release) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, store=store, **sections(modbus_port)) as gateway,
    ):
        old = Device(gateway.port, "token-3", mqtt.MQTTv311)
        new = Device(gateway.port, "token-5", mqtt.MQTTv5)
        try:
            await until(_true(lambda: old.subscribed and new.subscribed), 10, "no subscription")
            await asyncio.to_thread(
                old.publish, "telemetry", {"temperature": 21.5, "text": "ä", "on": True, "deep": {"a": [1]}}
            )
            await asyncio.to_thread(new.publish, "telemetry", [{"ts": 1_700_000_000_000, "values": {"temperature": 7}}])
            await asyncio.to_thread(new.publish, "attributes", {"firmware": "1.2"})

            async def up() -> bool:
                t3, t5, boiler = [await cloud.device(name) for name in ("T3", "T5", "Boiler")]
                return bool(
                    t3.get("telemetry") and t5.get("attributes", {}).get("CLIENT_SCOPE") and boiler.get("telemetry")
                )

            await until(up, 30, "readings did not arrive")
            t3 = await cloud.device("T3")
            assert {key: item["value"] for key, item in t3["telemetry"].items()} == {
                "temperature": 21.5,
                "text": "ä",
                "on": True,
                "deep": {"a": [1]},
            }
            assert (t3["type"], t3["label"], t3["credentials_type"]) == ("thermostat", "Hall", "ACCESS_TOKEN")
            seen = await gateway.ask("/points?device=Boiler")
            (temperature,) = [point for point in seen["points"] if point["key"] == "temperature"]
            assert (temperature["quality"], temperature["missed"]) == ("good", 0)
            assert temperature["value"] is not None
            t5 = await cloud.device("T5")
            assert t5["telemetry"]["temperature"] == {"ts": 1_700_000_000_000, "value": 7}
            assert t5["attributes"]["CLIENT_SCOPE"] == {"firmware": 1.2}  # numeric text becomes a number
            assert (await cloud.state())["dropped_unknown"] == 0

            for name, device in (("T3", old), ("T5", new)):
                answer = await cloud.call("POST", f"/api/devices/{name}/rpc", {"method": "set", "params": {"x": 1}})
                assert answer == {"got": {"x": 1}}
                await cloud.call("POST", f"/api/devices/{name}/attributes/SHARED_SCOPE", {"target": 21.5})
                await until(
                    _true(lambda device=device: ("v1/devices/me/attributes", {"target": 21.5}) in device.heard),
                    10,
                    "no push",
                )
            await asyncio.to_thread(
                new.publish, "attributes/request/4", {"clientKeys": "firmware", "sharedKeys": "target"}
            )
            wanted = ("v1/devices/me/attributes/response/4", {"client": {"firmware": 1.2}, "shared": {"target": 21.5}})
            await until(_true(lambda: wanted in new.heard), 10, f"no attributes in {new.heard}")

            for value in (True, False, True):
                answer = await cloud.call("POST", "/api/devices/Pump/rpc", {"method": "pump", "params": value})
                assert answer == {"result": {"value": value}}
            answer = await cloud.call("POST", "/api/devices/Boiler/rpc", {"method": "setpoint", "params": 77})
            assert answer == {"result": {"value": 77}}
            answer = await cloud.call("POST", "/api/devices/Boiler/rpc", {"method": "nonsense", "params": 1})
            assert "Method not found" in answer["result"]["error"]

            listed = await gateway.ask("/events?limit=500&status=deployed")
            assert {"ADDED", "TIMESERIES_UPDATED", "POST_ATTRIBUTES", "RPC_CALL"} <= {row["action"] for row in listed}
            shown = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "gateway", "status", "-c", str(gateway.config_path)],
                capture_output=True,
                text=True,
            )
            assert shown.returncode == 0, shown.stdout
            assert "Pump" in shown.stdout
        finally:
            old.stop()
            new.stop()


@pytest.mark.server
@pytest.mark.slow
async def test_what_a_rule_filters_stays_local_and_a_chain_from_the_cloud_takes_over_and_stays(tmp_path):
    switch = "org.thingsboard.rule.engine.filter.TbMsgTypeSwitchNode"
    script = {"scriptLang": "JS", "jsScript": "return msg.temperature > 20;"}
    transform = {"scriptLang": "JS", "jsScript": "return {msg: {fahrenheit: msg.temperature * 1.8 + 32}};"}
    chain = {
        "ruleChain": {"name": "Hot only"},
        "metadata": {
            "firstNodeIndex": 0,
            "nodes": [
                {"type": switch, "name": "switch", "configuration": {}},
                {
                    "type": "org.thingsboard.rule.engine.telemetry.TbMsgTimeseriesNode",
                    "name": "save",
                    "configuration": {},
                },
                {"type": "org.thingsboard.rule.engine.filter.TbJsFilterNode", "name": "hot?", "configuration": script},
                {
                    "type": "org.thingsboard.rule.engine.transform.TbTransformMsgNode",
                    "name": "°F",
                    "configuration": transform,
                },
                {"type": "org.thingsboard.rule.engine.edge.TbMsgPushToCloudNode", "name": "up", "configuration": {}},
            ],
            "connections": [
                {"fromIndex": 0, "toIndex": 1, "type": "Post telemetry"},
                {"fromIndex": 1, "toIndex": 2, "type": "Success"},
                {"fromIndex": 2, "toIndex": 3, "type": "True"},
                {"fromIndex": 3, "toIndex": 4, "type": "Success"},
            ],
        },
    }
    devices = [{"name": "T", "access_token": "t"}]
    async with CloudProcess(tmp_path) as cloud, GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as gateway:

        async def has_chain(name: str) -> bool:
            chains = (await gateway.status())["rules"]["chains"]
            return any(name in str(entry) and "True" in str(entry) for entry in chains)

        await until(lambda: _synced(gateway), 20, "no sync")
        await cloud.call("POST", "/api/rule-chains?root=true", chain)
        await until(lambda: has_chain("Hot only"), 20, "the chain did not arrive")
        for round_ in range(2):
            before = (await gateway.status())["queue"]
            device = Device(gateway.port, "t", mqtt.MQTTv311)
            await asyncio.to_thread(device.publish, "telemetry", {"temperature": 10})
            await asyncio.to_thread(device.publish, "telemetry", {"temperature": 100 + round_})
            device.stop()

            async def arrived(round_: int = round_) -> bool:
                telemetry = (await cloud.device("T")).get("telemetry", {})
                return telemetry.get("fahrenheit", {}).get("value") == (100 + round_) * 1.8 + 32

            await until(arrived, 10, "the hot reading did not arrive")
            assert "temperature" not in (await cloud.device("T"))["telemetry"]
            after = (await gateway.status())["queue"]
            assert after["pending"] + after["deployed"] == before["pending"] + before["deployed"] + 1
            await gateway.kill()  # the chain survives this
            await gateway.start()
            await until(lambda: _synced(gateway), 20, "no sync")
            assert await has_chain("Hot only")


async def _synced(gateway: GatewayProcess) -> bool:
    return await gateway.pending() == 0 and (await gateway.status())["cloud"]["state"] == "ready"


def _true(condition):
    async def check() -> bool:
        return bool(condition())

    return check
