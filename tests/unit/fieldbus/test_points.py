"""What a bus shows of each of its points, and which readings it passes on."""

import pytest

from gateway.errors import BusLost, RejectedError, TransientError
from gateway.fieldbus import records
from gateway.fieldbus.records import LineUse, Records
from gateway.ports import Poll, PollPoint, Reading, Report
from gateway.status_view import render
from tests.unit.fieldbus.test_bus import Scene


class Refused(RejectedError):
    code = 2


def scene(*devices, report=None):
    scene = Scene(*devices)
    scene.bus.plan = [
        Poll(key=name, every_s=1.0, unit=name, points=(PollPoint(device=name, key="t", report=report),))
        for name in scene.devices
    ]
    return scene


def point(scene, device="A", key="t"):
    return next(row for row in scene.room.points(device=device)["points"] if row["key"] == key)


async def test_a_good_point_shows_its_value_age_and_achieved_period():
    async with scene().running() as running:
        await running.clock.advance(10.4)
        row = point(running)
        assert (row["bus"], row["unit"], row["quality"], row["value"]) == ("line", "A", "good", 1)
        assert row["age_s"] == pytest.approx(0.4)
        assert row["every_ms"] == 1000
        assert row["achieved_ms"] == pytest.approx(1000)
        assert (row["missed"], row["code"], row["reason"]) == (0, None, None)


async def test_what_a_call_read_back_is_shown_before_the_next_poll():
    async with scene(report=Report(on_change=True)).running() as running:
        await running.clock.advance(10.4)
        assert await running.answer("t", 7) == {"value": 7}
        assert (point(running)["value"], point(running)["age_s"]) == (7, 0.0)
        posted = len(running.house.session("A").telemetry)
        await running.clock.advance(1.0)
        assert len(running.house.session("A").telemetry) == posted + 1, "the change is told by the poll"


async def test_a_refusal_is_bad_with_its_code_and_the_last_good_value_stays_with_its_age():
    async with scene().running() as running:
        await running.clock.advance(2.0)
        running.bus.broken["A"] = Refused("line: unit A: illegal data address")
        await running.clock.advance(3.5)
        row = point(running)
        assert (row["quality"], row["code"], row["value"]) == ("bad", 2, 1)
        assert "illegal data address" in row["reason"]
        assert row["age_s"] == pytest.approx(3.5)
        posted = len(running.house.session("A").telemetry)
        assert posted == 3, "a refusal is no reading"
        running.bus.broken.clear()
        await running.clock.advance(1.0)
        assert point(running)["quality"] == "good"


@pytest.mark.parametrize("error", [TransientError("unit A: no answer"), BusLost("no connection")])
async def test_silence_makes_values_stale_and_says_why(error):
    async with scene().running() as running:
        await running.clock.advance(2.0)
        running.bus.broken["A"] = error
        await running.clock.advance(60.0)
        row = point(running)
        assert (row["quality"], row["reason"], row["value"]) == ("stale", str(error), 1)
        assert row["age_s"] > 55
        assert row["achieved_ms"] > 55_000, "an average of better days would be a lie"
        assert running.room.status()[0]["points"] == {"good": 0, "stale": 1, "bad": 0}


async def test_a_point_that_was_never_read_is_bad():
    running = scene()
    running.bus.broken["A"] = TransientError("no answer")
    async with running.running():
        await running.clock.advance(1.0)
        assert point(running)["quality"] == "bad"
        assert point(running)["value"] is None


async def test_a_point_that_its_driver_has_set_aside_is_bad():
    running = scene()
    running.bus.faults = lambda: {"A.t": "not a number"}
    async with running.running():
        assert (point(running)["quality"], point(running)["reason"]) == ("bad", "not a number")


async def test_an_overloaded_line_shows_its_utilisation_and_the_misses_of_each_point():
    running = scene("A", "B")
    running.bus.delay_s = 1.0
    async with running.running():
        await running.clock.advance(60.0)
        status = running.room.status()[0]
        assert status["utilisation"] == pytest.approx(1.0, abs=0.02)
        assert point(running)["achieved_ms"] == pytest.approx(2000, rel=0.05)
        assert point(running)["missed"] == pytest.approx(29, abs=3)
        assert running.counters.get("fieldbus.turns_missed") == status["late_merged"] > 50
        gauges = running.room.gauges()
        assert gauges['fieldbus.utilisation{bus="line"}'] == status["utilisation"]
        assert gauges['fieldbus.points_good{bus="line"}'] == 2


