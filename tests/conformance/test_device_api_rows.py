"""ThingsBoard's device and gateway API, one line a row of the reference: what a client sends, what it gets.

Sections are those of the reference: §1.2–1.3 who gets in, §1.7–1.8 payloads, §1.9 types, §1.13 provisioning,
§2.2–2.5 gateways; each on MQTT 3.1, 3.1.1 and 5.0, with QoS 0 and 1. Where this gateway answers otherwise, the line
says so, and why.
"""

import pytest

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack, Connack, Connect, Disconnect
from gateway.domain.onboarding import ProvisionAnswer, ProvisionStatus
from tests.integration.broker_peer import site

TELEMETRY, ATTRIBUTES, GATEWAY = "v1/devices/me/telemetry", "v1/devices/me/attributes", "v1/gateway/"
VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])

# What a publish gets: 3.x QoS 1, 3.x QoS 0, 5.0 QoS 1, 5.0 QoS 0. A number is a PUBACK, "close 99" DISCONNECT and close.
OK = ("0", "", "0", "")
INVALID = ("close", "close", "99", "close 99")
TYPE_ERROR = ("close", "close", "close 8b", "close 8b")
UNKNOWN = ("0", "", "90", "")
SILENT = ("", "", "", "")
SHAPE = ("0 close", "close", "83 close 83", "close 83")
TOO_LARGE = ("close", "close", "close 81", "close 81")


async def answered(here, version, qos, topic, payload, token, wanted):
    """All that comes: as many packets as are wanted, and what else is there at the end."""
    peer, _ = await here.connect(version, token)
    peer.publish(topic, payload, qos, 1 if qos else 0)
    packets = [await peer.receive() for _ in wanted.replace("close ", "close").split()]
    if None not in packets:
        packets += await peer.ping()
    said = []
    for packet in packets:
        if isinstance(packet, Ack):
            assert (packet.kind, packet.packet_id) == (PUBACK, 1)
            said.append(f"{packet.reason:x}")
        elif isinstance(packet, Disconnect):
            said.append(f"close {packet.reason:x}")
        elif packet is None and version < 5:
            said.append("close")
    peer.writer.close()
    return " ".join(said)


