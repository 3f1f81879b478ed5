"""Messages as they come to the rules, in files that `edge-gateway rules replay` and `rules test --input` read.

Off unless `rules.record` is set. What a message becomes is one line of JSON, made when it comes; a thread writes what
has gathered every second. Neither a full disk nor a slow one holds a message up: at `WAITING_BYTES` lines are left out
and counted (`rules.record_left_out`). The files together stay below `max_bytes`: the oldest goes.

A line: `{"at": ms, "device": {"name", "profile"} | null, "originator": name | [type, id], "type", "metadata", "bare":
true, "msg"}`. Credentials are never part of a message; what devices send and are sent is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.config import RuleRecordConfig
from gateway.domain.message import Message
from gateway.ports import Clock, Outcome, StateReader
from gateway.supervise import Counters

log = logging.getLogger(__name__)

WAITING_BYTES: Final = 4 << 20
FILES: Final = 8
WRITE_EVERY_S: Final = 1.0

Process = Callable[[Message], Outcome]


class Recorder:
    """Stands between whoever brings messages and the rules. Messages that nodes make themselves do not pass here."""

    name = "rule recording"

    def __init__(
        self,
        config: RuleRecordConfig,
        folder: Path,
        process: Process,
        state: StateReader,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._process, self._state, self._clock, self._counters = process, state, clock, counters
        self._devices, self._profiles = frozenset(config.devices), frozenset(config.profiles)
        self._files = _Files(config.dir or folder, config.max_bytes)
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._has_failed = False

    def process(self, message: Message) -> Outcome:
        """Like `RuleProcessor.process`."""
        line = self._line(message)
        if line is not None:
            if self._bytes + len(line) > WAITING_BYTES:
                self._counters.add("rules.record_left_out")
            else:
                self._waiting.append(line)
                self._bytes += len(line)
        return self._process(message)

    def _line(self, message: Message) -> bytes | None:
        originator = message.originator
        device = self._state.device(originator.id) if originator.type == "DEVICE" else None
        if (self._devices or self._profiles) and (
            device is None or (device.name not in self._devices and device.type not in self._profiles)
        ):
            return None
        line: dict[str, Any] = {
            "at": self._clock.now_ms(),
            "device": None if device is None else {"name": device.name, "profile": device.type},
            "originator": [originator.type, str(originator.id)] if device is None else device.name,
            "type": message.type,
            "metadata": message.metadata,
            "bare": True,
            "msg": message.data,
        }
        try:
            return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:  # text that is no Unicode, a number beyond 64 bits
            self._counters.add("rules.record_left_out")
            return None

    async def serve(self) -> None:
        """Write, until cancelled; what waits then is written too."""
        try:
            while True:
                await self._clock.sleep(WRITE_EVERY_S)
                await self._write()
        finally:
            self._write_now()

    async def _write(self) -> None:
        lines = self._taken()
        if lines:
            self._tell(await asyncio.to_thread(self._files.write, lines), len(lines))

    def _write_now(self) -> None:
        lines = self._taken()
        if lines:
            self._tell(self._files.write(lines), len(lines))

    def _taken(self) -> list[bytes]:
        lines, self._waiting, self._bytes = self._waiting, [], 0
        return lines

    def _tell(self, error: str, count: int) -> None:
        if error:
            self._counters.add("rules.record_left_out", count)
            if not self._has_failed:
                log.warning("rules.record: %s (said once; counted in rules.record_left_out)", error)
        elif self._has_failed:
            log.info("rules.record: writing again")
        self._has_failed = bool(error)


class _Files:
    """`messages-<time>-<number>.jsonl`, readable by the service's group only. Used by one thread at a time."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._file_bytes, self._max_bytes = folder, max_bytes // FILES, max_bytes
        self._path: Path | None = None
        self._number = 0
        self._used = 0

    def write(self, lines: list[bytes]) -> str:
        """Empty, or why not. A line that is longer than a file may be has a file of its own."""
        try:
            part: list[bytes] = []
            size = 0
            for line in lines:
                if part and self._used + size + len(line) > self._file_bytes:
                    self._append(part)
                    self._path, part, size = None, [], 0
                part.append(line)
                size += len(line)
                if self._path is None:
                    self._open()
            self._append(part)
            if self._used >= self._file_bytes:
                self._path = None
        except OSError as error:
            return f"{self._folder} cannot be written: {error.strerror or error}"
        return ""

    def _open(self) -> None:
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._number += 1
        self._path = self._folder / f"messages-{time.time_ns() // 1_000_000:013d}-{self._number:06d}.jsonl"
        self._path.touch(mode=0o640)
        self._used = 0

    def _append(self, lines: list[bytes]) -> None:
        if self._path is None:
            self._open()
        assert self._path is not None
        body = b"".join(lines)
        with self._path.open("ab") as file:
            file.write(body)
        self._used += len(body)
        self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._folder.glob("messages-*.jsonl"))
        sizes = {path: path.stat().st_size for path in files}
        used = sum(sizes.values())
        for path in files:
            if used <= self._max_bytes or path == self._path:
                return
            path.unlink(missing_ok=True)
            used -= sizes[path]