async def test_an_idle_line_is_idle():
    async with scene().running() as running:
        running.bus.delay_s = 0.1
        await running.clock.advance(120.0)
        assert running.room.status()[0]["utilisation"] == pytest.approx(0.1, abs=0.02)


async def test_points_are_found_by_device_and_quality_and_there_is_an_end_to_them():
    async with scene("A", "B", "C").running() as running:
        running.bus.broken["B"] = RejectedError("no")
        await running.clock.advance(2.0)
        names = [row["device"] for row in running.room.points(quality="good")["points"]]
        assert names == ["A", "C"]
        assert running.room.points(bus="other") == {"points": [], "more": False}
        answer = running.room.points(limit=2)
        assert (len(answer["points"]), answer["more"]) == (2, True)


async def test_the_screen_names_the_points_that_are_not_good(capsys):
    async with scene("A", "B").running() as running:
        running.bus.broken["B"] = RejectedError("unit B: illegal data address")
        await running.clock.advance(2.0)
        status = {
            "version": "1",
            "uptime_s": 1,
            "memory_bytes": 1,
            "queue": {"pending": 0, "lag_s": None, "parked": 0},
            "store": {"oldest_waiting_s": 0},
            "mqtt": {"port": 1, "connections": 0},
            "rules": {"chains": [], "problems": []},
            "devices": [],
            "buses": running.room.status(),
        }
    render(status)
    screen = " ".join(capsys.readouterr().out.split())
    assert "bus line (fake): connected, 1 points good, 0 stale, 1 bad, line 0% busy" in screen
    assert "B.t is bad: unit B: illegal data address" in screen
    assert "A.t" not in screen


# ── report on change ──


async def test_an_unchanged_value_is_not_told_again_and_its_device_stays_active():
    async with scene(report=Report(on_change=True, max_silence_s=10)).running() as running:
        session = running.house.session("A")
        await running.clock.advance(5.0)
        assert len(session.telemetry) == 1
        assert session.touches == 5
        assert running.counters.get("fieldbus.readings_unchanged") == 5
        running.bus.values["A", "t"] = 2
        await running.clock.advance(1.0)
        assert [item.values for item in session.telemetry] == [{"t": 1}, {"t": 2}]
        await running.clock.advance(10.0)
        assert len(session.telemetry) == 3
        assert point(running)["quality"] == "good"
        assert point(running)["age_s"] == 0


async def test_after_a_spell_without_answers_the_first_value_is_told():
    async with scene(report=Report(on_change=True)).running() as running:
        session = running.house.session("A")
        for error in (TransientError("silent"), BusLost("gone"), RejectedError("no")):
            told = len(session.telemetry)
            running.bus.broken["A"] = error
            await running.clock.advance(5.0)
            running.bus.broken.clear()
            await running.clock.advance(40.0)
            assert len(session.telemetry) == told + 1, error


async def test_a_value_that_had_no_device_to_go_to_is_told_when_there_is_one():
    async with scene(report=Report(on_change=True)).running() as running:
        gone = running.house.known.pop("A")
        running.house.session("A").channel.close("not_authorized")
        running.bus.values["A", "t"] = 2
        await running.clock.advance(3.0)
        running.house.known["A"] = gone
        await running.clock.advance(2.0)
        assert [item.values for item in running.house.session("A").telemetry] == [{"t": 2}]


# ── bounds ──


def test_points_without_end_are_read_and_not_remembered(monkeypatch):
    monkeypatch.setattr(records, "MAX_POINTS", 3)
    poll = Poll(key="p", every_s=1.0)
    known = Records("line", [poll])
    for number in range(10):
        readings = [Reading(device="A", key=f"k{number}", value=1, ts_ms=1)]
        assert known.take("", known.polls[poll], readings, 1.0) == readings
    assert len(list(known)) == 3


def test_the_share_of_a_line_is_that_of_the_last_minute():
    use = LineUse(0.0)
    assert use.share(0.0) == 0.0
    now_s = 0.0
    for _ in range(1000):
        use.add(now_s, now_s + 0.5)
        now_s += 1.0
    assert use.share(now_s) == pytest.approx(0.5, abs=0.02)
    for _ in range(100):
        use.add(now_s, now_s + 1.0)
        now_s += 1.0
    assert use.share(now_s) == pytest.approx(1.0, abs=0.02)
    assert len(use._marks) <= LineUse.STEPS
