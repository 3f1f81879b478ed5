"""A local message on its way to a subscriber: which subscriptions it came through, and what 5.0 says beside it.

Source: OASIS MQTT 5.0 §3.3.2.3 (properties of PUBLISH), §3.8.3.1 (subscription options).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.broker import encode
from gateway.broker.packets import AS_PUBLISHED, NO_LOCAL, Properties, Publish

SHARE: Final = "$share/"
_HEAD: Final = struct.Struct(">QIH")


class Taker(Protocol):
    """Who a shared subscription may choose: a kept session, or a connection without one."""

    @property
    def is_here(self) -> bool:
        """Connected."""
        ...

    @property
    def has_room(self) -> bool:
        """One more would be sent at once."""
        ...

    @property
    def is_full(self) -> bool:
        """It must not be chosen: it holds as much unconfirmed as may be held."""
        ...

    def may_read(self, topic: str) -> bool:
        """What the ACL says; True while nobody can say."""
        ...


@dataclass(slots=True, eq=False)
class Subscription:
    """One filter of one client, as it was asked for; a new one for each SUBSCRIBE."""

    name: str
    options: int
    identifier: int
    who: Taker

    @property
    def qos(self) -> int:
        """The highest that comes through it."""
        return self.options & 3

    @property
    def is_deaf_to_itself(self) -> bool:
        """No Local."""
        return self.options & NO_LOCAL != 0

    def wants_retained(self, *, is_new: bool) -> bool:
        """Retain handling: 0 always, 1 for a new subscription, 2 never; a shared one gets none."""
        handling = self.options >> 4 & 3
        return not self.name.startswith(SHARE) and (handling == 0 or (handling == 1 and is_new))


def share_of(name: str) -> tuple[str, str] | None:
    """Group and filter of a shared subscription; None: it is none, or not a valid one."""
    if not name.startswith(SHARE):
        return None
    group, slash, topic_filter = name[len(SHARE) :].partition("/")
    if not group or not slash or not topic_filter or "+" in group or "#" in group:
        return None
    return group, topic_filter


def plain_filter(name: str) -> str:
    """The filter, without the group that shares it."""
    shared = share_of(name)
    return name if shared is None else shared[1]


def identifiers_of(subscriptions: Sequence[Subscription]) -> tuple[int, ...]:
    """Those that a message which came through all of them carries."""
    return tuple(one.identifier for one in subscriptions if one.identifier)


def shows_retained(packet: Publish, subscriptions: Sequence[Subscription]) -> bool:
    """Retain as published: the flag of the publisher, else none."""
    return packet.is_retained and any(one.options & AS_PUBLISHED for one in subscriptions)


def arrived(packet: Publish, now_ms: int) -> None:
    """The life of the message begins."""
    more = packet.more
    if more is not None and more.expiry_s is not None:
        more.until_ms = now_ms + more.expiry_s * 1000


def is_over(more: Properties | None, now_ms: int) -> bool:
    """Has the message outlived its expiry interval?"""
    return more is not None and more.until_ms is not None and more.until_ms <= now_ms


def encoded(version: int, more: Properties | None, identifiers: Sequence[int], now_ms: int) -> bytes | None:
    """Properties for a subscriber, with the time that remains; None: the message is over."""
    if is_over(more, now_ms):
        return None
    if version != 5 or (more is None and not identifiers):
        return b""
    left_s: int | None = None
    if more is not None and more.until_ms is not None:
        left_s = -(-(more.until_ms - now_ms) // 1000)
    return encode.publish_properties(b"" if more is None else more.passed, left_s, identifiers)


def writer(
    version: int, more: Properties | None, identifiers: Sequence[int], now_ms: Callable[[], int]
) -> Callable[[], bytes | None] | None:
    """`encoded` at the time of sending; None: there is nothing to say and no end."""
    if more is None and not identifiers:
        return None
    return lambda: encoded(version, more, identifiers, now_ms())


def stored(more: Properties, share: str = "") -> bytes:
    """What a store keeps of it, in front of the payload; `loaded` is the reverse."""
    name = share.encode()
    until = 0 if more.until_ms is None else more.until_ms
    numbers = b"".join(number.to_bytes(4, "big") for number in more.identifiers)
    head = _HEAD.pack(until, len(more.passed), len(more.identifiers))
    return head + len(name).to_bytes(2, "big") + name + more.passed + numbers


def loaded(body: bytes, at: int) -> tuple[Properties, str, int]:
    """Properties and shared subscription, and where the payload begins."""
    until_ms, passed_bytes, count = _HEAD.unpack_from(body, at)
    at += _HEAD.size
    size = int.from_bytes(body[at : at + 2], "big")
    at += 2
    share = body[at : at + size].decode()
    at += size
    passed = body[at : at + passed_bytes]
    at += passed_bytes
    numbers = tuple(int.from_bytes(body[place : place + 4], "big") for place in range(at, at + 4 * count, 4))
    return Properties(passed, None, numbers, until_ms or None), share, at + 4 * count
