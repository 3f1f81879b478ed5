"""Opening the file: rights, settings, migrations, and what happens to a damaged one. Door of sqlite3's errors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final

from gateway.config import SqliteStore as SqliteConfig
from gateway.errors import ConfigError, RefusedError, RejectedError, TransientError
from gateway.store import sqlite_quarantine
from gateway.store.reserve import free_bytes
from gateway.store.sqlite_wal import commits_out_of_reach
from gateway.supervise import Counters

QUICK_CHECK_BYTES: Final = 64 << 20
"""Up to this size the whole file is checked at start (about 0.1 s); a larger one when its pages are read."""
LARGEST_BUDGET: Final = 1 << 30
LEAST_BUDGET: Final = 16 << 20
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_TRANSIENT: Final = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
}


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; -1 when the driver raised by itself."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of the driver as errors of the house.

    A damaged file is marked, so that it is put aside at the next start; its error goes through and ends the
    process.
    """
    try:
        yield
    except (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError) as error:
        raise RejectedError(f"the database does not take it: {error}") from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise RejectedError(f"the database does not take it: {error}") from error
    except sqlite3.Error as error:
        code = primary_code(error)
        if code in _TRANSIENT:
            raise TransientError(f"{path}: {error}") from error
        if code in (-1, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH):
            raise RejectedError(f"the database does not take it: {error}") from error
        if code in _DAMAGED:
            sqlite_quarantine.mark(path)
        raise


def lock(path: Path) -> int:
    """One gateway per file: a lock that ends with the process. Returns its descriptor.

    Raises:
        ConfigError: No rights; RefusedError: another gateway has it.
    """
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            "store.path", f"{path.parent} cannot be written ({error.strerror}); make it writable or set data_dir"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise RefusedError(f"{path} is in use by another gateway") from None
    return descriptor


def open_writer(config: SqliteConfig, path: Path, counters: Counters) -> sqlite3.Connection:
    """The writing connection, its schema up to date; a damaged file is put aside first, its rows salvaged.

    Raises:
        ConfigError: The file exists and may not be read or written.
        TransientError: The disk is full, or answers with errors.
    """
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        raise ConfigError("store.path", f"{path} must be a file that the gateway may read and write; see its owner")
    try:
        if sqlite_quarantine.is_marked(path):
            _heal(config, path, "it was found damaged while running", counters)
        try:
            return _open_checked(config, path, counters)
        except sqlite3.DatabaseError as error:
            if primary_code(error) not in _DAMAGED:
                raise
            _heal(config, path, " ".join(str(error).split()), counters)
            return _open(config, path)
    except sqlite3.DatabaseError as error:
        if primary_code(error) == sqlite3.SQLITE_CANTOPEN:
            raise ConfigError("store.path", f"{path} cannot be opened: {error}") from error
        raise TransientError(f"{path}: {error}") from error
    except OSError as error:
        raise TransientError(f"{path}: {error}") from error


def _open_checked(config: SqliteConfig, path: Path, counters: Counters) -> sqlite3.Connection:
    """As `_open`, after a look at the log that a kill has left: SQLite would leave out what it cannot read."""
    missed = commits_out_of_reach(path)
    if missed > 1:
        raise _damaged(f"{missed} commits in the write-ahead log cannot be read")
    if missed:
        sqlite_quarantine.keep_torn_log(path, counters)
    return _open(config, path)


def _heal(config: SqliteConfig, path: Path, why: str, counters: Counters) -> None:
    sqlite_quarantine.heal(path, why, lambda fresh: _open(config, fresh), counters)


def budget_bytes(config: SqliteConfig, path: Path) -> int:
    """`max_bytes`; by default 1 GB, or a quarter of what is free for it and taken by it already, the less."""
    if config.max_bytes is not None:
        return config.max_bytes
    taken = sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())
    return max(LEAST_BUDGET, min(LARGEST_BUDGET, (free_bytes(path.parent) + taken) // 4))


def wal_bytes(budget: int) -> int:
    """What of a budget is for the write-ahead log: it is written back at half of this."""
    return max(8, min(8_000, budget // 16 // 4096)) * 4096


def open_reader(path: Path) -> sqlite3.Connection:
    """A second connection that only reads."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=256)


def _open(config: SqliteConfig, path: Path) -> sqlite3.Connection:
    is_new = not path.exists()
    if is_new:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = _connect(path)
    try:
        if is_new or path.stat().st_size == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {config.synchronous}")
        wal = wal_bytes(budget_bytes(config, path))
        connection.execute(f"PRAGMA wal_autocheckpoint = {wal // 2 // 4096}")
        connection.execute(f"PRAGMA journal_size_limit = {wal}")
        connection.execute("PRAGMA cache_size = -16000")
        if path.stat().st_size <= QUICK_CHECK_BYTES:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _damaged(verdict)
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _damaged(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _migrate(connection: sqlite3.Connection) -> None:
    """Numbered files of sql/sqlite that the file has not seen, each in one transaction with its number."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, text in migrations("sqlite"):
        if number > version:
            connection.executescript(
                f"BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY);\n{text}\n"
                f"INSERT INTO schema_version VALUES ({number}); PRAGMA user_version = {number}; COMMIT;"
            )
    newest = max(number for number, _ in migrations("sqlite"))
    if version > newest:
        raise ConfigError("store.path", f"written by a newer gateway (schema {version}, known here: {newest})")


def migrations(dialect: str) -> list[tuple[int, str]]:
    """(number, SQL) in order."""
    folder = resources.files("gateway.store") / "sql" / dialect
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted((int(file.name.split("_")[0]), file.read_text("utf-8")) for file in files)
