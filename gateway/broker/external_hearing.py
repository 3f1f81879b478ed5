"""What is heard from a broker of somebody else: each message goes where it belongs, and is acknowledged when durable.

One `Hearing` lives as long as its connection; `Site` is what all of them have in common.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from gateway.broker.desk import Desk
from gateway.broker.external_api import GET_SESSION_LIMITS, ExternalApi, native_rules, session_limits
from gateway.broker.external_chunks import ExternalChunks
from gateway.broker.gateway_api import ATTRIBUTES, RPC, GatewayApi
from gateway.broker.gateway_forms import EVERYTHING_JSON
from gateway.broker.gateway_packet import Verdict
from gateway.broker.mapped import QUIET_S, Mapped
from gateway.broker.mapping import Rules
from gateway.broker.mapping_rules import MappingFile, RuleSet
from gateway.broker.packets import Publish
from gateway.broker.receipts import AckQueue
from gateway.broker.topics import parse_id
from gateway.config import BrokerConfig, ExternalBrokerConfig, MappingsConfig, parse_config
from gateway.domain.payloads import PayloadError, parse_client_rpc
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError, TransientError
from gateway.ports import Clock, DeviceInlet, DeviceSession, Packages, Receipt
from gateway.supervise import Counters

log = logging.getLogger(__name__)

GATEWAY_TOPICS: Final = ("v1/gateway/+", "v1/gateway/attributes/request")
NAMELESS_TOPICS: Final = ("v1/devices/me/+", "v1/devices/me/rpc/request/+", "v1/devices/me/attributes/request/+")
"""Of nobody in particular, behind such a broker; heard so that it is seen, and for the limits that gateways ask for."""
MAX_QUESTIONS: Final = 1_000
"""Questions of devices that are being answered; one more is refused."""
MAX_PAYLOAD_BYTES: Final = 1 << 20
"""Of one message; a longer one is refused, as nothing else bounds what `max_inflight` of them take."""
_NAMELESS: Final = "v1/devices/me/"
_PROBLEMS_KEPT: Final = 20


class Site:
    """One broker, and what there is to hear at it."""

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
        *,
        packages: Packages | None = None,
    ) -> None:
        """`broker`: bounds and conversions that are the same for all devices. `packages` None: no downloads."""
        own = RuleSet(config.prefix, parse_config(MappingFile, native_rules(config.prefix), "external_broker"))
        self.own, self.packages = own, packages
        self.config, self.broker, self.mappings = config, broker, mappings
        self.rules = Rules([own, *sets])
        self.inlet, self.clock, self.counters = inlet, clock, counters
        self.max_bytes = max(MAX_PAYLOAD_BYTES, broker.max_packet_bytes)
        self.problems: deque[dict[str, Any]] = deque(maxlen=_PROBLEMS_KEPT)
        self._said_s: dict[str, float] = {}

    def problem(self, counter: str, topic: str, reason: str) -> None:
        """Counted, shown, and logged once in a while."""
        self.counters.add(counter)
        self.problems.append({"topic": topic[:200], "reason": reason[:500], "ts": self.clock.now_ms()})
        now_s = self.clock.monotonic_s()
        if now_s - self._said_s.get(counter, -QUIET_S) >= QUIET_S:
            self._said_s[counter] = now_s
            log.warning("%s: %r: %s; further ones are only counted (%s)", self.name, topic[:200], reason[:500], counter)


class Wire(Protocol):
    """The connection, as far as it is of use to what is heard from it."""

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
        ...

    def acknowledge(self, qos: int, mid: int) -> None:
        """The broker may forget this message, and may send another one in its place."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """A task that ends with the connection."""
        ...

    def end(self, error: BaseException) -> None:
        """The connection is over."""
        ...

    @property
    def has_ended(self) -> bool:
        """It is over."""
        ...


class _OwnChannel:
    """`DeviceChannel` of the device that stands for the broker: nobody is behind it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

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
            self._wire.end(TransientError("its device was deleted or changed; connecting anew"))


