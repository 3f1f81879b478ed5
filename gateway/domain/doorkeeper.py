"""Who may knock: wrong credentials are counted by address, and an address with too many of them is shut out."""

from __future__ import annotations

from typing import Final

_MAX_ADDRESSES: Final = 10_000


class Doorkeeper:
    """Counts refusals of an address; at `limit` it is blocked for `block_s`, then everything is forgotten."""

    def __init__(self, limit: int, block_s: float) -> None:
        self._limit, self._block_s = limit, block_s
        self._refusals: dict[str, tuple[int, float]] = {}  # count, and when it is forgotten; oldest first

    def is_blocked(self, address: str, now_s: float) -> bool:
        """True while new connections of this address are dropped."""
        known = self._refusals.get(address)
        if known is None:
            return False
        count, until_s = known
        if now_s >= until_s:
            del self._refusals[address]
            return False
        return count >= self._limit

    def refused(self, address: str, now_s: float) -> bool:
        """One more wrong credential; True when this one caused a block."""
        count, until_s = self._refusals.pop(address, (0, 0.0))
        if now_s >= until_s:
            count = 0
        elif count >= self._limit:
            self._refusals[address] = (count, until_s)
            return False
        if len(self._refusals) >= _MAX_ADDRESSES:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[address] = (count + 1, now_s + self._block_s)
        return count + 1 == self._limit

    def accepted(self, address: str) -> None:
        """Right credentials: start counting anew."""
        self._refusals.pop(address, None)
