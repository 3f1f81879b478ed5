"""What a person decides about parked events."""

import asyncio
import contextlib
from dataclasses import replace

import orjson
import pytest

from gateway.devices import Pipeline, State, parked
from gateway.devices.parked import ParkedDesk
from gateway.devices.slices import Slices
from gateway.domain.again import ParkedOrder
from gateway.domain.changes import AppendEvent, MoveCursor, ParkEvent, ParkPending, SaveDevice, SaveSetting
from gateway.domain.cloud_event import CloudEvent, Lane, ParkedChoice
from gateway.domain.downlink import IDENTITY_MS, MOVED_DEVICES
from gateway.domain.entity import Device, time_uuid
from gateway.errors import RejectedError
from gateway.ports import Snapshot
from gateway.store import GroupCommitter, MemoryStore
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.house import FakeRules

PUMP = Device(id=time_uuid(), name="Pump", type="default", local_name="Pump")
OLD_PUMP, GONE = time_uuid(), time_uuid()
EXAMPLE = CloudEvent(
    type="DEVICE", action="TIMESERIES_UPDATED", entity_id=PUMP.id, created_ms=5_000, body=b'{"ts":7,"data":{"t":1}}'
)


class Shop:
    """A desk on a real committer and a store in memory."""

    def __init__(self) -> None:
        self.store, self.counters = MemoryStore(), Counters()
        self.committer = GroupCommitter(self.store, FakeClock(), self.counters)
        self.state = State(Snapshot(devices=[PUMP]))
        self.pipeline = Pipeline(FakeRules(), self.committer, self.state, self.counters)
        self.slices = Slices(self.pipeline, self.committer, wait_s=0.2)
        self.becomes_another = False
        events = self.store.events
        self.desk = ParkedDesk(events, self.state, self.slices, self.counters, lambda: self.becomes_another)

    async def park(self, *events: CloudEvent, reason: str = "refused") -> None:
        for event in events:
            await self.pipeline.commit([AppendEvent(event)])
            seq_id = self.store.events.last(event.lane)
            (stored,) = await self.store.events.peek(event.lane, seq_id - 1, 1)
            await self.pipeline.commit([ParkEvent(stored, reason, 10, 1), MoveCursor(event.lane, seq_id)])

    async def left(self, lane: Lane = Lane.MAIN) -> list[int]:
        return [one.event.seq_id for one in await self.store.events.choose_parked(lane, 0, 10_000, ParkedChoice())]

    async def waiting(self, lane: Lane = Lane.MAIN) -> list:
        return list(await self.store.events.peek(lane, self.store.events.cursor(lane), 10_000))

    async def carry_out(self, **order):
        """All slices; the sum, the reasons and how many requests it took."""
        done, stays, count, place = 0, {}, 0, None
        while True:
            answer = await self.desk.decide(ParkedOrder(**order, place=place))
            assert answer.waits is None
            done, count, place = done + answer.done, count + 1, answer.place
            for reason, number in answer.stays.items():
                stays[reason] = stays.get(reason, 0) + number
            if place is None:
                return done, stays, count

    def tally(self):
        now = self.store.events.lanes.now
        found = self.desk.tally(now.parked)
        pending = sum(now.last) - sum(now.cursor)
        assert found["accepted"] == found["acked"] + pending + now.parked + found["discarded"]
        return found


@contextlib.asynccontextmanager
async def shop():
    one = Shop()
    serving = asyncio.create_task(one.committer.serve())
    try:
        yield one
    finally:
        serving.cancel()
        await asyncio.wait([serving])


def event(**changes) -> CloudEvent:
    return replace(EXAMPLE, id=time_uuid(), **changes)


