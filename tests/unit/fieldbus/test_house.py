"""What foreign masters see of the house, and when a write of theirs counts as done."""

import asyncio

import pytest

from gateway.devices.latest import Latest
from gateway.devices.state import State
from gateway.domain.changes import DeleteDevice, SaveAttributes, SaveDevice, SaveTelemetry
from gateway.domain.cloud_event import Lane
from gateway.domain.entity import Device, time_uuid
from gateway.domain.telemetry import TsKv
from gateway.errors import BusLost, RejectedError, TransientError
from gateway.fieldbus.bus import Bus
from gateway.fieldbus.house import Facts, House, SharedBus
from gateway.fieldbus.plugins import Plugins, parse_buses
from gateway.ports import GATEWAY_VALUES, RawRequest, Snapshot
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeBus
from tests.fakes.inlet import FakeInlet
from tests.unit.fieldbus.inlet import FakeHouse as BusInlet


class Events:
    """The few questions that `Facts` has."""

    fails = False

    def last(self, lane):
        return 9 if lane is Lane.MAIN else 3

    def cursor(self, lane):
        return 4 if lane is Lane.MAIN else 3

    async def depth(self):
        if self.fails:
            raise TransientError("away")
        return type("Depth", (), {"parked": 2})


def device(name):
    return Device(id=time_uuid(), name=name, local_name=name, type="default")


class Stage:
    def __init__(self, bus=None):
        self.clock, self.inlet, self.events = FakeClock(), FakeInlet("held"), Events()
        self.state = State(Snapshot())
        self.stored = {}
        self.latest = Latest(self.state, self.read)
        self.facts = Facts(self.events, self.clock, lambda: True, lambda: 5, lambda: 1)
        self.house = House(self.facts, lambda name: bus, self.inlet, self.state, self.latest, self.clock)

    async def read(self, entity):
        return self.stored.get(entity, {})


async def test_a_write_is_done_when_all_of_it_is_durable():
    stage = Stage()
    stage.inlet.add_device("Panel", "token")
    writing = asyncio.create_task(stage.house.post("Panel", {"level": 1}, {"mode": 2}))
    await asyncio.sleep(0)
    ((session,),) = [stage.inlet.visits.values()]
    assert session.posted == [(TsKv(stage.clock.now_ms(), {"level": 1}),), {"mode": 2}]
    first, second = stage.inlet.held
    first.set_result(None)
    await asyncio.sleep(0)
    assert not writing.done()
    second.set_result(None)
    await writing


async def test_whoever_stops_waiting_does_not_cancel_the_write():
    stage = Stage()
    stage.inlet.add_device("Panel", "token")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await stage.house.post("Panel", {"level": 1}, {})
    assert not stage.inlet.held[0].cancelled()
    writing = asyncio.create_task(stage.house.post("Panel", {"level": 2}, {}))
    await asyncio.sleep(0)
    stage.inlet.held[0].set_result(None)
    stage.inlet.held[1].set_exception(RejectedError("no"))
    with pytest.raises(RejectedError):
        await writing


async def test_a_device_that_is_not_there_and_one_that_was_silent_for_long():
    stage = Stage()
    with pytest.raises(RejectedError, match="no device 'Panel'"):
        await stage.house.post("Panel", {"level": 1}, {})
    with pytest.raises(RejectedError, match="no bus has a device 'Panel'"):
        await stage.house.write("Panel", "level", 1, 1.0)
    stage.inlet.receipts = "at_once"
    stage.inlet.add_device("Panel", "token")
    await stage.house.post("Panel", {"level": 1}, {})
    stage.house.close_idle()
    (session,) = stage.inlet.visits.values()
    assert session.is_open
    await stage.clock.advance(601)
    stage.house.close_idle()
    assert not session.is_open


