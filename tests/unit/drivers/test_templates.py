"""Templates in the configuration: where they are found, and what is said when they do not fit."""

import json

import pytest
import yaml
from click.testing import CliRunner

from drivers.modbus.config import ModbusConfig
from drivers.modbus.registers import Layout, Order, Type, decode, encode
from gateway.cli import main
from gateway.config import parse_config
from gateway.errors import ConfigError, RejectedError

OWN = {
    "description": "Own",
    "source": "its manual",
    "line": {"baud": 19200},
    "groups": {"now": {"every_ms": 700}},
    "points": [{"key": "t", "group": "now", "table": "coil", "address": 1, "type": "bool"}],
}


def write(tmp_path, tree=OWN, name="own"):
    (tmp_path / "devices").mkdir(exist_ok=True)
    (tmp_path / "devices" / f"{name}.yaml").write_text(yaml.safe_dump(tree))


def bus(tmp_path, line=None, **device):
    tree = {"devices": [{"name": "D"} | device]} | ({"line": line} if line else {"host": "x"})
    return parse_config(ModbusConfig, tree, "buses[0]", tmp_path)


def problem(tmp_path, **device):
    with pytest.raises(ConfigError) as caught:
        bus(tmp_path, **device)
    return str(caught.value)


def test_a_template_beside_the_configuration_is_found_and_wins(tmp_path):
    write(tmp_path)
    point = bus(tmp_path, template="own").devices[0].telemetry[0]
    assert (point.key, point.every_ms) == ("t", 700)
    write(tmp_path, name="eastron_sdm630")
    assert [p.key for p in bus(tmp_path, template="eastron_sdm630").devices[0].telemetry] == ["t"]
    assert len(bus(None, template="eastron_sdm630").devices[0].telemetry) > 10


def test_an_unknown_template_is_told_with_its_place(tmp_path):
    assert problem(tmp_path, template="eastron_sdm63") == (
        "buses[0].devices[0].template: there is no template 'eastron_sdm63'; did you mean 'eastron_sdm630'?"
    )
    assert "known: " in problem(tmp_path, template="../../etc/passwd")


def test_a_wrong_template_is_told_with_its_file_and_path(tmp_path):
    write(tmp_path, OWN | {"points": [OWN["points"][0] | {"adress": 1}]})
    assert f"{tmp_path}/devices/own.yaml: points[0].adress: unknown key; did you mean 'address'?" in problem(
        tmp_path, template="own"
    )
    write(tmp_path, OWN | {"points": [OWN["points"][0] | {"group": "noe"}]})
    assert "points[0] (t): no group 'noe'; there are now" in problem(tmp_path, template="own")


def test_overrides_that_do_not_fit(tmp_path):
    write(tmp_path)
    assert "groups.noe: own has no such group; it has now" in problem(
        tmp_path, template="own", groups={"noe": {"every_ms": 1}}
    )
    assert "own has no key 'tt'; did you mean 't'?" in problem(tmp_path, template="own", leave_out=["tt"])
    assert "prefix change a template" in problem(tmp_path, prefix="a")
    assert "has no points" in problem(tmp_path, template="own", leave_out=["*"])


def test_a_line_is_set_as_its_devices_are(tmp_path):
    write(tmp_path)
    port = {"kind": "rtu", "device": "/dev/x"}
    assert bus(tmp_path, port, template="own").wire.baud == 19200
    assert bus(tmp_path, port | {"baud": 2400}, template="own").wire.baud == 2400
    two = [{"name": "A", "template": "own"}, {"name": "B", "template": "eastron_sdm630", "unit_id": 2}]
    with pytest.raises(ConfigError, match=r"baud.*9600.*19200.*say `baud` under `line`"):
        parse_config(ModbusConfig, {"line": port, "devices": two}, "buses[0]", tmp_path)


def test_they_are_listed(tmp_path):
    write(tmp_path)
    (tmp_path / "gateway.yaml").write_text("")
    run = lambda *more: CliRunner().invoke(main, ["devices", "templates", "-c", str(tmp_path / "gateway.yaml"), *more])  # noqa: E731
    listed = run().output
    assert "own " in listed
    assert "growatt_tl_x" in listed
    one = run("growatt_tl_x").output
    assert "writable 0 to 100" in one
    assert "9600 baud" in one
    assert json.loads(run("own", "--json").output)[0]["points"][0][0] == "t"
    assert (run("nix").exit_code, "no template 'nix'" in run("nix").output) == (78, True)


def test_check_config_takes_a_template_beside_the_file(tmp_path):
    write(tmp_path)
    tree = {
        "data_dir": str(tmp_path),
        "buses": [{"kind": "modbus", "host": "x", "devices": [{"name": "D", "template": "own"}]}],
    }
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert CliRunner().invoke(main, ["check-config", "-c", str(file)]).exit_code == 0
    file.write_text(yaml.safe_dump(tree).replace("template: own", "template: owl"))
    result = CliRunner().invoke(main, ["check-config", "-c", str(file)])
    assert (result.exit_code, "buses[0].devices[0].template: there is no template 'owl'" in result.output) == (78, True)


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [(Type.INT8, [0xFF7F], -1), (Type.UINT8, [0x017F], 1), (Type.HEX, [0x4142, 0x0344], "41420344")],
)
def test_bytes_of_registers(kind, words, value):
    layout = Layout(type=kind, count=len(words))
    assert decode(words, layout) == value
    assert decode(encode(value, layout), layout) == value
    swapped = Layout(type=kind, count=len(words), byte_order=Order.LITTLE)
    assert decode([(word & 255) << 8 | word >> 8 for word in words], swapped) == value


def test_hexadecimal_digits_that_do_not_fit():
    for wrong in ("4142", "zz420344", 5):
        with pytest.raises(RejectedError, match="is not 8 hexadecimal digits"):
            encode(wrong, Layout(type=Type.HEX, count=2))
