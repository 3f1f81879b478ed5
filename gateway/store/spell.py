"""While calls come, groups of other data are cut, so that the next call waits for a short one. Pure; time comes in.

What a group costs is measured: the price of any commit (a sync, mostly) as groups of calls pay it, which are hardly
anything else, and beyond that price a cost for each byte, as the last other group paid it.
"""

from __future__ import annotations

from typing import Final

SPELL_S: Final = 2.0  # after a group of calls: more of them are likely
SHORT_S: Final = 0.006
"""What a group may cost beyond the price of any commit, while calls come. A slow disk makes it longer: at least twice
that price, so that two thirds of its time are left to what is written."""


class Spell:
    """Whether calls come, and how large a group may be meanwhile."""

    def __init__(self) -> None:
        self._until_s = -1.0
        self._any_s = self._byte_s = 0.0

    def calls(self, now_s: float, spent_s: float) -> None:
        """A group of calls was written."""
        slower_s = 1.5 * self._any_s or spent_s  # one that was slow by chance does not count much
        self._any_s = min(spent_s, slower_s)
        self._until_s = now_s + SPELL_S

    def others(self, weight_bytes: int, spent_s: float) -> None:
        """A group of anything else was written; 0 seconds: there was nothing to write in it."""
        if spent_s > 0:
            self._byte_s = max(0.0, spent_s - self._any_s) / weight_bytes

    def most_bytes(self, now_s: float, whole_bytes: int) -> int:
        """Of the next group; `whole_bytes` when no calls come."""
        if now_s >= self._until_s or not self._byte_s:
            return whole_bytes
        return min(whole_bytes, int(max(SHORT_S, 2 * self._any_s) / self._byte_s))
