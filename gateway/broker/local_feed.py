"""Retained messages on their way to one client that has subscribed: a portion at a time, as fast as it takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.broker.local_messages import Subscription
from gateway.broker.local_retained import Retained
from gateway.broker.packets import Publish

_PORTION_BYTES: Final = 32_768  # in one turn of the loop


class Feed:
    """What waits are topics: a message goes out as it is then."""

    def __init__(
        self, retained: Retained, has_room: Callable[[], bool], send: Callable[[Publish, Subscription], None]
    ) -> None:
        """`has_room`: may one more be sent now? False for ever when the client is gone."""
        self._retained, self._has_room, self._send = retained, has_room, send
        self._waiting: deque[tuple[str, Subscription]] = deque()
        self._is_feeding = False

    def add(self, through: Subscription, may_read: Callable[[str], bool]) -> None:
        """All that the subscription matches; `go` follows."""
        topics = self._retained.topics(through.name)
        self._waiting.extend((topic, through) for topic in topics if may_read(topic))

    def go(self) -> None:
        """There is something new, or the client has read."""
        if self._waiting and not self._is_feeding:
            self._feed()

    def _feed(self) -> None:
        self._is_feeding = False
        size = 0
        while self._waiting and self._has_room():
            if size > _PORTION_BYTES:
                self._is_feeding = True
                asyncio.get_running_loop().call_soon(self._feed)
                return
            topic, through = self._waiting.popleft()
            packet = self._retained.get(topic)
            if packet is not None:
                size += len(packet.payload) + len(topic)
                self._send(packet, through)
