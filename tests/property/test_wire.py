"""The codec: what is encoded is decoded, however it is cut; and rubbish is only ever a protocol error."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from gateway.broker import encode
from gateway.broker.packets import (
    Ack,
    Connack,
    Connect,
    Disconnect,
    Packet,
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
from gateway.broker.wire import Decoder

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
topics = texts.filter(lambda text: text and "+" not in text and "#" not in text)
filters = texts.filter(lambda text: text and not text.startswith("$share/"))
ids = st.integers(1, 65_535)
versions = st.sampled_from([3, 4, 5])
qos = st.integers(0, 2)


PASSED = (b"\x01\x01", b"\x03\x00\x01t", b"\x08\x00\x01r", b"\x09\x00\x02\x00\xff", b"\x26\x00\x01k\x00\x00")


@st.composite
def publishes(draw: st.DrawFn, version: int) -> Publish:
    level = draw(qos)
    passed = draw(st.lists(st.sampled_from(PASSED), max_size=4, unique_by=lambda one: one[0]).map(b"".join))
    expiry_s = draw(st.none() | st.integers(0, 2**32 - 1))
    identifiers = tuple(draw(st.lists(st.integers(1, 268_435_455), max_size=3)))
    has_more = version == 5 and (passed or expiry_s is not None or identifiers)
    return Publish(
        draw(topics),
        draw(st.binary(max_size=300)),
        level,
        draw(ids) if level else 0,
        draw(st.booleans()),
        draw(st.booleans()),
        Properties(passed, expiry_s, identifiers) if has_more else None,
    )


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    will = draw(st.none() | publishes(version))
    if will is not None:
        will.packet_id, will.is_dup = 0, False
        if will.more is not None:
            will.more.identifiers = ()
            will.more = will.more if will.more != Properties() else None
    user_name = draw(st.none() | texts)
    packet = Connect(
        version=version,
        client_id=draw(texts),
        is_clean=draw(st.booleans()),
        keepalive_s=draw(st.integers(0, 65_535)),
        user_name=user_name,
        password=draw(st.none() | st.binary(max_size=40)) if user_name is not None else None,
        will=will,
    )
    if version == 5:
        packet.receive_maximum = draw(st.integers(1, 65_535))
        packet.max_packet_bytes = draw(st.none() | st.integers(1, 2**32 - 1))
        packet.will_delay_s = 0 if will is None else draw(st.integers(0, 2**32 - 1))
    return packet


def properties_of(packet: Publish) -> bytes:
    more = packet.more
    return b"" if more is None else encode.publish_properties(more.passed, more.expiry_s, more.identifiers)


def encoded(packet: Packet, version: int) -> bytes:
    match packet:
        case Publish():
            return encode.publish(
                version,
                packet.topic,
                packet.payload,
                packet.qos,
                packet.packet_id,
                is_retained=packet.is_retained,
                is_dup=packet.is_dup,
                properties=properties_of(packet),
            )
        case Connect():
            return encode.connect(packet)
        case Connack():
            return encode.connack(version, packet.code, is_session_present=packet.is_session_present)
        case Ack():
            return encode.ack(packet.kind, packet.packet_id, version, packet.reason)
        case Subscribe():
            return encode.subscribe(version, packet.packet_id, packet.filters, packet.identifier)
        case Suback():
            return encode.suback(version, packet.packet_id, packet.codes)
        case Unsubscribe():
            return encode.unsubscribe(version, packet.packet_id, packet.filters)
        case Unsuback():
            return encode.unsuback(version, packet.packet_id, packet.codes)
        case Disconnect():
            return encode.disconnect(version, packet.reason)
        case Pingreq():
            return encode.PINGREQ
        case _:
            return encode.PINGRESP


@st.composite
def conversations(draw: st.DrawFn) -> tuple[int, list[Packet]]:
    version = draw(versions)
    codes = st.lists(st.integers(0, 255), min_size=1, max_size=4)
    reasons = st.integers(0, 255) if version == 5 else st.just(0)
    handled = st.builds(lambda qos, flags, retain: qos | flags << 2 | retain << 4, qos, st.integers(0, 3), qos)
    asked = handled if version == 5 else qos
    packets: st.SearchStrategy[Packet] = st.one_of(
        publishes(version),
        connects(version),
        st.builds(Connack, st.booleans(), st.integers(0, 255)),
        st.builds(Ack, st.integers(4, 7), ids, reasons),
        st.builds(
            Subscribe,
            ids,
            st.lists(st.tuples(filters, asked), min_size=1, max_size=3),
            st.integers(0, 268_435_455) if version == 5 else st.just(0),
        ),
        st.builds(Suback, ids, codes),
        st.builds(Unsubscribe, ids, st.lists(filters, min_size=1, max_size=3)),
        st.builds(Unsuback, ids, codes if version == 5 else st.just([])),
        st.builds(Disconnect, reasons),
        st.just(Pingreq()),
        st.just(Pingresp()),
    )
    return version, draw(st.lists(packets, max_size=6))


@given(conversations(), st.lists(st.integers(1, 50), max_size=60), st.booleans())
def test_round_trip_in_any_pieces(conversation, cuts, reads_at_once):
    version, packets = conversation
    raw = b"".join(encoded(packet, version) for packet in packets)
    decoder = Decoder(100_000, version)
    seen = []
    for cut in [*cuts, len(raw) + 1]:
        piece, raw = raw[:cut], raw[cut:]
        decoder.receive(piece)
        while reads_at_once and (packet := decoder.next_packet()) is not None:
            seen.append(packet)
    while (packet := decoder.next_packet()) is not None:
        seen.append(packet)
    assert seen == packets


@given(st.binary(max_size=200), versions)
def test_rubbish_is_only_ever_a_protocol_error(raw, version):
    decoder = Decoder(1000, version)
    decoder.receive(raw)
    with suppress(ProtocolError):
        while decoder.next_packet() is not None:
            pass


@given(conversations(), st.data())
def test_a_damaged_conversation_is_only_ever_a_protocol_error(conversation, data):
    version, packets = conversation
    raw = bytearray(b"".join(encoded(packet, version) for packet in packets))
    for _ in range(data.draw(st.integers(0, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    test_rubbish_is_only_ever_a_protocol_error.hypothesis.inner_test(bytes(raw), version)
