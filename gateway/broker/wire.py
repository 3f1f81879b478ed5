"""MQTT 3.1, 3.1.1 and 5.0 without a socket: bytes in, packets out.

Whatever comes in, only `ProtocolError` comes out as an error. Memory is bounded by `max_packet_bytes`: a
length over it is refused as soon as it is read. Encoders are in `encode`.

Source: OASIS MQTT 3.1.1 §2–§3, OASIS MQTT 5.0 §2–§3; MQTT V3.1 Protocol Specification for level 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.broker.packets import (
    NO_LOCAL,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketTooLarge,
    Pingreq,
    Pingresp,
    Properties,
    ProtocolError,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

_PROTOCOL_ERROR: Final = 0x82
_TOPIC_ALIAS_INVALID: Final = 0x94
_TOPIC_ALIAS: Final = 0x23
_RECEIVE_MAXIMUM: Final = 0x21
_MAXIMUM_PACKET_SIZE: Final = 0x27
_SESSION_EXPIRY: Final = 0x11
_USER_PROPERTY: Final = 0x26
_SUBSCRIPTION_IDENTIFIER: Final = 0x0B
_PAYLOAD_FORMAT: Final = 0x01
_MESSAGE_EXPIRY: Final = 0x02
_RESPONSE_TOPIC: Final = 0x08
_WILL_DELAY: Final = 0x18
_PASSED: Final = frozenset((_PAYLOAD_FORMAT, 0x03, _RESPONSE_TOPIC, 0x09, _USER_PROPERTY))
_OF_PUBLISH: Final = _PASSED | {_MESSAGE_EXPIRY, _TOPIC_ALIAS, _SUBSCRIPTION_IDENTIFIER}
_OF_SUBSCRIBE: Final = frozenset((_SUBSCRIPTION_IDENTIFIER, _USER_PROPERTY))
_OF_WILL: Final = _PASSED | {_MESSAGE_EXPIRY, _WILL_DELAY}

# Widths of the 5.0 properties (§2.2.2.2): bytes of an integer, or one of the other encodings.
_VARINT, _TEXT, _BINARY, _PAIR = -1, -2, -3, -4
_PROPERTIES: Final[dict[int, int]] = (
    dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1)
    | dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2)
    | dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4)
    | dict.fromkeys((0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F), _TEXT)
    | dict.fromkeys((0x09, 0x16), _BINARY)
    | {_SUBSCRIPTION_IDENTIFIER: _VARINT, _USER_PROPERTY: _PAIR}
)

MAX_TOPIC_BYTES: Final = 1024
MAX_TOPIC_LEVELS: Final = 64
_MAX_TOPICS: Final = 4096
_topics: dict[bytes, str] = {}  # checked topics: the same few come again and again


class Decoder:
    """One connection's incoming bytes. The protocol level is taken from CONNECT, or set beforehand."""

    __slots__ = ("_data", "_max_bytes", "_pos", "_tail", "_wanted", "version")

    def __init__(self, max_packet_bytes: int, version: int = 4) -> None:
        self._max_bytes = max_packet_bytes
        self._data = b""
        self._pos = 0
        self._tail = bytearray()  # bytes that wait for `_wanted`, joined once
        self._wanted = 0
        self.version = version

    def receive(self, data: bytes) -> None:
        """More bytes from the peer."""
        rest = len(self._data) - self._pos
        if not rest and not self._tail:
            self._data, self._pos = data, 0
            return
        self._tail += data
        if rest + len(self._tail) >= self._wanted:
            self._join()

    @property
    def held_bytes(self) -> int:
        """What is here and not yet a packet that was given out."""
        return len(self._data) - self._pos + len(self._tail)

    def clear(self) -> None:
        """Forget what is here: nobody will ask for it."""
        self._data, self._pos, self._tail = b"", 0, bytearray()

    def next_packet(self) -> Packet | None:
        """The next complete packet, or None when more bytes are needed.

        Raises:
            ProtocolError: The connection is beyond repair.
        """
        data, pos = self._data, self._pos
        size = len(data)
        if size - pos < 2:
            return self._incomplete(2)
        first = data[pos]
        length = data[pos + 1]
        start = pos + 2
        if length & 0x80:
            length &= 0x7F
            shift = 7
            while True:
                if start >= size:
                    return self._incomplete(start - pos + 1)
                byte = data[start]
                start += 1
                length |= (byte & 0x7F) << shift
                if not byte & 0x80:
                    break
                shift += 7
                if shift > 21:
                    raise ProtocolError("the remaining length has more than four bytes")
        if length > self._max_bytes:
            raise PacketTooLarge(f"a packet of {length} bytes; the limit is {self._max_bytes}")
        end = start + length
        if end > size:
            return self._incomplete(end - pos)
        self._pos = end
        if first & 0xF0 != 0x30:
            return self._other(first, data[start:end])

        # PUBLISH, written out flat: this is the hot path.
        qos = first >> 1 & 3
        mark = start + 2
        if mark > end:
            raise ProtocolError("PUBLISH without a topic")
        mark += data[start] << 8 | data[start + 1]
        raw = data[start + 2 : mark]
        packet_id = 0
        if qos:
            if mark + 2 > end:
                raise ProtocolError("PUBLISH ends before its packet identifier")
            packet_id = data[mark] << 8 | data[mark + 1]
            mark += 2
            if not packet_id or qos == 3:
                raise ProtocolError("PUBLISH with packet identifier 0 or QoS 3")
        if mark > end:
            raise ProtocolError("PUBLISH ends inside its topic")
        if self.version == 5:
            if mark < end and not data[mark]:
                mark += 1
            else:
                reader = _Reader(data[mark:end])
                more = _publish_properties(reader)
                topic = _topics.get(raw) or _topic(raw)
                payload = data[mark + reader.pos : end]
                return Publish(topic, payload, qos, packet_id, first & 1 == 1, first & 8 == 8, more)
        topic = _topics.get(raw) or _topic(raw)
        return Publish(topic, data[mark:end], qos, packet_id, first & 1 == 1, first & 8 == 8)

    def _incomplete(self, wanted: int) -> Packet | None:
        self._wanted = wanted
        if self._tail and len(self._data) - self._pos + len(self._tail) >= wanted:
            self._join()
            return self.next_packet()
        return None

    def _join(self) -> None:
        self._data = self._data[self._pos :] + bytes(self._tail)
        self._pos = 0
        self._tail = bytearray()

    def _other(self, first: int, body: bytes) -> Packet:
        kind, flags = first >> 4, first & 15
        reader = _Reader(body)
        if kind == 1:
            if flags:
                raise ProtocolError("CONNECT with reserved flags")
            packet = _connect(reader)
            self.version = packet.version
            return packet
        decode = _DECODERS.get(kind)
        if decode is None:
            raise ProtocolError(f"packet type {kind} is reserved")
        # 3.1 lets these packets be repeated with the DUP flag; its other flags are "not used".
        if flags != (2 if kind in (6, 8, 10) else 0) and self.version != 3:
            raise ProtocolError(f"packet type {kind} with flags {flags:#x}")
        return decode(reader, self.version)


