"""Recording: what is written, what it may cost, and that it comes back as it was."""

import asyncio
import json
import stat

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import RuleRecordConfig
from gateway.domain.entity import EntityId
from gateway.ports import Outcome
from gateway.rules import Recorder, record
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.unit.rules.kit import DEVICE_ID, PUSH, SAVE, FakeState, js, message, metadata


class House:
    """A recorder in front of rules that count."""

    def __init__(self, folder, **config):
        self.counters, self.clock, self.seen = Counters(), FakeClock(), []
        wish = RuleRecordConfig(**config)
        self.recorder = Recorder(wish, folder, self._process, FakeState(), self.clock, self.counters)
        self.folder = folder

    def _process(self, msg):
        self.seen.append(msg)
        return Outcome()

    def send(self, data=None, **more):
        assert self.recorder.process(message(data, **more)) == Outcome()

    async def written(self):
        await self.recorder._write()
        return [json.loads(line) for path in sorted(self.folder.glob("*")) for line in path.read_text().splitlines()]


async def test_a_line_says_all_that_a_replay_needs(tmp_path):
    house = House(tmp_path / "recordings")
    house.send({"t": 1})
    house.send({}, originator=EntityId("ASSET", DEVICE_ID))
    device, asset = await house.written()
    assert device == {
        "at": house.clock.now_ms(),
        "device": {"name": "Press 1", "profile": "press"},
        "originator": "Press 1",
        "type": "POST_TELEMETRY_REQUEST",
        "metadata": {"deviceName": "Press 1", "ts": "1000"},
        "bare": True,
        "msg": {"t": 1},
    }
    assert asset["originator"] == ["ASSET", str(DEVICE_ID)]
    (path,) = house.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    assert len(house.seen) == 2


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"devices": ["Press 1"]}, 1),
        ({"profiles": ["press"]}, 1),
        ({"devices": ["Press 2"]}, 0),
        ({"profiles": ["x"]}, 0),
    ],
)
async def test_only_what_was_asked_for(tmp_path, config, count):
    house = House(tmp_path, **config)
    house.send()
    house.send(originator=EntityId("ASSET", DEVICE_ID))
    assert len(await house.written()) == count
    assert len(house.seen) == 2


async def test_the_files_stay_below_their_limit_and_the_oldest_goes(tmp_path):
    house = House(tmp_path, max_bytes=65_536)
    for number in range(300):
        house.send({"n": number, "text": "x" * 500})
        if number % 50 == 49:
            lines = await house.written()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 65_536
    numbers = [line["msg"]["n"] for line in lines]
    assert numbers == list(range(numbers[0], 300))
    assert len(numbers) > 50


async def test_what_waits_is_bounded_and_what_is_left_out_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "WAITING_BYTES", 1000)
    house = House(tmp_path)
    for _ in range(20):
        house.send({"text": "x" * 100})
    house.send({"big": 1 << 70})
    lines = await house.written()
    assert len(lines) + house.counters.get("rules.record_left_out") == 21
    assert len(house.seen) == 21
    house.send()
    assert len(await house.written()) == len(lines) + 1


async def test_a_folder_that_cannot_be_written_holds_nothing_up_and_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    house = House(tmp_path / "file" / "recordings")
    for _ in range(2):
        house.send()
        await house.recorder._write()
    assert house.counters.get("rules.record_left_out") == 2
    assert len([line for line in caplog.messages if "cannot be written" in line]) == 1


async def test_what_waits_at_the_end_is_written(tmp_path):
    house = House(tmp_path)
    serving = asyncio.create_task(house.recorder.serve())
    await asyncio.sleep(0)
    house.send({"last": 1})
    serving.cancel()
    await asyncio.wait([serving])
    assert len(await house.written()) == 1


def test_replay_of_a_recording(tmp_path):
    house = House(tmp_path / "recordings")

    async def tape():
        for number in range(4):
            house.send({"t": number * 30}, metadata={"deviceName": "Press 1", "ts": str(house.clock.now_ms())})
            await house.clock.advance(10)
        await house.written()

    asyncio.run(tape())
    chain = metadata([SAVE, js("hot", "return msg.t > 50 ? true : msg.t > 20 ? 1 : false;"), PUSH], (0, 1, "Success"))
    chain["connections"].append({"fromIndex": 1, "toIndex": 2, "type": "True"})
    path = tmp_path / "chain.json"
    path.write_text(json.dumps({"ruleChain": {"name": "Line"}, "metadata": chain}))
    result = CliRunner().invoke(main, ["rules", "replay", str(path), str(house.folder)])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "4 messages in 30 s caused: 4 saved, 2 pushed"
    assert [line.split() for line in lines[1:4]] == [
        ["Line", "/", "save", "4"],
        ["Line", "/", "hot", "4", "1", "failures"],
        ["Line", "/", "up", "2"],
    ]
    assert lines[4] == "failed 1 times: Line / hot: the script must give true or false, not 1"
    told = json.loads(CliRunner().invoke(main, ["rules", "replay", str(path), str(house.folder), "--json"]).output)
    assert (told["caused"], told["failed"][0]["line"][-8:]) == ({"saved": 4, "pushed": 2}, ", line 2")


def test_a_recording_is_input_for_a_test_and_a_bad_one_is_named(tmp_path):
    path, tape = tmp_path / "chain.json", tmp_path / "tape.jsonl"
    path.write_text(json.dumps({"ruleChain": {"name": "Line"}, "metadata": metadata([PUSH])}))
    tape.write_text('{"device": {"name": "Press-1", "profile": "press"}, "originator": "Press-1", "msg": {"t": 1}}\n')
    result = CliRunner().invoke(main, ["rules", "test", str(path), "--input", str(tape)])
    assert '"of": "Press-1"' in result.output
    tape.write_text('{"at": 1, "device": {}, "msg": {}}\n')
    result = CliRunner().invoke(main, ["rules", "replay", str(path), str(tape)])
    assert (result.exit_code, "tape.jsonl, line 1: 'name' is missing" in result.output) == (78, True)
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(main, ["rules", "replay", str(path), str(tmp_path / "empty")])
    assert (result.exit_code, "holds no recording" in result.output) == (78, True)
