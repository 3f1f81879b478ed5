"""The limit of `bench.ingest` in Python: cut QoS 1 publishes, read their JSON, commit their rows, acknowledge.

No rules, no sessions, no checks; the rows of `bench.store_commit.raw` (event, two of history, two of latest) in one
SQLite FULL transaction for all that came while the last one was on its way. The peer of `bench.ingest`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import orjson
import uvloop

SCHEMA: Final = """
CREATE TABLE event (seq INTEGER PRIMARY KEY, device INTEGER, created_ms INTEGER, body BLOB);
CREATE TABLE history (series INTEGER, ts_ms INTEGER, value, PRIMARY KEY (series, ts_ms)) WITHOUT ROWID;
CREATE TABLE latest (series INTEGER PRIMARY KEY, ts_ms INTEGER, value);
"""


class Writer:
    """One thread, one transaction at a time; what comes meanwhile shares the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[Bare, int, int, bytes, dict[str, float]]] = []
        self._is_busy = False

    async def open(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(SCHEMA)

    def add(self, client: Bare, packet_id: int, ts_ms: int, body: bytes, values: dict[str, float]) -> None:
        self._waiting.append((client, packet_id, ts_ms, body, values))
        if not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        group, self._waiting = self._waiting, []
        self._is_busy = bool(group)
        if group:
            done = asyncio.get_running_loop().run_in_executor(self._thread, self._write, group)
            done.add_done_callback(lambda done: self._end(done, group))

    def _write(self, group: list[tuple[Bare, int, int, bytes, dict[str, float]]]) -> None:
        events = [(client.number, ts_ms, body) for client, _, ts_ms, body, _ in group]
        series = [
            (client.number * 100 + place, ts_ms, value)
            for client, _, ts_ms, _, values in group
            for place, value in enumerate(values.values())
        ]
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO event (device, created_ms, body) VALUES (?, ?, ?)", events)
        connection.executemany("INSERT OR REPLACE INTO history VALUES (?, ?, ?)", series)
        newest = {row[0]: row for row in series}
        connection.executemany("INSERT OR REPLACE INTO latest VALUES (?, ?, ?)", newest.values())
        connection.execute("COMMIT")

    def _end(self, done: asyncio.Future[None], group: list[tuple[Bare, int, int, bytes, dict[str, float]]]) -> None:
        done.result()
        answers: dict[Bare, list[bytes]] = {}
        for client, packet_id, *_ in group:
            answers.setdefault(client, []).append(struct.pack(">BBH", 0x40, 2, packet_id))
        for client, parts in answers.items():
            client.transport.write(b"".join(parts))
        self._begin()


class Bare(asyncio.Protocol):
    """One connection: nothing is checked."""

    count = 0

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._buffer = b""
        self._properties = 0
        Bare.count += 1
        self.number = Bare.count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        buffer, offset = self._buffer + data, 0
        while len(buffer) - offset >= 2:
            length, digits = buffer[offset + 1], 1
            if length & 0x80:
                if len(buffer) - offset < 3:
                    break
                length, digits = length & 0x7F | buffer[offset + 2] << 7, 2
            start, end = offset + 1 + digits, offset + 1 + digits + length
            if len(buffer) < end:
                break
            if buffer[offset] & 0xF0 == 0x30:
                (topic_bytes,) = struct.unpack_from(">H", buffer, start)
                (packet_id,) = struct.unpack_from(">H", buffer, start + 2 + topic_bytes)
                body = buffer[start + 4 + topic_bytes + self._properties : end]
                said = orjson.loads(body)
                self._writer.add(self, packet_id, said["ts"], body, said["values"])
            elif buffer[offset] == 0x10:
                self._properties = int(buffer[start + 6] == 5)
                self.transport.write(b"\x20\x03\0\0\0" if self._properties else b"\x20\x02\0\0")
            offset = end
        self._buffer = buffer[offset:]


async def serve(port: int, path: Path) -> None:
    writer = Writer(path)
    await writer.open()
    server = await asyncio.get_running_loop().create_server(lambda: Bare(writer), "127.0.0.1", port, backlog=2000)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
