import asyncio
import logging
from contextlib import asynccontextmanager

import orjson
import pytest

from gateway.domain.rpc import RpcError, RpcRequest
from gateway.domain.telemetry import TsKv
from gateway.errors import BusLost, RefusedError, RejectedError, TransientError
from gateway.fieldbus import Fieldbus
from gateway.fieldbus.inbox import MAX_CALLS
from gateway.ports import Poll
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeBus
from tests.unit.fieldbus.inlet import FakeHouse


class Scene:
    """A room with one fake bus (or two), its house and its clock."""

    def __init__(self, *devices: str) -> None:
        self.devices = devices or ("A",)
        self.bus = FakeBus()
        self.bus.plan = [Poll(key=name, every_s=1.0, unit=name) for name in self.devices]
        self.bus.values = {(name, "t"): 1 for name in self.devices}
        self.house = FakeHouse(*self.devices)
        self.clock, self.counters = FakeClock(), Counters()
        tree = {"kind": "fake", "name": "line", "devices": [{"name": name} for name in self.devices]}
        self.trees, self.plugins = [tree], {"fake": self.bus.plugin}

    @asynccontextmanager
    async def running(self):
        self.room = Fieldbus(self.trees, self.house, self.clock, self.counters, plugins=self.plugins)
        task = asyncio.create_task(self.room.serve())
        await self.clock.advance(0)
        try:
            yield self
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.wait([task])

    def call(self, method, params=None, *, device="A", in_s=10.0):
        session = self.house.session(device)
        request = RpcRequest(
            device_id=session.device.id,
            method=method,
            params=params,
            request_id=1,
            expires_ms=self.clock.now_ms() + round(in_s * 1000),
        )
        return asyncio.ensure_future(session.channel.send_rpc(1, request))

    async def answer(self, method, params=None, **more):
        response = await asyncio.wait_for(self.call(method, params, **more), 2)
        return orjson.loads(response.response)["result"]


async def test_readings_reach_the_session_at_the_time_they_were_read():
    async with Scene().running() as scene:
        await scene.clock.advance(1.0)
        start = FakeClock().now_ms()
        assert scene.house.session("A").telemetry == [TsKv(start, {"t": 1}), TsKv(start + 1000, {"t": 1})]
        assert scene.house.session("A").hears == {"attributes", "rpc"}


async def test_attributes_go_another_way():
    scene = Scene()
    scene.bus.values["A", "serial"] = "X1"
    scene.bus.attribute_keys = {"serial"}
    async with scene.running():
        assert scene.house.session("A").attributes == [{"serial": "X1"}]
        assert scene.house.session("A").telemetry[0].values == {"t": 1}


async def test_the_same_points_are_not_read_again_before_they_are_durable():
    scene = Scene()
    scene.house.is_slow = True
    async with scene.running():
        await scene.clock.advance(20.0)
        assert scene.bus.reads == ["A"]
        assert await scene.answer("t") == {"value": 1}, "calls go on while the disk is slow"
        scene.house.answer_receipts()
        await scene.clock.advance(0)
        assert scene.bus.reads == ["A", "A"]


async def test_a_congested_house_stops_the_polls_and_not_the_calls():
    scene = Scene()
    async with scene.running():
        scene.house.congest()
        await scene.clock.advance(5.0)
        assert scene.bus.reads == ["A"]
        assert await scene.answer("t") == {"value": 1}
        scene.house.relax()
        await scene.clock.advance(1.0)
        assert len(scene.bus.reads) > 1


async def test_rejected_readings_are_counted_and_polling_goes_on():
    scene = Scene()
    scene.house.is_rejecting = True
    async with scene.running():
        await scene.clock.advance(3.0)
        assert len(scene.bus.reads) == 4
        assert scene.counters.get("fieldbus.readings_rejected") == 3


