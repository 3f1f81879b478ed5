"""A gateway with the vendor's SDK, the devices behind it, and the cloud: real processes, online and offline."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.parts import CloudProcess, GatewayProcess, until

ROOT = Path(__file__).parents[2]


class Sdk:
    """`tb-mqtt-client` in its own interpreter."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.heard: list[dict[str, Any]] = []
        self._done: asyncio.Queue[Any] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "done" in said:
                self._done.put_nowait(said["done"])
            else:
                self.heard.append(said)

    async def done(self) -> Any:
        async with asyncio.timeout(20):
            return await self._done.get()

    async def __call__(self, method: str, *arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, *arguments]).encode() + b"\n")
        assert await self.done() is True

    async def hears(self, **what: Any) -> None:
        async def heard() -> bool:
            return what in self.heard

        await until(heard, 15, f"{what} is not in {self.heard}")

    async def stop(self) -> None:
        self._process.kill()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def sdk(port: int):
    python = os.environ.get("EDGE_GATEWAY_TB_PYTHON") or str(ROOT / ".venv-tb" / "bin" / "python")
    process = await asyncio.create_subprocess_exec(
        python,
        str(ROOT / "tests" / "integration" / "gateway_sdk.py"),
        str(port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    client = Sdk(process)
    try:
        assert await client.done() == "connected"
        yield client
    finally:
        await client.stop()


DEVICES = [{"name": "gw", "access_token": "gw-token", "gateway": True}]


@pytest.mark.server
async def test_devices_behind_a_gateway_online_and_offline(tmp_path):
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, devices=DEVICES) as house,
        sdk(house.port) as gateway,
    ):
        await gateway("gw_connect_device", "Pump", "pump")
        await gateway("gw_send_telemetry", "Pump", [{"ts": 1_700_000_000_000, "values": {"t": 21.5}}])
        await gateway("gw_send_attributes", "Fan", {"fw": "2.1b"})  # made by its first data

        async def arrived() -> bool:
            pump, fan = await cloud.device("Pump"), await cloud.device("Fan")
            return bool(pump.get("telemetry") and fan.get("attributes", {}).get("CLIENT_SCOPE"))

        await until(arrived, 20, "the devices are not in the cloud")
        pump, gw = await cloud.device("Pump"), await cloud.device("gw")
        assert (pump["type"], pump["credentials_type"]) == ("pump", "ACCESS_TOKEN")
        assert pump["telemetry"]["t"] == {"ts": 1_700_000_000_000, "value": 21.5}
        assert (await cloud.device("Fan"))["attributes"]["CLIENT_SCOPE"] == {"fw": "2.1b"}
        assert gw["type"] == "default"
        assert (await cloud.state())["dropped_unknown"] == 0

        answer = await cloud.call("POST", "/api/devices/Pump/rpc", {"method": "set", "params": {"x": 1}})
        assert answer == {"got": {"x": 1}}
        await gateway.hears(rpc={"device": "Pump", "data": {"id": 0, "method": "set", "params": {"x": 1}}})
        await cloud.call("POST", "/api/devices/Pump/attributes/SHARED_SCOPE", {"target": 7})
        await gateway.hears(attributes={"device": "Pump", "data": {"target": 7}})
        await gateway("gw_request_shared_attributes", "Pump", ["target"])
        await gateway.hears(found={"id": 1, "device": "Pump", "value": 7})
        await cloud.call("DELETE", "/api/devices/Pump/attributes/SHARED_SCOPE?keys=target")
        await gateway.hears(attributes={"device": "Pump", "data": {"deleted": ["target"]}})

        await cloud.call("POST", "/api/offline?seconds=3")
        for number in range(5):
            await gateway("gw_send_telemetry", "Pump", [{"ts": 1_700_000_001_000 + number, "values": {"n": number}}])
        await gateway("gw_connect_device", "Valve", "valve")
        await gateway("gw_send_telemetry", "Valve", [{"ts": 1_700_000_002_000, "values": {"open": True}}])
        await house.kill()
        await house.start()  # the SDK comes back by itself; nothing says `connect` for its devices again
        await gateway("gw_send_telemetry", "Pump", [{"ts": 1_700_000_003_000, "values": {"n": 99}}])

        async def drained() -> bool:
            pump, valve = await cloud.device("Pump"), await cloud.device("Valve")
            newest = pump["telemetry"].get("n", {}).get("value")
            return newest == 99 and bool(valve.get("telemetry")) and await house.pending() == 0

        await until(drained, 30, "what was said offline did not arrive")
        assert (await cloud.device("Valve"))["type"] == "valve"
        assert (await cloud.state())["dropped_unknown"] == 0
        answer = await cloud.call("POST", "/api/devices/Pump/rpc", {"method": "again", "params": 2})
        assert answer == {"got": 2}

        await cloud.call("PATCH", "/api/devices/Valve", {"name": "Valve 2"})
        await gateway.hears(own={"method": "gateway_device_renamed", "params": {"Valve": "Valve 2"}})
        await cloud.call("DELETE", "/api/devices/Fan")
        await gateway.hears(own={"method": "gateway_device_deleted", "params": "Fan"})
