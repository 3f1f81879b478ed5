import ast
import math
from pathlib import Path

import pytest

from drivers.modbus.registers import Layout, Order, Table, Type, decode, encode, merge, truth, truths
from gateway.errors import RejectedError

VECTORS = Path(__file__).parents[2] / "vectors" / "modbus_registers.txt"


def vectors():
    for line in VECTORS.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        head, orders, *words, value = line.split()
        kind, *options = head.split(",")
        byte_order, word_order = orders.split("/")
        fields = dict(option.split("=") for option in options)
        layout = Layout(
            type=Type(kind),
            byte_order=Order(byte_order),
            word_order=Order(word_order),
            scale=float(fields.get("scale", 1)),
            decimals=int(fields["round"]) if "round" in fields else None,
            count=int(fields.get("count", 1)),
            bit=int(fields.get("bit", 0)),
            width=int(fields.get("width", 1)),
            encoding=fields.get("encoding", "utf-8"),
        )
        yield pytest.param([int(word, 16) for word in words], layout, ast.literal_eval(value), id=line)


@pytest.mark.parametrize(("words", "layout", "value"), list(vectors()))
def test_golden_registers(words, layout, value):
    decoded = decode(words, layout)
    assert decoded == value
    assert type(decoded) is type(value)
    if layout.type in (Type.FIELD, Type.BITS):
        assert merge(words, value, layout) == words
    elif layout.decimals is None and layout.type is not Type.BOOL:
        assert encode(value, layout) == words


def layout(kind, **more):
    return Layout(type=Type(kind), **more)


def test_tenths_are_what_the_manual_says():
    assert [decode([raw], layout("int16", scale=0.1)) for raw in (3, 7, 123)] == [0.3, 0.7, 12.3]


@pytest.mark.parametrize(
    ("scale", "offset", "raw", "value"),
    [(1.0, -273.0, 300, 27), (2.0, 1.0, 10, 21), (0.5, 0.0, 3, 1.5), (1.0, 0.5, 3, 3.5), (0.3, 0.0, 10, 3.0)],
)
def test_scale_and_offset(scale, offset, raw, value):
    decoded = decode([raw], layout("uint16", scale=scale, offset=offset))
    assert decoded == pytest.approx(value)
    assert type(decoded) is type(value)
    assert encode(decoded, layout("uint16", scale=scale, offset=offset)) == [raw]


@pytest.mark.parametrize("words", [[0x7FC0, 0], [0x7F80, 0], [0xFF80, 0]])
def test_what_is_no_number_never_becomes_a_value(words):
    with pytest.raises(RejectedError, match="is not a number"):
        decode(words, layout("float32"))


@pytest.mark.parametrize(
    ("words", "kind", "more", "text"),
    [
        ([0x8000], "int16", {"nulls": {0x8000}}, "0x8000 means that there is no value"),
        ([0xFFFF, 0xFFFF], "uint32", {"nulls": {0xFFFFFFFF}}, "0xFFFFFFFF means"),
        ([0xFFFF, 0x7F80], "float32", {"nulls": {0x7F80FFFF}, "word_order": Order.LITTLE}, "0x7F80FFFF means"),
        ([0x8012], "int8", {"nulls": {0x80}}, "0x80 means"),
        ([0x00F0], "field", {"bit": 4, "width": 4, "nulls": {0xF}}, "0xF means"),
        ([0xFFFF], "bcd16", {"nulls": {0xFFFF}}, "0xFFFF means"),
        ([0x12A4], "bcd16", {}, "0x12A4 is no BCD"),
        ([1501], "int16", {"scale": 0.1, "plausible": (-40.0, 150.0)}, "150.1 is not plausible; -40 to 150 would be"),
    ],
)
def test_what_means_nothing_never_becomes_a_value(words, kind, more, text):
    with pytest.raises(RejectedError, match=text):
        decode(words, layout(kind, **more))


def test_what_lies_within_is_a_value_beside_the_marks_for_none():
    assert decode([0x7FFF], layout("int16", nulls={0x8000}, plausible=(0.0, 32767.0))) == 0x7FFF


def test_a_field_is_set_among_its_neighbours():
    assert merge([0xABCD], 5, layout("field", bit=4, width=4)) == [0xAB5D]
    assert merge([0xABCD], 5, layout("field", bit=4, width=4, byte_order=Order.LITTLE)) == [0x5BCD]
    with pytest.raises(RejectedError, match="16 is out of range; 0 to 15 can be written"):
        merge([0], 16, layout("field", bit=4, width=4))


