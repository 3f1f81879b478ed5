"""Each kind of `line:` against a foreign server, and the serial port over a pair of pseudo terminals."""

import ssl
import subprocess
import time
from contextlib import asynccontextmanager

import pytest
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer, ModbusTlsServer, ModbusUdpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import open_modbus
from drivers.modbus.registers import Table
from drivers.modbus.wire_open import open_wire
from gateway.config import parse_config
from gateway.errors import BusLost, ConfigError, RefusedError, RejectedError, TransientError
from gateway.ports import Query, Write
from gateway.supervise import SystemClock
from tests.fakes.modbus_line import PtyLine, Units, held

POINTS = [
    {"key": f"k{n}", "table": "holding_register", "address": n, "type": "uint16", "writable": True} for n in (0, 1)
]


def config_of(line, timeout_s=1.0, unit_id=1):
    return ModbusConfig.model_validate(
        {
            "name": "plant",
            "timeout_s": timeout_s,
            "line": line,
            "devices": [{"name": "D", "unit_id": unit_id, "telemetry": POINTS}],
        }
    )


@asynccontextmanager
async def foreign(server_type, **more):
    data = SimData(0, values=[11, 22, 33], datatype=DataType.REGISTERS)
    server = server_type(SimDevice(1, simdata=[data]), address=("127.0.0.1", 0), **more)
    await server.listen()
    try:
        sockets = getattr(server.transport, "sockets", None)
        yield sockets[0].getsockname()[1] if sockets else server.transport.get_extra_info("sockname")[1]
    finally:
        await server.shutdown()


@asynccontextmanager
async def wire_to(line, timeout_s=1.0):
    wire = open_wire(config_of(line, timeout_s), SystemClock())
    try:
        yield wire
    finally:
        wire.close()


async def read_and_write(line):
    async with open_modbus(config_of(line), SystemClock()) as driver:
        (poll,) = driver.polls()
        assert [reading.value for reading in await driver.read(poll)] == [11, 22]
        assert await driver.write(Write(device="D", key="k1", value=77)) == 77
        assert await driver.query(Query(device="D", key="k1")) == 77


@pytest.mark.parametrize(
    ("kind", "server", "framer"),
    [
        ("tcp", ModbusTcpServer, FramerType.SOCKET),
        ("udp", ModbusUdpServer, FramerType.SOCKET),
        ("rtu_over_tcp", ModbusTcpServer, FramerType.RTU),
        ("ascii_over_tcp", ModbusTcpServer, FramerType.ASCII),
    ],
)
async def test_a_foreign_server_is_read_and_written(kind, server, framer):
    async with foreign(server, framer=framer) as port:
        await read_and_write({"kind": kind, "host": "127.0.0.1", "port": port})


