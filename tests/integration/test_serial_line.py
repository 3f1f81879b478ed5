"""The driver on real pseudo terminals: what is said unasked, questions, adapters that vanish, lines that say nothing."""

import asyncio
import os
import time
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
import yaml

from drivers.serial import driver as driver_module
from drivers.serial.config import SerialConfig
from drivers.serial.driver import open_serial
from gateway.config import parse_config
from gateway.errors import BusLost, RejectedError, TransientError
from gateway.ports import Query, Write
from gateway.supervise import SystemClock
from tests.e2e.parts import until
from tests.fakes.serial_line import SerialLine
from tests.fakes.uart import heard as misheard

SCALE = """
frame: {end: "\\r\\n", max_bytes: 64}
timeout_s: 0.3
devices:
  - name: Scale
    silent_after_s: 0.3
    messages: [{regex: '^W(?P<weight>[0-9.]+)', telemetry: [{key: weight}]}]
"""
METER = """
frame: {end: "\\n"}
timeout_s: 0.2
devices:
  - name: Meter
    requests:
      - {send: "V?\\n", regex: '^V=(?P<volts>.+)', telemetry: [{key: volts}]}
      - {send: "A?\\n", regex: '^A=(?P<amps>.+)', telemetry: [{key: amps}]}
    commands:
      - {key: limit, send: "L{value:d}\\n", min: 0, max: 9, refused: "^ERR", answer: {match: "^OK"}}
      - {key: name, send: "N?\\n", answer: {match: "^N"}}
      - {key: tare, send: "T\\n"}
"""


class Scene:
    def __init__(self, line, driver):
        self.line, self.driver = line, driver
        self.heard, self.errors = [], []

    async def hear(self):
        async for heard in self.driver.listen():
            self.heard += [reading.value for reading in heard.readings]
            if heard.error is not None:
                self.errors.append(heard.error)

    def poll(self, index=0):
        return self.driver.polls()[index]


@asynccontextmanager
async def running(tmp_path, text, is_plugged=True, **settings):
    line = SerialLine(tmp_path / "adapter")
    if is_plugged:
        line.plug()
    tree = {"name": "line", "port": str(line.name), **yaml.safe_load(text), **settings}
    async with open_serial(parse_config(SerialConfig, tree, where="buses[0]"), SystemClock()) as driver:
        scene = Scene(line, driver)
        task = asyncio.create_task(scene.hear())
        try:
            yield scene
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            line.end()


def is_true(condition):
    async def asked():
        return condition()

    return asked


async def soon(condition, what, timeout_s=5):
    await until(is_true(condition), timeout_s, what)


async def test_what_a_device_says_is_heard_however_it_is_cut(tmp_path):
    async with running(tmp_path, SCALE) as scene:
        await soon(lambda: scene.driver.wire.is_open, "not open")
        scene.line.say(b"5.5\r\nW1")
        await soon(lambda: scene.driver.line()["bytes"] == 7, "nothing came")
        scene.line.say(b"2.5\r\nW13\r\n")
        await soon(lambda: scene.heard == [12.5, 13], "not heard")
        assert scene.driver.line()["unexpected_frames"] == 1
        assert await scene.driver.query(Query(device="Scale", key="weight")) == 13


async def test_two_frames_in_one_millisecond_are_two_readings(tmp_path):
    async with running(tmp_path, SCALE) as scene:
        stamps = []
        scene.driver._heard.clear()
        scene.driver._received(b"W1\r\nW2\r\nW3\r\n")
        stamps = [reading.ts_ms for item in scene.driver._heard for reading in item.readings]
        assert len(set(stamps)) == 3
        assert stamps == sorted(stamps)


async def test_what_there_is_no_room_for_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(driver_module, "MAX_HEARD", 5)
    async with running(tmp_path, SCALE) as scene:
        scene.driver._received(b"".join(b"W%d\r\n" % n for n in range(8)))
        await soon(lambda: scene.heard == [3, 4, 5, 6, 7], "not the newest")
        assert scene.driver.line()["lost_readings"] == 3


