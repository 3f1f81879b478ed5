"""Who may talk to a unit beside whom, on a line that carries several questions at a time. Nobody waits here."""

from __future__ import annotations

from collections.abc import Container
from typing import Final


class _Everything:
    def __contains__(self, unit: object) -> bool:
        return True


ALL: Final[Container[str | None]] = _Everything()


class Gates:
    """Reads of one unit share it; whatever may change something in the unit has it alone.

    Unit None: it is not known which, so all that there are. Who may not enter is not let in later either: it asks again
    when somebody has left.
    """

    def __init__(self) -> None:
        self._inside: dict[str | None, int] = {}
        self._alone: set[str | None] = set()

    @property
    def shut(self) -> Container[str | None]:
        """The units that nobody may enter now."""
        return ALL if None in self._alone else self._alone

    def is_free(self, unit: str | None, *, alone: bool) -> bool:
        """It may enter."""
        if unit is None:
            return not (self._inside if alone else self._alone)
        taken: Container[str | None] = self._inside if alone else self._alone
        return unit not in taken and None not in taken

    def enter(self, unit: str | None, *, alone: bool) -> None:
        """To be asked before: `is_free`."""
        self._inside[unit] = self._inside.get(unit, 0) + 1
        if alone:
            self._alone.add(unit)

    def leave(self, unit: str | None) -> None:
        """Once for each `enter`."""
        self._alone.discard(unit)  # who is alone is the only one
        self._inside[unit] -= 1
        if not self._inside[unit]:
            del self._inside[unit]


class Queue:
    """The gates as those see them who wait in one queue: nobody passes one before it who waits for the same unit."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._wanted: set[str | None] = set()

    def may_enter(self, unit: str | None, *, alone: bool) -> bool:
        """Ask for each in the order of arrival."""
        is_behind = bool(self._wanted) if unit is None else unit in self._wanted or None in self._wanted
        if not is_behind and self._gates.is_free(unit, alone=alone):
            return True
        self._wanted.add(unit)
        return False

    @property
    def shut(self) -> Container[str | None]:
        """The units that nobody else should enter: somebody is alone there, or waits."""
        if None in self._wanted or self._gates.shut is ALL:
            return ALL
        return _Either(self._wanted, self._gates.shut) if self._wanted else self._gates.shut


class _Either:
    def __init__(self, *parts: Container[str | None]) -> None:
        self._parts = parts

    def __contains__(self, unit: object) -> bool:
        return any(unit in part for part in self._parts)
