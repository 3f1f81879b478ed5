"""A line with units on it: in virtual time, and paced at the baud rate over a pair of pseudo terminals.

`Units` is the behaviour of both: who answers what, when, and how wrongly. What a register holds follows from unit,
function and address, so that a value credited to another question is seen at once.
"""

import asyncio
import heapq
import itertools
import os
import pty
import random
import tty
from contextlib import asynccontextmanager

from drivers.modbus.protocol.ascii import AsciiFramer, lrc
from drivers.modbus.protocol.pdu import BIT_READS, Function, answer, parse, refusal
from drivers.modbus.protocol.rtu import RtuFramer, crc
from gateway.errors import RejectedError

FRAMERS = {"rtu": RtuFramer, "ascii": AsciiFramer}


def held(unit, function, address):
    """What a register of a simulated unit holds."""
    return (unit * 7919 + function * 104729 + address * 31) & 0xFFFF


def signed(unit, function, address):
    """A register that says where it is: its address, or unit and function, by turns. Two of them say all."""
    return unit << 8 | function if address & 1 else address


class Units:
    """Request bytes in; out come (delay_s, bytes) of whoever answers.

    `late` of the answers take up to `latest_s`; `silent` never answer; the shares `noise`, `flips`, `cuts` and
    `strangers` (another unit answers as well) spoil what is sent. `content`: what a register holds that was not
    written. `framing`: rtu or ascii. `parity`: the UART sees when an odd number of bits of a character is wrong; default:
    for ascii, as the standard has it.
    """

    def __init__(
        self,
        seed,
        *,
        units=range(1, 11),
        silent=(),
        late=0.0,
        latest_s=0.0,
        noise=0.0,
        flips=0.0,
        cuts=0.0,
        strangers=0.0,
        prompt_s=0.002,
        content=held,
        framing="rtu",
        parity=None,
    ):
        self.parity = framing == "ascii" if parity is None else parity
        self.content, self.framing = content, framing
        self.written = {}  # (unit, is a bit, address): value
        self.writes = 0
        self.rng = random.Random(seed)
        self.units, self.silent = set(units), set(silent)
        self.late, self.latest_s, self.prompt_s = late, latest_s, prompt_s
        self.noise, self.flips, self.cuts, self.strangers = noise, flips, cuts, strangers
        self.requests = self.were_late = self.were_spoiled = 0

    def hear(self, frame):
        """Unit → (delay_s, bytes), in the order of the delays."""
        unit, pdu = self._open(frame)
        if pdu is None or unit not in self.units | {0}:
            return []
        try:
            request = parse(pdu)
        except RejectedError:
            return []
        self.requests += 1
        if request.values:
            self._write(unit, request)
        if unit == 0:
            return []
        found = []
        if unit not in self.silent:
            found.append(self._answer(unit, request))
        if self.strangers and self.rng.random() < self.strangers:
            found.append(self._answer(self.rng.choice(sorted(self.units - {unit})), request, may_be_late=False))
        return found

    def _open(self, frame):
        """Unit and PDU; (0, None) for what is no frame."""
        if self.framing == "rtu":
            return (0, None) if len(frame) < 4 or crc(frame) else (frame[0], frame[1:-2])
        colon = frame.rfind(b":")
        try:
            data = bytes.fromhex(frame[colon + 1 :].strip().decode())
        except ValueError:
            return 0, None
        return (0, None) if colon < 0 or len(data) < 3 or lrc(data) else (data[0], data[1:-1])

    def asked(self, frame):
        """Whom a frame addresses."""
        return self._open(frame)[0]

    def _write(self, unit, request):
        self.writes += 1
        function, values = request.function, request.values
        start = request.write_address if function is Function.READ_WRITE_REGISTERS else request.address
        is_bit = function in (Function.WRITE_COIL, Function.WRITE_COILS)
        if function is Function.MASK_REGISTER:
            present = self._value(unit, Function.READ_HOLDING_REGISTERS, start)
            values = (present & values[0] | values[1] & ~values[0] & 0xFFFF,)
        for each in [unit] if unit else self.units:
            self.written.update({(each, is_bit, start + n): value for n, value in enumerate(values)})

    def _value(self, unit, function, address):
        kept = None
        if self.written and function in (1, 3, 23):
            kept = self.written.get((unit, function in BIT_READS, address))
        return self.content(unit, function, address) if kept is None else kept

    def _answer(self, unit, request, may_be_late=True):
        rng = self.rng
        delay = self.prompt_s
        if may_be_late and rng.random() < self.late:
            delay = rng.uniform(0, self.latest_s)
            self.were_late += 1
        if request.address >= 60_000:
            pdu = refusal(request.function, 2)
        else:
            places = range(request.address, request.address + request.count)
            bits = request.function in BIT_READS
            pdu = answer(
                request, [self._value(unit, request.function, place) & (1 if bits else 0xFFFF) for place in places]
            )
        data = bytearray(FRAMERS[self.framing]().encode(unit, pdu))
        chance = rng.random()
        if chance < self.flips:
            was = bytes(data)
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            if self.parity:
                for place, (before, now) in enumerate(zip(was, data, strict=True)):
                    if (before ^ now).bit_count() & 1:
                        data[place] = 0  # as the kernel hands over what its UART complains of
        elif chance < self.flips + self.cuts:
            del data[rng.randrange(1, len(data)) :]
        elif chance < self.flips + self.cuts + self.noise:
            data = bytearray(rng.randbytes(rng.randint(1, 12))) + data
        else:
            return unit, delay, bytes(data)
        self.were_spoiled += 1
        return unit, delay, bytes(data)


