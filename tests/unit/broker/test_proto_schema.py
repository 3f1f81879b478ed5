"""Schemas of device profiles: what is taken, how it reads, and which line a complaint names."""

import pytest

from gateway.broker.proto_schema import MAX_SCHEMA_CHARS, SchemaError, parse_schema
from gateway.broker.protobuf import Codec
from gateway.domain.payloads import PayloadError

HEAD = 'syntax = "proto3";\n'

ALL_SHAPES = (
    HEAD
    + """package plant.one; // a comment
option java_package = "x.y";
/* over
   lines */
message Extra { map<string, int32> counts = 1; }
enum Mode { option allow_alias = true; OFF = 0; ON = 1; RUN = 1; }
message Reading {
  reserved 90 to 95;
  enum Kind { COLD = 0; HOT = 1; }
  message Inner { optional double humidity = 1; sint64 big = 2; .plant.one.Mode mode = 3; }
  optional int32 temp_c = 1;
  repeated Kind kinds = 2 [packed = true];
  Inner inner = 3;
  oneof what { string text = 4; bytes raw = 5; }
  plant.one.Extra extra = 6;
  optional string note = 7;
  uint32 zero = 8 [json_name = "nil", deprecated = true];
  map<int32, Inner> by_number = 9;
};
"""
)


def test_every_shape_survives_the_way_out_and_back():
    codec = Codec(ALL_SHAPES)
    tree = {
        "tempC": -3,
        "kinds": ["COLD", "HOT"],
        "inner": {"humidity": 1.5, "big": "-5", "mode": "ON"},
        "text": "x",
        "extra": {"counts": {"q": 1}},
        "nil": 0,
        "byNumber": {"7": {"big": "0", "mode": "OFF"}},
    }
    assert codec.to_json(codec.from_json(tree)) == tree


def test_bytes_of_a_foreign_encoder_are_read():
    """Bytes by hand: field 1 varint 150, field 4 text "hi" (Protocol Buffers encoding guide)."""
    assert Codec(ALL_SHAPES).to_json(b"\x08\x96\x01\x22\x02hi") == {
        "tempC": 150, "text": "hi", "kinds": [], "nil": 0, "byNumber": {},
    }  # fmt: skip


def test_absent_fields_have_their_default_and_optional_ones_are_absent():
    codec = Codec(HEAD + "message Old { int32 x = 1; } message New { int32 a = 1; optional int32 b = 2; }")
    assert codec.to_json(b"") == {"a": 0}


def test_nearest_declaration_of_a_name_counts():
    codec = Codec(HEAD + "message T { int32 outer = 1; } message M { message T { int32 inner = 1; } T t = 1; }")
    assert codec.to_json(b"\x0a\x00") == {"t": {"inner": 0}}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, 'begin with: syntax = "proto3"'),
        ('syntax = "proto2";', 1, 'not "proto2"'),
        (HEAD, 2, "no message"),
        (HEAD + '\nimport "a.proto";', 3, "imports are not possible"),
        (HEAD + "message A {\n  Foo x = 1;\n}", 3, "Foo of x is not declared"),
        (HEAD + "message A {\n  int32 x = 1;\n  int32 y = 1;\n}", 4, "belongs to x already"),
        (HEAD + "message A {\n  int32 x = 1;\n  int32 x = 2;\n}", 4, "declared twice"),
        (HEAD + "message A {\n  int32 x = 19001;\n}", 3, "19000 to 19999"),
        (HEAD + "message A {\n  int32 x = 0;\n}", 3, "field number 0"),
        (HEAD + "message A {\n  int32 x = one;\n}", 3, "whole number"),
        (HEAD + "message A {\n  required int32 x = 1;\n}", 3, "does not exist in proto3"),
        (HEAD + "message A {\n  map<double, int32> x = 1;\n}", 3, "double cannot be the key"),
        (HEAD + "message A {\n  oneof x { }\n}", 3, "has no field"),
        (HEAD + "message A {\n  oneof x { repeated int32 y = 1; }\n}", 3, "not possible within oneof"),
        (HEAD + "message A { }\nmessage A { }", 3, "declared twice"),
        (HEAD + "enum E {\n  X = 1;\n}", 3, "must be 0"),
        (HEAD + "message A {\n  int32 x = 1\n}", 4, "expected ';'"),
        (HEAD + "message A {\n", 3, "at the end of message A"),
        (HEAD + "message A {\n  int32 € = 1;\n}", 3, "does not belong"),
        (HEAD + "service S { }", 2, "not service"),
        (HEAD + "message A {" * 40, 2, "deeper than 32"),
        (HEAD + " " * MAX_SCHEMA_CHARS, 1, "the most"),
    ],
)
def test_a_complaint_names_the_line(text, line, words):
    with pytest.raises(SchemaError) as caught:
        parse_schema(text)
    assert caught.value.line == line
    assert words in str(caught.value)


def test_what_only_the_library_notices_is_a_complaint_too():
    with pytest.raises(SchemaError, match="contradicts itself"):
        Codec(HEAD + "message A { enum E { Z = 0; } enum F { Z = 0; } }")


@pytest.mark.parametrize("payload", [b"\x08", b"\x22\x02\xff\xff", b"x", b'{"a":1}', b"\x1a" * 50])
def test_other_bytes_are_no_message(payload):
    with pytest.raises(PayloadError, match="not the protobuf message Reading"):
        Codec(ALL_SHAPES).to_json(payload)
