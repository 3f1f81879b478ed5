"""The gateway as a slave, without a wire: which request is answered how, and what a write becomes."""

import random

import pytest

from drivers.modbus.plugin import plugin
from drivers.modbus.protocol.rtu import RtuFramer
from drivers.modbus.protocol.slave import Code, RtuRequests, understand
from drivers.modbus.server import ModbusServer
from gateway.config import parse_config
from gateway.errors import BusLost, ConfigError, FullError, RejectedError, TransientError
from gateway.fieldbus.plugins import Plugins, parse_buses
from gateway.fieldbus.servers import parse_servers
from tests.fakes.clock import FakeClock
from tests.fakes.served import FakeHouse

POINTS = [
    {"table": "input_register", "address": 0, "type": "uint32", "gateway": "pending"},
    {"table": "input_register", "address": 2, "type": "uint16", "gateway": "parked", "bad_value": 65535},
    {"table": "input_register", "address": 3, "type": "uint16", "gateway": "parked"},
    {
        "table": "input_register",
        "address": 4,
        "type": "int16",
        "scale": 0.1,
        "device": "B",
        "key": "t",
        "max_age_s": 30,
    },
    {"table": "input_register", "address": 5, "type": "bit", "bit": 0, "device": "B", "key": "on"},
    {"table": "input_register", "address": 5, "type": "bit", "bit": 3, "gateway": "cloud_connected"},
    {"table": "discrete_input", "address": 0, "type": "bool", "gateway": "cloud_connected"},
    {"table": "holding_register", "address": 0, "type": "int16", "device": "P", "key": "sp"}
    | {"writable": True, "write_to": "telemetry", "bad_value": 0},
    {"table": "holding_register", "address": 1, "type": "float32", "word_order": "little", "device": "P", "key": "f"}
    | {"writable": True, "write_to": "telemetry"},
    {"table": "holding_register", "address": 3, "type": "uint16", "device": "P", "key": "mode"}
    | {"writable": True, "write_to": "attribute", "source": "client_attribute", "bad_value": 0},
    {"table": "holding_register", "address": 4, "type": "uint16", "device": "T", "key": "tag", "bad_value": 0}
    | {"writable": True, "write_to": "tag"},
    {"table": "holding_register", "address": 5, "type": "uint16", "gateway": "uptime_s"},
    {"table": "coil", "address": 0, "type": "bool", "device": "P", "key": "run"}
    | {"writable": True, "write_to": "telemetry", "bad_value": False},
    {"table": "coil", "address": 1, "type": "bool", "device": "P", "key": "up"}
    | {"writable": True, "write_to": "telemetry", "bad_value": False},
]


def server(points=POINTS, **more):
    config = {"tcp": {"listen": "1502"}, "units": [{"unit_id": 1, "points": points}], **more}
    counts = {}
    house = FakeHouse()
    parsed = parse_config(plugin.server.config, config, "")

    def tally(what):
        counts[what] = counts.get(what, 0) + 1

    return ModbusServer(parsed, house, FakeClock(), tally), house, counts


async def ask(made, text, unit=1):
    return (await made.answer(unit, bytes.fromhex(text))).hex(" ")


# requests as in Modbus Application Protocol V1.1b3 §6; refusals as in §7
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ("07", Code.ILLEGAL_FUNCTION),
        ("2b 0e 01 00", Code.ILLEGAL_FUNCTION),
        ("03 00 00 00 00", Code.ILLEGAL_VALUE),  # nothing
        ("03 00 00 00 7e", Code.ILLEGAL_VALUE),  # 126 registers
        ("03 ff ff 00 02", Code.ILLEGAL_ADDRESS),
        ("01 00 00 07 d1", Code.ILLEGAL_VALUE),  # 2001 coils
        ("01 ff ff 07 d0", Code.ILLEGAL_ADDRESS),
        ("03 00 00 00", Code.ILLEGAL_VALUE),  # too short
        ("05 00 00 12 34", Code.ILLEGAL_VALUE),  # neither on nor off
        ("10 00 00 00 02 03 00 00 00", Code.ILLEGAL_VALUE),  # byte count
        ("10 ff ff 00 02 04 00 00 00 00", Code.ILLEGAL_ADDRESS),
        ("17 00 00 00 01 ff ff 00 02 04 00 00 00 00", Code.ILLEGAL_ADDRESS),
        ("17 00 00 00 7e 00 00 00 01 02 00 00", Code.ILLEGAL_VALUE),
    ],
)
def test_what_is_wrong_with_a_request(request_, code):
    assert understand(bytes.fromhex(request_)) is code


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("04 00 00 00 02", "04 04 00 01 11 70"),  # 70,000
        ("04 00 00 00 01", "04 02 00 01"),  # the first word of it
        ("04 00 02 00 01", "04 02 ff ff"),  # the configured bad value
        ("04 00 03 00 01", "84 04"),  # no value, none configured
        ("04 00 02 00 02", "84 04"),  # one bad value spoils the block
        ("04 00 04 00 01", "04 02 ff 9c"),  # -10.0
        ("04 00 05 00 01", "04 02 00 09"),  # bits 0 and 3
        ("04 00 06 00 01", "84 02"),
        ("04 00 05 00 02", "84 02"),  # half of it is not there
        ("02 00 00 00 01", "02 01 01"),
        ("03 00 05 00 01", "03 02 00 07"),
        ("01 00 00 00 02", "01 01 00"),
        ("06 00 05 00 01", "86 02"),  # not writable
        ("06 00 01 00 01", "86 02"),  # half a float
        ("10 00 01 00 02 04 00 00 7f c0", "90 03"),  # NaN
        ("06 00 63 00 01", "86 02"),
    ],
)
async def test_answers(request_, answer):
    made, house, _ = server()
    house.set("B", "t", -10.0, age_s=29)
    house.set("B", "on", True)
    assert await ask(made, request_) == answer
    assert house.posts == []


