from drivers.modbus.grouping import Span, group
from drivers.modbus.registers import Table


def span(address, count=1, *, unit=1, table=Table.HOLDING_REGISTER, every_ms=1000):
    return Span(unit_id=unit, table=table, address=address, count=count, every_ms=every_ms, point=f"p{address}")


def shape(requests):
    return [(request.address, request.count) for request in requests]


def test_neighbours_travel_together():
    assert shape(group([span(0), span(1, 2), span(3)])) == [(0, 4)]


def test_a_short_gap_is_read_along_and_a_long_one_is_not():
    assert shape(group([span(0), span(9)])) == [(0, 10)]
    assert shape(group([span(0), span(10)])) == [(0, 1), (10, 1)]
    assert shape(group([span(0), span(2)], max_gap_registers=0)) == [(0, 1), (2, 1)]


def test_units_tables_and_periods_stay_apart():
    apart = [span(0), span(1, unit=2), span(1, table=Table.INPUT_REGISTER), span(1, every_ms=5000)]
    assert len(group(apart)) == 4


def test_a_request_carries_at_most_125_registers_and_a_value_is_never_cut():
    assert shape(group([span(0, 124), span(124, 2)])) == [(0, 124), (124, 2)]
    assert shape(group([span(address) for address in range(300)])) == [(0, 125), (125, 125), (250, 50)]


def test_a_request_carries_at_most_2000_bits():
    coils = [span(address, table=Table.COIL) for address in range(0, 4000, 10)]
    assert [request.count for request in group(coils)] == [1991, 1991]


def test_overlaps_are_fine():
    assert shape(group([span(0, 4), span(1, 2), span(2, 4)])) == [(0, 6)]


def test_a_device_may_have_a_lower_limit():
    assert shape(group([span(address) for address in range(20)], max_count=16)) == [(0, 16), (16, 4)]
    assert shape(group([span(0, 10), span(10, 2)], max_count=4)) == [(0, 10), (10, 2)]


def test_nothing_asks_for_nothing():
    assert group([]) == []
