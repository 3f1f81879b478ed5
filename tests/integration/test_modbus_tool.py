"""`edge-gateway modbus` through the socket of a running bus: over TCP to the simulated plant, and on a serial line."""

import asyncio
import json
import logging
import os
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner

from drivers.modbus.protocol.pdu import Function
from drivers.simulator.plant import open_plant
from gateway import cli, cli_modbus
from gateway.fieldbus import Fieldbus
from gateway.supervise import Counters, SystemClock
from gateway.web import LocalApi
from gateway.web.raw import RawDesk
from tests.fakes.modbus_line import PtyLine, Units, held
from tests.integration.test_modbus_plant import plant_tree
from tests.unit.fieldbus.inlet import FakeHouse


class Events:
    async def find(self, status, limit, before_seq=None):
        return []


@asynccontextmanager
async def serving(tmp_path, monkeypatch, *trees):
    """Yields `modbus(words)`: the exit code, what was printed, what was complained of."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "api.sock"
    (tmp_path / "gateway.yaml").write_text(f"api: {{socket: {path}}}\n")
    names = [device["name"] for tree in trees for device in tree["devices"]]
    clock = SystemClock()
    room = Fieldbus(list(trees), FakeHouse(*names), clock, Counters())
    api = LocalApi(path, dict, Events(), dict)
    api.raw = RawDesk(room.bus, clock)
    tasks = [asyncio.create_task(room.serve()), asyncio.create_task(api.serve())]
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.01)

    async def modbus(words, answer=None):
        arguments = ["modbus", *words.split(), "-c", str(tmp_path / "gateway.yaml")]
        result = await asyncio.to_thread(CliRunner().invoke, cli.main, arguments, answer)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    modbus.room = room
    try:
        yield modbus
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def plant(tmp_path, monkeypatch):
    async with open_plant(seed=1) as (machines, port), serving(tmp_path, monkeypatch, plant_tree(port)) as modbus:
        yield machines, modbus


async def test_reading_by_hand(tmp_path, monkeypatch):
    async with plant(tmp_path, monkeypatch) as (machines, modbus):
        assert await modbus("read plant 1 holding 10") == (0, "   10  70\n", "")
        code, out, _ = await modbus("read plant 1 holding 2 --type float32 --json")
        assert (code, json.loads(out)) == (0, [pytest.approx(machines.boiler.pressure, abs=0.05)])
        assert (await modbus("read plant 1 input_register 0x0A 8 --type string"))[1] == '   10  "BLR-2024-000117"\n'
        assert (await modbus("read plant 2 coil 0 3 --json"))[1] == "[true, false, false]\n"
        code, out, _ = await modbus("read plant 2 holding 0 3 --type uint32 --word-order little")
        assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["0", "2", "4"])


WRONG = [
    ("read nowhere 1 holding 0", 2, "no bus is named 'nowhere'; the buses are: plant"),
    ("read plant 1 holdin 0", 2, "table 'holdin' does not exist; it is one of coil, discrete_input"),
    ("read plant 1 holding 0 --type flat32", 2, "type 'flat32' is not for registers; these are: "),
    ("read plant 1 coil 0 --type int16", 2, "type 'int16' is not for single bits; they are bool"),
    ("read plant 1 holding 65535 2", 2, "2 from address 65535 on: the last address is 65535"),
    ("read plant 1 holding zero", 2, "'zero' is not a number"),
    ("read plant 1 holding 500", 1, "plant: unit 1, holding 500: function 0x03 refused: illegal data address (2)"),
    ("read plant 9 holding 0", 1, "plant: unit 9, holding 0: function 0x03 refused: device failure (4)"),
    ("write plant 1 input 0 5 --yes", 2, "input_register cannot be written; coil and holding_register can"),
    ("write plant 1 holding 10 warm --yes", 2, "'warm' is not a number"),
    ("write plant 1 holding 10 -5 --yes", 2, "-5 is out of range; 0 to 65535 can be written"),
    ("write plant 1 holding 10 5 6 --function 6 --yes", 2, "function 6 does not write 2 of holding_register; 16"),
    ("write plant 1 holding 10 65", 2, "--yes writes without asking"),
    ("write plant 1 holding 10 121 --yes", 1, "function 0x06 refused: illegal data value (3)"),
    ("scan plant --units 5-x", 2, "units '5-x' are none; right is 1-247 or 1,2,17"),
    ("raw plant 1 3000x", 2, "hexadecimal digits, two for each byte"),
    ("raw plant 1 83", 2, "a PDU is a function code, 1 to 127"),
    ("raw plant 1 06000A0041", 2, "--yes writes without asking"),
]


async def test_what_is_wrong_is_said_with_what_would_be_right(tmp_path, monkeypatch):
    async with plant(tmp_path, monkeypatch) as (machines, modbus):
        for words, code, text in WRONG:
            found, _, complaint = await modbus(words)
            assert (words, found, text in complaint) == (words, code, True), complaint
        assert machines.boiler.setpoint == 70


async def test_writing_by_hand_says_what_was_and_what_is_and_is_logged(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "gateway.web.raw")
    async with plant(tmp_path, monkeypatch) as (machines, modbus):
        assert await modbus("write plant 1 holding 10 65 --yes") == (0, "before: 70\nafter:  65\n", "")
        assert machines.boiler.setpoint == 65
        code, out, _ = await modbus("write plant 2 coil 0 off --yes --json")
        assert (code, json.loads(out)) == (0, {"before": [True], "written": ["off"], "after": [False]})
        # the temperature is the boiler's own: written, and not taken
        code, _, complaint = await modbus("write plant 1 holding 0 -40 0 --type int16 --yes")
        assert (code, complaint) == (1, "the device holds another value than was written (-40 0)\n")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" by hand of ")[0] for line in lines] == [
        "plant: unit 1: request 06000a0041",
        "plant: unit 2: request 0500000000",
        "plant: unit 1: request 100000000204ffd80000",
    ], "reads are not"
    assert all(f"(uid {os.getuid()})" in line for line in lines)


async def test_a_person_is_asked_before_a_write(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cli_modbus, "_confirm", asked.append)
    async with plant(tmp_path, monkeypatch) as (machines, modbus):
        await modbus("write plant 1 holding 10 65")
        await modbus("raw plant 1 06000A0042")
    assert asked == ["Write 65 to plant: unit 1, holding 10?", "Function 6 writes. Send it to plant, unit 1?"]
    assert machines.boiler.setpoint == 66


async def test_any_request_may_be_sent(tmp_path, monkeypatch):
    async with plant(tmp_path, monkeypatch) as (_, modbus):
        assert await modbus("raw plant 1 03000A0001") == (0, "03 02 00 46\n", "")
        code, out, complaint = await modbus("raw plant 1 03:01:F4:00:01 --json")
        assert (code, json.loads(out)["pdu"]) == (1, "8302")
        assert "illegal data address (2); this address" in complaint


async def test_a_scan_finds_who_answers_and_polling_goes_on(tmp_path, monkeypatch):
    async with plant(tmp_path, monkeypatch) as (_, modbus):
        polls = sum(unit["polls"] for unit in modbus.room.status()[0]["units"])
        code, out, complaint = await modbus("scan plant --units 1-4 --tables holding,coil")
        assert code == 0
        found = out.splitlines()
        assert [line.split(" = ")[0] for line in found[:2]] == ["unit 1: holding", "unit 2: holding"]
        refused = "(function 0x03 refused: device failure (4))"  # so this server speaks for units that it has not
        assert found[3].startswith(f"unit 4: holding {refused}, coil (")
        assert "4 units asked, 4 found" in complaint
        assert sum(unit["polls"] for unit in modbus.room.status()[0]["units"]) > polls


async def test_a_scan_can_be_stopped(tmp_path, monkeypatch):
    def interrupted(config_path, path, body=None):
        if body["unit"] == "2":
            raise KeyboardInterrupt
        return {"pdu": "03020007", "took_ms": 0}

    monkeypatch.setattr(cli, "ask_gateway", interrupted)
    result = CliRunner().invoke(cli.main, ["modbus", "scan", "plant", "--tables", "holding"])
    assert (result.exit_code, result.stdout) == (130, "unit 1: holding = 7\n")
    assert "stopped at unit 2, 1 found" in result.stderr


async def test_a_scan_leaves_half_of_the_line_to_polling(monkeypatch):
    rests = []
    monkeypatch.setattr(cli_modbus.time, "sleep", rests.append)
    silent = {"error": "no answer", "kind": "silent", "took_ms": 1000}
    monkeypatch.setattr(cli, "ask_gateway", lambda config_path, path, body=None: silent)
    result = CliRunner().invoke(cli.main, ["modbus", "scan", "plant", "--units", "1-3"])
    assert (result.exit_code, rests) == (1, [1.0, 1.0, 1.0])


async def test_on_a_serial_line(tmp_path, monkeypatch):
    tree = {
        "kind": "modbus",
        "name": "line",
        "timeout_s": 0.2,
        "line": {"kind": "rtu", "device": str(tmp_path / "adapter"), "baud": 115200},
        "devices": [
            {
                "name": "D",
                "unit_id": 3,
                "every_ms": 20,
                "telemetry": [{"key": "k", "table": "holding_register", "address": 0, "type": "uint16"}],
            }
        ],
    }
    units = Units(1, units={3})
    async with PtyLine(units, 115200).open(tmp_path / "adapter") as line:
        async with serving(tmp_path, monkeypatch, tree) as modbus:
            code, out, complaint = await modbus("read line 3 holding 7 2 --json")
            assert (code, complaint) == (0, "")
            assert json.loads(out) == [held(3, Function.READ_HOLDING_REGISTERS, place) for place in (7, 8)]
            assert (await modbus("write line 3 holding 7 1234 --yes"))[:2] == (
                0,
                f"before: {json.loads(out)[0]}\nafter:  1234\n",
            )
            assert (await modbus("scan line --units 2-4 --tables holding"))[1].startswith("unit 3: holding = ")
            assert (await modbus("scan line --units 5 --json"))[:2] == (1, "[]\n")
            code, _, complaint = await modbus("read line 4 holding 7")
            assert (code, complaint.startswith("edge-gateway: line: unit 4: no answer to function 0x03")) == (1, True)
        assert line.overlaps == 0
