"""The wire against a slave made of a bare socket, so that it can misbehave in ways a library's server cannot."""

import asyncio
import struct
from contextlib import asynccontextmanager

import pytest

from drivers.modbus.registers import Table
from drivers.modbus.wire import ModbusWire, Refused
from drivers.modbus.wire_tcp import TcpMaster
from gateway.errors import BusLost, RejectedError, TransientError
from gateway.supervise import SystemClock


class RawSlave:
    """Answers each request through `answer(slave, writer, tid, unit, pdu)`."""

    def __init__(self, answer):
        self._answer = answer
        self.connections = 0
        self.requests = []
        self.tasks = set()
        self._writers = []

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                tid, _, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
                pdu = await reader.readexactly(length - 1)
                self.requests.append(pdu)
                task = asyncio.create_task(self._answer(self, writer, tid, unit, pdu))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def open(self, timeout_s=0.2, in_flight=1, **more):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        wire = tcp_wire(server.sockets[0].getsockname()[1], timeout_s, in_flight, **more)
        try:
            yield wire
        finally:
            wire.close()
            for task in list(self.tasks):
                task.cancel()
            for writer in self._writers:
                writer.close()
            server.close()
            await server.wait_closed()


def tcp_wire(port, timeout_s, in_flight=1, **more):
    master = TcpMaster("127.0.0.1", port, timeout_s, SystemClock(), in_flight=in_flight, **more)
    return ModbusWire("plant", f"127.0.0.1:{port}", master)


def frame(tid, unit, pdu):
    return struct.pack(">HHHB", tid, 0, len(pdu) + 1, unit) + pdu


def registers(*words):
    return struct.pack(f">BB{len(words)}H", 3, 2 * len(words), *words)


def ask(wire, address, count=1, unit=1):
    return wire.read_registers(unit, Table.HOLDING_REGISTER, address, count)


@pytest.mark.parametrize("late_tid", ["its own", "zero", "the next one"])
async def test_a_late_answer_is_never_credited_to_the_next_question(late_tid):
    """The first question is answered after its timeout, on the connection it came from, while the second waits."""
    second_asked = asyncio.Event()
    late_sent = asyncio.Event()

    async def answer(slave, writer, tid, unit, pdu):
        address = struct.unpack(">H", pdu[1:3])[0]
        if address == 111:
            await second_asked.wait()
            wrong = {"its own": tid, "zero": 0, "the next one": tid + 1}[late_tid]
            writer.write(frame(wrong, unit, registers(1111)))
            late_sent.set()
        else:
            second_asked.set()
            await late_sent.wait()
            await asyncio.sleep(0.02)  # the late answer arrives first
            writer.write(frame(tid, unit, registers(2222)))

    async with RawSlave(answer).open(timeout_s=0.5) as wire:
        with pytest.raises(TransientError) as caught:
            await ask(wire, 111)
        assert str(caught.value) == "plant: unit 1, holding_register 111: no answer to function 0x03 in 0.5 s"
        assert list(await ask(wire, 222)) == [2222]
        assert wire.connects == 2


async def test_an_answer_to_nobody_before_the_right_one_is_ignored():
    async def answer(slave, writer, tid, unit, pdu):
        writer.write(frame(tid + 7, unit, registers(1)) + frame(tid, unit + 1, registers(2)))
        writer.write(frame(tid, unit, registers(3)))

    async with RawSlave(answer).open() as wire:
        assert list(await ask(wire, 0)) == [3]
        assert wire.connects == 1


async def test_a_device_with_ids_of_its_own_is_heard_and_its_late_answers_are_not():
    async def answer(slave, writer, tid, unit, pdu):
        address = struct.unpack(">H", pdu[1:3])[0]
        if address == 111:
            await asyncio.sleep(0.25)
        writer.write(frame(tid + 1, unit + 1, registers(1)) + frame(tid + 1, unit, registers(1, 2)))
        writer.write(frame(tid + 1, unit, registers(address)))

    async with RawSlave(answer).open() as wire:
        with pytest.raises(TransientError):
            await ask(wire, 5)
    async with RawSlave(answer).open(has_own_ids=True) as wire:
        assert list(await ask(wire, 5)) == [5]
        with pytest.raises(TransientError):
            await ask(wire, 111)
        for address in range(20):
            assert list(await ask(wire, address)) == [address]
            await asyncio.sleep(0.005)
        assert wire.connects == 2


async def test_a_connection_is_left_to_others_when_the_cycle_is_over():
    async def answer(slave, writer, tid, unit, pdu):
        writer.write(frame(tid, unit, registers(5)))

    async with RawSlave(answer).open(close_after_cycle=True) as wire:
        for _ in range(3):
            assert list(await ask(wire, 0)) == [5]
        assert wire.connects == 1
        async with asyncio.timeout(2):
            while wire._master.is_open:
                await asyncio.sleep(0.01)
        assert list(await ask(wire, 0)) == [5]
        assert wire.connects == 2


async def test_an_idle_connection_dropped_by_the_device_is_no_outage():
    async def answer(slave, writer, tid, unit, pdu):
        writer.write(frame(tid, unit, registers(5)))
        await writer.drain()
        writer.close()

    async with RawSlave(answer).open() as wire:
        for _ in range(3):
            assert list(await ask(wire, 0)) == [5]


