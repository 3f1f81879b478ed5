"""A broker of somebody else, with devices behind it: we are its client. The only door to paho-mqtt.

paho lives in a thread of its own; everything that it hears is handed to the event loop, and a message is acknowledged
to the broker when all that it says is durable. Its session there is kept, so that what was not acknowledged comes again
after a kill of either side. A connection is one life of the room: `supervise` starts the next one.

Source: OASIS MQTT 5.0 §3.3.4 (acknowledgement), §4.8.2 (shared subscriptions).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import orjson
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.broker.desk import Desk
from gateway.broker.gateway_api import ATTRIBUTES, RPC, GatewayApi
from gateway.broker.gateway_forms import EVERYTHING_JSON
from gateway.broker.gateway_packet import Verdict
from gateway.broker.mapped import Mapped, native_rules
from gateway.broker.mapping import Rules
from gateway.broker.mapping_rules import MappingFile, RuleSet
from gateway.broker.packets import Publish
from gateway.broker.receipts import AckQueue
from gateway.config import BrokerConfig, ExternalBrokerConfig, MappingsConfig, parse_config
from gateway.domain.payloads import PayloadError
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.domain.telemetry import Value
from gateway.errors import RefusedError, TransientError
from gateway.ports import Clock, DeviceInlet, DeviceSession, Receipt
from gateway.supervise import Counters

log = logging.getLogger(__name__)

GATEWAY_TOPICS: Final = ("v1/gateway/+", "v1/gateway/attributes/request")
MAX_QUEUED: Final = 10_000
"""Downlinks that wait for the broker; one more is refused."""
_LOOK_AROUND_S: Final = 1.0
_PROBLEMS_KEPT: Final = 20
_NOT_WANTED: Final = frozenset((133, 134, 135, 138, 140))  # client id, password, not authorized, banned, method


class ExternalBroker:
    """The room. `ready` is set while the subscriptions stand."""

    name = "external broker"

    def __init__(
        self,
        config: ExternalBrokerConfig,
        broker: BrokerConfig,
        mappings: MappingsConfig,
        sets: Sequence[RuleSet],
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
    ) -> None:
        """`broker`: bounds and conversions that are the same for all devices."""
        own = RuleSet(config.prefix, parse_config(MappingFile, native_rules(config.prefix), "external_broker"))
        self.config, self.broker, self.mappings = config, broker, mappings
        self.rules = Rules([own, *sets])
        self.inlet, self.clock, self.counters = inlet, clock, counters
        self.ready = asyncio.Event()
        self.works = 0
        self.life: _Life | None = None
        self.problems: deque[dict[str, Any]] = deque(maxlen=_PROBLEMS_KEPT)
        self.refused_filters: list[str] = []

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
            "unacknowledged": life.unacknowledged if life is not None else 0,
            "devices": len(life.mapped.fleet) if life is not None else 0,
            "refused_filters": list(self.refused_filters),
            "problems": list(self.problems),
        }


class _OwnChannel:
    """`DeviceChannel` of the device that stands for the broker: nobody is behind it."""

    def __init__(self, life: _Life) -> None:
        self._life = life

    def send_attributes(self, values: Mapping[str, Value]) -> None:
        """Nobody hears them."""

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """Nobody hears them."""

    async def send_rpc(self, rpc_id: int, request: RpcRequest) -> RpcResponse | None:
        """It has no methods."""
        return RpcResponse(error=RpcError.NOT_FOUND)

    def close(self, reason: str) -> None:
        """Deleted: the next life does without it."""
        if reason != "taken_over":
            self._life.end(TransientError("its device was deleted or changed; connecting anew"))


class _Life:
    """One connection to the broker, on the event loop; `_Wire` is its other side, in paho's thread."""

    def __init__(self, room: ExternalBroker) -> None:
        self._room, self._config = room, room.config
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._tasks: asyncio.TaskGroup
        self._held: deque[tuple[str, bytes, int, int]] = deque()
        self._is_waiting = False
        self._sent: dict[int, asyncio.Future[None]] = {}
        self._subscribing: dict[int, list[str]] = {}
        self._places = threading.BoundedSemaphore(self._config.max_inflight)
        self._is_over = threading.Event()
        self.unacknowledged = 0
        self._acks = AckQueue(lambda answers: None, self._cannot, self._bug)
        self._device = room.inlet.find_device(self._config.name)
        self._client = self._new_client()
        self.mapped = Mapped(
            room.rules,
            room.mappings,
            room.inlet,
            room.clock,
            room.counters,
            self._send,
            creator=lambda: self._device,
            spawn=self._spawn,
            cast=room.broker.json_type_cast,
        )
        self.mapped.problems = room.problems
        self._session: DeviceSession | None = None
        self._gateway: GatewayApi | None = None

    async def live(self) -> None:
        """Until the connection is lost, or cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                await self._call()
                self._client.loop_start()
                self._spawn(self._look_around(), "external broker: time")
                await self._ended
            finally:
                self._is_over.set()
                self._close()
                self._client.disconnect()
                await asyncio.shield(asyncio.to_thread(self._client.loop_stop))

    async def _call(self) -> None:
        config = self._config
        try:
            await asyncio.to_thread(self._connect)
        except OSError as error:
            text = error.strerror or str(error) or type(error).__name__
            raise TransientError(f"cannot connect to {config.host} port {config.port}: {text}") from error

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
        if config.tls:
            context = ssl.create_default_context(cafile=str(config.tls_ca) if config.tls_ca else None)
            if config.tls_cert is not None:
                context.load_cert_chain(str(config.tls_cert), str(config.tls_key))
            client.tls_set_context(context)
        properties = None
        if config.version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = config.session_s
            properties.ReceiveMaximum = config.max_inflight
        clean_start = False if config.version == "5" else paho.MQTT_CLEAN_START_FIRST_ONLY
        client.connect(
            config.host or "", config.port, config.keepalive_s, clean_start=clean_start, properties=properties
        )

    def _close(self) -> None:
        self._acks.close()
        self.mapped.close()
        if self._gateway is not None:
            self._gateway.close()
        if self._session is not None:
            self._session.close()
        sent, self._sent = self._sent, {}
        for future in sent.values():
            if not future.done():
                future.set_exception(TransientError("the connection to the broker is lost"))

    def end(self, error: BaseException) -> None:
        """The connection is over."""
        if not self._ended.done():
            self._ended.set_exception(error)

    def _bug(self, error: BaseException) -> None:
        self.end(error)

    def _cannot(self, reason: int) -> None:
        self.end(TransientError("a message could not be kept; connecting anew"))

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.create_task(work, name=name)

    async def _look_around(self) -> None:
        while not self._ended.done():
            await self._room.clock.sleep(_LOOK_AROUND_S)
            self.mapped.look_around()

    # ── paho's thread ──

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        has_shared = getattr(properties, "SharedSubscriptionAvailable", 1) != 0
        self._loop.call_soon_threadsafe(self._connected, reason.value, str(reason), has_shared)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._is_over.set()
        self._loop.call_soon_threadsafe(self._lost, str(reason))

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        self._loop.call_soon_threadsafe(self._subscribed, mid, [reason.value for reason in reasons])

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self._loop.call_soon_threadsafe(self._published, mid)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        # No place: the thread waits, and with it the socket. A broker that counts is never so far.
        while not self._places.acquire(timeout=0.2):
            if self._is_over.is_set():
                return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._loop.call_soon_threadsafe(self._take, topic, message.payload, message.qos, message.mid)

    # ── connection ──

    def _connected(self, code: int, reason: str, has_shared: bool) -> None:
        if code >= 0x80 or self._ended.done():
            error = RefusedError if code in _NOT_WANTED else TransientError
            self.end(error(f"{self._config.host} port {self._config.port} refuses us: {reason}"))
            return
        room = self._room
        try:
            self._open_gateway()
        except Exception as error:  # not lost in a callback: the room's own bug
            self.end(error)
            return
        filters = list(room.rules.filters)
        room.refused_filters = []
        share = self._config.share if has_shared else None
        own = list(GATEWAY_TOPICS) if self._gateway is not None else []
        if share:
            self._subscribe([f"$share/{share}/{name}" for name in filters])
            filters = own
        else:
            filters += own
        if filters:
            self._subscribe(filters)

    def _open_gateway(self) -> None:
        room, device = self._room, self._device
        if device is None:
            return
        self._session = room.inlet.open_session(device, _OwnChannel(self))
        if self._config.gateway_api:
            desk = Desk(
                room.broker,
                room.inlet,
                room.clock,
                room.counters,
                spawn=self._spawn,
                bug=self._bug,
                congested=lambda: None,
                local=None,
            )
            self._gateway = GatewayApi(
                desk, self._session, 4, self, {}, self._answer_gateway, self._ask, lambda: EVERYTHING_JSON
            )

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
            self._room.ready.set()
            log.info("external broker: connected to %s port %d", self._config.host, self._config.port)

    def _lost(self, reason: str) -> None:
        self.end(TransientError(f"the connection to {self._config.host} port {self._config.port} is lost: {reason}"))

    # ── up ──

    def _take(self, topic: str, payload: bytes, qos: int, mid: int) -> None:
        if self._ended.done():
            return
        self.unacknowledged += 1
        if self._held or self._room.inlet.is_congested:
            self._held.append((topic, payload, qos, mid))
            if not self._is_waiting:
                self._is_waiting = True
                self._spawn(self._wait_for_disk(), "external broker: waiting for the disk")
        else:
            self._hear(topic, payload, qos, mid)

    async def _wait_for_disk(self) -> None:
        while self._held and not self._ended.done():
            await self._room.inlet.wait_uncongested()
            while self._held and not self._ended.done() and not self._room.inlet.is_congested:
                self._hear(*self._held.popleft())
        self._is_waiting = False

    def _hear(self, topic: str, payload: bytes, qos: int, mid: int) -> None:
        try:
            if topic.startswith("v1/gateway/") and self._gateway is not None:
                self._hear_gateway(self._gateway, topic, payload, qos, mid)
            else:
                self._acks.add(self.mapped.heard(topic, payload), lambda: self._acknowledge(qos, mid))
        except Exception as error:  # not lost in a callback: the room's own bug
            self.end(error)

    def _hear_gateway(self, gateway: GatewayApi, topic: str, payload: bytes, qos: int, mid: int) -> None:
        gateway.touch()
        if not _is_downlink(topic, payload):
            try:
                if gateway.publish(Publish(topic, payload, qos, mid)):
                    return
                self._room.counters.add("external.unknown_topics")
            except PayloadError as error:
                self._complain(topic, str(error))
        self._acks.add(None, lambda: self._acknowledge(qos, mid))

    def _answer_gateway(self, packet: Publish, receipt: Receipt, verdict: Callable[[], Verdict]) -> None:
        def answer() -> bytes:
            if verdict().ending is not None:
                self._complain(packet.topic, "not what the gateway API takes; the log says why")
            return self._acknowledge(packet.qos, packet.packet_id)

        self._acks.add(receipt, answer)

    def _acknowledge(self, qos: int, mid: int) -> bytes:
        """The broker hears it from a client that still is this connection's: a later one knows nothing of `mid`."""
        self.unacknowledged -= 1
        self._places.release()
        if qos and not self._is_over.is_set():
            self._client.ack(mid, qos)
        self._room.counters.add("external.messages")
        return b""

    def _complain(self, topic: str, reason: str) -> None:
        self._room.counters.add("external.bad_payloads")
        self._room.problems.append({"topic": topic[:200], "reason": reason, "ts": self._room.clock.now_ms()})

    def _ask(self, answer: Awaitable[None]) -> None:
        async def wait() -> None:
            await answer

        self._spawn(wait(), "external broker: answer")

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
        elif done is not None:
            self._sent[info.mid] = done

    def _published(self, mid: int) -> None:
        done = self._sent.pop(mid, None)
        if done is not None and not done.done():
            done.set_result(None)

    def _send(self, topic: str, payload: bytes, qos: int, is_retained: bool) -> Awaitable[None]:
        done: asyncio.Future[None] = self._loop.create_future()
        done.add_done_callback(lambda future: None if future.cancelled() else future.exception())
        self.publish(topic, payload, qos, is_retained=is_retained, done=done)
        return done


def _is_downlink(topic: str, payload: bytes) -> bool:
    """What goes down shares topics with what comes up; its form tells it: `device` is a text beside `data`."""
    if topic not in (ATTRIBUTES, RPC):
        return False
    try:
        tree = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(tree, dict) or not isinstance(tree.get("device"), str):
        return False
    return tree.keys() == {"device", "data"} and isinstance(tree["data"], dict)
