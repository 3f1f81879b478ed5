"""What the doctor says: one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """How bad; the worst is the exit code of the command."""

    OK = 0
    WARNING = 1  #: works now, and will not always
    PROBLEM = 2  #: does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """`where` is what was looked at, `text` what was found, `remedy` what would be right ("" when all is well)."""

    level: Level
    where: str
    text: str
    remedy: str = ""

    def line(self) -> str:
        """For a terminal."""
        return f"{self.level.name.lower():<8} {self.where}: {self.text}{f' -> {self.remedy}' if self.remedy else ''}"

    def to_json(self) -> dict[str, Any]:
        """For a program."""
        return {**asdict(self), "level": self.level.name.lower()}


def ok(where: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, where, text)


def warning(where: str, text: str, remedy: str = "") -> Finding:
    """Look at it."""
    return Finding(Level.WARNING, where, text, remedy)


def problem(where: str, text: str, remedy: str = "") -> Finding:
    """Broken."""
    return Finding(Level.PROBLEM, where, text, remedy)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 all is well, 1 there are warnings, 2 there are problems."""
    return max((int(finding.level) for finding in findings), default=0)
