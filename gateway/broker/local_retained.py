"""Retained messages of local topics: the last one of each, durable, bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.broker.local_messages import loaded, stored
from gateway.broker.packets import Publish
from gateway.broker.topic_tree import TopicTree
from gateway.domain.changes import Change, DropLocal, SaveLocal
from gateway.errors import FullError

KIND: Final = "retained"
_HAS_MORE: Final = 0x40
MAX_TOPIC_BYTES: Final = 1_024
"""A database's index has no room for longer ones."""


class Retained:
    """In memory and, by the changes it returns, in the store.

    A body is one byte of QoS, properties of 5.0 where `_HAS_MORE` says so, and the payload.
    """

    def __init__(self, kept: Iterable[tuple[str, bytes]], max_count: int, max_bytes: int) -> None:
        """`kept`: topic and body, as they were stored."""
        self._max_count, self._max_bytes = max_count, max_bytes
        self._messages: TopicTree[bytes] = TopicTree()
        self.size_bytes = 0
        self._until_ms: dict[str, int] = {}  # of those that do not stay for ever
        for topic, body in kept:
            self._messages.put(topic, body)
            self.size_bytes += len(topic) + len(body)
            if body[0] & _HAS_MORE and (until_ms := loaded(body, 1)[0].until_ms) is not None:
                self._until_ms[topic] = until_ms

    @property
    def count(self) -> int:
        """Topics with a retained message."""
        return len(self._messages)

    def put(self, packet: Publish) -> Change | None:
        """Keep it in the place of the older one; without a payload the older one goes. None: nothing changes.

        Raises:
            FullError: No room for it, or its topic is too long; nothing has changed.
        """
        topic = packet.topic
        older = self._messages.get(topic)
        if not packet.payload:
            return None if older is None else self._drop(topic, older)
        more = packet.more
        if more is None:
            body = bytes((packet.qos,)) + packet.payload
        else:
            body = bytes((packet.qos | _HAS_MORE,)) + stored(more) + packet.payload
        size_bytes = self.size_bytes + len(body) + (len(topic) if older is None else -len(older))
        if size_bytes > self._max_bytes or (older is None and self.count >= self._max_count):
            raise FullError(
                f"{self.count} retained messages of {self.size_bytes} bytes are kept (broker.local_retained,"
                " local_retained_bytes): no room for one more"
            )
        if len(topic.encode()) > MAX_TOPIC_BYTES:
            raise FullError(f"a retained message needs a topic of at most {MAX_TOPIC_BYTES} bytes")
        self._messages.put(topic, body)
        self.size_bytes = size_bytes
        self._until_ms.pop(topic, None)
        if more is not None and more.until_ms is not None:
            self._until_ms[topic] = more.until_ms
        return SaveLocal(KIND, topic, body)

    def tidy(self, now_ms: int) -> list[Change]:
        """Those go whose time is over."""
        over = [topic for topic, until_ms in self._until_ms.items() if until_ms <= now_ms]
        return [self._drop(topic, body) for topic in over if (body := self._messages.get(topic)) is not None]

    def _drop(self, topic: str, body: bytes) -> Change:
        self._messages.pop(topic)
        self._until_ms.pop(topic, None)
        self.size_bytes -= len(topic) + len(body)
        return DropLocal(KIND, topic)

    def topics(self, topic_filter: str) -> Iterator[str]:
        """Topics with a retained message that the filter matches."""
        return self._messages.topics(topic_filter)

    def get(self, topic: str) -> Publish | None:
        """The message as it is now, with its flag."""
        body = self._messages.get(topic)
        if body is None:
            return None
        if not body[0] & _HAS_MORE:
            return Publish(topic, body[1:], body[0], is_retained=True)
        more, _, start = loaded(body, 1)
        return Publish(topic, body[start:], body[0] & 3, is_retained=True, more=more)
