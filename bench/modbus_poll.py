"""Requests and registers a second of our Modbus driver, beside plain pymodbus in the same run.

    python -m bench.modbus_poll [--seconds 3]

The slave is a process of its own; both sides ask it for 100 holding registers at a time, one request in flight.
Ours decodes the registers into 100 readings with time stamps; pymodbus alone hands over bare words. The rounds
alternate, so that a noisy machine disturbs both. A ratio near 1 says that the driver costs little beside its library.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from typing import Any

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import open_modbus
from gateway.supervise import SystemClock

REGISTERS = 100
ROUNDS = 4


def _slave(ports: Any) -> None:
    async def serve() -> None:
        data = SimData(0, values=list(range(200)), datatype=DataType.REGISTERS)
        server = ModbusTcpServer(SimDevice(1, simdata=[data]), address=("127.0.0.1", 0))
        await server.listen()
        ports.put(server.transport.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(serve())


async def _ours(port: int, seconds: float) -> tuple[int, float]:
    points = [
        {"key": f"k{n}", "table": "holding_register", "address": n, "type": "uint16", "scale": 0.1}
        for n in range(REGISTERS)
    ]
    config = ModbusConfig.model_validate(
        {"name": "bench", "host": "127.0.0.1", "port": port, "devices": [{"name": "D", "telemetry": points}]}
    )
    async with open_modbus(config, SystemClock()) as driver:
        (poll,) = driver.polls()
        assert len(await driver.read(poll)) == REGISTERS
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            await driver.read(poll)
            count += 1
        return count, time.perf_counter() - start


async def _plain(port: int, seconds: float) -> tuple[int, float]:
    async with AsyncModbusTcpClient("127.0.0.1", port=port) as client:
        assert len((await client.read_holding_registers(0, count=REGISTERS, device_id=1)).registers) == REGISTERS
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            await client.read_holding_registers(0, count=REGISTERS, device_id=1)
            count += 1
        return count, time.perf_counter() - start


async def _measure(port: int, seconds: float) -> None:
    totals = {"pymodbus": [0, 0.0], "ours": [0, 0.0]}
    for _ in range(ROUNDS):
        for name, run in (("pymodbus", _plain), ("ours", _ours)):
            count, spent = await run(port, seconds / ROUNDS)
            totals[name][0] += count
            totals[name][1] += spent
    rates = {name: count / spent for name, (count, spent) in totals.items()}
    for name, rate in rates.items():
        print(f"{name:10} {rate:8.0f} requests/s {rate * REGISTERS:10.0f} registers/s")
    print(f"ratio ours/pymodbus: {rates['ours'] / rates['pymodbus']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each side")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    slave = context.Process(target=_slave, args=(ports,), daemon=True)
    slave.start()
    try:
        asyncio.run(_measure(ports.get(timeout=20), options.seconds))
    finally:
        slave.terminate()
        slave.join()


if __name__ == "__main__":
    main()
