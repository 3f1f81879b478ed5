"""What writes put on the wire, against a unit that remembers what it was asked."""

import pytest

from drivers.modbus.config import ModbusConfig
from drivers.modbus.driver import ModbusDriver
from drivers.modbus.protocol.pdu import answer, parse, refusal
from drivers.modbus.wire import ModbusWire, Refused
from drivers.modbus.wire_master import Silent
from gateway.errors import RejectedError, TransientError
from gateway.ports import Query, Write, WriteTogether
from tests.fakes.clock import FakeClock


class Unit:
    """Implements `Master`: one memory for all units. `unknown` functions are refused, `mute` ones not answered;
    `refused` maps an address to a code; `clamp` is the highest number that a register takes."""

    connects, is_open = 1, True

    def __init__(self):
        self.bits, self.words = {}, {}
        self.unknown, self.mute, self.refused, self.clamp = set(), set(), {}, 0xFFFF
        self.asked = []

    async def ask(self, unit, question):
        request = parse(question.pdu)
        function = int(request.function)
        if function > 4:
            self.asked.append((function, request.address, *request.values))
        if function in self.mute:
            raise Silent("no answer in 1 s")
        if function in self.unknown:
            return refusal(function, 1)
        places = range(request.address, request.address + max(request.count, len(request.values)))
        if function > 4 and (code := next((self.refused[place] for place in places if place in self.refused), None)):
            return refusal(function, code)
        store = self.bits if function in (1, 2, 5, 15) else self.words
        if function == 22:
            keep, bits = request.values
            store[request.address] = store.get(request.address, 0) & keep | bits & ~keep & 0xFFFF
        elif request.values:
            start = request.write_address if function == 23 else request.address
            store.update({start + n: min(value, self.clamp) for n, value in enumerate(request.values)})
        found = [store.get(place, 0) for place in range(request.address, request.address + request.count)]
        return answer(request, found)

    def close(self):
        pass


def point(key, address, kind="uint16", table="holding_register", **more):
    return {"key": key, "table": table, "address": address, "type": kind, "writable": True} | more


def plant(*points, **device):
    unit = Unit()
    tree = {"host": "here", "devices": [{"name": "A", "telemetry": points or (point("a", 0),)} | device]}
    config = ModbusConfig.model_validate(tree)
    return ModbusDriver(config, ModbusWire("plant", "here", unit), FakeClock()), unit


async def put(driver, **values):
    """As a channel does: each group one command."""
    found, notes = {}, {}
    for keys in driver.together("A", list(values)):
        wrote = await driver.write_together(WriteTogether(device="A", values={key: values[key] for key in keys}))
        assert wrote.error is None
        found |= wrote.values
        notes |= wrote.notes
    assert list(found) == list(values)
    return found, notes


SIX = [point(key, address) for address, key in enumerate("abcdef")]


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        ("abc", [(16, 0, 0, 1, 2)]),
        ("cba", [(16, 0, 2, 1, 0)]),
        ("acb", [(16, 0, 0, 2, 1)]),  # side by side in the end
        ("ac", [(6, 0, 0), (6, 2, 1)]),  # b, between them, is not ours to write
        ("abef", [(16, 0, 0, 1), (16, 4, 2, 3)]),
        ("afb", [(6, 0, 0), (6, 5, 1), (6, 1, 2)]),  # the order that was asked for
    ],
)
async def test_neighbours_share_a_request_and_the_order_stays(keys, asked):
    driver, unit = plant(*SIX)
    values, notes = await put(driver, **{key: number for number, key in enumerate(keys)})
    assert unit.asked == asked
    assert values == {key: number for number, key in enumerate(keys)}
    assert notes == {}


async def test_coils_wide_numbers_and_texts_share_requests_of_their_own():
    driver, unit = plant(
        point("on", 0, "bool", "coil"),
        point("off", 1, "bool", "coil"),
        point("wide", 10, "uint32"),
        point("name", 12, "string", count=2),
    )
    values, _ = await put(driver, on=True, off=False, wide=0x10002, name="AB")
    assert unit.asked == [(15, 0, 1, 0), (16, 10, 1, 2, 0x4142, 0)]
    assert values == {"on": True, "off": False, "wide": 0x10002, "name": "AB"}


