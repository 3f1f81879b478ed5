"""When an alarm rule is active: always, in a window of some days of the week, or in one of each day's own.

Times are milliseconds after local midnight, as they pass: a day on which the clocks change has 23 or 25 hours.
Source: reference device-api §4.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from gateway.domain.entity import Json
from gateway.errors import RejectedError

Active = Callable[[int], bool]
"""At this time (UTC epoch, milliseconds)?"""

DAY_MS: Final = 24 * 3600 * 1000
_OFFSET: Final = re.compile(r"(?:UTC|GMT|UT)?([+-])(\d{1,2})(?::?(\d{2}))?")


def always(ts_ms: int) -> bool:
    """No schedule."""
    return True


def parse_schedule(tree: Json) -> Active:
    """Of a rule's `schedule`, or of the attribute that replaces it: there `type` may be absent.

    Raises:
        RejectedError: Says what would be right.
    """
    if tree is None:
        return always
    if not isinstance(tree, dict):
        raise RejectedError("schedule must be an object")
    kind = tree.get("type")
    if kind is None:
        kind = "SPECIFIC_TIME" if "daysOfWeek" in tree else "CUSTOM" if "items" in tree else "ANY_TIME"
    if kind == "ANY_TIME":
        return always
    if kind not in ("SPECIFIC_TIME", "CUSTOM"):
        raise RejectedError(f"schedule.type {kind!r} is unknown; there are ANY_TIME, SPECIFIC_TIME and CUSTOM")
    zone = _zone(tree.get("timezone"))
    days = _specific(tree) if kind == "SPECIFIC_TIME" else _custom(tree)

    def is_active(ts_ms: int) -> bool:
        try:
            local = datetime.fromtimestamp(ts_ms / 1000, zone)
            midnight = datetime(local.year, local.month, local.day, tzinfo=zone).timestamp()
        except (OverflowError, ValueError, OSError):
            return False  # a time that no calendar knows is in no window
        window = days.get(local.isoweekday())
        if window is None:
            return False
        start_ms, end_ms = window
        passed_ms = ts_ms - round(midnight * 1000)
        if start_ms <= end_ms:
            return start_ms <= passed_ms < end_ms
        return passed_ms >= start_ms or passed_ms < end_ms

    return is_active


def _specific(tree: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    days = tree.get("daysOfWeek")
    if not isinstance(days, list) or not all(day in range(1, 8) for day in days):
        raise RejectedError("schedule.daysOfWeek must be a list of 1 (Monday) to 7 (Sunday)")
    window = _window(tree, "schedule")
    return {int(day): window for day in days}


def _custom(tree: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    items = tree.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RejectedError("schedule.items must be a list of objects with enabled, dayOfWeek, startsOn, endsOn")
    days: dict[int, tuple[int, int]] = {}
    for item in items:
        day = item.get("dayOfWeek")
        if day not in range(1, 8):
            raise RejectedError("schedule.items.dayOfWeek must be 1 (Monday) to 7 (Sunday)")
        if item.get("enabled") is True:
            days.setdefault(int(day), _window(item, "schedule.items"))
    return days


def _window(tree: Mapping[str, Any], where: str) -> tuple[int, int]:
    start, end = tree.get("startsOn") or 0, tree.get("endsOn") or 0
    for name, value in (("startsOn", start), ("endsOn", end)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= DAY_MS:
            raise RejectedError(f"{where}.{name} must be milliseconds after midnight, 0 to {DAY_MS}")
    return int(start), int(end) or DAY_MS


@lru_cache(maxsize=256)
def _zone(name: Json) -> tzinfo:
    """A name of the tz database, or an offset as `UTC+2`; nothing is UTC."""
    if name is None or name == "":
        return UTC
    text = str(name)
    if (found := _OFFSET.fullmatch(text)) and int(found[2]) < 24:
        offset = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
        return timezone(-offset if found[1] == "-" else offset)
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise RejectedError(
            f"schedule.timezone {text[:50]!r} is unknown; it must be a name such as Europe/Berlin"
        ) from None
