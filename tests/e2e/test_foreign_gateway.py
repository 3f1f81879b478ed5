"""An unmodified vendor's gateway behind our endpoint: Modbus plant → it → us → cloud, and down again, over a restart."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.demo.processes import Process, free_port, until_listening
from tests.e2e.foreign_gateway import ForeignGateway, slave
from tests.e2e.parts import CloudProcess, GatewayProcess, until

NAME = "Foreign boiler"
DEVICES = [{"name": "gw", "access_token": "gw-token", "gateway": True}]


@pytest.mark.server
async def test_the_vendors_gateway_with_its_modbus_connector(tmp_path):
    modbus_port = free_port()
    plant = Process("plant", ["-m", "drivers.simulator.plant", "--port", str(modbus_port)], tmp_path / "plant.log")
    await plant.start()
    try:
        await until_listening(modbus_port, plant)
        async with (
            CloudProcess(tmp_path) as cloud,
            GatewayProcess(tmp_path, cloud.grpc_port, devices=DEVICES) as house,
            ForeignGateway(tmp_path, house.port, "gw-token", [slave(modbus_port)]) as foreign,
        ):

            async def seen() -> dict[str, Any]:
                return await cloud.device(NAME)

            async def arrived() -> bool:
                device = await seen()
                return bool(device.get("telemetry") and device["attributes"].get("CLIENT_SCOPE"))

            try:
                await until(arrived, 25, "its device is not in the cloud")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{foreign.log()}") from None
            device = await seen()
            assert device["type"] == "boiler"
            assert isinstance(device["telemetry"]["temperature"]["value"], float)
            assert device["attributes"]["CLIENT_SCOPE"]["connectorType"] == "modbus"
            assert (await cloud.device("gw"))["attributes"]["CLIENT_SCOPE"]["Version"] == "3.8.5"

            async def setpoint() -> Any:
                return (await seen())["telemetry"]["setpoint"]["value"]

            await cloud.call(
                "POST", f"/api/devices/{NAME.replace(' ', '%20')}/attributes/SHARED_SCOPE", {"setpoint": 61}
            )

            async def is_61() -> bool:
                return await setpoint() == 61

            await until(is_61, 15, "a shared attribute was not written to the plant")

            await house.kill()
            restarted_ms = (await seen())["telemetry"]["temperature"]["ts"]
            await house.start()

            async def goes_on() -> bool:
                return (await seen())["telemetry"]["temperature"]["ts"] > restarted_ms + 2000

            await until(goes_on, 25, "nothing comes from behind the gateway after our restart")
            states = {entry["name"]: entry for entry in (await house.status())["devices"]}
            assert states[NAME]["is_online"]
            assert states[NAME]["is_active"]
            path = f"/api/devices/{NAME.replace(' ', '%20')}/rpc"
            answer = await cloud.call("POST", path, {"method": "setSetpoint", "params": 55})
            assert "error" not in str(answer), answer

            async def is_55() -> bool:
                return await setpoint() == 55

            await until(is_55, 15, "a call did not reach the plant")
            assert (await cloud.state())["dropped_unknown"] == 0
    finally:
        await plant.stop()
