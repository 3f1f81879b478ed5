"""A foreign master at a whole gateway: what it reads, and what becomes of a write that was answered."""

import asyncio
import contextlib
import random
import struct
import time

import pytest

from drivers.modbus.protocol import tcp
from drivers.modbus.protocol.pdu import answer, parse
from gateway.demo.processes import free_port
from tests.e2e.parts import CloudProcess, GatewayProcess, NumberedDevice, until
from tests.e2e.test_kill_http import is_in_the_cloud, kill_at_random

WRITTEN = {"writable": True, "bad_value": 0}


class Master:
    """Asks one thing at a time; connects anew after a loss."""

    def __init__(self, port):
        self._port, self._stream = port, None

    async def ask(self, text, unit=1):
        """PDU of the answer, as hexadecimal text."""
        if self._stream is None:
            self._stream = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._stream
        try:
            writer.write(tcp.encode(1, unit, bytes.fromhex(text)))
            async with asyncio.timeout(10):
                head = await reader.readexactly(7)
                return (await reader.readexactly(struct.unpack(">H", head[4:6])[0] - 1)).hex(" ")
        except BaseException:
            self.close()
            raise

    def close(self):
        if self._stream is not None:
            self._stream[1].transport.abort()
            self._stream = None


@pytest.mark.server
@pytest.mark.slow
async def test_every_write_that_was_answered_reaches_the_cloud_in_order_through_random_kills(tmp_path):
    port = free_port()
    point = {"table": "holding_register", "address": 0, "type": "uint32", "device": "Panel", "key": "seq"}
    server = {
        "kind": "modbus",
        "tcp": {"listen": port},
        "units": [{"points": [point | WRITTEN | {"write_to": "telemetry"}]}],
    }
    async with CloudProcess(tmp_path) as cloud, GatewayProcess(tmp_path, cloud.grpc_port, servers=[server]) as gateway:
        answered, master = 0, Master(port)

        async def write():
            nonlocal answered
            while True:
                try:
                    said = await master.ask(f"10 0000 0002 04 {answered + 1:08x}")
                    if said == "10 00 00 00 02":
                        answered += 1
                    else:
                        assert said == "90 06"  # it is about to stop
                except (OSError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.02)

        writing = asyncio.create_task(write())
        try:
            await kill_at_random(gateway, lambda: answered, random.Random(5))
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
        await is_in_the_cloud(cloud, gateway, {"Panel": answered})
        state = await cloud.state()
        assert (state["out_of_order"], state["violation_counts"]) == (0, {})


class Plant:
    """A unit with eight holding registers."""

    def __init__(self):
        self.held = [0] * 8

    async def enter(self, reader, writer):
        framer = tcp.TcpFramer()
        while data := await reader.read(1000):
            for number, unit, pdu in framer.feed(data):
                request = parse(pdu)
                self.held[request.address : request.address + len(request.values)] = request.values
                content = self.held[request.address : request.address + request.count]
                writer.write(tcp.encode(number, unit, answer(request, content)))
        writer.close()


@pytest.mark.server
async def test_what_a_master_reads_and_writes(tmp_path):
    plant, port, shared = Plant(), free_port(), free_port()
    listening = await asyncio.start_server(plant.enter, "127.0.0.1", 0)
    bus = {
        "kind": "modbus",
        "name": "plant",
        "host": "127.0.0.1",
        "port": listening.sockets[0].getsockname()[1],
        "share": {"listen": shared, "writes": True},
        "devices": [
            {
                "name": "Boiler",
                "every_ms": 100,
                "telemetry": [
                    {"key": "t", "table": "holding_register", "address": 1, "type": "uint16", "writable": True}
                ],
            }
        ],
    }

    def shown(address, **more):
        return {"table": "holding_register", "address": address, "type": "uint16"} | more

    points = [
        shown(0, gateway="cloud_state"),
        shown(1, gateway="parked"),
        shown(2, device="Boiler", key="t", writable=True, write_to="tag"),
        shown(3, device="Mqtt", key="t", scale=0.5),
        shown(4, device="Panel", key="mode", source="client_attribute", writable=True, write_to="attribute"),
        shown(5, device="Panel", key="level", writable=True, write_to="telemetry"),
    ]
    server = {"kind": "modbus", "tcp": {"listen": port}, "units": [{"points": points}]}
    devices = [{"name": "Mqtt", "access_token": "token"}]
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, buses=[bus], servers=[server], devices=devices) as gateway,
    ):
        device = NumberedDevice("token", gateway.port)
        device.publish(time.time_ns() // 1_000_000)
        master, other = Master(port), Master(shared)
        plant.held[1] = 77

        async def reads(text, expected):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                return await master.ask(text) == expected

        await until(lambda: reads("03 0000 0004", "03 08 00 02 00 00 00 4d 00 29"), 15, "not connected, or not read")
        assert await master.ask("03 0005 0001") == "83 04"  # nobody has written it yet
        assert await master.ask("06 0002 0009") == "06 00 02 00 09"
        assert plant.held[1] == 9
        assert await master.ask("10 0004 0002 04 0003 0007") == "10 00 04 00 02"
        assert await master.ask("03 0004 0002") == "03 04 00 03 00 07"
        assert await other.ask("06 0001 000a") == "06 00 01 00 0a"
        await until(lambda: reads("03 0002 0001", "03 02 00 0a"), 5, "the poll does not bring it")

        async def is_there():
            seen = await cloud.device("Panel")
            return "level" in str(seen)

        await until(is_there, 15, "the write is not in the cloud")
        places = {each["name"]: each for each in (await gateway.status())["servers"]}
        assert places["bus plant: share"]["counts"] == {"requests": 1}
        assert places["modbus-server"]["counts"]["writes"] == 2
        assert all(each["is_open"] for each in places.values())
        await gateway.kill()
        master.close()
        await gateway.start()
        await until(lambda: reads("03 0005 0001", "03 02 00 07"), 10, "the last value is forgotten")
        device.stop()
        master.close()
        other.close()
    listening.close()
