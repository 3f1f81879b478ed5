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


@pytest.mark.server
async def test_what_waited_for_the_old_tenant_is_parked_even_when_the_gateway_is_killed(tmp_path):
    devices = [{"name": "T", "profile": "thermostat", "access_token": "t"}]
    async with CloudProcess(tmp_path) as cloud, GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as gateway:
        device = NumberedDevice("t", gateway.port)
        device.publish(1_000)

        async def known() -> bool:
            return bool((await cloud.device("T")).get("telemetry", {}).get("seq"))

        await until(known, 20, "the first reading did not arrive")
        first = await cloud.device("T")
        await cloud.call("POST", "/api/faults", {"silent": True})
        for n in range(2, 202):
            device.publish(1_000 * n)

        async def acknowledged() -> bool:
            return len(device.acknowledged) == 201

        await until(acknowledged, 20, "the readings were not taken")
        await cloud.call("POST", "/api/edge", {"identity": "new"})
        await gateway.kill()
        await cloud.call("POST", "/api/faults", {"silent": False})
        await gateway.start()

        async def announced() -> bool:
            found = await cloud.device("T")
            return bool(found) and found["id"] != first["id"]

        await until(announced, 30, "the device was not announced to the new tenant")
        device.publish(999_000)

        async def arrived() -> bool:
            found = await cloud.device("T")
            return found.get("telemetry", {}).get("seq", {}).get("value") == device.sent

        await until(arrived, 30, "the reading after the change did not arrive")
        assert (await gateway.status())["queue"]["parked"] >= 200
        rows = await gateway.ask("/events?status=parked&limit=300")
        assert {row["reason"].partition(":")[0] for row in rows} == {"waited for another edge"}
        device.stop()