async def test_the_gateways_own_values():
    stage = Stage()
    assert stage.house.gateway("parked") is None
    await stage.facts.refresh()
    await stage.clock.advance(65_540)
    values = {name: stage.house.gateway(name) for name in GATEWAY_VALUES}
    assert values.pop("time_s") == stage.clock.now_ms() // 1000
    assert values == {
        "uptime_s": 65_540,
        "heartbeat": 4,
        "cloud_state": 2,
        "cloud_connected": True,
        "pending": 5,
        "pending_express": 0,
        "parked": 2,
        "devices": 5,
        "connected_devices": 1,
    }
    stage.events.fails = True
    await stage.facts.refresh()
    assert stage.house.gateway("parked") is None


async def test_last_values_are_those_that_are_durable_and_the_newest():
    stage = Stage()
    boiler, other = device("Boiler"), device("Other")
    stage.latest.want([("Boiler", "t"), ("Boiler", "p")])
    assert stage.house.telemetry("Boiler", "t") is None
    stage.state.apply([SaveDevice(boiler), SaveDevice(other)])
    now_ms = stage.clock.now_ms()
    stage.stored[boiler.entity_id] = {"t": (now_ms - 2000, 20), "x": (now_ms, 1)}
    await stage.latest.refresh()
    assert stage.house.telemetry("Boiler", "t").age_s == 2.0
    assert stage.house.telemetry("Boiler", "x") is None  # nobody wanted it

    def save(ts_ms, entity=boiler, **values):
        receipt = asyncio.get_running_loop().create_future()
        stage.latest.overhear(receipt, [SaveTelemetry(entity.entity_id, ts_ms, values)])
        return receipt

    receipt, lost, foreign = save(now_ms, t=21), save(now_ms, t=99), save(now_ms, other, t=98)
    await asyncio.sleep(0)
    assert stage.house.telemetry("Boiler", "t").value == 20  # not on the disk yet
    receipt.set_result(None)
    lost.cancel()
    foreign.set_result(None)
    save(now_ms - 5000, t=1, p=7).set_result(None)  # late, but the only one of p
    await asyncio.sleep(0)
    assert [stage.house.telemetry("Boiler", key).value for key in ("t", "p")] == [21, 7]
    stage.state.apply([DeleteDevice(boiler.id)])
    await stage.latest.refresh()
    assert stage.house.telemetry("Boiler", "t") is None


async def test_attributes():
    stage = Stage()
    boiler = stage.inlet.add_device("Boiler", "token")
    stage.state.apply([SaveAttributes(boiler.entity_id, "SHARED_SCOPE", stage.clock.now_ms() - 500, {"limit": 80})])
    assert stage.house.attribute("Boiler", "SHARED_SCOPE", "limit").age_s == 0.5
    assert stage.house.attribute("Boiler", "CLIENT_SCOPE", "limit") is None
    assert stage.house.attribute("Nobody", "SHARED_SCOPE", "limit") is None


async def test_a_point_of_a_bus_is_as_good_as_its_bus_says():
    fake = FakeBus()
    (entry,) = parse_buses([{"kind": "fake"}], Plugins({"fake": fake.plugin}))
    clock = FakeClock()
    bus = Bus(entry, BusInlet("A"), clock, Counters())
    stage = Stage(bus)
    assert stage.house.telemetry("A", "t").problem == "the bus is not open"
    with pytest.raises(BusLost):
        await SharedBus(bus, clock).raw(RawRequest(unit="1", pdu=b"\3"))
    fake.values = {("A", "t"): 5}
    task = asyncio.create_task(bus.serve())
    await clock.advance(0.5)
    seen = stage.house.telemetry("A", "t")
    assert (seen.value, seen.age_s, seen.problem) == (5, 0.5, None)
    fake.broken["A"] = TransientError("silent")
    await clock.advance(10)
    assert "silent" in stage.house.telemetry("A", "t").problem
    assert stage.house.telemetry("A", "made by a rule") is None
    task.cancel()
    await asyncio.wait([task])