async def test_a_silent_unit_backs_off_alone_and_comes_back_with_two_log_lines(caplog):
    scene = Scene("A", "B")
    scene.bus.broken["A"] = TransientError("line: unit A: no answer")
    with caplog.at_level(logging.WARNING):
        async with scene.running():
            await scene.clock.advance(120.0)
            assert scene.bus.reads.count("B") >= 120
            assert 6 <= scene.bus.reads.count("A") <= 14  # 1 s, 2 s, 4 s … 30 s, each half to whole
            unit = {entry["unit"]: entry for entry in scene.room.status()[0]["units"]}
            assert unit["A"]["silent_since_ms"] == FakeClock().now_ms()
            assert (unit["A"]["ok"], unit["B"]["ok"]) == (False, True)
            del scene.bus.broken["A"]
            await scene.clock.advance(31.0)
            assert scene.house.session("A").telemetry
            unit = {entry["unit"]: entry for entry in scene.room.status()[0]["units"]}
            assert unit["A"]["ok"]
            assert unit["A"]["silent_since_ms"] is None
            before = scene.bus.reads.count("A")
            await scene.clock.advance(10.0)
            assert scene.bus.reads.count("A") == before + 10, "back to its period"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2, lines
    assert "unit A is silent" in lines[0]
    assert "unit A answers again" in lines[1]


async def test_sessions_fall_silent_at_the_start_and_when_an_outage_begins_not_at_one_lost_answer():
    scene = Scene("A", "B")
    async with scene.running():
        sessions = [scene.house.session(name) for name in "AB"]
        assert [session.silences for session in sessions] == [1, 1]  # opened, nothing read yet
        scene.bus.broken["A"] = TransientError("line: unit A: no answer")
        await scene.clock.advance(1.0)
        assert [session.silences for session in sessions] == [1, 1]
        await scene.clock.advance(60.0)
        assert [session.silences for session in sessions] == [2, 1]
        scene.bus.broken["A"] = scene.bus.broken["B"] = BusLost("line: no connection")
        await scene.clock.advance(60.0)
        assert [session.silences for session in sessions] == [3, 2]


async def test_a_lost_bus_is_one_outage_whatever_the_number_of_units(caplog):
    scene = Scene("A", "B", "C")
    for name in "ABC":
        scene.bus.broken[name] = BusLost("line: no connection")
    with caplog.at_level(logging.WARNING):
        async with scene.running():
            await scene.clock.advance(120.0)
            assert len(scene.bus.reads) <= 14, "one try for the whole bus"
            assert scene.room.status()[0]["connected"] is False
            scene.bus.broken.clear()
            await scene.clock.advance(31.0)
            assert scene.room.status()[0]["connected"] is True
            assert all(unit["ok"] for unit in scene.room.status()[0]["units"])
    assert [record.getMessage().split(":")[0].split(",")[0] for record in caplog.records] == [
        "bus line is silent",
        caplog.records[1].getMessage(),
    ]
    assert "bus line answers again" in caplog.records[1].getMessage()


async def test_a_single_lost_answer_is_no_news(caplog):
    scene = Scene()
    with caplog.at_level(logging.WARNING):
        async with scene.running():
            scene.bus.broken["A"] = TransientError("once")
            await scene.clock.advance(1.0)
            scene.bus.broken.clear()
            await scene.clock.advance(5.0)
            assert scene.room.status()[0]["units"][0]["errors"] == 1
            assert scene.room.status()[0]["units"][0]["ok"]
    assert not caplog.records


async def test_a_refusal_is_an_answer_and_does_not_back_off():
    scene = Scene()
    scene.bus.broken["A"] = RejectedError("line: unit A: illegal data address")
    async with scene.running():
        await scene.clock.advance(5.0)
        assert len(scene.bus.reads) == 6
        assert scene.room.status()[0]["units"][0]["last_error"] == "line: unit A: illegal data address"


async def test_a_slow_bus_reads_less_often_and_counts_the_turns_it_missed():
    scene = Scene()
    scene.bus.delay_s = 3.5
    async with scene.running():
        await scene.clock.advance(35.0)
        assert 8 <= len(scene.bus.reads) <= 11
        assert scene.room.status()[0]["late_merged"] >= 15


