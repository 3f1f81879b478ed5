"""The sandbox: what a script may give, and what becomes of one that misbehaves."""

from uuid import UUID

import pytest

from gateway.config import RulesConfig
from gateway.domain.changes import AppendEvent
from gateway.domain.entity import EntityId
from gateway.errors import RejectedError
from gateway.rules.node import Shared
from gateway.rules.script import Script
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.unit.rules.kit import PUSH, FakeState, Rules, js, message


def make(kind, body, is_tbel=False, **config):
    return Script(kind, body, is_tbel, Shared(FakeState(), RulesConfig(**config), FakeClock(), Counters()))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return msg.temperature > 20;", True),
        ("return metadata.deviceName === 'Press 2';", False),
        ("return msgType == 'POST_TELEMETRY_REQUEST'", True),
        ("undeclared = 5; with (msg) { return temperature > undeclared; }", True),
        ("// a comment at the end\nreturn true // here", True),
    ],
)
def test_filter(body, expected):
    assert make("filter", body).is_true(message()) is expected


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return 1;", "not 1"),
        ("return 'true';", "not 'true'"),
        ("return {};", "not an object"),
        ("", "not nothing"),
        ("return null;", "not nothing"),
        ("\nreturn msg.a.b;", "TypeError: cannot read property 'b' of undefined (line 2)"),
        ("throw 'plain';", "the script failed: plain"),
        ("return (function f() { return f() + 1; })();", "Maximum call stack"),
        ("return '" + "x" * 100 + "';", "…"),
    ],
)
def test_filter_that_fails(body, text):
    with pytest.raises(RejectedError) as caught:
        make("filter", body).is_true(message())
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [("return 'a';", ["a"]), ("return ['b', 'a', 'b'];", ["b", "a", "b"]), ("return [];", [])],
)
def test_switch(body, expected):
    assert make("switch", body).labels(message()) == expected


@pytest.mark.parametrize("body", ["return 5;", "return ['a', 5];", "return null;", "return {};", "return true;"])
def test_switch_that_fails(body):
    with pytest.raises(RejectedError, match="a text or a list of texts"):
        make("switch", body).labels(message())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return {};", ("POST_TELEMETRY_REQUEST", {"temperature": 21.5}, {"k": "v"})),
        ("msg.x = 1; metadata.y = 2; return {};", ("POST_TELEMETRY_REQUEST", {"temperature": 21.5}, {"k": "v"})),
        ("msg.x = 4 / 2; return {msg: msg};", ("POST_TELEMETRY_REQUEST", {"temperature": 21.5, "x": 2}, {"k": "v"})),
        ("return {msg: null, msgType: ''};", ("POST_TELEMETRY_REQUEST", None, {"k": "v"})),
        ("return {msg: 'text', other: 1};", ("POST_TELEMETRY_REQUEST", "text", {"k": "v"})),
        (
            "return {metadata: {a: 5, b: true, c: null, d: 1.5, e: undefined}, msgType: 'X'};",
            ("X", {"temperature": 21.5}, {"a": "5", "b": "true", "d": "1.5"}),
        ),
    ],
)
def test_transform(body, expected):
    msg = message(metadata={"k": "v"})
    (made,) = make("transform", body).transformed(msg)
    assert (made.type, made.data, made.metadata) == expected
    assert (made.id, made.originator, made.ts_ms) == (msg.id, msg.originator, msg.ts_ms)
    assert (msg.data, msg.metadata) == ({"temperature": 21.5}, {"k": "v"})