@pytest.mark.parametrize(("age_s", "problem", "answer"), [(31, None, "84 04"), (0, "silent", "84 04")])
async def test_a_value_that_is_old_or_not_good_is_exception_4(age_s, problem, answer):
    made, house, _ = server()
    house.set("B", "t", 1.0, age_s, problem)
    assert await ask(made, "04 00 04 00 01") == answer


@pytest.mark.parametrize(
    ("request_", "answer", "telemetry", "attributes"),
    [
        ("06 00 00 ff fe", "06 00 00 ff fe", {"sp": -2}, {}),
        ("10 00 00 00 04 08 00 05 00 00 41 c8 00 07", "10 00 00 00 04", {"sp": 5, "f": 25.0}, {"mode": 7}),
        ("05 00 01 ff 00", "05 00 01 ff 00", {"up": True}, {}),
        ("0f 00 00 00 02 01 02", "0f 00 00 00 02", {"run": False, "up": True}, {}),
        ("16 00 00 00 f2 00 25", "16 00 00 00 f2 00 25", {"sp": 0x17}, {}),
        ("17 00 00 00 01 00 00 00 01 02 00 09", "17 02 00 09", {"sp": 9}, {}),
    ],
)
async def test_a_write_is_one_message_of_its_device(request_, answer, telemetry, attributes):
    made, house, counts = server()
    if request_.startswith("16"):
        house.set("P", "sp", 0x12)  # the standard's example: 0x12, and 0xF2, or 0x25 → 0x17
    assert await ask(made, request_) == answer
    assert house.posts == [("P", telemetry, attributes)]
    assert counts == {"writes": 1}


async def test_a_write_that_cannot_be_answered_writes_nothing():
    made, house, _ = server()
    assert await ask(made, "17 00 63 00 01 00 00 00 01 02 00 09") == "97 02"
    assert await ask(made, "10 00 04 00 02 04 00 01 00 01") == "90 02"  # the second is read-only
    assert house.posts == house.writes == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RejectedError("no"), 4),
        (TransientError("silent"), 11),
        (BusLost("away"), 10),
        (FullError("busy"), 6),
    ],
)
async def test_a_tag_that_is_not_written(error, code):
    made, house, _ = server()
    house.errors["T"] = error
    assert await ask(made, "06 00 04 00 01") == f"86 {code:02x}"
    del house.errors["T"]
    assert await ask(made, "06 00 04 00 01") == "06 00 04 00 01"
    assert house.writes == [("T", "tag", 1)]


async def test_a_write_that_is_not_durable_in_time_is_exception_6():
    made, house, _ = server(answer_timeout_s=0.05)
    house.gate.clear()
    assert await ask(made, "06 00 00 00 01") == "86 06"
    house.errors["P"] = RejectedError("deleted")
    assert await ask(made, "06 00 00 00 01") == "86 04"


async def test_an_unknown_unit():
    made, _, counts = server()
    assert await ask(made, "03 00 00 00 01", unit=9) == "83 0b"
    assert counts == {"exceptions": 1}


async def test_a_broadcast_on_a_line_is_done_and_not_answered():
    made, house, _ = server(tcp=None, serial={"device": "/dev/ttyS9"})
    assert await made.answer(0, bytes.fromhex("06 00 00 00 05")) is None
    assert house.posts == [("P", {"sp": 5}, {})]


