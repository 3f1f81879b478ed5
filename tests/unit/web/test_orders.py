"""Orders over the local API, on its socket; and as a person gives them on the command line."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner

from gateway import cli, cli_events
from gateway.domain.again import Slice
from gateway.domain.cloud_event import Lane
from gateway.errors import RejectedError, TransientError
from gateway.status_view import LocalApiError, ask
from gateway.supervise import SystemClock
from gateway.web import LocalApi
from gateway.web.orders import Orders


class Desk:
    """Both desks: gives the prepared answers, remembers the orders."""

    def __init__(self, *answers):
        self.answers, self.orders = list(answers), []

    async def decide(self, order):
        self.orders.append(order)
        answer = self.answers.pop(0) if self.answers else Slice()
        if isinstance(answer, Exception):
            raise answer
        return answer

    send = decide


class Events:
    async def find(self, status, limit, before_seq=None):
        return []

    async def parked(self, limit):
        return []


@asynccontextmanager
async def api(path, desk):
    room = LocalApi(path, dict, Events(), dict)
    room.orders = Orders(desk, desk, SystemClock())
    serving = asyncio.create_task(room.serve())
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.01)
    try:
        yield lambda where, order: asyncio.to_thread(ask, path, where, order)
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_an_order_and_its_answer(tmp_path):
    desk = Desk(Slice(done=3, stays={"gone": 1}, place="0:7:9:9"), Slice(done=5, note="little"))
    async with api(tmp_path / "api.sock", desk) as post:
        words = {"do": "resend", "seq": [3, 7], "lane": "express", "reason": "big", "device": "Pump", "place": "p"}
        answer = {"done": 3, "stays": {"gone": 1}, "place": "0:7:9:9", "waits": None, "note": None}
        assert await post("/events/parked", words) == answer
        history = {"device": "Pump", "from": "1970-01-01T00:00:01Z", "to": 5000, "keys": ["a"]}
        assert (await post("/history", history))["note"] == "little"
    parked, sent = desk.orders
    assert (parked.discards, parked.seq_ids, parked.lane) == (False, frozenset({3, 7}), Lane.EXPRESS)
    assert (parked.reason, parked.device, parked.place) == ("big", "Pump", "p")
    assert (sent.device, sent.from_ms, sent.to_ms, sent.keys, sent.place) == ("Pump", 1000, 5000, ("a",), None)


@pytest.mark.parametrize(
    ("where", "order", "message"),
    [
        ("/events/parked", {"do": "discard"}, "say which: 'seq', 'reason', 'device', or 'all': true"),
        ("/events/parked", {"do": "discard", "all": "no"}, "say which"),
        ("/events/parked", {"do": "drop", "all": True}, "do: 'resend' or 'discard'"),
        ("/events/parked", {"do": "discard", "all": True, "raeson": "x"}, "unknown: raeson; known are all, device, do"),
        ("/events/parked", {"do": "discard", "seq": []}, "seq: a list of 1 to 1000 numbers"),
        ("/events/parked", {"do": "discard", "seq": [True]}, "seq: a list"),
        ("/events/parked", {"do": "discard", "seq": [1 << 63]}, "seq: a list"),
        ("/events/parked", {"do": "discard", "seq": [1], "lane": "slow"}, "lane: 'main' or 'express'"),
        ("/events/parked", {"do": "discard", "reason": ""}, "reason: a text that is not empty"),
        ("/events/parked", [], "an order is a JSON object"),
        ("/events/parked", {"do": "x" * 300_000}, "an order has at most 256000 bytes"),
        ("/history", {"from": "1"}, "device: its name"),
        ("/history", {"device": "P"}, "from: the first moment"),
        ("/history", {"device": "P", "from": "soon"}, "from: 'soon' is no moment"),
        ("/history", {"device": "P", "from": 1, "to": "later"}, "to: 'later' is no moment"),
        ("/history", {"device": "P", "from": 1, "keys": "a"}, "keys: a list of texts"),
    ],
)
async def test_a_wrong_order_does_nothing_and_says_what_would_be_right(tmp_path, where, order, message):
    desk = Desk()
    async with api(tmp_path / "api.sock", desk) as post:
        with pytest.raises(LocalApiError, match=message):
            await post(where, order)
    assert desk.orders == []


async def test_what_the_desk_says_is_told(tmp_path):
    async with api(tmp_path / "api.sock", Desk(RejectedError("no 'P'"), TransientError("away"))) as post:
        for message in ("^no 'P'$", "the store cannot be read: away"):
            with pytest.raises(LocalApiError, match=message):
                await post("/events/parked", {"do": "resend", "all": True})


# ── the command line ──


@pytest.fixture
async def edge_gateway(tmp_path, monkeypatch):
    """Runs a command against prepared answers on a socket; returns its result and the orders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_events, "_AGAIN_S", 0.0)
    (tmp_path / "g.yaml").write_text("data_dir: data\n")
    (tmp_path / "data").mkdir()

    present = Desk()

    async def run(*arguments, desk, answer=None):
        present.answers, present.orders = desk.answers, desk.orders
        result = await asyncio.to_thread(CliRunner().invoke, cli.main, arguments, answer)
        return result, desk.orders

    async with api(tmp_path / "data" / "api.sock", present):
        yield run


