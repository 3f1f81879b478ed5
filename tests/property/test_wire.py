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
filters = texts.filter(bool)
ids = st.integers(1, 65_535)
versions = st.sampled_from([3, 4, 5])


@st.composite
def publishes(draw: st.DrawFn) -> Publish:
    qos = draw(st.integers(0, 2))
    return Publish(
        draw(topics),
        draw(st.binary(max_size=300)),
        qos,
        draw(ids) if qos else 0,
        draw(st.booleans()),
        draw(st.booleans()),
    )


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    will = draw(st.none() | publishes())
    if will is not None:
        will.packet_id, will.is_dup = 0, False
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
    return packet


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
            )
        case Connect():
            return encode.connect(packet)
        case Connack():
            return encode.connack(version, packet.code, is_session_present=packet.is_session_present)
        case Ack():
            return encode.ack(packet.kind, packet.packet_id, version, packet.reason)
        case Subscribe():
            return encode.subscribe(version, packet.packet_id, packet.filters)
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
    packets: st.SearchStrategy[Packet] = st.one_of(
        publishes(),
        connects(version),
        st.builds(Connack, st.booleans(), st.integers(0, 255)),
        st.builds(Ack, st.integers(4, 7), ids, reasons),
        st.builds(Subscribe, ids, st.lists(st.tuples(filters, st.integers(0, 2)), min_size=1, max_size=3)),
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
