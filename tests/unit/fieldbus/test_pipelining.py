"""A line that carries several questions at a time: different polls side by side, and nothing beside a write."""

from gateway.errors import BusLost, TransientError
from gateway.fieldbus.gate import Gates, Queue
from gateway.ports import Poll
from tests.fakes.driver import FakeBus
from tests.unit.fieldbus.test_bus import Scene


class WideBus(FakeBus):
    """Implements `Pipelined` too, and keeps what was open beside what."""

    in_flight = 3

    def __init__(self):
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.most = 0
        self.together: set[frozenset[str]] = set()
        self.broken_write: TransientError | None = None  # after 2 s

    async def _during(self, what, unit, work):
        assert (what, unit) not in self.open, "one poll twice at a time"
        self.open.append((what, unit))
        self.most = max(self.most, len(self.open))
        of_unit = frozenset(kind.split()[0] for kind, other in self.open if other == unit)
        self.together.add(of_unit)
        try:
            return await work
        finally:
            self.open.remove((what, unit))

    async def read(self, poll):
        return await self._during(f"read {poll.key}", poll.unit, super().read(poll))

    async def write(self, command):
        work = super().write(command) if self.broken_write is None else self._fail(command, self.broken_write)
        return await self._during(f"write {command.value}", command.device, work)

    async def _fail(self, command, error):
        self.writes.append(command)
        await self._clock.sleep(2.0)
        raise error

    async def query(self, query):
        return await self._during(f"query {id(query)}", query.device, super().query(query))


def wide(*devices, polls=2):
    scene = Scene(*devices)
    plan, values = scene.bus.plan, scene.bus.values
    scene.bus = WideBus()
    scene.bus.plan = [Poll(key=f"{poll.key}{n}", every_s=1.0, unit=poll.unit) for poll in plan for n in range(polls)]
    scene.bus.values, scene.plugins["fake"] = values, scene.bus.plugin
    return scene


async def test_so_many_polls_are_open_at_a_time_and_never_more():
    scene = wide("A", "B", "C")
    scene.bus.delay_s = 0.1
    async with scene.running():
        assert len(scene.bus.open) == 3
        await scene.clock.advance(10.0)
        assert scene.bus.most == 3
        assert all(scene.bus.reads.count(poll.key) >= 8 for poll in scene.bus.plan)


async def test_a_poll_slower_than_its_period_is_never_open_twice():
    scene = wide("A", polls=1)
    scene.bus.delay_s = 3.5
    async with scene.running():
        await scene.clock.advance(35.0)
        assert scene.bus.most == 1
        assert 8 <= len(scene.bus.reads) <= 11
        assert scene.room.status()[0]["late_merged"] >= 15


async def test_each_poll_waits_for_its_own_receipts_alone():
    scene = wide("A", "B", polls=1)
    scene.house.is_slow = True
    async with scene.running():
        await scene.clock.advance(20.0)
        assert sorted(scene.bus.reads) == ["A0", "B0"]
        assert await scene.answer("t") == {"value": 1}, "calls go on while the disk is slow"
        scene.house.open_receipts.pop(0).set_result(None)
        await scene.clock.advance(0)
        assert sorted(scene.bus.reads) == ["A0", "A0", "B0"]


async def test_what_writes_has_its_unit_to_itself_and_others_go_on():
    scene = wide("A", "B", polls=3)
    scene.bus.delay_s = 0.15
    async with scene.running():
        for turn in range(20):
            scene.call("t", turn, in_s=100.0)
            scene.call("t", in_s=100.0)
            await scene.clock.advance(0.5)
        await scene.clock.advance(5.0)
        assert [write.value for write in scene.bus.writes] == list(range(20)), "in the order of the calls"
        assert {"write"} in scene.bus.together
        assert all(kinds == {"write"} for kinds in scene.bus.together if "write" in kinds)
        assert {"read", "query"} in scene.bus.together
        assert scene.bus.reads.count("B0") >= 8


async def test_a_call_that_waits_for_its_unit_keeps_its_deadline():
    scene = wide("A", polls=1)
    scene.bus.delay_s = 5.0
    async with scene.running():
        call = scene.call("t", 9, in_s=2.0)
        await scene.clock.advance(6.0)
        assert call.done()
        assert scene.bus.writes == []


