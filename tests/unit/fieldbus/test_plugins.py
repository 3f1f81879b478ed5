import pytest

from gateway.errors import ConfigError
from gateway.fieldbus import Fieldbus
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeBus
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
