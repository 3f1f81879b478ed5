"""Each device template against a Modbus server that is filled from a table of raw registers, written down by hand."""

from contextlib import asynccontextmanager

import pytest
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import open_modbus
from drivers.modbus.templates import names
from gateway.config import parse_config
from gateway.errors import RejectedError
from gateway.ports import Query, Write
from gateway.supervise import SystemClock

V230_5, A1_5, W345, HZ50, NAN = (0x4366, 0x8000), (0x3FC0, 0), (0x43AC, 0x8000), (0x4248, 0), (0x7FC0, 0)
"""float32: 230.5, 1.5, 345.0, 50.0, not a number."""

INPUTS, HOLDING = "input", "holding"

# template: what the registers hold, and what the gateway must make of it
TABLE = {
    "eastron_sdm630": (
        {INPUTS: {0: V230_5, 6: A1_5, 12: W345, 52: W345, 62: (0x3F66, 0x6666), 70: HZ50, 72: (0x4640, 0xE6B7), 342: A1_5},
         HOLDING: {64512: (0x0001, 0xE240)}},
        {"voltage_l1": 230.5, "voltage_l2": 0.0, "current_l1": 1.5, "power_l1": 345.0, "power": 345.0,
         "power_factor": 0.9, "frequency": 50.0, "energy_import": 12345.679, "energy_total": 1.5, "serial": 123456},
    ),
    "carlo_gavazzi_em340": (
        {INPUTS: {0: (2301, 0), 11: (340,), 12: (1500, 0), 18: (0xF283, 0xFFFF), 40: (0x86A0, 1), 49: (0xFC7C,), 51: (500,),
                  52: (0xE240, 1), 78: (7, 0)}},
        {"voltage_l1": 230.1, "identification": 340, "current_l1": 1.5, "power_l1": -345.3, "power": 10000.0,
         "power_factor": -0.9, "frequency": 50.0, "energy_import": 12345.6, "energy_export": 0.7},
    ),
    "schneider_iem3155": (
        {HOLDING: {2999: A1_5, 3027: V230_5, 3059: (0x3EB0, 0xA3D7), 3109: HZ50, 3203: (0, 0, 1, 0xE240),
                   49: (0x6945, 0x4D33, 0x3135, 0x3500), 129: (0x0001, 0xE240)}},
        {"current_l1": 1.5, "voltage_l1": 230.5, "power": 0.345, "frequency": 50.0, "energy_import": 123456,
         "model": "iEM3155", "serial": 123456},
    ),
    "fronius_sunspec_float": (
        {HOLDING: {40004: (0x4672, 0x6F6E, 0x6975, 0x7300), 40071: A1_5, 40085: V230_5, 40091: W345, 40093: HZ50,
                   40101: (0x4640, 0xE6B7), 40107: NAN, 40117: (4,)}},
        {"manufacturer": "Fronius", "current": 1.5, "voltage_l1": 230.5, "power": 345.0, "frequency": 50.0,
         "energy": 12346.0, "state": "mppt"},
    ),
    "growatt_tl_x": (
        {INPUTS: {0: (1,), 1: (0, 12345), 3: (3456,), 35: (1, 0), 37: (5001,), 53: (0, 123), 93: (0xFFF6,)},
         HOLDING: {3: (80,), 23: (0x4142, 0x4344, 0x3132, 0x3334, 0x3536)}},
        {"state": "normal", "dc_power": 1234.5, "pv1_voltage": 345.6, "power": 6553.6, "frequency": 50.01,
         "energy_today": 12.3, "temperature": -1.0, "power_limit": 80, "serial": "ABCD123456"},
    ),
}  # fmt: skip


def block(held):
    """Registers from 0 to the last that is held; the others are 0."""
    words = [0] * (max((start + len(run) for start, run in held.items()), default=0) + 130)
    for start, run in held.items():
        words[start : start + len(run)] = run
    return [SimData(0, values=words[:65536], datatype=DataType.REGISTERS)]


@asynccontextmanager
async def bus(template, held, **device):
    bits = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    simulated = SimDevice(5, simdata=(bits, bits, block(held.get(HOLDING, {})), block(held.get(INPUTS, {}))))
    server = ModbusTcpServer([simulated], address=("127.0.0.1", 0))
    assert await server.listen()
    port = server.transport.sockets[0].getsockname()[1]
    tree = {"host": "127.0.0.1", "port": port, "devices": [{"name": "D", "template": template, "unit_id": 5} | device]}
    try:
        async with open_modbus(parse_config(ModbusConfig, tree, "buses[0]"), SystemClock()) as driver:
            yield driver
    finally:
        await server.shutdown()


async def read_all(driver):
    return {reading.key: reading for poll in driver.polls() for reading in await driver.read(poll)}


def test_every_template_that_comes_along_is_tried():
    assert names() == sorted(TABLE)


@pytest.mark.parametrize("template", sorted(TABLE))
async def test_values(template):
    held, expected = TABLE[template]
    async with bus(template, held) as driver:
        readings = await read_all(driver)
        found = {key: reading.value for key, reading in readings.items()}
        assert {key: found[key] for key in expected} == expected
        known = {point.key for poll in driver.polls() for point in poll.points}
        assert known - set(found) == ({"dc_power"} if template == "fronius_sunspec_float" else set())
        for key in ("serial", "identification", "model"):
            assert key not in readings or readings[key].is_attribute


async def test_a_limit_is_kept_and_a_good_value_arrives():
    async with bus("growatt_tl_x", TABLE["growatt_tl_x"][0]) as driver:
        assert await driver.write(Write(device="D", key="power_limit", value=60)) == 60
        with pytest.raises(RejectedError, match="101 is outside of 0 to 100"):
            await driver.write(Write(device="D", key="power_limit", value=101))
        assert await driver.query(Query(device="D", key="power_limit")) == 60


async def test_what_a_device_changes_of_its_template():
    own = [{"key": "m_power", "table": "input_register", "address": 0, "type": "float32"}]
    changes = {
        "prefix": "m_",
        "leave_out": ["voltage_*", "*_l?"],
        "groups": {"now": {"every_ms": 500}},
        "telemetry": own,
    }
    async with bus("eastron_sdm630", TABLE["eastron_sdm630"][0], **changes) as driver:
        readings = await read_all(driver)
        assert readings["m_power"].value == 230.5, "a point that stands at the device wins"
        assert all(key.startswith("m_") and "voltage" not in key and "_l" not in key for key in readings)
    tree = {"host": "x", "devices": [{"name": "D", "template": "eastron_sdm630"} | changes]}
    device = parse_config(ModbusConfig, tree, "buses[0]").devices[0]
    periods = {point.key: point.every_ms for point in device.telemetry}
    assert (periods["m_frequency"], periods["m_energy_import"], periods["m_power"]) == (500, 30000, None)
