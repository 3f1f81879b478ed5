"""Which requests are asked: the fewest, what a unit cannot do found out in few questions, and remembered."""

import contextlib
import math
from pathlib import Path

import pytest

from drivers.modbus.config import ModbusConfig
from drivers.modbus.cost import UnitTimes, cost_of
from drivers.modbus.driver import ModbusDriver
from drivers.modbus.reads import MOST_IN_A_TURN
from drivers.modbus.wire import Refused
from gateway.fieldbus.records import Records
from gateway.ports import Fault
from tests.fakes.clock import FakeClock
from tests.unit.drivers.test_modbus_cases import FakeWire, read_all

VECTORS = Path(__file__).parents[2] / "vectors" / "modbus_requests.txt"


def vectors():
    for line in VECTORS.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            asked, wanted = line.split("|")
            kind, limit, *items = asked.split()
            yield pytest.param(kind, int(limit), items, wanted.split(), id=" ".join(line.split()))


def tree(kind, points, **device):
    line = {"kind": "tcp", "host": "x"} if kind == "tcp" else {"kind": "rtu", "device": "/dev/x", "baud": int(kind)}
    return {"name": "plant", "line": line, "devices": [{"name": "D", "telemetry": points, **device}]}


def point(address, count=1, **more):
    kind = {"type": "hex", "count": count} if count > 1 else {"type": "uint16"}
    return {"key": f"k{address}", "table": "holding_register", "address": address, **kind, **more}


class Unit(FakeWire):
    """Registers 0 to 999 but for `missing`; at most `longest` at once, never across one of `borders`."""

    def __init__(self, missing=(), longest=125, borders=()):
        held = {n: n for n in range(1000) if n not in missing}
        super().__init__("plant", {})
        self.memory[1, "holding_register"] = held
        self.longest, self.borders = longest, borders

    async def read_registers(self, unit_id, table, address, count):
        if count > self.longest or any(address < border < address + count for border in self.borders):
            self.requests.append(f"{unit_id} {table} {address}+{count}")
            raise Refused("plant: illegal data value (3)", 3)
        return await super().read_registers(unit_id, table, address, count)

    def asked(self):
        found, self.requests = [text.split()[-1] for text in self.requests], []
        return found


def driver_of(wire, points, kind="tcp", **device):
    clock = FakeClock()
    return ModbusDriver(ModbusConfig.model_validate(tree(kind, points, **device)), wire, clock), clock


@pytest.mark.parametrize(("kind", "limit", "items", "wanted"), list(vectors()))
async def test_the_fewest_requests(kind, limit, items, wanted):
    points, holes = [], []
    for item in items:
        if item.startswith("h"):
            holes.append([int(end) for end in item[1:].split("-")])
            continue
        place, _, every_ms = item.partition("@")
        address, count = place.split("+")
        points.append(point(int(address), int(count), every_ms=int(every_ms or 1000)))
    wire = Unit()
    driver, _ = driver_of(wire, points, kind, max_registers=limit, holes=holes)
    readings = (await read_all(driver))["readings"]["D"]
    assert len(readings) == len(points)
    assert wire.asked() == wanted


async def test_one_register_that_is_missing_among_many_is_found_in_few_questions():
    wire = Unit(missing={77})
    driver, clock = driver_of(wire, [point(n) for n in range(120)])
    (poll,) = driver.polls()
    assert len(await driver.read(poll)) == 119
    assert len(wire.asked()) <= 1 + 2 * math.ceil(math.log2(120))
    assert list(driver.faults()) == ["D.k77"]
    assert driver.faults()["D.k77"].code == 2
    for _ in range(3):
        assert len(await driver.read(poll)) == 119
        assert wire.asked() == ["0+77", "78+42"]
    wire.memory[1, "holding_register"][77] = 1
    await clock.advance(61)
    assert len(await driver.read(poll)) == 120
    assert wire.asked() == ["0+77", "78+42", "77+1"]
    assert len(await driver.read(poll)) == 120
    assert wire.asked() == ["0+120"]
    assert driver.faults() == {}


async def test_a_gap_that_is_missing_is_not_read_across_again():
    wire = Unit(missing={50})
    driver, clock = driver_of(wire, [point(n) for n in (*range(40), *range(60, 100))])
    for _ in range(2):
        await clock.advance(61)
        await read_all(driver)
    assert wire.asked() == ["0+100", "0+40", "60+40", "0+40", "60+40"]
    assert driver.line()["not_read_across"] == {"unit 1, holding_register": ["40-59"]}
    assert driver.faults() == {}


async def test_the_longest_request_is_found_out_once_for_all_polls_of_a_unit():
    wire = Unit(longest=60)
    driver, _ = driver_of(wire, [point(n) for n in range(120)] + [point(n, every_ms=1700) for n in range(300, 420)])
    first, second = driver.polls()
    assert len(await driver.read(first)) == 120
    assert wire.asked() == ["0+120", "0+60", "60+60"]
    assert len(await driver.read(second)) == 120
    assert wire.asked() == ["300+60", "360+60"]
    assert driver.line()["longest_request"] == {"unit 1, holding_register": 60}


