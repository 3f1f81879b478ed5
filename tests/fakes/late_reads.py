"""Very many reads over the real masters in virtual time, from units that answer when they like.

Each register says where it is (`signed`), and the addresses are those of a counter: an answer that is credited to any
question of the last 8,000 but its own is seen. Nothing here waits, and nothing is left to the machine's speed.
"""

import asyncio
import random
import struct
from dataclasses import dataclass

from drivers.modbus.protocol.pdu import Function, reading, words
from drivers.modbus.wire_line import LineMaster, LineTiming
from drivers.modbus.wire_master import NoAnswer
from drivers.modbus.wire_tcp import TcpMaster
from tests.fakes.modbus_line import FRAMERS, Units, VirtualLine, signed

TIMEOUT_S = 0.1
LATEST_S = 3 * TIMEOUT_S
BYTE_S = 10 / 19200
SPOILT = {"noise": 0.01, "flips": 0.02, "cuts": 0.01, "strangers": 0.01}


@dataclass(slots=True)
class Tally:
    """How many answers came, how many did not, how many were another question's, and how many the units sent late."""

    good: int = 0
    none: int = 0
    wrong: int = 0
    late: int = 0

    def __add__(self, other):
        return Tally(self.good + other.good, self.none + other.none, self.wrong + other.wrong, self.late + other.late)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer instead of waiting for it; connections lead to `server`, a protocol factory."""

    def __init__(self, server=None):
        super().__init__()
        self._now_s, self._server = 0.0, server

    def time(self):
        return self._now_s

    def _run_once(self):
        if not self._ready and self._scheduled:
            self._now_s = max(self._now_s, self._scheduled[0]._when)
        super()._run_once()

    async def create_connection(self, factory, host=None, port=None, **more):
        here, there = factory(), self._server()
        ours = _Pipe(self, there)
        theirs = _Pipe(self, here)
        ours.other, theirs.other = theirs, ours
        there.connection_made(theirs)
        here.connection_made(ours)
        return ours, here


class _Pipe(asyncio.Transport):
    """What one side writes the other is given in its next turn, in as many pieces as it was written."""

    def __init__(self, loop, reader):
        super().__init__()
        self._loop, self.reader, self.other, self._is_closing = loop, reader, None, False

    def write(self, data):
        if not self._is_closing:
            self._loop.call_soon(self._give, data)

    def _give(self, data):
        if not self.other._is_closing:
            self.reader.data_received(data)

    def is_closing(self):
        return self._is_closing

    def abort(self):
        if not self._is_closing:
            self._is_closing = True
            self.other._is_closing = True
            self._loop.call_soon(self.reader.connection_lost, None)

    close = abort


class LoopClock:
    """The loop's time as a `Clock`."""

    def now_ms(self):
        return round(asyncio.get_running_loop().time() * 1000)

    def monotonic_s(self):
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s):
        await asyncio.sleep(max(delay_s, 0.0))


class LateServer(asyncio.Protocol):
    """Answers in any order, in any pieces, some after the timeout; late ones with `quirks` for transaction ids.

    own: its own id. zero. next: the one behind its own. newest: that of the question that came last on this connection.
    twice: its own, two times. unit: its own, from another unit. longer: its own, with a register too many.
    """

    current = None  # the connection made last, of a box whose serial line outlives all of them

    def __init__(self, rng, tally, quirks, late, outlives=False):
        self._rng, self._tally, self._quirks, self._late = rng, tally, quirks, late
        self._outlives = outlives
        self._rest = b""

    def connection_made(self, transport):
        self._transport = transport
        LateServer.current = self

    def connection_lost(self, exc):
        self._transport = None

    def data_received(self, data):
        self._rest += data
        while len(self._rest) >= 12:
            asked = struct.unpack(">HxxxxBBHH", self._rest[:12])
            self._rest = self._rest[12:]
            self._newest = asked[0]
            if self._rng.random() < self._late:
                self._tally.late += 1
                delay_s = self._rng.uniform(0, LATEST_S)
                asyncio.get_running_loop().call_later(delay_s, self._answer, asked, self._rng.choice(self._quirks))
            else:
                self._answer(asked, "own")

    def _answer(self, asked, quirk):
        transaction, unit, function, address, count = asked
        if self._outlives and LateServer.current is not self:
            if LateServer.current._transport is not None:
                LateServer.current._answer(asked, quirk)
            return
        if self._transport is None:
            return
        content = [signed(unit, function, address + n) for n in range(count)] + [0] * (quirk == "longer")
        transaction = {"zero": 0, "next": transaction + 1 & 0xFFFF, "newest": self._newest}.get(quirk, transaction)
        head = struct.pack(
            ">HHHBBB", transaction, 0, 3 + 2 * len(content), unit ^ (quirk == "unit"), function, 2 * len(content)
        )
        frame = (head + struct.pack(f">{len(content)}H", *content)) * (2 if quirk == "twice" else 1)
        if self._rng.random() < 0.1:
            cut = self._rng.randrange(1, len(frame))
            self._transport.write(frame[:cut])
            frame = frame[cut:]
        self._transport.write(frame)


async def ask(master, clock, reads, seed, tally, first=0, step=1):
    """Questions number `first`, `first + step` …, one after the other."""
    rng = random.Random(seed)
    for n in range(first, reads, step):
        unit, function, address = rng.randint(1, 10), rng.choice((3, 3, 4)), 7 * n % 59_990
        count = rng.choice((2, 2, 2, 5))
        try:
            answer = words(await master.ask(unit, reading(Function(function), address, count)))
        except NoAnswer:
            tally.none += 1
            await clock.sleep(0.01)
            continue
        if list(answer) == [signed(unit, function, address + place) for place in range(count)]:
            tally.good += 1
        else:
            tally.wrong += 1


async def line_reads(framing, reads, seed, *, late_s=2.3 * TIMEOUT_S, **more):
    """RTU or ASCII on a line that loses, spoils and delays; unit 7 is dead."""
    spoilt = {"silent": {7}, "late": 0.2, "latest_s": LATEST_S, **SPOILT} | more
    units = Units(seed, framing=framing, content=signed, **spoilt)
    line = VirtualLine(units, BYTE_S)
    timing = LineTiming(timeout_s=TIMEOUT_S, late_s=late_s, gap_s=3.5 * BYTE_S, byte_s=BYTE_S)
    tally = Tally()
    await ask(LineMaster(line, FRAMERS[framing](), timing, line), line, reads, seed, tally)
    tally.late = units.were_late
    return tally


def tcp_reads(in_flight, reads, seed, *, quirks, late=0.05, outlives=False, late_s=0.0):
    """Modbus TCP; makes its own loop. `outlives`: late answers go to the next connection."""
    rng, tally, clock = random.Random(seed), Tally(), LoopClock()

    async def run():
        master = TcpMaster("device", 502, TIMEOUT_S, clock, in_flight=in_flight, late_s=late_s)
        async with asyncio.TaskGroup() as group:
            for place in range(in_flight):
                group.create_task(ask(master, clock, reads, seed + place, tally, place, in_flight))
        master.close()

    with asyncio.Runner(
        loop_factory=lambda: VirtualLoop(lambda: LateServer(rng, tally, quirks, late, outlives))
    ) as runner:
        runner.run(run())
    return tally


QUIRKS_OF_MANY = ("own", "zero", "next", "twice", "unit", "longer")
QUIRKS = (*QUIRKS_OF_MANY, "newest")
"""`newest` passes for another answer where several questions are open: such devices have one."""
