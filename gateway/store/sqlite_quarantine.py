"""A damaged file: kept under another name, its rows salvaged into a new one, and all of it told.

A mark beside the file says what is going on, so that a kill at any moment is followed by the same work:
1. the mark names the quarantine; 2. log, index and file are renamed into it, the file last; 3. the rows go into
`.salvage`, begun anew after a kill; 4. `.salvage` becomes the file; 5. the mark goes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.store.sqlite_salvage import Findings, salvage
from gateway.store.sqlite_wal import FRAME_HEADER_BYTES, HEADER_BYTES, PAGE_BYTES, mend, open_read_only
from gateway.supervise import Counters

log = logging.getLogger(__name__)

SETTING: Final = "store_salvage"
"""In the new file: when, why, kept as, saved and lost by table. For status."""
PARTS: Final = ("-wal", "-shm", "")


def is_marked(path: Path) -> bool:
    """Found damaged while running, or killed in the middle of `heal`."""
    return _mark(path).exists()


def mark(path: Path) -> None:
    """Damage was seen while running: `heal` at the next start."""
    with contextlib.suppress(OSError):
        _mark(path).touch()


def heal(path: Path, why: str, create: Callable[[Path], sqlite3.Connection], counters: Counters) -> None:
    """Put the file aside and put what can be read of it in its place. Safe to kill, safe to call again.

    `create` makes a new file with all tables.

    Raises:
        sqlite3.Error, OSError: The disk is full, or no rights: the mark stays.
    """
    name, why = _begin(path, why)
    aside = path.with_name(name)
    if not aside.exists():
        for part in PARTS:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{part}").rename(f"{aside}{part}")
        _sync(path.parent)
    if aside.exists() and not path.exists():
        log.error("store: %s is damaged (%s): kept as %s; its rows are read into a new file", path, why, name)
        findings = _rebuild(path, aside, why, create)
        log.error("store: %s is new. Of the damaged one %s", path, findings.text())
        counters.add("store.salvaged_rows", sum(findings.saved.values()))
        counters.add("store.lost_tables", len(findings.lost))
    counters.add("store.quarantined")
    _mark(path).unlink(missing_ok=True)
    _sync(path.parent)


def keep_torn_log(path: Path, counters: Counters) -> None:
    """The last commit of the log cannot be read: a copy is kept, and SQLite leaves it out."""
    kept = Path(f"{path}-wal.torn")
    shutil.copyfile(f"{path}-wal", kept)
    counters.add("store.torn_commits")
    log.warning(
        "store: the last commit in %s-wal is torn. After a power cut that is a commit that was never acknowledged;"
        " a copy of the log is kept as %s",
        path.name,
        kept.name,
    )


def _rebuild(path: Path, aside: Path, why: str, create: Callable[[Path], sqlite3.Connection]) -> Findings:
    fresh = Path(f"{path}.salvage")
    grafted = Path(f"{path}.graft")
    for base in (fresh, grafted):
        _remove(base)
    original = Path(f"{aside}-wal.original")
    wal = Path(f"{aside}-wal")
    if not original.exists() and wal.exists() and wal.stat().st_size >= HEADER_BYTES + FRAME_HEADER_BYTES + PAGE_BYTES:
        wal.rename(original)
    if original.exists():
        mend(original, wal)
        Path(f"{aside}-shm").unlink(missing_ok=True)
    with contextlib.closing(create(fresh)) as target:
        target.execute("PRAGMA synchronous = OFF")  # one sync at the end: a kill starts all of it again
        source = aside
        if not _has_schema(aside):
            target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            _graft(aside, fresh, grafted)
            source = grafted
        findings = salvage(source, target)
        report = {
            "time": int(time.time() * 1000),
            "why": why,
            "kept_as": aside.name,
            "saved": findings.saved,
            "lost": findings.lost,
        }
        target.execute("INSERT OR REPLACE INTO setting (name, json) VALUES (?, ?)", (SETTING, json.dumps(report)))
        target.execute("PRAGMA synchronous = FULL")
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for part in ("-wal", "-shm"):
        Path(f"{fresh}{part}").unlink(missing_ok=True)
    _remove(grafted)
    _sync(fresh)
    fresh.rename(path)
    _sync(path.parent)
    return findings


def _has_schema(path: Path) -> bool:
    with contextlib.closing(open_read_only(path)) as connection:
        try:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("SELECT count(*) FROM cloud_event_cursor").fetchone()
            found = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        except sqlite3.DatabaseError:
            return False
    return "cloud_event" in found


def _graft(damaged: Path, fresh: Path, grafted: Path) -> None:
    """A copy with the first page of a new file: tables are made in the same order, so they begin on the same pages."""
    shutil.copyfile(damaged, grafted)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(f"{damaged}-wal", f"{grafted}-wal")
    with fresh.open("rb") as file:
        page = bytearray(file.read(PAGE_BYTES))
    pages = max(1, grafted.stat().st_size // PAGE_BYTES)
    page[28:32] = pages.to_bytes(4, "big")
    page[32:40] = bytes(8)  # no free pages: none will be asked for
    page[92:96] = page[24:28]
    with grafted.open("r+b") as file:
        file.write(page)


def _begin(path: Path, why: str) -> tuple[str, str]:
    """Name of the quarantine and the reason: those of the mark, when it has some."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        said = json.loads(_mark(path).read_text())
        return str(said["kept_as"]), str(said["why"])
    name = path.name + time.strftime(".damaged-%Y%m%dT%H%M%SZ", time.gmtime())
    draft = Path(f"{_mark(path)}.new")
    draft.write_text(json.dumps({"kept_as": name, "why": why}))
    _sync(draft)
    draft.rename(_mark(path))
    _sync(path.parent)
    return name, why


def _remove(base: Path) -> None:
    for part in PARTS:
        Path(f"{base}{part}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mark(path: Path) -> Path:
    return Path(f"{path}.damaged")
