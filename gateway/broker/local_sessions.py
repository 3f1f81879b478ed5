"""Persistent sessions of local publish/subscribe: subscriptions, and messages with QoS 1 and 2 that wait.

A session belongs to one device and one client id. What waits is durable before its publisher hears so, and goes when
the client has confirmed it. The packet id follows from the stored number of the message: after a kill the same message
comes with the same id, which makes QoS 2 exactly once.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID, uuid4

import orjson

from gateway.broker.local_messages import Subscription, identifiers_of, is_over, loaded, shows_retained, stored
from gateway.broker.packets import PUBACK, PUBCOMP, PUBREC, Ack, Properties, Publish
from gateway.domain.changes import Change, DropLocal, SaveLocal

SESSION, QUEUED, RECEIVED = "session", "queued", "received"
FIRST_ID: Final = 32_768
"""Packet ids from here on are those of persistent sessions; lower ones belong to the connection."""
WINDOW: Final = 100
WINDOW_BYTES: Final = 262_144
_HEAD: Final = struct.Struct(">BH")
_RELEASED, _HAS_MORE, _RETAINED = 0x80, 0x40, 0x08


@dataclass(slots=True)
class Item:
    """One message for one session. `is_released`: PUBREC has come, PUBCOMP has not; its payload is gone.

    `more` holds the identifiers of this client's subscriptions; `share`: the shared one it came through.
    """

    seq: int
    topic: str
    payload: bytes
    qos: int
    is_durable: bool = False
    is_released: bool = False
    was_sent: bool = False
    more: Properties | None = None
    is_retained: bool = False
    share: str = ""

    @property
    def size_bytes(self) -> int:
        """What it weighs in the bounds."""
        extra = 0 if self.more is None else 100 + len(self.more.passed)
        return len(self.payload) + len(self.topic) + 100 + extra

    def body(self) -> bytes:
        """As it is stored."""
        topic = self.topic.encode()
        flags = self.qos | (_RELEASED if self.is_released else 0) | (_RETAINED if self.is_retained else 0)
        if self.more is None and not self.share:
            return _HEAD.pack(flags, len(topic)) + topic + self.payload
        extra = stored(self.more or Properties(), self.share)
        return _HEAD.pack(flags | _HAS_MORE, len(topic)) + topic + extra + self.payload

    @classmethod
    def of(cls, seq: int, body: bytes) -> Item:
        """The reverse of `body`."""
        flags, length = _HEAD.unpack_from(body)
        topic = body[_HEAD.size : _HEAD.size + length].decode()
        more, share, start = None, "", _HEAD.size + length
        if flags & _HAS_MORE:
            more, share, start = loaded(body, start)
        item = cls(seq, topic, body[start:], flags & 3, is_durable=True, is_released=bool(flags & _RELEASED))
        item.more, item.share, item.is_retained = more, share, bool(flags & _RETAINED)
        return item


class Link(Protocol):
    """The way to the client while it is connected."""

    @property
    def has_room(self) -> bool:
        """May one more be sent now?"""
        ...

    def may_read(self, topic: str) -> bool:
        """What the ACL says now."""
        ...

    def send(self, item: Item, packet_id: int) -> bool:
        """PUBLISH; False when the client takes no packet so large: it never will."""
        ...

    def now_ms(self) -> int:
        """The time by which messages end."""
        ...

    def send_release(self, packet_id: int) -> None:
        """PUBREL."""
        ...

    def send_plain(self, packet: Publish, through: Sequence[Subscription]) -> None:
        """QoS 0: now or never."""
        ...


@dataclass(slots=True)
class Totals:
    """Of all sessions together."""

    size_bytes: int = 0
    max_bytes: int = 32 << 20
    dropped: Callable[[int], None] = field(default=lambda count: None)
    withheld: Callable[[int], None] = field(default=lambda count: None)
    expired: Callable[[int], None] = field(default=lambda count: None)


class KeptSession:
    """One of them. Methods return the changes that make them last; the caller commits."""

    def __init__(
        self, id_: str, device_id: UUID, client_id: str, totals: Totals, max_count: int, max_bytes: int
    ) -> None:
        self.id, self.device_id, self.client_id = id_, device_id, client_id
        self._totals, self._max_count, self._max_bytes = totals, max_count, max_bytes
        self.subscriptions: dict[str, Subscription] = {}
        self.api_filters: dict[str, int] = {}
        self.received: set[int] = set()  # QoS 2 of the client: answered with PUBREC, PUBREL to come
        self.expiry_s = 0
        self.left_ms: int | None = None
        self.is_saved = False
        self.link: Link | None = None
        self._waiting: deque[Item] = deque()
        self._in_flight: dict[int, Item] = {}
        self._flight_bytes = 0
        self._next_seq = 0
        self.size_bytes = 0

    @property
    def count(self) -> int:
        """Messages that wait for the client or its confirmation."""
        return len(self._waiting) + len(self._in_flight)

    @property
    def in_flight(self) -> int:
        """Packet ids in use."""
        return len(self._in_flight)

    # ── what lasts ──

    def save(self) -> Change:
        """The session itself."""
        self.is_saved = True
        fields = {
            "device": str(self.device_id),
            "client": self.client_id,
            "filters": {name: one.options for name, one in self.subscriptions.items()},
            "ids": {name: one.identifier for name, one in self.subscriptions.items() if one.identifier},
            "api": self.api_filters,
            "expiry_s": self.expiry_s,
            "left_ms": self.left_ms,
        }
        return SaveLocal(SESSION, self.id, orjson.dumps(fields))

    @classmethod
    def load(
        cls,
        id_: str,
        body: bytes,
        items: Iterable[Item],
        received: Iterable[int],
        totals: Totals,
        *,
        bounds: tuple[int, int],
    ) -> KeptSession:
        """As it was stored; `items` in the order of their numbers."""
        fields = orjson.loads(body)
        session = cls(id_, UUID(fields["device"]), fields["client"], totals, *bounds)
        ids = fields.get("ids", {})
        session.subscriptions = {
            name: Subscription(name, options, ids.get(name, 0), session) for name, options in fields["filters"].items()
        }
        session.api_filters = fields["api"]
        session.expiry_s, session.left_ms = fields["expiry_s"], fields["left_ms"]
        session.is_saved = True
        session.received.update(received)
        for item in items:
            session._next_seq = item.seq + 1
            session._weigh(item.size_bytes)
            if item.is_released:
                session._in_flight[_packet_id(item)] = item
            else:
                # Which of the first ones the client has, nobody knows.
                item.was_sent = session.left_ms is None and len(session._waiting) < WINDOW
                session._waiting.append(item)
        return session

    def forget(self) -> list[Change]:
        """Everything of it goes."""
        self._totals.size_bytes -= self.size_bytes
        self.size_bytes = 0
        changes: list[Change] = [
            DropLocal(QUEUED, self._key(item)) for item in (*self._in_flight.values(), *self._waiting)
        ]
        changes += [DropLocal(RECEIVED, f"{self.id}/{packet_id}") for packet_id in self.received]
        self._waiting.clear()
        self._in_flight.clear()
        self.received.clear()
        if self.is_saved:
            changes.append(DropLocal(SESSION, self.id))
        self.is_saved = False
        return changes

    # ── messages ──

    # ── Taker ──

    @property
    def is_here(self) -> bool:
        """Its client is connected."""
        return self.link is not None

    @property
    def has_room(self) -> bool:
        """One more would be sent at once."""
        return self.link is not None and not self._waiting and self.link.has_room

    @property
    def is_full(self) -> bool:
        """Never: it makes room for a new one itself."""
        return False

    def may_read(self, topic: str) -> bool:
        """What the ACL says of a client that is here; of another one it is asked when that one comes."""
        return self.link is None or self.link.may_read(topic)

    def take_shared(self, is_wanted: Callable[[str], bool]) -> tuple[list[Item], list[Change]]:
        """Shared messages that others may have now, and the changes that end them here. With QoS 2, one that may
        have arrived stays (MQTT 5.0 §4.8.2).
        """
        taken = [
            item
            for item in self._waiting
            if item.share and not (item.qos == 2 and item.was_sent) and is_wanted(item.share)
        ]
        if taken:
            gone = {item.seq for item in taken}
            self._waiting = deque(item for item in self._waiting if item.seq not in gone)
            for item in taken:
                self._weigh(-item.size_bytes)
        return taken, [DropLocal(QUEUED, self._key(item)) for item in taken]

    def add(
        self, packet: Publish, qos: int, through: Sequence[Subscription], changes: list[Change], share: str = ""
    ) -> Item | None:
        """One more at the end; when there is no room the oldest that is not on its way goes, counted.

        The item is sent after `is_durable` was set. None: not even alone it fits.
        """
        item = Item(self._next_seq, packet.topic, packet.payload, qos, share=share)
        identifiers, more = identifiers_of(through), packet.more
        if identifiers or more is not None:
            passed, until_ms = (b"", None) if more is None else (more.passed, more.until_ms)
            item.more = Properties(passed, None, identifiers, until_ms)
        item.is_retained = shows_retained(packet, through)
        size = item.size_bytes
        while not self._fits(size):
            if not self._waiting:
                self._totals.dropped(1)
                return None
            oldest = self._waiting.popleft()
            self._weigh(-oldest.size_bytes)
            changes.append(DropLocal(QUEUED, self._key(oldest)))
            self._totals.dropped(1)
        self._next_seq += 1
        self._weigh(size)
        self._waiting.append(item)
        changes.append(SaveLocal(QUEUED, self._key(item), item.body()))
        return item

    def take_back(self, item: Item) -> None:
        """The store refuses it for ever."""
        if item in self._waiting:
            self._waiting.remove(item)
            self._weigh(-item.size_bytes)

    def pump(self) -> list[Change]:
        """Send what may be sent; the changes are of what will never be."""
        changes: list[Change] = []
        link, waiting = self.link, self._waiting
        while link is not None and waiting and waiting[0].is_durable and link.has_room:
            item = waiting[0]
            packet_id = _packet_id(item)
            if len(self._in_flight) >= WINDOW or self._flight_bytes >= WINDOW_BYTES or packet_id in self._in_flight:
                break
            waiting.popleft()
            if not link.may_read(item.topic):
                self._totals.withheld(1)
            elif is_over(item.more, link.now_ms()) and not (item.qos == 2 and item.was_sent):
                self._totals.expired(1)
            elif link.send(item, packet_id):
                item.was_sent = True
                self._in_flight[packet_id] = item
                self._flight_bytes += item.size_bytes
                continue
            else:
                self._totals.dropped(1)
            self._weigh(-item.size_bytes)
            changes.append(DropLocal(QUEUED, self._key(item)))
        return changes

    def acknowledged(self, packet: Ack) -> list[Change]:
        """PUBACK, PUBREC or PUBCOMP; after PUBREC the caller calls `release` when the changes are durable."""
        item = self._in_flight.get(packet.packet_id)
        if item is None:
            return []
        is_refused = packet.kind == PUBREC and packet.reason >= 0x80
        if packet.kind == PUBREC and not is_refused:
            if item.is_released:
                return []
            size = item.size_bytes
            item.is_released, item.is_durable, item.payload, item.more = True, False, b"", None
            self._weigh(item.size_bytes - size)
            self._flight_bytes -= size - item.size_bytes
            return [SaveLocal(QUEUED, self._key(item), item.body())]
        if is_refused or packet.kind == (PUBACK if item.qos == 1 else PUBCOMP):
            del self._in_flight[packet.packet_id]
            self._flight_bytes -= item.size_bytes
            self._weigh(-item.size_bytes)
            return [DropLocal(QUEUED, self._key(item))]
        return []

    def release(self, packet_id: int) -> None:
        """PUBREL for what is known to be received; a client that asks about an unknown one gets it, too."""
        item = self._in_flight.get(packet_id)
        if item is not None:
            if not item.is_released:
                return
            item.is_durable = True
        if self.link is not None:
            self.link.send_release(packet_id)

    def resume(self, link: Link) -> None:
        """The client is here: what it has not confirmed comes again, in the old order; `pump` goes on."""
        self.link = link
        self._flight_bytes = 0
        for packet_id, item in self._in_flight.items():
            self._flight_bytes += item.size_bytes
            if item.is_durable:
                link.send_release(packet_id)

    def pause(self) -> None:
        """The client is gone."""
        self.link = None
        unconfirmed = [item for item in self._in_flight.values() if not item.is_released]
        for item in unconfirmed:
            del self._in_flight[_packet_id(item)]
        self._waiting.extendleft(sorted(unconfirmed, key=lambda item: item.seq, reverse=True))

    def _fits(self, size: int) -> bool:
        return (
            self.count < self._max_count
            and self.size_bytes + size <= self._max_bytes
            and self._totals.size_bytes + size <= self._totals.max_bytes
        )

    def _weigh(self, size: int) -> None:
        self.size_bytes += size
        self._totals.size_bytes += size

    def _key(self, item: Item) -> str:
        return f"{self.id}/{item.seq}"


def new_session_id() -> str:
    """Not the client's id: that can be any text."""
    return uuid4().hex


def _packet_id(item: Item) -> int:
    return FIRST_ID + item.seq % FIRST_ID