TOPICS_1_7 = [
    (TELEMETRY, b'{"a":1}', OK), (ATTRIBUTES, b'{"a":1}', OK),
    (TELEMETRY, b"x{", INVALID), (TELEMETRY, b"", INVALID), (TELEMETRY, b"  ", INVALID), (TELEMETRY, b"null", INVALID),
    (TELEMETRY, b'"s"', INVALID), (TELEMETRY, b"5", INVALID), (TELEMETRY, b"true", INVALID),
    (TELEMETRY, b"[1]", INVALID), (TELEMETRY, b"[null]", INVALID), (TELEMETRY, b'{"ts":1,"values":5}', INVALID),
    (ATTRIBUTES, b"[]", INVALID), (ATTRIBUTES, b'[{"a":1}]', INVALID), (ATTRIBUTES, b"5", INVALID),
    ("v1/devices/me/attributes/request/1", b'{"clientKeys":["a","b"]}', INVALID),
    ("v1/devices/me/attributes/request/x", b"{}", INVALID), ("v1/devices/me/rpc/response/x", b"{}", INVALID),
    ("v1/devices/me/claim", b"[]", INVALID), ("v1/devices/me/claim", b"", OK),
    ("v1/devices/me/claim", b'{"secretKey":"s","durationMs":-1}', OK), ("v1/devices/me/rpc/response/9", b"{}", OK),
    ("v1/devices/me/nothing", b"{}", UNKNOWN), (GATEWAY + "telemetry", b'{"A":[{"t":1}]}', SILENT),
    (GATEWAY + "x", b"{}", SILENT), (TELEMETRY, b"[]", SILENT),
    (TELEMETRY, b'{"ts":null,"values":{"a":1}}', TYPE_ERROR), (TELEMETRY, b'{"ts":"abc","values":{"a":1}}', TYPE_ERROR),
    ("v1/devices/me/rpc/request/1", b'{"params":1}', TYPE_ERROR),
    ("v1/devices/me/rpc/request/x", b'{"method":"m"}', TYPE_ERROR),
    (TELEMETRY, b'{"k":"' + b"x" * 65_530 + b'"}', TOO_LARGE),
]  # fmt: skip
SHAPES_1_8 = [
    *((TELEMETRY, text.encode(), OK) for text in (
        "{}", '{"ts":1700000000000,"values":{"k":1}}', '[{"a":1},{"ts":1,"values":{"b":2}}]', '{"ts":5,"k":1}',
        '{"values":{"a":1}}', '{"k":{"a":[1]}}', '{"k":null}', '{"ts":1.7e12,"values":{"a":1}}',
        '{"ts":"1700000000000","values":{"a":1}}', '{"ts":1.5,"values":{"a":1}}', '{"ts":-5,"values":{"a":1}}',
        "{temperature:25}", "{'a':'b'}", "{1:2}", "{a:hello}", '{"a"=1}', '{"a"=>1}', '{"a":1;"b":2}', '// x\n{"a":1}',
        '# x\n{"a":1}', '/* x */{"a":1}', '\ufeff{"a":1}', '{"a":"x\ny"}', '{"a":TRUE,"b":False,"c":NULL}',
    )),
    *((TELEMETRY, text.encode(), INVALID) for text in (
        '{"a":1} x', '{"a":1', '{"a":1}}', "{a:hello world}", '{"a":1,}', "{,}", '{"a":1,,"b":2}', '{"a"}', '{"a":}',
        '[{"a":1},]', '{"ts":1,"values":[1]}',
    )),
]  # fmt: skip
GATEWAY_2 = [
    *((GATEWAY + topic, text.encode(), OK) for topic, text in (
        ("connect", '{"device":"A","type":"t"}'), ("connect", '{"device":"A"}'), ("disconnect", '{"device":"A"}'),
        ("disconnect", '{"device":"unknown"}'), ("attributes", '{"A":{"k":1},"B":[1]}'),
        ("telemetry", '{"A":[{"ts":1,"values":{"x":1}},{"y":2}],"B":[{"t":1}],"C":{"no":1}}'),
        ("telemetry", '{"A":[{"a":1,"metadata":{"connector":"c","receivedTs":1,"publishedTs":2}}]}'),
        ("rpc", '{"device":"A","id":7,"data":{"x":1}}'), ("claim", '{"A":{"secretKey":"s","durationMs":60000},"B":{}}'),
    )),
    (GATEWAY + "telemetry", b"x{", INVALID), (GATEWAY + "x", b"{}", UNKNOWN),
    *((GATEWAY + topic, text.encode(), SHAPE) for topic, text in (
        ("telemetry", "5"), ("telemetry", "{}"), ("telemetry", '{"A":5}'), ("connect", '{"type":"t"}'),
        ("connect", '{"device":""}'), ("disconnect", "{}"), ("rpc", '{"device":"A","data":1}'),
        ("attributes/request", '{"device":"A","client":true,"key":"k"}'),
        ("attributes/request", '{"id":1,"device":"A","key":"k"}'),
    )),
    (GATEWAY + "telemetry", b'{"A":[{"ts":1,"values":5}],"B":[{"n":1}]}', INVALID),
    (GATEWAY + "telemetry", b'{"A":[{"a":1,"metadata":{"connector":"c"}}]}', INVALID),
]  # fmt: skip


@VERSIONS
@pytest.mark.parametrize("qos", [1, 0])
@pytest.mark.parametrize(
    ("rows", "token"),
    [(TOPICS_1_7, "tok"), (SHAPES_1_8, "tok"), (GATEWAY_2, "gw")],
    ids=["1.7", "1.8", "2.2-2.5"],
)
async def test_every_publish_gets_its_answer(version, qos, rows, token):
    async with site("next_turn") as here:
        here.inlet.add_device("gateway", "gw", is_gateway=True)
        for topic, payload, wanted in rows:
            expected = wanted[2 * (version == 5) + (not qos)]
            got = await answered(here, version, qos, topic, payload, token, expected)
            assert got == expected, (topic, payload[:60])


TYPES_1_9 = {
    "73": 73, "42.0": 42.0, "1e3": 1000, "1.5e3": 1500, "4.2e1": 42, "1.25e1": 12.5, "-0": 0, "true": True,
    '"true"': "true", '"73"': 73, '"42.0"': 42.0, '"007"': 7, '"00123"': 123, '"-12"': -12, '".5"': 0.5,
    "9223372036854775807": 2**63 - 1, "9223372036854775808": "9223372036854775808", "1e-16": 1e-16,
    "1e-17": "0.00000000000000001", "0.12345678901234567": "0.12345678901234567", "01": 1, ".5": 0.5,
} | {f'"{text}"': text for text in ("+5", "1e3", "0x10", "5.", "1 ", " 1", "1.2.3", "12L", "")} \
  | {text: text for text in ("NaN", "Infinity", "+5", "5.", "0x10")}  # fmt: skip