def test_words_may_be_written_in_another_order_than_they_are_read():
    reversed_ = layout("uint32", write_word_order=Order.LITTLE)
    assert encode(0xAABBCCDD, reversed_) == [0xCCDD, 0xAABB]
    assert decode([0xAABB, 0xCCDD], reversed_) == 0xAABBCCDD


def test_a_counter_beyond_int64_is_rejected():
    with pytest.raises(RejectedError, match="beyond a 64-bit integer"):
        decode([0xFFFF] * 4, layout("uint64"))


def test_a_wrong_number_of_registers_is_rejected():
    with pytest.raises(RejectedError, match="1 registers where float32 needs 2"):
        decode([1], layout("float32"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([0x4142, 0x0043], "AB"),
        ([0x4142, 0x2020], "AB"),
        ([0xC3A4, 0x2000], "ä"),
        ([0xFF41, 0x4200], "FF4142"),
        ([0, 0], ""),
    ],
)
def test_text(words, text):
    assert decode(words, layout("string", count=2)) == text


def test_bits_of_a_register():
    assert decode([0b1000_0000_0000_0101], layout("bits", count=4)) == [True, False, True, False]
    assert decode([0, 1], layout("bits", count=17)) == [False] * 16 + [True]
    assert decode([0x8000], layout("bit", bit=15)) is True
    assert decode([0x8000], layout("bit", bit=14)) is False
    assert decode([0x0080], layout("bit", bit=15, byte_order=Order.LITTLE)) is True


def test_one_bit_is_set_among_its_neighbours():
    assert merge([0xFF00], True, layout("bit", bit=0)) == [0xFF01]
    assert merge([0xFF01], False, layout("bit", bit=8)) == [0xFE01]
    assert merge([0x0000], True, layout("bit", bit=0, byte_order=Order.LITTLE)) == [0x0100]
    assert merge([0xFFFF], [False, True, False], layout("bits", count=3)) == [0xFFFA]


@pytest.mark.parametrize(
    ("value", "kind", "more", "text"),
    [
        (70000, "uint16", {}, "70000 is out of range; 0 to 65535 can be written"),
        (-1, "uint16", {}, "-1 is out of range; 0 to 65535"),
        (4000, "int16", {"scale": 0.1}, "4000 is out of range; -3276.8 to 3276.7"),
        (400, "int16", {"scale": -0.01}, "400 is out of range; -327.67 to 327.68"),
        (2**63, "uint64", {}, "out of range"),
        (1e40, "float32", {}, "1e+40 is too large for float32"),
        (10**400, "int16", {"scale": 0.3}, "out of range"),
        (math.nan, "int16", {}, "nan cannot be written"),
        (math.inf, "float32", {}, "inf cannot be written"),
        (True, "int16", {}, "True is not a number"),
        ("5", "int16", {}, "'5' is not a number"),
        (None, "float32", {}, "None is not a number"),
        ("ABCDE", "string", {"count": 2}, "text of 5 bytes; at most 4 fit"),
        (5, "string", {"count": 2}, "5 is not text"),
        ("€", "string", {"count": 2, "encoding": "latin-1"}, "'€' cannot be written in latin-1"),
        (10000, "bcd16", {}, "10000 is out of range; 0 to 9999"),
        (151, "int16", {"plausible": (-40.0, 150.0)}, "151 is not plausible; -40 to 150 would be"),
    ],
)
def test_what_cannot_be_written_says_what_could(value, kind, more, text):
    with pytest.raises(RejectedError) as caught:
        encode(value, layout(kind, **more))
    assert text in str(caught.value)


def test_truth_values():
    assert [truth(value) for value in (True, False, 1, 0, 1.0)] == [True, False, True, False, True]
    for wrong in ("true", 2, None, [True], -1):
        with pytest.raises(RejectedError, match="is not true or false"):
            truth(wrong)
    assert truths([1, 0], 2) == [True, False]
    with pytest.raises(RejectedError, match="list of 3 values"):
        truths([1, 0], 3)


def test_which_tables_are_what():
    assert [table for table in Table if table.is_bits] == [Table.COIL, Table.DISCRETE_INPUT]
    assert [table for table in Table if table.is_writable] == [Table.COIL, Table.HOLDING_REGISTER]
