"""The tables as values, so that both databases are written by the same few statements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from uuid import UUID

from gateway.domain.cloud_event import ParkedChoice
from gateway.domain.downlink import DOCUMENT_TYPES

DOCUMENTS: Final = ", ".join(f"'{kind}'" for kind in sorted(DOCUMENT_TYPES))
"""For SQL: the types of entities that are not loaded at start."""


@dataclass(frozen=True, slots=True)
class Table:
    """`key` empty: rows are only appended. `guard` limits when an existing row is replaced."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()
    guard: str = ""


DEVICE: Final = Table(
    "device",
    (
        "id", "name", "type", "profile_id", "label", "created_time", "local_name", "is_gateway", "origin",
        "credentials_type", "credentials_id", "credentials_value", "json",
    ),
    ("id",),
)  # fmt: skip
PROFILE: Final = Table("profile", ("id", "name", "origin", "is_default", "default_rule_chain_id", "json"), ("id",))
ENTITY: Final = Table("entity", ("type", "key", "json"), ("type", "key"))
SETTING: Final = Table("setting", ("name", "json"), ("name",))
LOCAL: Final = Table("local_item", ("kind", "key", "body"), ("kind", "key"))
RPC: Final = Table("rpc", ("request_uuid", "device_id", "state", "expires_time", "request"), ("request_uuid",))
SERIES: Final = Table("ts_kv_dictionary", ("series_id", "entity_type", "entity_id", "key"))
SEQUENCE: Final = Table("sequence", ("name", "value"), ("name",))
CURSOR: Final = Table("cloud_event_cursor", ("lane", "seq_id"), ("lane",))
EVENT: Final = Table(
    "cloud_event",
    (
        "lane", "seq_id", "id", "created_time", "tenant_id", "edge_id", "cloud_event_type", "entity_id",
        "cloud_event_action", "entity_body",
    ),
)  # fmt: skip
PARKED: Final = Table(
    "cloud_event_parked",
    (
        "lane", "seq_id", "id", "created_time", "cloud_event_type", "entity_id", "cloud_event_action",
        "entity_body", "reason", "tries", "parked_time",
    ),
    ("lane", "seq_id"),
)  # fmt: skip


def _valued(name: str, key: tuple[str, ...], others: tuple[str, ...], value: tuple[str, ...], guard: str = "") -> Table:
    return Table(name, (*key, *others, "kind", *value), key, guard)


def attribute_table(value: tuple[str, ...]) -> Table:
    """Attributes; `value` names the columns of the typed value."""
    return _valued("attribute", ("entity_type", "entity_id", "scope", "key"), ("ts",), value)


def latest_table(value: tuple[str, ...]) -> Table:
    """Latest telemetry: replaced only by one not older."""
    return _valued("ts_kv_latest", ("series_id",), ("ts",), value, "excluded.ts >= ts_kv_latest.ts")


def history_table(value: tuple[str, ...]) -> Table:
    """Telemetry history."""
    return _valued("ts_kv", ("slot", "series_id", "ts"), (), value)


@cache
def insert_sql(table: Table, rows: int, mark: str) -> str:
    """`rows` rows in one statement; existing ones are replaced. `mark` is the place-holder of the driver."""
    row = "(" + ",".join([mark] * len(table.columns)) + ")"
    return f"INSERT INTO {table.name} ({','.join(table.columns)}) VALUES {','.join([row] * rows)}{on_conflict(table)}"


@cache
def padded_insert_sql(table: Table, rows: int) -> str:
    """SQLite: like `insert_sql`, but rows that begin with NULL are left out (no first column here may be NULL)."""
    row = "(" + ",".join("?" * len(table.columns)) + ")"
    return (
        f"INSERT INTO {table.name} ({','.join(table.columns)}) SELECT * FROM (VALUES {','.join([row] * rows)})"
        f" WHERE column1 IS NOT NULL{on_conflict(table)}"
    )


@cache
def on_conflict(table: Table) -> str:
    """What happens to a row that exists."""
    if not table.key:
        return ""
    others = [f"{column}=excluded.{column}" for column in table.columns if column not in table.key]
    guard = f" WHERE {table.guard}" if table.guard else ""
    return f" ON CONFLICT ({','.join(table.key)}) DO UPDATE SET {','.join(others)}{guard}"


@cache
def park_sql(mark: str) -> str:
    """Copies pending events to the parked ones. Parameters: reason, time, lane, after, up to."""
    return (
        f"INSERT INTO cloud_event_parked ({','.join(PARKED.columns)})"
        f" SELECT {','.join(PARKED.columns[:-3])}, {mark}, 0, {mark} FROM cloud_event"
        f" WHERE lane = {mark} AND seq_id > {mark} AND seq_id <= {mark} ON CONFLICT (lane, seq_id) DO NOTHING"
    )


@cache
def parked_away_sql(mark: str) -> str:
    """What was copied so goes from the queue. Parameters: lane, after, up to."""
    return f"DELETE FROM cloud_event WHERE lane = {mark} AND seq_id > {mark} AND seq_id <= {mark}"


@cache
def forget_sql(mark: str) -> str:
    """One event of the queue. Parameters: lane, seq_id."""
    return f"DELETE FROM cloud_event WHERE lane = {mark} AND seq_id = {mark}"


@cache
def delete_sql(table: Table, mark: str) -> str:
    """One row by its key."""
    return f"DELETE FROM {table.name} WHERE {' AND '.join(f'{column}={mark}' for column in table.key)}"


def chosen(
    choice: ParkedChoice,
    mark: str,
    uuid: Callable[[UUID], Any],
    reason_sql: str,
    text: Callable[[str], str] = lambda text: text,
) -> tuple[str, list[Any]]:
    """What a person means as conditions on `cloud_event_parked e`, with their parameters."""
    parts: list[str] = []
    values: list[Any] = []
    if choice.seq_ids is not None:
        parts.append(f"e.seq_id IN ({','.join([mark] * len(choice.seq_ids)) or 'NULL'})")
        values += sorted(choice.seq_ids)
    if choice.reason is not None:
        parts.append(reason_sql)
        values.append(text(choice.reason))
    if choice.entity_ids is not None:
        parts.append(f"e.entity_id IN ({','.join([mark] * len(choice.entity_ids)) or 'NULL'})")
        values += [uuid(entity_id) for entity_id in choice.entity_ids]
    return "".join(f" AND {part}" for part in parts), values
