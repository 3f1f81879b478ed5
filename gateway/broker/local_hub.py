"""Local publish/subscribe as the connections see it: who may, who hears, what is kept.

A message goes three ways: into the queues of persistent sessions and the retained ones, durable before its publisher
hears so; and to the sessions that end with their connection, through the router (amqtt).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from gateway.broker import local_retained, local_sessions
from gateway.broker.acl import Acl
from gateway.broker.local_retained import Retained
from gateway.broker.local_sessions import Item, KeptSession, Totals, new_session_id
from gateway.broker.mapped import Mapped, both
from gateway.broker.packets import Connect, Publish
from gateway.broker.topic_tree import FilterTree
from gateway.config import BrokerConfig
from gateway.domain.changes import Change, DropLocal, SaveLocal, UnitOfWork
from gateway.domain.entity import Device
from gateway.errors import FullError
from gateway.ports import Clock, Committer, Receipt
from gateway.supervise import Counters

log = logging.getLogger(__name__)

WILL: Final = "will"
_WILL_RETAINED: Final = 4
SESSIONS_OF_A_DEVICE: Final = 10
_TIDY_S: Final = 30.0
_QUIET_S: Final = 60.0
_MAX_QUIET: Final = 10_000


class RouterSession(Protocol):
    """One connection's share in the router."""

    @property
    def is_congested(self) -> bool:
        """True while the router is behind: read no more from this device."""
        ...

    def publish(self, packet: Publish) -> None:
        """To every session that has subscribed there."""
        ...

    def subscribe(self, filters: list[str], answer: Callable[[list[int]], None]) -> None:
        """`answer` gets 0x80 for each filter that it does not take."""
        ...

    def unsubscribe(self, filters: list[str]) -> None:
        """Unknown filters are no error."""
        ...

    def close(self) -> None:
        """The device is gone."""
        ...


class Router(Protocol):
    """Publish/subscribe between sessions that end with their connection, whoever does it."""

    def attach(
        self, deliver: Callable[[Publish], None], relieved: Callable[[], None], gone: Callable[[], None]
    ) -> RouterSession:
        """A new member. `deliver` gets messages with the QoS of their publisher. `relieved`: congestion is over.
        `gone`: the session ended from the other side.
        """
        ...


class Unkept:
    """A committer for a broker that stands alone: nothing lasts."""

    is_congested = False

    def submit(self, unit: UnitOfWork) -> Receipt:
        """Done on the next turn of the loop."""
        loop = asyncio.get_running_loop()
        receipt: Receipt = loop.create_future()
        loop.call_soon(_finish, receipt)
        return receipt

    async def wait_uncongested(self) -> None:
        """At once."""


