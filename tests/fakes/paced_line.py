"""A line over a pair of pseudo terminals whose bytes take their time, in a thread of its own: no turn of the event loop
under test delays it. It keeps a record of who spoke when, so that order on the wire can be proved afterwards.

The wire is a model: what the master writes leaves its UART one character after the other, and a unit's byte is handed
over when its last bit is through. Two who speak at once destroy each other's bytes.
"""

import heapq
import itertools
import os
import pty
import select
import threading
import time
import tty
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_UNFINISHED_S = 0.05
"""A unit forgets the beginning of a frame after so long a silence."""


@dataclass(slots=True)
class Spoken:
    """One stretch of bytes without a pause. `who`: 0 is the master. Byte n ends at `begin_s + (n + 1) * byte_s`."""

    who: int
    begin_s: float
    byte_s: float
    data: bytearray

    @property
    def end_s(self):
        """When the last bit is through (monotonic)."""
        return self.begin_s + len(self.data) * self.byte_s

    def stamps(self):
        """When each byte is through."""
        return [self.begin_s + (n + 1) * self.byte_s for n in range(len(self.data))]


class PacedLine:
    """`units`: a `Units`. `bits`: of a character, start, parity and stop bits counted. `echo`: the adapter hears itself.

    Counters: `requests` (frames that units understood), `answered` (sent whole), `registers` (in those that were
    answered), `overlaps` (the master spoke upon a unit), `collisions` (units upon each other), `short_gaps` (the master
    left less than `gap_s` of silence; `gaps_s`: the latest), `unfinished` (bytes that never became a frame). `writes_s`: when each write had come.
    """

    def __init__(self, units, baud, *, bits=10, gap_s=0.0, echo=False, keep=20_000):
        self.units, self.byte_s, self.gap_s, self._echo = units, bits / baud, gap_s, echo
        self.spoken = deque(maxlen=keep)
        self.writes_s = []
        self._buffer = bytearray()
        self._heard_s = 0.0
        self._free_s = 0.0  # the master's UART
        self._unit_free_s = {}
        self._due = []  # heap: when a byte is through, order, its place, what it belongs to
        self._order = itertools.count()
        self._fds = ()
        self._decoys = []  # hold numbers that are not wanted
        self._last_tty = ""
        self._lock = threading.Lock()
        self._wake = os.pipe()
        self._thread = None
        self.reset()

    def reset(self):
        """Counters to zero."""
        self.requests = self.answered = self.registers = self.unfinished = 0
        self.overlaps = self.collisions = self.short_gaps = 0
        self.shortest_gap_s = float("inf")
        self.registers_of = {}
        self.gaps_s = deque(maxlen=1000)

    @contextmanager
    def open(self, link):
        """`link` is the path of the adapter: a symbolic link, as udev makes them."""
        self.link = link
        self.plug()
        self._thread = threading.Thread(target=self._run, name="paced line", daemon=True)
        self._thread.start()
        try:
            yield self
        finally:
            thread, self._thread = self._thread, None
            self._poke()
            thread.join()
            self.pull()
            for fd in (*self._decoys, *self._wake):
                os.close(fd)

    def plug(self, *, new_number=False):
        """The adapter is there; `new_number`: under another tty than the last time."""
        with self._lock:
            master, slave = pty.openpty()
            while new_number and os.ttyname(slave) == self._last_tty:
                self._decoys += (master, slave)
                master, slave = pty.openpty()
            while len(self._decoys) > 4:
                os.close(self._decoys.pop(0))
            self._last_tty = os.ttyname(slave)
            tty.setraw(slave)
            os.set_blocking(master, False)
            self._buffer.clear()
            self._due.clear()
            self._fds = (master, slave)
            self.link.symlink_to(os.ttyname(slave))
        self._poke()

    def pull(self):
        """The adapter is gone: its path, and whoever has it open is told."""
        with self._lock:
            fds, self._fds = self._fds, ()
            if fds:
                self.link.unlink()
                os.close(fds[1])
                os.close(fds[0])
        self._poke()

    @property
    def tty(self):
        """Where the link points."""
        return os.readlink(self.link)

    def frames(self, who=None):
        """What was spoken, in the order of its beginning; of one of them."""
        spoken = sorted(self.spoken, key=lambda each: each.begin_s)
        return [each for each in spoken if who is None or each.who == who]

    # ── the thread ──

    def _poke(self):
        os.write(self._wake[1], b"x")

    def _run(self):
        while self._thread is not None:
            with self._lock:
                fds = self._fds
                next_s = self._deliver()
            wait_s = None if next_s is None else max(next_s - time.monotonic(), 0.0)
            with suppress(OSError, ValueError):  # pulled between two lines
                ready, _, _ = select.select([self._wake[0], *fds[:1]], [], [], wait_s)
                if self._wake[0] in ready:
                    os.read(self._wake[0], 4096)
                if fds and fds[0] in ready:
                    self._take(fds)

    def _take(self, fds):
        with self._lock:
            if fds == self._fds:
                data = os.read(fds[0], 4096)
                self._heard(data, time.monotonic())

    def _heard(self, data, now_s):
        begin_s = max(now_s, self._free_s)
        if begin_s > max(self._heard_s, self._free_s) + _UNFINISHED_S and self._buffer:
            self.unfinished += len(self._buffer)
            self._buffer.clear()
        if begin_s > self._free_s:  # else it goes on without a pause
            before = [each.end_s for each in self._latest() if each.end_s <= begin_s]
            gap_s = begin_s - max(before, default=float("-inf"))
            self.shortest_gap_s = min(self.shortest_gap_s, gap_s)
            if before:
                self.gaps_s.append(gap_s)
            self.short_gaps += gap_s < self.gap_s
        said = Spoken(0, begin_s, self.byte_s, bytearray(data))
        self._collide(said)
        self._heard_s, self._free_s = now_s, said.end_s
        self.spoken.append(said)
        if self._echo:
            self._schedule(said)
        self._buffer += said.data
        while size := self._size():
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._answer(frame, said.end_s - len(self._buffer) * self.byte_s)

    def _answer(self, frame, asked_s):
        requests, writes = self.units.requests, self.units.writes
        found = self.units.hear(frame)
        if self.units.requests == requests:
            self.unfinished += len(frame)
        self.requests += self.units.requests - requests
        if self.units.writes > writes:
            self.writes_s.append(asked_s)
        for unit, delay_s, data in found:
            begin_s = max(asked_s + delay_s, self._unit_free_s.get(unit, 0.0))
            said = Spoken(unit, begin_s, self.byte_s, bytearray(data))
            self._collide(said)
            self._unit_free_s[unit] = said.end_s
            self.spoken.append(said)
            self._schedule(said)

    def _latest(self):
        """Nobody is late by more frames than these."""
        return itertools.islice(reversed(self.spoken), 64)

    def _collide(self, said):
        for other in self._latest():
            if said.begin_s < other.end_s and other.begin_s < said.end_s and (said.who or other.who):
                if said.who and other.who:
                    self.collisions += 1
                else:
                    self.overlaps += 1
                from_s, until_s = max(said.begin_s, other.begin_s), min(said.end_s, other.end_s)
                for each in (said, other):
                    for place, end_s in enumerate(each.stamps()):
                        if end_s > from_s and end_s - self.byte_s < until_s:
                            each.data[place] ^= 0x5A

    def _schedule(self, said):
        for place, end_s in enumerate(said.stamps()):
            heapq.heappush(self._due, (end_s, next(self._order), place, said))

    def _deliver(self):
        """Hand over what is through; when the next byte is, None when nothing is on its way."""
        if not self._fds:
            self._due.clear()
            return None
        due, data, now_s = self._due, bytearray(), time.monotonic()
        while due and due[0][0] <= now_s:
            _, _, place, said = heapq.heappop(due)
            data.append(said.data[place])
            if said.who and place == len(said.data) - 1:
                self._count(said)
        if data:
            with suppress(BlockingIOError):  # nobody reads: a full UART loses bytes too
                os.write(self._fds[0], data)
        return due[0][0] if due else None

    def _count(self, said):
        self.answered += 1
        if self.units.framing == "rtu" and len(said.data) > 5 and said.data[1] in (3, 4):
            registers = said.data[2] // 2
            self.registers += registers
            self.registers_of[said.who] = self.registers_of.get(said.who, 0) + registers

    def _size(self):
        """Bytes of the request that is whole now; 0: none."""
        buffer = self._buffer
        if self.units.framing == "ascii":
            return buffer.find(b"\n") + 1
        if len(buffer) < 8:
            return 0
        function = buffer[1]
        if function in (15, 16):
            size = 9 + buffer[6]
        elif function == 23:
            size = 13 + buffer[10] if len(buffer) > 10 else 0
        else:
            size = 10 if function == 22 else 8
        return size if size <= len(buffer) else 0
