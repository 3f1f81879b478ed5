"""Points of a serial line as the field bus knows them: listed before they speak, reported as they are told to."""

import asyncio
from contextlib import asynccontextmanager

from drivers.serial.plugin import plugin
from gateway.fieldbus import Fieldbus
from gateway.supervise import Counters, SystemClock
from tests.fakes.inlet import FakeInlet
from tests.fakes.serial_line import SerialLine
from tests.integration.test_serial_line import soon


def field(key, **more):
    return {"key": key, **more}


def tree(port):
    return {
        "kind": "serial",
        "name": "bench",
        "port": str(port),
        "timeout_s": 0.3,
        "devices": [
            {
                "name": "Scale",
                "silent_after_s": 0.4,
                "report": {"on_change": True},
                "messages": [
                    {
                        "regex": "^W(?P<weight>[0-9.]+) N(?P<count>[0-9]+)",
                        "telemetry": [field("weight", report={"on_change": True, "deadband": 1}), field("count")],
                        "attributes": [field("text", at=0)],
                    }
                ],
            },
            {
                "name": "Meter",
                "every_ms": 30,
                "requests": [
                    {
                        "send": "V?\n",
                        "csv": ";",
                        "match": "^V",
                        "telemetry": [field("volts", at=1, report={"on_change": True})],
                    }
                ],
            },
        ],
    }


@asynccontextmanager
async def bench(tmp_path):
    line = SerialLine(tmp_path / "adapter").plug()
    line.answers = {b"V?\n": b"V;230\n"}
    inlet, counters = FakeInlet(), Counters()
    for name in ("Scale", "Meter"):
        inlet.add_device(name, name)
    room = Fieldbus([tree(line.name)], inlet, SystemClock(), counters, plugins={"serial": plugin})
    serving = asyncio.create_task(room.serve())
    try:
        yield line, inlet, room, counters
        assert not serving.done()
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        line.pull()


def rows(room):
    return {row["key"]: row for row in room.points()["points"]}


def posted(inlet, device):
    sessions = [session for session in inlet.opened if session.device.name == device]
    items = [items for session in sessions for items in session.posted if isinstance(items, list)]
    return [item.values for each in items for item in each]


async def test_points_are_listed_before_they_speak(tmp_path):
    async with bench(tmp_path) as (line, _, room, _):
        await soon(lambda: rows(room).get("volts", {}).get("quality") == "good", "no volts")
        found = rows(room)
        assert {"weight", "count", "text"} < found.keys()
        assert (found["weight"]["device"], found["weight"]["quality"]) == ("Scale", "bad")
        await soon(lambda: "has said nothing" in rows(room)["weight"]["reason"], "the reason is not told")
        assert found["volts"]["every_ms"] == 30
        line.say(b"W1 N1\n")
        await soon(lambda: rows(room)["weight"]["quality"] == "good", "not good")
        assert rows(room)["weight"]["value"] == 1


async def test_what_is_said_unasked_is_reported_as_told(tmp_path):
    async with bench(tmp_path) as (line, inlet, room, counters):
        await soon(lambda: room.status()[0]["line"].get("is_open"), "not open")
        for weight, count in [(10, 1), (10.5, 1), (11.2, 1), (11.3, 2)]:
            line.say(b"W%g N%d\n" % (weight, count))
        await soon(lambda: rows(room)["weight"]["value"] == 11.3, "not heard")
        assert posted(inlet, "Scale") == [{"weight": 10, "count": 1}, {"weight": 11.2}, {"count": 2}]
        await soon(lambda: counters.get("fieldbus.readings") > 20, "not asked")
        assert posted(inlet, "Meter") == [{"volts": 230}]
        await soon(lambda: rows(room)["weight"]["quality"] == "stale", "silence is not told")
        line.say(b"W11.3 N2\n")
        await soon(lambda: len(posted(inlet, "Scale")) == 4, "after silence the first one is to be reported")
