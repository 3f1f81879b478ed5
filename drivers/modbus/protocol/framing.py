"""What the two framings of a line have in common: bytes in any pieces → frames. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from drivers.modbus.protocol.pdu import Question


class FrameError(Exception):
    """The stream cannot be followed any more: only a new connection helps."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Whose answer is waited for."""

    unit: int
    question: Question

    def is_met_by(self, unit: int, pdu: bytes) -> bool:
        """The right unit, function and length; a refusal counts."""
        question = self.question
        return unit == self.unit and (question.is_answered_by(pdu) or question.refusal(pdu) is not None)


class LineFramer(Protocol):
    """RTU or ASCII. Its buffer is bounded; what is no frame is skipped and counted in `skipped_bytes`."""

    skipped_bytes: int
    tail_bytes: int  # of a frame: what stands behind the PDU

    def encode(self, unit: int, pdu: bytes) -> bytes:
        """A frame for the line."""
        ...

    def feed(self, data: bytes, expected: Expected | None = None) -> list[tuple[int, bytes]]:
        """Unit and PDU of each answer that is complete now, in order. The expected one is found behind a beginning
        that may only look like a frame; others wait until that is decided.
        """
        ...

    def clear(self) -> None:
        """The line was silent: what is incomplete stays so."""
        ...
