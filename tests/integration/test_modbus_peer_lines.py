"""Serial lines against a foreign peer, pymodbus' server at the other end of the wire: read, written, echoed, to all."""

from contextlib import asynccontextmanager

import pytest
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import open_modbus
from drivers.modbus.protocol.rtu import RtuFramer
from drivers.modbus.registers import Table
from drivers.modbus.wire_open import open_wire
from gateway.errors import BusLost, TransientError
from gateway.ports import Query, Write
from gateway.supervise import SystemClock
from tests.fakes.pty_pair import PtyPair

POINTS = [
    {"key": f"k{n}", "table": "holding_register", "address": n, "type": "uint16", "writable": True} for n in (0, 1)
]
UNITS = (1, 2)


def config_of(link, **line):
    return ModbusConfig.model_validate(
        {
            "name": "plant",
            "timeout_s": 0.3,
            "line": {"kind": "rtu", "device": str(link), "baud": 19200, **line},
            "devices": [{"name": f"D{unit}", "unit_id": unit, "telemetry": POINTS} for unit in UNITS],
        }
    )


@asynccontextmanager
async def peer(tmp_path, *, framer=FramerType.RTU, answer=None, is_echoed=False):
    units = [
        SimDevice(unit, simdata=[SimData(0, values=[unit * 10 + n for n in range(3)], datatype=DataType.REGISTERS)])
        for unit in UNITS
    ]
    with PtyPair(tmp_path / "near", tmp_path / "far", echo=is_echoed, answer=answer).open() as pair:
        server = ModbusSerialServer(
            units, framer=framer, port=str(pair.far), baudrate=19200, broadcast_enable=True, ignore_missing_devices=True
        )
        await server.listen()
        try:
            yield pair
        finally:
            await server.shutdown()


@asynccontextmanager
async def wire_to(pair, **line):
    wire = open_wire(config_of(pair.near, **line), SystemClock())
    try:
        yield wire
    finally:
        wire.close()


@pytest.mark.parametrize(
    ("framer", "is_echoed", "line"),
    [
        (FramerType.RTU, False, {"connect_pause_ms": 120, "gap_ms": 15}),
        (FramerType.RTU, True, {"echo": True}),
        (FramerType.ASCII, False, {"kind": "ascii"}),
        (FramerType.ASCII, True, {"kind": "ascii", "echo": True, "data_bits": 7, "parity": "even"}),
    ],
    ids=["rtu", "rtu with echo", "ascii", "ascii with echo"],
)
async def test_two_foreign_units_on_one_line(tmp_path, framer, is_echoed, line):
    async with (
        peer(tmp_path, framer=framer, is_echoed=is_echoed) as pair,
        open_modbus(config_of(pair.near, **line), SystemClock()) as driver,
    ):
        first, second = driver.polls()
        for poll, unit in [(first, 1), (second, 2)] * 3:
            assert [reading.value for reading in await driver.read(poll)] == [unit * 10, unit * 10 + 1]
        assert await driver.write(Write(device="D2", key="k1", value=77)) == 77
        assert [reading.value for reading in await driver.read(first)] == [10, 11]
        assert await driver.query(Query(device="D2", key="k1")) == 77


async def test_the_pauses_are_kept(tmp_path):
    async with peer(tmp_path) as pair, wire_to(pair, connect_pause_ms=150, gap_ms=40, turnaround_ms=90) as wire:
        clock = SystemClock()
        started_s = clock.monotonic_s()
        await wire.read_registers(1, Table.HOLDING_REGISTER, 0, 1)
        assert pair.sent[0][1] - started_s >= 0.14
        await wire.read_registers(1, Table.HOLDING_REGISTER, 0, 1)
        assert pair.sent[1][1] - pair.came_s[0] >= 0.035
        await wire.write_registers(0, 1, [55])
        await wire.read_registers(1, Table.HOLDING_REGISTER, 0, 1)
        assert pair.sent[3][1] - pair.sent[2][1] >= 0.085


async def test_a_write_to_all_reaches_all(tmp_path):
    async with peer(tmp_path) as pair, wire_to(pair) as wire:
        await wire.write_registers(0, 1, [55])
        for unit in UNITS:
            assert list(await wire.read_registers(unit, Table.HOLDING_REGISTER, 0, 2)) == [unit * 10, 55]


async def test_units_that_answer_for_each_other_are_never_believed(tmp_path):
    def exchanged(data):
        return RtuFramer().encode({1: 2, 2: 1}.get(data[0], data[0]), data[1:-2])

    async with peer(tmp_path, answer=exchanged) as pair, wire_to(pair, late_ms=50) as wire:
        for unit, other in ((1, 2), (2, 1)):
            with pytest.raises(TransientError, match=rf"unit {other} answered in its place"):
                await wire.read_registers(unit, Table.HOLDING_REGISTER, 0, 2)
        pair.answer = None
        for unit in UNITS:
            assert list(await wire.read_registers(unit, Table.HOLDING_REGISTER, 0, 2)) == [unit * 10, unit * 10 + 1]


async def test_a_port_without_direction_says_so_and_nothing_is_sent(tmp_path):
    async with peer(tmp_path) as pair, wire_to(pair, rs485={}) as wire:
        with pytest.raises(BusLost, match="has no RS-485 direction in its kernel driver"):
            await wire.read_registers(1, Table.HOLDING_REGISTER, 0, 1)
        assert pair.sent == []
