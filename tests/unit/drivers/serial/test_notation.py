import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.serial.checksums import sum8
from drivers.serial.config import Command
from drivers.serial.fields import by_regex, by_struct
from drivers.serial.messages import text_of, value_to_send
from drivers.serial.notation import shown, to_bytes, to_template
from gateway.errors import RejectedError


@pytest.mark.parametrize(
    ("text", "value", "sent"),
    [
        ("SET {value}\r\n", 5, b"SET 5\r\n"),
        ("SET {value:06.2f}\r\n", 5.125, b"SET 005.12\r\n"),
        ("SET {value}", True, b"SET 1"),
        ("{{{value}}}", "x", b"{x}"),
        ("hex: 01 {value:<H} FF", 258, b"\x01\x02\x01\xff"),
        ("hex: 01 {value:>f}", 1.0, b"\x01\x3f\x80\x00\x00"),
        ("hex: AA {value:B}{checksum} AB", 5, b"\xaa\x05\xaf\xab"),
    ],
)
def test_what_is_sent(text, value, sent):
    assert to_template(text).render(value, lambda before: bytes([sum8(before)])) == sent


@pytest.mark.parametrize("value", ["1\r\nRESET", "\x1b", "a\x00"])
def test_a_value_cannot_smuggle_in_another_line(value):
    with pytest.raises(RejectedError, match="control characters"):
        to_template("SET {value}\r\n").render(value)


@pytest.mark.parametrize(("text", "value"), [("hex: {value:B}", 256), ("hex: {value:B}", "x"), ("{value:d}", 1.5)])
def test_a_value_that_does_not_fit_is_refused(text, value):
    with pytest.raises(RejectedError, match="cannot be written as"):
        to_template(text).render(value)


def test_a_character_that_the_line_does_not_have_is_refused():
    with pytest.raises(RejectedError, match="cannot be written as 'ascii'"):
        to_template("T{value}", "ascii").render("Ä")


@given(st.binary(max_size=20))
def test_hex_is_read_as_it_is_shown(data):
    assert to_bytes(f"hex: {data.hex(' ')}") == data


def test_a_person_sees_hex_and_text():
    assert shown(b"\xaaST\r\n") == "AA 53 54 0D 0A '.ST..'"
    assert shown(bytes(40), 2) == "00 00 … (40 bytes) '..'"
    assert shown(b"") == "nothing"


@pytest.mark.parametrize(
    ("command", "given_", "sent"),
    [
        ({"values": {"on": 1, "off": 0}}, "on", 1),
        ({"values": {"on": 1, "off": 0}}, True, 1),
        ({"values": {"1": "A"}}, 1, "A"),
        ({"min": 0, "max": 30}, 30, 30),
        ({}, "text", "text"),
    ],
)
def test_values_of_commands(command, given_, sent):
    assert value_to_send(Command(key="k", send="{value}", **command), True, given_) == sent


@pytest.mark.parametrize(
    ("command", "given_", "problem"),
    [
        ({"values": {"on": 1}}, "up", "takes one of on, not 'up'"),
        ({"min": 0, "max": 30}, 31, "takes 0..30, not 31"),
        ({"min": 0}, -1, "takes at least 0, not -1"),
        ({"max": 0}, 1, "takes at most 0, not 1"),
        ({"max": 0}, "1", "takes a number, not '1'"),
        ({}, {"a": 1}, "takes one number, text or truth"),
        ({}, None, "takes one number, text or truth"),
    ],
)
def test_values_that_a_command_refuses(command, given_, problem):
    with pytest.raises(RejectedError, match=problem):
        value_to_send(Command(key="k", send="{value}", **command), True, given_)


def test_a_command_without_a_value_takes_none():
    command = Command(key="zero", send="Z")
    assert [value_to_send(command, False, nothing) for nothing in (None, {}, True)] == [None] * 3
    with pytest.raises(RejectedError, match="takes no value"):
        value_to_send(command, False, 5)


def test_an_answer_is_text_or_digits():
    assert text_of(b"OK\r", "utf-8") == "OK"
    assert text_of(b"\x01\xff", "utf-8") == "01 FF"


def test_a_frame_of_another_kind_has_no_content():
    assert by_regex("x(?P<a>.)", "utf-8")(b"yz") is None
    assert by_struct("<H")(b"1") is None