async def test_a_connection_closed_on_a_question_is_asked_once_more_and_fails_at_once():
    async def answer(slave, writer, tid, unit, pdu):
        if len(slave.requests) == 1:
            writer.write(frame(tid, unit, registers(5)))
        else:
            writer.close()

    async with (slave := RawSlave(answer)).open(timeout_s=30) as wire:
        await ask(wire, 0)
        async with asyncio.timeout(5):
            with pytest.raises(TransientError, match="unit 1, holding_register 0: connection closed by the device"):
                await ask(wire, 0)
        assert len(slave.requests) == 3


async def test_a_write_is_never_sent_twice():
    async def answer(slave, writer, tid, unit, pdu):
        if pdu[0] == 3:
            writer.write(frame(tid, unit, registers(5)))
        else:
            writer.close()

    async with (slave := RawSlave(answer)).open() as wire:
        await ask(wire, 0)
        with pytest.raises(TransientError, match="function 0x06"):
            await wire.write_registers(1, 0, [9])
        assert [pdu[0] for pdu in slave.requests] == [3, 6]


@pytest.mark.parametrize(("code", "error"), [(1, Refused), (2, Refused), (3, Refused), (4, Refused)])
async def test_final_exception_codes_reject(code, error):
    async def answer(slave, writer, tid, unit, pdu):
        writer.write(frame(tid, unit, bytes([pdu[0] | 0x80, code])))

    async with RawSlave(answer).open() as wire:
        with pytest.raises(error) as caught:
            await ask(wire, 10)
        assert isinstance(caught.value, RejectedError)
        assert caught.value.code == code
        assert str(caught.value).startswith("plant: unit 1, holding_register 10: function 0x03 refused: ")
        assert wire.connects == 1


@pytest.mark.parametrize(
    ("code", "text"), [(6, "device busy"), (11, "gateway target device failed"), (99, "exception")]
)
async def test_passing_exception_codes_are_worth_another_try(code, text):
    async def answer(slave, writer, tid, unit, pdu):
        writer.write(frame(tid, unit, bytes([pdu[0] | 0x80, code])))

    async with RawSlave(answer).open() as wire:
        with pytest.raises(TransientError, match=text):
            await ask(wire, 10)


@pytest.mark.parametrize(
    "pdu",
    [registers(1), registers(1, 2, 3), bytes([4, 4, 0, 1, 0, 2]), bytes([3, 200, 0]), bytes([3]), bytes([0x77, 1, 2])],
    ids=["short", "long", "another function", "lying length", "empty", "unknown function"],
)
async def test_nonsense_is_never_a_reading(pdu):
    async def answer(slave, writer, tid, unit, asked):
        writer.write(frame(tid, unit, pdu))

    async with RawSlave(answer).open() as wire:
        with pytest.raises(TransientError, match="unit 1, holding_register 0"):
            await ask(wire, 0, count=2)


async def test_several_questions_share_a_connection_and_a_late_one_does_not_end_it():
    """Four at a time, answered last first; one of the second four is never answered."""
    waiting = []

    async def answer(slave, writer, tid, unit, pdu):
        address = struct.unpack(">H", pdu[1:3])[0]
        if address == 7:
            return
        waiting.append(frame(tid, unit, registers(1000 + address)))
        if len(waiting) == 4 or len(slave.requests) == 8:
            for held_back in reversed(waiting):
                writer.write(held_back)
            waiting.clear()

    server = RawSlave(answer)
    async with server.open(timeout_s=0.3, in_flight=4) as wire:
        answers = await asyncio.gather(*(ask(wire, n) for n in range(8)), return_exceptions=True)
        assert [list(answer) for answer in answers[:7]] == [[1000 + n] for n in range(7)]
        assert isinstance(answers[7], TransientError)
        assert wire.connects == 1


async def test_nobody_there_is_a_lost_bus():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    wire = tcp_wire(port, 0.5)
    with pytest.raises(BusLost, match=f"plant: no connection to 127.0.0.1:{port}"):
        await ask(wire, 0)
    wire.close()
    wire.close()


async def test_function_codes_on_the_wire():
    async def answer(slave, writer, tid, unit, pdu):
        if pdu[0] in (1, 2):
            writer.write(frame(tid, unit, bytes([pdu[0], 1, 0b101])))
        elif pdu[0] == 4:
            writer.write(frame(tid, unit, b"\x04" + registers(7)[1:]))
        else:
            writer.write(frame(tid, unit, pdu[:5]))

    async with (slave := RawSlave(answer)).open() as wire:
        assert list(await wire.read_bits(1, Table.COIL, 19, 3)) == [True, False, True]
        assert list(await wire.read_bits(1, Table.DISCRETE_INPUT, 0, 3)) == [True, False, True]
        assert list(await wire.read_registers(1, Table.INPUT_REGISTER, 0, 1)) == [7]
        await wire.write_bits(1, 172, [True])
        await wire.write_bits(1, 19, [True, False, True])
        await wire.write_registers(1, 1, [3])
        await wire.write_registers(1, 1, [10, 258])
        assert [pdu.hex(" ") for pdu in slave.requests] == [
            "01 00 13 00 03",
            "02 00 00 00 03",
            "04 00 00 00 01",
            # Modbus Application Protocol V1.1b3 §6.5, §6.6, §6.12: the examples of the standard
            "05 00 ac ff 00",
            "0f 00 13 00 03 01 05",
            "06 00 01 00 03",
            "10 00 01 00 02 04 00 0a 01 02",
        ]
