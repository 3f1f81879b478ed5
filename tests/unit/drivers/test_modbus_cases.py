"""Each folder of `drivers/modbus/cases` is a case: config.yaml beside expected.json or error.txt."""

import json
from pathlib import Path

import pytest
import yaml

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import ModbusDriver
from drivers.modbus.wire import Refused
from gateway.config import parse_config
from gateway.errors import ConfigError, RejectedError
from tests.fakes.clock import FakeClock

CASES = sorted((Path(__file__).parents[3] / "drivers" / "modbus" / "cases").iterdir())


class FakeWire:
    """Units as dictionaries; refuses addresses that it does not hold, as a device does."""

    def __init__(self, bus, memory):
        self.bus, self.requests = bus, []
        self.memory = {
            (int(unit), table): {
                int(start) + offset: word for start, words in blocks.items() for offset, word in enumerate(words)
            }
            for unit, tables in memory.items()
            for table, blocks in tables.items()
        }

    async def read_registers(self, unit_id, table, address, count):
        self.requests.append(f"{unit_id} {table} {address}+{count}")
        held = self.memory.get((unit_id, table), {})
        if not all(address + offset in held for offset in range(count)):
            function = {"holding_register": 3, "input_register": 4, "coil": 1, "discrete_input": 2}[table]
            raise Refused(
                f"{self.bus}: unit {unit_id}, {table} {address}: function {function:#04x} refused: "
                "illegal data address (2)",
                2,
            )
        return [held[address + offset] for offset in range(count)]

    async def read_bits(self, unit_id, table, address, count):
        return [bool(bit) for bit in await self.read_registers(unit_id, table, address, count)]


async def read_all(driver):
    found = {"readings": {}, "attributes": {}}
    for poll in driver.polls():
        for reading in await driver.read(poll):
            kind = "attributes" if reading.is_attribute else "readings"
            found[kind].setdefault(reading.device, {})[reading.key] = reading.value
    return found


@pytest.mark.parametrize(
    "case", [case for case in CASES if (case / "expected.json").exists()], ids=lambda case: case.name
)
async def test_case(case):
    expected = json.loads((case / "expected.json").read_text())
    config = parse_config(ModbusConfig, yaml.safe_load((case / "config.yaml").read_text()), where="buses[0]")
    wire = FakeWire(config.name, expected["memory"])
    driver = ModbusDriver(config, wire, FakeClock())
    wanted = {"readings": expected["readings"], "attributes": expected.get("attributes", {})}

    assert await read_all(driver) == wanted
    assert wire.requests == expected["requests"]
    assert driver.faults() == expected.get("faults", {})

    wire.requests.clear()
    assert await read_all(driver) == wanted
    assert wire.requests == expected.get("requests_again", expected["requests"])


@pytest.mark.parametrize("case", [case for case in CASES if (case / "error.txt").exists()], ids=lambda case: case.name)
def test_wrong_configuration(case):
    with pytest.raises(ConfigError) as caught:
        parse_config(ModbusConfig, yaml.safe_load((case / "config.yaml").read_text()), where="buses[0]")
    assert str(caught.value) == (case / "error.txt").read_text().strip()


def test_every_case_is_complete():
    assert len(CASES) >= 20
    for case in CASES:
        assert (case / "config.yaml").exists()
        assert (case / "expected.json").exists() != (case / "error.txt").exists()


def driver_of(memory, points, **more):
    tree = {"name": "plant", "host": "x", "devices": [{"name": "D", "telemetry": points, **more}]}
    clock = FakeClock()
    wire = FakeWire("plant", memory)
    return ModbusDriver(ModbusConfig.model_validate(tree), wire, clock), wire, clock


def point(key, address, kind="uint16", **more):
    return {"key": key, "table": "holding_register", "address": address, "type": kind, **more}


async def test_a_point_set_aside_is_in_the_log_once(caplog):
    driver, _, clock = driver_of({"1": {"holding_register": {"0": [1]}}}, [point("a", 0), point("b", 1)])
    for _ in range(5):
        await read_all(driver)
        await clock.advance(61)
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["D.b is set aside"]


async def test_a_point_set_aside_is_asked_for_again_after_a_minute():
    driver, wire, clock = driver_of({"1": {"holding_register": {"0": [1]}}}, [point("a", 0), point("b", 1)])
    await read_all(driver)
    assert list(driver.faults()) == ["D.b"]
    wire.memory[1, "holding_register"][1] = 2
    await clock.advance(59)
    assert (await read_all(driver))["readings"] == {"D": {"a": 1}}
    await clock.advance(2)
    assert (await read_all(driver))["readings"] == {"D": {"a": 1, "b": 2}}
    assert driver.faults() == {}
    wire.requests.clear()
    await read_all(driver)
    assert wire.requests == ["1 holding_register 0+2"]


async def test_when_every_point_is_refused_the_poll_says_so_once():
    driver, wire, _ = driver_of({}, [point("a", 0), point("b", 1)])
    with pytest.raises(RejectedError, match="illegal data address"):
        await driver.read(driver.polls()[0])
    asked = len(wire.requests)
    assert await driver.read(driver.polls()[0]) == []
    assert len(wire.requests) == asked, "a device that refuses everything is left alone for a while"
    assert list(driver.faults()) == ["D.a", "D.b"]


async def test_the_longest_request_of_a_modest_device_is_found_out():
    driver, wire, _ = driver_of(
        {"1": {"holding_register": {"0": list(range(40))}}}, [point(f"k{n}", n) for n in range(40)]
    )
    whole = wire.read_registers

    async def at_most_16(unit_id, table, address, count):
        if count > 16:
            wire.requests.append("refused")
            raise Refused("plant: too long", 3)
        return await whole(unit_id, table, address, count)

    wire.read_registers = at_most_16
    for _ in range(4):
        assert (await read_all(driver))["readings"] == {"D": {f"k{n}": n for n in range(40)}}
    wire.requests.clear()
    await read_all(driver)
    assert wire.requests == [
        "1 holding_register 0+10",
        "1 holding_register 10+10",
        "1 holding_register 20+10",
        "1 holding_register 30+10",
    ]
    assert driver.faults() == {}


async def test_what_is_writable():
    driver, _, _ = driver_of({}, [point("a", 0), point("b", 1, writable=True)])
    assert [driver.is_writable("D", key) for key in ("a", "b", "c")] == [False, True, None]
    assert [device.name for device in driver.devices()] == ["D"]
