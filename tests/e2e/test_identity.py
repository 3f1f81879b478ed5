"""The same routing key, another edge behind it: nothing that is said afterwards is lost."""

import time

import pytest

from tests.e2e.parts import CloudProcess, GatewayProcess, NumberedDevice, until


@pytest.mark.server
async def test_readings_after_a_change_of_identity_reach_the_new_tenant(tmp_path):
    devices = [{"name": "T", "profile": "thermostat", "access_token": "t"}]
    async with CloudProcess(tmp_path) as cloud, GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as gateway:
        device = NumberedDevice("t", gateway.port)

        async def arrived() -> bool:
            found = await cloud.device("T")
            return found.get("telemetry", {}).get("seq", {}).get("value") == device.sent

        device.publish(time.time_ns() // 1_000_000)
        await until(arrived, 20, "the first reading did not arrive")
        first = await cloud.device("T")
        await cloud.call("POST", "/api/edge", {"identity": "new"})

        async def announced() -> bool:
            found = await cloud.device("T")
            return bool(found) and found["id"] != first["id"] and found["credentials_type"] == "ACCESS_TOKEN"

        await until(announced, 20, "the device was not announced to the new tenant")
        device.publish(time.time_ns() // 1_000_000)
        await until(arrived, 20, "the reading after the change did not arrive")
        assert (await cloud.device("T"))["type"] == "thermostat"
        device.stop()
