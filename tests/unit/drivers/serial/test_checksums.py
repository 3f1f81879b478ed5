"""Check values of the catalogue of parametrised CRC algorithms: each over the nine characters 123456789."""

import zlib
from functools import partial

import pytest

from drivers.serial.checksums import CRCS, SIMPLE, Crc, crc
from drivers.serial.config import Checksum, Frame
from drivers.serial.proof import Proof

CHECKS = {
    "crc8/smbus": 0xF4,
    "crc8/i-432-1": 0xA1,
    "crc8/maxim": 0xA1,
    "crc8/nrsc-5": 0xF7,
    "crc8/rohc": 0xD0,
    "crc16/arc": 0xBB3D,
    "crc16/modbus": 0x4B37,
    "crc16/usb": 0xB4C8,
    "crc16/maxim": 0x44C2,
    "crc16/xmodem": 0x31C3,
    "crc16/ccitt-false": 0x29B1,
    "crc16/kermit": 0x2189,
    "crc16/x-25": 0x906E,
    "crc16/dnp": 0xEA82,
    "crc32": 0xCBF43926,
    "crc32/bzip2": 0xFC891918,
    "crc32/mpeg-2": 0x0376E6E7,
    "crc32/iscsi": 0xE3069283,
}
TEXT = b"123456789"


@pytest.mark.parametrize("name", CRCS)
def test_published_check_value(name):
    assert crc(TEXT, CRCS[name]) == CHECKS[name]


def test_the_common_crc32_is_that_of_an_independent_library():
    data = bytes(range(256)) * 3
    assert crc(data, CRCS["crc32"]) == zlib.crc32(data)


def test_input_and_output_may_be_mirrored_differently():
    # CRC-12/UMTS is the published one of this kind; in eight bits: the mirror image of what is not mirrored.
    assert crc(TEXT, Crc(8, 0x07, refout=True)) == int(f"{CHECKS['crc8/smbus']:08b}"[::-1], 2)


@pytest.mark.parametrize(("name", "value"), [("sum8", 0xDD), ("sum16", 0x01DD), ("xor", 0x31), ("lrc", 0x23)])
def test_simple_ones(name, value):
    assert SIMPLE[name][1](TEXT) == value


def test_lrc_of_a_modbus_ascii_frame():
    # Modbus over serial line V1.02, appendix: the bytes of a message and its LRC add up to zero.
    message = bytes.fromhex("F7 03 13 89 00 0A")
    assert SIMPLE["lrc"][1](message) == 0x60


@pytest.mark.parametrize("kind", [*CRCS, *SIMPLE])
@pytest.mark.parametrize("form", ["bytes", "hex"])
def test_what_is_sent_is_proved_when_it_comes_and_any_wrong_bit_is_found(kind, form):
    proof = Proof(Frame(end="\n"), Checksum(kind=kind, form=form))
    frame = TEXT + proof.sent(TEXT)
    assert proof.problem(frame + b"\n") is None
    assert proof.body(frame + b"\n") == TEXT
    for bit in range(8 * len(TEXT)):
        broken = bytearray(frame)
        broken[bit // 8] ^= 1 << bit % 8
        assert proof.problem(bytes(broken) + b"\n") is not None


def test_own_parameters():
    own = partial(Checksum, kind="crc16", poly=0x8005, init=0xFFFF, refin=True, refout=True)
    assert Proof(Frame(), own()).sent(TEXT) == b"\x4b\x37"
    assert Proof(Frame(), own(order="little")).sent(TEXT) == b"\x37\x4b"


def test_a_frame_too_short_for_its_checksum_has_none():
    proof = Proof(Frame(kind="fixed", size=3), Checksum(kind="crc32"))
    assert proof.problem(b"abc") == "no checksum in it"