class Hearing:
    """Of one connection."""

    def __init__(self, site: Site, wire: Wire) -> None:
        self._site, self._config, self._wire = site, site.config, wire
        self._held: deque[tuple[str, bytes | int, int, int]] = deque()
        self._is_waiting = False
        self._asking = 0
        self.unacknowledged = 0
        self._acks = AckQueue(lambda answers: None, self._cannot, wire.end)
        self._device = site.inlet.find_device(self._config.name)
        self.mapped = Mapped(
            site.rules,
            site.mappings,
            site.inlet,
            site.clock,
            site.counters,
            self._send,
            creator=lambda: self._device,
            spawn=self._question,
            cast=site.broker.json_type_cast,
            is_ours=self._is_ours,
        )
        self.mapped.problems = site.problems
        self._chunks: ExternalChunks | None = None
        if site.packages is not None:
            self._chunks = ExternalChunks(
                site.packages, self._tell, wire.spawn, site.problem, site.clock, site.counters
            )
        self._api = ExternalApi(
            site.own, self._config.prefix, site.broker, self.mapped, self._tell, self._question, self._chunks
        )
        self._session: DeviceSession | None = None
        self._gateway: GatewayApi | None = None

    def open(self) -> tuple[list[str], list[str]]:
        """What to subscribe to: what may be shared with other gateways, and what may not."""
        self._open_gateway()
        own = [*GATEWAY_TOPICS, *NAMELESS_TOPICS] if self._gateway is not None else []
        return [*self._site.rules.filters, *self._api.filters()], own

    def close(self) -> None:
        """Nothing more is heard, and nobody is spoken for."""
        self._acks.close()
        self.mapped.close()
        if self._chunks is not None:
            self._chunks.close()
        if self._gateway is not None:
            self._gateway.close()
        if self._session is not None:
            self._session.close()

    def look_around(self) -> None:
        """Now and then."""
        self.mapped.look_around()
        if self._chunks is not None:
            self._chunks.look_around()

    def _cannot(self, reason: int) -> None:
        self._wire.end(TransientError("a message could not be kept; connecting anew"))

    def _is_ours(self, name: str) -> bool:
        """Several gateways divide the devices by their names, each of them always the same way."""
        parts = self._config.parts
        return parts == 1 or zlib.crc32(name.encode()) % parts + 1 == self._config.part

    def _question(self, answer: Coroutine[Any, Any, None], name: str) -> None:
        if self._asking >= MAX_QUESTIONS:
            answer.close()
            self._site.problem("external.questions_refused", name, f"{MAX_QUESTIONS} questions are being answered")
            return
        self._asking += 1
        self._wire.spawn(self._asked(answer, name), name)

    async def _asked(self, answer: Awaitable[None], name: str) -> None:
        try:
            await answer
        except (RejectedError, TransientError) as error:
            self._site.problem("external.questions_failed", name, str(error))
        finally:
            self._asking -= 1

    def _open_gateway(self) -> None:
        site, device = self._site, self._device
        if device is None:
            if self._config.gateway_api:
                reason = f"nobody hears it: the device that stands for this broker, {self._config.name!r}, was deleted"
                site.problem("external.gateway_api_off", "v1/gateway/#", reason)
            return
        self._session = site.inlet.open_session(device, _OwnChannel(self._wire))
        if self._config.gateway_api and self._config.part == 1:
            desk = Desk(
                site.broker,
                site.inlet,
                site.clock,
                site.counters,
                spawn=self._wire.spawn,
                bug=self._wire.end,
                congested=lambda: None,
                local=None,
            )
            self._gateway = GatewayApi(
                desk, self._session, 4, self._wire, {}, self._answer_gateway, self._ask, lambda: EVERYTHING_JSON
            )

    def take(self, topic: str, payload: bytes | int, qos: int, mid: int) -> None:
        """One message; `payload` is its size alone where it is too long. Not more than `max_inflight` of each kind."""
        if self._wire.has_ended:
            return
        self.unacknowledged += 1
        if self._held or self._site.inlet.is_congested:
            self._held.append((topic, payload, qos, mid))
            if not self._is_waiting:
                self._is_waiting = True
                self._wire.spawn(self._wait_for_disk(), "external broker: waiting for the disk")
        else:
            self._hear(topic, payload, qos, mid)

    def left_out(self) -> None:
        """One message was not waited for."""
        reason = "the disk has not kept up for a while, and what is sent with QoS 0 cannot wait; use QoS 1"
        self._site.problem("external.qos0_left_out", "", reason)

    async def _wait_for_disk(self) -> None:
        while self._held and not self._wire.has_ended:
            await self._site.inlet.wait_uncongested()
            while self._held and not self._wire.has_ended and not self._site.inlet.is_congested:
                self._hear(*self._held.popleft())
        self._is_waiting = False

    def _hear(self, topic: str, payload: bytes | int, qos: int, mid: int) -> None:
        try:
            if isinstance(payload, int):
                self._complain(
                    topic, f"{payload} bytes; {self._site.max_bytes} are the most that is taken of one message"
                )
                self._acks.add(None, lambda: self._acknowledge(qos, mid))
            elif topic.startswith("v1/"):
                if topic.startswith(_NAMELESS):
                    self._hear_nameless(topic, payload, qos, mid)
                elif self._gateway is not None:
                    self._hear_gateway(self._gateway, topic, payload, qos, mid)
                else:
                    self._acks.add(None, lambda: self._acknowledge(qos, mid))
            elif self._api.is_mine(topic):
                self._acks.add(self._asked_for(topic, payload), lambda: self._acknowledge(qos, mid))
            else:
                self._acks.add(self.mapped.heard(topic, payload), lambda: self._acknowledge(qos, mid))
        except Exception as error:  # not lost in a callback: the room's own bug
            self._wire.end(error)

    def _asked_for(self, topic: str, payload: bytes) -> Receipt | None:
        try:
            return self._api.heard(topic, payload)
        except PayloadError as error:
            self._complain(topic, str(error))
            return None

    def _hear_nameless(self, topic: str, payload: bytes, qos: int, mid: int) -> None:
        """ThingsBoard's gateway asks for its limits and sends nothing before it has them; they are the same for all."""
        _, _, id_text = topic.rpartition("/rpc/request/")
        request_id = parse_id(id_text)
        method = ""
        if request_id is not None and topic == f"{_NAMELESS}rpc/request/{id_text}":
            with contextlib.suppress(PayloadError):
                method, _ = parse_client_rpc(payload)
        if method == GET_SESSION_LIMITS:
            self._wire.publish(
                f"{_NAMELESS}rpc/response/{request_id}", session_limits(self._site.broker, is_gateway=True), 1
            )
        else:
            remedy = f"{self._config.prefix}/{{device}}/{topic.removeprefix(_NAMELESS)}"
            self._site.problem(
                "external.nameless",
                topic,
                f"not taken: a broker does not tell who publishes this; publish to {remedy!r}",
            )
        self._acks.add(None, lambda: self._acknowledge(qos, mid))

    def _hear_gateway(self, gateway: GatewayApi, topic: str, payload: bytes, qos: int, mid: int) -> None:
        gateway.touch()
        if not _is_downlink(topic, payload):
            try:
                if gateway.publish(Publish(topic, payload, qos, mid)):
                    return
                self._site.counters.add("external.unknown_topics")
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
        self.unacknowledged -= 1
        self._wire.acknowledge(qos, mid)
        self._site.counters.add("external.messages")
        return b""

    def _complain(self, topic: str, reason: str) -> None:
        self._site.problem("external.bad_payloads", topic, reason)

    def _ask(self, answer: Awaitable[None]) -> None:
        async def wait() -> None:
            await answer

        self._question(wait(), "v1/gateway/attributes/request")

    def _send(self, topic: str, payload: bytes, qos: int, is_retained: bool) -> Awaitable[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: None if future.cancelled() else future.exception())
        self._wire.publish(topic, payload, qos, is_retained=is_retained, done=done)
        return done

    def _tell(self, topic: str, payload: bytes) -> Awaitable[None]:
        return self._send(topic, payload, 1, False)


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
