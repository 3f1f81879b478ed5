"""A serial line without an adapter: a pseudo terminal behind a name of its own, as udev gives one to an adapter."""

import asyncio
import os
import pty
import tty
from contextlib import suppress
from pathlib import Path


class SerialLine:
    """The device's end. `plug` makes the name appear, `pull` takes it and the terminal away."""

    def __init__(self, name: Path) -> None:
        self.name = name
        self.received = bytearray()
        self.answers: dict[bytes, bytes] = {}  # to what has come, whole
        self._master: int | None = None
        self._slave: int | None = None
        self._decoys: list[int] = []  # hold numbers that are not wanted
        self.tty = ""

    def plug(self, *, new_number: bool = False) -> "SerialLine":
        """`new_number`: under another tty than the last time."""
        self._master, self._slave = pty.openpty()
        while new_number and os.ttyname(self._slave) == self.tty:
            self._decoys += (self._master, self._slave)
            self._master, self._slave = pty.openpty()
        while len(self._decoys) > (4 if new_number else 0):
            os.close(self._decoys.pop(0))
        self.tty = os.ttyname(self._slave)
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.name.unlink(missing_ok=True)
        self.name.symlink_to(self.tty)
        asyncio.get_running_loop().add_reader(self._master, self._came)
        return self

    def pull(self) -> None:
        if self._master is not None and self._slave is not None:
            asyncio.get_running_loop().remove_reader(self._master)
            self.name.unlink()
            os.close(self._slave)
            os.close(self._master)
            self._master = self._slave = None

    def end(self) -> None:
        """Gone for good."""
        self.pull()
        while self._decoys:
            os.close(self._decoys.pop())

    def say(self, data: bytes) -> None:
        """Lost while the adapter is away or nobody reads, as on a wire."""
        if self._master is not None:
            with suppress(BlockingIOError):
                os.write(self._master, data)

    def deafen(self) -> None:
        """Nothing is taken off the line any more."""
        assert self._master is not None
        asyncio.get_running_loop().remove_reader(self._master)

    def _came(self) -> None:
        assert self._master is not None
        self.received += os.read(self._master, 4096)
        answer = self.answers.get(bytes(self.received))
        if answer is not None:
            self.received.clear()
            self.say(answer)
