"""Raw requests: what the caller has made travels as it is, and so does the answer."""

import asyncio
import contextlib
import itertools

import pytest

from drivers.modbus.protocol.ascii import AsciiFramer
from drivers.modbus.protocol.pdu import Question
from drivers.modbus.protocol.rtu import RtuFramer, crc
from drivers.modbus.wire import ModbusWire
from drivers.modbus.wire_line import LineMaster, LineTiming
from drivers.modbus.wire_master import Closed
from drivers.modbus.wire_tcp import TcpMaster
from gateway.errors import RejectedError, TransientError
from gateway.fieldbus.bus import Bus
from gateway.fieldbus.plugins import Plugins, parse_buses
from gateway.ports import Query, RawRequest, Write
from gateway.supervise import Counters, SystemClock
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeBus
from tests.unit.fieldbus.inlet import FakeHouse

IDENTITY = bytes.fromhex("2b0e0101000001000341424301")  # some answer to 2B 0E 01 00; its length stands nowhere


class Line:
    """Answers with given pieces of bytes; whoever reads on meets silence."""

    def __init__(self, *pieces):
        self.pieces, self.written, self.is_open = list(pieces), [], True
        self.last_byte_s = float("-inf")

    async def open(self):
        pass

    def write(self, data):
        self.written.append(data)

    async def read(self, timeout_s):
        if self.written and self.pieces:
            return self.pieces.pop(0)
        await asyncio.sleep(min(timeout_s, 0.001))
        return b""

    def close(self):
        pass


def wire(line, framer):
    return ModbusWire("plant", "a line", LineMaster(line, framer, LineTiming(timeout_s=0.2, late_s=0.0), SystemClock()))


def rtu(unit, pdu):
    return RtuFramer().encode(unit, pdu)


@pytest.mark.parametrize("cuts", [(), (1,), (3, 4), (2, 7, 11)])
async def test_an_answer_of_unknown_length_ends_where_the_line_is_silent(cuts):
    frame = rtu(3, IDENTITY)
    ends = [0, *cuts, len(frame)]
    line = Line(*(frame[start:end] for start, end in itertools.pairwise(ends)))
    assert await wire(line, RtuFramer()).raw(3, bytes.fromhex("2b0e0100")) == IDENTITY
    assert line.written == [rtu(3, bytes.fromhex("2b0e0100"))]


async def test_a_beginning_whose_crc_happens_to_be_right_is_not_the_answer():
    beginning = bytes([3, 0x2B, 0x0E])
    inner = beginning + crc(beginning).to_bytes(2, "little")
    frame = inner + b"\x00\x01"
    frame += crc(frame).to_bytes(2, "little")
    line = Line(inner, frame[len(inner) :])
    assert await wire(line, RtuFramer()).raw(3, bytes.fromhex("2b0e0100")) == frame[1:-2]


async def test_noise_before_it_and_another_unit_are_passed_over():
    line = Line(b"\x00\xff" + rtu(3, bytes([0xAB, 1])))
    assert await wire(line, RtuFramer()).raw(3, bytes([0x2B, 0x0E, 1, 0])) == bytes([0xAB, 1])
    with pytest.raises(TransientError, match="unit 3: no answer to function 0x2b"):
        await wire(Line(rtu(4, IDENTITY)), RtuFramer()).raw(3, bytes([0x2B, 0x0E, 1, 0]))


async def test_ascii_frames_end_by_themselves():
    framer = AsciiFramer()
    line = Line(framer.encode(3, IDENTITY))
    assert await wire(line, framer).raw(3, bytes.fromhex("2b0e0100")) == IDENTITY


async def test_refusals_come_back_as_they_are_and_wrong_requests_are_the_devices_business():
    # 126 registers are more than one request may ask for: the device says so, not we
    line = Line(rtu(3, bytes([0x83, 3])))
    assert await wire(line, RtuFramer()).raw(3, bytes([3, 0, 0, 0, 126])) == bytes([0x83, 3])
    assert line.written == [rtu(3, bytes([3, 0, 0, 0, 126]))]


@pytest.mark.parametrize("pdu", [b"", b"\x00", b"\x80\x01", bytes([3]) * 254])
async def test_what_is_no_pdu_does_not_reach_the_line(pdu):
    line = Line()
    with pytest.raises(RejectedError, match="function code"):
        await wire(line, RtuFramer()).raw(3, pdu)
    assert line.written == []


