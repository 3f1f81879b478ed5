"""MQTT packets as bytes, for 3.1 (3), 3.1.1 (4) and 5.0 (5): what a server sends, and what a client sends.

The client's side serves the local broker, to which the front is a client, and the tests.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.broker.packets import Connect, Publish

PINGREQ: Final = b"\xc0\x00"
PINGRESP: Final = b"\xd0\x00"

_short_ack = struct.Struct(">HH").pack
_FIRST: Final = {4: 0x40, 5: 0x50, 6: 0x62, 7: 0x70}


def connack(version: int, code: int, *, is_session_present: bool = False, properties: bytes = b"") -> bytes:
    """`properties`: of 5.0, see `limits`."""
    body = bytes((is_session_present, code))
    if version == 5:
        body += _length(len(properties)) + properties
    return _packet(0x20, body)


def limits(
    *,
    receive_maximum: int,
    max_packet_bytes: int,
    has_local: bool,
    session_expiry_s: int | None,
    assigned_id: str,
) -> bytes:
    """What a CONNACK of 5.0 says of this server; what is not said has its default: QoS 2, no topic aliases.

    Without local topics there are no retained messages, subscription identifiers, wildcards and shared
    subscriptions. `session_expiry_s`: another one than asked for, else None.
    """
    said = b"\x21" + receive_maximum.to_bytes(2, "big") + b"\x27" + max_packet_bytes.to_bytes(4, "big")
    if session_expiry_s is not None:
        said += b"\x11" + session_expiry_s.to_bytes(4, "big")
    if assigned_id:
        said += b"\x12" + _text(assigned_id)
    return said if has_local else said + b"\x25\0\x29\0\x2a\0"


def publish_properties(passed: bytes, left_s: int | None, identifiers: Sequence[int]) -> bytes:
    """Of a PUBLISH of 5.0, without their length; `left_s`: how long the message may still live."""
    said = passed if left_s is None else b"\x02" + left_s.to_bytes(4, "big") + passed
    return said + b"".join(b"\x0b" + _length(number) for number in identifiers)


def publish(
    version: int,
    topic: str,
    payload: bytes,
    qos: int = 0,
    packet_id: int = 0,
    *,
    is_retained: bool = False,
    is_dup: bool = False,
    properties: bytes = b"",
) -> bytes:
    """`packet_id` counts only with QoS 1 and 2, `properties` (without their length) only in 5.0."""
    name = topic.encode()
    head = len(name).to_bytes(2, "big") + name
    if qos:
        head += packet_id.to_bytes(2, "big")
    if version == 5:
        head += _length(len(properties)) + properties if properties else b"\0"
    return _packet(0x30 | is_dup << 3 | qos << 1 | is_retained, head + payload)


def publish_head(version: int, topic: str, payload_bytes: int, qos: int = 0, packet_id: int = 0) -> bytes:
    """A PUBLISH without its payload, which follows."""
    body = len(topic.encode()).to_bytes(2, "big") + topic.encode()
    if qos:
        body += packet_id.to_bytes(2, "big")
    if version == 5:
        body += b"\0"
    return _start(0x30 | qos << 1, len(body) + payload_bytes) + body


def ack(kind: int, packet_id: int, version: int = 4, reason: int = 0) -> bytes:
    """PUBACK (4), PUBREC (5), PUBREL (6), PUBCOMP (7); 3.x has no place for a reason."""
    if reason and version == 5:
        return bytes((_FIRST[kind], 3, packet_id >> 8, packet_id & 255, reason))
    return _short_ack(_FIRST[kind] << 8 | 2, packet_id)


def suback(version: int, packet_id: int, codes: Iterable[int]) -> bytes:
    """One code for each filter, in their order."""
    return _packet(0x90, packet_id.to_bytes(2, "big") + (b"\0" if version == 5 else b"") + bytes(codes))


def unsuback(version: int, packet_id: int, codes: Iterable[int]) -> bytes:
    """Codes travel in 5.0 only."""
    return _packet(0xB0, packet_id.to_bytes(2, "big") + (b"\0" + bytes(codes) if version == 5 else b""))


def disconnect(version: int, reason: int = 0) -> bytes:
    """Before 5.0 only a client may send one, and it says nothing."""
    return b"\xe0\x01" + bytes((reason,)) if version == 5 and reason else b"\xe0\x00"


def connect(packet: Connect) -> bytes:
    """A client's first packet."""
    will = packet.will
    flags = packet.is_clean << 1
    fields = _text(packet.client_id)
    if will is not None:
        flags |= 4 | will.qos << 3 | will.is_retained << 5
        fields += _will_properties(will, packet.will_delay_s) if packet.version == 5 else b""
        fields += _text(will.topic) + _binary(will.payload)
    if packet.user_name is not None:
        flags |= 0x80
        fields += _text(packet.user_name)
    if packet.password is not None:
        flags |= 0x40
        fields += _binary(packet.password)
    head = _text("MQIsdp" if packet.version == 3 else "MQTT") + bytes((packet.version, flags))
    head += packet.keepalive_s.to_bytes(2, "big")
    if packet.version == 5:
        properties = b""
        if packet.receive_maximum != 65_535:
            properties += b"\x21" + packet.receive_maximum.to_bytes(2, "big")
        if packet.session_expiry_s:
            properties += b"\x11" + packet.session_expiry_s.to_bytes(4, "big")
        if packet.max_packet_bytes is not None:
            properties += b"\x27" + packet.max_packet_bytes.to_bytes(4, "big")
        head += bytes((len(properties),)) + properties
    return _packet(0x10, head + fields)


def subscribe(version: int, packet_id: int, filters: Sequence[tuple[str, int]], identifier: int = 0) -> bytes:
    """Filters with their QoS (in 5.0: with their options, and an identifier for all of them; 0: none)."""
    properties = b"\x0b" + _length(identifier) if identifier else b""
    body = packet_id.to_bytes(2, "big") + (_length(len(properties)) + properties if version == 5 else b"")
    return _packet(0x82, body + b"".join(_text(name) + bytes((qos,)) for name, qos in filters))


def unsubscribe(version: int, packet_id: int, filters: Sequence[str]) -> bytes:
    """Filters."""
    body = packet_id.to_bytes(2, "big") + (b"\0" if version == 5 else b"")
    return _packet(0xA2, body + b"".join(_text(name) for name in filters))


def _packet(first: int, body: bytes) -> bytes:
    return _start(first, len(body)) + body


def _start(first: int, length: int) -> bytes:
    if length < 128:
        return bytes((first, length))
    return bytes((first,)) + _length(length)


def _length(number: int) -> bytes:
    """A variable byte integer."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _will_properties(will: Publish, delay_s: int) -> bytes:
    said = b"\x18" + delay_s.to_bytes(4, "big") if delay_s else b""
    if will.more is not None:
        said += publish_properties(will.more.passed, will.more.expiry_s, ())
    return _length(len(said)) + said


def _text(text: str) -> bytes:
    return _binary(text.encode())


def _binary(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw
