"""Which readings are worth a message: the configuration of a point, as the bus gets it."""

import pytest

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import ModbusDriver
from gateway.config import parse_config
from gateway.errors import ConfigError
from gateway.ports import Report
from tests.fakes.clock import FakeClock

POINT = {"table": "holding_register", "type": "uint16"}


def tree(device=None, point=None):
    points = [{"key": "a", "address": 0, **POINT, **(point or {})}, {"key": "b", "address": 1, **POINT}]
    return {"host": "h", "devices": [{"name": "D", "telemetry": points, **(device or {})}]}


def test_each_poll_says_what_it_reads_and_what_of_it_is_reported():
    own, common = {"on_change": True, "deadband": 0.5}, {"max_silence_s": 60, "on_change": True}
    config = ModbusConfig.model_validate(tree({"report": common}, {"report": own}))
    (poll,) = ModbusDriver(config, None, FakeClock()).polls()
    assert [(point.device, point.key, point.report) for point in poll.points] == [
        ("D", "a", Report(on_change=True, deadband=0.5)),
        ("D", "b", Report(on_change=True, max_silence_s=60)),
    ]


def test_without_a_rule_every_reading_is_reported():
    (poll,) = ModbusDriver(ModbusConfig.model_validate(tree()), None, FakeClock()).polls()
    assert [point.report for point in poll.points] == [None, None]


@pytest.mark.parametrize(
    ("rule", "where"),
    [({"dead_band": 1}, "dead_band"), ({"deadband": -1}, "deadband"), ({"max_silence_s": 0}, "max_silence_s")],
)
def test_a_wrong_rule_is_named_with_its_path(rule, where):
    with pytest.raises(ConfigError) as caught:
        parse_config(ModbusConfig, tree(point={"report": rule}), where="buses[0]")
    assert caught.value.where == f"buses[0].devices[0].telemetry[0].report.{where}"
