"""A serial port as a byte line: non-blocking, on the event loop. The only importer of pyserial in this driver.

pyserial finds the settings and the direction of RS-485 (the kernel switches it); bytes go straight to the descriptor.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import serial
import serial.rs485

from drivers.modbus.wire_inbox import Inbox
from drivers.modbus.wire_master import Closed, Unreachable
from drivers.modbus.wire_timer import ShortTimer
from gateway.ports import Clock

if TYPE_CHECKING:
    from drivers.modbus.lines import Rs485, SerialSettings

AGAIN_S: Final = 0.5
"""A port that is away is looked for this often: trying costs nothing."""

OPEN_S: Final = 5.0
_SHORT_S: Final = 0.01
"""Up to here a wait is worth an exact timer."""

_SPARE_S: Final = 0.002
_READ_BYTES: Final = 4096


class PortLine:
    """Implements `ByteLine` on a tty. A port that vanished is opened anew by the next question."""

    def __init__(self, settings: SerialSettings, clock: Clock) -> None:
        self._settings = settings
        self._inbox = Inbox(clock)
        self._port: serial.Serial | None = None
        self._timer: ShortTimer | None = None

    @property
    def is_open(self) -> bool:
        """Ready."""
        return self._port is not None

    @property
    def last_byte_s(self) -> float:
        """When the last byte came in."""
        return self._inbox.last_byte_s

    async def open(self) -> None:
        """Open and set up; an adapter can take long for it, so a thread does. Raises `Unreachable`."""
        self.close()
        self._inbox.reset()
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(None, self._open)
        try:
            async with asyncio.timeout(OPEN_S):  # wait_for of 3.11 may swallow our own cancellation
                port = await asyncio.shield(opening)
        except (asyncio.CancelledError, TimeoutError) as error:
            opening.add_done_callback(_close_late)
            if isinstance(error, TimeoutError):
                raise Unreachable(f"{self._settings.device} did not open in {OPEN_S:g} s", AGAIN_S) from None
            raise
        self._port = port
        loop.add_reader(port.fileno(), self._readable)
        with suppress(OSError):  # then the loop's timers have to do
            self._timer = ShortTimer(self._inbox.wake)

    def write(self, data: bytes) -> None:
        """All of it, or `Closed`: a frame is shorter than the kernel's buffer, which is empty when it is our turn."""
        if self._port is None:
            raise Closed(f"{self._settings.device} was lost")
        try:
            if os.write(self._port.fileno(), data) != len(data):
                self._lose("it takes no more")
        except OSError as error:
            self._lose(error.strerror or str(error))
        if self._port is None:
            raise Closed(f"{self._settings.device} was lost")

    async def read(self, timeout_s: float) -> bytes:
        """See `ByteLine`. Looks at the port itself first: silence has to be silence."""
        if self._port is not None:
            self._readable()
        timer = self._timer
        if timer is None or not 0 < timeout_s < _SHORT_S:
            return await self._inbox.take(timeout_s)
        timer.start(timeout_s)
        try:
            return await self._inbox.take(timeout_s + _SPARE_S)
        finally:
            if timer is self._timer:
                timer.stop()

    def close(self) -> None:
        """Safe to call twice."""
        port, self._port = self._port, None
        if port is None:
            return
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()
        asyncio.get_running_loop().remove_reader(port.fileno())
        with suppress(termios.error, OSError):
            termios.tcflush(port.fileno(), termios.TCIOFLUSH)  # else closing waits for what nobody takes
        port.close()

    def _readable(self) -> None:
        if self._port is None:
            return
        try:
            data = os.read(self._port.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        if data:
            self._inbox.put(data)
        elif _has_hung_up(self._port.fileno()):  # a tty without data reads as b"" too
            self._lose("the adapter is gone")

    def _lose(self, why: str) -> None:
        self.close()
        self._inbox.end(Closed(f"{self._settings.device} was lost: {why}"))

    def _open(self) -> serial.Serial:
        settings = self._settings
        try:
            port = serial.Serial(
                settings.device,
                baudrate=settings.baud,
                bytesize=settings.data_bits,
                parity=settings.parity[0].upper(),
                stopbits=settings.stop_bits,
                timeout=0,
                write_timeout=0,
                exclusive=True,
            )
        except (OSError, ValueError, termios.error) as error:
            raise Unreachable(_why(error, settings), AGAIN_S) from error
        if settings.parity != "none":
            _heed_parity(port.fileno())
        if settings.rs485 is not None:
            try:
                port.rs485_mode = _direction(settings.rs485)
            except (OSError, ValueError) as error:
                port.close()
                raise Unreachable(
                    f"{settings.device} has no RS-485 direction in its kernel driver ({error}); leave `rs485` out when "
                    "the adapter switches by itself"
                ) from error
        return port


def _heed_parity(fd: int) -> None:
    """Without this pyserial has the kernel overlook parity errors; heeded, a character with one reads as 0."""
    attributes = termios.tcgetattr(fd)
    attributes[0] = attributes[0] & ~termios.IGNPAR | termios.INPCK
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


def _has_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def _direction(rs485: Rs485) -> serial.rs485.RS485Settings:
    return serial.rs485.RS485Settings(
        rts_level_for_tx=rs485.rts_on_send,
        rts_level_for_rx=not rs485.rts_on_send,
        loopback=False,
        delay_before_tx=rs485.delay_before_send_ms / 1000,
        delay_before_rx=rs485.delay_after_send_ms / 1000,
    )


def _why(error: Exception, settings: SerialSettings) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return f"{settings.device} does not exist; is the adapter plugged in? /dev/serial/by-id names it for good"
    if number in (errno.EACCES, errno.EPERM):
        return f"{settings.device} may not be opened: the service's user must be in the group of the device (dialout)"
    if number == errno.EBUSY or "exclusively lock" in str(error):
        return f"{settings.device} is in use by another program, or by another bus of this gateway"
    return f"{settings.device} cannot be opened with {settings.baud} baud: {error}"


def _close_late(opening: asyncio.Future[serial.Serial]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
