"""Foreign masters, on real sockets and pseudo terminals: at the gateway's own registers, and on the line of a bus."""

import asyncio
import contextlib
import os
import pty
import socket
import struct
import tty

import pytest
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.framer import FramerType

from drivers.modbus.plugin import plugin
from drivers.modbus.protocol import tcp
from drivers.modbus.protocol.pdu import answer, parse
from drivers.modbus.server import ModbusServer
from gateway.config import parse_config
from gateway.fieldbus import Fieldbus, Servers
from gateway.fieldbus.inbox import MAX_CALLS
from gateway.ports import Query
from gateway.supervise import Counters, SystemClock
from tests.e2e.parts import until
from tests.fakes.served import FakeHouse
from tests.integration.test_modbus_raw import rtu
from tests.unit.fieldbus.inlet import FakeHouse as FakeInlet

WRITTEN = {"device": "P", "writable": True, "write_to": "telemetry", "bad_value": 0}
POINTS = [
    {"table": "input_register", "address": 0, "type": "uint32", "gateway": "pending"},
    {"table": "discrete_input", "address": 0, "type": "bool", "gateway": "cloud_connected"},
    *(
        {"table": "holding_register", "address": place, "type": "uint16", "key": f"r{place}"} | WRITTEN
        for place in range(3)
    ),
    *({"table": "coil", "address": place, "type": "bool", "key": f"c{place}"} | WRITTEN for place in range(2)),
]


@contextlib.asynccontextmanager
async def serving(**way):
    counts = {}
    house = FakeHouse()
    config = parse_config(plugin.server.config, {"units": [{"unit_id": 1, "points": POINTS}], **way}, "")

    def tally(what):
        counts[what] = counts.get(what, 0) + 1

    server = ModbusServer(config, house, SystemClock(), tally)
    task = asyncio.create_task(server.serve())
    if "tcp" in way:
        await until(lambda: is_open(server, task), 5, "it does not listen")
    else:
        await until(lambda: is_there(server.status()["is_open"]), 5, "it does not open")
    try:
        yield server, house, counts
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def is_open(server, task):
    assert not task.done()
    return server.status()["is_open"]


async def is_there(what):
    return what


def port_of(server):
    return int(server.status()["listen"].rpartition(":")[2])


async def all_functions(client, house):
    assert (await client.read_input_registers(0, count=2)).registers == [1, 4464]
    assert (await client.read_discrete_inputs(0, count=1)).bits[0] is True
    assert (await client.write_register(0, 5)).registers == [5]
    assert not (await client.write_registers(1, [6, 7])).isError()
    assert (await client.read_holding_registers(0, count=3)).registers == [5, 6, 7]
    assert not (await client.mask_write_register(address=0, and_mask=0xFFF0, or_mask=0x0002)).isError()
    assert (await client.readwrite_registers(read_address=0, read_count=2, write_address=1, values=[9])).registers == [
        2,
        9,
    ]
    assert not (await client.write_coil(0, True)).isError()
    assert not (await client.write_coils(0, [False, True])).isError()
    assert (await client.read_coils(0, count=2)).bits[:2] == [False, True]
    assert (await client.read_holding_registers(2, count=2)).exception_code == 2
    assert [telemetry for _, telemetry, _ in house.posts] == [
        {"r0": 5},
        {"r1": 6, "r2": 7},
        {"r0": 2},
        {"r1": 9},
        {"c0": True},
        {"c0": False, "c1": True},
    ]


@pytest.mark.parametrize(("framing", "framer"), [("tcp", FramerType.SOCKET), ("rtu_over_tcp", FramerType.RTU)])
async def test_a_foreign_master_over_tcp(framing, framer):
    async with serving(tcp={"listen": 0, "framing": framing}) as (server, house, _):
        client = AsyncModbusTcpClient("127.0.0.1", port=port_of(server), framer=framer, timeout=2, retries=0)
        assert await client.connect()
        try:
            await all_functions(client, house)
        finally:
            client.close()


