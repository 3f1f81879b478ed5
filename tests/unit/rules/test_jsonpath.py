"""JSON paths, a row a kind of step."""

import pytest

from gateway.errors import RejectedError
from gateway.rules.jsonpath import JsonPath

BODY = {
    "a": {"b": [1, 2, 3], "c d": None},
    "rows": [{"k": "x", "v": 1}, {"k": "y", "v": 5, "w": True}, {"k": "z"}],
    "v": 9,
    "limit": 2,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", BODY),
        ("$.v", 9),
        ("$['a']['c d']", None),
        ('$.a["b"][0]', 1),
        ("$.a.b[-1]", 3),
        ("$.a.b[*]", [1, 2, 3]),
        ("$.a.*", [[1, 2, 3], None]),
        ("$.a.b[0,2]", [1, 3]),
        ("$.a.b[1:]", [2, 3]),
        ("$.a.b[:-1]", [1, 2]),
        ("$.a.b[5,6]", []),
        ("$..v", [9, 1, 5]),
        ("$..[0]", [1, {"k": "x", "v": 1}]),
        ("$..nope", []),
        ("$.rows[*].v", [1, 5]),
        ("$['v','limit','no']", {"v": 9, "limit": 2}),
        ("$.rows[?(@.v)].k", ["x", "y"]),
        ("$.rows[?(!@.v)].k", ["z"]),
        ("$.rows[?(@.v > 1)].k", ["y"]),
        ("$.rows[?(@.v >= $.limit || @.k == 'x')].k", ["x", "y"]),
        ('$.rows[?((@.v <= 1 || @.w == true) && @.k != "x")].k', ["y"]),
        ("$.rows[?(@.k in ['x', 'z'])].k", ["x", "z"]),
        ("$.rows[?(@.k nin ['x'])].k", ["y", "z"]),
        ("$.rows[?(@.v < 'text')]", []),
        ("$.a[?(@.b)]", [{"b": [1, 2, 3], "c d": None}]),
        ("$.a.b.length()", 3),
        ("$.a.b.sum()", 6),
        ("$.rows[*].v.max()", 5),
        ("$.a.b.avg()", 2.0),
        ("$.a.b.last()", 3),
        ("$.a.keys()", ["b", "c d"]),
    ],
)
def test_found(path, found):
    assert JsonPath(path).read(BODY) == found


@pytest.mark.parametrize(
    "path", ["$.nope", "$.v.x", "$.a.b[3]", "$.nope[*]", "$.a.min()", "$.v.length()", "$.v.keys()"]
)
def test_not_found(path):
    with pytest.raises(RejectedError):
        JsonPath(path).read(BODY)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("", "'$' is missing at character 1"),
        ("a.b", "'$' is missing"),
        ("$.", "a key is missing at character 3"),
        ("$.a[", "is missing at character 5"),
        ("$.a b", "'b' is not understood at character 5"),
        ("$['a','b'].c", "only be the last step"),
        ("$[?(@.a =~ /x/)]", "is missing"),
        ("$[?(@..a == 1)]", "one value only"),
        ("$[?(@.a == )]", "a value is missing"),
        ("$[?" + "(" * 30, "too many parentheses"),
        ("$" + ".a" * 600, "1000 are the limit"),
    ],
)
def test_what_is_no_path_is_refused_with_the_place(path, place):
    with pytest.raises(RejectedError) as error:
        JsonPath(path)
    assert place in str(error.value)


def test_a_path_that_costs_too_much_ends():
    body = [[[list(range(100)) for _ in range(10)] for _ in range(10)] for _ in range(10)]
    with pytest.raises(RejectedError, match="looks at more than"):
        JsonPath("$..*..*..*").read(body)
