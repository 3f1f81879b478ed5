"""A damaged file: what can be read is in the new one, what cannot is told, and a kill in between changes nothing."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import SqliteStore
from gateway.domain.changes import AppendEvent, MoveCursor, SaveAttributes, SaveDevice, SaveTelemetry
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.domain.entity import Credentials, CredentialsType, Device, EntityId, time_uuid
from gateway.store import open_store
from gateway.store.sqlite_wal import FRAME_HEADER_BYTES, HEADER_BYTES, commits_out_of_reach
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock

DEVICES = [time_uuid() for _ in range(40)]
EVENTS, CONFIRMED = 6_000, 1_000
FRAME = FRAME_HEADER_BYTES + 4_096


def event(number: int) -> AppendEvent:
    body = b'{"ts":%d,"data":{"n":%d}}' % (number, number)
    device = DEVICES[number % len(DEVICES)]
    return AppendEvent(
        CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=device, created_ms=number, body=body)
    )


def device(number: int) -> SaveDevice:
    token = f"token-{number}"
    credentials = Credentials(type=CredentialsType.ACCESS_TOKEN, credentials_id=token)
    return SaveDevice(Device(id=DEVICES[number], name=f"D{number}", type="default", credentials=credentials))


async def made(folder: Path) -> None:
    """Devices, attributes, history, 5,000 events that wait; closed in order."""
    async with open_store(SqliteStore(), folder, FakeClock(), Counters()) as store:
        await store.commit([[device(n)] for n in range(len(DEVICES))])
        await store.commit(
            [[SaveAttributes(EntityId("DEVICE", one), "SERVER_SCOPE", 1, {"a": 1, "b": "x"})] for one in DEVICES]
        )
        for start in range(0, EVENTS, 500):
            await store.commit([[event(n)] for n in range(start + 1, start + 501)])
            values = {f"k{n}": start for n in range(50)}
            await store.commit([[SaveTelemetry(EntityId("DEVICE", DEVICES[0]), start * 60_000, values)]])
        await store.commit([[MoveCursor(Lane.MAIN, CONFIRMED)]])


async def look(folder: Path, counters: Counters | None = None):
    """Device names, tokens, number of attributes, numbers of the events that wait, and the report."""
    async with open_store(SqliteStore(), folder, FakeClock(), counters or Counters()) as store:
        snapshot = await store.load()
        cursor = store.events.cursor(Lane.MAIN)
        events = [one.created_ms for one in await store.events.peek(Lane.MAIN, cursor, 100_000)]
    tokens = {one.credentials.credentials_id for one in snapshot.devices if one.credentials}
    return len(snapshot.devices), len(tokens), len(snapshot.attributes), events, snapshot.settings.get("store_salvage")


def root_of(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[0]


async def test_random_pages_cost_only_what_stood_on_them(tmp_path: Path):
    await made(tmp_path)
    path = tmp_path / "gateway.db"
    rng = random.Random(4)  # leaves; an inner page of the tree costs all that stands below it (with 3: a fifth)
    pages = path.stat().st_size // 4_096
    with path.open("r+b") as file:
        for page in rng.sample(range(pages // 2, pages), 5):
            file.seek(page * 4_096)
            file.write(os.urandom(4_096))
    before, counters = path.read_bytes(), Counters()
    devices, tokens, attributes, events, report = await look(tmp_path, counters)
    assert (devices, tokens, attributes) == (40, 40, 80)
    assert len(events) > (EVENTS - CONFIRMED) * 0.9
    assert events == sorted(set(events))
    assert events[0] > CONFIRMED
    lost = EVENTS - CONFIRMED - len(events)
    assert report["lost"].get("cloud_event", 0) == lost
    assert sum(report["lost"].values()) > 0
    (kept,) = (file for file in tmp_path.glob("gateway.db.damaged-*") if file.name.endswith("Z"))
    assert kept.read_bytes() == before
    assert report["kept_as"] == kept.name
    assert counters.get("store.quarantined") == 1
    assert counters.get("store.salvaged_rows") > len(events)
    again = await look(tmp_path)
    assert again[3] == events


@pytest.mark.parametrize("first_page", ["header", "all of it"])
async def test_a_zeroed_header_costs_nothing(tmp_path: Path, first_page: str):
    await made(tmp_path)
    with (tmp_path / "gateway.db").open("r+b") as file:
        file.write(bytes(100 if first_page == "header" else 4_096))
    devices, tokens, attributes, events, report = await look(tmp_path)
    assert (devices, tokens, attributes) == (40, 40, 80)
    assert events == list(range(CONFIRMED + 1, EVENTS + 1))
    assert report["lost"] == {}


async def test_a_truncated_file_keeps_what_is_before_the_cut(tmp_path: Path):
    await made(tmp_path)
    path = tmp_path / "gateway.db"
    os.truncate(path, path.stat().st_size * 3 // 4 // 4_096 * 4_096)
    devices, tokens, attributes, events, report = await look(tmp_path)
    assert (devices, tokens, attributes) == (40, 40, 80)
    assert len(events) > (EVENTS - CONFIRMED) // 2
    assert report["lost"]["cloud_event"] >= EVENTS - CONFIRMED - len(events)


async def test_events_without_a_root_page_are_told_as_lost_and_the_devices_stay(tmp_path: Path):
    await made(tmp_path)
    path = tmp_path / "gateway.db"
    root = root_of(path, "cloud_event")
    with path.open("r+b") as file:
        file.seek((root - 1) * 4_096)
        file.write(b"\xff" * 4_096)
    devices, tokens, attributes, events, report = await look(tmp_path)
    assert (devices, tokens, attributes, events) == (40, 40, 80, [])
    assert report["lost"]["cloud_event"] >= 1


async def left_by_a_kill(folder: Path, copy: Path) -> Path:
    """A copy of a store that was never closed: twenty commits are in its log only."""
    await made(folder)
    async with open_store(SqliteStore(), folder, FakeClock(), Counters()) as store:
        for start in range(20):
            first = EVENTS + 1 + start * 10
            await store.commit([[event(n)] for n in range(first, first + 10)])
        copy.mkdir()
        for part in ("", "-wal"):
            shutil.copyfile(folder / f"gateway.db{part}", copy / f"gateway.db{part}")
    return copy / "gateway.db"


@pytest.mark.parametrize("damage", ["frame", "header"])
async def test_commits_behind_damage_in_the_log_are_not_forgotten(tmp_path: Path, damage: str):
    path = await left_by_a_kill(tmp_path / "one", tmp_path / "two")
    assert commits_out_of_reach(path) == 0
    wal = Path(f"{path}-wal")
    with wal.open("r+b") as file:
        file.seek(0 if damage == "header" else HEADER_BYTES + 4 * FRAME + 100)
        file.write(os.urandom(16 if damage == "header" else 200))
    assert commits_out_of_reach(path) > 1
    devices, _, attributes, events, report = await look(path.parent)
    assert (devices, attributes) == (40, 80)
    assert events[-1] == EVENTS + 200
    assert len(events) >= EVENTS - CONFIRMED + 180
    assert "write-ahead log" in report["why"]


async def test_a_torn_last_commit_is_left_out_as_after_a_power_cut_and_told(tmp_path: Path):
    path = await left_by_a_kill(tmp_path / "one", tmp_path / "two")
    wal = Path(f"{path}-wal")
    with wal.open("r+b") as file:
        file.seek(wal.stat().st_size - FRAME + 500)
        file.write(bytes(200))
    torn, counters = wal.read_bytes(), Counters()
    *_, events, report = await look(path.parent, counters)
    assert events == list(range(CONFIRMED + 1, EVENTS + 191))
    assert report is None
    assert counters.get("store.torn_commits") == 1
    assert (path.parent / "gateway.db-wal.torn").read_bytes() == torn


CHILD = """
import sys
from pathlib import Path
import gateway.store.sqlite_quarantine as quarantine
from gateway.config import SqliteStore
from gateway.store import sqlite_file
from gateway.supervise import Counters
import os, signal

