"""One connection's share in local publish/subscribe: its rights, its subscriptions, what comes down to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial

from gateway.broker import encode, local_sessions
from gateway.broker.acl import DeviceAcl
from gateway.broker.local_feed import Feed
from gateway.broker.local_hub import LocalHub
from gateway.broker.local_messages import (
    SHARE,
    Subscription,
    encoded,
    identifiers_of,
    plain_filter,
    shows_retained,
    writer,
)
from gateway.broker.local_router import RouterSession
from gateway.broker.local_sessions import FIRST_ID, Item, KeptSession
from gateway.broker.outbox import Outbox, UnsentError
from gateway.broker.packets import PUBREC, PUBREL, Ack, Connect, ProtocolError, Publish
from gateway.broker.topic_tree import FilterTree, is_valid_filter
from gateway.broker.topics import is_local
from gateway.broker.wire import MAX_TOPIC_LEVELS
from gateway.domain.changes import Change, DropLocal, SaveLocal
from gateway.domain.entity import Device
from gateway.errors import FullError
from gateway.ports import Receipt

DENIED, FILTER_INVALID, QUOTA_EXCEEDED, FAILURE = 0x87, 0x8F, 0x97, 0x80
NO_SUBSCRIBERS, PROTOCOL_ERROR = 0x10, 0x82


class LocalMember:
    """From the connection's first local act to its end."""

    def __init__(
        self,
        hub: LocalHub,
        device: Device,
        packet: Connect,
        outbox: Outbox,
        write: Callable[[bytes], None],
        is_slow: Callable[[], bool],
        relieved: Callable[[], None],
        gone: Callable[[], None],
    ) -> None:
        """`is_slow`: the device does not read just now. `relieved`, `gone`: of the router."""
        self._hub, self._device, self._version, self._outbox = hub, device, packet.version, outbox
        self._write, self._is_slow, self._relieved, self._gone = write, is_slow, relieved, gone
        self._max_packet_bytes, self._client_id = packet.max_packet_bytes, packet.client_id
        self._number = hub.number()
        self._acl: DeviceAcl = hub.acl.of(device)
        self._router: RouterSession | None = None
        self._filters: FilterTree[Subscription] = FilterTree()  # of a connection without a kept session
        self._subscriptions: dict[str, Subscription] = {}
        self._routed: set[str] = set()  # names of those that the router has
        self._feed = Feed(hub.retained, lambda: not self._is_closed and self.has_room, self._send_one_retained)
        self._unconfirmed_bytes = 0  # of shared messages
        self._is_closed = False
        self._session, self.is_present = self._find_session(packet)
        self.expiry_s = 0 if self._session is None else self._session.expiry_s
        self._is_clean, self._will_delay_s = packet.is_clean, min(packet.will_delay_s, self.expiry_s)
        self._will, self._will_key = self._accept_will(packet.will)
        hub.present[device.id] = self

    def _find_session(self, packet: Connect) -> tuple[KeptSession | None, bool]:
        """Never by an empty client id: the SDKs all use it, and none of them means a session."""
        hub = self._hub
        if not packet.client_id:
            return None, False
        owner = self._device.id, packet.client_id
        if packet.is_clean:
            hub.wills.session_ended(owner)
        else:
            hub.wills.came_back(owner)
        older = hub.session(self._device.id, packet.client_id)
        if older is not None and older.link is not None:
            older.pause()  # its connection is about to be closed
        if older is not None and packet.is_clean:
            hub.forget(older)
            older = None
        asked_s = packet.session_expiry_s if packet.version == 5 else (0 if packet.is_clean else 1 << 32)
        expiry_s = min(asked_s, hub.config.local_session_s)
        if not expiry_s and older is None:
            return None, False
        session = older or hub.new_session(self._device.id, packet)
        session.expiry_s, session.left_ms = expiry_s, None
        if older is not None:
            hub.submit([session.save()])
            self._subscriptions.update(session.subscriptions)
        return session, older is not None

    def _accept_will(self, will: Publish | None) -> tuple[Publish | None, str]:
        if will is None or not is_local(will.topic):
            return None, ""
        problem = "" if self._acl.may_write(will.topic) else "the rules for local topics do not allow it"
        if "+" in will.topic or "#" in will.topic or will.topic.count("/") >= MAX_TOPIC_LEVELS:
            problem = "it has a wildcard or too many levels"
        if problem:
            self._hub.counters.add("broker.local_denied_publishes")
            self._hub.say(self._device, f"its will for {will.topic!r} will not be published: {problem}")
            return None, ""
        return will, self._hub.wills.keep(will, self._will_delay_s, (self._device.id, self._client_id))

    # ── coming back ──

    @property
    def api_filters(self) -> Mapping[str, int]:
        """Subscriptions of the device API that belong to the session, with their QoS."""
        return {} if self._session is None else self._session.api_filters

    @property
    def received(self) -> frozenset[int]:
        """QoS 2 packets of the client that were taken before it went away."""
        return frozenset() if self._session is None else frozenset(self._session.received)

    def start(self) -> None:
        """CONNACK is written: what waits may follow."""
        if self._session is not None:
            self._session.resume(self)
            self._pump()

    def note_api_filters(self, granted: Mapping[str, int]) -> None:
        """A kept session has these, too."""
        session = self._session
        if session is not None and session.is_saved and session.api_filters != granted:
            session.api_filters = dict(granted)
            self._hub.submit([session.save()])

    # ── up ──

    @property
    def is_congested(self) -> bool:
        """True while the router is behind."""
        return self._hub.is_congested(self._relieved)

    def publish(self, packet: Publish) -> tuple[Receipt | None, int]:
        """The receipt, and the 5.0 reason code: why nobody hears it, or that nobody listens.

        Raises:
            ProtocolError: It says what only a server may say.
        """
        hub, topic = self._hub, packet.topic
        if packet.more is not None and packet.more.identifiers:
            raise ProtocolError("PUBLISH of a client with a subscription identifier", PROTOCOL_ERROR)
        if not self._acl.may_write(topic):
            hub.counters.add("broker.local_denied_publishes")
            hub.say(self._device, f"may not publish to {topic!r}")
            return None, DENIED
        changes: list[Change] = []
        session = self._session
        is_remembered = packet.qos == 2 and session is not None and self._keep()
        if is_remembered and session is not None:
            changes.append(SaveLocal(local_sessions.RECEIVED, f"{session.id}/{packet.packet_id}", b""))
        try:
            receipt, is_heard = hub.spread(packet, changes, self._number, session)
        except FullError as error:
            hub.counters.add("broker.local_retained_refused")
            hub.say(self._device, f"a retained message for {topic!r} is refused: {error}")
            return None, QUOTA_EXCEEDED
        if is_remembered and session is not None:
            session.received.add(packet.packet_id)
        return receipt, 0 if is_heard or is_remembered else NO_SUBSCRIBERS

    def released(self, packet_id: int, answer: Callable[[int], None]) -> None:
        """PUBREL of the client. `answer` sends PUBCOMP: then the id is free, so it must not be remembered any more."""
        session = self._session
        if session is None or packet_id not in session.received:
            answer(packet_id)
            return
        session.received.discard(packet_id)
        receipt = self._hub.submit([DropLocal(local_sessions.RECEIVED, f"{session.id}/{packet_id}")])
        receipt.add_done_callback(lambda done: None if done.cancelled() else answer(packet_id))

    # ── subscriptions ──

    @property
    def names(self) -> Set[str]:
        """Filters of all subscriptions."""
        return self._subscriptions.keys()

    def subscribe(
        self, filters: list[tuple[str, int]], answer: Callable[[list[int]], None], identifier: int = 0
    ) -> None:
        """`answer` gets the granted QoS of each filter, or a 5.0 reason code; then retained messages follow.
        Filters come with their options.
        """
        codes = [self._judge(name, options & 3) for name, options in filters]
        session = self._session if any(code <= 2 for code in codes) and self._keep() else None
        granted: list[Subscription] = []
        retained: list[Subscription] = []
        for (name, options), code in zip(filters, codes, strict=True):
            if code > 2:
                continue
            older = self._subscriptions.get(name)
            mine = self._subscriptions[name] = Subscription(name, options, identifier, session or self)
            if mine.wants_retained(is_new=older is None):
                retained.append(mine)
            if session is not None:
                session.subscriptions[name] = mine
            if session is not None or name.startswith(SHARE):
                if older is not None:
                    self._hub.unlisten(older)
                self._hub.listen(mine)
            else:
                if older is not None:
                    self._filters.remove(name, older)
                self._filters.add(name, mine, mine.qos)
                granted.append(mine)
        if session is not None:
            self._answer_kept(session, retained, codes, answer)
        elif granted:
            self._subscribe_routed(granted, retained, codes, filters, answer)
        else:
            answer(codes)

    def _judge(self, name: str, qos: int) -> int:
        topic_filter = plain_filter(name)
        if not is_valid_filter(topic_filter):
            return FILTER_INVALID
        if not self._acl.may_subscribe(topic_filter):
            self._hub.counters.add("broker.local_denied_subscriptions")
            self._hub.say(self._device, f"may not subscribe to {name!r}")
            return DENIED
        return qos

    def _keep(self) -> bool:
        """The session lasts from its first local act on."""
        session, hub = self._session, self._hub
        if session is None or session.is_saved:
            return session is not None
        if not hub.keep(session):
            hub.say(self._device, "its session is not kept: there are too many (broker.local_sessions)")
            self._session = None
            return False
        session.left_ms = None
        hub.submit([session.save()])
        session.resume(self)
        return True

    def _answer_kept(
        self,
        session: KeptSession,
        retained: list[Subscription],
        codes: list[int],
        answer: Callable[[list[int]], None],
    ) -> None:
        def durable(receipt: Receipt) -> None:
            if receipt.cancelled() or self._is_closed:
                return
            is_kept = receipt.exception() is None
            answer(codes if is_kept else [FAILURE if code <= 2 else code for code in codes])
            if is_kept:
                self._send_retained(retained)

        self._hub.submit([session.save()]).add_done_callback(durable)

    def _subscribe_routed(
        self,
        granted: list[Subscription],
        retained: list[Subscription],
        codes: list[int],
        filters: list[tuple[str, int]],
        answer: Callable[[list[int]], None],
    ) -> None:
        new = {one.name for one in granted} - self._routed
        self._hub.routed += len(new)
        self._routed |= new

        def routed(answers: list[int]) -> None:
            refused = {one.name for one, code in zip(granted, answers, strict=True) if code >= 0x80}
            for name in refused:
                self._forget_routed(name)
            answer(
                [FILTER_INVALID if name in refused else code for (name, _), code in zip(filters, codes, strict=True)]
            )
            self._send_retained([one for one in retained if one.name not in refused])

        self._attach().subscribe([one.name for one in granted], routed)

    def unsubscribe(self, name: str) -> bool:
        """False: there is no such subscription."""
        subscription = self._subscriptions.get(name)
        if subscription is None:
            return False
        session = self._session
        if name in self._routed:
            self._forget_routed(name)
            if self._router is not None:
                self._router.unsubscribe([name])
            return True
        del self._subscriptions[name]
        self._hub.unlisten(subscription)
        if session is not None and session.is_saved:
            session.subscriptions.pop(name, None)
            self._hub.submit([session.save()])
        return True

    def _forget_routed(self, name: str) -> None:
        if name in self._routed:
            self._routed.discard(name)
            self._filters.remove(name, self._subscriptions.pop(name))
            self._hub.routed -= 1

    def _attach(self) -> RouterSession:
        if self._router is None:
            assert self._hub.router is not None  # the room is open
            self._router = self._hub.router().attach(self._deliver, _nothing, self._router_gone)
        return self._router

    def _router_gone(self) -> None:
        self._router = None
        self._gone()

    # ── down ──

    def _deliver(self, packet: Publish, origin: int) -> None:
        """Out of the router, with the publisher's QoS; the lower one counts."""
        is_own = origin == self._number
        through = [one for one in self._filters.matching(packet.topic) if not (is_own and one.is_deaf_to_itself)]
        if not through:
            return  # unsubscribed meanwhile, or its own word
        if not self._acl.may_read(packet.topic):
            self._hub.counters.add("broker.local_denied_deliveries")
            return
        self._send_through(packet, through, min(packet.qos, max(one.qos for one in through)))

    def _send_through(
        self, packet: Publish, through: Sequence[Subscription], qos: int, done: asyncio.Future[None] | None = None
    ) -> None:
        properties = writer(self._version, packet.more, identifiers_of(through), self.now_ms)
        is_retained = shows_retained(packet, through)
        self._outbox.publish(
            packet.topic, packet.payload, qos, is_retained=is_retained, done=done, properties=properties
        )

    def _send_retained(self, wanted: list[Subscription]) -> None:
        for one in wanted:
            self._feed.add(one, self.may_read)
        self._feed.go()

    def _send_one_retained(self, packet: Publish, through: Subscription) -> None:
        properties = writer(self._version, packet.more, identifiers_of((through,)), self.now_ms)
        qos = min(packet.qos, through.qos)
        self._outbox.publish(packet.topic, packet.payload, qos, is_retained=True, properties=properties)

    def room(self) -> None:
        """The device has read or confirmed something."""
        self._feed.go()
        if self._session is not None and self._session.link is self:
            self._pump()

    def acknowledged(self, packet: Ack) -> bool:
        """PUBACK, PUBREC, PUBCOMP of the client; False: not of a kept session."""
        session = self._session
        if packet.packet_id < FIRST_ID or session is None:
            return False
        changes = session.acknowledged(packet)
        if changes:
            receipt = self._hub.submit(changes)
            if packet.kind == PUBREC:
                receipt.add_done_callback(lambda done: None if done.cancelled() else session.release(packet.packet_id))
        elif packet.kind == PUBREC:
            session.release(packet.packet_id)
        self._pump()
        return True

    def _pump(self) -> None:
        session = self._session
        if session is not None:
            self._hub.pump(session)
            self._outbox.others(session.in_flight)

    # ── Member ──

    @property
    def is_here(self) -> bool:
        """Connected."""
        return not self._is_closed

    @property
    def is_full(self) -> bool:
        """It confirms nothing, and more must not be kept for it."""
        return self._unconfirmed_bytes > self._hub.config.local_queue_bytes

    def take(self, packet: Publish, subscription: Subscription) -> None:
        """A message of a shared subscription; what the client has not confirmed at its end is handed on."""
        qos = min(packet.qos, subscription.qos)
        done: asyncio.Future[None] | None = None
        if qos:
            self._unconfirmed_bytes += len(packet.payload) + len(packet.topic)
            done = asyncio.get_running_loop().create_future()
            done.add_done_callback(partial(self._taken, packet, subscription.name, qos))
        self._send_through(packet, (subscription,), qos, done)

    def _taken(self, packet: Publish, share: str, qos: int, done: asyncio.Future[None]) -> None:
        self._unconfirmed_bytes -= len(packet.payload) + len(packet.topic)
        if done.cancelled() or (error := done.exception()) is None:
            return
        # MQTT 5.0 §4.8.2: with QoS 2 what may have arrived is nobody else's; what is refused neither.
        if self._is_closed and (qos == 1 or isinstance(error, UnsentError)):
            self._hub.hand_over(share, packet)
        else:
            self._hub.counters.add("broker.local_shared_dropped")

    def become(self, device: Device | None) -> None:
        """Its device was renamed, or is another one now; None: deleted, so nothing is kept for it any more."""
        if device is None:
            self._session = None
        else:
            self._device, self._acl = device, self._hub.acl.of(device)

    # ── Link: what a kept session asks for ──

    def now_ms(self) -> int:
        """The time by which messages end."""
        return self._hub.clock.now_ms()

    @property
    def has_room(self) -> bool:
        """May one more be sent now?"""
        return not self._is_slow() and self._outbox.has_room

    def may_read(self, topic: str) -> bool:
        """What the ACL says."""
        return self._acl.may_read(topic)

    def send(self, item: Item, packet_id: int) -> bool:
        """PUBLISH."""
        more = item.more
        said = b""
        if more is not None:
            # What was begun is ended, even when its time is over by now.
            now_ms = self.now_ms() if more.until_ms is None else min(self.now_ms(), more.until_ms - 1)
            said = encoded(self._version, more, more.identifiers, now_ms) or b""
        data = encode.publish(
            self._version,
            item.topic,
            item.payload,
            item.qos,
            packet_id,
            is_retained=item.is_retained,
            is_dup=item.was_sent,
            properties=said,
        )
        if self._max_packet_bytes is not None and len(data) > self._max_packet_bytes:
            return False
        self._write(data)
        if self._session is not None:
            self._outbox.others(self._session.in_flight + 1)
        return True

    def send_release(self, packet_id: int) -> None:
        """PUBREL."""
        self._write(encode.ack(PUBREL, packet_id, self._version))

    def send_plain(self, packet: Publish, through: Sequence[Subscription]) -> None:
        """QoS 0."""
        self._send_through(packet, through, 0)

    # ── the end ──

    def close(self, *, is_graceful: bool, expiry_s: int | None = None) -> None:
        """The device is gone; without grace its will is published. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        hub, session = self._hub, self._session
        is_latest = hub.present.get(self._device.id) is self
        if is_latest:
            del hub.present[self._device.id]
        hub.routed = max(0, hub.routed - len(self._routed))
        for subscription in self._subscriptions.values():
            if subscription.who is self:
                hub.unlisten(subscription)
        if self._router is not None:
            self._router.close()
        if session is not None and session.link is self:
            session.pause()
            if expiry_s is not None and session.expiry_s:
                session.expiry_s = min(expiry_s, hub.config.local_session_s)
            session.left_ms = hub.clock.now_ms()
            if not session.expiry_s:
                hub.forget(session)
            elif session.is_saved:
                hub.submit([session.save()])
                hub.left(session)
        if self._will is not None:
            will, self._will = self._will, None
            self._end_will(None if is_graceful else will, None if is_latest else hub.present.get(self._device.id))

    def _end_will(self, will: Publish | None, newer: object) -> None:
        hub, key, owner = self._hub, self._will_key, (self._device.id, self._client_id)
        delay_s = 0 if self._session is None else min(self._will_delay_s, self._session.expiry_s)
        if will is not None and delay_s:
            if not isinstance(newer, LocalMember) or newer._client_id != self._client_id:
                hub.wills.delay(key, will, owner, delay_s)
                return
            if not newer._is_clean:
                will = None  # it is back already
        try:
            hub.wills.end(key, will, self._number)
        except FullError as error:
            hub.counters.add("broker.local_retained_refused")
            hub.say(self._device, f"its will is not kept: {error}")
            hub.wills.end(key, None)


def _nothing() -> None:
    """Nothing waits: a listener sends the router no messages."""
