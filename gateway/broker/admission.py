"""Who comes in: places altogether, places of one address, addresses with wrong credentials; and unfinished packets.

One for each life of the broker; every socket passes it at accept, before TLS, WebSocket or MQTT has said a word.
"""

from __future__ import annotations

from typing import Protocol

from gateway.broker.wire import MAX_TOPIC_BYTES, MAX_TOPIC_LEVELS
from gateway.config import BrokerConfig
from gateway.domain.doorkeeper import Doorkeeper
from gateway.supervise import Counters


class Holder(Protocol):
    """A connection in the middle of a packet."""

    def give_up(self) -> None:
        """End it: its packet takes room that others need."""
        ...


class Admission:
    """Counts what peers hold before anything is known of them."""

    def __init__(self, config: BrokerConfig, counters: Counters) -> None:
        self._config, self._counters = config, counters
        self.doorkeeper = Doorkeeper(config.wrong_password_limit, config.block_s)
        self._by_address: dict[str, int] = {}
        self._count = 0
        self._partial: dict[Holder, int] = {}  # bytes of an unfinished packet; the one begun first stands first
        self._partial_bytes = 0

    @property
    def count(self) -> int:
        """Sockets that are open, TLS handshakes included."""
        return self._count

    @property
    def partial_bytes(self) -> int:
        """Bytes of unfinished packets, all connections together."""
        return self._partial_bytes

    def enter(self, address: str, now_s: float) -> bool:
        """One more socket; False (and counted) when it has to go at once. True is answered by one `leave`."""
        held = self._by_address.get(address, 0)
        if self._count >= self._config.max_connections:
            self._counters.add("broker.connections_over_limit")
        elif held >= self._config.max_connections_per_address:
            self._counters.add("broker.connections_over_address_limit")
        elif self.doorkeeper.is_blocked(address, now_s):
            self._counters.add("broker.connections_blocked")
        else:
            self._count += 1
            self._by_address[address] = held + 1
            return True
        return False

    def leave(self, address: str) -> None:
        """That socket is closed."""
        self._count -= 1
        held = self._by_address[address] - 1
        if held:
            self._by_address[address] = held
        else:
            del self._by_address[address]

    def holds(self, holder: Holder, size_bytes: int, *, is_another: bool = False) -> None:
        """So much of a packet is here, and not its end; 0: it is whole, or nobody's any more.

        `is_another`: not the packet that was told of before. Over `max_partial_bytes` altogether, those that
        were begun first are given up.
        """
        before = self._partial.pop(holder, 0) if is_another or not size_bytes else self._partial.get(holder, 0)
        self._partial_bytes += size_bytes - before
        if not size_bytes:
            return
        self._partial[holder] = size_bytes
        while self._partial_bytes > self._config.max_partial_bytes:
            oldest = next(iter(self._partial))
            self._partial_bytes -= self._partial.pop(oldest)
            self._counters.add("broker.unfinished_packets_closed")
            oldest.give_up()


def is_topic_too_long(topic: str) -> bool:
    """True for a filter that nobody needs: local topics are matched level by level. Topics are bounded in `wire`."""
    return len(topic.encode()) > MAX_TOPIC_BYTES or topic.count("/") >= MAX_TOPIC_LEVELS
