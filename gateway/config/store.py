"""Where everything is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, SecretStr

from gateway.config.base import Settings
from gateway.domain.cloud_event import WhenFull


class SqliteStore(Settings):
    """One file, one writer; synchronous=FULL unless told otherwise."""

    kind: Literal["sqlite"] = "sqlite"
    path: Path | None = Field(None, description="Database file; default: gateway.db in data_dir.")
    synchronous: Literal["full", "normal"] = Field(
        "full", description="normal: faster, and a power cut may lose the last acknowledged messages."
    )
    max_bytes: PositiveInt | None = Field(
        None, description="Size of file and log at which when_full applies; default: 1 GB or 25 % of what is free."
    )
    commit_every_s: NonNegativeFloat = Field(
        0.0, le=300, description="Economy for SD cards: data of devices, and its PUBACK, waits so long for its group."
    )
    when_full: WhenFull = WhenFull.WAIT
    keep_deployed: NonNegativeInt = Field(100_000, description="Confirmed events kept for the page, per lane.")
    history_days: PositiveInt = Field(7, description="Local telemetry history.")


class PostgresStore(Settings):
    """A database of our own on a PostgreSQL server."""

    kind: Literal["postgres"]
    url: SecretStr = Field(description="postgresql://user:password@host:port/database")
    schema_name: str = Field("edge_gateway", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    max_bytes: PositiveInt = 16 << 30
    commit_every_s: NonNegativeFloat = Field(
        0.0, le=300, description="Economy for SD cards: data of devices, and its PUBACK, waits so long for its group."
    )
    when_full: WhenFull = WhenFull.WAIT
    keep_deployed: NonNegativeInt = 100_000
    history_days: PositiveInt = 7


StoreConfig = Annotated[SqliteStore | PostgresStore, Field(discriminator="kind")]
