"""A bounded number of things under way, of which no device may have more than its share."""

from __future__ import annotations

from collections import Counter
from uuid import UUID


class Load:
    """Who has how many. `most` altogether, `most_of_device` of one device."""

    def __init__(self, most: int, most_of_device: int) -> None:
        self._most, self._most_of_device = most, most_of_device
        self._of_device: Counter[UUID] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def has_room(self, device_id: UUID) -> bool:
        """May this device have one more?"""
        return self._count < self._most and self._of_device.get(device_id, 0) < self._most_of_device

    def enter(self, device_id: UUID) -> None:
        """One more; who must not be refused need not ask for room."""
        self._of_device[device_id] += 1
        self._count += 1

    def leave(self, device_id: UUID) -> None:
        """One less; to be called once for each `enter`."""
        self._count -= 1
        self._of_device[device_id] -= 1
        if not self._of_device[device_id]:
            del self._of_device[device_id]
