"""An answer that comes late is never taken for the answer to another question, whatever else goes wrong on the line.

EDGE_MODBUS_READS=1000000 makes it a million reads.
"""

import asyncio
import os
import random
import struct

import pytest

from drivers.modbus.protocol.pdu import Function, reading, words
from drivers.modbus.protocol.rtu import RtuFramer
from drivers.modbus.wire_line import LineMaster, LineTiming
from drivers.modbus.wire_master import NoAnswer
from drivers.modbus.wire_tcp import TcpMaster
from gateway.supervise import SystemClock
from tests.fakes.modbus_line import Units, VirtualLine, held

READS = int(os.environ.get("EDGE_MODBUS_READS", "100000"))
TIMEOUT_S = 0.1
BYTE_S = 10 / 19200


async def ask_at_random(master, clock, reads, seed, functions=(3, 4)):
    """How many answers came, how many did not, and how many belonged to another question."""
    rng = random.Random(seed)
    good = bad = wrong = 0
    for _ in range(reads):
        unit, function, address = rng.randint(1, 10), rng.choice(functions), rng.randrange(0, 50_000)
        question = reading(Function(function), address, rng.choice((2, 2, 2, 5)))
        try:
            answer = await master.ask(unit, question)
        except NoAnswer:
            bad += 1
            await clock.sleep(0.01)
            continue
        wanted = [held(unit, function, address + n) for n in range(len(words(answer)))]
        good += 1
        wrong += list(words(answer)) != wanted
    return good, bad, wrong


def line_of(units, *, late_s=2.3 * TIMEOUT_S):
    line = VirtualLine(units, BYTE_S)
    timing = LineTiming(timeout_s=TIMEOUT_S, late_s=late_s, gap_s=3.5 * BYTE_S, byte_s=BYTE_S)
    return LineMaster(line, RtuFramer(), timing, line), line


async def test_late_answers_on_a_noisy_line_are_never_another_questions():
    spoiled = {"noise": 0.01, "flips": 0.02, "cuts": 0.01, "strangers": 0.01}
    units = Units(1, silent={7}, late=0.2, latest_s=3 * TIMEOUT_S, **spoiled)
    master, line = line_of(units)
    good, bad, wrong = await ask_at_random(master, line, READS, seed=2)
    assert wrong == 0
    assert good > READS * 0.4, "and the line is used"
    assert bad > READS * 0.1
    assert units.were_late > READS * 0.1
    assert units.were_spoiled > READS * 0.01


async def test_without_the_rule_they_would_be():
    """The simulation is worth something: who forgets what is owed takes wrong answers."""
    master, line = line_of(Units(1, units=range(1, 11), late=0.2, latest_s=3 * TIMEOUT_S), late_s=0.0)
    _, _, wrong = await ask_at_random(master, line, 5000, seed=2, functions=(3,))
    assert wrong > 0


async def test_a_quiet_line_loses_nothing_and_nobody_speaks_at_once():
    master, line = line_of(Units(1))
    assert await ask_at_random(master, line, 5000, seed=3) == (5000, 0, 0)
    assert (line.overlaps, line.collisions) == (0, 0)


class LateServer(asyncio.Protocol):
    """Answers in any order, some after the timeout."""

    rng = random.Random(4)

    def connection_made(self, transport):
        self.transport = transport
        self.rest = b""

    def data_received(self, data):
        self.rest += data
        while len(self.rest) >= 12:
            transaction, unit, function, address, count = struct.unpack(">HxxxxBBHH", self.rest[:12])
            self.rest = self.rest[12:]
            content = [held(unit, function, address + n) for n in range(count)]
            head = struct.pack(">HHHBBB", transaction, 0, 3 + 2 * count, unit, function, 2 * count)
            frame = head + struct.pack(f">{count}H", *content)
            if self.rng.random() < 0.02:
                asyncio.get_running_loop().call_later(self.rng.uniform(0, 0.06), self.send, frame)
            else:
                self.send(frame)

    def send(self, frame):
        if not self.transport.is_closing():
            self.transport.write(frame)


@pytest.mark.parametrize("in_flight", [1, 16])
async def test_late_answers_over_tcp(in_flight):
    server = await asyncio.get_running_loop().create_server(LateServer, "127.0.0.1", 0)
    clock = SystemClock()
    master = TcpMaster("127.0.0.1", server.sockets[0].getsockname()[1], 0.03, clock, in_flight=in_flight)
    reads = max(READS // 20, 1000) if in_flight > 1 else 2000
    try:
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(ask_at_random(master, clock, reads // in_flight, seed)) for seed in range(in_flight)
            ]
    finally:
        master.close()
        server.close()
        await server.wait_closed()
    assert sum(task.result()[2] for task in asking) == 0
    assert sum(task.result()[1] for task in asking) > 0, "some were too late"
    assert sum(task.result()[0] for task in asking) > reads * 0.9
