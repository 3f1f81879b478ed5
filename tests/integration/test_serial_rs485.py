"""Two wires and an adapter: the direction by the kernel, an adapter that hears itself, what a UART complains of."""

import array
import struct
import termios

import pytest
import serial.serialposix

from drivers.serial import wire as wire_module
from gateway.errors import BusLost, TransientError
from gateway.ports import Query, Write
from tests.integration.test_serial_line import METER, running, soon

SETTINGS = {"rts_on_send": False, "delay_before_send_ms": 1, "delay_after_send_ms": 2}


async def test_a_driver_without_a_direction_says_so(tmp_path):
    async with running(tmp_path, METER, rs485={}) as scene:
        with pytest.raises(BusLost, match=r"has no RS-485 direction in its kernel driver .*; leave `rs485` out when"):
            await scene.driver.wire.open()
        assert not scene.driver.wire.is_open


async def test_the_kernel_is_told_the_direction(tmp_path, monkeypatch):
    told = []
    real = serial.serialposix.fcntl.ioctl

    def ioctl(fd, request, argument=0, *more):
        if request == serial.serialposix.TIOCGRS485:
            return 0
        if request == serial.serialposix.TIOCSRS485:
            told.append(array.array("i", argument).tolist())
            return 0
        return real(fd, request, argument, *more)

    monkeypatch.setattr(serial.serialposix.fcntl, "ioctl", ioctl)
    async with running(tmp_path, METER, rs485=SETTINGS) as scene:
        await soon(lambda: scene.driver.wire.is_open, "not open")
        enabled, rts_on_send, rts_after_send, during = 1, 2, 4, 16  # linux/serial.h
        flags, before_ms, after_ms = told[0][:3]
        assert flags & (enabled | rts_on_send | rts_after_send | during) == enabled | rts_after_send
        assert (before_ms, after_ms) == (1, 2)


async def test_an_adapter_that_hears_itself(tmp_path):
    async with running(tmp_path, METER, echo=True) as scene:
        scene.line.answers = {b"V?\n": b"V?\nV=230\n", b"L5\n": b"L5\nOK\n", b"T\n": b"T\n"}
        assert [reading.value for reading in await scene.driver.read(scene.poll())] == [230]
        assert await scene.driver.write(Write(device="Meter", key="limit", value=5)) == 5
        assert await scene.driver.write(Write(device="Meter", key="tare", value=None)) is True
        assert scene.driver._echo
        await soon(lambda: not scene.driver._echo, "the echo is not taken off")
        assert await scene.driver.query(Query(device="Meter", key="volts")) == 230
        seen = scene.driver.line()
        assert (seen["frames"], seen["unexpected_frames"]) == (3, 0)


@pytest.mark.parametrize(
    ("echo", "answer", "text"),
    [
        (False, b"V?\n", "the question itself came back: .*`echo: true` takes it off"),
        (True, None, "no echo either; does the adapter hear itself"),
        (True, b"X?\n", "3 bytes came"),
    ],
)
async def test_an_echo_where_it_does_not_belong(tmp_path, echo, answer, text):
    async with running(tmp_path, METER, echo=echo) as scene:
        scene.line.answers = {} if answer is None else {b"V?\n": answer}
        with pytest.raises(TransientError, match=text):
            await scene.driver.read(scene.poll())


async def test_parity_errors_are_heeded_and_what_the_uart_counts_is_told(tmp_path, monkeypatch):
    counts = [0] * 20

    def ioctl(fd, request, argument=0, *more):
        if request == 0x545D:  # TIOCGICOUNT
            return struct.pack("20i", *counts)
        return real(fd, request, argument, *more)

    real = wire_module.fcntl.ioctl
    monkeypatch.setattr(wire_module.fcntl, "ioctl", ioctl)
    counts[6:9] = [100, 100, 100]  # from before
    async with running(tmp_path, METER, parity="even") as scene:
        await soon(lambda: scene.driver.wire.is_open, "not open")
        heed = termios.tcgetattr(scene.driver.wire._port.fileno())[0] & (termios.IGNPAR | termios.INPCK)
        assert heed == termios.INPCK
        assert scene.driver.line()["uart_errors"] == {"frame": 0, "overrun": 0, "parity": 0}
        counts[6], counts[8] = 107, 103
        assert scene.driver.line()["uart_errors"] == {"frame": 7, "overrun": 0, "parity": 3}
        scene.line.answers = {b"V?\n": b"\x00\x12\n"}
        with pytest.raises(TransientError, match="the UART counts 7 framing errors, 3 parity errors"):
            await scene.driver.read(scene.poll())


async def test_echoes_of_commands_that_nobody_waits_for(tmp_path):
    async with running(tmp_path, METER, echo=True) as scene:
        scene.line.answers = {}
        await scene.driver.wire.open()
        for _ in range(2):
            await scene.driver.write(Write(device="Meter", key="tare", value=None))
        scene.driver._received(b"T\nT")
        scene.driver._received(b"\nV=1\n")
        seen = scene.driver.line()
        assert (seen["bytes"], seen["unexpected_frames"]) == (4, 1)