async def test_the_same_register_twice_is_written_twice():
    driver, _ = plant(point("a", 0), point("b", 0, scale=0.1))
    assert driver.together("A", ["a", "b"]) == [["a"], ["b"]]


async def test_what_overlaps_and_leaves_a_gap_is_no_block():
    driver, _ = plant(point("wide", 0, "uint32"), point("half", 1), point("far", 3))
    assert driver.together("A", ["wide", "half", "far"]) == [["wide"], ["half"], ["far"]]


async def test_123_registers_are_the_most():
    driver, _ = plant(*(point(f"p{n}", n) for n in range(200)))
    assert [len(part) for part in driver.together("A", [f"p{n}" for n in range(200)])] == [123, 77]


@pytest.mark.parametrize(
    ("function", "kind", "table", "value", "asked"),
    [
        (5, "bool", "coil", True, [(5, 3, 1)]),
        (15, "bool", "coil", True, [(15, 3, 1)]),
        (6, "uint16", "holding_register", 7, [(6, 3, 7)]),
        (16, "uint16", "holding_register", 7, [(16, 3, 7)]),
        (22, "uint16", "holding_register", 7, [(22, 3, 0, 7)]),
        (23, "uint32", "holding_register", 7, [(23, 3, 0, 7)]),
        (6, "uint32", "holding_register", 0x10007, [(6, 3, 1), (6, 4, 7)]),
    ],
)
async def test_a_device_that_knows_but_one_way(function, kind, table, value, asked):
    driver, unit = plant(point("p", 3, kind, table, write_function=function))
    assert await put(driver, p=value) == ({"p": value}, {})
    assert unit.asked == asked


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"write_function": 5}, "function 5 does not write a holding_register; 6, 16, 22 or 23 does"),
        ({"write_function": 22, "type": "uint32"}, "function 22 writes one register, and uint32 takes 2"),
        ({"write_function": 6, "writable": False}, "are for points with `writable: true`"),
        ({"read_back": False, "writable": False}, "are for points with `writable: true`"),
        ({"step": 1.0, "type": "string"}, "step is for numbers, not for string"),
    ],
)
def test_what_does_not_fit_together_is_an_error_of_the_configuration(more, text):
    with pytest.raises(ValueError, match=text.replace("(", r"\(")):
        plant(point("p", 3) | more)


# ── bits of a register ──

BITS = [point(f"bit{n}", 9, "bit", bit=n) for n in range(3)]


async def test_bits_are_written_within_the_device():
    driver, unit = plant(*BITS)
    unit.words[9] = 0x8003
    values, _ = await put(driver, bit0=False, bit2=True)
    assert unit.asked == [(22, 9, 0xFFFA, 0x0004)]
    assert unit.words[9] == 0x8006
    assert values == {"bit0": False, "bit2": True}


@pytest.mark.parametrize("how", ["unknown", "mute"])
async def test_a_device_without_a_mask_write_is_read_changed_and_written_and_that_is_remembered(how):
    driver, unit = plant(*BITS)
    setattr(unit, how, {22})
    unit.words[9] = 0x8001
    await put(driver, bit1=True)
    await put(driver, bit0=False)
    assert unit.asked == [(22, 9, 0xFFFD, 2), (6, 9, 0x8003), (6, 9, 0x8002)]


async def test_a_device_that_is_silent_altogether_is_not_taken_for_one_without_a_mask_write():
    driver, unit = plant(*BITS)
    unit.mute = {3, 22}
    with pytest.raises(TransientError, match="no answer to function 0x03"):
        await put(driver, bit1=True)
    unit.mute = set()
    await put(driver, bit1=True)
    assert [asked[0] for asked in unit.asked] == [22, 22]


