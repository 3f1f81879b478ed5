"""Answers that may still come. Pure: time comes in as seconds.

A line has no transaction ids: an answer says which unit and which function, never which question. So after a question
without an answer, nothing of that function is asked of that unit again until its answer has come after all, or
until the longest time that a unit may be late has passed. Anything else may be asked meanwhile: the late answer
is told from it by unit or function, and paid off.
"""

from __future__ import annotations

from drivers.modbus.protocol.pdu import ERROR_BIT


class Owed:
    """Who still owes an answer: at most one for each unit and function, because nobody is asked twice."""

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._until_s: dict[tuple[int, int], float] = {}

    def __len__(self) -> int:
        return len(self._until_s)

    def missed(self, unit: int, function: int, now_s: float) -> None:
        """A question ended without its answer."""
        self._until_s[unit, function] = now_s + self._late_s

    def arrived(self, unit: int, pdu: bytes) -> bool:
        """An answer that nobody waits for; True when it was owed. A refusal pays as well."""
        return self._until_s.pop((unit, pdu[0] & ~ERROR_BIT), None) is not None

    def wait_s(self, unit: int, function: int, now_s: float) -> float:
        """Seconds until this may be asked: 0 when nothing is owed."""
        until_s = self._until_s.get((unit, function))
        if until_s is None:
            return 0.0
        if until_s <= now_s:
            del self._until_s[unit, function]
            return 0.0
        return until_s - now_s
