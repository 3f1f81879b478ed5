"""What a port hears of a device with other settings, and what is made of it."""

import random

import pytest

from drivers.serial.guess import hint, other_end, seven_bits, stretched
from tests.fakes.uart import heard

TEXTS = [b"ST,GS,+00012.3kg\r\n", b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,,*47\r\n", bytes(range(256))]
NONE = (0, 0, 0)


@pytest.mark.parametrize("data", TEXTS, ids=["scale", "nmea", "binary"])
@pytest.mark.parametrize("idle", [0, 1, 7])
@pytest.mark.parametrize(
    ("sent", "read", "factor"),
    [
        (9600, 19200, 2),
        (4800, 9600, 2),
        (19200, 57600, 3),
        (9600, 38400, 4),
        (19200, 115200, 6),
        (9600, 115200, 6),
        (2400, 19200, 6),
    ],
)
def test_a_slower_device_is_known_by_its_long_bits(data, idle, sent, read, factor):
    assert stretched(heard(data, sent, read, idle=idle)[0]) == factor


@pytest.mark.parametrize("data", TEXTS, ids=["scale", "nmea", "binary"])
def test_the_right_settings_and_a_faster_device_give_no_such_hint(data):
    assert heard(data, 9600, 9600) == (data, 0)
    assert stretched(data) is None
    assert stretched(heard(data * 4, 19200, 9600)[0]) is None
    assert stretched(heard(data * 4, 115200, 9600)[0]) is None


def test_noise_gives_no_hint():
    rng = random.Random(1)
    assert all(stretched(rng.randbytes(12)) is None and seven_bits(rng.randbytes(12)) is None for _ in range(500))
    assert stretched(bytes(40)) is None, "a line that is held down"


@pytest.mark.parametrize("parity", ["even", "odd"])
def test_parity_in_the_top_bit(parity):
    data, errors = heard(TEXTS[0], 9600, 9600, bits=7, parity=parity)
    assert (seven_bits(data), errors) == (f"7{parity[0].upper()}1", 0)
    assert hint(data, "9600 8N1", 9600, NONE) == (
        f"the bytes are text with a parity bit on top: is the device set to 9600 7{parity[0].upper()}1?"
    )
    assert seven_bits(TEXTS[0]) is None


@pytest.mark.parametrize(
    ("data", "end", "found"),
    [
        (b"ST,GS,1kg\rST,GS", b"\r\n", "0D"),
        (b"ST,GS,1kg\n", b"\r\n", "0A"),
        (b"ST,GS,1kg\r\n", b"\r\n", None),
        (b"ST,GS,1kg", b"\n", None),
        (bytes(range(200, 256)) + b"\r", b"\n", None),
    ],
)
def test_another_end_mark(data, end, found):
    said = other_end(data, end)
    assert (said is None) == (found is None)
    assert said is None or f"never came, {found} did" in said


def test_the_words_of_a_hint():
    data, errors = heard(TEXTS[0], 9600, 38400)
    assert hint(data, "38400 8N1", 38400, (errors, 0, 0)) == (
        f"each bit comes 4 times over (the UART counts {errors} framing errors): is the device set to 9600 baud?"
    )
    assert hint(heard(TEXTS[0], 9600, 115200)[0], "115200 8N1", 115200, NONE).endswith("set to 19200 baud or less?")
    assert hint(b"\xfe\x80", "9600 8N1", 9600, (3, 2, 1)) == (
        "is 9600 8N1 what the device is set to? (the UART counts 3 framing errors, 1 parity errors, 2 lost in the UART);"
        " framing errors mean another baudrate, mostly"
    )
    assert hint(b"\0", "9600 8E1", 9600, (0, 0, 4)).endswith("; the parity is another one, mostly")
    assert hint(b"x", "9600 8N1", 9600, NONE) == "is 9600 8N1 what the device is set to?"
