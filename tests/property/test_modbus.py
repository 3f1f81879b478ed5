"""Whatever the layout or the register map: round trips, and requests that are right and few."""

import math
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.modbus.grouping import MAX_BITS, MAX_REGISTERS, Span, group
from drivers.modbus.registers import Layout, Order, Table, Type, decode, encode, merge
from gateway.errors import RejectedError
from gateway.fieldbus.scheduler import PollScheduler
from gateway.ports import Poll

orders = st.sampled_from(Order)
INTS = {
    Type.INT16: (-(2**15), 2**15 - 1),
    Type.INT32: (-(2**31), 2**31 - 1),
    Type.INT64: (-(2**63), 2**63 - 1),
    Type.UINT16: (0, 2**16 - 1),
    Type.UINT32: (0, 2**32 - 1),
    Type.UINT64: (0, 2**63 - 1),
}
FLOATS = {Type.FLOAT16: 16, Type.FLOAT32: 32, Type.FLOAT64: 64}


@st.composite
def whole_numbers(draw):
    kind = draw(st.sampled_from(list(INTS)))
    return kind, draw(st.integers(*INTS[kind]))


@st.composite
def floats(draw):
    kind = draw(st.sampled_from(list(FLOATS)))
    return kind, draw(st.floats(allow_nan=False, allow_infinity=False, width=FLOATS[kind]))


@given(st.one_of(whole_numbers(), floats()), orders, orders)
def test_numbers_come_back_as_they_went(item, byte_order, word_order):
    kind, value = item
    layout = Layout(type=kind, byte_order=byte_order, word_order=word_order)
    words = encode(value, layout)
    assert len(words) == layout.words
    assert all(0 <= word <= 0xFFFF for word in words)
    assert decode(words, layout) == value


@given(st.integers(-(2**15), 2**15 - 1), st.sampled_from([0.1, 0.01, 0.001, 0.5, 2.0, 10.0, 0.25]), orders)
def test_scaled_registers_come_back_as_they_went(raw, scale, byte_order):
    layout = Layout(type=Type.INT16, scale=scale, byte_order=byte_order)
    words = encode(raw, Layout(type=Type.INT16, byte_order=byte_order))
    assert encode(decode(words, layout), layout) == words


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)


@given(texts, orders, orders)
def test_text_comes_back_without_trailing_spaces(text, byte_order, word_order):
    layout = Layout(type=Type.STRING, count=16, byte_order=byte_order, word_order=word_order)
    assert decode(encode(text, layout), layout) == text.rstrip()


@given(
    st.lists(st.integers(0, 0xFFFF), min_size=4, max_size=4), st.lists(st.booleans(), min_size=1, max_size=64), orders
)
def test_merged_bits_come_back_and_the_others_stay(words, bits, byte_order):
    layout = Layout(type=Type.BITS, count=len(bits), byte_order=byte_order)
    held = words[: layout.words]
    merged = merge(held, bits, layout)
    assert decode(merged, layout) == bits
    every = Layout(type=Type.BITS, count=16 * layout.words, byte_order=byte_order)
    assert decode(merged, every)[len(bits) :] == decode(held, every)[len(bits) :]


@given(st.lists(st.integers(0, 0xFFFF), min_size=4, max_size=4), st.sampled_from(Type), orders, orders)
def test_any_registers_are_a_json_value_or_are_rejected(words, kind, byte_order, word_order):
    layout = Layout(type=kind, byte_order=byte_order, word_order=word_order)
    try:
        value = decode(words[: layout.words], layout)
    except RejectedError:
        return
    if isinstance(value, float):
        assert math.isfinite(value)
    if isinstance(value, int):
        struct.pack(">q", value)


@st.composite
def maps(draw):
    """Points of two units, two tables and two periods."""
    spans = []
    for index in range(draw(st.integers(0, 60))):
        table = draw(st.sampled_from([Table.COIL, Table.HOLDING_REGISTER]))
        count = draw(st.integers(1, 8))
        spans.append(
            Span(
                unit_id=draw(st.integers(1, 2)),
                table=table,
                address=draw(st.integers(0, 600)),
                count=count,
                every_ms=draw(st.sampled_from([1000, 5000])),
                point=index,
            )
        )
    return spans


@given(maps(), st.integers(0, 20))
def test_each_point_is_in_one_request_within_the_limits(spans, max_gap):
    requests = group(spans, max_gap_registers=max_gap, max_gap_bits=max_gap)
    assert sorted(span.point for request in requests for span in request.spans) == [span.point for span in spans]
    for request in requests:
        assert 1 <= request.count <= (MAX_BITS if request.table.is_bits else MAX_REGISTERS)
        wanted = set()
        for span in request.spans:
            assert (span.unit_id, span.table, span.every_ms) == (request.unit_id, request.table, request.every_ms)
            assert request.address <= span.address
            assert span.end <= request.address + request.count
            wanted |= set(range(span.address, span.end))
        unwanted = 0
        for address in range(request.address, request.address + request.count):
            unwanted = 0 if address in wanted else unwanted + 1
            assert unwanted <= max_gap


@given(st.integers(0, 60000), st.integers(1, 500), st.randoms(use_true_random=False))
def test_contiguous_registers_need_the_fewest_requests(start, total, rng):
    spans = [
        Span(unit_id=1, table=Table.INPUT_REGISTER, address=start + n, count=1, every_ms=1, point=n)
        for n in range(total)
    ]
    rng.shuffle(spans)
    assert len(group(spans)) == math.ceil(total / MAX_REGISTERS)


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 10.0]), min_size=1, max_size=8),
    st.lists(st.floats(0.01, 3.0), min_size=50, max_size=200),
)
def test_no_poll_starves_however_slow_the_bus(periods, costs):
    scheduler = PollScheduler([Poll(key=str(n), every_s=every_s) for n, every_s in enumerate(periods)], 0.0)
    now_s, last = 0.0, dict.fromkeys(map(str, range(len(periods))), 0.0)
    for cost_s in costs:
        now_s += scheduler.wait_s(now_s)
        poll = scheduler.take(now_s)
        assert poll is not None
        last[poll.key] = now_s
        now_s += cost_s
        for key, at_s in last.items():
            assert now_s - at_s <= max(periods) + periods[int(key)] + 3.0 * (len(periods) + 1) + 1e-6