@pytest.mark.parametrize("topic", [TELEMETRY, ATTRIBUTES])
async def test_values_have_the_types_of_1_9(topic):
    async with site() as here:
        peer, session = await here.connect()
        for text, wanted in TYPES_1_9.items():
            peer.publish(topic, b'{"k":%s}' % text.encode())
            await peer.ping()
            said = session.posted[-1]
            value = (said[0].values if topic == TELEMETRY else said)["k"]
            assert (type(value), value) == (type(wanted), wanted), text


WHO_1_3 = [
    # user, client id, password, 3.x, 5.0
    ("tok", "any", b"any", 0, 0), ("user", "cid", b"pw", 0, 0), ("user", "cid", b"no", 5, 0x86),
    ("nobody", "x", None, 5, 0x86), ("nobody", "x", b"x", 5, 0x86), (None, "unknown", None, 2, 0x85),
    (None, "only-id", None, 0, 0), ("only-user", "x", b"pw", 0, 0), ("only-user", "x", b"no", 5, 0x86),
    ("provision", "x", None, 0, 0), (None, "provision", None, 0, 0),
    # A client of 3.1 needs a client id; the server takes this one for a wrong id as well.
    (None, "", None, (2, 5), 0x87), (None, "  ", None, 5, 0x87),
]  # fmt: skip


@VERSIONS
async def test_who_gets_in_by_1_2_and_1_3(version):
    async with site(wrong_password_limit=1000) as here:
        here.inlet.add_basic_device("full", "cid", "user", "pw")
        here.inlet.add_basic_device("by id", "only-id", "", None)
        here.inlet.add_basic_device("by user", "", "only-user", "pw")
        for user, client_id, password, code_3, code_5 in WHO_1_3:
            peer = await here.open(version)
            connect = Connect(version=version, user_name=user, client_id=client_id, password=password)
            peer.send(encode.connect(connect))
            connack = await peer.receive()
            assert isinstance(connack, Connack)
            codes = code_3 if isinstance(code_3, tuple) else (code_3, code_3)
            assert connack.code == (*codes, code_5)[version - 3], (user, client_id, password)
            if connack.code:
                assert isinstance(await peer.receive(), Disconnect if version == 5 else type(None))
            peer.writer.close()


async def test_auth_packets_are_ignored_by_1_1():
    async with site() as here:
        peer, session = await here.connect(5)
        peer.send(bytes.fromhex("f0 00") + bytes.fromhex("f0 02 18 00"))
        peer.publish(TELEMETRY, b'{"a":1}', 1, 1)
        assert await peer.receive() == Ack(PUBACK, 1)
        assert len(session.posted) == 1
        old, _ = await here.connect(4, "tok2")
        old.send(bytes.fromhex("f0 00"))  # no packet of its protocol
        assert await old.receive() is None


@VERSIONS
async def test_provisioning_by_1_13(version):
    """One topic to subscribe, one to publish; what lacks key or secret ends it, as does any other topic."""
    async with site() as here:
        here.inlet.provision_answer = ProvisionAnswer(ProvisionStatus.NOT_FOUND)
        no = 0x8F if version == 5 else 0x80
        for topic, payload, reason, ending in (
            ("/provision/request", b'{"provisionDeviceKey":"k"}', 0, 0x83),
            (TELEMETRY, b"{}", 0x90, 0x90),
        ):
            peer = await here.open(version)
            peer.send(encode.connect(Connect(version=version, user_name="provision", client_id="p")))
            assert (await peer.receive()).code == 0
            peer.send(encode.subscribe(version, 3, [("/provision/response", 2), (ATTRIBUTES, 1)]))
            assert list((await peer.receive()).codes) == [1, no]
            peer.publish("/provision/request", b'{"provisionDeviceKey":"k","provisionDeviceSecret":"s"}', 1, 1)
            assert await peer.receive() == Ack(PUBACK, 1)
            told = await peer.receive()
            body = b'{"errorMsg":"Provision data was not found!","status":"NOT_FOUND"}'
            assert (told.topic, told.payload) == ("/provision/response", body)
            peer.publish(topic, payload, 1, 2)
            assert await peer.receive() == Ack(PUBACK, 2, reason if version == 5 else 0)
            if version == 5:
                assert await peer.receive() == Disconnect(ending)
            assert await peer.receive() is None