async def test_all_units_are_written_and_answer_nothing():
    line = Line()
    assert await wire(line, RtuFramer()).raw(0, bytes([6, 0, 1, 0, 7])) == b""
    with pytest.raises(RejectedError, match="all units"):
        await wire(line, RtuFramer()).raw(0, bytes([3, 0, 1, 0, 7]))


async def test_a_write_is_sent_once_and_a_read_again_when_the_connection_was_closed():
    class Drops:
        is_open, connects = True, 1

        def __init__(self):
            self.asked = 0

        async def ask(self, unit: int, question: Question) -> bytes:
            self.asked += 1
            raise Closed("closed")

    for pdu, times in ((bytes([6, 0, 1, 0, 7]), 1), (bytes([0x41, 1]), 1), (bytes([3, 0, 1, 0, 7]), 2)):
        master = Drops()
        with pytest.raises(TransientError):
            await ModbusWire("plant", "here", master).raw(1, pdu)
        assert master.asked == times


async def test_over_tcp_the_header_says_how_long_it_is():
    gone = asyncio.Event()

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            while header := await reader.read(7):
                request = await reader.readexactly(int.from_bytes(header[4:6]) - 1)
                answer = IDENTITY if request[0] == 0x2B else bytes([request[0] | 0x80, 1])
                writer.write(header[:4] + (len(answer) + 1).to_bytes(2) + header[6:7] + answer)
        writer.close()
        gone.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        wire = ModbusWire("plant", "here", TcpMaster("127.0.0.1", port, 2.0, SystemClock()))
        assert await wire.raw(1, bytes.fromhex("2b0e0100")) == IDENTITY
        assert await wire.raw(1, bytes([0x11])) == bytes([0x91, 1])
        wire.close()
        await asyncio.wait_for(gone.wait(), 5)
        await asyncio.sleep(0)


# ── through the owner of the bus ──


class RawBus(FakeBus):
    def __init__(self):
        super().__init__()
        self.values = {("A", "t"): 1}
        self.raws = []

    async def raw(self, request):
        self.raws.append(request)
        await self._take_time()
        return bytes([request.pdu[0] | 0x80, 1])


async def owned(fake, clock):
    (entry,) = parse_buses([{"kind": "fake"}], Plugins({"fake": fake.plugin}))
    bus = Bus(entry, FakeHouse("A"), clock, Counters())
    task = asyncio.create_task(bus.serve())
    await clock.advance(0)
    return bus, task


async def test_they_keep_their_turn_among_the_calls():
    clock, fake = FakeClock(), RawBus()
    fake.delay_s = 0.1
    bus, task = await owned(fake, clock)
    done = []
    for number, command in enumerate(
        (Write(device="A", key="t", value=2), RawRequest(unit="9", pdu=b"\x03"), Query(device="A", key="t"))
    ):
        bus.submit(command).add_done_callback(lambda future, number=number: done.append((number, future.result())))
    await clock.advance(1.0)
    assert done == [(0, 2), (1, b"\x83\x01"), (2, 2)]
    assert fake.raws == [RawRequest(unit="9", pdu=b"\x03")]
    task.cancel()
    await asyncio.wait([task])


async def test_one_that_comes_too_late_is_answered_and_not_executed():
    clock, fake = FakeClock(), RawBus()
    fake.delay_s = 1.0
    bus, task = await owned(fake, clock)
    bus.submit(Query(device="A", key="t"))
    await clock.advance(0)
    late = bus.submit(RawRequest(unit="9", pdu=b"\x03"), clock.now_ms() + 500)
    await clock.advance(2.0)
    with pytest.raises(RejectedError, match="deadline"):
        late.result()
    assert fake.raws == []
    task.cancel()
    await asyncio.wait([task])


async def test_a_driver_without_a_raw_line_says_so():
    clock = FakeClock()
    bus, task = await owned(FakeBus(), clock)
    with pytest.raises(RejectedError, match="kind fake takes no raw requests"):
        await bus.submit(RawRequest(unit="9", pdu=b"\x03"))
    task.cancel()
    await asyncio.wait([task])
