"""Silence of a poll, a unit or a whole bus: how long to wait, and two log lines."""

from __future__ import annotations

import logging
import random
from typing import Final

from gateway.errors import TransientError
from gateway.supervise import Backoff

log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 1.0, 30.0

SHARE: Final = 50
"""A try of something silent costs the others its timeout. So many timeouts lie between two tries: 2 % of the line …"""

SHARE_EACH: Final = 25
"""… and so many for each that is silent at the same time: 4 % for all of them."""

PROBE_LONGEST_S: Final = 600.0

CALL_SHARE: Final = 10
"""A call to a silent unit is tried when so many timeouts have passed since the last try, and refused at once before."""


def probe_wait_s(cost_s: float, failures: int, silent: int) -> float:
    """How long something silent has to wait for the sake of the others: not at all after one lost answer, 8 timeouts
    after the second, 32 after the third, then as many as its share allows.

    Args:
        cost_s: What the last try cost, about its timeout.
        failures: In a row, this one included.
        silent: How many on this line are silent now.
    """
    if failures < 2:
        return 0.0
    turns: float = min(max(SHARE, SHARE_EACH * silent), 2.0 * 4.0 ** min(failures - 1, 10))
    return min(PROBE_LONGEST_S, cost_s * turns)


class Outage:
    """Counts failures in a row. The second one begins an outage in the log, the next answer ends it.

    One lost answer alone is no news: it is counted, and the next try comes within a second.
    """

    def __init__(self, name: str, rng: random.Random | None = None) -> None:
        self._name = name
        self._backoff = Backoff(FIRST_S, LONGEST_S, rng=rng)
        self._failures = 0
        self.since_ms: int | None = None
        self.error: str | None = None

    @property
    def failures(self) -> int:
        """In a row."""
        return self._failures

    def failed(self, error: TransientError, now_ms: int, cost_s: float = 0.0, silent: int = 1) -> float:
        """Another failure: seconds until the next try. `cost_s`, `silent`: as for `probe_wait_s`."""
        self._failures += 1
        self.error = str(error)
        if self.since_ms is None:
            self.since_ms = now_ms
        if self._failures == 2:
            log.warning("%s is silent, trying again in the background: %s", self._name, error)
        return max(self._backoff.next_s(), probe_wait_s(cost_s, self._failures, silent))

    @property
    def is_beginning(self) -> bool:
        """The last failure was the one that makes it an outage."""
        return self._failures == 2

    def answered(self, now_ms: int) -> None:
        """It works."""
        if self.since_ms is None:
            return
        if self._failures >= 2:
            log.warning("%s answers again after %.0f s", self._name, (now_ms - self.since_ms) / 1000)
        self._failures, self.since_ms, self.error = 0, None, None
        self._backoff.reset()


class Silence:
    """Of a unit, as those see it who want to call it."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.text = ""
        self.tried_s = 0.0  # when the last try was over that failed; monotonic
        self.cost_s = 0.0  # what it took

    def failed(self, text: str, now_s: float, cost_s: float) -> None:
        """No answer."""
        self.failures += 1
        self.text, self.tried_s, self.cost_s = text, now_s, cost_s

    def why_not_now(self, now_s: float) -> TransientError | None:
        """Why a call is not worth a timeout of everybody else now."""
        wait_s = self.tried_s + CALL_SHARE * self.cost_s - now_s
        if self.failures < 2 or wait_s <= 0:
            return None
        return TransientError(f"{self.text}; it is silent, and a call is tried again in {max(1, round(wait_s))} s")


class Unit:
    """What is known of one unit of a bus."""

    def __init__(self, bus: str, unit: str, rng: random.Random | None = None) -> None:
        self.unit = unit
        self.outage = Outage(f"{bus}: unit {unit}", rng)
        self.polls = self.errors = self.answers = 0
        self.silence = Silence()
        self.last_good_ms: int | None = None
        self.last_refusal: str | None = None
        self.devices: set[str] = set()  # whose values its polls have brought

    def status(self, *, is_bus_lost: bool) -> dict[str, object]:
        """For a person."""
        return {
            "unit": self.unit,
            "ok": not is_bus_lost and self.outage.since_ms is None and self.last_good_ms is not None,
            "silent_since_ms": self.outage.since_ms,
            "last_good_ms": self.last_good_ms,
            "last_error": self.outage.error or self.last_refusal,
            "polls": self.polls,
            "errors": self.errors,
        }