async def test_an_adapter_that_is_pulled_and_plugged_is_open_again_within_two_seconds(tmp_path):
    async with running(tmp_path, SCALE) as scene:
        descriptors, ttys = [], []
        for turn in range(5):
            await soon(lambda: scene.driver.wire.is_open, "not open")
            descriptors.append(len(os.listdir("/proc/self/fd")))
            ttys.append(scene.line.tty)
            scene.line.say(b"W%d\r\n" % turn)
            await soon(lambda turn=turn: scene.heard[-1:] == [turn], "not heard")
            scene.line.say(b"W99")  # cut off by the pull: belongs to no later frame
            scene.line.pull()
            await soon(lambda: not scene.driver.wire.is_open, "the loss is not seen")
            scene.line.plug(new_number=True)
            plugged_s = time.monotonic()
            await soon(lambda: scene.driver.wire.is_open, "not open again")
            assert time.monotonic() - plugged_s < 2
        assert scene.driver.line()["opens"] == 6
        assert all(before != after for before, after in pairwise(ttys))
        assert descriptors[-1] <= descriptors[0] + 4, "those that the line itself holds to get new numbers"


async def test_a_port_that_is_not_there_stops_nothing_and_says_what_would_be(tmp_path):
    async with running(tmp_path, SCALE, is_plugged=False) as scene:
        await soon(lambda: scene.errors, "no error")
        assert f"{scene.line.name} does not exist; " in str(scene.errors[0])
        assert scene.errors[0].again_s < 1
        scene.line.plug()
        await soon(lambda: scene.driver.wire.is_open, "not open", 2)


async def test_a_port_belongs_to_one(tmp_path):
    async with running(tmp_path, SCALE) as scene:
        await soon(lambda: scene.driver.wire.is_open, "not open")
        config = scene.driver._config
        async with open_serial(config, SystemClock()) as second:
            with pytest.raises(BusLost, match="is in use by another program"):
                await second.wire.open()


async def test_silence_and_nonsense_are_told_apart(tmp_path):
    async with running(tmp_path, SCALE) as scene:
        await soon(lambda: scene.errors, "no error")
        assert str(scene.errors[0]).startswith("line: Scale has said nothing for 0.3 s; nothing came on ")
        count = len(scene.errors)
        scene.line.say(b"\xfe\x80\xf8\r\n")
        await soon(lambda: len(scene.errors) > count + 1, "no error")
        text = str(scene.errors[-1])
        assert "5 bytes came" in text
        assert "FE 80 F8 0D 0A" in text
        assert "is 9600 8N1 what the device is set to?" in text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (misheard(b"W12.345\r\n" * 3, 9600, 38400)[0], "each bit comes 4 times over: is the device set to 9600 baud?"),
        (misheard(b"W12.345\r\n" * 3, 38400, 38400, bits=7, parity="even")[0], "is the device set to 38400 7E1?"),
        (b"W12.345\r" * 3, "the end mark 0D 0A never came, 0D did: is `end` of `frame` right?"),
    ],
    ids=["baudrate", "parity", "end mark"],
)
async def test_wrong_settings_are_told_by_what_was_seen(tmp_path, data, text):
    async with running(tmp_path, SCALE, baudrate=38400) as scene:
        await soon(lambda: scene.driver.wire.is_open, "not open")
        scene.line.say(data)
        await soon(lambda: any(text in str(error) for error in scene.errors), f"not told: {scene.errors}")
        assert not scene.heard


async def test_questions_and_answers(tmp_path):
    async with running(tmp_path, METER) as scene:
        scene.line.answers = {b"V?\n": b"V=230.5\n", b"A?\n": b"noise\nA=1.5\n"}
        assert [reading.value for reading in await scene.driver.read(scene.poll())] == [230.5]
        assert [reading.value for reading in await scene.driver.read(scene.poll(1))] == [1.5]
        assert await scene.driver.query(Query(device="Meter", key="volts")) == 230.5


async def test_no_answer_says_what_was_seen(tmp_path):
    async with running(tmp_path, METER) as scene:
        with pytest.raises(TransientError, match=r"no answer to 56 3F 0A 'V\?\.' in 0\.2 s; nothing came on"):
            await scene.driver.read(scene.poll())
        scene.line.received.clear()
        scene.line.answers = {b"V?\n": b"\xff\xfe\n"}
        with pytest.raises(TransientError, match=r"3 bytes came .* FF FE 0A .* is 9600 8N1 what the device is set to"):
            await scene.driver.read(scene.poll())


