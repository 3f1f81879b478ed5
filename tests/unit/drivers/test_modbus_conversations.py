"""Recorded conversations of a foreign client with a foreign server, played to our master and to our slave's half."""

import asyncio
from pathlib import Path

import pytest

from drivers.modbus.protocol import tcp
from drivers.modbus.protocol.pdu import BIT_READS, answer, bits, parse, question, refusal, words
from drivers.modbus.wire_inbox import SocketLine
from drivers.modbus.wire_line import LineMaster, LineTiming
from drivers.modbus.wire_master import Silent
from drivers.modbus.wire_tcp import TcpMaster
from tests.fakes.late_reads import LoopClock, VirtualLoop
from tests.fakes.modbus_line import FRAMERS

FOLDER = Path(__file__).parents[2] / "vectors" / "modbus"


def conversations():
    for framing in ("tcp", "rtu", "ascii"):
        for block in (FOLDER / f"{framing}.txt").read_text().split("\n\n")[1:]:
            title, *lines = block.strip().splitlines()
            steps = [(line[:2].strip(), line[2:].strip()) for line in lines]
            yield pytest.param(framing, steps, id=f"{framing}: {title[2:]}")


def octets(framing, text):
    return text.encode() + b"\r\n" if framing == "ascii" else bytes.fromhex(text)


def taken_apart(framing, frame):
    """Unit and PDU of a frame, by the plainest means."""
    if framing == "tcp":
        return frame[6], frame[7:]
    data = bytes.fromhex(frame[1:-2].decode()) if framing == "ascii" else frame
    return data[0], data[1:-1] if framing == "ascii" else data[1:-2]


class Player(asyncio.Protocol):
    """Plays the other side; a transaction id stands for the one that the master has chosen."""

    def __init__(self, framing, steps):
        self.framing, self.steps, self.heard = framing, list(steps), b""
        self.ids = {}

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        while self.steps[0][0] != ">>":
            self.steps.pop(0)
        wanted = octets(self.framing, self.steps.pop(0)[1])
        if self.framing == "tcp":
            self.ids[wanted[:2]] = data[:2]
            data, wanted = data[2:], wanted[2:]
        assert data == wanted
        self.heard += data
        loop, delay_s = asyncio.get_running_loop(), 0.0
        for mark, text in self.steps:
            if mark == ">>":
                break
            if mark == "..":
                delay_s += float(text)
            elif mark == "<<":
                loop.call_later(delay_s, self.say, octets(self.framing, text), self.transport)
        self.until_s = loop.time() + delay_s

    def say(self, frame, transport):
        if self.framing == "tcp":
            frame = self.ids[frame[:2]] + frame[2:]
        for place in range(len(frame)):  # byte by byte, as they may come
            transport.write(frame[place : place + 1])


def meaning(asked, pdu):
    if (code := asked.refusal(pdu)) is not None:
        return f"refused {code}"
    if asked.function in BIT_READS:
        return " ".join(str(int(bit)) for bit in bits(pdu, 8 * pdu[1]))
    return " ".join(map(str, words(pdu))) if asked.function in (3, 4, 23) else "done"


@pytest.mark.parametrize(("framing", "steps"), list(conversations()))
def test_our_master_says_what_they_said_and_understands_what_they_understood(framing, steps):
    player = Player(framing, steps)

    async def play():
        clock = LoopClock()
        if framing == "tcp":
            master = TcpMaster("device", 502, 0.1, clock)
        else:
            timing = LineTiming(timeout_s=0.1, late_s=0.2, gap_s=0.002)
            master = LineMaster(SocketLine("device", 502, 1.0, clock), FRAMERS[framing](), timing, clock)
        results = []
        for mark, text in steps:
            if mark == ">>":
                if results:
                    await clock.sleep(player.until_s - clock.monotonic_s())
                unit, pdu = taken_apart(framing, octets(framing, text))
                asked = question(parse(pdu))
                try:
                    results.append(meaning(asked, await master.ask(unit, asked)))
                except Silent:
                    results.append("silent")
        master.close()
        return results

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(lambda: player)) as runner:
        results = runner.run(play())
    assert results == [text for mark, text in steps if mark == "="]
    assert player.heard


@pytest.mark.parametrize(("framing", "steps"), [each for each in conversations() if len(each.values[1]) == 3])
def test_our_slaves_half_says_what_they_said(framing, steps):
    asked, answered, result = (text for _, text in steps)
    frame = octets(framing, asked)
    unit, pdu = taken_apart(framing, frame)
    request = parse(pdu)
    if result.startswith("refused"):
        said = refusal(request.function, int(result.split()[1]))
    else:
        said = answer(request, [int(value) for value in result.split()][: request.count] if result != "done" else ())
    built = (
        tcp.encode(int.from_bytes(frame[:2]), unit, said) if framing == "tcp" else FRAMERS[framing]().encode(unit, said)
    )
    assert built == octets(framing, answered)


def test_each_function_is_there_in_each_framing():
    for framing in ("tcp", "rtu", "ascii"):
        steps = [step for each in conversations() if each.values[0] == framing for step in each.values[1]]
        functions = {taken_apart(framing, octets(framing, text))[1][0] for mark, text in steps if mark == ">>"}
        assert functions == {1, 2, 3, 4, 5, 6, 15, 16, 22, 23}