async def test_a_resent_event_keeps_its_id_and_times_and_is_counted_once():
    async with shop() as house:
        sent = [event(created_ms=5_000 + n) for n in range(3)]
        await house.park(*sent)
        assert await house.carry_out(discards=False, seq_ids=frozenset({1, 3})) == (2, {}, 1)
        assert await house.left() == [2]
        again = await house.waiting()
        assert [(one.id, one.created_ms, one.body, one.seq_id) for one in again] == [
            (sent[0].id, 5_000, EXAMPLE.body, 4),
            (sent[2].id, 5_002, EXAMPLE.body, 5),
        ]
        assert house.tally() == {"accepted": 3, "acked": 0, "discarded": 0, "resent": 2}
        await house.pipeline.commit([MoveCursor(Lane.MAIN, 5)])
        assert house.tally() == {"accepted": 3, "acked": 2, "discarded": 0, "resent": 2}


async def test_discarded_events_are_counted_for_good():
    async with shop() as house:
        await house.park(event(), event(), event(), reason="too large")
        await house.park(event(), reason="other")
        assert await house.carry_out(discards=True, reason="too") == (3, {}, 1)
        assert await house.carry_out(discards=True, reason="too") == (0, {}, 1)
        assert await house.left() == [4]
        assert house.state.setting("parked_discarded") == 3
        assert house.tally() == {"accepted": 4, "acked": 0, "discarded": 3, "resent": 0}


async def test_numbers_mean_the_main_lane_unless_the_other_is_named():
    async with shop() as house:
        await house.park(event(), event(lane=Lane.EXPRESS, action="RPC_CALL"))
        assert await house.carry_out(discards=True, seq_ids=frozenset({1})) == (1, {}, 1)
        assert (await house.left(), await house.left(Lane.EXPRESS)) == ([], [1])
        assert await house.carry_out(discards=False, seq_ids=frozenset({1}), lane=Lane.EXPRESS) == (1, {}, 1)
        assert [one.action for one in await house.waiting(Lane.EXPRESS)] == ["RPC_CALL"]


async def test_all_goes_in_slices_and_what_is_parked_meanwhile_is_left_alone(monkeypatch):
    monkeypatch.setattr(parked, "SLICE", 20)
    monkeypatch.setattr(parked, "_PAGE", 10)
    async with shop() as house:
        await house.park(*(event() for _ in range(45)), *(event(lane=Lane.EXPRESS) for _ in range(3)))
        first = await house.desk.decide(ParkedOrder(discards=False))
        assert (first.done, await house.left()) == (20, list(range(21, 46)))
        # The cloud refuses one of them again: it is not part of this order any more.
        (again, *_) = await house.waiting()
        await house.pipeline.commit([ParkEvent(again, "again", 10, 9), MoveCursor(Lane.MAIN, again.seq_id)])
        done, place = first.done, first.place
        while place is not None:
            answer = await house.desk.decide(ParkedOrder(discards=False, place=place))
            done, place = done + answer.done, answer.place
        assert done == 48
        assert (await house.left(), await house.left(Lane.EXPRESS)) == ([46], [])
        house.tally()


async def test_an_event_that_the_cursor_has_not_passed_is_still_in_the_senders_hand():
    async with shop() as house:
        await house.pipeline.commit([AppendEvent(event()), AppendEvent(event())])
        _, second = await house.waiting()
        await house.pipeline.commit([ParkEvent(second, "refused", 10, 1)])
        assert await house.carry_out(discards=True) == (0, {}, 1)
        await house.pipeline.commit([MoveCursor(Lane.MAIN, 2)])
        assert await house.carry_out(discards=True) == (1, {}, 1)


