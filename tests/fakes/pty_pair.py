"""Two serial ports joined by a wire: a foreign program on the one, the gateway on the other."""

import asyncio
import os
import pty
import tty
from contextlib import contextmanager, suppress


class PtyPair:
    """`near` is the gateway's port, `far` the peer's. `echo`: what near sends comes back to it, as on two wires.

    `answer`: what becomes of bytes on their way to near. `sent`: each piece from near, and when it came (monotonic).
    """

    def __init__(self, near, far, *, echo=False, answer=None):
        self.near, self.far = near, far
        self.echo, self.answer = echo, answer
        self.sent, self.came_s = [], []

    @contextmanager
    def open(self):
        ends = [pty.openpty() for _ in (self.near, self.far)]
        loop = asyncio.get_running_loop()
        for (master, slave), link in zip(ends, (self.near, self.far), strict=True):
            tty.setraw(slave)
            os.set_blocking(master, False)
            link.symlink_to(os.ttyname(slave))
        (near, _), (far, _) = ends
        loop.add_reader(near, self._from_near, near, far)
        loop.add_reader(far, self._from_far, near, far)
        try:
            yield self
        finally:
            loop.remove_reader(near)
            loop.remove_reader(far)
            for master, slave in ends:
                os.close(master)
                os.close(slave)

    def _from_near(self, near, far):
        with suppress(OSError):
            data = os.read(near, 4096)
            self.sent.append((data, asyncio.get_running_loop().time()))
            if self.echo:
                os.write(near, data)
            os.write(far, data)

    def _from_far(self, near, far):
        with suppress(OSError):
            data = os.read(far, 4096)
            self.came_s.append(asyncio.get_running_loop().time())
            os.write(near, data if self.answer is None else self.answer(data))
