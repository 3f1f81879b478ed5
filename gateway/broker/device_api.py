"""The device API of one connected device: what it publishes goes to its session, what comes down goes to its topics.

Source: ThingsBoard 4.3 device API: topics, acknowledgement matrix, attributes, RPC. QoS 2 is done as MQTT
defines it (ThingsBoard answers it with PUBACK).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import orjson

from gateway.broker import encode
from gateway.broker.desk import Desk
from gateway.broker.gateway_api import GatewayApi
from gateway.broker.gateway_forms import GatewayForms
from gateway.broker.gateway_packet import Verdict
from gateway.broker.ota import PackageChunks
from gateway.broker.outbox import Outbox
from gateway.broker.packets import PUBACK, PUBCOMP, PUBREC, Publish
from gateway.broker.profile_topics import Transport
from gateway.broker.receipts import AckQueue
from gateway.broker.topics import V1, Family, FilterKind, Intent, PublishTopic, parse_id, publish_topic
from gateway.domain import payloads
from gateway.domain.entity import Device, DeviceProfile
from gateway.domain.rates import RateLimitedError, Rates, Sender, data_points
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.ports import DeviceSession, Receipt

log = logging.getLogger(__name__)

TOPIC_NAME_INVALID: Final = 0x90
PAYLOAD_FORMAT_INVALID: Final = 0x99
FAILURE: Final = 0x83
SERVER_FAULT: Final = 0x8B
MAX_QOS2_OPEN: Final = 1000

CLOSE_REASONS: Final = {"taken_over": 0x8E, "not_authorized": 0x98, "shutdown": 0x8B}


class DeviceApi:
    """One connection's API traffic; as `DeviceChannel` it is also the way down to the device."""

    def __init__(
        self,
        desk: Desk,
        device: Device,
        version: int,
        write: Callable[[bytes], None],
        acks: AckQueue,
        outbox: Outbox,
        close: Callable[[int], None],
        relieved: Callable[[], None],
        publish_local: Callable[[Publish], tuple[Receipt | None, int]],
        stream: Callable[[bytes, bool], None],
    ) -> None:
        self._desk, self._device, self._version = desk, device, version
        self._write, self._acks, self._outbox = write, acks, outbox
        self._close, self._relieved, self._publish_local = close, relieved, publish_local
        self._cast = desk.config.json_type_cast
        self._now_ms = desk.clock.now_ms
        self._received: dict[int, Receipt | None] = {}  # QoS 2: answered with PUBREC, PUBREL to come
        self.granted: dict[str, int] = {}  # QoS by API filter
        self._attributes_family, self._rpc_family = V1, V1
        self._has_ended = False
        self.asking = 0  # questions of the device that are being answered
        self._session: DeviceSession = desk.inlet.open_session(device, self)
        self._profile: DeviceProfile | None = None
        self._transport: Transport = desk.transports.of(None, device.type)
        self.refresh()
        self.chunks = PackageChunks(
            desk, lambda: self._session.device, outbox, self.granted, self._answer, stream, close
        )
        self.gateway: GatewayApi | None = None
        if device.is_gateway:
            self.gateway = GatewayApi(
                desk,
                self._session,
                version,
                outbox,
                self.granted,
                self._answer_late,
                self._ask,
                self._gateway_forms,
            )

    @property
    def session(self) -> DeviceSession:
        """The device room's side of this connection."""
        return self._session

    def refresh(self) -> None:
        """The profile may have changed; asked once for what has arrived together."""
        device = self._session.device
        profile = self._desk.inlet.profile_of(device)
        if profile is not self._profile or profile is None:
            self._profile = profile
            self._transport = self._desk.transports.of(profile, device.type)

    def _gateway_forms(self) -> GatewayForms:
        self.refresh()
        return self._transport.gateway

    def filter_kind(self, topic_filter: str) -> tuple[FilterKind, Family]:
        """What a subscription of this device is good for."""
        return self._transport.filter_kind(topic_filter)

    def touch(self) -> None:
        """Any packet counts as activity."""
        self._session.touch()
        if self.gateway is not None:
            self.gateway.touch()

    def ended(self) -> None:
        """The connection is gone."""
        self.chunks.close()
        self._session.close()
        if self.gateway is not None:
            self.gateway.close()

    # ── up ──

    def publish(self, packet: Publish) -> None:
        """One PUBLISH of the device; its answer follows by the acknowledgement matrix."""
        if self._has_ended:
            return
        transport = self._transport
        topic = transport.publish_topic(packet.topic) if transport.has_topics else publish_topic(packet.topic)
        if packet.qos == 2 and packet.packet_id in self._received:
            receipt = self._received[packet.packet_id]
            if receipt is None or receipt.done():
                self._write(encode.ack(PUBREC, packet.packet_id))
            return
        try:
            if topic.intent is Intent.TELEMETRY:
                self._telemetry(packet, topic)
            else:
                self._HANDLERS[topic.intent](self, packet, topic)
        except payloads.PayloadError as error:
            self._bad_payload(packet, error)
        except RateLimitedError:
            self._end(FAILURE)

    def resume(self, received: Iterable[int]) -> None:
        """QoS 2 packets that the device's persistent session has taken before this connection."""
        self._received.update(dict.fromkeys(received))

    def released(self, packet_id: int) -> None:
        """PUBREL: the second half of QoS 2."""
        is_known = self._received.pop(packet_id, self) is not self
        self._write(encode.ack(PUBCOMP, packet_id, self._version, 0 if is_known else 0x92))

    def _telemetry(self, packet: Publish, topic: PublishTopic) -> None:
        left_out: list[str] = []
        form = self._transport.forms[topic.family.form]
        items = form.telemetry(packet.payload, self._now_ms(), cast=self._cast, left_out=left_out)
        if left_out:
            self._keys_left_out(packet, left_out)
        if self._desk.rates is not None and items is not None:
            self._desk.take(self._device, data_points(items), packet.topic)
        if items:
            self._answer(packet, self._session.post_telemetry(items, _own_topic(topic)))
        elif items is not None:  # an empty array is taken and never answered
            self._answer(packet, None)

    def _attributes(self, packet: Publish, topic: PublishTopic) -> None:
        left_out: list[str] = []
        form = self._transport.forms[topic.family.form]
        values = form.attributes(packet.payload, cast=self._cast, left_out=left_out)
        if left_out:
            self._keys_left_out(packet, left_out)
        self._desk.take(self._device, len(values), packet.topic)
        self._answer(packet, self._session.post_attributes(values, _own_topic(topic)) if values else None)

    def _attribute_request(self, packet: Publish, topic: PublishTopic) -> None:
        request_id = parse_id(topic.id_text)
        if request_id is None:
            raise payloads.PayloadError("the request id in the topic must be a 32-bit integer")
        client_keys, shared_keys = self._transport.forms[topic.family.form].attribute_request(packet.payload)
        self._desk.take(self._device, 0, packet.topic)
        self._answer(packet, None)
        self._ask(self._send_attributes_found(request_id, topic.family, client_keys, shared_keys))

    def _rpc_answer(self, packet: Publish, topic: PublishTopic) -> None:
        rpc_id = parse_id(topic.id_text)
        if rpc_id is None:
            raise payloads.PayloadError("the request id in the topic must be a 32-bit integer")
        answer = self._transport.forms[topic.family.form].rpc_answer(packet.payload)
        self._desk.take(self._device, 0, packet.topic)
        self._answer(packet, self._session.answer_rpc(rpc_id, answer))

    def _rpc_request(self, packet: Publish, topic: PublishTopic) -> None:
        request_id = parse_id(topic.id_text)
        if request_id is None:
            raise payloads.PayloadError("the request id in the topic must be a 32-bit integer", is_fatal=True)
        method, params = self._transport.forms[topic.family.form].client_rpc(packet.payload)
        is_about_limits = method == "getSessionLimits" and topic.family.is_v1
        if not is_about_limits:
            self._desk.take(self._device, 0, packet.topic)
        self._answer(packet, None)
        if is_about_limits:
            limits = orjson.dumps(self._session_limits()).decode()
            body = self._transport.form_down(topic.family).rpc_response(request_id, limits)
            self._send_to(topic.family.rpc_response, request_id, body)
        else:
            self._ask(self._send_rpc_answer(request_id, topic.family, method, params))

    def _claim(self, packet: Publish, topic: PublishTopic) -> None:
        secret_key, duration_ms = self._transport.forms[""].claim(packet.payload)
        self._desk.take(self._device, 0, packet.topic)
        self._answer(packet, self._session.claim(secret_key, duration_ms))

    def _gateway(self, packet: Publish, topic: PublishTopic) -> None:
        if self.gateway is None:
            # ThingsBoard's behaviour for a device that is no gateway: no answer at all.
            self._desk.counters.add("broker.gateway_topics_ignored")
        elif not self.gateway.publish(packet):
            self._unknown(packet, topic)

    def _local(self, packet: Publish, topic: PublishTopic) -> None:
        if self._desk.local is None:
            self._unknown(packet, topic)
        else:
            receipt, reason = self._publish_local(packet)
            self._answer(packet, receipt, reason if self._version == 5 else 0)

    def _package_chunk(self, packet: Publish, topic: PublishTopic) -> None:
        if not self.chunks.request(packet, topic.id_text):
            self._unknown(packet, topic)

    def _unknown(self, packet: Publish, topic: PublishTopic) -> None:
        self._desk.counters.add("broker.unknown_topics")
        self._answer(packet, None, TOPIC_NAME_INVALID if self._version == 5 else 0)

    _HANDLERS: Final[Mapping[Intent, Callable[[DeviceApi, Publish, PublishTopic], None]]] = {
        Intent.ATTRIBUTES: _attributes,
        Intent.ATTRIBUTE_REQUEST: _attribute_request,
        Intent.RPC_ANSWER: _rpc_answer,
        Intent.RPC_REQUEST: _rpc_request,
        Intent.CLAIM: _claim,
        Intent.PACKAGE_CHUNK: _package_chunk,
        Intent.GATEWAY: _gateway,
        Intent.LOCAL: _local,
        Intent.UNKNOWN: _unknown,
    }

    def _answer(self, packet: Publish, receipt: Receipt | None, reason: int = 0) -> None:
        if packet.qos == 1:
            self._acks.add(receipt, encode.ack(PUBACK, packet.packet_id, self._version, reason))
        elif packet.qos == 0:
            if receipt is not None:
                self._acks.add(receipt, b"")
        else:
            if len(self._received) >= MAX_QOS2_OPEN:
                raise RejectedError(f"{MAX_QOS2_OPEN} QoS 2 exchanges without PUBREL")
            if reason < 0x80:  # an error ends the exchange: the id is free again
                self._received[packet.packet_id] = receipt
            self._acks.add(receipt, encode.ack(PUBREC, packet.packet_id, self._version, reason))

    def _answer_late(self, packet: Publish, receipt: Receipt, verdict: Callable[[], Verdict]) -> None:
        """How it is answered is known when the receipt is done."""
        if packet.qos == 2:
            if len(self._received) >= MAX_QOS2_OPEN:
                raise RejectedError(f"{MAX_QOS2_OPEN} QoS 2 exchanges without PUBREL")
            self._received[packet.packet_id] = receipt

        def answer() -> bytes:
            reason, ending = verdict()
            if ending is not None:
                self._has_ended = True  # not within the answering: this answer leaves first
                asyncio.get_running_loop().call_soon(self._end, ending)
            if packet.qos == 2 and reason != 0:
                self._received.pop(packet.packet_id, None)
            if reason is None or not packet.qos:
                return b""
            return encode.ack(PUBACK if packet.qos == 1 else PUBREC, packet.packet_id, self._version, reason)

        self._acks.add(receipt, answer)

    def _keys_left_out(self, packet: Publish, reasons: Sequence[str]) -> None:
        self._desk.counters.add("broker.keys_left_out", len(reasons))
        self._desk.complaints.bad(self._device, packet.topic, reasons[0])

    def _bad_payload(self, packet: Publish, error: payloads.PayloadError) -> None:
        self._desk.counters.add("broker.bad_payloads")
        self._desk.complaints.bad(self._device, packet.topic, str(error))
        if error.is_fatal:
            self._end(SERVER_FAULT)
        elif packet.qos and (self._version == 5 or self._transport.acks_bad_payloads):
            self._answer(packet, None, PAYLOAD_FORMAT_INVALID if self._version == 5 else 0)
        else:
            self._end(PAYLOAD_FORMAT_INVALID)

    def _end(self, reason: int) -> None:
        """What was published before still gets its answer, else the device would send it again for ever."""
        self._has_ended = True
        self._acks.end_after(reason)

    def _ask(self, answer: Awaitable[None]) -> None:
        self.asking += 1
        self._desk.spawn(self._asked(answer), f"answer to {self._device.id}")

    async def _asked(self, answer: Awaitable[None]) -> None:
        try:
            await answer
        except RejectedError as error:
            log.warning("device %r: a question could not be answered: %s", self._device.name, error)
            self._close(0x83)
        finally:
            self.asking -= 1
            self._relieved()

    async def _send_attributes_found(
        self, request_id: int, family: Family, client_keys: Sequence[str] | None, shared_keys: Sequence[str] | None
    ) -> None:
        client, shared = await self._session.request_attributes(client_keys, shared_keys)
        if request_id >= 0:
            form = self._transport.form_down(family)
            body = form.attribute_response(request_id, client, shared, self._now_ms())
            self._send_to(family.attribute_response, request_id, body)

    async def _send_rpc_answer(self, request_id: int, family: Family, method: str, params: object) -> None:
        answer = await self._session.call_server(request_id, method, params)
        text = '{"error":"timeout"}' if answer is None else answer
        self._send_to(family.rpc_response, request_id, self._transport.form_down(family).rpc_response(request_id, text))

    def _send_to(self, prefix: str, request_id: int, payload: bytes) -> None:
        """Answers need no subscription: then they have QoS 1."""
        self._outbox.publish(f"{prefix}{request_id}", payload, self.granted.get(prefix + "+", 1))

    def _session_limits(self) -> dict[str, object]:
        is_gateway, rates = self._device.is_gateway, self._desk.rates or Rates({})
        limits: dict[str, object] = {
            "maxPayloadSize": self._desk.config.max_packet_bytes,
            "maxInflightMessages": self._desk.config.max_inflight,
            "rateLimits": rates.told(Sender.GATEWAY_OWN if is_gateway else Sender.DEVICE),
        }
        if is_gateway:
            limits["gatewayRateLimits"] = rates.told(Sender.GATEWAY)
        return limits

    # ── subscriptions ──

    def subscribe_attributes(self, family: Family) -> None:
        """Pushes of changes follow, in the spelling of the last subscription."""
        if self._may_subscribe(family.attributes):
            self._attributes_family = family
            self._session.subscribe_attributes(True)

    def subscribe_rpc(self, family: Family) -> None:
        """Calls follow, in the spelling of the last subscription."""
        if self._may_subscribe(family.rpc_request):
            self._rpc_family = family
            self._session.subscribe_rpc(True, confirms=True)

    def _may_subscribe(self, topic: str) -> bool:
        """Over the rate limit it is granted and does nothing, as on a server; the device is named in the log."""
        try:
            self._desk.take(self._device, 0, topic)
        except RateLimitedError:
            self._desk.counters.add("broker.subscriptions_rate_limited")
            return False
        return True

    # ── DeviceChannel: down ──

    def send_attributes(self, values: Mapping[str, Value]) -> None:
        """Changed shared attributes."""
        self.refresh()
        form = self._transport.form_down(self._attributes_family)
        self._push(form.attribute_update(values, self._now_ms()))

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """Deleted shared attributes."""
        self.refresh()
        form = self._transport.form_down(self._attributes_family)
        self._push(form.attributes_deleted(keys, self._now_ms()))

    def _push(self, payload: bytes) -> None:
        topic = self._attributes_family.attributes
        self._outbox.publish(topic, payload, self.granted.get(topic, 1))

    def send_rpc(self, rpc_id: int, request: RpcRequest) -> Awaitable[RpcResponse | None]:
        """A call; the device's answer comes as a publish."""
        self.refresh()
        prefix = self._rpc_family.rpc_request
        loop = asyncio.get_running_loop()
        try:
            body = self._transport.form_down(self._rpc_family).rpc_request(rpc_id, request)
        except RejectedError as error:
            self._desk.counters.add("broker.calls_not_written")
            self._desk.complaints.bad(self._device, prefix, f"a call cannot be written: {error}")
            refusal: asyncio.Future[RpcResponse | None] = loop.create_future()
            refusal.set_result(RpcResponse(error=RpcError.INTERNAL))
            return refusal
        done: asyncio.Future[None] = loop.create_future()
        self._outbox.publish(f"{prefix}{rpc_id}", body, self.granted.get(prefix + "+", 1), done=done)
        return done

    def close(self, reason: str) -> None:
        """End the connection from this side."""
        self._close(CLOSE_REASONS.get(reason, SERVER_FAULT))


def _own_topic(topic: PublishTopic) -> Mapping[str, str] | None:
    """What rules are told of a topic that is the device profile's own."""
    return {"mqttTopic": topic.id_text} if topic.id_text else None