async def test_resend_goes_on_until_nothing_is_left_and_says_what_was_done(edge_gateway):
    desk = Desk(
        Slice(done=1000, place="a"),
        Slice(place="a", waits="the store takes nothing more now"),
        Slice(place="a", waits="the store takes nothing more now"),
        Slice(done=2, stays={"its device is gone": 3}),
    )
    result, orders = await edge_gateway("events", "resend", "--reason", "too large", "-c", "g.yaml", desk=desk)
    assert result.exit_code == 1
    assert result.stdout == "1002 are sent again\n3 stay parked: its device is gone\n"
    assert result.stderr.count("waiting: the store takes nothing more now") == 1
    assert [order.place for order in orders] == [None, "a", "a", "a"]
    assert {(order.discards, order.reason) for order in orders} == {(False, "too large")}


async def test_the_configuration_may_stand_before_the_word(edge_gateway):
    desk = Desk(Slice(done=1))
    result, orders = await edge_gateway("events", "-c", "g.yaml", "resend", "--seq", "4", "--seq", "5", desk=desk)
    assert (result.exit_code, result.stdout) == (0, "1 are sent again\n")
    assert orders[0].seq_ids == frozenset({4, 5})


async def test_discarding_everything_asks_first(edge_gateway):
    command = ("events", "discard", "--all", "-c", "g.yaml")
    result, orders = await edge_gateway(*command, desk=Desk(Slice(done=9)), answer="n\n")
    assert (result.exit_code, orders) == (1, [])
    assert "Delete ALL parked events?" in result.stderr
    result, orders = await edge_gateway(*command, desk=Desk(Slice(done=9)), answer="y\n")
    assert (result.exit_code, len(orders)) == (0, 1)
    result, _ = await edge_gateway(*command, "--yes", desk=Desk(Slice(done=9)))
    assert (result.exit_code, result.stdout) == (0, "9 are discarded\n")
    result, orders = await edge_gateway(*command[:2], *command[3:], "--yes", desk=Desk())
    assert (result.exit_code, orders) == (2, [])
    assert "say which" in result.stderr


async def test_nothing_that_fits_is_said(edge_gateway):
    result, _ = await edge_gateway("events", "discard", "--seq", "7", "-c", "g.yaml", desk=Desk())
    assert (result.exit_code, result.stdout) == (1, "no parked event fits\n")


async def test_history_tells_where_it_is_and_where_it_goes_on(edge_gateway, monkeypatch):
    monkeypatch.setattr(cli_events, "_TOLD_S", 0.0)
    desk = Desk(Slice(done=500, place="2000", note="history is kept for 7 days"), Slice(done=1))
    command = ("resend", "--device", "Pump", "--from", "1970-01-01T00:00:01Z", "--to", "9000", "--key", "a")
    result, orders = await edge_gateway(*command, "-c", "g.yaml", desk=desk)
    assert (result.exit_code, result.stdout) == (0, "501 events are on their way\n")
    assert "note: history is kept for 7 days" in result.stderr
    assert "500 events, up to 1970-01-01T00:00:02.000Z" in result.stderr
    assert [(order.from_ms, order.to_ms, order.keys, order.place) for order in orders] == [
        (1000, 9000, ("a",), None),
        (1000, 9000, ("a",), "2000"),
    ]
    result, _ = await edge_gateway(*command, "-c", "g.yaml", desk=Desk(RejectedError("device: there is no 'Pump'")))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "device: there is no 'Pump'" in result.stderr
    result, _ = await edge_gateway(*command, "-c", "g.yaml", desk=Desk())
    assert (result.exit_code, "nothing is kept" in result.stdout) == (1, True)


async def test_stopped_in_the_middle_it_says_where_to_go_on(edge_gateway, monkeypatch):
    asked = cli.ask_gateway

    def interrupted(config_path, path, body=None):
        if body.get("place"):
            raise KeyboardInterrupt
        return asked(config_path, path, body)

    monkeypatch.setattr(cli, "ask_gateway", interrupted)
    command = ("resend", "--device", "Pump", "--from", "1000", "-c", "g.yaml")
    result, _ = await edge_gateway(*command, desk=Desk(Slice(done=7, place="2000")))
    assert result.exit_code == 130
    assert "stopped after 7 events; it goes on with --from 1970-01-01T00:00:02.000Z" in result.stderr


async def test_the_listing_says_when_an_event_was_parked(edge_gateway, monkeypatch):
    row = {"seqId": 3, "lane": "MAIN", "createdTime": 0, "status": "PARKED", "type": "DEVICE", "action": "ADDED"}
    row |= {"entityId": None, "entityBody": None, "reason": "too large", "tries": 10, "parkedTime": 86_400_000}
    rows = [row, {**row, "tries": 0, "reason": "waited for another edge"}]
    monkeypatch.setattr(cli, "ask_gateway", lambda config_path, path, body=None: json.loads(json.dumps(rows)))
    result, _ = await edge_gateway("events", "--status", "parked", "-c", "g.yaml", desk=Desk())
    first, second = result.stdout.splitlines()
    assert first.endswith("parked 1970-01-02 00:00:00Z, refused 10 times: too large")
    assert second.endswith("parked 1970-01-02 00:00:00Z: waited for another edge")


async def test_an_answer_of_the_own_socket_is_not_hidden_by_a_second_place(edge_gateway, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "gateway.config.GatewayConfig.socket_paths",
        property(lambda _: [tmp_path / "data" / "api.sock", tmp_path / "nobody.sock"]),
    )
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(tmp_path / "nobody.sock"))
    desk = Desk(RejectedError("device: there is no 'X'"))
    result, _ = await edge_gateway("events", "resend", "--device", "X", "-c", "g.yaml", desk=desk)
    assert "there is no 'X'" in result.stderr
