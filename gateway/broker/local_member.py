"""One connection's share in local publish/subscribe: its rights, its subscriptions, what comes down to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from gateway.broker import encode, local_sessions
from gateway.broker.acl import DeviceAcl
from gateway.broker.local_hub import LocalHub, RouterSession
from gateway.broker.local_sessions import FIRST_ID, Item, KeptSession
from gateway.broker.outbox import Outbox
from gateway.broker.packets import PUBREC, PUBREL, Ack, Connect, Publish
from gateway.broker.topic_tree import FilterTree, is_valid_filter
from gateway.broker.topics import is_local
from gateway.broker.wire import MAX_TOPIC_LEVELS
from gateway.domain.changes import Change, DropLocal, SaveLocal
from gateway.domain.entity import Device
from gateway.errors import FullError
from gateway.ports import Receipt

DENIED, FILTER_INVALID, QUOTA_EXCEEDED, FAILURE = 0x87, 0x8F, 0x97, 0x80
_PORTION_BYTES: Final = 32_768  # of retained messages in one turn of the loop


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
        self._max_packet_bytes = packet.max_packet_bytes
        self._acl: DeviceAcl = hub.acl.of(device)
        self._router: RouterSession | None = None
        self._filters: FilterTree[bool] = FilterTree()  # of a connection without a kept session
        self.names: set[str] = set()
        self._backlog: deque[tuple[str, int]] = deque()  # retained topics to be sent, with the granted QoS
        self._is_feeding = self._is_closed = False
        self._session, self.is_present = self._find_session(packet)
        self.expiry_s = 0 if self._session is None else self._session.expiry_s
        self._will, self._will_key = self._accept_will(packet.will)

    def _find_session(self, packet: Connect) -> tuple[KeptSession | None, bool]:
        """Never by an empty client id: the SDKs all use it, and none of them means a session."""
        hub = self._hub
        if not packet.client_id:
            return None, False
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
            self.names.update(session.filters)
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
        return will, self._hub.keep_will(will)

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
        """The receipt, or the reason why nobody hears it (5.0 reason codes)."""
        hub, topic = self._hub, packet.topic
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
            receipt = hub.publish(packet, changes)
        except FullError as error:
            hub.counters.add("broker.local_retained_refused")
            hub.say(self._device, f"a retained message for {topic!r} is refused: {error}")
            return None, QUOTA_EXCEEDED
        if is_remembered and session is not None:
            session.received.add(packet.packet_id)
        return receipt, 0

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

    def subscribe(self, filters: list[tuple[str, int]], answer: Callable[[list[int]], None]) -> None:
        """`answer` gets the granted QoS of each filter, or a 5.0 reason code; then retained messages follow."""
        codes = [self._judge(name, qos) for name, qos in filters]
        granted = [(name, code) for (name, _), code in zip(filters, codes, strict=True) if code <= 2]
        if not granted:
            answer(codes)
        elif self._session is not None and self._keep():
            self._subscribe_kept(self._session, granted, codes, answer)
        else:
            self._subscribe_routed(granted, codes, filters, answer)

    def _judge(self, name: str, qos: int) -> int:
        if not is_valid_filter(name):
            return FILTER_INVALID
        if not self._acl.may_subscribe(name):
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

    def _subscribe_kept(
        self,
        session: KeptSession,
        granted: list[tuple[str, int]],
        codes: list[int],
        answer: Callable[[list[int]], None],
    ) -> None:
        for name, qos in granted:
            session.filters[name] = qos
            self.names.add(name)
            self._hub.tree.add(name, session, qos)

        def durable(receipt: Receipt) -> None:
            if receipt.cancelled() or self._is_closed:
                return
            is_kept = receipt.exception() is None
            answer(codes if is_kept else [FAILURE if code <= 2 else code for code in codes])
            if is_kept:
                self._send_retained(granted)

        self._hub.submit([session.save()]).add_done_callback(durable)

    def _subscribe_routed(
        self,
        granted: list[tuple[str, int]],
        codes: list[int],
        filters: list[tuple[str, int]],
        answer: Callable[[list[int]], None],
    ) -> None:
        new = [name for name, _ in granted if name not in self.names]
        self._hub.routed += len(set(new))
        for name, qos in granted:
            self.names.add(name)
            self._filters.add(name, True, qos)

        def routed(answers: list[int]) -> None:
            refused = {name for (name, _), code in zip(granted, answers, strict=True) if code >= 0x80}
            for name in refused:
                self._forget_routed(name)
            answer(
                [FILTER_INVALID if name in refused else code for (name, _), code in zip(filters, codes, strict=True)]
            )
            self._send_retained([(name, qos) for name, qos in granted if name not in refused])

        self._attach().subscribe([name for name, _ in granted], routed)

    def unsubscribe(self, name: str) -> bool:
        """False: there is no such subscription."""
        if name not in self.names:
            return False
        session = self._session
        if session is not None and session.is_saved:
            self.names.discard(name)
            session.filters.pop(name, None)
            self._hub.tree.remove(name, session)
            self._hub.submit([session.save()])
        else:
            self._forget_routed(name)
            if self._router is not None:
                self._router.unsubscribe([name])
        return True

    def _forget_routed(self, name: str) -> None:
        if name in self.names:
            self.names.discard(name)
            self._filters.remove(name, True)
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

    def _deliver(self, packet: Publish) -> None:
        """Out of the router, with the publisher's QoS; the lower one counts."""
        granted = self._filters.matching(packet.topic).get(True)
        if granted is None:
            return  # unsubscribed meanwhile
        if not self._acl.may_read(packet.topic):
            self._hub.counters.add("broker.local_denied_deliveries")
            return
        self._outbox.publish(packet.topic, packet.payload, min(packet.qos, granted))

    def _send_retained(self, granted: list[tuple[str, int]]) -> None:
        for name, qos in granted:
            self._backlog.extend((topic, qos) for topic in self._hub.retained.topics(name) if self._acl.may_read(topic))
        self._feed()

    def _feed(self) -> None:
        """Retained messages as they are now, a portion at a time, as fast as the device takes them."""
        self._is_feeding = False
        size = 0
        while self._backlog and not self._is_closed and self.has_room:
            if size > _PORTION_BYTES:
                self._is_feeding = True
                asyncio.get_running_loop().call_soon(self._feed)
                return
            topic, granted = self._backlog.popleft()
            packet = self._hub.retained.get(topic)
            if packet is not None:
                size += len(packet.payload) + len(topic)
                self._outbox.publish(topic, packet.payload, min(packet.qos, granted), is_retained=True)

    def room(self) -> None:
        """The device has read or confirmed something."""
        if self._backlog and not self._is_feeding:
            self._feed()
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

    # ── Link: what a kept session asks for ──

    @property
    def has_room(self) -> bool:
        """May one more be sent now?"""
        return not self._is_slow() and self._outbox.has_room

    def may_read(self, topic: str) -> bool:
        """What the ACL says."""
        return self._acl.may_read(topic)

    def send(self, item: Item, packet_id: int) -> bool:
        """PUBLISH."""
        data = encode.publish(self._version, item.topic, item.payload, item.qos, packet_id, is_dup=item.was_sent)
        if self._max_packet_bytes is not None and len(data) > self._max_packet_bytes:
            return False
        self._write(data)
        if self._session is not None:
            self._outbox.others(self._session.in_flight + 1)
        return True

    def send_release(self, packet_id: int) -> None:
        """PUBREL."""
        self._write(encode.ack(PUBREL, packet_id, self._version))

    def send_plain(self, packet: Publish) -> None:
        """QoS 0."""
        self._outbox.publish(packet.topic, packet.payload, 0)

    # ── the end ──

    def close(self, *, is_graceful: bool, expiry_s: int | None = None) -> None:
        """The device is gone; without grace its will is published. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        hub, session = self._hub, self._session
        if session is None or not session.is_saved:
            hub.routed = max(0, hub.routed - len(self.names))
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
        if self._will is not None:
            will, self._will = self._will, None
            try:
                hub.end_will(self._will_key, None if is_graceful else will)
            except FullError as error:
                hub.counters.add("broker.local_retained_refused")
                hub.say(self._device, f"its will is not kept: {error}")
                hub.end_will(self._will_key, None)


def _nothing() -> None:
    """Nothing waits: a listener sends the router no messages."""