def test_transform_into_several_messages_with_ids_of_their_own():
    body = "return [{msg: {n: 1}}, {msg: {n: 2}, msgType: 'POST_ATTRIBUTES_REQUEST'}];"
    rules = Rules([js("two", body, "transform.TbTransformMsgNode"), PUSH], (0, 1, "Success"))
    events = [change.event for change in rules.run().changes]
    assert [event.action for event in events] == ["TIMESERIES_UPDATED", "POST_ATTRIBUTES"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return null;", "an object with msg"),
        ("return 5;", "an object with msg"),
        ("return [1];", "an object with msg"),
        ("return [];", "an empty list"),
        ("return;", "an object with msg"),
        ("return {metadata: {a: {b: 1}}};", "metadata of plain values"),
        ("return {metadata: []};", "metadata that is an object"),
        ("return {msg: 'x'.repeat(300001)};", "longer than 300000"),
        ("var a = {}; a.a = a; return {msg: a};", "circular"),
        ("return {msg: '\\ud800'};", "no valid JSON"),
        ("return {msg: 5n};", "BigInt"),
    ],
)
def test_transform_that_fails(body, text):
    with pytest.raises(RejectedError) as caught:
        make("transform", body).transformed(message())
    assert text in str(caught.value)


def test_a_script_that_does_not_parse_names_the_line_and_the_chain_loads():
    rules = Rules([js("bad", "var a = 1;\nvar b = ;\nreturn true;"), PUSH], (0, 1, "Failure"))
    assert rules.texts() == [
        "the script cannot be read as JavaScript: SyntaxError: unexpected token in expression: ';' (line 2)"
    ]
    assert [type(change) for change in rules.run().changes] == [AppendEvent]


@pytest.mark.parametrize("body", ["x" * 50_001, "return true; }, function () {", "\ud800"])
def test_other_texts_that_are_no_script(body):
    with pytest.raises(RejectedError):
        make("filter", body).is_true(message())


# ── limits ──

LOOP = "if (msg.bad) { for (;;) {} } return true;"
HUNGRY = "if (msg.bad) { var a = []; for (;;) { a.push(new Array(1000).fill(1)); } } return true;"


@pytest.mark.parametrize(("body", "text"), [(LOOP, "longer than 20 ms"), (HUNGRY, "needs more than 2 MB")])
def test_a_script_at_its_limit_fails_its_message_and_nothing_else(body, text):
    rules = Rules(
        [js("bad", body), js("good", "return true;"), PUSH, PUSH],
        *[(0, 2, "True"), (1, 3, "True")],
        script_timeout_ms=20 if body is LOOP else 5000,
        script_memory_bytes=2 << 20,
    )
    assert text in rules.run({"bad": True}).errors[0]
    assert len(rules.run({"bad": False}).changes) == 1  # a fresh context
    assert rules.counters.get("rules.script_limits") == 1


def test_after_a_limit_the_context_is_a_new_one():
    body = "n = typeof n === 'undefined' ? 1 : n + 1; if (msg.bad) { for (;;) {} } return n === 1;"
    script = make("filter", body, script_timeout_ms=20)
    assert [script.is_true(message()) for _ in range(2)] == [True, False]
    with pytest.raises(RejectedError, match="longer than"):
        script.is_true(message({"bad": True}))
    script._shared.script_s = 0.0  # another message
    assert script.is_true(message())


def test_a_loop_inside_the_engine_and_a_caught_interrupt_end_too():
    for body in (
        "return /^(a+)+$/.test('a'.repeat(40) + 'b');",
        "for (;;) { try { for (;;) {} } catch (e) {} }",
        "var a = []; a.length = 4294967295; return a.indexOf(5) > 0;",
    ):
        with pytest.raises(RejectedError, match="longer than 20 ms"):
            make("filter", body, script_timeout_ms=20).is_true(message())


async def test_a_script_that_keeps_meeting_its_limit_is_put_aside_for_a_minute():
    rules = Rules([js("bad", LOOP)], script_timeout_ms=20)
    for _ in range(3):
        assert "longer than" in rules.run({"bad": True}).errors[0]
    assert "put aside for 60 s" in rules.run({"bad": False}).errors[0]
    await rules.clock.advance(61)
    assert rules.run({"bad": False}).errors == []
    assert "longer than" in rules.run({"bad": True}).errors[0]


