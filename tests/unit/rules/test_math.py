"""The math node: formulas, operations, and what it reads again before it is durable."""

import math

import pytest

from gateway.domain.changes import SaveAttributes
from gateway.domain.telemetry import Attribute
from gateway.errors import RejectedError
from gateway.rules.expression import Expression
from gateway.rules.nodes.math import OPERATIONS
from tests.unit.rules.kit import Rules


@pytest.mark.parametrize(
    ("text", "numbers", "expected"),
    [
        ("(x - 32) / 1.8", {"x": 212.0}, 100),
        ("-2^2", {}, -4),
        ("2^-1", {}, 0.5),
        ("2^3^2", {}, 512),
        ("3 - 2 - 1", {}, 0),
        ("1/2x", {"x": 4.0}, 2),
        ("2(3+1)(2)", {}, 16),
        ("xy", {"x": 2.0, "y": 3.0}, 6),
        ("2x sin(y)", {"x": 2.0, "y": math.pi / 2}, 4),
        ("2e3", {}, 2000),
        ("2e", {}, 2 * math.e),
        ("e", {"e": 3.0}, 3),
        ("logab(2, 8) + cbrt(-27)", {}, 0),
        ("-7 % 3", {}, -1),
        ("--2", {}, 2),
        ("(" * 120 + "x" + ")" * 120, {"x": 1.0}, 1),
    ],
)
def test_formulas(text, numbers, expected):
    assert Expression(text, numbers)(numbers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "character 1: a number"),
        ("1 +", "character 4: a number"),
        ("(1", "a ')' is missing"),
        ("1)", "there is no '(' to it"),
        ("sin 1", "a '(' is missing behind sin"),
        ("volt", "'volt' is neither an argument nor a function"),
        ("pow(1)", "pow takes 2, not 1 arguments"),
        ("sin(1, 2)", "sin takes 1, not 2 arguments"),
        ("(1, 2)", "between arguments of a function only"),
        ("1 $ 2", "'$' means nothing here"),
    ],
)
def test_a_wrong_formula_is_told_with_its_place(text, problem):
    with pytest.raises(RejectedError) as error:
        Expression(text, ["x"])
    assert problem in str(error.value)


def argument(key):
    return {"name": key, "type": "MESSAGE_BODY", "key": key}


def result(operation, *numbers, precision=3, **more):
    keys = ["a", "b"][: len(numbers)]
    config = {
        "operation": operation,
        "arguments": [argument(key) for key in keys],
        "result": {"type": "MESSAGE_METADATA", "key": "r", "resultValuePrecision": precision},
        **more,
    }
    rules = Rules([("math.TbMathNode", "math", config), ("action.TbLogNode", "end", {})], (0, 1, "Success"))
    seen = []
    for chain in rules.engine._chains.values():
        if chain.name == "Root":
            chain.nodes[1].run = lambda msg, out: seen.append(msg.metadata["r"])
    out = rules.run(dict(zip(keys, numbers, strict=True)))
    return seen[0] if seen else out.errors[0]


@pytest.mark.parametrize(
    ("operation", "numbers", "expected"),
    [
        ("FLOOR_DIV", (-7, 2), "-4.0"),
        ("FLOOR_MOD", (-7, 3), "2.0"),
        ("GET_EXP", (10,), "3"),
        ("CEIL", (1.2,), "2"),
        ("RAD", (180,), "3.142"),
        ("DEG", (math.pi,), "180.0"),
        ("CBRT", (-27,), "-3.0"),
        ("SIGNUM", (-3,), "-1.0"),
        ("ATAN2", (1, 1), "0.785"),
        ("POW", (2, 0.5), "1.414"),
        ("MAX", (2, 5), "5.0"),
    ],
)
def test_operations(operation, numbers, expected):
    assert result(operation, *numbers) == expected


@pytest.mark.parametrize(
    ("operation", "numbers"), [("DIV", (1, 0)), ("FLOOR_DIV", (1, 0)), ("SQRT", (-1,)), ("EXP", (1000,))]
)
def test_what_has_no_result_is_a_failure(operation, numbers):
    assert "the result is no number" in result(operation, *numbers)


def test_every_operation_of_the_list_computes():
    for operation in OPERATIONS[:-1]:
        numbers = (0.5, 0.25) if result(operation, 0.5).startswith("Root") else (0.5,)
        if operation not in ("FLOOR_DIV", "FLOOR_MOD"):
            assert not result(operation, *numbers).startswith("Root"), operation


def test_a_counter_counts_messages_that_are_not_on_the_disk_yet():
    config = {
        "operation": "ADD",
        "arguments": [
            {"name": "a", "type": "ATTRIBUTE", "key": "n", "defaultValue": 0},
            {"name": "b", "type": "CONSTANT", "key": "1"},
        ],
        "result": {"type": "ATTRIBUTE", "key": "n", "resultValuePrecision": 0},
    }
    rules = Rules([("math.TbMathNode", "count", config)])
    written = [rules.run().changes[0] for _ in range(3)]
    assert [change.values["n"] for change in written if isinstance(change, SaveAttributes)] == [1, 2, 3]
    assert sorted({change.ts_ms for change in written}) == [change.ts_ms for change in written]
    place = (written[0].entity, "SERVER_SCOPE", "n")
    rules.state.attributes[place] = Attribute(written[0].ts_ms, 1)  # the first is durable, the others follow
    assert rules.run().changes[0].values == {"n": 4}
    rules.state.attributes[place] = Attribute(written[2].ts_ms + 1000, 50)  # somebody else has written it since
    assert rules.run().changes[0].values == {"n": 51}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"operation": "NOPE"}, "operation 'NOPE' is not known"),
        ({"operation": "SIN", "arguments": []}, "SIN takes 1 arguments, not 0"),
        ({"customFunction": " "}, "customFunction needs 1 to 256 characters"),
        ({"customFunction": "x +" + " " * 300}, "customFunction needs 1 to 256 characters"),
        ({"customFunction": "y"}, "neither an argument nor a function"),
    ],
)
def test_a_node_that_cannot_compute_says_so_at_the_start(config, problem):
    assert problem in Rules([("math.TbMathNode", "math", config)]).texts()[0]
