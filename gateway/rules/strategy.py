"""Which values a save node keeps: `processingSettings`. Source: reference rule-engine §4.6."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.domain.entity import EntityId
from gateway.errors import RejectedError
from gateway.rules.node import Recent

Keeps = Callable[[EntityId, int], bool]
"""Whether the values of this originator at this time (milliseconds) are kept. Asked once per value set."""

REMEMBERED: Final = 10_000
"""Intervals of originators that a node remembers."""


def strategy(settings: Mapping[str, Any] | None, part: str) -> Keeps:
    """The rule for one part (`timeseries`, `latest`, `attributes`) of the settings.

    Raises:
        RejectedError: The settings are not understood; the node does not start.
    """
    kind = settings.get("type", "ON_EVERY_MESSAGE") if settings else "ON_EVERY_MESSAGE"
    if kind == "WEBSOCKETS_ONLY":
        return _never
    if kind == "ADVANCED" and settings:
        inner = settings.get(part)
        # A part that is not named is one that this release of the cloud does not know: kept.
        return _single(inner if isinstance(inner, dict) else {"type": "ON_EVERY_MESSAGE"})
    return _single(settings or {"type": "ON_EVERY_MESSAGE"})


def _single(settings: Mapping[str, Any]) -> Keeps:
    kind = settings.get("type", "ON_EVERY_MESSAGE")
    if kind == "ON_EVERY_MESSAGE":
        return _always
    if kind == "SKIP":
        return _never
    if kind == "DEDUPLICATE":
        seconds = settings.get("deduplicationIntervalSecs")
        if not isinstance(seconds, int) or not 1 <= seconds <= 86_400:
            raise RejectedError("deduplicationIntervalSecs must be 1 to 86400")
        return _first_of(seconds * 1000)
    raise RejectedError(f"processing strategy {kind!r} is not known")


def _always(entity: EntityId, ts_ms: int) -> bool:
    return True


def _never(entity: EntityId, ts_ms: int) -> bool:
    return False


def _first_of(interval_ms: int) -> Keeps:
    """The first message of each originator in each interval, counted from the epoch by data time."""
    seen = Recent(REMEMBERED)

    def keeps(entity: EntityId, ts_ms: int) -> bool:
        key = (entity, ts_ms // interval_ms)
        if seen.get(key):
            return False
        seen.put(key, True)
        return True

    return keeps


def keeps_all(keeps: Keeps) -> bool:
    """True when nothing is ever left out, so that the question need not be asked."""
    return keeps is _always