class VirtualLine:
    """Implements `ByteLine` and `Clock` for a master in virtual time: no await here ever waits.

    Two who speak at once destroy each other's bytes; `overlaps` counts our own words upon another's.
    """

    last_byte_s = float("-inf")

    def __init__(self, units, byte_s):
        self._units, self._byte_s = units, byte_s
        self._now_s = 0.0
        self._order = itertools.count()
        self._coming = []  # heap: time of the last byte, order, begin, bytes
        self._free_s = {}
        self.overlaps = self.collisions = 0
        self.is_open = False

    def monotonic_s(self):
        return self._now_s

    def now_ms(self):
        return round(self._now_s * 1000)

    async def sleep(self, delay_s):
        self._now_s += max(delay_s, 0.0)

    async def open(self):
        self.is_open = True

    def close(self):
        self.is_open = False

    def write(self, data):
        begin, end = self._now_s, self._now_s + len(data) * self._byte_s
        self._put(begin, end, None)
        for unit, delay, answered in self._units.hear(data):
            if unit != self._units.asked(data) and self._free_s.get(unit, 0.0) > end:
                continue  # busy with an answer of its own
            start = max(end + delay, self._free_s.get(unit, 0.0))
            self._free_s[unit] = start + len(answered) * self._byte_s
            self._put(start, self._free_s[unit], answered)

    def _put(self, begin, end, data):
        for index, (other_end, order, other_begin, other) in enumerate(self._coming):
            if begin < other_end and other_begin < end:
                if data is None:
                    self.overlaps += 1
                else:
                    self.collisions += 1
                    data = bytes(byte ^ 0x5A for byte in data)
                self._coming[index] = (other_end, order, other_begin, bytes(byte ^ 0xA5 for byte in other))
        if data is not None:
            heapq.heappush(self._coming, (end, next(self._order), begin, data))

    async def read(self, timeout_s):
        until_s = self._now_s + timeout_s
        if self._coming and self._coming[0][0] <= until_s:
            end, _, _, data = heapq.heappop(self._coming)
            self._now_s = max(self._now_s, end)
            self.last_byte_s = end
            return data
        self._now_s = until_s
        return b""


class PtyLine:
    """The units at the far end of a pseudo terminal, each byte taking its time on the wire; one speaks at a time."""

    def __init__(self, units, baud, bits=10):
        self.units, self.byte_s = units, bits / baud
        self.path = ""
        self.overlaps = 0
        self._busy_until_s = 0.0
        self._buffer = bytearray()
        self._tasks = set()
        self._fds = ()

    @asynccontextmanager
    async def open(self, link):
        """`link` is the path that the adapter has: a symbolic link, as udev makes them."""
        self.link = link
        self.plug()
        try:
            yield self
        finally:
            self.pull()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def plug(self):
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._fds = (master, slave)
        self._buffer.clear()
        self.link.symlink_to(os.ttyname(slave))
        asyncio.get_running_loop().add_reader(master, self._heard)

    def pull(self):
        """The adapter is gone: its path, and whoever has it open is told."""
        if not self._fds:
            return
        master, slave = self._fds
        self._fds = ()
        asyncio.get_running_loop().remove_reader(master)
        self.link.unlink()
        os.close(slave)
        os.close(master)

    def _heard(self):
        try:
            self._buffer += os.read(self._fds[0], 4096)
        except OSError:
            return
        size = self._size()
        while size and len(self._buffer) >= size:
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            now_s = asyncio.get_running_loop().time()
            if now_s < self._busy_until_s:
                self.overlaps += 1
            sent_s = self._busy_until_s = now_s + size * self.byte_s
            for _, delay, data in self.units.hear(frame):
                task = asyncio.create_task(self._speak(sent_s + delay, data))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            size = self._size()

    def _size(self):
        if len(self._buffer) < 7:
            return 0
        return 9 + self._buffer[6] if self._buffer[1] in (15, 16) else 8

    async def _speak(self, at_s, data):
        loop = asyncio.get_running_loop()
        start_s = max(at_s, self._busy_until_s)
        self._busy_until_s = start_s + len(data) * self.byte_s
        fds, done = self._fds, 0
        while done < len(data):
            due = min(len(data), int((loop.time() - start_s) / self.byte_s))
            if due > done and fds == self._fds and fds:
                os.write(fds[0], data[done:due])
                done = due
            elif fds != self._fds or not fds:
                return
            await asyncio.sleep(max(start_s + (done + 1) * self.byte_s - loop.time(), 0))


READ = Function.READ_HOLDING_REGISTERS
