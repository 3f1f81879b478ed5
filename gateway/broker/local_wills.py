"""Wills of local topics: durable from CONNECT on, published when the connection ends without a goodbye.

With a will delay (5.0) that is when the delay is over, or the session, whichever comes first; a client that is back
earlier takes its will with it. Source: OASIS MQTT 5.0 §3.1.2.5, §3.1.3.2.2.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from gateway.broker.local_sessions import Item
from gateway.broker.packets import Properties, Publish
from gateway.domain.changes import Change, DropLocal, SaveLocal
from gateway.errors import FullError
from gateway.ports import Clock
from gateway.supervise import Counters

log = logging.getLogger(__name__)

KIND: Final = "will"
_RETAINED, _DELAYED, _EXPIRES = 0x04, 0x08, 0x10
_OWNER: Final = struct.Struct(">I16sH")
Owner = tuple[UUID, str]
"""Device and client id: whose return keeps a delayed will from being published."""


@dataclass(slots=True)
class _Delayed:
    will: Publish
    owner: Owner
    due_s: float


class Wills:
    """One for each broker."""

    def __init__(
        self,
        kept: Iterable[tuple[str, bytes]],
        clock: Clock,
        counters: Counters,
        submit: Callable[[Sequence[Change]], Any],
        publish: Callable[[Publish, list[Change], int], Any],
    ) -> None:
        """`kept`: of connections that were open at the last end. `publish` may raise `FullError`."""
        self._kept = list(kept)
        self._clock, self._counters, self._submit, self._publish = clock, counters, submit, publish
        self._delayed: dict[str, _Delayed] = {}

    def open(self) -> None:
        """The house is open: those of the time before follow, the delayed ones after their whole delay."""
        kept, self._kept = self._kept, []
        for key, body in kept:
            will, delay_s, owner = _loaded(body)
            if owner is not None:
                self._delayed[key] = _Delayed(will, owner, self._clock.monotonic_s() + delay_s)
            else:
                self._end_or_say(key, will)

    def keep(self, will: Publish, delay_s: int, owner: Owner) -> str:
        """Until the connection ends, however it ends; its key."""
        key = uuid4().hex
        self._submit([SaveLocal(KIND, key, _body(will, delay_s, owner))])
        return key

    def end(self, key: str, will: Publish | None, origin: int = 0) -> None:
        """Published (None: not), and kept no longer. `origin`: the number of the connection that it is of.

        Raises:
            FullError: It cannot be retained; nothing has changed.
        """
        self._delayed.pop(key, None)
        if will is None:
            self._submit([DropLocal(KIND, key)])
            return
        self._publish(will, [DropLocal(KIND, key)], origin)
        self._counters.add("broker.local_wills")

    def delay(self, key: str, will: Publish, owner: Owner, delay_s: float) -> None:
        """Its connection has ended; published after so long."""
        self._delayed[key] = _Delayed(will, owner, self._clock.monotonic_s() + delay_s)

    def came_back(self, owner: Owner) -> None:
        """In time: nothing is published."""
        for key in [key for key, one in self._delayed.items() if one.owner == owner]:
            self.end(key, None)

    def session_ended(self, owner: Owner) -> None:
        """The delay ends with it."""
        for key, one in [(key, one) for key, one in self._delayed.items() if one.owner == owner]:
            self._end_or_say(key, one.will)

    def moved(self, old: UUID, new: UUID) -> None:
        """A device has another id."""
        for one in self._delayed.values():
            if one.owner[0] == old:
                one.owner = new, one.owner[1]

    def device_gone(self, device_id: UUID) -> None:
        """Its sessions have ended."""
        for owner in {one.owner for one in self._delayed.values() if one.owner[0] == device_id}:
            self.session_ended(owner)

    def look_around(self) -> None:
        """Once a second: those whose delay is over."""
        if self._delayed:
            now_s = self._clock.monotonic_s()
            for key, one in [(key, one) for key, one in self._delayed.items() if one.due_s <= now_s]:
                self._end_or_say(key, one.will)

    def _end_or_say(self, key: str, will: Publish) -> None:
        try:
            self.end(key, will)
        except FullError as error:
            self._counters.add("broker.local_retained_refused")
            log.warning("a will of an earlier connection is not published: %s", error)
            self.end(key, None)


def _body(will: Publish, delay_s: int, owner: Owner) -> bytes:
    expiry_s = None if will.more is None else will.more.expiry_s
    head = b""
    flags = will.qos | (_RETAINED if will.is_retained else 0)
    if delay_s:
        flags |= _DELAYED
        client_id = owner[1].encode()
        head += _OWNER.pack(delay_s, owner[0].bytes, len(client_id)) + client_id
    if expiry_s is not None:
        flags |= _EXPIRES
        head += expiry_s.to_bytes(4, "big")
    return bytes((flags,)) + head + Item(0, will.topic, will.payload, 0, more=will.more).body()


def _loaded(body: bytes) -> tuple[Publish, int, Owner | None]:
    flags, at = body[0], 1
    delay_s, owner = 0, None
    if flags & _DELAYED:
        delay_s, device, length = _OWNER.unpack_from(body, at)
        at += _OWNER.size
        owner = UUID(bytes=device), body[at : at + length].decode()
        at += length
    expiry_s: int | None = None
    if flags & _EXPIRES:
        expiry_s = int.from_bytes(body[at : at + 4], "big")
        at += 4
    item = Item.of(0, body[at:])
    more = item.more
    if expiry_s is not None:
        more = Properties(b"" if more is None else more.passed, expiry_s)
    return Publish(item.topic, item.payload, flags & 3, is_retained=bool(flags & _RETAINED), more=more), delay_s, owner
