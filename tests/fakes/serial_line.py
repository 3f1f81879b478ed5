"""A serial line without an adapter: a pseudo terminal behind a name of its own, as udev gives one to an adapter."""

import asyncio
import os
import pty
import tty
from pathlib import Path


class SerialLine:
    """The device's end. `plug` makes the name appear, `pull` takes it and the terminal away."""

    def __init__(self, name: Path) -> None:
        self.name = name
        self.received = bytearray()
        self.answers: dict[bytes, bytes] = {}  # to what has come, whole
        self._master: int | None = None
        self._slave: int | None = None

    def plug(self) -> "SerialLine":
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.name.unlink(missing_ok=True)
        self.name.symlink_to(os.ttyname(self._slave))
        asyncio.get_running_loop().add_reader(self._master, self._came)
        return self

    def pull(self) -> None:
        if self._master is not None and self._slave is not None:
            asyncio.get_running_loop().remove_reader(self._master)
            self.name.unlink()
            os.close(self._slave)
            os.close(self._master)
            self._master = self._slave = None

    def say(self, data: bytes) -> None:
        assert self._master is not None
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