async def test_answers_lost_together_are_one_failure_not_an_outage(caplog):
    scene = wide("A", polls=3)
    scene.bus.delay_s = 0.5
    async with scene.running():
        scene.bus.broken["A"] = TransientError("line: unit A: no answer")
        await scene.clock.advance(0.5)
        assert len(scene.bus.reads) == 3
        assert scene.room.status()[0]["units"][0]["errors"] == 3
        del scene.bus.broken["A"]
        await scene.clock.advance(5.0)
        assert scene.house.session("A").silences == 1
    assert not caplog.records


async def test_a_line_lost_under_several_polls_is_one_try_for_all():
    scene = wide("A", "B", "C", polls=1)
    for name in "ABC":
        scene.bus.broken[name] = BusLost("line: no connection")
    scene.bus.delay_s = 0.01
    async with scene.running():
        await scene.clock.advance(120.0)
        assert len(scene.bus.reads) <= 3 * 14
        scene.bus.broken.clear()
        await scene.clock.advance(31.0)
        assert scene.room.status()[0]["connected"] is True


async def test_a_bug_in_one_read_ends_the_bus_and_nothing_is_left_open():
    scene = wide("A", "B", polls=1)
    scene.bus.delay_s = 1.0
    async with scene.running():
        scene.bus.broken["A"] = KeyError("bug")
        await scene.clock.advance(2.0)
        assert scene.counters.get("fieldbus.driver_bugs") == 1
        assert scene.bus.open == []


async def test_calls_are_answered_when_every_poll_waits_for_the_disk():
    scene = wide("A", "B", "C")
    async with scene.running():
        scene.house.congest()
        await scene.clock.advance(5.0)
        assert await scene.answer("t", 7) == {"value": 7}
        scene.house.relax()
        await scene.clock.advance(2.0)
        assert len(scene.bus.reads) > 6


async def test_calls_to_one_unit_that_is_slow_leave_the_others_their_turns():
    """Each of them would have taken a place on the line, to wait there."""
    scene = wide("A", "B", polls=2)
    async with scene.running():
        scene.bus.broken_write = TransientError("line: unit A: no answer")
        calls = [scene.call("t", n, in_s=100.0) for n in range(10)]
        scene.bus.delay_s = 0.0
        before = len(scene.bus.reads)
        await scene.clock.advance(4.5)
        assert sum(call.done() for call in calls) <= 3
        read = scene.bus.reads[before:]
        assert min(read.count("B0"), read.count("B1")) >= 4, read
        assert read.count("A0") <= 4
        await scene.clock.advance(30.0)
        assert all(call.done() for call in calls)
        assert {"write"} in scene.bus.together
        assert all(kinds == {"write"} for kinds in scene.bus.together if "write" in kinds)


async def test_a_call_that_waits_behind_a_slow_one_is_answered_at_its_deadline():
    scene = wide("A", polls=1)
    async with scene.running():
        scene.bus.broken_write = TransientError("line: unit A: no answer")
        scene.call("t", 1, in_s=100.0)
        late = scene.call("t", 2, in_s=1.0)
        await scene.clock.advance(1.5)
        assert late.done()
        await scene.clock.advance(10.0)
        assert [write.value for write in scene.bus.writes] == [1]


def test_a_write_waits_for_those_inside_and_nobody_enters_before_it():
    gates = Gates()
    gates.enter("1", alone=False)
    assert gates.is_free("1", alone=False)
    assert not gates.is_free("1", alone=True)
    queue = Queue(gates)
    assert not queue.may_enter("1", alone=True)
    assert not queue.may_enter("1", alone=False), "it came later"
    assert queue.may_enter("2", alone=True)
    assert "1" in queue.shut
    assert "2" not in queue.shut
    gates.leave("1")
    gates.enter("1", alone=True)
    assert "1" in gates.shut
    assert not gates.is_free("1", alone=False)


def test_a_device_of_several_units_has_all_of_them_for_its_write():
    gates = Gates()
    gates.enter("1", alone=False)
    assert not gates.is_free(None, alone=True)
    queue = Queue(gates)
    assert not queue.may_enter(None, alone=True)
    assert not queue.may_enter("2", alone=False)
    assert "2" in queue.shut
    gates.leave("1")
    gates.enter(None, alone=True)
    assert "2" in gates.shut
    assert not gates.is_free("2", alone=False)
    gates.leave(None)
    assert gates.is_free("2", alone=True)