@contextlib.asynccontextmanager
async def null_modem():
    """Two device files; what one is told the other hears."""
    loop = asyncio.get_running_loop()
    ends = [pty.openpty() for _ in range(2)]
    for _, far in ends:
        tty.setraw(far)
    for (near, _), (other, _) in (ends, ends[::-1]):
        loop.add_reader(near, lambda near=near, other=other: os.write(other, os.read(near, 4096)))
    try:
        yield [os.ttyname(far) for _, far in ends]
    finally:
        for near, far in ends:
            loop.remove_reader(near)
            os.close(near)
            os.close(far)


async def test_a_foreign_master_on_a_serial_line():
    async with null_modem() as (ours, theirs), serving(serial={"device": ours, "baud": 115200}) as (_, house, counts):
        client = AsyncModbusSerialClient(theirs, baudrate=115200, timeout=2, retries=0)
        assert await client.connect()
        try:
            await all_functions(client, house)
            assert "noise" not in counts
        finally:
            client.close()


async def test_a_serial_slave_is_silent_for_others_and_hears_its_own_request_behind_noise():
    async with null_modem() as (ours, theirs), serving(serial={"device": ours}) as (_, house, counts):
        line = os.open(theirs, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            write = bytes.fromhex("06 00 00 00 01")
            os.write(line, rtu(2, write) + rtu(2, write) + rtu(0, write) + b"\x01\x10\xff" + rtu(1, write))
            await until(lambda: is_there(counts.get("writes") == 2), 5, "not written")
            await asyncio.sleep(0.1)
            assert os.read(line, 100) == rtu(1, write)
            assert house.posts == [("P", {"r0": 1}, {})] * 2
        finally:
            os.close(line)


# ── who may come in, and how slow ──


async def talk(port, data, answer_bytes=0):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            return await reader.readexactly(answer_bytes) if answer_bytes else await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


READ = tcp.encode(1, 1, bytes.fromhex("03 00 00 00 01"))


@pytest.mark.parametrize(
    ("more", "data", "counted"),
    [
        ({"allow": ["10.0.0.0/8"]}, READ, "refused"),
        ({}, b"GET / HTTP/1.1\r\n\r\n", "bad_frames"),
        ({"frame_timeout_s": 0.1}, READ[:5], "closed_slow"),
        ({"frame_timeout_s": 0.1}, READ + READ[:5], "closed_slow"),
        ({"idle_timeout_s": 0.1}, b"", "closed_idle"),
    ],
)
async def test_who_is_closed(more, data, counted):
    async with serving(tcp={"listen": 0, **more}) as (server, _, counts):
        await talk(port_of(server), data)
        assert counts[counted] == 1
        await until(lambda: is_there(server.status()["connections"] == 0), 5, "still open")


async def test_one_byte_now_and_then_does_not_keep_a_connection_open():
    async with serving(tcp={"listen": 0, "frame_timeout_s": 0.3}) as (server, _, counts):
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        for byte in READ:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
            if counts.get("closed_slow"):
                break
        assert counts == {"closed_slow": 1}
        writer.transport.abort()


async def test_one_master_too_many_is_refused_and_the_others_go_on():
    async with serving(tcp={"listen": 0, "max_connections": 2}) as (server, _, counts):
        port = port_of(server)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until(lambda: is_there(server.status()["connections"] == 2), 5, "not in")
        assert await talk(port, READ) == b""
        assert counts["refused"] == 1
        assert server.status()["last_refused"] == "127.0.0.1"
        for reader, writer in held:
            writer.write(READ)
            assert (await reader.readexactly(11))[:2] == b"\0\1"
            writer.transport.abort()


async def test_a_master_that_takes_no_answers_is_closed():
    async with serving(tcp={"listen": 0, "frame_timeout_s": 0.2}) as (server, _, counts):
        with socket.socket() as master:
            master.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            master.setblocking(False)
            await asyncio.get_running_loop().sock_connect(master, ("127.0.0.1", port_of(server)))
            async with asyncio.timeout(20):
                while not counts.get("closed_slow"):
                    with contextlib.suppress(BlockingIOError):
                        master.send(READ * 1000)
                    await asyncio.sleep(0.001)
        await until(lambda: is_there(server.status()["connections"] == 0), 5, "still open")


async def test_a_write_is_answered_when_it_is_durable_and_not_before():
    async with serving(tcp={"listen": 0}) as (server, house, _):
        house.gate.clear()
        writing = asyncio.create_task(talk(port_of(server), tcp.encode(7, 1, bytes.fromhex("06 00 00 00 05")), 12))
        await asyncio.sleep(0.1)
        assert not writing.done()
        assert (await talk(port_of(server), READ, 11)).endswith(b"\0\0")  # others do not wait for it
        house.gate.set()
        assert (await writing).hex() == "000700000006" + "010600000005"


# ── a line that is shared ──


class Plant:
    """A unit behind a TCP port that takes one connection and answers after a while; unit 9 is silent."""

    def __init__(self, delay_s=0.002):
        self.delay_s, self.asked, self.connections = delay_s, [], 0
        self.awake = asyncio.Event()
        self.awake.set()
        self.silent = {9}
        self.held = 0

    async def enter(self, reader, writer):
        self.connections += 1
        framer = tcp.TcpFramer()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                for number, unit, pdu in framer.feed(data):
                    self.asked.append(pdu)
                    await asyncio.sleep(self.delay_s)
                    self.held += 1
                    await self.awake.wait()
                    self.held -= 1
                    if unit not in self.silent:
                        request = parse(pdu)
                        writer.write(tcp.encode(number, unit, answer(request, [7] * request.count)))
        writer.transport.abort()


@contextlib.asynccontextmanager
async def shared(timeout_s=0.3, **share):
    plant = Plant()
    peers = set()

    def enter(reader, writer):
        task = asyncio.create_task(plant.enter(reader, writer))
        peers.add(task)
        task.add_done_callback(peers.discard)

    listening = await asyncio.start_server(enter, "127.0.0.1", 0)
    point = {"key": "t", "table": "holding_register", "address": 100, "type": "uint16"}
    bus = {
        "kind": "modbus",
        "host": "127.0.0.1",
        "port": listening.sockets[0].getsockname()[1],
        "timeout_s": timeout_s,
        "share": {"listen": 0, **share},
        "devices": [{"name": "A", "every_ms": 20, "telemetry": [point]}],
    }
    clock, counters = SystemClock(), Counters()
    inlet = FakeInlet("A")
    fieldbus = Fieldbus([bus], inlet, clock, counters)
    servers = Servers([], fieldbus, clock, counters)
    assert servers.is_any
    tasks = [asyncio.create_task(fieldbus.serve()), asyncio.create_task(servers.serve())]
    (owner,) = fieldbus.buses

    async def is_ready():
        return owner.is_open and servers.status()[0]["is_open"]

    await until(is_ready, 5, "not shared")
    try:
        yield plant, listening, owner, servers, int(servers.status()[0]["listen"].rpartition(":")[2])
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        listening.close()
        plant.awake.set()
        await asyncio.gather(*peers)


async def ask(port, text, unit=1):
    """PDU of the answer, as hexadecimal text."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(tcp.encode(3, unit, bytes.fromhex(text)))
    try:
        async with asyncio.timeout(15):
            head = await reader.readexactly(7)
            body = await reader.readexactly(struct.unpack(">H", head[4:6])[0] - 1)
    finally:
        writer.transport.abort()
    return body.hex(" ")


async def test_other_masters_reach_a_device_that_takes_one_connection():
    async with shared(units=[1, 9], writes=True) as (plant, _, _, servers, port):
        assert await ask(port, "03 00 05 00 02") == "03 04 00 07 00 07"
        assert await ask(port, "06 00 05 00 02") == "06 00 05 00 02"
        assert await ask(port, "03 00 05 00 00") == "83 03"  # broken: it does not travel
        assert await ask(port, "03 00 05 00 01", unit=2) == "83 0a"
        assert await ask(port, "03 00 05 00 01", unit=9) == "83 0b"
        assert plant.connections == 1
        assert bytes.fromhex("03 00 05 00 00") not in plant.asked
        assert servers.status()[0]["counts"] == {"exceptions": 3, "requests": 5}


async def test_writes_of_others_are_off_unless_allowed():
    async with shared() as (plant, _, _, _, port):
        assert await ask(port, "06 00 05 00 02") == "86 01"
        assert await ask(port, "17 00 00 00 01 00 00 00 01 02 00 09") == "97 01"
        assert await ask(port, "55 00") == "d5 01"  # who knows what it does
        assert await ask(port, "2b 0d 01 23 10 00 00 01") == "ab 01"  # CANopen, may write
        assert not any(pdu[0] in (6, 0x17, 0x2B, 0x55) for pdu in plant.asked)


async def test_a_full_inbox_and_a_lost_line_have_exceptions_of_their_own():
    async with shared(timeout_s=5.0) as (plant, listening, owner, _, port):
        plant.awake.clear()
        waiting = [owner.submit(Query(device="A", key="t"))]
        await until(lambda: is_there(plant.held), 5, "nothing is asked")  # a poll that was under way, or this
        while owner.calls_waiting < MAX_CALLS:
            waiting.append(owner.submit(Query(device="A", key="t")))
        assert await ask(port, "03 00 05 00 01") == "83 06"
        plant.awake.set()
        await asyncio.wait(waiting)
        listening.close()
        await until(lambda: is_lost(owner, port), 10, "no exception 10")


async def is_lost(owner, port):
    owner._driver._wire.close()
    return await ask(port, "03 00 05 00 01") == "83 0a"


async def test_a_master_that_floods_leaves_the_polls_and_other_masters_their_turn():
    async with shared() as (plant, _, _, _, port):
        flood = []
        for _ in range(6):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            flood.append(asyncio.create_task(pour(reader, writer)))
        await asyncio.sleep(0.2)
        plant.asked.clear()
        began_s = asyncio.get_running_loop().time()
        for _ in range(20):
            assert await ask(port, "03 00 2a 00 01") == "03 02 00 07"
        took_s = asyncio.get_running_loop().time() - began_s
        asked = list(plant.asked)
        polls = sum(pdu[1:3] == b"\x00\x64" for pdu in asked)
        strangers = sum(pdu[1:3] == b"\x00\x05" for pdu in asked)
        assert polls >= len(asked) / 10, (polls, len(asked), took_s)
        assert strangers <= 20 * 8  # seven masters: each has one turn in seven
        for task in flood:
            task.cancel()
        await asyncio.wait(flood)


async def test_a_master_that_asks_for_units_that_do_not_exist_leaves_half_of_the_line_to_the_polls():
    async with shared() as (plant, _, owner, _, port):
        plant.silent = set(range(2, 256))
        asking = [asyncio.create_task(search(port, range(2 + part, 256, 8))) for part in range(8)]
        await asyncio.sleep(0.5)
        plant.asked.clear()
        began_s = asyncio.get_running_loop().time()
        await asyncio.sleep(2.0)
        assert await owner.submit(Query(device="A", key="t")) == 7, "and calls of our own go before"
        took_s = asyncio.get_running_loop().time() - began_s
        polls = sum(pdu[1:3] == b"\x00\x64" for pdu in plant.asked)
        assert polls >= 0.3 * took_s / 0.02, (polls, took_s)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def test_a_unit_that_no_poll_asks_and_that_is_silent_is_not_worth_a_timeout_each_time():
    async with shared() as (plant, _, _, _, port):
        plant.silent = {5}
        for _ in range(6):
            assert await ask(port, "03 00 05 00 01", unit=5) == "83 0b"
        assert sum(pdu[1:3] == b"\x00\x05" for pdu in plant.asked) == 2
        plant.silent.clear()
        await until(lambda: is_back(port), 5, "it is tried again")


async def is_back(port):
    return await ask(port, "03 00 05 00 01", unit=5) == "03 02 00 07"


async def search(port, units):
    for unit in units:
        await ask(port, "03 00 05 00 01", unit=unit)


async def pour(reader, writer):
    request = tcp.encode(1, 1, bytes.fromhex("03 00 05 00 01"))

    async def drink():
        while await reader.read(4096):
            pass

    drinking = asyncio.create_task(drink())
    try:
        while True:
            writer.write(request * 50)
            await writer.drain()
            await asyncio.sleep(0)
    finally:
        drinking.cancel()
        writer.transport.abort()
