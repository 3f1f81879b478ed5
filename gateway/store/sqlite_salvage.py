"""Rows out of a damaged file, as many as can be read, into a new one. Nothing here writes to the damaged file.

What is worth most comes first: who may connect, what was set, what the cloud has not seen; the history of telemetry
comes last. A table that cannot be read through is read from both ends; where its key counts, also in between:
halving finds the edges of a hole in few steps. Confirmed events are left behind: the cloud has them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.store.sqlite_wal import open_read_only

FIRST: Final = (
    "device", "profile", "setting", "attribute", "entity", "rpc", "sequence", "ts_kv_dictionary", "cloud_event_cursor",
    "cloud_event_gap", "cloud_event_parked", "cloud_event",
)  # fmt: skip
LAST: Final = ("ts_kv_latest", "ts_kv")
COUNTED: Final = {
    "cloud_event": "seq_id",
    "ts_kv_dictionary": "series_id",
    "ts_kv_latest": "series_id",
    "ts_kv": "slot",
}
"""Tables with a key that counts."""
MOST_FAILURES: Final = 20_000
"""Reads that fail before the rest of a table is given up: a hole of millions of rows must not take hours."""
_BROKEN: Final = object()  # text that is no UTF-8
Row = tuple[Any, ...]


@dataclass(slots=True)
class Findings:
    """Rows by table; of what is lost the count is an estimate, at least 1 where something is."""

    saved: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """For a person."""
        lost = ", ".join(f"about {count} of {table}" for table, count in self.lost.items())
        saved = ", ".join(f"{count} {table}" for table, count in self.saved.items() if count)
        return f"saved: {saved or 'nothing'}; lost: {lost or 'nothing'}"


def salvage(damaged: Path, target: sqlite3.Connection) -> Findings:
    """Everything that can be read, into the tables of `target`, which are empty; in one transaction for each table.

    Raises:
        sqlite3.Error: Of the target only (the disk is full).
    """
    findings = Findings()
    names = {row[0] for row in target.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    names -= {"schema_version"}
    with contextlib.closing(open_read_only(damaged)) as source:
        source.text_factory = _text
        with contextlib.suppress(sqlite3.DatabaseError):
            # A file shorter than its header says is read as far as it goes.
            source.execute("PRAGMA writable_schema = ON")
            source.execute("PRAGMA cell_size_check = ON")
        others = sorted(names - {*FIRST, *LAST})
        for name in (*FIRST, *others, *LAST):
            if name in names:
                _Table(name, source, target, damaged.stat().st_size).copy(findings)
    return findings


class _Table:
    """One table on its way."""

    def __init__(self, name: str, source: sqlite3.Connection, target: sqlite3.Connection, size_bytes: int) -> None:
        self.name, self.source, self.target = name, source, target
        self.most_rows = max(1_000, size_bytes // 20)
        self.saved = self.lost = self.failures = 0
        shape = target.execute(f"PRAGMA table_xinfo({name})").fetchall()
        self.columns = [row[1] for row in shape if not row[6]]
        self.key = [row[1] for row in sorted((row for row in shape if row[5]), key=lambda row: int(row[5]))]

    def copy(self, findings: Findings) -> None:
        """The whole table."""
        self.target.execute("BEGIN")
        try:
            self._copy()
        finally:
            self.target.execute("COMMIT")
        findings.saved[self.name] = self.saved
        if self.lost:
            findings.lost[self.name] = self.lost

    def _copy(self) -> None:
        try:
            found = {row[1] for row in self.source.execute(f"PRAGMA table_xinfo({self.name})") if not row[6]}
        except sqlite3.DatabaseError:
            self.lost += 1
            return
        self.columns = [column for column in self.columns if column in found]
        if not self.columns:
            return  # of an older gateway, without this table
        if self.name == "cloud_event":
            cursors = dict(self.target.execute("SELECT lane, seq_id FROM cloud_event_cursor"))
            for lane in (0, 1):
                self._both_ends(f"lane = {lane} AND seq_id > {cursors.get(lane, 0)}", cursors.get(lane, 0) + 1)
        else:
            self._both_ends("1", None)

    def _both_ends(self, where: str, lowest: int | None) -> None:
        """From the first row on; what is behind a hole, from the last row back; then the hole."""
        low = _Reached()
        if self._read(where, "ASC", low):
            return
        high = _Reached()
        self._read(where, "DESC", high)
        axis = COUNTED.get(self.name)
        if axis is None:
            self.lost += 1
            if self.name == "attribute":
                for kind, entity_id in self.target.execute("SELECT 'DEVICE', id FROM device").fetchall():
                    self._read(f"entity_type = '{kind}' AND entity_id = x'{entity_id.hex()}'", "ASC", _Reached())
            return
        place = self.columns.index(axis)
        first = low.row[place] if low.row is not None else lowest or 0
        last = high.row[place] if high.row is not None else first + self.most_rows
        self._hole(where, axis, place, first, last)

    def _hole(self, where: str, axis: str, place: int, first: int, last: int) -> None:
        """Halve what cannot be read until single keys are left."""
        parts = [(first, last)]
        while parts:
            low, high = parts.pop()
            if low > high:
                continue
            if self.failures >= MOST_FAILURES:
                self.lost += high - low + 1
                continue
            reached = _Reached()
            if self._read(f"{where} AND {axis} BETWEEN {low} AND {high}", "ASC", reached):
                continue
            self.failures += 1
            if low == high:
                if self.key[-1] != axis:  # several rows with this key: those behind the damage
                    self._read(f"{where} AND {axis} = {low}", "DESC", _Reached())
                if self.key[-1] != axis or reached.row is None:
                    self.lost += 1
                continue
            begin = reached.row[place] if reached.row is not None else low
            if begin > low:
                parts.append((begin, high))
            else:
                middle = (low + high) // 2
                parts += [(middle + 1, high), (low, middle)]

    def _read(self, where: str, order: str, reached: _Reached) -> bool:
        """Save what can be read; whether it was all. `reached` is the last row that was."""
        by = ",".join(f"{column} {order}" for column in self.key)
        statement = f"SELECT {','.join(self.columns)} FROM {self.name} WHERE {where} ORDER BY {by}"
        marks = ",".join("?" * len(self.columns))
        into = f"INSERT OR IGNORE INTO {self.name} ({','.join(self.columns)}) VALUES ({marks})"
        for row in self._rows(statement, reached):
            if any(column is _BROKEN for column in row) or not self._is_sane(row):
                self.lost += 1
            else:
                self.saved += self.target.execute(into, row).rowcount
        return reached.is_end

    def _rows(self, statement: str, reached: _Reached) -> Iterator[Row]:
        try:
            for row in self.source.execute(statement):
                reached.row = row
                yield row
        except sqlite3.DatabaseError:
            return
        reached.is_end = True

    def _is_sane(self, row: Row) -> bool:
        """A damaged page may still read as rows: of an event, what the sender relies on."""
        if self.name != "cloud_event":
            return True
        named = dict(zip(self.columns, row, strict=True))
        return (
            named["lane"] in (0, 1)
            and isinstance(named["seq_id"], int)
            and isinstance(named["created_time"], int)
            and isinstance(named["id"], bytes)
            and len(named["id"]) == 16
            and isinstance(named["cloud_event_type"], str)
            and isinstance(named["cloud_event_action"], str)
            and (
                named["entity_id"] is None or (isinstance(named["entity_id"], bytes) and len(named["entity_id"]) == 16)
            )
            and (named["entity_body"] is None or isinstance(named["entity_body"], str))
        )


class _Reached:
    """How far a read came."""

    def __init__(self) -> None:
        self.row: Row | None = None
        self.is_end = False


def _text(raw: bytes) -> Any:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _BROKEN