async def test_a_device_that_a_script_does_not_stand_is_put_aside_alone():
    rules = Rules([js("bad", LOOP)], script_timeout_ms=20)
    bad, other = EntityId("DEVICE", UUID(int=1)), EntityId("DEVICE", UUID(int=2))
    for _ in range(3):
        assert "longer than" in rules.run({"bad": True}, originator=bad).errors[0]
    assert "put aside for 60 s" in rules.run({"bad": False}, originator=bad).errors[0]
    assert rules.run({"bad": False}, originator=other).errors == []
    for _ in range(3):  # several devices: it is the script
        assert "longer than" in rules.run({"bad": True}, originator=other).errors[0]
    third = EntityId("DEVICE", UUID(int=3))
    assert "put aside for 60 s" in rules.run({"bad": False}, originator=third).errors[0]
    await rules.clock.advance(61)
    assert rules.run({"bad": False}, originator=bad).errors == []


def test_a_message_that_is_no_json_fails_without_the_engine():
    script = make("filter", "return msg.a != 1;")
    with pytest.raises(RejectedError, match="no valid JSON"):
        script.is_true(message({"a": "\ud800"}))
    with pytest.raises(RejectedError, match="no valid JSON"):
        script.is_true(message({"a": 2**70}))


def test_scripts_do_not_see_each_other_and_cannot_spoil_their_own_runner():
    rules = Rules([js("one", "x = 1; JSON.parse = null; return true;"), js("two", "return typeof x === 'undefined';"),
                   PUSH], (0, 1, "True"), (1, 2, "True"))  # fmt: skip
    for _ in range(2):
        assert len(rules.run().changes) == 1


# ── TBEL ──


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("toFixed(1.255, 2)", 1.26),
        ("toInt(-2.5)", -3),
        ("parseDouble('1.5e2')", 150),
        ("parseLong('1700000000000')", 1700000000000),
        ("parseLong('ff', 16)", 255),
        ("'a.b.c'.replace('.', '-')", "a-b-c"),
        ("'Ab'.equalsIgnoreCase('aB') && 'x'.equals('x') && 'abc'.contains('b') && ''.isEmpty()", True),
        ("'abc'.matches('[a-c]+') && !'abcd'.matches('[a-c]+')", True),
        ("[3, 1].size() + [3, 1].get(1)", 3),
        ("msg.containsKey('temperature') && msg.size() == 1 && !msg.isEmpty()", True),
        ("msg.keys()", ["temperature"]),
        ("msg.values()", [21.5]),
        ("metadata.remove('k')", "v"),
        ("metadata.put('n', 'x')", None),
        ("toFlatMap({a: {b: 1, c: 2}, d: 3}, ['c'])", {"a.b": 1, "d": 3}),
        ("toFlatMap({a: {b: 1}}, false)", {"b": 1}),
        ("btoa('edge')", "ZWRnZQ=="),
        ("atob(btoa('ab')) + atob('YWJj')", "ababc"),
        ("bytesToString(stringToBytes('grün'))", "grün"),
        ("stringToBytes('ü')", [-61, -68]),
        ("decodeToJson('{\"a\":1}').a", 1),
        ("isMap({}) && isList([]) && isSet(toSet([1])) && toSet([1]).contains(1)", True),
        ("padStart('7', 3, '0') + padEnd('7', 3, '0')", "007700"),
    ],
)
def test_tbel_functions(expression, expected):
    (made,) = make("transform", f"return {{msg: {{r: {expression}}}}};", True).transformed(message(metadata={"k": "v"}))
    assert made.data == {"r": expected}


def test_tbel_methods_do_not_leak_into_data():
    (made,) = make(
        "transform", "var a = {x: 1}; var n = ''; foreach (e : a) { n = n + e.key; } a.seen = n; return {msg: a};", True
    ).transformed(message())
    assert made.data == {"x": 1, "seen": "x"}


@pytest.mark.parametrize("body", ["raiseError('no');", "parseDouble('x');", "parseLong('1.5');"])
def test_tbel_errors_are_failures(body):
    with pytest.raises(RejectedError, match="the script failed"):
        make("transform", body + " return {};", True).transformed(message())


def test_tbel_that_does_not_translate_is_listed_with_its_place():
    tbel = {"scriptLang": "TBEL", "jsScript": "return true;", "tbelScript": "var a = 0;\nreturn msg.l.map(x => x);"}
    rules = Rules([("filter.TbJsFilterNode", "tbel", tbel)])
    assert rules.texts() == ["arrow functions are not in TBEL: write a function, or foreach (line 2, column 20)"]
    assert len(rules.run().errors) == 1


