"""Shapes, typing and leniency of device JSON, row by row of the device API's tables."""

import orjson
import pytest

from gateway.domain import payloads
from gateway.domain.payloads import PayloadError
from gateway.domain.rpc import RpcRequest
from gateway.domain.telemetry import TsKv

NOW = 1_700_000_000_000


def telemetry(text: str | bytes, **options):
    payload = text if isinstance(text, bytes) else text.encode()
    return payloads.parse_telemetry(payload, NOW, **options)


def one(text: str, **options):
    [item] = telemetry(f'{{"k":{text}}}', **options)
    return item.values["k"]


def same(got, expected):
    return got == expected and type(got) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"k":1,"l":"x"}', [TsKv(NOW, {"k": 1, "l": "x"})]),
        ('{"ts":5,"values":{"k":1},"other":2}', [TsKv(5, {"k": 1})]),
        ('[{"k":1},{"ts":7,"values":{"k":2}}]', [TsKv(NOW, {"k": 1}), TsKv(7, {"k": 2})]),
        ('{"ts":5,"k":1}', [TsKv(NOW, {"ts": 5, "k": 1})]),
        ('{"values":{"k":1}}', [TsKv(NOW, {"values": {"k": 1}})]),
        ("{}", []),
        ('{"k":null}', []),
        ('{"k":null,"l":true}', [TsKv(NOW, {"l": True})]),
        ("[]", None),
        ('{"k":{"a":[1,{"b":2}]}}', [TsKv(NOW, {"k": {"a": [1, {"b": 2}]}})]),
        ('{"ts":1.9,"values":{"k":1}}', [TsKv(1, {"k": 1})]),
        ('{"ts":-5,"values":{"k":1}}', [TsKv(-5, {"k": 1})]),
        ('{"ts":1.7e12,"values":{"k":1}}', [TsKv(1_700_000_000_000, {"k": 1})]),
        ('{"ts":"17","values":{"k":1}}', [TsKv(17, {"k": 1})]),
    ],
)
def test_telemetry_shapes(text, expected):
    assert telemetry(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "null",
        '"x"',
        "5",
        "true",
        "[1]",
        '[{"a":1},null]',
        '{"ts":1,"values":5}',
        '{"a":1} x',
        '{"a":1}}',
        '{"a":1',
        "{a:hello world}",
        '{"a":1,}',
        "{,}",
        '{"a":1,,"b":2}',
        '{"a"}',
        '{"a":}',
        '[{"a":1},]',
        "{'a':'b",
        '{"a":"\\x"}',
        '{"ts":1e30,"values":{"a":1}}',
        '{"a":1e999999999}',
        "{/* never closed",
        "\x00",
    ],
)
def test_bad_telemetry_is_refused_with_a_reason_and_without_ending_the_device(text):
    with pytest.raises(PayloadError) as caught:
        telemetry(text)
    assert not caught.value.is_fatal
    assert str(caught.value)


@pytest.mark.parametrize("ts", ["null", '"x"', "true", "{}"])
def test_a_ts_that_is_no_number_ends_the_connection(ts):
    with pytest.raises(PayloadError) as caught:
        telemetry(f'{{"ts":{ts},"values":{{"k":1}}}}')
    assert caught.value.is_fatal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("73", 73),
        ("42.0", 42.0),
        ("1e3", 1000),
        ("1.5e3", 1500),
        ("1.5E+3", 1500),
        ("4.2e1", 42),
        ("1.25e1", 12.5),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("1e20", "100000000000000000000"),
        ("1e-17", "0.00000000000000001"),
        ("0.12345678901234567", "0.12345678901234567"),
        ("1e-16", 1e-16),
        ("-0", 0),
        ("true", True),
        ('"true"', "true"),
        ('"73"', 73),
        ('"42.0"', 42.0),
        ('"007"', 7),
        ('"-12"', -12),
        ('".5"', 0.5),
        ('"00123"', 123),
        ('"99999999999999999999"', "99999999999999999999"),
    ]
    + [(f'"{text}"', text) for text in ["+5", "1e3", "0x10", "5.", "1 ", " 1", "1.2.3", "12L", "", "-", "١٢"]]
    + [('"%s"' % ("7" * 500), "7" * 500)],
)
def test_typing(text, expected):
    assert same(one(text), expected)


def test_there_is_no_negative_zero():
    assert str(one("-0.0")) == "0.0"
    assert str(one("-0.0e0")) == "0"