def test_requests_on_a_line_are_found_in_any_pieces_among_what_others_say():
    rng = random.Random(4)
    frame = RtuFramer().encode
    ours = [
        frame(1, bytes.fromhex(text))
        for text in ("03 00 00 00 01", "10 00 00 00 02 04 00 01 00 02", "17 00 00 00 01 00 00 00 01 02 00 09", "07")
    ]
    others = [frame(2, b"\x03\x14" + bytes(range(20))), frame(3, bytes.fromhex("83 02")), b"\xff\x00\x10"]
    for _ in range(50):
        wanted, found, requests = [], [], RtuRequests()
        for _ in range(20):
            if rng.random() < 0.4:
                said = rng.choice(others)
            else:
                said = rng.choice(ours)
                wanted.append((1, said[1:-2]))
            while said:
                size = rng.randint(1, len(said))
                found += requests.feed(said[:size])
                said = said[size:]
            found += requests.end()
        assert found == wanted
        assert not requests.is_partial


def wrong(where, problem, point=None, **more):
    points = [POINTS[0] if point is None else {"table": "holding_register", "address": 0, "type": "uint16"} | point]
    return pytest.param({"units": [{"points": points}], "tcp": {"listen": "1502"}, **more}, where, problem)


@pytest.mark.parametrize(
    ("tree", "where", "problem"),
    [
        wrong("servers[0]", "needs one way in", tcp=None),
        wrong("servers[0].tcp", "Modbus knows no password", tcp={"listen": "0.0.0.0:502"}),
        wrong("servers[0].tcp.listen", "is no place; say", tcp={"listen": "localhost:502"}),
        wrong("servers[0].tcp.allow", "is no address or network", tcp={"listen": "502", "allow": ["all"]}),
        wrong("servers[0].units[0].points[0]", "say what it shows", {}),
        wrong("servers[0].units[0].points[0]", "no gateway value 'up'; there are uptime_s", {"gateway": "up"}),
        wrong("servers[0].units[0].points[0]", "belong together", {"device": "A", "key": "k", "writable": True}),
        wrong("servers[0].units[0].points[0]", "has `bit` and `width`", {"type": "field", "bit": 3}),
        wrong("servers[0].units[0].points[0]", "type field and `bit: 0..15` belong together", {"type": "field"}),
        wrong("servers[0].units[0]", "bad_value: 70000 is out of range", {"gateway": "pending", "bad_value": 70000}),
        wrong(
            "servers[0]", "no bus has a device 'A'", {"device": "A", "key": "k", "writable": True, "write_to": "tag"}
        ),
    ],
)
def test_a_wrong_configuration_says_where_and_what_would_be_right(tree, where, problem):
    with pytest.raises(ConfigError) as caught:
        parse_servers([{"kind": "modbus", **tree}], Plugins(), ())
    assert caught.value.where == where
    assert problem in caught.value.problem


def test_two_points_at_one_address_and_a_line_that_is_taken():
    points = [POINTS[0], POINTS[0] | {"address": 1}]
    with pytest.raises(ConfigError, match="two points at input_register 1"):
        parse_servers([{"kind": "modbus", "tcp": {"listen": 1502}, "units": [{"points": points}]}], Plugins(), ())
    line = {"kind": "rtu", "device": "/dev/ttyS9"}
    point = {"key": "t", "table": "coil", "address": 0, "type": "bool"}
    bus = {"kind": "modbus", "line": line, "devices": [{"name": "A", "telemetry": [point]}]}
    tree = {"kind": "modbus", "serial": {"device": "/dev/ttyS9"}, "units": [{"points": POINTS[:1]}]}
    with pytest.raises(ConfigError, match="belongs to bus 'modbus' already"):
        parse_servers([tree], Plugins(), parse_buses([bus], Plugins()))


async def test_parts_of_registers_and_digits():
    device = {"table": "holding_register", "device": "B"}
    points = [
        device | {"address": 0, "type": "field", "bit": 4, "width": 3, "key": "state"},
        device | {"address": 0, "type": "bit", "bit": 0, "key": "on"},
        device | {"address": 1, "type": "hex", "count": 2, "key": "serial"},
        device | {"address": 3, "type": "int8", "key": "small"},
    ]
    made, house, _ = server(points)
    for key, value in (("state", 5), ("on", True), ("serial", "0a0b0c0d"), ("small", -2)):
        house.set("B", key, value)
    assert await ask(made, "03 00 00 00 04") == "03 08 00 51 0a 0b 0c 0d fe 00"
    house.set("B", "state", 8)
    assert await ask(made, "03 00 00 00 01") == "83 04", "it does not fit into three bits"


def test_whom_masters_speak_for():
    config = parse_config(
        plugin.server.config,
        {"tcp": {"listen": 1502}, "devices": [{"name": "P", "profile": "panel"}], "units": [{"points": POINTS}]},
        "",
    )
    assert [(device.name, device.profile) for device in plugin.server.devices(config)] == [("P", "panel")]
    assert ("B", "t") in plugin.server.keys(config)
    assert list(plugin.server.tags(config)) == [("T", "tag")]
