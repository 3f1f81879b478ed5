"""An answer that comes late is never taken for the answer to another question, whatever else goes wrong on the wire.

`python -m bench.modbus_late` makes it a million reads on each wire.
"""

import pytest

from drivers.modbus.wire_line import LineMaster, LineTiming
from tests.fakes.late_reads import LATEST_S, QUIRKS, QUIRKS_OF_MANY, TIMEOUT_S, Tally, line_reads, tcp_reads
from tests.fakes.late_reads import ask as ask_many
from tests.fakes.modbus_line import FRAMERS, Units, VirtualLine, signed

READS = 20_000


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
async def test_late_answers_on_a_noisy_line_are_never_another_questions(framing):
    tally = await line_reads(framing, READS, seed=2)
    assert tally.wrong == 0
    assert tally.good > READS * 0.4, "and the line is used"
    assert tally.none > READS * 0.1
    assert tally.late > READS * 0.1


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
async def test_without_the_rule_they_would_be(framing):
    """The simulation is worth something: who forgets what is owed takes wrong answers."""
    tally = await line_reads(framing, 5000, seed=2, late_s=0.0, silent=())
    assert tally.wrong > 0


async def test_a_quiet_line_loses_nothing_and_nobody_speaks_at_once():
    line = VirtualLine(Units(1, content=signed), 10 / 19200)
    timing = LineTiming(timeout_s=0.1, late_s=0.2, gap_s=35 / 19200, byte_s=10 / 19200)
    tally = Tally()
    await ask_many(LineMaster(line, FRAMERS["rtu"](), timing, line), line, 5000, 3, tally)
    assert tally == Tally(good=5000)
    assert (line.overlaps, line.collisions) == (0, 0)


@pytest.mark.parametrize(("in_flight", "quirks"), [(1, QUIRKS), (16, QUIRKS_OF_MANY)])
def test_late_answers_over_tcp_whatever_their_transaction_ids(in_flight, quirks):
    tally = tcp_reads(in_flight, READS, seed=4, quirks=quirks)
    assert tally.wrong == 0
    assert tally.none > READS * 0.02, "some were too late"
    assert tally.good > READS * 0.85


def test_over_tcp_they_would_be_taken_with_the_newest_id_and_several_open():
    """The simulation is worth something: this is why such a device is asked one question at a time."""
    assert tcp_reads(16, 5000, seed=4, quirks=("newest",)).wrong > 0


def test_late_answers_of_a_box_whose_serial_line_outlives_the_connection_need_late_ms():
    """A new connection does not help where late answers come on it, under the newest id."""
    assert tcp_reads(1, 5000, seed=4, quirks=("newest",), outlives=True).wrong > 0
    tally = tcp_reads(1, 5000, seed=4, quirks=("newest",), outlives=True, late_s=LATEST_S - TIMEOUT_S)
    assert tally.wrong == 0
    assert tally.good > 5000 * 0.7
