"""Which checksum a frame would have, when it is not the one that was said."""

import pytest

from drivers.serial.checksums import CRCS, crc, lrc
from drivers.serial.config import Checksum, Frame
from drivers.serial.proof import Proof

BODY = b"ST,GS,+00012.3kg"
FRAME = Frame(end="\r\n")


def proof(**checksum):
    return Proof(FRAME, Checksum(**checksum))


@pytest.mark.parametrize(
    ("checksum", "ends", "others"),
    [
        (
            {"kind": "crc16/modbus"},
            crc(BODY, CRCS["crc16/modbus"]).to_bytes(2, "little"),
            ["{kind: crc16/modbus, order: little}"],
        ),
        (
            {"kind": "crc16/modbus"},
            crc(BODY, CRCS["crc16/xmodem"]).to_bytes(2, "big"),
            ["{kind: crc16/xmodem, order: big}"],
        ),
        (
            {"kind": "crc16", "poly": 0x8005},
            crc(BODY, CRCS["crc16/usb"]).to_bytes(2, "big"),
            ["{kind: crc16/usb, order: big}"],
        ),
        ({"kind": "xor", "form": "hex"}, f"{lrc(BODY):02X}".encode(), ["{kind: lrc}"]),
        ({"kind": "crc16/modbus"}, b"\0\0", []),
    ],
)
def test_the_one_that_fits_is_named(checksum, ends, others):
    assert proof(**checksum).others(BODY + ends + b"\r\n") == others


def test_a_good_frame_needs_no_other():
    good = BODY + f"{lrc(BODY):02X}".encode() + b"\r\n"
    assert proof(kind="lrc", form="hex").others(good) == []
    assert Proof(FRAME, None).others(good) == []