async def test_a_late_answer_is_nobodys(tmp_path):
    async with running(tmp_path, METER) as scene:
        with pytest.raises(TransientError):
            await scene.driver.read(scene.poll())
        scene.line.received.clear()
        scene.line.answers = {b"V?\n": b"V=2\n"}
        asking = asyncio.create_task(scene.driver.read(scene.poll()))
        await asyncio.sleep(0)
        scene.line.say(b"V=1\n")  # to the question before
        assert [reading.value for reading in await asking] == [2]


async def test_a_cancelled_question_leaves_nothing_behind(tmp_path):
    async with running(tmp_path, METER) as scene:
        asking = asyncio.create_task(scene.driver.read(scene.poll()))
        await soon(lambda: scene.line.received == b"V?\n", "not asked")
        asking.cancel()
        await asyncio.wait([asking])
        scene.line.say(b"V=1\n")
        scene.line.received.clear()
        scene.line.answers = {b"V?\n": b"V=2\n"}
        assert [reading.value for reading in await scene.driver.read(scene.poll())] == [2]


async def test_commands(tmp_path):
    async with running(tmp_path, METER) as scene:
        scene.line.answers = {b"L5\n": b"OK\n", b"L7\n": b"ERR too high\n", b"N?\n": b"N unit 7\n"}
        assert await scene.driver.write(Write(device="Meter", key="limit", value=5)) == 5
        with pytest.raises(RejectedError, match="Meter refuses: 'ERR too high'"):
            await scene.driver.write(Write(device="Meter", key="limit", value=7))
        with pytest.raises(RejectedError, match=r"Meter: 'limit' takes 0\.\.9, not 10"):
            await scene.driver.write(Write(device="Meter", key="limit", value=10))
        assert await scene.driver.query(Query(device="Meter", key="name")) == "N unit 7"
        assert await scene.driver.write(Write(device="Meter", key="tare", value=None)) is True
        await soon(lambda: scene.line.received.endswith(b"T\n"), "not sent")
        assert [scene.driver.is_writable("Meter", key) for key in ("limit", "volts", "x")] == [True, False, None]


async def test_a_pull_ends_an_open_question_at_once(tmp_path):
    async with running(tmp_path, METER, timeout_s=30) as scene:
        asking = asyncio.create_task(scene.driver.read(scene.poll()))
        await soon(lambda: scene.line.received == b"V?\n", "not asked")
        scene.line.pull()
        with pytest.raises(BusLost, match="was lost"):
            await asyncio.wait_for(asking, 2)


async def test_a_device_that_takes_nothing_does_not_hold_up_the_loop(tmp_path):
    big = METER.replace('"T\\n"', '"' + "x" * 60_000 + '\\n"')
    async with running(tmp_path, big) as scene:
        await scene.driver.wire.open()
        scene.line.deafen()
        started_s = time.monotonic()
        with pytest.raises(TransientError, match=r"took \d+ of 60001 bytes in 0.2 s: is flow control \(none\)"):
            await scene.driver.write(Write(device="Meter", key="tare", value=None))
        assert time.monotonic() - started_s < 1


async def test_a_pause_is_kept_before_each_question(tmp_path):
    async with running(tmp_path, METER, gap_ms=100) as scene:
        scene.line.answers = {b"V?\n": b"V=1\n"}
        await scene.driver.read(scene.poll())
        started_s = time.monotonic()
        await scene.driver.read(scene.poll())
        assert time.monotonic() - started_s > 0.09


async def test_silence_ends_a_frame_on_the_line(tmp_path):
    text = SCALE.replace('{end: "\\r\\n", max_bytes: 64}', "{kind: silence, pause_ms: 30}")
    async with running(tmp_path, text) as scene:
        await soon(lambda: scene.driver.wire.is_open, "not open")
        scene.line.say(b"W1")
        scene.line.say(b"2")
        await soon(lambda: scene.heard == [12], "not heard")
