"""Frames out of a stream: whatever noise lies between them and however it is cut into pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.serial.checksums import sum8
from drivers.serial.frames import Framer, FrameRule

MAX = 64
RULES = {
    "delimiter": FrameRule(kind="delimiter", start=b"$", end=b"\r\n", max_bytes=MAX),
    "fixed": FrameRule(kind="fixed", start=b"\xaa", end=b"\xab", size=6, max_bytes=MAX, pause_s=1),
    "length": FrameRule(kind="length", start=b"\x55\x01", length_at=2, length_adds=4, max_bytes=MAX, pause_s=1),
}


def frame(kind, body):
    if kind == "delimiter":
        text = body.hex().encode()
        return b"$" + text + b"%02X" % sum8(text) + b"\r\n"
    if kind == "fixed":
        body = (body + b"\0\0\0")[:3]
        return b"\xaa" + body + bytes([sum8(body)]) + b"\xab"
    return b"\x55\x01" + bytes([len(body)]) + body + bytes([sum8(body)])


def check(kind):
    def problem(data):
        if kind == "delimiter":
            return None if data[-4:-2] == b"%02X" % sum8(data[1:-4]) else "sum"
        if kind == "fixed":
            return None if data[-2] == sum8(data[1:-2]) else "sum"
        return None if data[-1] == sum8(data[3:-1]) else "sum"

    return problem


def framer(kind):
    return Framer(RULES[kind], check(kind))


@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_true_frames_are_found_in_any_pieces(kind, data):
    bodies = data.draw(st.lists(st.binary(max_size=12), min_size=1, max_size=8))
    stream = b"".join(frame(kind, body) for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, found = framer(kind), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[begin:end], 0.0)
    assert found == [frame(kind, body) for body in bodies]
    assert (reader.seen.bad_frames, reader.seen.skipped_bytes) == (0, 0)


@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=300), body=st.binary(max_size=12))
def test_a_frame_behind_noise_and_a_pause_is_found_and_nothing_grows(kind, noise, body):
    reader = framer(kind)
    for byte in noise:
        reader.feed(bytes([byte]), 0.0)
        assert len(reader._buffer) <= MAX
    reader.idle(2.0)
    if kind == "delimiter":
        reader.feed(b"\r\n", 2.0)
    assert reader.feed(frame(kind, body), 3.0) == [frame(kind, body)]


@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=40), body=st.binary(min_size=3, max_size=12))
def test_no_byte_is_unaccounted_for(kind, noise, body):
    reader = framer(kind)
    stream = noise + frame(kind, body)
    found = reader.feed(stream, 0.0)
    found += reader.idle(2.0)
    assert sum(map(len, found)) + reader.seen.skipped_bytes + len(reader._buffer) == len(stream)


def test_noise_right_before_a_frame_costs_nothing_where_a_start_mark_tells():
    reader = framer("fixed")
    good = frame("fixed", b"abc")
    assert reader.feed(b"\xaa\xaa\xab" + good + b"\x00" + good, 0.0) == [good, good]


def test_a_false_length_gives_back_the_frames_that_it_swallowed():
    reader = framer("length")
    good = frame("length", b"abc")
    assert reader.feed(b"\x55\x01\x30" + good + good, 0.0) == []
    assert reader.wait_s(0.4) == pytest.approx(0.6)
    assert reader.idle(0.9) == ()
    assert reader.idle(1.0) == [good, good]
    assert reader.wait_s(1.0) is None


def test_a_cut_off_line_ends_where_the_next_begins():
    reader = framer("delimiter")
    good = frame("delimiter", b"abc")
    assert reader.feed(good[:6] + good, 0.0) == [good]
    assert reader.seen.skipped_bytes == 6


def test_bytes_that_were_only_late_with_us_do_not_tear_a_frame():
    reader = framer("fixed")
    good = frame("fixed", b"abc")
    reader.feed(good[:3], 0.0)
    assert reader.feed(good[3:], 100.0) == [good]


def test_the_last_bad_frame_is_kept_for_a_person():
    reader = framer("fixed")
    reader.feed(b"\xaaabc\x00\xab", 0.0)
    assert (reader.seen.bad_frames, reader.seen.last_bad, reader.seen.last_reason) == (1, b"\xaaabc\x00\xab", "sum")
