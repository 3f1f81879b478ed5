"""A broker of somebody else, with devices behind it: we are its client. The only door to paho-mqtt.

paho lives in a thread of its own; everything that it hears is handed to the event loop, and a message is acknowledged
to the broker when all that it says is durable. Its session there is kept, so that what was not acknowledged comes again
after a kill of either side. A connection is one life of the room: `supervise` starts the next one.

Source: OASIS MQTT 5.0 §3.3.4 (acknowledgement), §4.8.2 (shared subscriptions).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.broker.external_hearing import GATEWAY_TOPICS, NAMELESS_TOPICS, Hearing, Site
from gateway.broker.external_tls import client_context, hung_up, no_connection
from gateway.broker.mapping_rules import RuleSet
from gateway.config import BrokerConfig, ExternalBrokerConfig, MappingsConfig
from gateway.errors import GatewayError, RefusedError, TransientError
from gateway.ports import Clock, DeviceInlet, Packages
from gateway.supervise import Counters

log = logging.getLogger(__name__)

MAX_QUEUED: Final = 10_000
"""Downlinks that wait for the broker; one more is refused."""
_LOOK_AROUND_S: Final = 1.0
_SUBACK_S: Final = 30.0
_NOT_WANTED: Final = frozenset((133, 134, 135, 138, 140))  # client id, password, not authorized, banned, method
_TAKEN_OVER: Final = 142
_SHORT_S: Final = 10.0
_MANY_SHORT: Final = 3
"""Connections in a row that ended so soon: most brokers do not tell when another client takes the same id."""


class ExternalBroker(Site):
    """The room. `ready` is set while the subscriptions stand."""

    def __init__(
        self,
        config: ExternalBrokerConfig,
        broker: BrokerConfig,
        mappings: MappingsConfig,
        sets: Sequence[RuleSet],
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
        *,
        packages: Packages | None = None,
    ) -> None:
        super().__init__(config, broker, mappings, sets, inlet, clock, counters, packages=packages)
        self.ready = asyncio.Event()
        self.works = 0
        self.life: _Life | None = None
        self.refused_filters: list[str] = []
        self.error = ""
        """Why there is no connection."""
        self.short_spells = 0

    def spells(self) -> int:
        """How often it has worked."""
        return self.works

    async def serve(self) -> None:
        """One connection.

        Raises:
            TransientError: It is lost, or could not be made.
            RefusedError: The broker does not want us.
        """
        life = _Life(self)
        self.life = life
        try:
            await life.live()
        except* GatewayError as errors:
            error: BaseException = errors
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self.error = str(error)
            raise
        finally:
            self.ready.clear()
            self.life = None

    def status(self) -> dict[str, Any]:
        """For `status`."""
        life = self.life
        return {
            "host": self.config.host,
            "port": self.config.port,
            "connected": self.ready.is_set(),
            "error": "" if self.ready.is_set() else self.error,
            "unacknowledged": life.hearing.unacknowledged if life is not None else 0,
            "devices": len(life.hearing.mapped.fleet) if life is not None else 0,
            "refused_filters": list(self.refused_filters),
            "problems": list(self.problems),
        }


class _Life:
    """One connection to the broker; `Wire` of what is heard from it."""

    def __init__(self, room: ExternalBroker) -> None:
        self._room, self._config = room, room.config
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._tasks: asyncio.TaskGroup
        self._sent: dict[int, tuple[str, asyncio.Future[None] | None]] = {}
        self._subscribing: dict[int, list[str]] = {}
        self._places = threading.BoundedSemaphore(self._config.max_inflight)
        self._places_0 = threading.BoundedSemaphore(self._config.max_inflight)  # of QoS 0
        self._full_since_s: float | None = None
        self._is_over = threading.Event()
        self._has_answered = False
        self._answered_s = 0.0
        self._ready_s: float | None = None
        self._client = self._new_client()
        self.hearing = Hearing(room, self)

    async def live(self) -> None:
        """Until the connection is lost, or cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                await self._call()
                self._client.loop_start()
                self.spawn(self._look_around(), "external broker: time")
                await self._ended
            finally:
                self._is_over.set()
                self._close()
                self._client.disconnect()
                await asyncio.shield(asyncio.to_thread(self._client.loop_stop))

    async def _call(self) -> None:
        try:
            await asyncio.to_thread(self._connect)
        except OSError as error:
            raise no_connection(error, self._config) from error

    def _new_client(self) -> paho.Client:
        config = self._config
        is_5 = config.version == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=config.client_id,
            clean_session=None if is_5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_queued_messages_set(MAX_QUEUED)
        if config.user is not None:
            client.username_pw_set(config.user, config.password.get_secret_value() if config.password else None)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    def _connect(self) -> None:
        config, client = self._config, self._client
        context = client_context(config) if config.tls else None
        if context is not None:
            client.tls_set_context(context)
        properties = None
        if config.version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = config.session_s
            properties.ReceiveMaximum = config.max_inflight
        clean_start = False if config.version == "5" else paho.MQTT_CLEAN_START_FIRST_ONLY
        try:
            client.connect(
                config.host or "", config.port, config.keepalive_s, clean_start=clean_start, properties=properties
            )
        except OSError:
            if context is not None:
                context.close()
            raise

    def _close(self) -> None:
        self.hearing.close()
        sent, self._sent = self._sent, {}
        for _, future in sent.values():
            if future is not None and not future.done():
                future.set_exception(TransientError("the connection to the broker is lost"))

    def end(self, error: BaseException) -> None:
        """The connection is over."""
        if not self._ended.done():
            self._ended.set_exception(error)

    @property
    def has_ended(self) -> bool:
        """It is over."""
        return self._ended.done()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """A task that ends with the connection."""
        self._tasks.create_task(work, name=name)

    def acknowledge(self, qos: int, mid: int) -> None:
        """The broker hears it from a client that still is this connection's: a later one knows nothing of `mid`."""
        (self._places if qos else self._places_0).release()
        if qos and not self._is_over.is_set():
            self._client.ack(mid, qos)

    async def _look_around(self) -> None:
        while not self._ended.done():
            await self._room.clock.sleep(_LOOK_AROUND_S)
            self.hearing.look_around()
            if self._subscribing and self._room.clock.monotonic_s() - self._answered_s > _SUBACK_S:
                self.end(TransientError(f"{self._config.host} port {self._config.port} does not answer a subscription"))

    # ── paho's thread ──

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        has_shared = getattr(properties, "SharedSubscriptionAvailable", 1) != 0
        self._loop.call_soon_threadsafe(self._connected, reason.value, str(reason), has_shared)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._is_over.set()
        self._loop.call_soon_threadsafe(self._lost, reason.value, str(reason))

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        self._loop.call_soon_threadsafe(self._subscribed, mid, [reason.value for reason in reasons])

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self._loop.call_soon_threadsafe(self._published, mid, reason.value, str(reason))

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if not self._finds_place(message.qos):
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        payload: bytes | int = message.payload
        if len(message.payload) > self._room.max_bytes:
            payload = len(message.payload)
        self._loop.call_soon_threadsafe(self.hearing.take, topic, payload, message.qos, message.mid)

    def _finds_place(self, qos: int) -> bool:
        """No place: the thread waits, and with it the socket.

        With QoS 1 a broker that counts is never so far. QoS 0 has no such bound: after half a keepalive nothing of it
        is waited for any more, else the broker would take us for dead, and whoever uses QoS 1 would pay for it.
        """
        places = self._places if qos else self._places_0
        if places.acquire(blocking=False):
            if not qos:
                self._full_since_s = None
            return True
        now_s = time.monotonic()  # this thread has no other clock
        since_s = self._full_since_s = self._full_since_s or now_s
        while qos or now_s < since_s + self._config.keepalive_s / 2:
            if places.acquire(timeout=0.2):
                return True
            if self._is_over.is_set():
                return False
            now_s = time.monotonic()
        self._loop.call_soon_threadsafe(self.hearing.left_out)
        return False

    # ── connection ──

    def _connected(self, code: int, reason: str, has_shared: bool) -> None:
        self._has_answered = True
        self._answered_s = self._room.clock.monotonic_s()
        if code >= 0x80 or self._ended.done():
            error = RefusedError if code in _NOT_WANTED else TransientError
            self.end(error(f"{self._config.host} port {self._config.port} refuses us: {reason}"))
            return
        room = self._room
        try:
            filters, own = self.hearing.open()
        except Exception as error:  # not lost in a callback: the room's own bug
            self.end(error)
            return
        room.refused_filters = []
        share = self._config.share if has_shared else None
        if share:
            self._subscribe([f"$share/{share}/{name}" for name in filters])
            filters = own
        else:
            filters += own
        if filters:
            self._subscribe(filters)
        if not own:  # what an older configuration has left in our session
            self._client.unsubscribe([*GATEWAY_TOPICS, *NAMELESS_TOPICS])

    def _subscribe(self, filters: list[str]) -> None:
        is_5 = self._config.version == "5"
        wanted: Any = [(name, SubscribeOptions(qos=1) if is_5 else 1) for name in filters]
        _, mid = self._client.subscribe(wanted)
        if mid is not None:
            self._subscribing[mid] = filters

    def _subscribed(self, mid: int, codes: Sequence[int]) -> None:
        filters = self._subscribing.pop(mid, [])
        again: list[str] = []
        for name, code in zip(filters, codes, strict=False):
            share = f"$share/{self._config.share}/"
            if code < 0x80:
                # What an older configuration has left in our session would come twice.
                if self._config.share and name.startswith(share):
                    self._client.unsubscribe(name.removeprefix(share))
                elif self._config.share and not name.startswith("v1/"):
                    self._client.unsubscribe(share + name)
            elif self._config.share and name.startswith(share):
                again.append(name.removeprefix(share))
            else:
                self._room.refused_filters.append(name)
                log.warning("external broker: it does not let us subscribe to %r: its rules for topics", name)
        if again:
            log.info("external broker: no shared subscriptions there; subscribing plainly")
            self._subscribe(again)
        elif not self._subscribing and not self._ended.done():
            self._room.works += 1
            self._ready_s = self._room.clock.monotonic_s()
            self._room.ready.set()
            log.info("external broker: connected to %s port %d", self._config.host, self._config.port)
            if self._config.share:
                log.info(
                    "external broker: a device's order is kept while one gateway is in the group %r", self._config.share
                )

    def _lost(self, code: int, reason: str) -> None:
        config = self._config
        if code == _TAKEN_OVER:
            said = f"{config.host} port {config.port}: another client has taken our client id {config.client_id!r}"
            self.end(RefusedError(f"{said}; each gateway needs its own external_broker.client_id"))
        elif not self._has_answered:
            self.end(TransientError(f"cannot connect to {config.host} port {config.port}: {hung_up(config)}"))
        else:
            room = self._room
            is_short = self._ready_s is None or room.clock.monotonic_s() - self._ready_s < _SHORT_S
            room.short_spells = room.short_spells + 1 if is_short else 0
            if room.short_spells >= _MANY_SHORT:
                reason += f", again at once; has another client the client id {config.client_id!r}?"
            self.end(TransientError(f"the connection to {config.host} port {config.port} is lost: {reason}"))

    # ── down ──

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        *,
        is_retained: bool = False,
        done: asyncio.Future[None] | None = None,
    ) -> None:
        """`done` completes when the broker has it; it fails with `TransientError` when it will not."""
        info = self._client.publish(topic, payload, qos, is_retained)
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN) or self._ended.done():
            self._room.counters.add("external.downlinks_refused")
            if done is not None and not done.done():
                done.set_exception(TransientError("the broker takes nothing now"))
        else:
            self._sent[info.mid] = topic, done

    def _published(self, mid: int, code: int, reason: str) -> None:
        topic, done = self._sent.pop(mid, ("", None))
        if code >= 0x80:
            text = f"the broker does not take what we publish there: {reason}"
            self._room.problem("external.downlinks_refused", topic, text)
            if done is not None and not done.done():
                done.set_exception(TransientError(text))
        elif done is not None and not done.done():
            done.set_result(None)