async def test_tls_with_a_certificate_that_is_checked(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with foreign(ModbusTlsServer, framer=FramerType.SOCKET, sslctx=context) as port:
        line = {"kind": "tls", "host": "127.0.0.1", "port": port, "server_name": "localhost"}
        await read_and_write({**line, "ca_file": str(certificate)})
        async with wire_to(line) as wire:
            with pytest.raises(BusLost, match="TLS: CERTIFICATE_VERIFY_FAILED"):
                await wire.read_registers(1, Table.HOLDING_REGISTER, 0, 1)
        with pytest.raises(RefusedError, match="ca_file /nowhere: No such file"):
            open_wire(config_of({**line, "ca_file": "/nowhere"}), SystemClock())


@asynccontextmanager
async def pty_line(tmp_path, units, baud=19200, timeout_s=0.1, **more):
    async with PtyLine(units, baud).open(tmp_path / "adapter") as line:
        settings = {"kind": "rtu", "device": str(line.link), "baud": baud, **more}
        async with wire_to(settings, timeout_s) as wire:
            yield line, wire


def ask(wire, unit=1, address=5, count=3):
    return wire.read_registers(unit, Table.HOLDING_REGISTER, address, count)


async def test_a_line_with_a_silent_unit_and_a_refusal(tmp_path):
    async with pty_line(tmp_path, Units(1, silent={7})) as (line, wire):
        for unit in (1, 2, 3):
            assert list(await ask(wire, unit)) == [held(unit, 3, 5 + n) for n in range(3)]
        with pytest.raises(TransientError, match=r"unit 7, holding_register 5: no answer to function 0x03 in 0\.1 s"):
            await ask(wire, 7)
        with pytest.raises(TransientError, match="not asked: an answer from before may come"):
            await ask(wire, 7)
        with pytest.raises(RejectedError, match="illegal data address"):
            await ask(wire, 1, 60_000)
        assert list(await ask(wire, 2)) == [held(2, 3, 5 + n) for n in range(3)]
        assert line.overlaps == 0


async def test_a_write_to_all_units_waits_for_no_answer(tmp_path):
    async with pty_line(tmp_path, Units(1), turnaround_ms=30) as (_, wire):
        start = time.monotonic()
        await wire.write_registers(0, 1, [5])
        assert 0.03 <= time.monotonic() - start < 0.1
        with pytest.raises(RejectedError, match="unit 0 is all units of a line"):
            await ask(wire, 0)


async def test_a_bad_line_gives_right_values_or_none(tmp_path):
    spoiled = {"noise": 0.1, "flips": 0.1, "cuts": 0.05, "strangers": 0.05, "late": 0.1, "latest_s": 0.1}
    async with pty_line(tmp_path, Units(5, silent={7}, **spoiled), baud=115200, timeout_s=0.04) as (_, wire):
        good = 0
        for n in range(120):
            unit = n % 10 + 1
            try:
                assert list(await ask(wire, unit, n)) == [held(unit, 3, n + i) for i in range(3)]
                good += 1
            except TransientError:
                continue
        assert good > 30


async def test_an_adapter_that_vanishes_and_returns_is_opened_again(tmp_path):
    async with pty_line(tmp_path, Units(1), baud=115200) as (line, wire):
        for _ in range(20):
            assert list(await ask(wire)) == [held(1, 3, 5 + n) for n in range(3)]
            line.pull()
            with pytest.raises(TransientError):
                await ask(wire)
            with pytest.raises(BusLost, match="does not exist; is the adapter plugged in") as caught:
                await ask(wire)
            assert caught.value.again_s < 2
            line.plug()
        await ask(wire)
        assert wire.connects == 21


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({}, "no wire; say `host: <name>` for Modbus TCP, or `line: "),
        ({"host": "a", "line": {"kind": "tcp", "host": "b"}}, "host and port belong into `line`"),
        ({"line": {"kind": "rtu", "device": "/dev/x", "data_bits": 7}}, "rtu needs data_bits: 8"),
        ({"line": {"kind": "tls", "host": "a", "cert_file": "/c"}}, "cert_file and key_file belong together"),
        ({"line": {"kind": "rtu", "device": "/dev/x", "bauds": 1}}, "bauds"),
        ({"line": {"kind": "can", "host": "a"}}, "rtu"),
    ],
)
def test_a_wrong_line_is_told_with_what_would_be_right(tree, text):
    with pytest.raises(ConfigError) as caught:
        parse_config(ModbusConfig, {**tree, "devices": [{"name": "D", "telemetry": POINTS}]}, where="buses[0]")
    assert text in str(caught.value)


def test_the_gap_of_the_standard():
    def gap(**more):
        return config_of({"kind": "rtu", "device": "/dev/x", **more}).wire.gap_s

    assert gap(baud=9600) == pytest.approx(3.5 * 10 / 9600)
    assert gap(baud=9600, parity="even") == pytest.approx(3.5 * 11 / 9600)
    assert gap(baud=115200) == 0.00175
    assert gap(baud=9600, gap_ms=20) == 0.02