steps = int(sys.argv[2])
def counted(work):
    def call(*args, **named):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **named)
    return call
for name in ("_sync", "_remove", "salvage", "_has_schema"):
    setattr(quarantine, name, counted(getattr(quarantine, name)))
Path.rename = counted(Path.rename)
Path.unlink = counted(Path.unlink)
sqlite_file.open_writer(SqliteStore(), Path(sys.argv[1]), Counters())
"""


@pytest.mark.server
async def test_a_kill_at_any_step_of_the_salvage_is_followed_by_the_same_result(tmp_path: Path):
    await made(tmp_path / "one")
    with (tmp_path / "one" / "gateway.db").open("r+b") as file:
        file.write(bytes(100))
    kills = 0
    for step in range(0, 60, 3):
        folder = tmp_path / f"kill-{step}"
        shutil.copytree(tmp_path / "one", folder)
        arguments = [sys.executable, "-c", CHILD, str(folder / "gateway.db"), str(step)]
        child = subprocess.run(arguments, capture_output=True, timeout=60, check=False)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        kills += 1
        devices, tokens, _, events, _ = await look(folder)
        assert (devices, tokens) == (40, 40)
        assert events == list(range(CONFIRMED + 1, EVENTS + 1))
        assert not (folder / "gateway.db.damaged").exists()
        assert len([one for one in folder.glob("gateway.db.damaged-*") if one.name.endswith("Z")]) == 1
    assert kills > 4