class LocalHub:
    """One for each broker; it outlives a restart of the room."""

    def __init__(
        self,
        config: BrokerConfig,
        acl: Acl,
        clock: Clock,
        counters: Counters,
        committer: Committer,
        kept: Iterable[tuple[str, str, bytes]],
    ) -> None:
        """`kept`: kind, key, body, as the store had them at start."""
        self.config, self.acl, self.clock, self.counters = config, acl, clock, counters
        self._committer = committer
        by_kind: dict[str, list[tuple[str, bytes]]] = {}
        for kind, key, body in kept:
            by_kind.setdefault(kind, []).append((key, body))
        self.retained = Retained(
            by_kind.get(local_retained.KIND, ()), config.local_retained, config.local_retained_bytes
        )
        self._totals = Totals(
            max_bytes=config.local_total_bytes,
            dropped=lambda count: counters.add("broker.local_dropped_oldest", count),
            withheld=lambda count: counters.add("broker.local_denied_deliveries", count),
        )
        self.tree: FilterTree[KeptSession] = FilterTree()
        self._sessions: dict[tuple[UUID, str], KeptSession] = {}
        self._wills = by_kind.get(WILL, [])
        self.router: Callable[[], Router] | None = None
        self.mapped: Mapped | None = None  # what else messages mean
        self.routed = 0  # subscriptions in the router
        # All publish by one session, which outlives theirs: what they were told is taken does not go with them.
        self._own: RouterSession | None = None
        self._held: list[Callable[[], None]] = []
        self._tidied_s = clock.monotonic_s()
        self._said_s: dict[UUID, float] = {}
        self._load(by_kind)

    def _load(self, by_kind: dict[str, list[tuple[str, bytes]]]) -> None:
        items: dict[str, list[Item]] = {}
        for key, body in by_kind.get(local_sessions.QUEUED, ()):
            id_, _, seq = key.partition("/")
            items.setdefault(id_, []).append(Item.of(int(seq), body))
        received: dict[str, list[int]] = {}
        for key, _ in by_kind.get(local_sessions.RECEIVED, ()):
            id_, _, packet_id = key.partition("/")
            received.setdefault(id_, []).append(int(packet_id))
        for id_, body in by_kind.get(local_sessions.SESSION, ()):
            session = KeptSession.load(
                id_,
                body,
                sorted(items.pop(id_, ()), key=lambda item: item.seq),
                received.get(id_, ()),
                self._totals,
                bounds=(self.config.local_queue, self.config.local_queue_bytes),
            )
            if session.left_ms is None:
                session.left_ms = self.clock.now_ms()
            self._sessions[session.device_id, session.client_id] = session
            for topic_filter, qos in session.filters.items():
                self.tree.add(topic_filter, session, qos)

    def open(self, router: Callable[[], Router]) -> None:
        """A new life of the room; at the first one the wills of connections that a kill has ended are published."""
        self.router, self.routed, self._own, self._held = router, 0, None, []
        wills, self._wills = self._wills, []
        for key, body in wills:
            try:
                self.end_will(key, _will_of(body))
            except FullError as error:
                self.counters.add("broker.local_retained_refused")
                log.warning("a will of the time before the start is not published: %s", error)
                self.end_will(key, None)

    # ── sessions ──

    def session(self, device_id: UUID, client_id: str) -> KeptSession | None:
        """The one that is kept."""
        return self._sessions.get((device_id, client_id))

    def new_session(self, device_id: UUID, packet: Connect) -> KeptSession:
        """Not kept yet: see `keep`."""
        bounds = (self.config.local_queue, self.config.local_queue_bytes)
        return KeptSession(new_session_id(), device_id, packet.client_id, self._totals, *bounds)

    def keep(self, session: KeptSession) -> bool:
        """From now on it is found again. False: there are too many that are in use."""
        place = session.device_id, session.client_id
        if self._sessions.get(place) is session:
            return True
        mine = [other for other in self._sessions.values() if other.device_id == session.device_id]
        if len(mine) >= SESSIONS_OF_A_DEVICE and not self._drop_oldest(mine):
            return False
        if len(self._sessions) >= self.config.local_sessions and not self._drop_oldest(self._sessions.values()):
            return False
        self._sessions[place] = session
        return True

    def forget(self, session: KeptSession) -> None:
        """With everything that waits for it."""
        self._sessions.pop((session.device_id, session.client_id), None)
        for topic_filter in session.filters:
            self.tree.remove(topic_filter, session)
        if changes := session.forget():
            self.submit(changes)

    def _drop_oldest(self, sessions: Iterable[KeptSession]) -> bool:
        away = [session for session in sessions if session.left_ms is not None and session.link is None]
        if not away:
            self.counters.add("broker.local_sessions_refused")
            return False
        self.counters.add("broker.local_sessions_dropped")
        self.forget(min(away, key=lambda session: session.left_ms or 0))
        return True

    def look_around(self) -> None:
        """Now and then: sessions whose client has stayed away for too long end."""
        now_s = self.clock.monotonic_s()
        if now_s - self._tidied_s < _TIDY_S:
            return
        self._tidied_s = now_s
        now_ms = self.clock.now_ms()
        for session in list(self._sessions.values()):
            if session.left_ms is not None and now_ms - session.left_ms > session.expiry_s * 1000:
                self.counters.add("broker.local_sessions_expired")
                self.forget(session)

    # ── messages ──

    def publish(self, packet: Publish, changes: list[Change] | None = None) -> Receipt | None:
        """To everybody who hears it. None: nothing of it has to be durable.

        Raises:
            FullError: It cannot be retained; nobody hears it.
        """
        changes = [] if changes is None else changes
        if packet.is_retained and (change := self.retained.put(packet)) is not None:
            changes.append(change)
        added: list[tuple[KeptSession, Item]] = []
        for session, granted in self.tree.matching(packet.topic).items():
            link = session.link
            if link is not None and not link.may_read(packet.topic):
                self.counters.add("broker.local_denied_deliveries")
            elif not min(packet.qos, granted):
                if link is not None:
                    link.send_plain(packet)
            elif item := session.add(packet.topic, packet.payload, min(packet.qos, granted), changes):
                added.append((session, item))
        if self.routed:
            self._router_session().publish(packet)
        mapped = None if self.mapped is None else self.mapped.heard(packet.topic, packet.payload)
        if not changes:
            return mapped
        receipt = self._committer.submit(changes)
        if added:
            receipt.add_done_callback(lambda done: self._durable(done, added))
        else:
            receipt.add_done_callback(_look_at)
        return receipt if mapped is None else both(mapped, receipt)

    def submit(self, changes: Sequence[Change]) -> Receipt:
        """Nobody has to wait for it."""
        receipt = self._committer.submit(changes)
        receipt.add_done_callback(_look_at)
        return receipt

    def pump(self, session: KeptSession) -> None:
        """Send what waits, as far as there is room."""
        if changes := session.pump():
            self.submit(changes)

    def _durable(self, receipt: Receipt, added: Sequence[tuple[KeptSession, Item]]) -> None:
        if receipt.cancelled():
            return
        is_refused = receipt.exception() is not None
        for session, item in added:
            if is_refused:
                session.take_back(item)
            else:
                item.is_durable = True
                if session.link is not None:
                    self.pump(session)

    def _router_session(self) -> RouterSession:
        if self._own is None:
            assert self.router is not None  # somebody has subscribed there
            self._own = self.router().attach(lambda packet: None, self._relieve, self._router_gone)
        return self._own

    def _router_gone(self) -> None:
        self._own = None
        self._relieve()

    def is_congested(self, relieved: Callable[[], None]) -> bool:
        """True while the router is behind; then `relieved` is called when that is over."""
        if self._own is None or not self._own.is_congested:
            return False
        self._held.append(relieved)
        return True

    def _relieve(self) -> None:
        held, self._held = self._held, []
        for relieved in held:
            relieved()

    # ── wills ──

    def keep_will(self, will: Publish) -> str:
        """Until the connection ends, however it ends; its key."""
        key = uuid4().hex
        self.submit([SaveLocal(WILL, key, _will_body(will))])
        return key

    def end_will(self, key: str, will: Publish | None) -> None:
        """Published (None: not), and kept no longer.

        Raises:
            FullError: It cannot be retained; nothing has changed.
        """
        if will is None:
            self.submit([DropLocal(WILL, key)])
            return
        self.publish(will, [DropLocal(WILL, key)])
        self.counters.add("broker.local_wills")

    # ── for a person ──

    def say(self, device: Device, text: str) -> None:
        """One line a minute for each device; the caller counts."""
        now_s = self.clock.monotonic_s()
        said_s = self._said_s.get(device.id)
        if said_s is None or now_s - said_s >= _QUIET_S:
            if len(self._said_s) >= _MAX_QUIET:
                self._said_s.clear()
            self._said_s[device.id] = now_s
            log.warning("device %r: %s; further ones are only counted", device.name, text)

    def status(self) -> dict[str, Any]:
        """What is kept."""
        return {
            "sessions": len(self._sessions),
            "away": sum(session.link is None for session in self._sessions.values()),
            "queued": sum(session.count for session in self._sessions.values()),
            "queued_bytes": self._totals.size_bytes,
            "retained": self.retained.count,
            "retained_bytes": self.retained.size_bytes,
        }


def _will_body(will: Publish) -> bytes:
    flags = will.qos | (_WILL_RETAINED if will.is_retained else 0)
    return bytes((flags,)) + Item(0, will.topic, will.payload, 0).body()


def _will_of(body: bytes) -> Publish:
    item = Item.of(0, body[1:])
    return Publish(item.topic, item.payload, body[0] & 3, is_retained=bool(body[0] & _WILL_RETAINED))


def _finish(receipt: Receipt) -> None:
    if not receipt.done():
        receipt.set_result(None)


def _look_at(receipt: Receipt) -> None:
    if not receipt.cancelled():
        receipt.exception()
