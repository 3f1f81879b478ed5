"""Which store: the only place that knows them all."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from gateway.config import SqliteStore as SqliteConfig
from gateway.config import StoreConfig
from gateway.errors import ConfigError
from gateway.ports import Clock, Store
from gateway.store.sqlite import open_sqlite
from gateway.supervise import Counters


def open_store(
    config: StoreConfig, state_dir: Path, clock: Clock, counters: Counters
) -> AbstractAsyncContextManager[Store]:
    """The store that the configuration asks for; closed at the end of the block.

    Raises:
        ConfigError: The extra for PostgreSQL is not installed. (When opening: no rights, no such server.)
    """
    if isinstance(config, SqliteConfig):
        return open_sqlite(config, state_dir, clock, counters)
    try:
        from gateway.store.postgres import open_postgres
    except ImportError as error:
        raise ConfigError(
            "store.kind", f"postgres needs the extra: pip install 'edge-gateway[postgres]' ({error})"
        ) from None
    return open_postgres(config, clock, counters)