def test_without_casting_text_stays_and_big_numbers_are_refused():
    assert same(one('"73"', cast=False), "73")
    assert same(one("1e3", cast=False), 1000)
    for text in ("9223372036854775808", "1e20", "1e-17", "18446744073709551616"):
        with pytest.raises(PayloadError, match="64 bits"):
            one(text, cast=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{temperature:25}", {"temperature": 25}),
        ("{'a':'b'}", {"a": "b"}),
        ("{1:2}", {"1": 2}),
        ("{a:hello}", {"a": "hello"}),
        ('{"a"=1}', {"a": 1}),
        ('{"a"=>1}', {"a": 1}),
        ('{"a":1;"b":2}', {"a": 1, "b": 2}),
        ('// c\n{"a":1}', {"a": 1}),
        ('{"a":1 # c\n}', {"a": 1}),
        ('{/* c */"a":1}', {"a": 1}),
        ('\ufeff{"a":1}', {"a": 1}),
        ('{"a":"x\ny"}', {"a": "x\ny"}),
        ("{a:TRUE,b:False,c:NULL}", {"a": True, "b": False}),
        ("{a:NaN,b:Infinity,c:+5,d:5.,e:0x10}", {"a": "NaN", "b": "Infinity", "c": "+5", "d": "5.", "e": "0x10"}),
        ("{a:01,b:.5}", {"a": 1, "b": 0.5}),
        ('{"a":1,"a":2}', {"a": 2}),
        ("{a:1e3,b:[1,]}", {"a": 1000, "b": [1, None]}),
        ("{a:'\\u0041\\ud83d\\ude00\\ud800\\n'}", {"a": "A\U0001f600\ufffd\n"}),
    ],
)
def test_lenient_syntax(text, expected):
    [item] = telemetry(text)
    assert item.values == expected
    assert [type(v) for v in item.values.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    "opening",
    [
        '{"a":' * 101 + "1" + "}" * 101,
        "{a:" * 101 + "1" + "}" * 101,
        '{"a":' + "[" * 100 + "]" * 100 + "}",
        "[" * 90_000,
    ],
)
def test_deep_nesting_is_refused(opening):
    with pytest.raises(PayloadError):
        telemetry(opening)


def test_deep_nesting_within_an_exact_number_is_refused():
    with pytest.raises(PayloadError):
        telemetry('{"n":1e3,"a":' + "[" * 600 + "]" * 600 + "}")


def test_a_hundred_levels_are_fine():
    [item] = telemetry('{"a":' + "[" * 99 + "]" * 99 + "}")
    assert orjson.dumps(item.values)


def test_text_that_is_not_utf8_is_replaced_as_the_server_does_it():
    assert telemetry(b'{"k":"5 \xb0C"}') == [TsKv(NOW, {"k": "5 \ufffdC"})]


def test_the_reason_never_holds_the_value():
    with pytest.raises(PayloadError) as caught:
        telemetry('{"password":"s3cret" oops')
    assert "s3cret" not in str(caught.value)


def test_attributes_are_one_object():
    assert payloads.parse_attributes(b'{"a":"1","b":null}') == {"a": 1}
    with pytest.raises(PayloadError, match="object, not an array"):
        payloads.parse_attributes(b'[{"a":1}]')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{}", ([], [])),
        (b'{"clientKeys":"a,b"}', (["a", "b"], None)),
        (b'{"sharedKeys":"c, d"}', (None, ["c", " d"])),
        (b'{"clientKeys":["a"],"sharedKeys":"b"}', (["a"], ["b"])),
    ],
)
def test_attribute_requests(text, expected):
    assert payloads.parse_attribute_request(text) == expected


@pytest.mark.parametrize("text", [b'{"clientKeys":["a","b"]}', b'{"clientKeys":null}', b"[]", b""])
def test_bad_attribute_requests(text):
    with pytest.raises(PayloadError):
        payloads.parse_attribute_request(text)


def test_client_rpc():
    assert payloads.parse_client_rpc(b'{"method":"m","params":{"a":1}}') == ("m", {"a": 1})
    assert payloads.parse_client_rpc(b'{"method":"m"}') == ("m", None)
    with pytest.raises(PayloadError) as caught:
        payloads.parse_client_rpc(b'{"params":1}')
    assert caught.value.is_fatal


@pytest.mark.parametrize(
    ("payload", "text"),
    [(b'{"a": 1}', '{"a": 1}'), (b"{a:1}", '{"a":1}'), (b"no, sorry", '"no, sorry"'), (b"", '""'), (b"null", "null")],
)
def test_rpc_answers_are_json_text(payload, text):
    assert payloads.rpc_answer_text(payload) == text


def test_downlink_json_is_compact():
    request = RpcRequest(device_id=None, method="m", params=None, request_id=1, expires_ms=0)
    assert payloads.rpc_request_json(request) == b'{"method":"m","params":null}'
    assert payloads.deleted_json(("a", "b")) == b'{"deleted":["a","b"]}'
    assert payloads.attribute_response_json({"a": 1}, {}) == b'{"client":{"a":1}}'
    assert payloads.attribute_response_json({}, {}) == b"{}"


@pytest.mark.parametrize("number", ["1e99999999999999999999", "-1E-99999999999999999999"])
def test_an_exponent_beyond_all_reason_is_a_bad_payload_and_nothing_worse(number):
    for text in (f'{{"k":{number}}}', f'{{"ts":{number},"values":{{"k":1}}}}', f"{{k:{number}}}"):
        with pytest.raises(PayloadError, match="400 digits"):
            telemetry(text)
    assert orjson.loads(payloads.rpc_answer_text(f"{{a:{number}}}".encode())) == f"{{a:{number}}}"


def test_blank_and_overlong_keys_are_left_out_with_their_reason():
    reasons: list[str] = []
    text = orjson.dumps({"": 1, " \t": 2, "k" * 256: "3", "k" * 255: 4})
    assert telemetry(text, left_out=reasons) == [TsKv(NOW, {"k" * 255: 4})]
    assert payloads.parse_attributes(text, left_out=reasons) == {"k" * 255: 4}
    assert len(reasons) == 6
