"""One window of the aggregate node, and the rows in which it is durable.

Each reading rewrites one row of at most `KEYS_IN_ROW` keys; the rows that one commit writes several times reach the
disk once. The rows of a window:

    <window>            whose, from when to when, due when, with which functions
    <window>.<row>      its keys
    <window>.<row>.<key's place in the row>.<block>, ….s     values and sketch for percentiles
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from gateway.domain.entity import EntityId, Json
from gateway.ports import Outcome
from gateway.rules.folding import PERCENTILES, Series, Sketch
from gateway.rules.kept import Kept

KEYS_IN_ROW: Final = 4


class Window:
    """One open window of one originator. Times are UTC epoch, milliseconds; it ends when the clock says `due_ms`."""

    __slots__ = (
        "begin_ms",
        "due_ms",
        "end_ms",
        "functions",
        "is_hasty",
        "is_late",
        "is_open",
        "metadata",
        "name",
        "originator",
        "rows",
        "series",
    )

    def __init__(self, name: str, head: dict[str, Json]) -> None:
        self.name = name
        kind, id_ = head["of"]
        self.originator = EntityId(kind, UUID(id_))
        self.begin_ms, self.end_ms = head["span"]
        self.due_ms: int = head["due"]
        self.is_late: bool = head["late"]
        self.functions: list[str] = head["functions"]
        self.metadata: dict[str, str] = head["metadata"]
        self.is_open = True
        self.is_hasty = False  # it ends early, as soon as the timer has its turn
        self.series: dict[str, Series] = {}
        self.rows: list[list[Series]] = []

    def head(self) -> dict[str, Json]:
        """As it is made again from."""
        return {
            "of": [self.originator.type, str(self.originator.id)],
            "span": [self.begin_ms, self.end_ms],
            "due": self.due_ms,
            "late": self.is_late,
            "functions": self.functions,
            "metadata": self.metadata,
        }

    def add(self, key: str) -> Series:
        """A new key."""
        if not self.rows or len(self.rows[-1]) == KEYS_IN_ROW:
            self.rows.append([])
        series = Series(key, len(self.rows) - 1, any(name in PERCENTILES for name in self.functions))
        self.rows[-1].append(series)
        self.series[key] = series
        return series

    def write(self, kept: Kept, rows: Iterable[int], out: Outcome) -> None:
        """These rows, and what their samples have sealed and folded since they were written last."""
        if kept.get(self.name) is None:
            kept.put(out, self.name, self.head())
        for row in rows:
            kept.put(out, f"{self.name}.{row}", [series.json() for series in self.rows[row]])
            for place, series in enumerate(self.rows[row]):
                sample = series.sample
                if sample is None or (len(sample.sealed) == sample.written and not sample.is_folded):
                    continue
                stem = f"{self.name}.{row}.{place}."
                if sample.is_folded and sample.sketch is not None:
                    kept.put(out, f"{stem}s", sample.sketch.json())
                for block in range(len(sample.sealed), sample.written):
                    kept.drop(out, f"{stem}{block}")
                for block in range(0 if sample.is_folded else sample.written, len(sample.sealed)):
                    kept.put(out, f"{stem}{block}", sample.sealed[block])
                sample.written, sample.is_folded = len(sample.sealed), False

    def drop(self, kept: Kept, out: Outcome) -> None:
        """All of its rows."""
        kept.drop(out, self.name)
        for row, held in enumerate(self.rows):
            kept.drop(out, f"{self.name}.{row}")
            for place, series in enumerate(held):
                if series.sample is not None:
                    for block in (*range(series.sample.written), "s"):
                        kept.drop(out, f"{self.name}.{row}.{place}.{block}")


def restored(items: Mapping[str, Any]) -> list[Window]:
    """All windows of a node, in the order in which they were opened, exactly as they were."""
    windows = []
    for name in sorted((name for name in items if "." not in name), key=int):
        window = Window(name, items[name])
        while (held := items.get(f"{name}.{len(window.rows)}")) is not None:
            row = len(window.rows)
            window.rows.append([Series.of(json, row) for json in held])
            for place, series in enumerate(window.rows[row]):
                window.series[series.key] = series
                sample, stem = series.sample, f"{name}.{row}.{place}."
                if sample is not None:
                    sketch = items.get(f"{stem}s")
                    sample.sketch = None if sketch is None else Sketch(sketch)
                    while (block := items.get(f"{stem}{len(sample.sealed)}")) is not None:
                        sample.sealed.append(list(block))
                    sample.written = len(sample.sealed)
        windows.append(window)
    return windows
