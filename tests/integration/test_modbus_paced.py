"""The master on a line whose bytes take their time: order on the wire, and every way in which a line can be bad."""

import asyncio
import os
import termios
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from drivers.modbus.config import ModbusConfig
from drivers.modbus.registers import Table
from drivers.modbus.wire_open import open_wire
from gateway.errors import TransientError
from gateway.supervise import SystemClock
from tests.fakes.modbus_line import Units, signed
from tests.fakes.paced_line import PacedLine

DEVICE = {"name": "D", "telemetry": [{"key": "k", "table": "coil", "address": 0, "type": "bool"}]}


@asynccontextmanager
async def paced(tmp_path, units, *, baud=38400, timeout_s=0.06, parity="even", is_echoed=False, **line):
    bits = 1 + 8 + (parity != "none") + 1
    link = tmp_path / "adapter"
    settings = {"kind": units.framing, "device": str(link), "baud": baud, "parity": parity, **line}
    config = ModbusConfig.model_validate({"timeout_s": timeout_s, "line": settings, "devices": [DEVICE]})
    line = PacedLine(units, baud, bits=bits, gap_s=config.wire.gap_s, echo=is_echoed)
    with line.open(link):
        wire = open_wire(config, SystemClock())
        try:
            yield line, wire
        finally:
            wire.close()


async def read(wire, unit, address, count=4):
    """True: the right values; None: an error; AssertionError: values of another."""
    try:
        words = await wire.read_registers(unit, Table.HOLDING_REGISTER, address, count)
    except TransientError:
        return None
    assert list(words) == [signed(unit, 3, address + n) for n in range(count)]
    return True


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
async def test_many_who_ask_at_once_never_overlap_and_keep_the_gap(tmp_path, framing):
    """Ten askers on one line; by the time stamps of the bytes only one speaks at a time, after the due silence."""
    units = Units(1, content=signed, framing=framing, prompt_s=0.001)
    async with paced(tmp_path, units, timeout_s=1.0) as (line, wire):
        answers = await asyncio.gather(*(read(wire, n % 10 + 1, 7 * n) for n in range(40)))
        assert answers == [True] * 40
        assert (line.overlaps, line.collisions, line.short_gaps, line.unfinished) == (0, 0, 0, 0)
        frames = line.frames()
        assert [frame.who > 0 for frame in frames] == [False, True] * 40
        for before, after in pairwise(frames):
            silence_s = after.begin_s - before.stamps()[-1]
            assert silence_s >= (line.gap_s if after.who == 0 else 0)


@pytest.mark.parametrize(("baud", "parity", "bits"), [(1200, "even", 11), (9600, "none", 10)])
async def test_a_slow_line_is_given_the_time_that_its_bytes_take(tmp_path, baud, parity, bits):
    """The timeout counts from the last byte of the question: a frame longer than the timeout is no reason to give up."""
    units = Units(1, content=signed, prompt_s=0.01)
    async with paced(tmp_path, units, baud=baud, parity=parity, timeout_s=0.5) as (line, wire):
        before_s = time.monotonic()
        assert await read(wire, 1, 0, count=4)
        assert time.monotonic() - before_s >= (8 + 5 + 8) * bits / baud
        assert line.overlaps == 0


SPOILT = {
    "late answers": {"late": 0.3, "latest_s": 0.18},
    "bit errors": {"flips": 0.3},
    "truncated frames": {"cuts": 0.3},
    "noise": {"noise": 0.5},
    "a unit that answers for others": {"strangers": 0.3},
    "all of it": {"late": 0.1, "latest_s": 0.18, "flips": 0.1, "cuts": 0.1, "noise": 0.1, "strangers": 0.1},
}


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
@pytest.mark.parametrize("how", SPOILT)
async def test_a_bad_line_never_gives_a_wrong_value(tmp_path, framing, how):
    units = Units(3, silent={9}, content=signed, framing=framing, prompt_s=0.001, **SPOILT[how])
    async with paced(tmp_path, units, baud=115200, timeout_s=0.05) as (line, wire):
        answers = [await read(wire, n % 10 + 1, 10 * n) for n in range(20)]
        assert answers.count(True) >= 4
        assert answers.count(None) >= 2, "the silent unit at least"
        if not units.late:  # who answers late may be heard a moment too late
            assert line.short_gaps == 0
        assert units.were_spoiled + units.were_late + line.collisions > 0


async def test_an_adapter_that_hears_itself(tmp_path):
    """What it hears of itself is no answer: at addresses 2048 to 2303 it looks like one to a question for 4 registers."""
    units = Units(1, content=signed, silent={10})
    async with paced(tmp_path, units, is_echoed=True, echo=True) as (line, wire):
        assert [await read(wire, n % 9 + 1, 300 * n) for n in range(20)] == [True] * 20
        await wire.write_registers(1, 5, [1])
        assert list(await wire.read_registers(1, Table.HOLDING_REGISTER, 5, 1)) == [1]
        assert (line.requests, line.overlaps, line.short_gaps) == (22, 0, 0)
        with pytest.raises(TransientError, match="unit 10, holding_register 5: no answer"):
            await wire.write_registers(10, 5, [1])  # not confirmed by its own echo


async def test_without_the_kernels_timer_the_loops_will_do(tmp_path, monkeypatch):
    def none(expired):
        raise OSError("no timerfd_create")

    monkeypatch.setattr("drivers.modbus.wire_port.ShortTimer", none)
    async with paced(tmp_path, Units(1, content=signed), baud=115200, timeout_s=0.5) as (line, wire):
        assert [await read(wire, n % 10 + 1, n) for n in range(10)] == [True] * 10
        assert (line.overlaps, line.short_gaps) == (0, 0)


async def test_an_echo_that_does_not_come(tmp_path):
    async with paced(tmp_path, Units(1, silent={1}), echo=True) as (_, wire):
        with pytest.raises(TransientError, match="no echo either; leave `echo` out"):
            await wire.read_registers(1, Table.HOLDING_REGISTER, 5, 1)


@pytest.mark.parametrize(("parity", "is_heeded"), [("even", True), ("odd", True), ("none", False)])
async def test_the_kernel_heeds_parity(tmp_path, parity, is_heeded):
    """The LRC of ASCII alone takes about one in 2,000 damaged frames for good."""
    async with paced(tmp_path, Units(1), parity=parity, timeout_s=0.5) as (line, wire):
        await wire.read_registers(1, Table.HOLDING_REGISTER, 0, 1)
        fd = os.open(line.tty, os.O_RDWR | os.O_NOCTTY)
        try:
            assert bool(termios.tcgetattr(fd)[0] & termios.INPCK) is is_heeded
        finally:
            os.close(fd)


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
async def test_every_function_on_the_line(tmp_path, framing):
    async with paced(tmp_path, Units(1, framing=framing), timeout_s=0.5) as (line, wire):
        await wire.write_bits(3, 10, [True])
        await wire.write_bits(3, 11, [False, True, True])
        assert list(await wire.read_bits(3, Table.COIL, 10, 4)) == [True, False, True, True]
        assert len(await wire.read_bits(3, Table.DISCRETE_INPUT, 0, 9)) == 9
        await wire.write_registers(3, 20, [0x1234])
        await wire.mask_register(3, 20, 0xFF00, 0x0056)
        assert list(await wire.read_write_registers(3, 20, 2, 21, [7])) == [0x1256, 7]
        await wire.write_registers(0, 40, [9])
        assert list(await wire.read_registers(5, Table.HOLDING_REGISTER, 40, 1)) == [9]
        assert (line.overlaps, line.short_gaps, line.unfinished) == (0, 0, 0)
