"""Whatever is asked, in whatever pieces and with whatever noise it comes: the same frames, or none."""

from hypothesis import given
from hypothesis import strategies as st

from drivers.modbus.protocol import tcp
from drivers.modbus.protocol.ascii import AsciiFramer
from drivers.modbus.protocol.framing import Expected
from drivers.modbus.protocol.pdu import Function, Request, answer, bits, parse, question, words
from drivers.modbus.protocol.rtu import RtuFramer

WORD = st.integers(0, 0xFFFF)
F = Function


@st.composite
def requests(draw):
    function = draw(st.sampled_from(list(F)))
    address = draw(st.integers(0, 60_000))
    if function <= 4:
        return Request(function, address, draw(st.integers(1, 2000 if function <= 2 else 125)))
    if function is F.READ_WRITE_REGISTERS:
        written = tuple(draw(st.lists(WORD, min_size=1, max_size=121)))
        return Request(function, address, draw(st.integers(1, 125)), written, draw(st.integers(0, 60_000)))
    if function is F.MASK_REGISTER:
        return Request(function, address, values=(draw(WORD), draw(WORD)))
    if function in (F.WRITE_COIL, F.WRITE_COILS):
        most = 1 if function is F.WRITE_COIL else 1968
        return Request(function, address, values=tuple(draw(st.lists(st.integers(0, 1), min_size=1, max_size=most))))
    most = 1 if function is F.WRITE_REGISTER else 123
    return Request(function, address, values=tuple(draw(st.lists(WORD, min_size=1, max_size=most))))


@st.composite
def exchanges(draw):
    """A unit, a request, and the PDU that answers it."""
    request = draw(requests())
    most = 1 if request.function <= 2 else 0xFFFF
    content = [draw(st.integers(0, most))] * request.count
    return draw(st.integers(1, 247)), request, answer(request, content), content


@st.composite
def pieces(draw, data):
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(exchanges())
def test_what_was_asked_and_answered_comes_back(exchange):
    _, request, pdu, content = exchange
    asked = question(request)
    assert parse(asked.pdu) == request
    assert asked.is_answered_by(pdu)
    assert len(asked.pdu) <= 253
    assert not asked.is_answered_by(pdu + b"\0")
    assert not asked.is_answered_by(pdu[:-1])
    if request.function <= 2:
        assert bits(pdu, request.count) == [bool(bit) for bit in content]
    elif request.count:
        assert list(words(pdu)) == content


@given(st.lists(exchanges(), min_size=1, max_size=4), st.data())
def test_frames_arrive_whole_in_whatever_pieces(several, data):
    wanted = [(unit, pdu) for unit, _, pdu, _ in several]
    for framer in (RtuFramer(), AsciiFramer()):
        stream = b"".join(framer.encode(unit, pdu) for unit, pdu in wanted)
        found = [frame for piece in data.draw(pieces(stream)) for frame in framer.feed(piece)]
        assert found == wanted
        assert framer.skipped_bytes == 0
    framer = tcp.TcpFramer()
    stream = b"".join(tcp.encode(number, unit, pdu) for number, (unit, pdu) in enumerate(wanted))
    found = [frame for piece in data.draw(pieces(stream)) for frame in framer.feed(piece)]
    assert found == [(number, unit, pdu) for number, (unit, pdu) in enumerate(wanted)]


@given(exchanges(), st.binary(max_size=300), st.binary(max_size=40))
def test_the_answer_is_found_in_noise_byte_by_byte(exchange, before, behind):
    unit, request, pdu, _ = exchange
    expected = Expected(unit, question(request))
    for framer in (RtuFramer(), AsciiFramer()):
        frame = framer.encode(unit, pdu)
        noise = before if isinstance(framer, RtuFramer) else before.replace(b":", b"") + b"\n"
        if frame[:2] in noise + frame[:1]:
            continue  # noise that is this very answer's beginning is another matter
        found = []
        for byte in noise + frame + behind:
            found += framer.feed(bytes([byte]), expected)
        assert (unit, pdu) in found


@given(exchanges(), st.data())
def test_one_wrong_bit_is_never_an_answer(exchange, data):
    unit, request, pdu, _ = exchange
    expected = Expected(unit, question(request))
    framer = RtuFramer()
    broken = bytearray(framer.encode(unit, pdu))
    place = data.draw(st.integers(0, 8 * len(broken) - 1))
    broken[place >> 3] ^= 1 << (place & 7)
    assert not any(expected.is_met_by(*frame) for frame in framer.feed(bytes(broken), expected))


@given(st.lists(st.binary(max_size=600), max_size=20))
def test_noise_alone_stays_bounded(noise):
    for framer in (RtuFramer(), AsciiFramer()):
        for piece in noise:
            framer.feed(piece)
            assert len(framer._buffer) <= 1200
