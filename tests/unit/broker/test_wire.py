"""The codec against hand-made bytes, and against what is broken."""

import re
from pathlib import Path

import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, PUBREL, Connect, PacketTooLarge, ProtocolError, Publish
from gateway.broker.wire import Decoder

VECTORS = Path(__file__).parents[2] / "vectors" / "mqtt" / "packets.txt"


def vectors():
    for block in VECTORS.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if lines:
            level, raw, shown = lines
            yield pytest.param(int(level.split()[1]), bytes.fromhex(raw), shown, id=shown[:40])


def decode(raw: bytes, version: int = 4, limit: int = 65_536):
    decoder = Decoder(limit, version)
    decoder.receive(raw)
    return decoder.next_packet()


@pytest.mark.parametrize(("version", "raw", "shown"), list(vectors()))
def test_golden_bytes(version, raw, shown):
    packet = decode(raw, version)
    name, _, fields = shown.partition(" ")
    assert type(packet).__name__ == name
    shown_fields = [k for k in packet.__dataclass_fields__ if re.search(rf"(^| ){k}=", fields)]
    rebuilt = " ".join(f"{k}={getattr(packet, k)!r}" for k in shown_fields)
    assert rebuilt == fields


@pytest.mark.parametrize(("version", "raw", "shown"), list(vectors()))
def test_byte_by_byte_gives_the_same_packet(version, raw, shown):
    decoder = Decoder(65_536, version)
    for byte in raw[:-1]:
        decoder.receive(bytes((byte,)))
        assert decoder.next_packet() is None
    decoder.receive(raw[-1:])
    assert decoder.next_packet() == decode(raw, version)


def test_the_decoder_takes_its_level_from_connect():
    decoder = Decoder(65_536)
    decoder.receive(encode.connect(Connect(version=5)) + encode.publish(5, "t", b"p", 1, 9))
    assert decoder.next_packet() == Connect(version=5)
    assert decoder.next_packet() == Publish("t", b"p", 1, 9)


def test_server_packets_by_hand():
    # OASIS MQTT 3.1.1 and 5.0, §3.2, §3.4, §3.6, §3.9, §3.11, §3.14
    assert encode.connack(4, 5) == bytes.fromhex("20 02 00 05")
    assert encode.connack(5, 0, is_session_present=True) == bytes.fromhex("20 03 01 00 00")
    assert encode.ack(PUBACK, 258) == bytes.fromhex("40 02 01 02")
    assert encode.ack(PUBREL, 1) == bytes.fromhex("62 02 00 01")
    assert encode.ack(PUBACK, 258, 5, 0x99) == bytes.fromhex("40 03 01 02 99")
    assert encode.ack(PUBACK, 258, 4, 0x99) == bytes.fromhex("40 02 01 02")
    assert encode.suback(5, 10, [0, 0x8F]) == bytes.fromhex("90 05 00 0A 00 00 8F")
    assert encode.unsuback(4, 10, [0]) == bytes.fromhex("B0 02 00 0A")
    assert encode.unsuback(5, 10, [0x11]) == bytes.fromhex("B0 04 00 0A 00 11")
    assert encode.disconnect(5, 0x8E) == bytes.fromhex("E0 01 8E")


def test_lengths_at_their_borders():
    # OASIS MQTT 3.1.1 §2.2.3, table 2.4
    for length, head in ((127, "30 7F"), (128, "30 80 01"), (16_383, "30 FF 7F"), (16_384, "30 80 80 01")):
        raw = encode.publish(4, "t", bytes(length - 3))
        assert raw.startswith(bytes.fromhex(head))
        packet = decode(raw)
        assert isinstance(packet, Publish)
        assert len(packet.payload) == length - 3


def test_a_packet_over_the_limit_is_refused_by_its_length_alone():
    with pytest.raises(PacketTooLarge):
        decode(bytes.fromhex("30 81 80 04"), limit=65_536)


@pytest.mark.parametrize(
    ("raw", "version"),
    [
        ("30 FF FF FF FF 01", 4),  # five length bytes
        ("00 00", 4),  # reserved type
        ("10 05 00 04 4D 51 54", 4),  # CONNECT cut short
        ("36 06 00 01 74 00 01 78", 4),  # QoS 3
        ("32 06 00 01 74 00 00 78", 4),  # packet identifier 0
        ("30 03 00 09 74", 4),  # topic longer than the packet
        ("30 01 00", 4),
        ("32 04 00 01 74 00", 4),
        ("30 02 00 00", 4),  # empty topic
        ("30 04 00 02 74 23", 4),  # t#
        ("30 03 00 01 FF", 4),  # not UTF-8
        ("30 03 00 01 00", 4),  # null character
        ("80 06 00 0A 00 01 74 00", 4),  # SUBSCRIBE without its flag
        ("82 02 00 0A", 4),  # SUBSCRIBE without filters
        ("82 06 00 0A 00 01 74 03", 4),  # QoS 3
        ("30 03 00 01 74", 5),  # no property length
        ("30 05 00 01 74 05 01", 5),  # properties longer than the packet
        ("30 06 00 01 74 02 7E 00", 5),  # unknown property
        ("40 02 00 00", 4),  # packet identifier 0
        ("10 0C 00 04 4D 51 54 54 04 01 00 3C 00 00", 4),  # reserved flag
        ("10 0C 00 04 4D 51 54 54 04 40 00 3C 00 00", 4),  # password without user name
        ("10 0E 00 04 4D 51 54 54 04 02 00 3C 00 00 00 00", 4),  # bytes left over
    ],
)
def test_broken_packets_end_in_the_typed_error(raw, version):
    with pytest.raises(ProtocolError):
        decode(bytes.fromhex(raw), version)


def test_a_topic_alias_is_refused_as_none_was_announced():
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex("30 07 00 01 74 03 23 00 01"), 5)
    assert caught.value.reason_code == 0x94


def test_an_unserved_level_is_told_apart():
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex("10 0C 00 04 4D 51 54 54 06 02 00 3C 00 00"))
    assert caught.value.reason_code == 0x84


def test_secrets_are_not_shown():
    packet = Connect(version=4, user_name="token-of-a-device", password=b"s3cret")
    assert "token-of-a-device" not in repr(packet)
    assert "s3cret" not in repr(packet)
