"""Local publish/subscribe as the connections see it: who may, who hears, what is kept.

A message goes three ways: into the queues of persistent sessions and the retained ones, durable before its publisher
hears so; and to the sessions that end with their connection, through the router (amqtt).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, cast
from uuid import UUID

from gateway.broker import local_retained, local_sessions, local_wills
from gateway.broker.acl import Acl
from gateway.broker.local_messages import SHARE, Subscription, Taker, arrived
from gateway.broker.local_retained import Retained
from gateway.broker.local_router import Router, RouterSession
from gateway.broker.local_sessions import Item, KeptSession, Totals, new_session_id
from gateway.broker.local_shared import Group, Groups
from gateway.broker.local_wills import Wills
from gateway.broker.mapped import Mapped, both
from gateway.broker.packets import Connect, Properties, Publish
from gateway.broker.topic_tree import FilterTree
from gateway.config import BrokerConfig
from gateway.domain.changes import Change
from gateway.domain.entity import Device
from gateway.ports import Clock, Committer, Receipt
from gateway.supervise import Counters

log = logging.getLogger(__name__)

SESSIONS_OF_A_DEVICE: Final = 10
_TIDY_S: Final = 30.0
_QUIET_S: Final = 60.0
_MAX_QUIET: Final = 10_000


class Member(Taker, Protocol):
    """A connection's share, as the others see it."""

    def take(self, packet: Publish, subscription: Subscription) -> None:
        """A message of a shared subscription; what the client has not confirmed at its end is handed on."""
        ...

    def become(self, device: Device | None) -> None:
        """Its device was renamed, or is another one now; None: deleted."""
        ...


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
            expired=lambda count: counters.add("broker.local_expired", count),
        )
        self.tree: FilterTree[Subscription] = FilterTree()  # of kept sessions
        self.groups = Groups()
        self.present: dict[UUID, Member] = {}  # the newest connection of each device
        self._numbers = itertools.count(1)
        self._sessions: dict[tuple[UUID, str], KeptSession] = {}
        self.wills = Wills(by_kind.get(local_wills.KIND, ()), clock, counters, self.submit, self._publish_will)
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
            for subscription in session.subscriptions.values():
                self.listen(subscription)

    def open(self, router: Callable[[], Router]) -> None:
        """A new life of the room; at the first one the wills of connections that a kill has ended are published."""
        self.router, self.routed, self._own, self._held = router, 0, None, []
        self.wills.open()

    def number(self) -> int:
        """For a new connection; never 0."""
        return next(self._numbers)

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

    def listen(self, subscription: Subscription) -> None:
        """A subscription of a kept session, or a shared one."""
        if subscription.name.startswith(SHARE):
            self.groups.add(subscription)
        else:
            self.tree.add(subscription.name, subscription, subscription.qos)

    def unlisten(self, subscription: Subscription) -> None:
        """Unknown is no error."""
        if subscription.name.startswith(SHARE):
            self.groups.remove(subscription)
        else:
            self.tree.remove(subscription.name, subscription)

    def forget(self, session: KeptSession, *, is_deleted: bool = False) -> None:
        """With everything that waits for it; shared messages go to others of their group. `is_deleted`: the rest is
        counted.
        """
        place = session.device_id, session.client_id
        self._sessions.pop(place, None)
        for subscription in session.subscriptions.values():
            self.unlisten(subscription)
        session.pause()
        added: list[tuple[KeptSession, Item]] = []
        changes = self._hand_on(session, self.groups.get, added)
        if is_deleted and session.count:
            self.counters.add("broker.local_dropped_deleted", session.count)
        changes += session.forget()
        if changes:
            self._submit_added(changes, added)
        self.wills.session_ended(place)

    def keep_only(self, is_known: Callable[[UUID], bool]) -> None:
        """Sessions of devices that were deleted, and a kill came in between, go."""
        for device_id in {device_id for device_id, _ in self._sessions if not is_known(device_id)}:
            self.device_changed(device_id, None)

    def device_changed(self, device_id: UUID, device: Device | None) -> None:
        """It is so now (its rights follow at once, what is kept stays), perhaps under another id. None: it was
        deleted, and everything that was kept for it goes, counted.
        """
        member = self.present.get(device_id)
        if member is not None:
            member.become(device)
        if device is not None and device.id == device_id:
            return
        mine = [session for session in self._sessions.values() if session.device_id == device_id]
        if device is None:
            for session in mine:
                self.counters.add("broker.local_sessions_deleted")
                self.forget(session, is_deleted=True)
            self.wills.device_gone(device_id)
            return
        if member is not None:
            self.present[device.id] = self.present.pop(device_id)
        self.wills.moved(device_id, device.id)
        for session in mine:
            del self._sessions[device_id, session.client_id]
            session.device_id = device.id
            self._sessions[device.id, session.client_id] = session
            self.submit([session.save()])

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
        self.wills.look_around()
        now_s = self.clock.monotonic_s()
        if now_s - self._tidied_s < _TIDY_S:
            return
        self._tidied_s = now_s
        now_ms = self.clock.now_ms()
        for session in list(self._sessions.values()):
            if session.left_ms is not None and now_ms - session.left_ms > session.expiry_s * 1000:
                self.counters.add("broker.local_sessions_expired")
                self.forget(session)
        if over := self.retained.tidy(now_ms):
            self.counters.add("broker.local_expired", len(over))
            self.submit(over)

    # ── messages ──

    def publish(self, packet: Publish) -> Receipt | None:
        """As `spread`, for a message of the gateway itself."""
        return self.spread(packet, [], 0)[0]

    def spread(
        self, packet: Publish, changes: list[Change], origin: int, sender: Taker | None = None
    ) -> tuple[Receipt | None, bool]:
        """To everybody who hears it: the receipt (None: nothing has to be durable), and whether anything can have
        come of it. `origin`, `sender`: the number of the connection it comes from, and its kept session.

        Raises:
            FullError: It cannot be retained; nobody hears it.
        """
        arrived(packet, self.clock.now_ms())
        if packet.is_retained and (change := self.retained.put(packet)) is not None:
            changes.append(change)
        added: list[tuple[KeptSession, Item]] = []
        found: dict[KeptSession, list[Subscription]] = {}
        for subscription in self.tree.matching(packet.topic):
            session = subscription.who
            if isinstance(session, KeptSession) and not (subscription.is_deaf_to_itself and session is sender):
                found.setdefault(session, []).append(subscription)
        for session, through in found.items():
            self._give(session, packet, through, changes, added)
        is_shared = False
        if len(self.groups):
            for group in self.groups.matching(packet.topic):
                is_shared = self._share(group, packet, changes, added) or is_shared
        if self.routed:
            self._router_session().publish(packet, origin)
        mapped = None if self.mapped is None else self.mapped.heard(packet.topic, packet.payload)
        is_heard = bool(changes or found or is_shared or self.routed or self.mapped is not None)
        if not changes:
            return mapped, is_heard
        receipt = self._submit_added(changes, added)
        return (receipt if mapped is None else both(mapped, receipt)), is_heard

    def _give(
        self,
        session: KeptSession,
        packet: Publish,
        through: Sequence[Subscription],
        changes: list[Change],
        added: list[tuple[KeptSession, Item]],
        share: str = "",
    ) -> None:
        link = session.link
        qos = min(packet.qos, max(one.qos for one in through))
        if link is not None and not link.may_read(packet.topic):
            self.counters.add("broker.local_denied_deliveries")
        elif not qos:
            if link is not None:
                link.send_plain(packet, through)
        elif item := session.add(packet, qos, through, changes, share):
            added.append((session, item))

    def _share(
        self, group: Group, packet: Publish, changes: list[Change], added: list[tuple[KeptSession, Item]]
    ) -> bool:
        """To one of the group; False: nobody of it can have it."""
        chosen = group.pick(packet)
        if chosen is None:
            if packet.qos and any(one.who.is_full for one in group.members):
                self.counters.add("broker.local_shared_dropped")
            return False
        who = chosen.who
        if isinstance(who, KeptSession):
            self._give(who, packet, (chosen,), changes, added, group.name)
        else:
            cast("Member", who).take(packet, chosen)
        return True

    def hand_over(self, share: str, packet: Publish) -> None:
        """A shared message that its member has not confirmed when it went."""
        changes: list[Change] = []
        added: list[tuple[KeptSession, Item]] = []
        group = self.groups.get(share)
        if group is None or not self._share(group, packet, changes, added):
            self.counters.add("broker.local_shared_dropped")
        elif changes:
            self._submit_added(changes, added)

    def left(self, session: KeptSession) -> None:
        """Its client is away: others of its groups that are here get what it has not confirmed."""

        def others(name: str) -> Group | None:
            group = self.groups.get(name)
            here = group is not None and any(one.who.is_here and one.who is not session for one in group.members)
            return group if here else None

        added: list[tuple[KeptSession, Item]] = []
        if changes := self._hand_on(session, others, added):
            self._submit_added(changes, added)

    def _hand_on(
        self,
        session: KeptSession,
        group_of: Callable[[str], Group | None],
        added: list[tuple[KeptSession, Item]],
    ) -> list[Change]:
        items, changes = session.take_shared(lambda name: group_of(name) is not None)
        for item in items:
            group, more = group_of(item.share), item.more
            if more is not None:
                more = Properties(more.passed, until_ms=more.until_ms)
            packet = Publish(item.topic, item.payload, item.qos, is_retained=item.is_retained, more=more)
            if group is None or not self._share(group, packet, changes, added):
                self.counters.add("broker.local_shared_dropped")
        return changes

    def _submit_added(self, changes: Sequence[Change], added: Sequence[tuple[KeptSession, Item]]) -> Receipt:
        receipt = self._committer.submit(changes)
        if added:
            receipt.add_done_callback(lambda done: self._durable(done, added))
        else:
            receipt.add_done_callback(_look_at)
        return receipt

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
            self._own = self.router().attach(lambda packet, origin: None, self._relieve, self._router_gone)
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

    def _publish_will(self, will: Publish, changes: list[Change], origin: int) -> None:
        self.spread(will, changes, origin)

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
            "shared_groups": len(self.groups),
            "retained": self.retained.count,
            "retained_bytes": self.retained.size_bytes,
        }


def _look_at(receipt: Receipt) -> None:
    if not receipt.cancelled():
        receipt.exception()