# ── calls ──


@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("t", None, {"value": 1}),
        ("t", 7, {"value": 7}),
        ("t", False, {"value": False}),
        ("get", {"key": "t"}, {"value": 1}),
        ("t", 0, {"value": 0}),
        ("t", "", {"value": ""}),
        ("set", {"key": "t", "value": 5}, {"value": 5}),
        ("set", {"key": "t", "value": 0}, {"value": 0}),
        ("set", {"key": "t", "value": False}, {"value": False}),
        ("seen", {}, {"value": 3}),
        ("seen", "", {"value": 3}),
        ("seen", 0, {"error": "A.seen is not writable"}),
        ("seen", False, {"error": "A.seen is not writable"}),
        ("set", {"t": 5, "u": 6}, {"value": {"t": 5, "u": 6}}),
        ("reboot", {}, {"error": "Method not found for reboot"}),
        ("get", None, {"error": 'get needs params {"key": "<key>"}'}),
        ("get", {"key": "nope"}, {"error": "A has no point 'nope'"}),
        ("set", [], {"error": 'set needs params {"key": "<key>", "value": <value>} or {"<key>": <value>, …}'}),
        ("set", {"key": "nope", "value": 1}, {"error": "A.nope is not writable"}),
        ("set", {"t": 5, "nope": 6}, {"error": "A.nope is not writable; already written: t", "written": {"t": 5}}),
    ],
)
async def test_calls_and_their_answers(method, params, result):
    scene = Scene()
    scene.bus.values |= {("A", "u"): 2, ("A", "seen"): 3}
    scene.bus.read_only.add("seen")
    async with scene.running():
        assert await scene.answer(method, params) == result


async def test_a_call_whose_deadline_has_passed_is_not_executed():
    scene = Scene()
    scene.bus.delay_s = 3.0  # the bus is busy with a poll
    async with scene.running():
        call = scene.call("t", 9, in_s=1.0)
        await scene.clock.advance(4.0)
        assert (await call).error is RpcError.TIMEOUT
        assert scene.bus.writes == []


async def test_a_call_whose_caller_gave_up_is_not_executed():
    scene = Scene()
    scene.bus.delay_s = 3.0
    async with scene.running():
        call = scene.call("t", 9)
        await scene.clock.advance(1.0)
        call.cancel()
        await scene.clock.advance(10.0)
        assert scene.bus.writes == []


async def test_a_write_waits_for_one_request_at_most():
    scene = Scene("A", "B", "C")
    scene.bus.delay_s = 1.0
    async with scene.running():
        assert scene.bus.reads == ["A"]
        scene.call("t", 9)
        await scene.clock.advance(2.0)
        assert [write.value for write in scene.bus.writes] == [9]
        assert scene.bus.reads == ["A", "B"]


async def test_calls_without_end_do_not_starve_the_polls():
    scene = Scene()
    scene.bus.delay_s = 0.1
    async with scene.running():
        calls = []
        for _ in range(30):
            calls += [scene.call("t", 1, in_s=1000.0) for _ in range(12)]  # more than the bus can do
            await scene.clock.advance(1.0)
        assert len(scene.bus.reads) >= 20
        for call in calls:
            call.cancel()


async def test_an_inbox_that_is_full_says_so():
    scene = Scene()
    scene.bus.delay_s = 1.0
    async with scene.running():
        calls = [scene.call("t", 1, in_s=1000.0) for _ in range(MAX_CALLS + 3)]
        await scene.clock.advance(0)
        refused = [orjson.loads(call.result().response)["result"]["error"] for call in calls if call.done()]
        assert refused == [f"line: the bus is busy, {MAX_CALLS} calls wait already"] * 3
        for call in calls:
            call.cancel()


async def test_callers_are_told_when_the_bus_closes():
    scene = Scene()
    scene.bus.delay_s = 5.0
    async with scene.running():
        waiting = scene.call("t", 9)
        await scene.clock.advance(0)
    assert "the bus was closed" in orjson.loads((await waiting).response)["result"]["error"]
    assert not scene.house.session("A").is_open


