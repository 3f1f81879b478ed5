"""Our own drivers under the suite that is shipped for everybody's: `drivers.conformance`."""

import asyncio
import struct
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drivers.conformance import Bench, DriverConformance
from drivers.modbus.plugin import plugin as modbus
from drivers.serial.plugin import plugin as serial
from drivers.simulator.driver import SimulatorDriver
from drivers.simulator.plugin import plugin as simulator
from gateway.errors import TransientError
from gateway.ports import DriverPlugin, Write
from tests.fakes.serial_line import SerialLine


@asynccontextmanager
async def registers(words):
    """A Modbus TCP server of one unit: functions 3, 4, 6, 16; and the event that silences it."""
    silent, connections = asyncio.Event(), set()

    async def serve(reader, writer):
        connections.add(writer)
        try:
            while True:
                head = await reader.readexactly(7)
                body = await reader.readexactly(struct.unpack(">H", head[4:6])[0] - 1)
                if silent.is_set():
                    continue
                function, address, count = struct.unpack(">BHH", body[:5])
                answer = body[:5]
                if function in (3, 4):
                    answer = struct.pack(f">BB{count}H", function, 2 * count, *words[address : address + count])
                elif function == 6:
                    words[address] = count
                writer.write(head[:4] + struct.pack(">HB", len(answer) + 1, head[6]) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], silent
    finally:
        server.close()
        for writer in connections:
            writer.transport.abort()
        await asyncio.sleep(0.01)


class TestModbus(DriverConformance):
    plugin = modbus
    timeout_s = 0.2

    @asynccontextmanager
    async def device(self):
        async with registers([230, 50, 65]) as (port, silent):

            async def silence():
                silent.set()

            holding = {"table": "holding_register", "type": "uint16"}
            points = [
                {"key": "volts", "address": 0} | holding,
                {"key": "setpoint", "address": 2, "writable": True} | holding,
            ]
            tree = {
                "host": "127.0.0.1",
                "port": port,
                "timeout_s": 0.2,
                "devices": [{"name": "A", "telemetry": points}],
            }
            yield Bench(
                tree=tree,
                silence=silence,
                readable=("A", "volts"),
                writable=("A", "setpoint", 70),
                read_only=("A", "volts"),
            )


class TestSerial(DriverConformance):
    plugin = serial
    timeout_s = 0.2

    @asynccontextmanager
    async def device(self):
        with tempfile.TemporaryDirectory() as folder:
            line = SerialLine(Path(folder) / "adapter").plug()
            line.answers = {b"V?\n": b"V=230\n", b"L5\n": b"OK=5\n"}

            async def silence():
                line.answers = {}

            async def speak():
                line.say(b"W=12\n")

            request = {"send": "V?\n", "regex": "^V=(?P<volts>.+)", "telemetry": [{"key": "volts"}]}
            message = {"regex": "^W=(?P<weight>.+)", "telemetry": [{"key": "weight"}]}
            limit = {"regex": "^OK=(?P<limit>.+)", "telemetry": [{"key": "limit"}]}
            device = {"name": "A", "requests": [request], "messages": [message]}
            device["commands"] = [{"key": "limit", "send": "L{value:d}\n", "min": 0, "max": 9, "answer": limit}]
            tree = {"port": str(line.name), "timeout_s": 0.2, "frame": {"end": "\n"}, "devices": [device]}
            try:
                yield Bench(
                    tree=tree,
                    silence=silence,
                    readable=("A", "volts"),
                    writable=("A", "limit", 5),
                    bad_value=11,
                    read_only=("A", "volts"),
                    speak=speak,
                )
            finally:
                line.pull()


class TestSimulator(DriverConformance):
    plugin = simulator
    timeout_s = 0.2
    driver = SimulatorDriver

    @asynccontextmanager
    async def device(self):
        points = [
            {"key": "t", "signal": {"kind": "sine"}},
            {"key": "setpoint", "signal": {"kind": "constant", "value": 65}, "writable": True},
        ]
        tree = {"timeout_s": 0.2, "devices": [{"name": "A", "fault_key": "fault", "telemetry": points}]}
        opened = []

        @asynccontextmanager
        async def remembering(config, clock):
            driver = self.driver(config, clock)
            if tree.get("is_silent"):
                await driver.write(Write(device="A", key="fault", value="silent"))
            opened.append(driver)
            yield driver

        async def silence():
            for driver in opened:
                await driver.write(Write(device="A", key="fault", value="silent"))

        self.plugin = DriverPlugin(
            kind="simulator", config=simulator.config, open=remembering, devices=simulator.devices, line=simulator.line
        )
        yield Bench(
            tree=tree, silence=silence, readable=("A", "t"), writable=("A", "setpoint", 70), read_only=("A", "t")
        )


# ── the suite notices what it is there for ──


class Broken(SimulatorDriver):
    """Each of these is what somebody's first driver does."""


class RaisesKeyError(Broken):
    async def query(self, query):
        return self._tags[query.device, query.key]


class TakesItsOwnTime(Broken):
    async def read(self, poll):
        import time
        from dataclasses import replace

        return [replace(reading, ts_ms=int(time.time() * 1000)) for reading in await super().read(poll)]


class LeavesATask(Broken):
    async def read(self, poll):
        self.left = asyncio.ensure_future(asyncio.sleep(30))
        return await super().read(poll)


class SwallowsCancellation(Broken):
    async def read(self, poll):
        try:
            return await super().read(poll)
        except asyncio.CancelledError:
            return []


class WaitsTooLong(Broken):
    async def read(self, poll):
        try:
            return await super().read(poll)
        except TransientError:
            await asyncio.sleep(1.5)
            raise


class GivesNan(Broken):
    async def read(self, poll):
        from dataclasses import replace

        return [replace(reading, value=float("nan")) for reading in await super().read(poll)]


class BelievesTheCaller(Broken):
    async def write(self, command):
        return command.value


@pytest.mark.parametrize(
    ("driver", "test"),
    [
        (RaisesKeyError, "test_an_unknown_point_or_device_is_rejected"),
        (TakesItsOwnTime, "test_readings_are_typed_values_of_known_devices_at_the_clock_s_time"),
        (GivesNan, "test_readings_are_typed_values_of_known_devices_at_the_clock_s_time"),
        (LeavesATask, "test_closing_gives_everything_back"),
        (LeavesATask, "test_a_cancelled_read_leaves_nothing_behind"),
        (SwallowsCancellation, "test_a_cancelled_read_leaves_nothing_behind"),
        (WaitsTooLong, "test_a_silent_device_is_a_transient_error_in_time"),
        (BelievesTheCaller, "test_a_bad_value_is_rejected_and_the_next_good_one_taken"),
    ],
)
def test_a_driver_that_breaks_the_contract_fails(driver, test):
    case = type("Case", (TestSimulator,), {"driver": driver})()
    with pytest.raises((AssertionError, KeyError, pytest.fail.Exception)):
        getattr(case, test)()
