"""What several short connections in a row mean: another gateway has our key, or the line comes and goes. Pure."""

from __future__ import annotations

from typing import Final

from gateway.config import CloudConfig

HELD_S: Final = 60.0
"""A connection that was ready for so long was a good one; what fails afterwards is another outage."""
_IN_A_ROW: Final = 3  # are no accident


class Endings:
    """Counts the ends of connections."""

    def __init__(self, config: CloudConfig) -> None:
        self._reconnect_s = config.reconnect_max_ms / 1000
        self._notice_s = config.probe_s + config.answer_timeout_s
        self._evictions = self._flaps = 0

    def evicted(self, lived_s: float, *, is_mute: bool) -> bool:
        """The cloud closed the stream in order, or left it open and says nothing more; `lived_s` since it accepted us.

        True: again and again, as it happens when two gateways use one key.
        """
        # The other one waits half of the longest delay at most; of a mute stream one learns late.
        is_short = lived_s < 2 * self._reconnect_s + (self._notice_s if is_mute else 0.0)
        self._evictions = self._evictions + 1 if is_short else 1
        return self._evictions >= _IN_A_ROW

    def failed(self) -> None:
        """It ended in another way."""
        self._evictions = 0

    def ended(self, ready_for_s: float) -> None:
        """A connection that had become ready is over."""
        self._flaps = 0 if ready_for_s >= HELD_S else self._flaps + 1

    def held(self) -> None:
        """The present connection is a good one."""
        self._flaps = 0

    @property
    def is_flapping(self) -> bool:
        """So many short connections in a row: no more lines in the log until one has held."""
        return self._flaps >= _IN_A_ROW