async def test_a_border_within_a_unit_is_no_limit_of_its_length():
    wire = Unit(borders={85})
    driver, _ = driver_of(wire, [point(n) for n in range(120)])
    for _ in range(2):
        assert len((await read_all(driver))["readings"]["D"]) == 120
    wire.asked()
    await read_all(driver)
    assert len(wire.asked()) <= 3
    assert "84|85" in driver.line()["not_read_across"]["unit 1, holding_register"] or not driver.faults()


async def test_a_unit_that_refuses_everything_costs_a_bounded_number_of_questions_a_turn():
    wire = Unit(missing=range(1000))
    driver, clock = driver_of(wire, [point(n) for n in range(120)])
    (poll,) = driver.polls()
    with pytest.raises(Refused):
        await driver.read(poll)
    assert len(wire.asked()) <= MOST_IN_A_TURN + 8
    assert len(driver.faults()) == 120
    for _ in range(30):
        with contextlib.suppress(Refused):
            await driver.read(poll)
        assert len(wire.asked()) <= MOST_IN_A_TURN + 8
    assert await driver.read(poll) == []
    assert wire.asked() == []
    wire.memory[1, "holding_register"] = dict.fromkeys(range(1000), 1)
    for _ in range(10):
        await clock.advance(61)
        await read_all(driver)
    assert driver.faults() == {}
    wire.asked()
    await read_all(driver)
    assert wire.asked() == ["0+120"]


async def test_several_points_of_one_missing_register_are_one_culprit():
    wire = Unit(missing={3})
    bits = [{**point(3), "key": f"bit{n}", "type": "bit", "bit": n} for n in range(16)]
    driver, _ = driver_of(wire, [*bits, point(2), point(4)])
    await read_all(driver)
    assert len(wire.asked()) <= 5
    assert len(driver.faults()) == 16


async def test_slow_points_are_read_at_their_turns_and_with_the_fast_ones():
    wire = Unit()
    driver, clock = driver_of(wire, [point(0), point(1, every_ms=5000)])
    (poll,) = driver.polls()
    assert [(each.key, each.every_s) for each in poll.points] == [("k0", None), ("k1", 5.0)]
    for turn in range(11):
        await driver.read(poll)
        await clock.advance(0.7 if turn % 5 == 0 else 1.0)  # one turn late, and its successors punctual
    assert wire.asked() == ["0+2", *["0+1"] * 4] * 2 + ["0+2"]


async def test_a_slow_point_among_fast_ones_is_good_until_its_own_period_has_passed():
    driver, _ = driver_of(Unit(), [point(0), point(1, every_ms=5000)])
    (poll,) = driver.polls()
    records = Records("plant", [poll])
    records.take("1", records.polls[poll], await driver.read(poll), 0.0)
    at_4 = {row.key: row.quality(4.0, None, {})[0] for row in records}
    assert at_4 == {"k0": "stale", "k1": "good"}
    rows = {row.key: row.status(4.0, None, {"D.k1": Fault("no", 2)}) for row in records}
    assert (rows["k1"]["every_ms"], rows["k1"]["quality"], rows["k1"]["code"]) == (5000, "bad", 2)


async def test_an_explicit_gap_stands_above_the_model():
    wire = Unit()
    config = tree("tcp", [point(0), point(10)]) | {"max_gap_registers": 8}
    await read_all(ModbusDriver(ModbusConfig.model_validate(config), wire, FakeClock()))
    assert wire.asked() == ["0+1", "10+1"]


def test_a_unit_that_is_slow_to_answer_has_wider_gaps_read_along():
    line = ModbusConfig.model_validate(tree("19200", [point(0)])).wire
    times = UnitTimes(cost_of(line))
    at_first = times.gap(1, is_bits=False)
    for _ in range(7):
        times.answered(1, 0.0154 + 0.015, 0)
    assert times.gap(1, is_bits=False) == at_first, "a few answers are no measure"
    for _ in range(20):
        times.answered(1, 0.0154 + 0.015, 0)
        times.answered(2, 0.0154 - 0.005, 0)
    assert times.gap(2, is_bits=False) < at_first < times.gap(1, is_bits=False)
    assert times.gap(1, is_bits=True) > 16 * at_first


@pytest.mark.parametrize(
    ("device", "text"),
    [
        ({"holes": [[5, 4]]}, "the hole \\[5, 4\\] ends before it begins"),
        ({"holes": [[0, 4]]}, "'k3' lies in the hole \\[0, 4\\]"),
    ],
)
def test_a_hole_that_cannot_be_meant_is_refused(device, text):
    with pytest.raises(ValueError, match=text):
        ModbusConfig.model_validate(tree("tcp", [point(3)], **device))
