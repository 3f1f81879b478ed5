"""The talking: one serial port, non-blocking on the event loop. The only importer of pyserial.

pyserial opens the port and sets it up, which can take long with some adapters and therefore happens in a thread;
reading and writing go straight to the file descriptor, so that nothing here can block and everything can be cancelled.
A character with a parity error comes as 0, so that it spoils its frame; what the UART complained of is counted by the
kernel, where the adapter's driver tells it (TIOCGICOUNT).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import serial
import serial.rs485

from drivers.serial.config import Rs485, SerialConfig
from gateway.errors import BusLost, TransientError

OPEN_S: Final = 5.0
"""Longest time an adapter may take to be opened."""

AGAIN_S: Final = 0.5
"""A port that is away is looked for this often."""

_READ_BYTES: Final = 4096
_TIOCGICOUNT: Final = 0x545D
_COUNTS: Final = struct.Struct("20i")  # struct serial_icounter_struct of linux/serial.h
_PARITIES: Final = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}


class LineErrors(NamedTuple):
    """What a UART found wrong with characters. `frame`: no stop bit where it should be, as with a wrong baudrate."""

    frame: int = 0
    overrun: int = 0
    parity: int = 0


class SerialWire:
    """One port, opened when it is needed and again after a loss. `received` gets all bytes, `lost` the end of it."""

    def __init__(
        self, config: SerialConfig, received: Callable[[bytes], None], lost: Callable[[BusLost], None]
    ) -> None:
        self._config, self._received, self._lost = config, received, lost
        self._port: serial.Serial | None = None
        self._opening = asyncio.Lock()
        self._thread: asyncio.Future[serial.Serial] | None = None
        self.opens = 0
        self._complaints_before = LineErrors()

    @property
    def is_open(self) -> bool:
        """Ready to send; what comes is received."""
        return self._port is not None

    async def open(self) -> None:
        """Nothing when it is open already.

        Raises:
            BusLost: It cannot be opened; the text says why, and what could be done.
        """
        async with self._opening:
            if self._port is not None:
                return
            if self._thread is not None and not self._thread.done():
                raise self._gone("is still being opened: the adapter's driver hangs")
            opening = self._thread = asyncio.get_running_loop().run_in_executor(None, self._open)
            try:
                async with asyncio.timeout(OPEN_S):
                    port = await asyncio.shield(opening)
            except (asyncio.CancelledError, TimeoutError) as error:
                opening.add_done_callback(_close_late)
                if isinstance(error, TimeoutError):
                    raise self._gone(f"did not open in {OPEN_S:g} s") from None
                raise
            self._port = port
            self._complaints_before = _line_errors(port.fileno())
            self.opens += 1
            asyncio.get_running_loop().add_reader(port.fileno(), self.read_now)

    def complaints(self) -> LineErrors:
        """What the UART found wrong since the port was opened; nothing where its driver does not tell."""
        if self._port is None:
            return LineErrors()
        now, before = _line_errors(self._port.fileno()), self._complaints_before
        return LineErrors(*(max(0, count - old) for count, old in zip(now, before, strict=True)))

    def close(self) -> None:
        """Safe to call twice."""
        port, self._port = self._port, None
        if port is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(port.fileno())
        loop.remove_writer(port.fileno())
        with suppress(termios.error, OSError):
            termios.tcflush(port.fileno(), termios.TCOFLUSH)  # else closing waits for what nobody takes
        port.close()

    def read_now(self) -> None:
        """Take what has come; the event loop calls this too."""
        if self._port is None:
            return
        try:
            data = os.read(self._port.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if data:
            self._received(data)
        elif _is_gone(self._port.fileno()):
            self._end("the adapter is gone")

    async def send(self, data: bytes, timeout_s: float) -> None:
        """Returns when the kernel has all of it.

        Raises:
            BusLost: The port is away. TransientError: it takes nothing (flow control).
        """
        await self.open()
        rest = memoryview(data)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._port is None:
                        raise self._gone("was closed while something was sent")
                    try:
                        rest = rest[os.write(self._port.fileno(), rest) :]
                    except BlockingIOError:
                        pass
                    except OSError as error:
                        raise self._end(error.strerror or str(error)) from error
                    if not rest:
                        return
                    await self._writable(self._port.fileno())
        except TimeoutError:
            raise TransientError(
                f"{self._config.name}: {self._config.port} took {len(data) - len(rest)} of {len(data)} bytes in "
                f"{timeout_s:g} s: is flow control ({self._config.flow}) what the device does?"
            ) from None

    async def _writable(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def on_writable() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_writer(fd, on_writable)
        try:
            await ready
        finally:
            if self._port is not None:
                loop.remove_writer(fd)

    def _open(self) -> serial.Serial:
        config = self._config
        try:
            port = serial.Serial(
                config.port,
                baudrate=config.baudrate,
                bytesize=config.bytesize,
                parity=_PARITIES[config.parity],
                stopbits=config.stopbits,
                rtscts=config.flow == "rtscts",
                dsrdtr=config.flow == "dsrdtr",
                xonxoff=config.flow == "xonxoff",
                timeout=0,
                write_timeout=0,
                exclusive=True,
            )
        except serial.SerialException as error:
            raise self._gone(_why(error, config)) from error
        except (OSError, ValueError, termios.error) as error:
            raise self._gone(f"cannot be set to {config.settings_text}: {error}") from error
        try:
            if config.parity != "none":
                _heed_parity(port.fileno())
            if config.rs485 is not None:
                port.rs485_mode = _direction(config.rs485)
        except (OSError, ValueError, termios.error) as error:
            port.close()
            if config.rs485 is None:
                raise self._gone(f"cannot be set to {config.settings_text}: {error}") from error
            raise self._gone(
                f"has no RS-485 direction in its kernel driver ({error}); leave `rs485` out when the adapter switches "
                "by itself"
            ) from error
        return port

    def _end(self, why: str) -> BusLost:
        self.close()
        error = self._gone(f"was lost: {why}")
        self._lost(error)
        return error

    def _gone(self, problem: str) -> BusLost:
        return BusLost(f"{self._config.name}: {self._config.port} {problem}", again_s=AGAIN_S)


def _why(error: serial.SerialException, config: SerialConfig) -> str:
    number = error.errno
    if number == errno.ENOENT:
        folder = "/dev/serial/by-id"
        try:
            known = sorted(os.listdir(folder))
        except OSError:
            known = []
        there = f"there are {', '.join(f'{folder}/{name}' for name in known)}" if known else "no USB adapter is there"
        return f"does not exist; {there}"
    if number in (errno.EACCES, errno.EPERM):
        return "may not be opened: the service's user must be in the group of the device file (dialout)"
    if "exclusively lock" in str(error) or number == errno.EBUSY:
        return "is in use by another program, or by another bus of this gateway; `edge-gateway doctor` says by which"
    return f"cannot be opened at {config.settings_text}: {error}"


def _heed_parity(fd: int) -> None:
    """Without this pyserial has the kernel overlook parity errors."""
    attributes = termios.tcgetattr(fd)
    attributes[0] = attributes[0] & ~termios.IGNPAR | termios.INPCK
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


def _direction(rs485: Rs485) -> serial.rs485.RS485Settings:
    return serial.rs485.RS485Settings(
        rts_level_for_tx=rs485.rts_on_send,
        rts_level_for_rx=not rs485.rts_on_send,
        loopback=False,
        delay_before_tx=rs485.delay_before_send_ms / 1000,
        delay_before_rx=rs485.delay_after_send_ms / 1000,
    )


def _line_errors(fd: int) -> LineErrors:
    try:
        counts = _COUNTS.unpack(fcntl.ioctl(fd, _TIOCGICOUNT, bytes(_COUNTS.size)))
    except OSError:  # pseudo terminals and some adapters do not count
        return LineErrors()
    return LineErrors(frame=counts[6], overrun=counts[7], parity=counts[8])


def _is_gone(fd: int) -> bool:
    """An empty read alone means nothing: a terminal that is only quiet reads empty too."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def _close_late(opening: asyncio.Future[serial.Serial]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
