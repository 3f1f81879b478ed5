"""Geometry of geofencing, a row a shape."""

import pytest

from gateway.errors import RejectedError
from gateway.rules.geofence import circle, distance_m, polygons

SQUARE = [[0, 0], [0, 10], [10, 10], [10, 0]]
HOLE = [[4, 4], [4, 6], [6, 6], [6, 4], [4, 4]]
ISLAND = [[20, 20], [20, 30], [30, 20]]
ARROW = [[0, 0], [5, 4], [0, 8], [10, 4]]


@pytest.mark.parametrize(
    ("shape", "position", "is_inside"),
    [
        (SQUARE, (5, 5), True),
        (SQUARE, (0, 5), False),  # the border is outside
        (SQUARE, (10, 10), False),
        (SQUARE, (-0.001, 5), False),
        ([SQUARE, HOLE], (5, 5), False),
        ([SQUARE, HOLE], (4, 5), False),
        ([SQUARE, HOLE], (3, 5), True),
        ([[SQUARE, HOLE], [ISLAND]], (22, 22), True),
        ([[SQUARE, HOLE], [ISLAND]], (28, 28), False),
        ([SQUARE, ISLAND], (5, 5), True),
        (ARROW, (1, 4), False),
        (ARROW, (6, 4), True),
        (ARROW, (10, 5), False),
        ("[[0,0],[0,10],[10,10]]", (1, 9), True),
    ],
)
def test_polygon(shape, position, is_inside):
    assert polygons(shape)(position) is is_inside


@pytest.mark.parametrize(
    "shape", [None, "", "[", "{}", [], [[]], [[1, 2], [3, 4]], [[1, 2], [3], [5, 6]], [["a", 1], [2, 3], [4, 5]], 5]
)
def test_what_is_no_polygon(shape):
    with pytest.raises(RejectedError):
        polygons(shape)


def test_distance_and_circle():
    stuttgart, ulm = (48.7758, 9.1829), (48.4011, 9.9876)
    assert distance_m(stuttgart, ulm) == pytest.approx(72_400, rel=0.01)
    assert distance_m((0, 179.9), (0, -179.9)) == pytest.approx(22_239, rel=0.001)
    length_m = distance_m(stuttgart, ulm)
    for unit, metres in {"METER": 1, "KILOMETER": 1000, "FOOT": 0.3048, "MILE": 1609.34, "NAUTICAL_MILE": 1852}.items():
        assert circle(*stuttgart, length_m / metres * 1.001, unit)(ulm)
        assert not circle(*stuttgart, length_m / metres * 0.999, unit)(ulm)
    for given in ((None, 1, 1, "METER"), (1, "x", 1, "METER"), (1, 1, True, "METER"), (1, 1, 1, "LEAGUE")):
        with pytest.raises(RejectedError):
            circle(*given)
