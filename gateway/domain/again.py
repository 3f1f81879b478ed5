"""What a person orders: parked events go again or away, history goes up again.

An order is carried out in slices, one for each request, so that nobody waits long and an order that is cut off has done
no harm: whoever gave it asks again with the `place` of the last answer until there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gateway.domain.cloud_event import Lane
from gateway.errors import RejectedError

PARKED_DISCARDED: Final = "parked_discarded"
"""Setting: how many parked events were discarded, ever."""
PARKED_RESENT: Final = "parked_resent"
"""Setting: how many parked events were put into the queue again, ever; each has got another number there."""
_MS_DIGITS: Final = 15  # until the year 30000
MAX_SEQ_IDS: Final = 1_000
"""Numbers in one order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedOrder:
    """Which parked events, and what with them: those that fit everything that is given. Nothing given: all.

    Numbers are those of one lane: without `lane` of the main one. `device` is a name, or an id.
    """

    discards: bool
    seq_ids: frozenset[int] | None = None
    lane: Lane | None = None
    reason: str | None = None  #: a part of the reason's text
    device: str | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryOrder:
    """Telemetry of one device, `from_ms` ≤ ts < `to_ms`; without keys all of them."""

    device: str
    from_ms: int
    to_ms: int
    keys: Sequence[str] = ()
    place: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one request has done, durably. `place` None: the order is carried out; else the next request takes it along.

    `waits` says why not more was done now; the next request then comes a little later.
    """

    done: int = 0  #: events
    stays: Mapping[str, int] = field(default_factory=dict)  #: events that stay parked, by the reason
    place: str | None = None
    waits: str | None = None
    note: str | None = None


def moment_ms(text: str, where: str) -> int:
    """ISO 8601 (UTC unless it says otherwise), or milliseconds since 1970.

    Raises:
        RejectedError: It is neither; names `where`.
    """
    if text.isdecimal() and len(text) <= _MS_DIGITS:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise RejectedError(
            f"{where}: {text!r} is no moment: ISO 8601 like 2026-05-01T08:00:00Z, or milliseconds since 1970"
        ) from None


def moment_text(ms: int) -> str:
    """The reverse, for a person; a number that no calendar has stays a number."""
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"
    except (ValueError, OverflowError, OSError):
        return str(ms)
