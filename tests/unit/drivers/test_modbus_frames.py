"""Golden transcripts, and what each framer does with bytes that are no frame."""

from pathlib import Path

import pytest

from drivers.modbus.protocol import tcp
from drivers.modbus.protocol.ascii import AsciiFramer, lrc
from drivers.modbus.protocol.framing import Expected, FrameError
from drivers.modbus.protocol.late import Owed
from drivers.modbus.protocol.pdu import Function, Request, answer, bits, parse, question, reading, words
from drivers.modbus.protocol.rtu import RtuFramer, crc
from gateway.errors import RejectedError

VECTORS = Path(__file__).parents[2] / "vectors" / "modbus_frames.txt"


def transcripts():
    title = None
    found, kind = [], None
    for line in VECTORS.read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# Source"):
            title = line[2:]
        elif line[:3] in ("pdu", "rtu", "asc", "tcp"):
            kind = line.split()[0]
        elif line.startswith(">> "):
            asked = line[3:]
        elif line.startswith("<< "):
            found.append(pytest.param(kind, asked, line[3:], id=title))
    return found


def expected_of(pdu, unit):
    return Expected(unit, question(parse(pdu)))


@pytest.mark.parametrize(("kind", "asked", "answered"), transcripts())
def test_transcript(kind, asked, answered):
    if kind == "ascii":
        asked, answered = (text.encode() + b"\r\n" for text in (asked, answered))
    else:
        asked, answered = bytes.fromhex(asked), bytes.fromhex(answered)
    if kind == "pdu":
        sent, got = asked, answered
    elif kind == "tcp":
        ((_, unit, sent),) = tcp.TcpFramer().feed(asked)
        assert tcp.encode(0x1501, unit, sent) == asked
        assert tcp.TcpFramer().feed(answered) == [(0x1501, 0x11, got := answered[7:])]
    elif kind == "rtu":
        sent = asked[1:-2]
        assert RtuFramer().encode(0x11, sent) == asked
        ((unit, got),) = RtuFramer().feed(answered)
        assert unit == 0x11
    else:
        ((_, sent),) = AsciiFramer().feed(asked)
        assert AsciiFramer().encode(0x11, sent) == asked
        ((_, got),) = AsciiFramer().feed(answered)
    request = parse(sent)
    built = question(request)
    assert built.pdu == sent
    assert built.is_answered_by(got) or built.refusal(got) == 2
    if built.refusal(got) is None and request.function <= 4:
        content = bits(got, request.count) if request.function <= 2 else words(got)
        assert answer(request, content) == got


def test_published_check_values():
    assert crc(b"123456789") == 0x4B37  # CRC-16/MODBUS in Ross Williams' and Greg Cook's catalogues
    assert lrc(bytes.fromhex("1103006B0003")) == 0x7E


HOLDING = reading(Function.READ_HOLDING_REGISTERS, 0, 2)
EXPECTED = Expected(1, HOLDING)
GOOD = bytes.fromhex("0304 0001 0002")


def test_noise_that_looks_like_the_beginning_of_a_long_frame_does_not_hide_the_answer():
    framer = RtuFramer()
    assert framer.feed(bytes([9, 3, 250, 1, 2]), EXPECTED) == []
    assert framer.feed(framer.encode(1, GOOD), EXPECTED) == [(1, GOOD)]
    assert framer.skipped_bytes == 5


def test_a_damaged_frame_is_no_frame_and_the_next_one_is_found():
    framer = RtuFramer()
    broken = bytearray(framer.encode(1, GOOD))
    broken[5] ^= 4
    assert framer.feed(bytes(broken) + framer.encode(1, GOOD), EXPECTED) == [(1, GOOD)]


def test_another_units_answer_is_told_apart():
    framer = RtuFramer()
    assert framer.feed(framer.encode(2, GOOD) + framer.encode(1, GOOD), EXPECTED) == [(2, GOOD), (1, GOOD)]
    assert not EXPECTED.is_met_by(2, GOOD)
    assert not EXPECTED.is_met_by(1, bytes.fromhex("0302 0001"))
    assert EXPECTED.is_met_by(1, bytes.fromhex("8302"))


def test_ascii_starts_anew_at_each_colon_and_stays_small():
    framer = AsciiFramer()
    good = framer.encode(1, GOOD)
    assert framer.feed(b"xx:0103" + good) == [(1, GOOD)]
    assert framer.feed(good.replace(b"1", b"2", 1) + good.replace(b"\r", b" ") + b"\r\n") == []
    for _ in range(100):
        assert framer.feed(b":" + b"7" * 400) == []
    assert framer.feed(b"\r\n" + good) == [(1, GOOD)]


@pytest.mark.parametrize("data", ["0001 0001 0006 01 03", "0001 0000 0001 01 03", "0001 0000 00FF 01 03"])
def test_a_stream_that_is_not_modbus_says_so(data):
    with pytest.raises(FrameError, match="no Modbus TCP header: 00 01"):
        tcp.TcpFramer().feed(bytes.fromhex(data))


@pytest.mark.parametrize(
    "request_",
    [
        Request(Function.READ_COILS, 0, 2001),
        Request(Function.READ_HOLDING_REGISTERS, 0, 126),
        Request(Function.READ_HOLDING_REGISTERS, 65535, 2),
        Request(Function.WRITE_REGISTERS, 0, values=(1,) * 124),
        Request(Function.WRITE_REGISTERS, 0),
        Request(Function.WRITE_REGISTER, 0, values=(65536,)),
        Request(Function.WRITE_COILS, 0, values=(2,)),
        Request(Function.MASK_REGISTER, 0, values=(1,)),
        Request(Function.READ_WRITE_REGISTERS, 0, 1, (1, 2), 65535),
    ],
)
def test_what_cannot_be_sent_is_refused_with_what_can(request_):
    with pytest.raises(RejectedError, match=r"\d"):
        question(request_)


@pytest.mark.parametrize(
    "pdu", ["", "03", "03 00 00 00", "05 00 00 12 34", "10 00 00 00 02 03 00 01 00", "2B 0E 01 00"]
)
def test_what_is_no_request_is_refused(pdu):
    with pytest.raises(RejectedError, match="not a Modbus request"):
        parse(bytes.fromhex(pdu))


def test_who_owes_an_answer_is_not_asked_the_same_again():
    owed = Owed(2.0)
    owed.missed(1, 3, 10.0)
    assert owed.wait_s(1, 3, 10.5) == 1.5
    assert owed.wait_s(1, 4, 10.5) == owed.wait_s(2, 3, 10.5) == 0
    assert owed.is_any(10.5)
    assert owed.wait_s(1, 3, 12.0) == 0
    owed.missed(1, 3, 11.0)
    assert not owed.is_any(13.0)
