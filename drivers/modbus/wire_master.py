"""What every master owes the driver, and the ways in which a question can end without an answer."""

from __future__ import annotations

from typing import Protocol

from drivers.modbus.protocol.pdu import Question


class NoAnswer(Exception):
    """Root of the endings; the text says what was seen. `wire.py` adds who was asked for what."""


class Silent(NoAnswer):
    """Nothing that answers the question came in time; it may have been executed."""


class Owing(NoAnswer):
    """Not asked: an earlier answer of this unit may still come, and could not be told from this one's."""


class Damaged(NoAnswer):
    """An answer came that cannot be one; the question may be asked again at once."""


class Closed(NoAnswer):
    """The connection ended while the question was open; it may have been executed."""


class Unreachable(NoAnswer):
    """Nobody is there: not asked. `again_s`: worth a try so soon."""

    def __init__(self, text: str, again_s: float | None = None) -> None:
        super().__init__(text)
        self.again_s = again_s


class Master(Protocol):
    """One connection or line, opened by the first question and again after a loss."""

    connects: int

    @property
    def is_open(self) -> bool:
        """True when the next question needs no new connection."""
        ...

    async def ask(self, unit: int, question: Question) -> bytes:
        """The PDU that answers this question and no other, or that refuses it; b"" when it went to all units of a
        line (unit 0), who do not answer.

        Raises:
            NoAnswer: One of its kinds.
        """
        ...

    def close(self) -> None:
        """Safe to call twice; open questions end with `Closed`."""
        ...