class _Reader:
    """Fields of one packet, in their order; running out of bytes is the peer's fault."""

    __slots__ = ("_data", "identifiers", "passed", "pos")

    def __init__(self, data: bytes) -> None:
        self._data, self.pos = data, 0
        self.passed = b""  # properties that are passed on, encoded
        self.identifiers: list[int] = []

    @property
    def is_at_end(self) -> bool:
        return self.pos >= len(self._data)

    def take(self, count: int) -> bytes:
        end = self.pos + count
        if end > len(self._data):
            raise ProtocolError("a packet ends inside a field")
        taken = self._data[self.pos : end]
        self.pos = end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def packet_id(self) -> int:
        packet_id = self.number(2)
        if not packet_id:
            raise ProtocolError("packet identifier 0")
        return packet_id

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        return _text(self.binary())

    def varint(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise ProtocolError("a variable byte integer has more than four bytes")

    def properties(self) -> dict[int, int]:
        """Integer properties by identifier; of the others, those that are passed on end in `passed`."""
        length = self.varint()
        end = self.pos + length
        if end > len(self._data):
            raise ProtocolError("properties are longer than their packet")
        found: dict[int, int] = {}
        while self.pos < end:
            identifier = self.varint()
            width = _PROPERTIES.get(identifier)
            if width is None:
                raise ProtocolError(f"unknown property {identifier:#x}")
            if identifier in found and identifier not in (_USER_PROPERTY, _SUBSCRIPTION_IDENTIFIER):
                raise ProtocolError(f"property {identifier:#x} twice", _PROTOCOL_ERROR)
            start = self.pos
            found[identifier] = value = self._property(width)
            if identifier == _SUBSCRIPTION_IDENTIFIER:
                self.identifiers.append(value)
            elif identifier in _PASSED:
                self.passed += bytes((identifier,)) + self._data[start : self.pos]
                if identifier == _PAYLOAD_FORMAT and value > 1:
                    raise ProtocolError("a payload format indicator that is neither 0 nor 1", _PROTOCOL_ERROR)
                if identifier == _RESPONSE_TOPIC and any(wild in b"+#" for wild in self._data[start + 2 : self.pos]):
                    raise ProtocolError("a response topic with a wildcard", _PROTOCOL_ERROR)
        if self.pos != end:
            raise ProtocolError("a property is longer than announced")
        return found

    def _property(self, width: int) -> int:
        if width > 0:
            return self.number(width)
        if width == _VARINT:
            return self.varint()
        if width == _BINARY:
            self.binary()
        else:
            self.text()
            if width == _PAIR:
                self.text()
        return 0


def _publish_properties(reader: _Reader) -> Properties:
    found = reader.properties()
    _expect(found, _OF_PUBLISH, "PUBLISH")
    if _TOPIC_ALIAS in found:
        raise ProtocolError("a topic alias, though none was announced", _TOPIC_ALIAS_INVALID)
    return Properties(reader.passed, found.get(_MESSAGE_EXPIRY), tuple(reader.identifiers))


def _expect(found: dict[int, int], allowed: frozenset[int], packet: str) -> None:
    if not found.keys() <= allowed:
        strange = min(found.keys() - allowed)
        raise ProtocolError(f"{packet} with property {strange:#x}, which it has no place for", _PROTOCOL_ERROR)


def _text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError("text that is not UTF-8") from None
    if "\0" in text:
        raise ProtocolError("text with a null character")
    return text


def _topic(raw: bytes) -> str:
    if len(raw) > MAX_TOPIC_BYTES:
        raise ProtocolError(f"a topic of {len(raw)} bytes; the limit is {MAX_TOPIC_BYTES}", 0x90)
    topic = _text(raw)
    if not topic:
        raise ProtocolError("PUBLISH with an empty topic", _PROTOCOL_ERROR)
    if "+" in topic or "#" in topic:
        raise ProtocolError("PUBLISH to a topic with a wildcard", 0x90)
    if topic.count("/") >= MAX_TOPIC_LEVELS:
        raise ProtocolError(f"a topic of more than {MAX_TOPIC_LEVELS} levels", 0x90)
    if len(_topics) >= _MAX_TOPICS:
        _topics.clear()
    _topics[raw] = topic
    return topic


def _connect(reader: _Reader) -> Connect:
    name, version = reader.binary(), reader.number(1)
    if (name, version) not in ((b"MQIsdp", 3), (b"MQTT", 4), (b"MQTT", 5)):
        if name in (b"MQTT", b"MQIsdp"):
            raise ProtocolError(f"protocol level {version} is not served", 0x84)
        raise ProtocolError("the first packet is not an MQTT CONNECT")
    flags = reader.number(1)
    has_will, will_qos = flags & 4, flags >> 3 & 3
    if flags & 1 or will_qos == 3 or (not has_will and flags & 0x38):
        raise ProtocolError("CONNECT with flags that contradict each other")
    if version == 4 and flags & 0x40 and not flags & 0x80:
        raise ProtocolError("CONNECT with a password and no user name")
    packet = Connect(version=version, is_clean=flags & 2 == 2, keepalive_s=reader.number(2))
    if version == 5:
        properties = reader.properties()
        packet.receive_maximum = properties.get(_RECEIVE_MAXIMUM, 65_535)
        packet.max_packet_bytes = properties.get(_MAXIMUM_PACKET_SIZE)
        packet.session_expiry_s = properties.get(_SESSION_EXPIRY, 0)
        if not packet.receive_maximum or packet.max_packet_bytes == 0:
            raise ProtocolError("Receive Maximum or Maximum Packet Size is 0", _PROTOCOL_ERROR)
    packet.client_id = reader.text()
    if has_will:
        more: Properties | None = None
        if version == 5:
            reader.passed = b""  # those of CONNECT are not the message's
            properties = reader.properties()
            _expect(properties, _OF_WILL, "a will")
            packet.will_delay_s = properties.get(_WILL_DELAY, 0)
            if reader.passed or _MESSAGE_EXPIRY in properties:
                more = Properties(reader.passed, properties.get(_MESSAGE_EXPIRY))
        topic = reader.text()
        packet.will = Publish(topic, reader.binary(), will_qos, is_retained=flags & 0x20 == 0x20, more=more)
    # 3.1 allows a client to set a flag and leave the field out.
    if flags & 0x80 and not (version == 3 and reader.is_at_end):
        packet.user_name = reader.text()
    if flags & 0x40 and not (version == 3 and reader.is_at_end):
        packet.password = reader.binary()
    if not reader.is_at_end:
        raise ProtocolError("bytes after the end of CONNECT")
    return packet


def _connack(reader: _Reader, version: int) -> Connack:
    flags, code = reader.number(1), reader.number(1)
    return Connack(flags & 1 == 1, code, reader.properties() if version == 5 and not reader.is_at_end else {})


def _ack(kind: int) -> Callable[[_Reader, int], Packet]:
    def decode(reader: _Reader, version: int) -> Ack:
        packet = Ack(kind, reader.packet_id())
        if version == 5 and not reader.is_at_end:
            packet.reason = reader.number(1)
            if not reader.is_at_end:
                reader.properties()
        return packet

    return decode


def _subscribe(reader: _Reader, version: int) -> Subscribe:
    packet_id = reader.packet_id()
    if version == 5:
        _expect(reader.properties(), _OF_SUBSCRIBE, "SUBSCRIBE")
        if len(reader.identifiers) > 1 or 0 in reader.identifiers:
            raise ProtocolError("SUBSCRIBE with more than one subscription identifier, or with 0", _PROTOCOL_ERROR)
    filters: list[tuple[str, int]] = []
    while not reader.is_at_end:
        topic_filter, options = reader.text(), reader.number(1)
        if options & 3 == 3 or not topic_filter or (version == 4 and options & 0xFC):
            raise ProtocolError("SUBSCRIBE with an empty filter or unknown options")
        if version == 5:
            if options & 0xC0 or options & 0x30 == 0x30:
                raise ProtocolError("SUBSCRIBE with reserved options", _PROTOCOL_ERROR)
            if options & NO_LOCAL and topic_filter.startswith("$share/"):
                raise ProtocolError("SUBSCRIBE with No Local on a shared subscription", _PROTOCOL_ERROR)
        filters.append((topic_filter, options if version == 5 else options & 3))
    if not filters:
        raise ProtocolError("SUBSCRIBE without a filter", _PROTOCOL_ERROR)
    return Subscribe(packet_id, filters, *reader.identifiers)


def _unsubscribe(reader: _Reader, version: int) -> Unsubscribe:
    packet_id = reader.packet_id()
    if version == 5:
        reader.properties()
    filters: list[str] = []
    while not reader.is_at_end:
        filters.append(reader.text())
    if not filters:
        raise ProtocolError("UNSUBSCRIBE without a filter", _PROTOCOL_ERROR)
    return Unsubscribe(packet_id, filters)


def _suback(reader: _Reader, version: int) -> Suback:
    packet_id = reader.packet_id()
    if version == 5:
        reader.properties()
    return Suback(packet_id, _codes(reader))


def _unsuback(reader: _Reader, version: int) -> Unsuback:
    packet_id = reader.packet_id()
    if version == 5:
        reader.properties()
    return Unsuback(packet_id, _codes(reader))


def _codes(reader: _Reader) -> list[int]:
    codes: list[int] = []
    while not reader.is_at_end:
        codes.append(reader.number(1))
    return codes


def _disconnect(reader: _Reader, version: int) -> Disconnect:
    if version != 5 or reader.is_at_end:
        return Disconnect()
    reason = reader.number(1)
    return Disconnect(reason, None if reader.is_at_end else reader.properties().get(_SESSION_EXPIRY))


def _auth(reader: _Reader, version: int) -> Auth:
    return Auth(0 if reader.is_at_end else reader.number(1))


_DECODERS: Final[dict[int, Callable[[_Reader, int], Packet]]] = {
    2: _connack,
    4: _ack(4),
    5: _ack(5),
    6: _ack(6),
    7: _ack(7),
    8: _subscribe,
    9: _suback,
    10: _unsubscribe,
    11: _unsuback,
    12: lambda reader, version: Pingreq(),
    13: lambda reader, version: Pingresp(),
    14: _disconnect,
    15: _auth,
}