def test_tbel_log_turns_values_into_text_and_sets_are_labels():
    assert make("log", "return msg;", True).text(message()) == '{"temperature":21.5}'
    assert make("switch", "return toSet(['a', 'b', 'a']);", True).labels(message()) == ["a", "b"]


def test_what_one_script_does_to_the_language_stays_without_effect():
    games = (
        "Object.prototype.leak = 1; Array.prototype.map = null; String.prototype.x = 1; JSON.stringify = null;"
        " ({}).__proto__.other = 2; Object.prototype.toString = null; msg.constructor = 5; msg.toString = 6;"
        " return {msg: msg};"
    )
    script = make("transform", games)
    assert script.transformed(message({"a": 1}))[0].data == {"a": 1, "constructor": 5, "toString": 6}
    after = make("filter", "var was = ({}).leak === undefined && [1].map(x => x)[0] === 1; Object.prototype.leak = 1;"
                           " return was && ({}).leak === undefined;")  # fmt: skip
    assert [after.is_true(message()) for _ in range(2)] == [True, True]


def test_all_tbel_scripts_share_a_context_and_a_limit_of_one_costs_the_others_nothing():
    shared = Shared(FakeState(), RulesConfig(script_timeout_ms=50), FakeClock(), Counters())
    bad = Script("filter", "while (msg.bad == true) { } return true;", True, shared)
    good = Script("filter", "n = 1; return msg.temperature > 20;", True, shared)
    assert good.is_true(message())
    with pytest.raises(RejectedError, match="longer than 50 ms"):
        bad.is_true(message({"bad": True}))
    shared.script_s = 0.0  # another message
    assert good.is_true(message())
    assert bad.is_true(message({"bad": False}))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("var l = [];\nwhile (true) { l.add([1, 2, 3, 4, 5, 6, 7, 8]); }", "needs more than 2 MB"),
        ("function f(n) { return f(n + 1); } f(0)", "Maximum call stack"),
        ("return msg.toString() + padStart('', 400000, 'x');", "longer than 300000"),
    ],
)
def test_tbel_at_its_limits(body, text):
    script = make("transform" if "padStart" not in body else "details", body, True, script_memory_bytes=2 << 20)
    with pytest.raises(RejectedError, match=text):
        script.transformed(message()) if "padStart" not in body else script.details(message())


def test_more_than_a_script_may_get():
    with pytest.raises(RejectedError, match="longer than the 100000 characters"):
        make("filter", "return msg != null;").is_true(message({"a": "x" * 100_000}))


# ── what a script does not mention is not carried over ──


