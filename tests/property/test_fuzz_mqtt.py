"""Nothing that a client sends is a bug of ours: recorded sessions, and many damaged copies of them.

`FUZZ_SECONDS=600 pytest tests/property/test_fuzz_mqtt.py` looks for longer, with a new seed; what it finds is printed
as hex and belongs into `tests/vectors/mqtt/found.txt`, which is replayed each time.
"""

import asyncio
import logging
import os
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker import gateway_payloads
from gateway.broker.packets import Connect, Packet, ProtocolError
from gateway.broker.wire import Decoder
from gateway.domain import onboarding, payloads
from gateway.errors import RejectedError
from tests.integration.broker_peer import Site, site
from tests.integration.broker_web import WebPeer, frame
from tests.property.mutation import TOKENS, mutated, sessions

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = time.time_ns() if SECONDS else 20_240_601
FOUND = Path(__file__).parents[1] / "vectors/mqtt/found.txt"
SESSIONS = sessions()
ALL = [session for several in SESSIONS.values() for session in several]
REPLAYED = [bytes.fromhex(line) for line in FOUND.read_text().splitlines() if line and not line.startswith("#")]

PARSERS = {
    "telemetry": lambda raw: payloads.parse_telemetry(raw, 1, cast=True, left_out=[]),
    "telemetry, no cast": lambda raw: payloads.parse_telemetry(raw, 1, cast=False, left_out=[]),
    "attributes": lambda raw: payloads.parse_attributes(raw, left_out=[]),
    "attribute request": payloads.parse_attribute_request,
    "client RPC": payloads.parse_client_rpc,
    "any object": lambda raw: payloads.parse_object(raw, "it"),
    "RPC answer": payloads.rpc_answer_text,
    "gateway connect": gateway_payloads.parse_connect,
    "gateway disconnect": gateway_payloads.parse_disconnect,
    "gateway telemetry": lambda raw: gateway_payloads.parse_devices(raw, list, True),
    "gateway attributes": lambda raw: gateway_payloads.parse_devices(raw, dict, True),
    "gateway question": gateway_payloads.parse_attribute_question,
    "gateway RPC answer": gateway_payloads.parse_rpc_answer,
    "provisioning": onboarding.parse_provision,
    "claim": onboarding.parse_claim,
}
PAYLOADS = [
    b'{"temperature":21.5,"on":true,"name":"a\\u00e9","n":null,"o":{"a":[1,2,{"b":3}]}}',
    b'[{"ts":1700000000000,"values":{"a":1}},{"b":"007"}]',
    b"{temperature:25,'a'='b'; c => 1e3 /* note */}",
    b'{"clientKeys":"a,b","sharedKeys":["c"]}',
    b'{"method":"getTime","params":{"x":-0.0}}',
    b'{"pump":[{"ts":1,"values":{"a":1}}],"fan":[{"b":2}]}',
    b'{"device":"pump","id":1,"client":true,"key":"a","keys":["a","b"],"data":{"ok":true}}',
    b'{"deviceName":"x","provisionDeviceKey":"k","provisionDeviceSecret":"s","credentialsType":"ACCESS_TOKEN","token":"t"}',
    b'{"secretKey":"s","durationMs":60000}',
]


def tries(count: int):
    """`count` numbers, or as many as fit into FUZZ_SECONDS."""
    until_s, number = time.monotonic() + SECONDS, 0
    while number < count or time.monotonic() < until_s:
        yield number
        number += 1


def decode(raw: bytes, version: int = 4) -> list[Packet]:
    decoder = Decoder(65_536, version)
    decoder.receive(raw)
    packets: list[Packet] = []
    while (packet := decoder.next_packet()) is not None:
        packets.append(packet)
    return packets


@pytest.mark.parametrize("name", SESSIONS)
def test_recorded_sessions_are_understood_to_the_last_byte(name):
    for session in SESSIONS[name]:
        whole = decode(session)
        assert isinstance(whole[0], Connect)
        assert str(whole[0].version) == {"3.1": "3", "3.1.1": "4", "5.0": "5"}.get(
            name.split("-")[-1], str(whole[0].version)
        )
        decoder, seen = Decoder(65_536), []
        for byte in session:
            decoder.receive(bytes([byte]))
            while (packet := decoder.next_packet()) is not None:
                seen.append(packet)
        assert seen == whole
        assert decoder.held_bytes == 0