# ── shared attributes ──


async def test_a_shared_attribute_writes_its_point_and_the_result_is_posted(caplog):
    scene = Scene()
    scene.bus.values["A", "fixed"] = 1
    scene.bus.read_only = {"fixed"}
    async with scene.running():
        session = scene.house.session("A")
        session.telemetry.clear()
        session.channel.send_attributes({"t": 42, "fixed": 2, "somebody-elses": 3})
        session.channel.send_attributes_deleted(["t"])
        await scene.clock.advance(0)
        assert [(write.key, write.value) for write in scene.bus.writes] == [("t", 42)]
        assert session.telemetry == [TsKv(scene.clock.now_ms(), {"t": 42})]


async def test_a_shared_attribute_that_cannot_be_written_is_logged(caplog):
    scene = Scene()

    async def refuse(command):
        raise RejectedError("out of range")

    async with scene.running():
        scene.bus.write = refuse
        with caplog.at_level(logging.WARNING):
            scene.house.session("A").channel.send_attributes({"t": 42})
            await scene.clock.advance(0)
    assert "shared attribute 't' is not written: out of range" in caplog.text
    assert scene.counters.get("fieldbus.attributes_not_written") == 1


async def test_the_result_for_an_attribute_point_is_posted_as_an_attribute():
    scene = Scene()
    scene.bus.attribute_keys = {"t"}
    async with scene.running():
        session = scene.house.session("A")
        session.channel.send_attributes({"t": 42})
        await scene.clock.advance(0)
        assert session.attributes == [{"t": 1}, {"t": 42}]
        assert session.telemetry == []


# ── sessions and buses come and go ──


async def test_a_deleted_device_is_looked_up_again_by_name():
    async with Scene().running() as scene:
        gone = scene.house.known.pop("A")
        scene.house.session("A").channel.close("not_authorized")
        await scene.clock.advance(3.0)
        assert len(scene.house.sessions) == 1
        assert scene.counters.get("fieldbus.readings_without_device") == 3
        scene.house.known["A"] = gone
        await scene.clock.advance(1.0)
        assert len(scene.house.sessions) == 2
        assert len(scene.house.session("A").telemetry) == 1


async def test_a_session_taken_over_by_another_owner_is_left_to_it_for_a_minute():
    async with Scene().running() as scene:
        scene.house.session("A").channel.close("taken_over")
        await scene.clock.advance(50.0)
        assert len(scene.house.sessions) == 1
        await scene.clock.advance(15.0)
        assert len(scene.house.sessions) == 2


@pytest.mark.parametrize(
    "error", [RefusedError("no licence"), RejectedError("no"), KeyError("bug"), TransientError("x")]
)
async def test_one_bus_that_fails_never_stops_the_other(error):
    scene = Scene()
    other = FakeBus()
    other.open_error = error
    scene.plugins["other"] = other.plugin
    scene.trees.append({"kind": "other", "name": "second", "devices": [{"name": "Z"}]})
    async with scene.running():
        await scene.clock.advance(5.0)
        assert len(scene.bus.reads) == 6
        other.open_error = None
        await scene.clock.advance(61.0)
        assert other.opened == 1
        assert [bus["name"] for bus in scene.room.status()] == ["line", "second"]


async def test_a_bug_in_a_read_starts_its_bus_again():
    scene = Scene()
    scene.bus.broken["A"] = ZeroDivisionError("bug")
    async with scene.running():
        assert scene.counters.get("fieldbus.driver_bugs") == 1
        scene.bus.broken.clear()
        await scene.clock.advance(61.0)
        assert scene.bus.opened == 2
        assert scene.house.session("A").telemetry


async def test_a_room_without_buses_returns():
    await asyncio.wait_for(Fieldbus([], FakeHouse(), FakeClock(), Counters()).serve(), 1)
