"""What came of an import: buses, servers, and what somebody should know of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.errors import ConfigError

NO_EFFECT: Final = "has no effect in the vendor's gateway either"


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that was not carried over, or means something else now. `where`: file and path in it."""

    where: str
    text: str
    is_lost: bool = True  # False: carried over, with a difference that somebody should know


@dataclass(slots=True)
class Imported:
    """Entries of `buses` and `servers`, in the order of the files, and the notes."""

    buses: list[dict[str, Any]] = field(default_factory=list)
    servers: list[dict[str, Any]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def lost(self, where: str, text: str) -> None:
        """Not carried over."""
        self.notes.append(Note(where, text))

    def changed(self, where: str, text: str) -> None:
        """Carried over, with a difference."""
        self.notes.append(Note(where, text, is_lost=False))

    def unknown(self, where: str, tree: Mapping[str, Any], known: Mapping[str, str | None]) -> None:
        """A note for each member that is not carried over: `known` has the reason, None for members that are."""
        for name in tree:
            if name not in known:
                self.lost(f"{where}.{name}", "is not known here")
            elif (reason := known[name]) is not None:
                self.notes.append(Note(f"{where}.{name}", reason, is_lost=reason != NO_EFFECT))

    def bus_name(self, wanted: str) -> str:
        """A name that no bus has yet, 64 characters at most."""
        taken = {bus["name"] for bus in self.buses}
        name, number = wanted[:60], 1
        while name in taken:
            number += 1
            name = f"{wanted[:56]} {number}"
        return name


def as_mapping(tree: Any, where: str) -> dict[str, Any]:
    """A JSON object. ConfigError: something else."""
    if not isinstance(tree, dict):
        raise ConfigError(where, "must be an object in braces")
    return tree


def as_list(tree: Any, where: str) -> list[Any]:
    """A JSON array; null and nothing are an empty one. ConfigError: something else."""
    if tree is None:
        return []
    if not isinstance(tree, list):
        raise ConfigError(where, "must be a list in brackets")
    return tree


def whole(tree: Mapping[str, Any], name: str, default: int | None, where: str) -> int:
    """A whole number, also as a text. ConfigError: something else, or nothing where it is needed."""
    value = tree.get(name, default)
    try:
        if isinstance(value, bool) or value is None or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}.{name}", f"must be a whole number, not {value!r}") from None


def report_of(strategies: list[Any], where: str, imported: Imported) -> dict[str, Any] | None:
    """The innermost `reportStrategy` that is given, as `report`; None: every reading.

    `strategies`: from the data point outwards. Source: device API sheet §5.5.
    """
    for strategy in strategies:
        if not isinstance(strategy, dict):
            continue
        kind = str(strategy.get("type", "ON_RECEIVED")).upper()
        period = strategy.get("reportPeriod", 10_000)
        period_s = period / 1000 if isinstance(period, int | float) and period > 0 else 10.0
        if strategy.get("aggregationFunction"):
            imported.lost(f"{where}.reportStrategy.aggregationFunction", "aggregate in a rule chain instead")
        match kind:
            case "ON_CHANGE":
                return {"on_change": True}
            case "ON_REPORT_PERIOD":
                return {"min_gap_s": period_s}
            case "ON_CHANGE_OR_REPORT_PERIOD":
                return {"on_change": True, "max_silence_s": period_s}
            case "ON_RECEIVED" | "DISABLED":
                return None
        imported.lost(f"{where}.reportStrategy", f"type {kind!r} is unknown; every reading is reported")
        return None
    return None
