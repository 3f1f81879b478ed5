"""Every store behind the same door; `reopen` stands for a restart (memory forgets, and says so)."""

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.config import PostgresStore, SqliteStore
from gateway.ports import Store
from gateway.store import MemoryStore, open_store
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock

_schemas = itertools.count(1)


class Backend:
    def __init__(self, kind: str, folder: Path, url: str = "") -> None:
        self.kind, self.folder, self.url = kind, folder, url
        self.clock, self.counters = FakeClock(), Counters()
        self.schema = f"test_{next(_schemas)}"
        self.is_durable = kind != "memory"

    def config(self, **settings: Any) -> Any:
        if self.kind == "postgres":
            return PostgresStore(kind="postgres", url=self.url, schema_name=self.schema, **settings)
        return SqliteStore(**settings)

    @contextlib.asynccontextmanager
    async def open(self, **settings: Any) -> AsyncIterator[Store]:
        if self.kind == "memory":
            yield MemoryStore()
            return
        async with open_store(self.config(**settings), self.folder, self.clock, self.counters) as store:
            yield store

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """As a person would look."""
        if self.kind == "postgres":
            options = f"-c search_path={self.schema}"
            with psycopg.connect(self.url, options=options, autocommit=True) as connection:
                return connection.execute(statement).fetchall()  # type: ignore[call-overload]
        import sqlite3

        with contextlib.closing(sqlite3.connect(self.folder / "gateway.db")) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    url = request.getfixturevalue("postgres_server").url if request.param == "postgres" else ""
    return Backend(request.param, tmp_path, url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    url = request.getfixturevalue("postgres_server").url if request.param == "postgres" else ""
    return Backend(request.param, tmp_path, url)
