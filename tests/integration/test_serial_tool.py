"""`edge-gateway serial` through the socket of a running bus."""

import asyncio
import json
import logging
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner

from drivers.serial import trace as trace_module
from gateway import cli
from gateway.web import LocalApi
from gateway.web.raw import RawDesk
from tests.integration.test_modbus_tool import Events
from tests.integration.test_serial_line import soon
from tests.integration.test_serial_points import bench


@asynccontextmanager
async def serving(tmp_path, monkeypatch):
    """Yields the line, the room and `serial(*words)`: exit code, what was printed, what was complained of."""
    path = tmp_path / "api.sock"
    (tmp_path / "gateway.yaml").write_text(f"api: {{socket: {path}}}\n")
    async with bench(tmp_path) as (line, _, room, _):
        api = LocalApi(path, dict, Events(), dict)
        api.raw = RawDesk(room.bus, room._clock)
        task = asyncio.create_task(api.serve())
        await soon(lambda: path.exists() and room.status()[0]["line"].get("is_open"), "not open")

        async def serial(*words):
            arguments = ["serial", *words, "-c", str(tmp_path / "gateway.yaml")]
            result = await asyncio.to_thread(CliRunner().invoke, cli.main, arguments)
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
            return result.exit_code, result.stdout, result.stderr

        try:
            yield line, room, serial
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_sending_by_hand(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    async with serving(tmp_path, monkeypatch) as (line, room, serial):
        line.answers |= {b"S\\\r\n": b"W5 N1\nX\n", b"\xaa\xc0": b"\xab", b"\x01": b"ok\n"}
        assert await serial("send", "bench", r"S\\\r\n") == (
            0,
            "57 35 20 4E 31 0A 58 0A  'W5 N1.X.'\n",
            "",
        )
        points = {row["key"]: row["value"] for row in room.points(device="Scale")["points"]}
        assert points["weight"] == 5, "an answer by hand is treated as what it is"
        code, out, _ = await serial("send", "bench", "hex: AA C0", "--json")
        assert (code, json.loads(out)["data"]) == (0, "ab")
        assert (await serial("send", "bench", r"\x01"))[0] == 0
        assert await serial("send", "bench", "quiet") == (1, "", "nothing came\n")
        assert "bench: request 01 by hand of " in caplog.text, "whatever its first byte is, it may change something"


WRONG = [
    (("send", "nowhere", "x"), "no bus is named 'nowhere'; the buses are: bench"),
    (("send", "bench", "hex: A"), "after hex: two digits a byte"),
    (("send", "bench", r"\q"), r"\q means nothing; known are \r \n"),
    (("send", "bench", ""), "nothing to send"),
    (("listen", "nowhere"), "no bus is named 'nowhere'"),
]


async def test_wrong_orders(tmp_path, monkeypatch):
    async with serving(tmp_path, monkeypatch) as (_, _, serial):
        for words, text in WRONG:
            code, _, complaint = await serial(*words)
            assert (code, text in " ".join(complaint.split())) == (2, True), complaint
        result = await asyncio.to_thread(
            CliRunner().invoke,
            cli.main,
            ["modbus", "raw", "bench", "1", "03", "-c", str(tmp_path / "gateway.yaml")],
        )
        assert "a serial line has no units; edge-gateway serial send asks by hand" in result.stderr


async def test_listening(tmp_path, monkeypatch):
    async with serving(tmp_path, monkeypatch) as (line, room, serial):
        assert not room.bus("bench")._driver._trace.is_on
        looking = asyncio.create_task(serial("listen", "bench", "--seconds", "1", "--json"))
        await soon(lambda: room.bus("bench")._driver._trace.is_on, "nobody listens")
        line.say(b"W7 N2\nwhat\n\xff\xfe")
        code, out, _ = await looking
        rows = [json.loads(row) for row in out.splitlines()]
        assert code == 0
        assert [row["n"] for row in rows] == sorted(row["n"] for row in rows)
        assert {"sent", "came", "read", "unknown"} <= {row["what"] for row in rows}
        assert any("Scale: weight=7, count=2" in row["text"] for row in rows)
        assert any("77 68 61 74 'what': a frame of no known kind" in row["text"] for row in rows)
        assert any(bytes.fromhex(row["data"]).endswith(b"\xff\xfe") for row in rows), "what is no frame is shown too"
        assert next(bytes.fromhex(row["data"]) for row in rows if row["what"] == "sent") == b"V?\n"


async def test_a_line_that_is_listened_to_remembers_a_bounded_while(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_module, "WATCHED_S", 0.1)
    async with serving(tmp_path, monkeypatch) as (_, room, _):
        driver = room.bus("bench")._driver
        assert driver.trace(0) == []
        driver._received(b"x" * 80_000 + b"\n")
        rows = driver.trace(0)
        assert 0 < len(rows) <= trace_module.MAX_ROWS
        assert max(len(row["data"]) for row in rows) <= 128
        await soon(lambda: not driver._trace.is_on, "still on")
        assert driver.trace(0) == []


@pytest.mark.parametrize("order", [{"bus": 1}, {"bus": "bench", "after": "x"}, {"bus": "bench", "until": 1}])
async def test_an_order_that_is_none(tmp_path, monkeypatch, order):
    async with serving(tmp_path, monkeypatch):
        from gateway.status_view import Answered, ask

        with pytest.raises(Answered, match=r"bus: a text; after: a number|unknown: until"):
            await asyncio.to_thread(ask, tmp_path / "api.sock", "/buses/trace", order)
