"""A small plant behind a real Modbus TCP server: something to connect to without hardware.

Unit 1 is a boiler, unit 2 a pump:

| unit | table | address | type | what |
|---|---|---|---|---|
| 1 | holding_register | 0 | int16, tenths | temperature in °C; follows the setpoint |
| 1 | holding_register | 2 | float32 | pressure in bar; follows the temperature |
| 1 | holding_register | 10 | uint16 | setpoint in °C, writable |
| 1 | input_register | 10 | string of 8 registers | serial number |
| 1 | discrete_input | 0 | bool | burner on |
| 2 | coil | 0 | bool | pump on, writable |
| 2 | holding_register | 0 | uint16 | speed in 1/min; falls when the pump is off |
| 2 | holding_register | 4 | uint32 | running hours |
| 2 | input_register | 0 | float32 | flow in m³/h; follows the speed |

Other registers of unit 1 up to 10 and of unit 2 up to 5 exist and are 0; beyond them it answers `illegal data address`.
The values are computed when somebody looks, from the time that has passed: an idle plant costs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.modbus.registers import Layout, Type, encode

SERIAL = "BLR-2024-000117"
_FLOAT32 = Layout(type=Type.FLOAT32)
_UINT32 = Layout(type=Type.UINT32)
_TENTHS = Layout(type=Type.INT16, scale=0.1)
_READ_INPUTS, _READ_BITS = 4, 2
_HOLDING = (3, 6, 16, 22, 23)
_COILS = (1, 5, 15)
_WRITES = (5, 6, 15, 16, 22, 23)


class Boiler:
    """Temperature goes towards the setpoint with a time constant; the burner switches with a hysteresis."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.temperature = 60.0 + 5.0 * rng.random()
        self.setpoint = 70
        self.is_burning = True

    @property
    def pressure(self) -> float:
        """Bar."""
        return 1.0 + self.temperature / 80.0

    def advance(self, dt_s: float) -> None:
        """Let time pass."""
        if self.temperature < self.setpoint - 1.0:
            self.is_burning = True
        elif self.temperature > self.setpoint + 1.0:
            self.is_burning = False
        aim = self.setpoint + 3.0 if self.is_burning else self.setpoint - 15.0
        self.temperature += (aim - self.temperature) * (1.0 - math.exp(-dt_s / 30.0))
        self.temperature += self._rng.gauss(0.0, 0.05) * min(1.0, dt_s)
        self.temperature = min(150.0, max(5.0, self.temperature))


class Pump:
    """Speed goes to its nominal value when on and to nothing when off, within seconds; flow follows the speed."""

    NOMINAL = 1450.0

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.is_on = True
        self.speed = self.NOMINAL
        self.hours = 1200.0 + rng.randrange(100)

    @property
    def flow(self) -> float:
        """Cubic metres per hour."""
        return max(0.0, self.speed / self.NOMINAL * (12.5 + self._rng.gauss(0.0, 0.05)))

    def advance(self, dt_s: float) -> None:
        """Let time pass."""
        aim = self.NOMINAL if self.is_on else 0.0
        self.speed += (aim - self.speed) * (1.0 - math.exp(-dt_s / 2.0))
        if self.is_on:
            self.hours += dt_s / 3600.0


class Plant:
    """Both machines and their registers. `now_s` is the plant's own time."""

    def __init__(self, seed: int | None = None, now_s: Callable[[], float] = time.monotonic) -> None:
        rng = random.Random(seed)
        self.boiler, self.pump = Boiler(rng), Pump(rng)
        self._now_s = now_s
        self._last_s = now_s()

    def advance(self) -> None:
        """Bring both machines up to now."""
        now_s = self._now_s()
        dt_s, self._last_s = now_s - self._last_s, now_s
        if dt_s > 0:
            self.boiler.advance(dt_s)
            self.pump.advance(dt_s)

    def devices(self) -> list[SimDevice]:
        """As the server serves them."""
        serial = encode(SERIAL, Layout(type=Type.STRING, count=8))
        return [
            SimDevice(
                1,
                simdata=(_bits(), _bits(), [_registers(0, [0] * 11)], [_registers(10, serial)]),
                action=self._boiler_accessed,
            ),
            SimDevice(
                2,
                simdata=(_bits(), _bits(), [_registers(0, [0] * 6)], [_registers(0, [0, 0])]),
                action=self._pump_accessed,
            ),
        ]

    async def _boiler_accessed(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        self.advance()
        boiler = self.boiler
        if function in _HOLDING:
            if values is not None and function in _WRITES and address <= 10 < address + len(values):
                setpoint = int(values[10 - address])
                if setpoint > 120:
                    return ExcCodes.ILLEGAL_VALUE
                boiler.setpoint = setpoint
            registers[0:1] = encode(round(boiler.temperature, 1), _TENTHS)
            registers[2:4] = encode(boiler.pressure, _FLOAT32)
            registers[10] = boiler.setpoint
        elif function == _READ_BITS:
            registers[0] = int(boiler.is_burning)
        return None

    async def _pump_accessed(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        self.advance()
        pump = self.pump
        if function in _COILS:
            if values is not None and function in _WRITES and address == 0:
                pump.is_on = bool(values[0])
            registers[0] = registers[0] & ~1 | pump.is_on
        elif function in _HOLDING:
            registers[0] = round(pump.speed)
            registers[4:6] = encode(int(pump.hours), _UINT32)
        elif function == _READ_INPUTS:
            registers[0:2] = encode(pump.flow, _FLOAT32)
        return None


@asynccontextmanager
async def open_plant(port: int = 0, seed: int | None = None) -> AsyncIterator[tuple[Plant, int]]:
    """A listening plant and its port; port 0 takes a free one.

    Raises:
        OSError: The port is taken.
    """
    plant = Plant(seed)
    server = ModbusTcpServer(plant.devices(), address=("127.0.0.1", port))
    if not await server.listen():
        raise OSError(f"port {port} cannot be opened")
    try:
        yield plant, server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]


def _registers(address: int, values: Sequence[int]) -> SimData:
    return SimData(address, values=list(values), datatype=DataType.REGISTERS)


def _bits() -> list[SimData]:
    return [SimData(0, values=[False] * 16, datatype=DataType.BITS)]


async def _serve(port: int, seed: int | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_plant(port, seed) as (_, bound):
        print(f"plant: modbus tcp on 127.0.0.1:{bound}", flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m drivers.simulator.plant --port 5020`."""
    parser = argparse.ArgumentParser(prog="python -m drivers.simulator.plant", description="A simulated plant.")
    parser.add_argument("--port", type=int, default=5020, help="TCP port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--seed", type=int, default=None, help="the same numbers each time")
    options = parser.parse_args(arguments)
    logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_serve(options.port, options.seed))
    except OSError as error:
        parser.exit(1, f"plant: {error}\n")


if __name__ == "__main__":
    main()
