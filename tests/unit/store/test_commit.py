"""The committer: groups, order of receipts, outages, a full store, bad units."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from gateway.domain.changes import (
    RULE_ITEM,
    AppendEvent,
    DropLocal,
    MoveCursor,
    SaveLocal,
    SaveRpc,
    SaveSetting,
    SaveTelemetry,
    UnitOfWork,
)
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.domain.entity import EntityId, time_uuid
from gateway.errors import RejectedError
from gateway.store import GroupCommitter
from gateway.store.commit import CALL_GROUPS_IN_A_ROW
from gateway.store.spell import SPELL_S
from gateway.supervise import STEADY_S, Counters
from tests.fakes.clock import FakeClock
from tests.fakes.store import FaultyStore

BOILER = EntityId("DEVICE", time_uuid())


class Desk:
    def __init__(self, max_waiting: int = 20_000) -> None:
        self.store, self.clock, self.counters = FaultyStore(), FakeClock(), Counters()
        self.committer = GroupCommitter(self.store, self.clock, self.counters, max_waiting=max_waiting)
        self.done: list[str] = []

    def submit(self, name: str, *changes: object) -> asyncio.Future[None]:
        receipt = self.committer.submit(list(changes) if changes else [SaveSetting(name, 1)])  # type: ignore[arg-type]
        receipt.add_done_callback(lambda _: self.done.append(name))
        return receipt


@contextlib.asynccontextmanager
async def serving(desk: Desk) -> AsyncIterator[Desk]:
    task = asyncio.create_task(desk.committer.serve())
    try:
        yield desk
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def telemetry(number: int = 1) -> list[object]:
    event = CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=BOILER.id, created_ms=number, body=b"{}")
    return [SaveTelemetry(BOILER, number, {"t": number}), AppendEvent(event)]


async def test_units_that_come_during_a_commit_share_the_next_one():
    async with serving(Desk()) as desk:
        desk.store.gate = asyncio.Event()
        first = desk.submit("first")
        await until(lambda: desk.store.tries == 1)
        rest = [desk.submit(str(n)) for n in range(500)]
        assert not first.done()
        desk.store.gate.set()
        await asyncio.gather(first, *rest)
        assert [len(group) for group in desk.store.groups] == [1, 500]
        assert desk.done == ["first", *map(str, range(500))]
        assert desk.counters.get("committer.units") == 501
        assert desk.counters.get("committer.groups") == 2


async def test_groups_are_bounded_by_units_and_bytes():
    async with serving(Desk()) as desk:
        body = b'"' + b"x" * (3 << 20) + b'"'
        large = CloudEvent(type="DEVICE", action="ADDED", entity_id=None, created_ms=1, body=body)
        receipts = [desk.submit("large", AppendEvent(large)) for _ in range(7)]
        await asyncio.gather(*receipts)
        assert [len(group) for group in desk.store.groups] == [3, 3, 1]
        receipts = [desk.submit(str(n)) for n in range(4_500)]
        await asyncio.gather(*receipts)
        assert [len(group) for group in desk.store.groups[3:]] == [2_000, 2_000, 500]


async def test_a_bad_unit_fails_alone_and_receipts_keep_their_order():
    async with serving(Desk()) as desk:
        receipts = [desk.submit("bad" if n in (3, 70, 71) else str(n)) for n in range(100)]
        results = await asyncio.gather(*receipts, return_exceptions=True)
        assert [n for n, result in enumerate(results) if result is not None] == [3, 70, 71]
        assert isinstance(results[3], RejectedError)
        assert desk.done == ["bad" if n in (3, 70, 71) else str(n) for n in range(100)]
        assert len(desk.store.settings) == 97
        assert desk.counters.get("committer.rejected") == 3


async def test_an_outage_waits_and_is_logged_twice(caplog):
    caplog.set_level(logging.INFO)
    async with serving(Desk()) as desk:
        desk.store.is_away = True
        receipts = [desk.submit("a"), desk.submit("b")]
        for _ in range(6):
            await desk.clock.advance(5)
        receipts.append(desk.submit("c"))
        assert not any(receipt.done() for receipt in receipts)
        assert 4 <= desk.store.tries <= 60
        assert desk.committer.oldest_waiting_s() == pytest.approx(30)
        desk.store.is_away = False
        await desk.clock.advance(5)
        await asyncio.gather(*receipts)
        assert desk.done == ["a", "b", "c"]
        assert desk.committer.oldest_waiting_s() == 0
        await desk.clock.advance(STEADY_S)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_store_that_comes_and_goes_is_one_outage_in_the_log(caplog):
    caplog.set_level(logging.INFO)
    async with serving(Desk()) as desk:
        for number in range(20):
            desk.store.is_away = True
            receipt = desk.submit(str(number))
            await desk.clock.advance(1)
            assert desk.committer.problem == "the disk is away"
            desk.store.is_away = False
            await desk.clock.advance(10)
            await receipt
            assert desk.committer.problem is None
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await desk.clock.advance(STEADY_S)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        assert desk.counters.get("committer.outages") == 20
        desk.store.is_away = True
        desk.submit("another outage")
        await desk.clock.advance(1)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


async def test_an_empty_unit_is_done_after_everything_before_it():
    async with serving(Desk()) as desk:
        desk.store.gate = asyncio.Event()
        desk.submit("a")
        barrier = desk.committer.submit(())
        barrier.add_done_callback(lambda _: desk.done.append("barrier"))
        desk.submit("b")
        await until(lambda: desk.store.tries == 1)
        assert not barrier.done()
        desk.store.gate.set()
        await desk.committer.drain()
        assert desk.done == ["a", "barrier", "b"]


async def test_cursor_moves_pass_a_full_store_and_telemetry_waits():
    async with serving(Desk()) as desk:
        await desk.submit("t0", *telemetry(0))
        desk.store.is_full = True
        waiting = [desk.submit(f"t{n}", *telemetry(n)) for n in (1, 2)]
        barrier = desk.committer.submit(())
        await asyncio.wait_for(desk.submit("cursor", MoveCursor(Lane.MAIN, 1)), 2)
        await asyncio.wait_for(desk.submit("state"), 2)
        waiting.append(desk.submit("t3", *telemetry(3)))
        await desk.clock.advance(3)
        assert desk.store.events.cursor(Lane.MAIN) == 1
        assert not barrier.done()
        assert not any(receipt.done() for receipt in waiting)
        assert "full" in str(desk.committer.problem)
        desk.store.is_full = False
        await desk.clock.advance(2)
        await asyncio.gather(*waiting, barrier)
        assert desk.committer.problem is None
        assert desk.done == ["t0", "cursor", "state", "t1", "t2", "t3"]
        assert [one.created_ms for one in await desk.store.events.peek(Lane.MAIN, 0, 9)] == [0, 1, 2, 3]
        await asyncio.wait_for(desk.submit("t4", *telemetry(4)), 2)


async def test_what_rules_hold_waits_in_its_order_while_the_store_is_full():
    async with serving(Desk()) as desk:
        desk.store.is_full = True
        with_data = desk.submit("with data", *telemetry(1), SaveLocal(RULE_ITEM, "window", b"1"))
        await desk.clock.advance(1)
        without = desk.submit("without", SaveLocal(RULE_ITEM, "window", b"2"))
        dropped = desk.submit("dropped", DropLocal(RULE_ITEM, "window"))
        await asyncio.wait_for(desk.submit("other", SaveLocal("retained", "window", b"3")), 2)
        desk.store.is_full = False
        await desk.clock.advance(2)
        await asyncio.gather(with_data, without, dropped)
        assert desk.done == ["other", "with data", "without", "dropped"]


async def test_a_full_store_is_not_asked_without_pause():
    async with serving(Desk()) as desk:
        desk.store.is_full = True
        desk.submit("t", *telemetry())
        for _ in range(10):
            await desk.clock.advance(1)
            desk.submit("more", *telemetry())
        assert desk.store.tries < 40


async def test_congestion_begins_at_the_bound_and_ends_at_half():
    async with serving(Desk(max_waiting=10)) as desk:
        desk.store.gate = asyncio.Event()
        desk.submit("first")
        await until(lambda: desk.store.tries == 1)
        for n in range(10):
            desk.submit(str(n))
        assert not desk.committer.is_congested
        await desk.committer.wait_uncongested()
        last = desk.submit("last")
        assert desk.committer.is_congested
        relieved = asyncio.create_task(desk.committer.wait_uncongested())
        await asyncio.sleep(0)
        assert not relieved.done()
        desk.store.gate.set()
        await last
        await asyncio.wait_for(relieved, 2)
        assert not desk.committer.is_congested


async def test_receipts_that_nobody_wants_any_more_do_no_harm():
    async with serving(Desk()) as desk:
        desk.store.gate = asyncio.Event()
        receipts = [desk.submit(name) for name in ("a", "bad", "c")]
        receipts[0].cancel()
        receipts[1].cancel()
        desk.store.gate.set()
        await asyncio.wait_for(receipts[2], 2)
        assert set(desk.store.settings) == {"a", "c"}


async def test_a_cancelled_serve_goes_on_where_it_was():
    desk = Desk()
    desk.store.gate = asyncio.Event()
    async with serving(desk):
        receipts = [desk.submit(name) for name in "ab"]
        await until(lambda: desk.store.tries == 1)
        receipts.append(desk.submit("c"))
    desk.store.gate = None
    async with serving(desk):
        await asyncio.wait_for(asyncio.gather(*receipts), 2)
    assert desk.done == ["a", "b", "c"]


async def test_close_ends_the_wait_of_everyone():
    desk = Desk()
    receipt = desk.submit("a")
    desk.committer.close()
    with pytest.raises(asyncio.CancelledError):
        await receipt


async def test_drain_gives_up_when_the_disk_stays_away(caplog):
    async with serving(Desk()) as desk:
        desk.store.is_away = True
        desk.submit("a")
        await desk.committer.drain(timeout_s=0.01)
    assert "2 units not written" in caplog.text


async def test_big_payloads_are_bounded_by_their_bytes():
    desk = Desk()
    desk.committer = GroupCommitter(desk.store, desk.clock, desk.counters, max_waiting_bytes=1000)
    body = b'"' + b"x" * 398 + b'"'
    async with serving(desk):
        desk.store.gate = asyncio.Event()

        def big() -> asyncio.Future[None]:
            event = CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=BOILER.id, created_ms=1, body=body)
            return desk.committer.submit([AppendEvent(event)])

        receipts = [big(), big()]
        await until(lambda: desk.store.tries == 1)
        assert not desk.committer.is_congested
        receipts.append(big())  # 1,200 bytes without a receipt, part of them on their way to the disk
        assert desk.committer.is_congested
        waiting = asyncio.ensure_future(desk.committer.wait_uncongested())
        desk.store.gate.set()
        await asyncio.gather(*receipts)
        await asyncio.wait_for(waiting, 5)
        assert not desk.committer.is_congested


def reading(number: int) -> AppendEvent:
    return AppendEvent(
        CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=BOILER.id, created_ms=number, body=b"{}")
    )


async def test_with_economy_data_waits_for_its_group_and_so_does_its_receipt():
    desk = Desk()
    desk.committer = GroupCommitter(desk.store, desk.clock, desk.counters, gather_s=20)
    async with serving(desk):
        for number in range(10):
            desk.submit(
                f"r{number}",
                SaveTelemetry(BOILER, number, {"t": 1}),
                reading(number),
                MoveCursor(Lane.MAIN, 0),
                SaveLocal(RULE_ITEM, "window", b"1"),
                DropLocal(RULE_ITEM, "window before"),
            )
            await desk.clock.advance(1.5)
        assert desk.done == []
        assert desk.store.groups == []
        await desk.clock.advance(5)
        assert len(desk.done) == 10
        assert [len(group) for group in desk.store.groups] == [10]


@pytest.mark.parametrize("what", ["call", "state", "barrier", "congestion"])
async def test_with_economy_what_somebody_waits_for_takes_everything_along_at_once(what: str):
    desk = Desk()
    desk.committer = GroupCommitter(desk.store, desk.clock, desk.counters, gather_s=20, max_waiting=50)
    async with serving(desk):
        before = 0
        for round_ in range(2):  # the second one waits again
            desk.submit("data", reading(round_))
            await desk.clock.advance(1)
            assert len(desk.done) == before
            if what == "call":
                call = CloudEvent(
                    type="DEVICE", action="RPC_CALL", entity_id=BOILER.id, created_ms=1, lane=Lane.EXPRESS
                )
                desk.submit(what, AppendEvent(call))
            elif what == "state":
                desk.submit(what, SaveSetting("s", 1))
            elif what == "barrier":
                desk.committer.submit([]).add_done_callback(lambda _: desk.done.append("barrier"))
            else:
                for number in range(50):
                    desk.submit(what, reading(number))
            await desk.clock.advance(0)
            before = len(desk.done)
            assert before == (round_ + 1) * (51 if what == "congestion" else 2)


# ── calls ──


def state_of_a_call(state: str = "QUEUED") -> SaveRpc:
    return SaveRpc(BOILER.id, BOILER.id, state, 1, {})


def answer_to_a_call() -> AppendEvent:
    return AppendEvent(
        CloudEvent(type="DEVICE", action="RPC_CALL", entity_id=BOILER.id, created_ms=1, lane=Lane.EXPRESS)
    )


async def test_calls_pass_what_waits_and_keep_their_order():
    async with serving(Desk()) as desk:
        desk.store.gate = asyncio.Event()
        desk.submit("first", *telemetry())
        await until(lambda: desk.store.tries == 1)
        rest = [desk.submit("t", *telemetry(n)) for n in range(3)]
        mixed = desk.submit("with data", state_of_a_call(), *telemetry(4))
        desk.submit("queued", state_of_a_call())
        desk.submit("done", state_of_a_call("DONE"), answer_to_a_call())
        desk.store.gate.set()
        await asyncio.gather(*rest, mixed)
        assert desk.done == ["first", "queued", "done", "t", "t", "t", "with data"]
        assert [len(group) for group in desk.store.groups] == [1, 2, 4]


async def test_a_group_does_not_come_between_two_commits_of_a_call():
    async with serving(Desk()) as desk:
        desk.store.gate = asyncio.Event()
        desk.submit("first")
        await until(lambda: desk.store.tries == 1)
        queued = desk.submit("queued", state_of_a_call())
        data = desk.submit("data")
        desk.store.gate.set()
        await queued
        await asyncio.sleep(0)  # on its way through the house
        await desk.submit("sent", state_of_a_call("SENT"))
        assert not data.done()
        await data
        assert desk.done == ["first", "queued", "sent", "data"]


async def test_calls_without_end_leave_the_others_their_turn():
    async with serving(Desk()) as desk:
        call, data = desk.submit("call", state_of_a_call()), desk.submit("data")
        for _ in range(10):
            await call
            call = desk.submit("call", state_of_a_call())
        await asyncio.gather(call, data)
        assert desk.done.index("data") == CALL_GROUPS_IN_A_ROW + 1


async def test_an_empty_unit_waits_for_the_calls_before_it():
    async with serving(Desk()) as desk:
        desk.store.gate = asyncio.Event()
        desk.submit("first")
        await until(lambda: desk.store.tries == 1)
        call = desk.submit("call", state_of_a_call())
        barrier = desk.committer.submit(())
        desk.store.is_away = True
        desk.store.gate.set()
        await desk.clock.advance(1)
        assert not barrier.done()
        desk.store.is_away = False
        await desk.clock.advance(5)
        assert call.done()
        assert barrier.done()


async def test_a_call_under_way_at_the_end_of_the_committer_keeps_its_place():
    desk = Desk()
    desk.store.gate = asyncio.Event()
    async with serving(desk):
        desk.submit("queued", state_of_a_call())
        await until(lambda: desk.store.tries == 1)
        desk.submit("sent", state_of_a_call("SENT"))
    desk.store.gate.set()
    async with serving(desk):
        await desk.submit("data")
        assert desk.done == ["queued", "sent", "data"]


async def test_while_calls_come_groups_are_short_and_afterwards_whole_again():
    async with serving(Desk()) as desk:

        async def groups_of(count: int) -> list[int]:
            known = len(desk.store.groups)
            await asyncio.gather(*[desk.submit("data") for _ in range(count)])
            return [len(group) for group in desk.store.groups[known:]]

        commit, clock = desk.store.commit, desk.clock

        async def slow_commit(units: Sequence[UnitOfWork]) -> None:
            await commit(units)
            await clock.advance(0.001 + 0.001 * len(units))  # 1 ms each, and 1 ms of its own

        desk.store.commit = slow_commit  # type: ignore[method-assign]
        assert await groups_of(100) == [100]
        await desk.submit("call", state_of_a_call())
        short = await groups_of(100)
        assert max(short) <= 10
        assert len(short) < 30  # and not one by one
        await clock.advance(SPELL_S)
        assert await groups_of(100) == [100]
