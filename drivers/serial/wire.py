"""The talking: one serial port, non-blocking on the event loop. The only importer of pyserial.

pyserial opens the port and sets it up, which can take long with some adapters and therefore happens in a thread;
reading and writing go straight to the file descriptor, so that nothing here can block and everything can be cancelled.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import serial

from drivers.serial.config import SerialConfig
from gateway.errors import BusLost, TransientError

OPEN_S: Final = 5.0
"""Longest time an adapter may take to be opened."""

AGAIN_S: Final = 0.5
"""A port that is away is looked for this often."""

_READ_BYTES: Final = 4096
_PARITIES: Final = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}


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
            self.opens += 1
            asyncio.get_running_loop().add_reader(port.fileno(), self.read_now)

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
            return serial.Serial(
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
        return "is in use by another program, or by another bus of this gateway"
    return f"cannot be opened at {config.settings_text}: {error}"


def _is_gone(fd: int) -> bool:
    """An empty read alone means nothing: a terminal that is only quiet reads empty too."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def _close_late(opening: asyncio.Future[serial.Serial]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
