import pytest

from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.fieldbus import Fieldbus
from gateway.ports import DriverPlugin
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeBus, FakeConfig
from tests.unit.fieldbus.inlet import FakeHouse

POINT = {"key": "t", "table": "coil", "address": 0, "type": "bool"}


def modbus(**more):
    return {"kind": "modbus", "host": "127.0.0.1", "devices": [{"name": "A", "telemetry": [POINT]}], **more}


def fieldbus(*buses, plugins=None):
    return Fieldbus(buses, FakeHouse(), FakeClock(), Counters(), plugins=plugins)


def test_the_modbus_driver_is_found_by_its_entry_point():
    room = fieldbus(modbus())
    assert [(device.name, device.profile) for device in room.devices()] == [("A", "default")]
    assert room.name == "fieldbus"


@pytest.mark.parametrize(
    ("buses", "where", "text"),
    [
        (({"host": "x"},), "buses[0].kind", "is missing; known kinds: modbus"),
        (({"kind": "profibus"},), "buses[0].kind", "no driver of kind 'profibus'; known kinds: modbus"),
        (({"kind": ["modbus"]},), "buses[0].kind", "known kinds: modbus"),
        ((modbus(), modbus()), "buses[1].name", "'modbus' exists already"),
        ((modbus(), modbus(name="b")), "buses[1].devices", "'A' is on bus 'modbus' already"),
        ((modbus(prot=502),), "buses[0].prot", "did you mean 'port'?"),
        ((modbus(port="x"),), "buses[0].port", "valid integer"),
    ],
)
def test_a_wrong_entry_is_named_with_its_path(buses, where, text):
    with pytest.raises(ConfigError) as caught:
        fieldbus(*buses)
    assert caught.value.where == where
    assert text in caught.value.problem


def test_other_drivers_can_be_handed_in():
    room = fieldbus({"kind": "fake", "devices": [{"name": "X", "profile": "p"}]}, plugins={"fake": FakeBus().plugin})
    assert [(device.name, device.profile) for device in room.devices()] == [("X", "p")]


def other(**more):
    return modbus(name="b", devices=[{"name": "B", "telemetry": [POINT]}], **more)


def test_two_buses_on_one_line_are_refused_with_the_name_of_its_owner():
    with pytest.raises(ConfigError) as caught:
        fieldbus(modbus(host="PLC.local"), other(host="plc.local"))
    assert caught.value.where == "buses[1]"
    assert "the line plc.local:502 belongs to bus 'modbus' already" in caught.value.problem
    assert len(fieldbus(modbus(host="plc"), other(host="plc", port=503)).devices()) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("localhost", "127.0.0.1"),
        ("plc.local.", "PLC.local"),
        ("fe80::1", "FE80:0:0::1"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
    ],
)
def test_one_host_in_two_spellings_is_one_line(first, second):
    with pytest.raises(ConfigError, match="belongs to bus 'modbus' already"):
        fieldbus(modbus(host=first), other(host=second))
    assert len(fieldbus(modbus(host="127.0.0.1"), other(host="127.0.0.2")).devices()) == 2


def test_a_serial_line_has_one_modbus_bus():
    line = {"line": {"kind": "rtu", "device": "/dev/ttyUSB7"}}
    with pytest.raises(ConfigError, match=r"the line /dev/ttyUSB7 belongs to bus 'modbus' already"):
        fieldbus({**modbus(**line), "host": None}, {**other(**line), "host": None})


def test_two_names_of_one_adapter_are_one_line(tmp_path):
    class Config(Settings):
        kind: str
        name: str
        port: str

    plugin = DriverPlugin(kind="tty", config=Config, open=FakeBus().plugin.open)
    (tmp_path / "ttyUSB0").touch()
    (tmp_path / "by-id").symlink_to(tmp_path / "ttyUSB0")
    first = {"kind": "tty", "name": "a", "port": str(tmp_path / "ttyUSB0")}
    second = {"kind": "tty", "name": "b", "port": str(tmp_path / "by-id")}
    with pytest.raises(ConfigError, match=r"ttyUSB0 belongs to bus 'a' already"):
        fieldbus(first, second, plugins={"tty": plugin})


@pytest.mark.parametrize(("line", "is_refused"), [("gw:1", True), (None, False)])
def test_a_driver_may_name_its_line_itself(line, is_refused):
    plugin = DriverPlugin(kind="fake", config=FakeConfig, open=FakeBus().plugin.open, line=lambda config: line)
    trees = [{"kind": "fake", "name": name} for name in "ab"]
    if is_refused:
        with pytest.raises(ConfigError, match="the line gw:1 belongs to bus 'a'"):
            fieldbus(*trees, plugins={"fake": plugin})
    else:
        fieldbus(*trees, plugins={"fake": plugin})
