"""Misbehaviour on demand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from gateway.domain.entity import Json
from gateway.errors import RejectedError

RATE_LIMIT_TEXT: Final = "Failed to process uplink message. Rate limit reached"


@dataclass(slots=True, kw_only=True)
class FaultSettings:
    """What goes wrong from now on. Texts match an entity's name, its id, or a key; `*` matches everything."""

    fail_once: str | None = None
    """The next uplink part that matches fails; then this is over."""
    fail_always: str | None = None
    """Every uplink part that matches fails, and its UplinkMsg with it; parts before it stay done."""
    never_answer: str | None = None
    """UplinkMsg that match are applied and not answered."""
    rate_limit: int | None = None
    """UplinkMsg a second; what is above fails. 0 refuses all."""
    slow_ms: float = 0
    """Time to handle one UplinkMsg; the following ones wait."""
    sync_never_completes: bool = False
    """A sync stops before its end, as if a fetcher had failed."""
    sync_fails_after: int | None = None
    """A sync ends silently after so many packs, in the middle."""
    silent: bool = False
    """The connection stands, and nothing is read or written until this is over."""
    unavailable: bool = False
    """A connect is answered with SERVER_UNAVAILABLE."""
    edge_deleted: bool = False
    """A connect is answered as of an edge that was deleted; an open stream ends with `end_session`."""
    shuffle_answers: bool = False
    """Answers overtake one another."""
    rtt_ms: float = 0.0
    """Latency added to every answer and downlink; throughput is not limited by it."""
    device_quota: int | None = None
    """No device is created beyond so many; the answer is success all the same."""


class Faults:
    """The settings, and what has to be remembered to act on them."""

    def __init__(self, settings: FaultSettings | None = None) -> None:
        self.settings = settings or FaultSettings()
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._handled_s: deque[float] = deque()

    def update(self, changes: dict[str, Json]) -> None:
        """Change some settings; the others stay.

        Raises:
            RejectedError: Unknown name, or a value of the wrong kind; nothing is changed.
        """
        known = {field.name for field in fields(FaultSettings)}
        for name, value in changes.items():
            if name not in known:
                raise RejectedError(f"unknown fault {name!r}; known: {', '.join(sorted(known))}")
            if not _is_right_kind(name, value):
                raise RejectedError(f"{name}: {value!r} is of the wrong kind")
        for name, value in changes.items():
            setattr(self.settings, name, value)
        if self.settings.silent:
            self._speaking.clear()
        else:
            self._speaking.set()

    async def wait_speaking(self) -> None:
        """Returns when the cloud is not silent."""
        while self.settings.silent:
            await self._speaking.wait()

    @property
    def has_match(self) -> bool:
        """Does any setting look at the content of a message?"""
        settings = self.settings
        return not (settings.fail_once is settings.fail_always is settings.never_answer is None)

    def check(self, texts: Iterable[str]) -> bool:
        """Look at one part of an UplinkMsg. True: the message is not to be answered.

        Raises:
            RejectedError: This part fails.
        """
        settings = self.settings
        names = list(texts)
        if settings.fail_once is not None and _matches(settings.fail_once, names):
            settings.fail_once = None
            raise RejectedError("fault: fails once")
        if settings.fail_always is not None and _matches(settings.fail_always, names):
            raise RejectedError("fault: fails always")
        return settings.never_answer is not None and _matches(settings.never_answer, names)

    def is_over_rate(self, now_s: float) -> bool:
        """Count one UplinkMsg against the rate limit."""
        limit = self.settings.rate_limit
        if limit is None:
            return False
        while self._handled_s and self._handled_s[0] <= now_s - 1.0:
            self._handled_s.popleft()
        if len(self._handled_s) >= limit:
            return True
        self._handled_s.append(now_s)
        return False


def _matches(wanted: str, names: list[str]) -> bool:
    return wanted == "*" or wanted in names


def _is_right_kind(name: str, value: Json) -> bool:
    if name in ("fail_once", "fail_always", "never_answer"):
        return value is None or (isinstance(value, str) and value != "")
    if name in ("sync_never_completes", "silent", "unavailable", "edge_deleted", "shuffle_answers"):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if name in ("slow_ms", "rtt_ms"):
        return isinstance(value, int | float) and value >= 0
    return value is None or (isinstance(value, int) and value >= 0)