async def test_only_data_of_devices_that_are_still_here_goes_up_again_after_a_change_of_the_edge():
    async with shop() as house:
        await house.pipeline.commit(
            [SaveSetting(MOVED_DEVICES, {str(OLD_PUMP): str(PUMP.id)}), SaveSetting(IDENTITY_MS, 9_000)]
        )
        old = event(entity_id=OLD_PUMP)
        attributes = event(entity_id=OLD_PUMP, action="ATTRIBUTES_UPDATED", created_ms=9_500)
        announced = event(entity_id=OLD_PUMP, action="ADDED", body=None)
        alarm = event(entity_id=time_uuid(), type="ALARM", action="UPDATED", body=b"{}")
        gone = event(entity_id=GONE)
        await house.park(old, announced, alarm, gone, reason="refused by the new one")
        await house.pipeline.commit(
            [AppendEvent(attributes), ParkPending(Lane.MAIN, 99, "waited for another edge: 'Old'", 1)]
        )
        done, stays, _ = await house.carry_out(discards=False)
        assert done == 2
        assert stays == {
            "DEVICE/ADDED was meant for the edge that this gateway was before": 1,
            "ALARM/UPDATED was meant for the edge that this gateway was before": 1,
            "its device belonged to the edge that this gateway was before, and is gone": 1,
        }
        assert await house.left() == [2, 3, 4]
        assert [(one.id, one.entity_id) for one in await house.waiting()] == [
            (old.id, PUMP.id),
            (attributes.id, PUMP.id),
        ]
        # A new one, refused since, is of the new edge whatever it says.
        await house.park(event(action="ADDED", created_ms=9_001, body=None))
        assert (await house.carry_out(discards=False, reason="refused"))[0] == 1


async def test_a_device_is_found_by_its_name_also_under_ids_that_it_had():
    async with shop() as house:
        await house.pipeline.commit([SaveSetting(MOVED_DEVICES, {str(OLD_PUMP): str(PUMP.id)})])
        await house.park(event(entity_id=OLD_PUMP), event(), event(entity_id=GONE))
        assert (await house.carry_out(discards=True, device="Pump"))[0] == 2
        assert await house.left() == [3]
        assert (await house.carry_out(discards=True, device=str(GONE)))[0] == 1
        with pytest.raises(RejectedError, match="device: there is no 'Pmup'"):
            await house.carry_out(discards=True, device="Pmup")
        with pytest.raises(RejectedError, match="place: 'x'"):
            await house.desk.decide(ParkedOrder(discards=True, place="x"))


async def test_while_the_store_or_the_identity_is_not_settled_an_order_waits_and_nothing_is_done_twice():
    async with shop() as house:
        await house.park(event(), event())
        house.becomes_another = True
        answer = await house.desk.decide(ParkedOrder(discards=False))
        assert (answer.done, answer.waits) == (0, "the gateway is becoming another edge")
        house.becomes_another = False
        gate, commit = asyncio.Event(), house.store.commit

        async def held(units):
            await gate.wait()
            await commit(units)

        house.store.commit = held
        for _ in range(2):  # the second finds the first one's slice still on its way
            answer = await house.desk.decide(ParkedOrder(discards=False))
            assert (answer.done, answer.waits) == (0, "the store takes nothing more now")
        gate.set()
        assert await house.carry_out(discards=False) == (2, {}, 1)
        assert (await house.left(), len(await house.waiting())) == ([], 2)
        assert house.tally()["resent"] == 2


async def test_one_that_the_store_refuses_stays_and_its_neighbours_go():
    async with shop() as house:
        bad = event()
        await house.park(event(), bad, event())
        commit = house.store.commit

        async def picky(units):
            for change in (change for unit in units for change in unit):
                if isinstance(change, AppendEvent) and change.event.id == bad.id:
                    raise RejectedError("cannot be stored")
            await commit(units)

        house.store.commit = picky
        assert await house.carry_out(discards=False) == (2, {"cannot be stored": 1}, 1)
        assert await house.left() == [2]
        assert house.tally()["resent"] == 2


async def test_a_device_with_a_new_identity_does_not_change_who_is_meant_by_a_name():
    async with shop() as house:
        renamed = replace(PUMP, name="Pump in the cloud")
        await house.pipeline.commit([SaveDevice(renamed)])
        await house.park(event(body=orjson.dumps({"ts": 1, "data": {}})))
        assert (await house.carry_out(discards=False, device="Pump in the cloud"))[0] == 1