async def test_bits_with_swapped_bytes():
    driver, unit = plant(*BITS, byte_order="little")
    await put(driver, bit1=True)
    assert unit.asked == [(22, 9, 0xFDFF, 0x0200)]


async def test_bits_of_several_registers():
    driver, unit = plant(point("flags", 4, "bits", count=20))
    unit.words[5] = 0xABC0
    flags = [n % 2 == 0 for n in range(20)]
    assert await put(driver, flags=flags) == ({"flags": flags}, {})
    assert unit.asked == [(16, 4, 0x5555, 0xABC5)]


# ── what devices refuse ──


async def test_a_device_that_knows_only_16_is_learned():
    driver, unit = plant(point("a", 0))
    unit.unknown = {6}
    await put(driver, a=1)
    await put(driver, a=2)
    assert unit.asked == [(6, 0, 1), (16, 0, 1), (16, 0, 2)]


async def test_a_device_that_takes_one_at_a_time_is_learned():
    driver, unit = plant(*SIX)
    unit.unknown = {16}
    await put(driver, a=1, b=2)
    await put(driver, a=3, b=4)
    assert unit.asked == [(16, 0, 1, 2), (6, 0, 1), (6, 1, 2), (6, 0, 3), (6, 1, 4)]


async def test_the_culprit_among_several_is_named_with_what_is_written_before_it():
    driver, unit = plant(*SIX)
    unit.refused = {1: 3}
    wrote = await driver.write_together(WriteTogether(device="A", values={"a": 1, "b": 2, "c": 3}))
    assert wrote.values == {"a": 1}
    assert isinstance(wrote.error, Refused)
    assert "holding_register 1: function 0x06 refused: illegal data value (3)" in str(wrote.error)
    assert driver.together("A", ["a", "b"]) == [["a", "b"]], "the value was wrong, not the way"
    with pytest.raises(Refused):
        await driver.write_together(WriteTogether(device="A", values={"b": 2, "a": 1}))


async def test_a_bad_value_keeps_all_of_its_group_from_the_wire():
    driver, unit = plant(*SIX)
    with pytest.raises(RejectedError, match=r"modbus: unit 1, holding_register 1 \(A.b\): 'x' is not a number"):
        await driver.write_together(WriteTogether(device="A", values={"a": 1, "b": "x"}))
    assert unit.asked == []


# ── what the device then holds ──


async def test_a_device_that_holds_another_value_is_said_to():
    driver, unit = plant(*SIX)
    unit.clamp = 100
    values, notes = await put(driver, a=50, b=130)
    assert values == {"a": 50, "b": 100}
    assert notes == {"b": "130 was written; the device holds 100"}


async def test_words_that_are_taken_in_another_order_than_they_are_given_are_the_same_value():
    driver, unit = plant(point("a", 0, "uint32", write_word_order="little", read_back=False))
    assert await put(driver, a=0x10002) == ({"a": 0x10002}, {})
    assert unit.asked == [(16, 0, 2, 1)]


async def test_a_fraction_that_the_register_cannot_hold_is_no_other_value():
    driver, _ = plant(point("a", 0), point("f", 2, "float32"))
    assert await put(driver, a=65.4, f=0.1) == ({"a": 65, "f": pytest.approx(0.1)}, {})


async def test_what_can_only_be_written_is_not_read():
    driver, unit = plant(point("a", 0, read_back=False))
    unit.mute = {3}
    assert await put(driver, a=7) == ({"a": 7}, {})
    driver, unit = plant(point("a", 0))
    unit.mute = {3}
    with pytest.raises(TransientError, match="written, but not read back"):
        await put(driver, a=7)
    unit.mute, unit.unknown = set(), {3}
    with pytest.raises(RejectedError, match=r"written, but it cannot be read back.*`read_back: false`"):
        await put(driver, a=7)