def test_damaged_sessions_are_only_ever_protocol_errors():
    rng = random.Random(SEED)
    for number in tries(15_000):
        raw = mutated(rng, ALL)
        try:
            decode(raw, 3 + number % 3)
        except ProtocolError:
            continue
        except Exception as error:
            pytest.fail(f"{error!r} of {raw.hex()}")


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_payloads_are_only_ever_rejected(name):
    rng = random.Random(SEED)
    for _ in tries(2_000):
        raw = mutated(rng, PAYLOADS, TOKENS)
        try:
            PARSERS[name](raw)
        except RejectedError:
            continue
        except Exception as error:
            pytest.fail(f"{error!r} of {raw.hex()}")


@pytest.mark.parametrize("raw", REPLAYED, ids=lambda raw: raw[:8].hex())
def test_what_was_found_once_is_not_found_again(raw):
    for version in (3, 4, 5):
        with suppress(ProtocolError):
            decode(raw, version)
    for parse in PARSERS.values():
        with suppress(RejectedError):
            parse(raw)


json_like = st.recursive(
    st.sampled_from([*TOKENS, b'"a"', b"1", b"a", b"-1.5e3", b" "]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda parts: b"{" + b",".join(parts) + b"}")
        | st.lists(inner, max_size=4).map(lambda parts: b"[" + b",".join(parts) + b"]")
        | st.tuples(inner, st.sampled_from([b":", b"=", b"=>"]), inner).map(b"".join)
    ),
    max_leaves=12,
)


@given(st.sampled_from(sorted(PARSERS)), json_like | st.binary(max_size=60))
def test_no_payload_is_a_bug_of_ours(name, raw):
    with suppress(RejectedError):
        PARSERS[name](raw)


@pytest.mark.parametrize("depth", [99, 101, 5_000, 30_000])
@pytest.mark.parametrize("opening", [b'{"a":', b"[", b"{a:"])
def test_no_depth_is_a_bug_of_ours(opening, depth):
    closing = b"]" if opening == b"[" else b"}"
    for raw in (opening * depth + b"1" + closing * depth, opening * depth):
        for parse in PARSERS.values():
            with suppress(RejectedError):
                parse(raw[:65_536])


async def disturb(here: Site, raw: bytes, rng: random.Random) -> None:
    """One client that sends this in a few pieces and goes in one of several ways."""
    is_web = rng.random() < 0.3
    port = here.broker.websocket_port if is_web else here.broker.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if is_web:
            peer = WebPeer(reader, writer)
            await peer.shake_hands()
            raw = frame(2, raw)
            if rng.random() < 0.5:
                raw = mutated(rng, [raw])
        while raw:
            piece = rng.randint(1, max(1, len(raw)))
            writer.write(raw[:piece])
            raw = raw[piece:]
            await asyncio.sleep(0)
        if rng.random() < 0.5:
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(65_536), 0.01)
        if rng.random() < 0.3:
            writer.transport.abort()
    except ConnectionError:
        return
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_live_broker_survives_and_the_others_notice_nothing(caplog):
    rng = random.Random(SEED)
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with caplog.at_level(logging.WARNING):
        async with site(
            websocket_port=0, local_topics=False, wrong_password_limit=1_000_000, max_connections=100
        ) as here:
            good, session = await here.connect(token="tok2")
            answered = 0
            for number in tries(400):
                raw = mutated(rng, ALL) if number % 4 else rng.choice(ALL)[: rng.randrange(60)] + mutated(rng, ALL)
                await disturb(here, raw.replace(b"tok2", b"tok3"), rng)
                if number % 40 == 0:
                    good.publish("v1/devices/me/telemetry", b'{"a":1}', 1, 1)
                    assert await good.ping() != [None]
                    answered += 1
            assert len(session.posted) == answered
            await here.until(lambda: here.broker.connections() == 1)
            assert here.broker.partial_bytes() == 0
    assert complaints == []
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []
