"""The whole room against the simulated plant: a real Modbus TCP server."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import yaml

from drivers.simulator.plant import SERIAL, open_plant
from gateway.domain.rpc import RpcRequest
from gateway.fieldbus import Fieldbus
from gateway.fieldbus import outage as outage_module
from gateway.supervise import Counters, SystemClock
from tests.unit.fieldbus.inlet import FakeHouse

ROOT = Path(__file__).parents[2]


def plant_tree(port):
    tree = yaml.safe_load((ROOT / "drivers/simulator/plant.yaml").read_text())["buses"][0]
    tree |= {"port": port, "timeout_s": 0.3}
    for device in tree["devices"]:
        device["every_ms"] = 50
    return tree


async def until(condition, timeout_s=8.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def gateway(tree):
    house = FakeHouse("Boiler", "Pump")
    room = Fieldbus([tree], house, SystemClock(), Counters())
    task = asyncio.create_task(room.serve())
    try:
        await until(lambda: len(house.sessions) >= 2)
        yield room, house
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


def latest(house, device):
    found = {}
    for item in house.session(device).telemetry:
        found |= item.values
    return found


async def call(house, device, method, params=None):
    session = house.session(device)
    request = RpcRequest(
        device_id=session.device.id,
        method=method,
        params=params,
        request_id=1,
        expires_ms=SystemClock().now_ms() + 5000,
    )
    response = await session.channel.send_rpc(1, request)
    return orjson.loads(response.response)["result"]


async def test_all_tables_and_types_of_the_plant():
    async with open_plant(seed=1) as (plant, port), gateway(plant_tree(port)) as (room, house):
        await until(lambda: {"temperature", "pressure", "setpoint", "burner"} <= latest(house, "Boiler").keys())
        await until(lambda: {"pump", "speed", "hours", "flow"} <= latest(house, "Pump").keys())
        boiler, pump = latest(house, "Boiler"), latest(house, "Pump")
        assert boiler["temperature"] == pytest.approx(plant.boiler.temperature, abs=1.0)
        assert boiler["pressure"] == pytest.approx(plant.boiler.pressure, abs=0.05)
        assert boiler["setpoint"] == 70
        assert boiler["burner"] is plant.boiler.is_burning
        assert pump == {"pump": True, "speed": 1450, "hours": int(plant.pump.hours), "flow": pump["flow"]}
        assert pump["flow"] == pytest.approx(12.5, abs=0.5)
        await until(lambda: house.session("Boiler").attributes)
        assert house.session("Boiler").attributes == [{"serial": SERIAL}]
        status = room.status()[0]
        assert (status["name"], status["kind"], status["connected"]) == ("plant", "modbus", True)
        assert [unit["unit"] for unit in status["units"]] == ["1", "2"]
        assert all(unit["ok"] and unit["polls"] > 0 for unit in status["units"])


async def test_calls_write_read_back_and_the_plant_reacts():
    async with open_plant(seed=1) as (plant, port), gateway(plant_tree(port)) as (_, house):
        assert await call(house, "Pump", "pump", False) == {"value": False}
        assert plant.pump.is_on is False
        await until(lambda: latest(house, "Pump").get("speed", 1450) < 1400)
        assert await call(house, "Pump", "pump") == {"value": False}
        assert await call(house, "Boiler", "set", {"setpoint": 65}) == {"value": {"setpoint": 65}}
        assert plant.boiler.setpoint == 65
        assert await call(house, "Boiler", "get", {"key": "serial"}) == {"value": SERIAL}
        refused = await call(house, "Boiler", "setpoint", 121)
        assert refused == {"error": "plant: unit 1, holding_register 10: function 0x06 refused: illegal data value (3)"}
        wrong = await call(house, "Boiler", "setpoint", 70000)
        assert "unit 1, holding_register 10 (Boiler.setpoint): 70000 is out of range; 0 to 65535" in wrong["error"]
        assert "is not writable" in (await call(house, "Boiler", "temperature", 5))["error"]
        assert await call(house, "Boiler", "fly") == {"error": "Method not found for fly"}
        house.session("Boiler").channel.send_attributes({"setpoint": 72, "unknown": 1})
        await until(lambda: plant.boiler.setpoint == 72)
        await until(lambda: any(item.values == {"setpoint": 72} for item in house.session("Boiler").telemetry))


async def test_bits_floats_and_text_are_written_into_a_real_slave():
    async with open_plant() as (_, port):
        points = [
            {"key": "bit", "address": 5, "type": "bit", "bit": 3},
            {"key": "bits", "address": 5, "type": "bits", "count": 3},
            {"key": "level", "address": 6, "type": "float32", "word_order": "little"},
            {"key": "text", "address": 8, "type": "string", "count": 2},
        ]
        points = [{"table": "holding_register", "writable": True, **point} for point in points]
        points.append({"key": "coils", "table": "coil", "address": 4, "type": "bits", "count": 3, "writable": True})
        tree = plant_tree(port)
        tree["devices"] = [{"name": "Boiler", "telemetry": points}, {"name": "Pump", "telemetry": points[:1]}]
        async with gateway(tree) as (_, house):
            assert await call(house, "Boiler", "bit", True) == {"value": True}
            assert await call(house, "Boiler", "bits", [True, False, True]) == {"value": [True, False, True]}
            assert await call(house, "Boiler", "bit") == {"value": True}
            assert await call(house, "Boiler", "level", 2.5) == {"value": 2.5}
            assert await call(house, "Boiler", "text", "Hi") == {"value": "Hi"}
            assert await call(house, "Boiler", "coils", [True, True, False]) == {"value": [True, True, False]}


async def test_an_illegal_address_does_not_stop_its_neighbours():
    async with open_plant() as (_, port):
        tree = plant_tree(port)
        typo = {"key": "typo", "table": "holding_register", "address": 12, "type": "int16"}
        tree["devices"][0]["telemetry"].append(typo)
        async with gateway(tree) as (room, house):
            await until(lambda: len(house.session("Boiler").telemetry) > 10)
            assert {"temperature", "pressure", "setpoint"} <= latest(house, "Boiler").keys()
            status = room.status()[0]
            assert list(status["set_aside"]) == ["Boiler.typo"]
            assert "illegal data address" in status["set_aside"]["Boiler.typo"]
            assert status["units"][0]["ok"]


async def test_a_unit_that_does_not_exist_leaves_the_others_at_their_pace():
    async with open_plant() as (_, port):
        tree = plant_tree(port)
        tree["devices"][1]["unit_id"] = 9  # nobody: the server answers for it with an exception code
        async with gateway(tree) as (room, house):
            await until(lambda: len(house.session("Boiler").telemetry) > 20)
            assert house.session("Pump").telemetry == []
            assert [unit["ok"] for unit in room.status()[0]["units"]] == [True, False]


async def test_a_plant_that_dies_and_comes_back(monkeypatch, caplog):
    monkeypatch.setattr(outage_module, "FIRST_S", 0.05)
    monkeypatch.setattr(outage_module, "LONGEST_S", 0.4)
    async with open_plant(seed=1) as (_, port):
        context = gateway(plant_tree(port))
        room, house = await context.__aenter__()
        await until(lambda: latest(house, "Pump"))
    try:
        with caplog.at_level(logging.WARNING):
            await until(lambda: room.status()[0]["lost_since_ms"] is not None)
            assert room.status()[0]["connected"] is False
            error = await call(house, "Pump", "pump", True)
            assert f"plant: no connection to 127.0.0.1:{port}" in error["error"]
            await until(lambda: len(caplog.records) >= 1)
            before = [unit["polls"] for unit in room.status()[0]["units"]]
            await asyncio.sleep(1.0)
            after = [unit["polls"] for unit in room.status()[0]["units"]]
            assert sum(after) - sum(before) <= 8, "it backs off"
            async with open_plant(port, seed=1):
                count = len(house.session("Pump").telemetry)
                await until(lambda: len(house.session("Pump").telemetry) > count + 5)
                await until(lambda: room.status()[0]["connected"])
                assert all(unit["ok"] for unit in room.status()[0]["units"])
                await context.__aexit__(None, None, None)
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("gateway")]
        assert len(lines) == 2, lines
        assert "bus plant is silent" in lines[0]
        assert "bus plant answers again" in lines[1]
    except BaseException:
        await context.__aexit__(None, None, None)
        raise


@pytest.mark.server
async def test_the_plant_as_a_process():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drivers.simulator.plant", "--port", "0", "--seed", "4"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        async with asyncio.timeout(10):
            line = (await process.stdout.readline()).decode().strip()
            assert line.startswith("plant: modbus tcp on 127.0.0.1:")
            async with gateway(plant_tree(int(line.rsplit(":", 1)[1]))) as (_, house):
                await until(lambda: latest(house, "Boiler") and latest(house, "Pump"))
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_what_a_dashboard_of_the_vendors_gateway_sends():
    async with open_plant(seed=1) as (plant, port):
        tree = plant_tree(port)
        tree["devices"][0]["rpc_addresses"] = "write"
        async with gateway(tree) as (_, house):
            place = "functionCode={};objectsCount=1;address=10;"
            assert await call(house, "Boiler", "get", f"type=16uint;{place.format(3)}") == {"value": 70}
            assert await call(house, "Boiler", "set", f"type=16uint;{place.format(6)}value=64;") == {"value": "64"}
            assert plant.boiler.setpoint == 64
            refused = await call(house, "Pump", "set", f"type=16uint;{place.format(6)}value=64;")
            assert "`rpc_addresses: write` of the device allows it" in refused["error"]


async def test_neighbours_are_set_at_once_and_what_the_device_does_not_take_is_said():
    async with open_plant(seed=1) as (_, port):
        tree = plant_tree(port)
        tree["devices"][0]["telemetry"] += [
            {"key": key, "table": "holding_register", "address": address, "type": "int16", "writable": True}
            for key, address in (("own", 0), ("free", 1))
        ]
        async with gateway(tree) as (_, house):
            answer = await call(house, "Boiler", "set", {"own": -40, "free": 7})
            assert answer["value"]["free"] == 7
            assert answer["value"]["own"] > 0
            assert answer["notes"] == {"own": f"-40 was written; the device holds {answer['value']['own']}"}