@pytest.mark.parametrize(
    ("more", "value", "text"),
    [
        ({"min": 10, "max": 90}, 9, "9 is outside of 10 to 90"),
        ({"max": 90}, 91, "91 is outside of … to 90"),
        ({"min": 10, "step": 5}, 18, "18 is no step of 5; the nearest is 20"),
        ({"type": "int16", "scale": 0.1, "step": 0.5}, 20.3, "20.3 is no step of 0.5; the nearest is 20.5"),
        ({"values": {0: "off", 1: "on"}}, "auto", "'auto' is none of off, on"),
        ({"values": {0: "off", 1: "on"}}, 2, r"2 is none of 0 \(off\), 1 \(on\)"),
    ],
)
async def test_limits_of_a_point(more, value, text):
    driver, unit = plant(point("p", 3) | more)
    with pytest.raises(RejectedError, match=text):
        await driver.write(Write(device="A", key="p", value=value))
    assert unit.asked == []


async def test_values_within_the_limits_are_written():
    driver, unit = plant(point("p", 3, min=10, max=90, step=5), point("m", 4, values={0: "off", 1: "on"}))
    assert await put(driver, p=20, m="on") == ({"p": 20, "m": "on"}, {})
    assert unit.asked == [(16, 3, 20, 1)]


# ── a place instead of a key ──


async def ask(driver, text):
    return await driver.query(Query(device="A", key=text))


async def test_a_place_is_read_in_the_orders_of_the_device():
    driver, unit = plant(word_order="little")
    unit.words.update({5: 0, 6: 0x41C8})
    unit.bits[2] = 1
    assert await ask(driver, "type=32float;functionCode=3;objectsCount=2;address=5;") == 25.0
    assert await ask(driver, "type=16uint;functionCode=4;objectsCount=1;address=6") == 0x41C8
    assert await ask(driver, "type=bits;functionCode=1;objectsCount=3;address=1;") == [False, True, False]
    assert await ask(driver, "type=bits;functionCode=1;objectsCount=1;address=2;") is True
    assert await ask(driver, "type=bytes;functionCode=3;objectsCount=2;address=5;") == "000041c8"
    assert await ask(driver, "type=int;functionCode=3;objectsCount=2;address=5;") == 0x41C80000


async def test_a_place_is_written_where_the_device_allows_it():
    text = "type=16int;functionCode=6;objectsCount=1;address=6;"
    driver, unit = plant()
    with pytest.raises(RejectedError, match="A takes keys, not places; `rpc_addresses: write`"):
        await driver.write(Write(device="A", key=text, value="9"))
    driver, unit = plant(rpc_addresses="write")
    assert driver.together("A", [text]) == [[text]]
    assert await put(driver, **{text: "9"}) == ({text: 9}, {})
    await put(driver, **{"type=bits;functionCode=15;objectsCount=3;address=1;": "[1,0,1]"})
    await put(driver, **{"type=int;functionCode=16;objectsCount=2;address=8;": "7"})
    assert unit.asked == [(6, 6, 9), (15, 1, 1, 0, 1), (16, 8, 0, 7)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("functionCode=3;", "right is type=16int;functionCode=3"),
        ("type=16int;functionCode=9;objectsCount=1;address=5;", "functionCode=9 does not read; 1, 2, 3, 4 do"),
        ("type=16int;functionCode=6;objectsCount=1;address=5;", "functionCode=6 does not read"),
        ("type=16bit;functionCode=3;objectsCount=1;address=5;", "type=16bit is not for registers"),
        ("type=16int;functionCode=3;objectsCount=1;address=70000;", "70000"),
        ("type=string;functionCode=3;objectsCount=126;address=5;", "126 from address 5"),
        ("type=16int;functionCode=3;objectsCount=x;address=5;", "objectsCount=x is not a number"),
    ],
)
async def test_a_place_that_is_none(text, why):
    driver, _ = plant()
    with pytest.raises(RejectedError, match=why):
        await ask(driver, text)


async def test_places_can_be_switched_off():
    driver, _ = plant(rpc_addresses="none")
    with pytest.raises(RejectedError, match="`rpc_addresses: read`"):
        await ask(driver, "type=16int;functionCode=3;objectsCount=1;address=5;")
