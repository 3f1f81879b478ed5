"""Answers that may still come. Pure: time comes in as seconds.

A line has no transaction ids: an answer says which unit and which function, never which question. So after a question
without an answer, nothing of that function is asked of that unit again until the longest time that a unit may be late
has passed. Anything else may be asked meanwhile: the late answer is told from it by unit or function. It does not
shorten the time: a unit that answers in another's place would be taken for it, and the real one would come after all.
"""

from __future__ import annotations


class Owed:
    """Who still owes an answer: at most one for each unit and function, because nobody is asked twice."""

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._until_s: dict[tuple[int, int], float] = {}

    def is_any(self, now_s: float) -> bool:
        """True while anybody owes anything."""
        for key, until_s in list(self._until_s.items()):
            if until_s <= now_s:
                del self._until_s[key]
        return bool(self._until_s)

    def missed(self, unit: int, function: int, now_s: float) -> None:
        """A question ended without its answer."""
        self._until_s[unit, function] = now_s + self._late_s

    def wait_s(self, unit: int, function: int, now_s: float) -> float:
        """Seconds until this may be asked: 0 when nothing is owed."""
        until_s = self._until_s.get((unit, function))
        if until_s is None:
            return 0.0
        if until_s <= now_s:
            del self._until_s[unit, function]
            return 0.0
        return until_s - now_s