@pytest.mark.parametrize(
    ("body", "data", "metadata", "expected"),
    [
        # (script, body, metadata; body, metadata and type that come out)
        ("msg.f = msg.t * 2; return {msg: msg, metadata: metadata, msgType: msgType};", {"t": 2, "x": 5.0}, {"k": "v"},
         ({"t": 2, "x": 5.0, "f": 4}, {"k": "v"}, "POST_TELEMETRY_REQUEST")),
        ("metadata.n = 5; delete metadata.k; return {msg: msg, metadata: metadata};", {"t": 2.0}, {"k": "v"},
         ({"t": 2.0}, {"n": "5"}, "POST_TELEMETRY_REQUEST")),
        ("metadata.k = null; return {msg: msg, metadata: metadata};", {"t": 2}, {"k": "v", "l": "w"},
         ({"t": 2}, {"l": "w"}, "POST_TELEMETRY_REQUEST")),
        ("delete msg.t; return {msg: msg};", {"t": 2, "u": 3}, {}, ({"u": 3}, {}, "POST_TELEMETRY_REQUEST")),
        ("return {msg: {msg: msg}};", {"t": [1]}, {}, ({"msg": {"t": [1]}}, {}, "POST_TELEMETRY_REQUEST")),
        ("return {msg: {all: {msg: msg}, t: msg.t}};", {"t": 1, "u": 2}, {},
         ({"all": {"msg": {"t": 1, "u": 2}}, "t": 1}, {}, "POST_TELEMETRY_REQUEST")),
        ("return {msg: {inner: {metadata: metadata}}};", {}, {"k": "v"},
         ({"inner": {"metadata": {"k": "v"}}}, {"k": "v"}, "POST_TELEMETRY_REQUEST")),
        ("msg.a.b = 2; return {msg: msg};", {"a": {"b": 1}, "c": 1}, {},
         ({"a": {"b": 2}, "c": 1}, {}, "POST_TELEMETRY_REQUEST")),
        ("[msg.a] = [7]; return {msg: msg, msgType: 'X'};", {"a": 1, "b": 2}, {}, ({"a": 7, "b": 2}, {}, "X")),
        ("msg.a = 1; msg.b = 'x'; msg.c = [1]; return {msg: msg};", {"a": 1, "z": 0}, {},
         ({"a": 1, "z": 0, "b": "x", "c": [1]}, {}, "POST_TELEMETRY_REQUEST")),
        ("msg.big = msg.n; return {msg: msg};", {"n": 2**53 + 2}, {},
         ({"n": 2**53 + 2, "big": 2**53 + 2}, {}, "POST_TELEMETRY_REQUEST")),
        ("msg.x = 1 / 0; return {msg: msg};", {"x": 1}, {}, ({"x": None}, {}, "POST_TELEMETRY_REQUEST")),
        ("arguments[0].x = 1; return {msg: msg};", {"y": 1}, {}, ({"y": 1, "x": 1}, {}, "POST_TELEMETRY_REQUEST")),
        ("var o = {msg: msg}; o.msg.x = o.msg.y; return o;", {"y": 1}, {},
         ({"y": 1, "x": 1}, {}, "POST_TELEMETRY_REQUEST")),
        ("msg.x = msg.y; return {msg: msg};", [1], {}, ([1], {}, "POST_TELEMETRY_REQUEST")),
        ("msg.x = 2; metadata.k = 'w'; return {msg: msg, metadata: metadata, msgType: msgType};", {"x": 1}, {"k": "v"},
         ({"x": 2}, {"k": "w"}, "POST_TELEMETRY_REQUEST")),
        ("msg.x = 2; msg.y = 3; return {msg: msg, metadata: metadata, msgType: msgType};", {"x": 1, "y": 1}, {},
         ({"x": 2, "y": 3}, {}, "POST_TELEMETRY_REQUEST")),
        ("msg.x = 2; msgType = 'X'; return {msg: msg, metadata: metadata, msgType: msgType};", {"x": 1}, {},
         ({"x": 2}, {}, "X")),
        ("msg.x = 2; delete msg.y; return {msg: msg, metadata: metadata, msgType: msgType};", {"y": 1}, {},
         ({"x": 2}, {}, "POST_TELEMETRY_REQUEST")),
        ("msg.x = 0 / 0; return {msg: msg, metadata: metadata, msgType: msgType};", {"x": 1}, {},
         ({"x": None}, {}, "POST_TELEMETRY_REQUEST")),
        ("var r = [1]; msg.x = 2; r.msg = msg; r.metadata = metadata; r.msgType = msgType; return {msg: r};", {}, {},
         ([1], {}, "POST_TELEMETRY_REQUEST")),
        ("return [{msg: msg, metadata: metadata}];", {"y": 1}, {"a": "b"},
         ({"y": 1}, {"a": "b"}, "POST_TELEMETRY_REQUEST")),
    ],
)  # fmt: skip
def test_what_is_left_here_and_what_comes_back_make_the_same_message(body, data, metadata, expected):
    script = make("transform", body)
    for _ in range(2):
        (made,) = script.transformed(message(data, metadata=metadata))
        assert (made.data, made.metadata, made.type) == expected


@pytest.mark.parametrize(
    "body", ["(" * 500 + "1", "!" * 5000 + "true", "if (true) {" * 200, "[" * 300, "x = " * 3000 + "1"]
)
def test_too_much_within_one_another_is_an_error_with_its_place(body):
    with pytest.raises(RejectedError, match=r"too .* \(line 1, column"):
        make("filter", body, True)
