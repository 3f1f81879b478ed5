"""While the cloud calls devices, telemetry leaves room on the line. Pure; time comes in as an argument.

What is on its way stands before the answer to a call: in the transport, and in the cloud's own queue. A full window
makes a waiting backlog as fast as line and cloud allow, and every answer as late. So for a while after
each answer the other lane has a part of its window; a backlog on a long line then goes up at that part of its speed.
"""

from __future__ import annotations

from typing import Final

_SPELL_S: Final = 2.0  # calls that follow each other closer than this are one spell
_SHARE: Final = 3
_FLOOR: Final = 4  # messages: a short line stays busy with them


class Calls:
    """When a call was last answered."""

    def __init__(self) -> None:
        self._until_s = 0.0

    def answered(self, now_s: float) -> None:
        """The answer to a call has been sent."""
        self._until_s = now_s + _SPELL_S

    def window(self, whole: int, now_s: float) -> int:
        """How many messages of other kinds may be on their way, of `whole`."""
        if now_s >= self._until_s:
            return whole
        return min(whole, max(_FLOOR, whole // _SHARE))
