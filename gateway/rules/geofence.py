"""Where a message is, and whether that is inside. Source: reference rule-engine §4.7.

Positions are (latitude, longitude) in degrees. A polygon is plane in these, as in ThingsBoard; its border is outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import orjson

from gateway.domain.entity import Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.rules.node import NodeConfig, Recent

Position = tuple[float, float]
Ring = Sequence[Position]
Contains = Callable[[Position], bool]

EARTH_RADIUS_M: Final = 6_371_008.7714  # the mean radius, as spatial4j has it
UNITS_M: Final = {
    "METER": 1.0,
    "KILOMETER": 1000.0,
    "FOOT": 1000 / 3280.84,
    "MILE": 1000 / 0.62137,
    "NAUTICAL_MILE": 1000 / 0.539957,
}
MAX_POINTS: Final = 10_000


class GeofenceConfig(NodeConfig):
    """Of both geofencing nodes. The perimeter is in metadata, or else here."""

    latitude_key_name: str = "latitude"
    longitude_key_name: str = "longitude"
    perimeter_type: Literal["POLYGON", "CIRCLE"] = "POLYGON"
    fetch_perimeter_info_from_message_metadata: bool = False
    perimeter_key_name: str = ""
    polygons_definition: Any = None
    center_latitude: float | None = None
    center_longitude: float | None = None
    range: float | None = None
    range_unit: str = "METER"


def geofence(config: GeofenceConfig) -> Callable[[Message], bool]:
    """Whether a message is inside. It raises `RejectedError` for one without a position or perimeter.

    Raises:
        RejectedError: The perimeter of the configuration is none.
    """
    if config.fetch_perimeter_info_from_message_metadata:
        parsed = Recent(100)

        def in_metadata(msg: Message) -> bool:
            position = position_of(msg, config)
            key = _perimeter_text(msg, config)
            contains = parsed.get(key)
            if contains is None:
                contains = polygons(key[0]) if key[1] == "POLYGON" else _circle_of(key[0])
                parsed.put(key, contains)
            return bool(contains(position))

        return in_metadata
    if config.perimeter_type == "POLYGON":
        fixed = polygons(config.polygons_definition)
    else:
        fixed = circle(config.center_latitude, config.center_longitude, config.range, config.range_unit)
    return lambda msg: fixed(position_of(msg, config))


def position_of(msg: Message, config: GeofenceConfig) -> Position:
    """From the body, else from metadata; RejectedError: it is not there."""
    if not isinstance(msg.data, dict):
        raise RejectedError("the body is no object")
    found = []
    for key in (config.latitude_key_name, config.longitude_key_name):
        value = msg.data.get(key)
        found.append(_number(msg.metadata.get(key) if value is None else value, key))
    return found[0], found[1]


def _perimeter_text(msg: Message, config: GeofenceConfig) -> tuple[str, str]:
    """The perimeter as JSON text, and its type."""
    metadata = msg.metadata
    if config.perimeter_key_name:
        text = metadata.get(config.perimeter_key_name)
        if not text:
            raise RejectedError(f"metadata has no perimeter {config.perimeter_key_name!r}")
        return text, config.perimeter_type
    if metadata.get("perimeter"):
        return metadata["perimeter"], "POLYGON"
    names = {"latitude": "centerLatitude", "longitude": "centerLongitude", "radius": "range", "radiusUnit": "rangeUnit"}
    values = {name: metadata[key] for name, key in names.items() if key in metadata}
    if len(values) < len(names):
        raise RejectedError("metadata has neither perimeter nor centerLatitude, centerLongitude, range and rangeUnit")
    return orjson.dumps(values).decode(), "CIRCLE"


def _circle_of(text: str) -> Contains:
    tree = _json(text)
    if not isinstance(tree, dict):
        raise RejectedError("the perimeter is no circle: an object with latitude, longitude and radius is needed")
    unit = tree.get("radiusUnit") or "METER"
    return circle(tree.get("latitude"), tree.get("longitude"), tree.get("radius"), unit)


def circle(latitude: Json, longitude: Json, radius: Json, unit: Json) -> Contains:
    """Nearer than the radius, along the surface of the earth."""
    center = _number(latitude, "the latitude of the centre"), _number(longitude, "the longitude of the centre")
    if unit not in UNITS_M:
        raise RejectedError(f"{unit!r} is no unit of length; there are {', '.join(UNITS_M)}")
    radius_m = _number(radius, "the radius") * UNITS_M[unit]
    return lambda position: distance_m(center, position) < radius_m


def distance_m(one: Position, other: Position) -> float:
    """Great-circle distance in metres (haversine)."""
    (lat1, lon1), (lat2, lon2) = ((math.radians(degrees) for degrees in position) for position in (one, other))
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(half)))


def polygons(definition: Json) -> Contains:
    """Within a ring, and in none of its holes: rings that lie within another one.

    Args:
        definition: `[[lat, lon], …]`, or lists of such rings in any depth; or that as text.
    """
    tree = _json(definition) if isinstance(definition, str) else definition
    rings: list[Ring] = []
    if not isinstance(tree, list):
        raise RejectedError("the polygon must be a list of [latitude, longitude]")
    _collect(tree, rings, 0)
    if not rings or sum(map(len, rings)) > MAX_POINTS:
        raise RejectedError(f"the polygon needs 3 to {MAX_POINTS} points")
    holes = [ring for ring in rings if any(other is not ring and _is_within(ring, other) for other in rings)]
    shells = [ring for ring in rings if not any(ring is hole for hole in holes)]

    def contains(position: Position) -> bool:
        if not any(_place(position, shell) > 0 for shell in shells):
            return False
        return all(_place(position, hole) < 0 for hole in holes)

    return contains


def _collect(tree: Json, rings: list[Ring], depth: int) -> None:
    if depth > 5 or not isinstance(tree, list) or not tree:
        raise RejectedError("the polygon must be a list of [latitude, longitude], or a list of such lists")
    if isinstance(tree[0], list) and tree[0] and not isinstance(tree[0][0], list):
        points = [_point(point) for point in tree]
        if points[0] == points[-1]:
            points.pop()
        if len(points) < 3:
            raise RejectedError("a polygon needs at least 3 points")
        rings.append(points)
        return
    for part in tree:
        _collect(part, rings, depth + 1)


def _point(point: Json) -> Position:
    if not isinstance(point, list) or len(point) < 2:
        raise RejectedError("a point of the polygon must be [latitude, longitude]")
    return _number(point[0], "a latitude of the polygon"), _number(point[1], "a longitude of the polygon")


def _is_within(inner: Ring, outer: Ring) -> bool:
    """By its corners: some inside, none outside."""
    places = [_place(point, outer) for point in inner]
    return min(places) >= 0 and max(places) > 0


def _place(position: Position, ring: Ring) -> int:
    """1 inside, 0 on the border, -1 outside."""
    x, y = position
    is_inside = False
    x1, y1 = ring[-1]
    for x2, y2 in ring:
        side = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
        if side == 0 and min(x1, x2) <= x <= max(x1, x2) and min(y1, y2) <= y <= max(y1, y2):
            return 0
        if (y1 > y) != (y2 > y) and (side > 0) == (y2 > y1):
            is_inside = not is_inside
        x1, y1 = x2, y2
    return 1 if is_inside else -1


def _number(value: Json, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RejectedError(f"{what!r} is missing, or no number")
    return number


def _json(text: Json) -> Json:
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError as error:
        raise RejectedError(f"the perimeter is no JSON: {error}") from None
