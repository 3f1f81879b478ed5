"""A calculated field made in the cloud is computed here, its result goes up; an alarm field goes on after a kill."""

import asyncio
import json

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.e2e.parts import CloudProcess, GatewayProcess, until

pytestmark = pytest.mark.server

ARGUMENTS = {"t": {"refEntityKey": {"key": "t", "type": "TS_LATEST"}}}
DOUBLE = {
    "type": "SCRIPT",
    "arguments": ARGUMENTS,
    "expression": "return {doubled: t * 2};",
    "output": {"type": "TIME_SERIES", "strategy": {"type": "RULE_CHAIN"}},
}
PREDICATE = {"type": "NUMERIC", "operation": "GREATER", "value": {"staticValue": 80}}
FILTER = {"argument": "t", "valueType": "NUMERIC", "predicates": [PREDICATE]}
TWICE = {
    "type": "ALARM",
    "arguments": ARGUMENTS,
    "createRules": {
        "MAJOR": {
            "condition": {
                "type": "REPEATING",
                "count": {"staticValue": 2},
                "expression": {"type": "SIMPLE", "filters": [FILTER]},
            }
        }
    },
}
P = "org.thingsboard.rule.engine."
CHAIN = {
    "ruleChain": {"name": "Fields"},
    "metadata": {
        "firstNodeIndex": 0,
        "nodes": [
            {"type": f"{P}filter.TbMsgTypeSwitchNode", "name": "types", "configuration": {}},
            {"type": f"{P}telemetry.TbMsgTimeseriesNode", "name": "save", "configuration": {}},
            {"type": f"{P}edge.TbMsgPushToCloudNode", "name": "up", "configuration": {}},
        ],
        "connections": [
            {"fromIndex": 0, "toIndex": 1, "type": "Post telemetry"},
            {"fromIndex": 1, "toIndex": 2, "type": "Success"},
            {"fromIndex": 0, "toIndex": 2, "type": "Alarm Created"},
        ],
    },
}


async def publish(gateway: GatewayProcess, values: dict[str, float]) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set("token-1")
    client.connect("127.0.0.1", gateway.port)
    client.loop_start()
    await asyncio.to_thread(client.publish("v1/devices/me/telemetry", json.dumps(values), qos=1).wait_for_publish, 10)
    client.disconnect()
    client.loop_stop()


async def test_a_field_of_the_cloud_is_computed_here_and_survives_a_kill(tmp_path):
    devices = [{"name": "T1", "profile": "thermostat", "access_token": "token-1"}]
    async with CloudProcess(tmp_path) as cloud, GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as gateway:

        async def is_known():
            return bool(await cloud.device("T1"))

        await until(is_known, 20, "the device does not reach the cloud")
        await cloud.call("POST", "/api/rule-chains", CHAIN)
        field = {"name": "Double", "type": "SCRIPT", "device": "T1", "configuration": DOUBLE}
        await cloud.call("POST", "/api/calculated-fields", field)
        await cloud.call(
            "POST",
            "/api/calculated-fields",
            {"name": "Hot", "type": "ALARM", "device": "T1", "configuration": TWICE},
        )

        async def is_here():
            seen = await gateway.ask("/rules")
            names = {field["name"] for field in seen["fields"]}
            return {"Double", "Hot"} <= names and any(c["root"] and c["name"] == "Fields" for c in seen["chains"])

        await until(is_here, 20, "the fields do not reach the gateway")
        await publish(gateway, {"t": 90})
        await gateway.kill()
        await gateway.start()
        await publish(gateway, {"t": 91})

        async def is_up():
            values = await cloud.call("GET", "/api/devices/T1/telemetry?key=doubled&limit=5")
            alarms = await cloud.call("GET", "/api/alarms")
            return "182" in json.dumps(values) and any(alarm["type"] == "Hot" for alarm in alarms)

        await until(is_up, 20, "the result or the alarm does not reach the cloud")
        assert (await gateway.status())["counters"].get("rules.field_failures", 0) == 0
