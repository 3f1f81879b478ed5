"""Files of the vendor's gateway become ours: the values of its sheet (§5.3), read from a real Modbus server."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import open_modbus
from drivers.serial.config import SerialConfig
from drivers.serial.messages import kind_of
from gateway.cli import main
from gateway.config import load_config, parse_config
from gateway.errors import ConfigError
from gateway.fieldbus.plugins import Plugins, parse_buses
from gateway.fieldbus.servers import parse_servers
from gateway.ports import Query, Write
from gateway.supervise import SystemClock
from gateway.tb_import import load, to_yaml
from tests.fakes.clock import FakeClock
from tests.fakes.served import FakeHouse

VENDOR = Path(__file__).parents[2] / ".venv-tbgw/lib/python3.11/site-packages/thingsboard_gateway/config"
ABCD = [0xAABB, 0xCCDD, 0xEEFF, 0x1122]
BIG = ("BIG", "BIG")

# orders, registers, members of the data point, value. Source: device API sheet §5.3.
VECTORS = [
    (BIG, ABCD, {"type": "16uint"}, 0xAABB),
    (("LITTLE", "BIG"), ABCD, {"type": "16uint"}, 0xBBAA),
    (BIG, ABCD, {"type": "32uint"}, 0xAABBCCDD),
    (("BIG", "LITTLE"), ABCD, {"type": "32uint", "objectsCount": 2}, 0xCCDDAABB),
    (("LITTLE", "BIG"), ABCD, {"type": "32uint", "objectsCount": 2}, 0xBBAADDCC),
    (("LITTLE", "LITTLE"), ABCD, {"type": "32uint", "objectsCount": 2}, 0xDDCCBBAA),
    (("BIG", "LITTLE"), ABCD, {"type": "64uint", "objectsCount": 4}, 0x1122EEFFCCDDAABB),
    (("LITTLE", "LITTLE"), ABCD, {"type": "64uint", "objectsCount": 4}, 0x2211FFEEDDCCBBAA),
    (BIG, [0x41C8, 0], {"type": "32float", "objectsCount": 2}, 25.0),
    (("BIG", "LITTLE"), [0, 0x41C8], {"type": "32float", "objectsCount": 2}, 25.0),
    (BIG, [0x4E40], {"type": "16float"}, 25.0),
    (BIG, [0x4039, 0, 0, 0], {"type": "64float", "objectsCount": 4}, 25.0),
    (BIG, [0x4039, 0, 0, 0], {"type": "double", "objectsCount": 4}, 25.0),
    (BIG, [0x4049, 0x0FDB], {"type": "32float", "objectsCount": 2, "round": 2}, 3.14),
    (BIG, [0x4049, 0x0FDB], {"type": "32float", "objectsCount": 2}, 3.141593),
    (BIG, [0x00EB], {"type": "16int", "divider": 10}, 23.5),
    (BIG, [0x00EB], {"type": "16int", "multiplier": 10}, 2350),
    (BIG, [0x00EB], {"type": "16int", "divider": 10, "multiplier": 5}, 23.5),
    (BIG, [0xFF38], {"type": "16int", "divider": 10}, -20.0),
    (BIG, [0x0002], {"type": "16uint", "variants": {"2": "RUN"}}, "RUN"),
    (BIG, [0x0003], {"type": "16uint", "variants": {"2": "RUN"}}, 3),
    (("LITTLE", "LITTLE"), [0x4142, 0x4344], {"type": "string", "objectsCount": 2}, "ABCD"),
    (("LITTLE", "LITTLE"), [0x4142, 0x4344], {"type": "bytes", "objectsCount": 2}, "41424344"),
    (("LITTLE", "LITTLE"), [0xFE01], {"type": "8int"}, -2),
    (BIG, [0xFE01], {"type": "8uint"}, 254),
    (BIG, [0, 7], {"type": "int", "objectsCount": 2}, 7),
    (("LITTLE", "LITTLE"), [0x0100], {"type": "bits"}, True),
    (BIG, [0xFEFF], {"type": "bits"}, False),
    (("LITTLE", "BIG"), [0x0501], {"type": "bits", "objectsCount": 9}, [True, False, True, False, False, False, False, False, True]),
    (("LITTLE", "LITTLE"), [0x0002], {"type": "bits", "objectsCount": 16, "bit": 9}, 1),
    (BIG, [0x00EB], {"type": "bits", "objectsCount": 16, "bitTargetType": "int"}, None),
]  # fmt: skip
COILS = [
    ({"type": "bits", "objectsCount": 3, "address": 0}, [True, False, True]),
    ({"type": "bits", "address": 0}, True),
    ({"type": "bits", "address": 1, "bitTargetType": "int"}, 0),
    ({"type": "bits", "address": 0, "objectsCount": 3, "bit": 2}, 1),
]


def slave(number, orders, **more):
    return {
        "type": "tcp", "host": "127.0.0.1", "port": 502, "method": "socket", "unitId": number, "deviceName": f"D{number}",
        "pollPeriod": 500, "byteOrder": orders[0], "wordOrder": orders[1], "timeout": 2, **more,
    }  # fmt: skip


def write(tmp_path, tree, name="modbus.json"):
    (tmp_path / name).write_text(json.dumps(tree))
    return tmp_path / name


def load_again(imported, tmp_path):
    """What was written, read as a configuration."""
    (tmp_path / "gateway.yaml").write_text(to_yaml(imported, "x"))
    config = load_config(tmp_path / "gateway.yaml", {})
    return parse_buses(config.buses, Plugins())


async def test_values_are_those_of_the_sheet(tmp_path):
    slaves, units, expected = [], [], {}
    for number, (orders, words, members, value) in enumerate(VECTORS, 1):
        point = {"tag": "v", "functionCode": 3 + number % 2, "address": 5, **members}
        slaves.append(slave(number, orders, timeseries=[point]))
        table = [SimData(0, values=[0] * 5 + words + [0] * 20, datatype=DataType.REGISTERS)]
        bits = [SimData(0, values=[True, False, True] + [False] * 13, datatype=DataType.BITS)]
        units.append(SimDevice(number, simdata=(bits, bits, table, table)))
        if value is not None:
            expected[f"D{number}"] = {"v": value}
    coils = [{"tag": f"c{at}", "functionCode": 1 + at % 2, **members} for at, (members, _) in enumerate(COILS)]
    slaves[0]["attributes"] = coils
    expected["D1"] |= {f"c{at}": value for at, (_, value) in enumerate(COILS)}
    server = ModbusTcpServer(units, address=("127.0.0.1", 0))
    assert await server.listen()
    for each in slaves:
        each["port"] = server.transport.sockets[0].getsockname()[1]
    try:
        imported = load(write(tmp_path, {"master": {"slaves": slaves}}))
        (entry,) = load_again(imported, tmp_path)
        async with open_modbus(entry.config, SystemClock()) as driver:
            found = {}
            for poll in driver.polls():
                for reading in await driver.read(poll):
                    found.setdefault(reading.device, {})[reading.key] = reading.value
    finally:
        await server.shutdown()
    assert found == expected
    assert {(name, type(value)) for device in found.values() for name, value in device.items()} == {
        (name, type(value)) for device in expected.values() for name, value in device.items()
    }
    assert [note.text for note in imported.notes if note.is_lost and "bits as numbers" in note.text]


async def test_calls_write_what_the_vendor_writes(tmp_path):
    table = [SimData(0, values=[0] * 20, datatype=DataType.REGISTERS)]
    bits = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    server = ModbusTcpServer([SimDevice(1, simdata=(bits, bits, table, table))], address=("127.0.0.1", 0))
    assert await server.listen()
    calls = [
        {"tag": "u32", "type": "32uint", "functionCode": 16, "address": 0, "objectsCount": 2},
        {"tag": "i8", "type": "8int", "functionCode": 6, "address": 4},
        {"tag": "coils", "type": "bits", "functionCode": 15, "address": 2, "objectsCount": 3},
        {"tag": "one", "type": "16uint", "functionCode": 16, "address": 6},
        {"tag": "read", "type": "16uint", "functionCode": 3, "address": 0},
    ]
    relay = {"tag": "relay", "type": "bits", "functionCode": 1, "address": 1}
    tree = slave(1, ("LITTLE", "BIG"), port=server.transport.sockets[0].getsockname()[1], rpc=calls, timeseries=[relay])
    tree["attributeUpdates"] = [relay | {"functionCode": 5}]
    try:
        (entry,) = load_again(load(write(tmp_path, {"master": {"slaves": [tree]}})), tmp_path)
        async with open_modbus(entry.config, SystemClock()) as driver:
            assert [point.key for poll in driver.polls() for point in poll.points] == ["relay"], "calls are not polled"
            assert await driver.write(Write(device="D1", key="u32", value=0xAABBCCDD)) == 0xAABBCCDD
            assert await driver.query(Query(device="D1", key="read")) == 0xAABB, "BBAA DDCC on the wire"
            assert await driver.write(Write(device="D1", key="i8", value=1)) == 1
            assert await driver.write(Write(device="D1", key="coils", value=[True, False, True])) == [True, False, True]
            assert await driver.write(Write(device="D1", key="relay", value=1)) is True
            assert await driver.write(Write(device="D1", key="one", value=9)) == 9
            assert driver.is_writable("D1", "read") is False
    finally:
        await server.shutdown()


def points_of(imported, section="telemetry"):
    return imported.buses[0]["devices"][0].get(section)


def notes(imported):
    return "\n".join(f"{note.where}: {note.text}" for note in imported.notes)


def test_ranges_become_points(tmp_path):
    items = [
        {"tag": "r_${address}", "type": "16uint", "functionCode": 3, "address": "0-3"},
        {"tag": "w", "type": "32uint", "functionCode": 3, "address": "10-13", "objectsCount": 2},
        {"tag": "u${unitId}_${address}", "type": "16uint", "functionCode": 4, "address": "7-7"},
    ]
    imported = load(write(tmp_path, {"master": {"slaves": [slave(9, BIG, timeseries=items)]}}))
    found = [(point["key"], point["address"]) for point in points_of(imported)]
    assert found == [("r_0", 0), ("r_1", 1), ("r_2", 2), ("r_3", 3), ("w_10", 10), ("w_12", 12), ("u9_7", 7)]


def test_report_strategies_by_their_precedence(tmp_path):
    def item(tag, address, **strategy):
        more = {"reportStrategy": strategy} if strategy else {}
        return {"tag": tag, "type": "16int", "functionCode": 3, "address": address, **more}

    items = [
        item("a", 0),
        item("b", 1, type="ON_RECEIVED"),
        item("c", 2, type="ON_CHANGE_OR_REPORT_PERIOD", reportPeriod=60000),
    ]
    write(tmp_path, {"master": {"slaves": [slave(1, BIG, timeseries=items)]}})
    general = {"thingsboard": {"reportStrategy": {"type": "ON_CHANGE"}, "security": {"accessToken": "TOP-SECRET"}}}
    general["connectors"] = [
        {"type": "modbus", "name": "M", "configuration": "modbus.json"},
        {"type": "opcua", "name": "O", "configuration": "opcua.json"},
        {"type": "modbus", "name": "N", "configuration": "gone.json"},
    ]
    write(tmp_path, general, "tb_gateway.json")
    imported = load(tmp_path)
    assert imported.buses[0]["devices"][0]["report"] == {"on_change": True}
    assert [point.get("report") for point in points_of(imported)] == [
        None,
        {},
        {"on_change": True, "max_silence_s": 60.0},
    ]
    load_again(imported, tmp_path)
    said = notes(imported) + to_yaml(imported, "x")
    assert "TOP-SECRET" not in said
    assert "tb_gateway.json: connectors[1]: connector 'opcua'" in said
    assert "there is no file 'gone.json'" in said


def test_what_cannot_be_carried_over_is_told_and_its_neighbours_come(tmp_path):
    good = {"tag": "good", "type": "16int", "functionCode": 3, "address": 1}
    items = [
        good,
        good,
        good | {"tag": "x", "type": "32what"},
        good | {"tag": "y", "functionCode": 6},
        good | {"tag": ""},
    ]
    items.append(good | {"tag": "z", "address": "five"})
    first = slave(1, BIG, timeseries=items, uplink_converter="Mine", retries=3, novelty=1)
    slaves = [first, slave(2, BIG, deviceName="D1", timeseries=[good]), slave(3, BIG, type="udp", method="rtu")]
    imported = load(write(tmp_path, {"master": {"slaves": slaves}, "slave": {"port": 5026}}))
    assert [point["key"] for point in points_of(imported)] == ["good"]
    said = notes(imported)
    for text in (
        "slaves[0].timeseries[1]: 'good': the key 'good' is taken by holding_register 1",
        "timeseries[2]: 'x': type '32what'",
        "timeseries[3]: 'y': functionCode 6 does not read",
        "timeseries[4]: '': has no tag",
        "timeseries[5].address: must be a whole number, not 'five'",
        "slaves[0].uplink_converter: converters of your own",
        "slaves[0].novelty: is not known here",
        "slaves[1]: a device named 'D1' exists already",
        "slaves[2]: type udp with method rtu does not exist here",
        "modbus.json: slave: is left out: without sendDataToThingsBoard",
    ):
        assert text in said, said


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ({"type": "udp"}, {"kind": "udp", "host": "127.0.0.1", "port": 502}),
        ({"type": "serial", "method": "rtu", "port": "/dev/ttyS7", "baudrate": 19200, "handleLocalEcho": True}, {"kind": "rtu", "device": "/dev/ttyS7", "baud": 19200, "parity": "none", "stop_bits": 1, "data_bits": 8, "echo": True}),
        ({"method": "rtu"}, {"kind": "rtu_over_tcp", "host": "127.0.0.1", "port": 502}),
        ({"method": "ascii", "delayBetweenRequestsMs": 20}, {"kind": "ascii_over_tcp", "host": "127.0.0.1", "port": 502, "gap_ms": 20}),
        ({"tls": {"certfile": "c", "keyfile": "k"}}, {"kind": "tls", "host": "127.0.0.1", "port": 502, "cert_file": "c", "key_file": "k"}),
        ({"type": "serial", "method": "rtu", "port": "/dev/x", "parity": "E", "baudrate": 9600},
         {"kind": "rtu", "device": "/dev/x", "baud": 9600, "parity": "even", "stop_bits": 1, "data_bits": 8}),
    ],
)  # fmt: skip
def test_lines(tmp_path, members, line):
    point = {"tag": "t", "type": "16int", "functionCode": 3, "address": 1}
    imported = load(write(tmp_path, {"master": {"slaves": [slave(1, BIG, timeseries=[point], **members)]}}))
    assert imported.buses[0]["line"] == line
    parse_config(ModbusConfig, imported.buses[0], "buses[0]")


def test_the_old_form(tmp_path):
    device = {"unitId": 1, "deviceName": "Old", "timeseriesPollPeriod": 700, "attributesPollPeriod": 900}
    device["timeseries"] = [{"tag": "t", "type": "16int", "functionCode": 3, "registerCount": 1, "address": 0}]
    server = {"type": "tcp", "host": "10.0.0.5", "port": 503, "method": "socket", "byteOrder": "BIG", "timeout": 3}
    imported = load(write(tmp_path, {"server": server | {"devices": [device]}}))
    assert imported.buses[0]["line"] == {"kind": "tcp", "host": "10.0.0.5", "port": 503}
    found = imported.buses[0]["devices"][0]
    assert (found["every_ms"], found["byte_order"], found["word_order"]) == (700, "big", "little")
    assert "server.devices[0].attributesPollPeriod" in notes(imported)


def test_the_serial_connector(tmp_path):
    device = {
        "name": "S", "port": "/dev/x", "baudrate": 4800, "delimiter": "\r\n", "type": "scale", "parity": "E",
        "telemetry": [{"key": "w", "type": "float", "untilDelimiter": ";"}, {"key": "raw", "fromByte": 2}],
        "attributes": [{"key": "sn", "type": "string", "fromByte": 4, "toByte": -1}],
        "attributeUpdates": [{"attributeOnPlatform": "a", "stringToDevice": "{v}=${a} of ${deviceName}\n"}],
        "serverSideRpc": [{"method": "m", "type": "string", "withResponse": True, "responseType": "int"},
                          {"method": "n", "type": "int"}],
    }  # fmt: skip
    imported = load(write(tmp_path, {"devices": [device]}, "serial.json"))
    (entry,) = load_again(imported, tmp_path)
    config = entry.config
    assert isinstance(config, SerialConfig)
    found = {}
    for message in config.devices[0].messages:
        kind = kind_of("S", message, config.encoding)
        content = kind.content(b"12.5;AB9")
        found |= {field.key: value for field, value in kind.values(content)}
    assert found == {"w": 12.5, "sn": ";AB"}
    assert "telemetry[1]: 'raw': type none shows bytes" in notes(imported)
    first, second = config.devices[0].commands
    assert config.template(first.send).render(7) == b"{v}=7 of S\n"
    assert second.answer is not None
    assert "serverSideRpc[1]: 'n': type int" in notes(imported)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "modbus.json:1:2: is no JSON"),
        ("[]", "must be an object"),
        ("{}", "is neither a tb_gateway.json nor"),
        ('{"master": {"slaves": {}}}', "modbus.json: master.slaves: must be a list"),
        (
            '{"master": {"slaves": [{"host": "x", "deviceName": "D"}]}}',
            "master.slaves[0].unitId: must be a whole number",
        ),
        ('{"master": {"slaves": [{"host": "x", "unitId": 1}]}}', "master.slaves[0].deviceName: is missing"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, text, problem):
    (tmp_path / "modbus.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "modbus.json")
    assert problem in str(caught.value)
    result = CliRunner().invoke(main, ["import", "tb-gateway", str(tmp_path / "modbus.json")])
    assert (result.exit_code, problem in result.output) == (78, True)


def test_the_command_writes_a_file_and_never_over_one(tmp_path):
    point = {"tag": "t", "type": "16int", "functionCode": 3, "address": 1}
    path = write(tmp_path, {"master": {"slaves": [slave(1, BIG, timeseries=[point])]}})
    out = tmp_path / "out.yaml"
    result = CliRunner().invoke(main, ["import", "tb-gateway", str(path), "--out", str(out)])
    assert (result.exit_code, "1 buses, 1 devices" in result.output) == (0, True)
    assert len(yaml.safe_load(out.read_text())["buses"]) == 1
    assert CliRunner().invoke(main, ["check-config", "-c", str(out)]).exit_code == 0
    assert CliRunner().invoke(main, ["import", "tb-gateway", str(path), "--out", str(out)]).exit_code == 78


async def test_the_gateway_as_a_modbus_server(tmp_path):
    registers = {
        "timeseries": [
            {"tag": "level", "type": "16int", "objectsCount": 1, "address": 2, "value": 12334},
            {"tag": "again", "type": "16int", "objectsCount": 1, "address": 2, "value": 1},
        ],
        "attributes": [{"tag": "sm", "type": "string", "objectsCount": 1, "address": 1, "value": "ON"}],
        "attributeUpdates": [
            {"tag": "limit", "type": "32int", "functionCode": 6, "objectsCount": 2, "address": 29, "value": 1243}
        ],
        "rpc": [{"tag": "setValue", "type": "16int", "functionCode": 6, "objectsCount": 1, "address": 31, "value": 22}],
    }
    coils = [{"tag": "on", "type": "8int", "objectsCount": 1, "address": 5, "value": 0}]
    own = {
        "type": "tcp", "host": "0.0.0.0", "port": 5026, "method": "socket", "unitId": 3, "deviceName": "Own",
        "deviceType": "house", "pollPeriod": 5000, "sendDataToThingsBoard": True, "byteOrder": "BIG", "wordOrder": "LITTLE",
        "identity": {"vendorName": "x"}, "values": {"holding_registers": [registers], "coils_initializer": {"timeseries": coils}},
    }  # fmt: skip
    imported = load(write(tmp_path, {"master": {"slaves": []}, "slave": own}))
    said = notes(imported)
    for text in (
        "slave.host: listens on 127.0.0.1 until somebody says who may come in: listen: '0.0.0.0:5026'",
        "holding_registers.timeseries[1]: 'again': another value is at holding_register 2",
        "holding_registers.rpc[0]: 'setValue': a slave cannot call its master",
        "slave.identity: function 43 is not answered",
    ):
        assert text in said, said
    (tmp_path / "gateway.yaml").write_text(to_yaml(imported, "x"))
    config = load_config(tmp_path / "gateway.yaml", {})
    (entry,) = parse_servers(config.servers, Plugins(), ())
    assert [(device.name, device.profile) for device in entry.devices] == [("Own", "house")]
    house = FakeHouse()
    made = entry.plugin.open(entry.config, house, FakeClock(), lambda what: None)

    async def ask(text):
        return (await made.answer(3, bytes.fromhex(text))).hex(" ")

    assert await ask("03 00 01 00 02") == "03 04 4f 4e 30 2e"  # what is read before anything is known
    assert await ask("03 00 1d 00 02") == "03 04 04 db 00 00"
    assert await ask("01 00 05 00 01") == "01 01 00"
    assert await ask("06 00 02 00 07") == "06 00 02 00 07"
    assert await ask("05 00 05 ff 00") == "05 00 05 ff 00"
    assert await ask("10 00 01 00 01 02 4f 46") == "10 00 01 00 01"
    assert await ask("10 00 1d 00 02 04 00 01 00 00") == "90 02", "the cloud says what it is"
    assert house.posts == [("Own", {"level": 7}, {}), ("Own", {"on": True}, {}), ("Own", {}, {"sm": "OF"})]


@pytest.mark.parametrize("name", ["modbus.json", "modbus_serial.json", "modbus_energy.json", "custom_serial.json"])
def test_the_vendor_s_own_examples(tmp_path, name):
    if not (VENDOR / name).is_file():
        return  # `make foreign` installs it; what it holds is in the cases above as well
    imported = load(VENDOR / name)
    assert load_again(imported, tmp_path)
    assert not [note for note in imported.notes if "is not known here" in note.text]
