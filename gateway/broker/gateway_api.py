"""The gateway API of one connection: what it publishes goes to the sessions of the devices behind it, and back.

A device is opened by the first thing that is said of it, listens to attributes and calls from then on, and is closed
with its gateway's connection. While a new device is on its way to the disk, what is said of it waits behind it.

Source: ThingsBoard 4.3 gateway API: topics, errors by MQTT version, sub-sessions, gateway metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.broker import gateway_payloads as forms
from gateway.broker.gateway_forms import GatewayForm, GatewayForms, Members
from gateway.broker.gateway_metrics import Latencies
from gateway.broker.gateway_packet import Trouble, Verdict, WaitingPacket
from gateway.domain import payloads
from gateway.domain.entity import Device
from gateway.domain.rates import RateLimitedError, data_points
from gateway.domain.rpc import RpcRequest, RpcResponse
from gateway.domain.telemetry import TsKv, Value
from gateway.errors import FullError, RejectedError
from gateway.ports import DeviceSession, Receipt
from gateway.supervise import follow

if TYPE_CHECKING:
    from gateway.broker.desk import Desk
    from gateway.broker.packets import Publish

ATTRIBUTES: Final = "v1/gateway/attributes"
ATTRIBUTES_RESPONSE: Final = "v1/gateway/attributes/response"
RPC: Final = "v1/gateway/rpc"
DISCONNECT: Final = "v1/gateway/disconnect"

MAX_DEVICES_OF_PACKET: Final = 2_000
TOUCH_S: Final = 3.0  # how often the gateway's own activity is written to its devices

Act = Callable[[DeviceSession], Receipt | None]


class Sender(Protocol):
    """The way to a gateway: the `Outbox` of its connection, or a broker between."""

    def publish(self, topic: str, payload: bytes, qos: int, *, done: asyncio.Future[None] | None = None) -> None:
        """`done` completes when it has arrived, or fails with `TransientError`."""
        ...


class SubDevice:
    """One device behind this gateway; as `DeviceChannel` it is also the way down to it."""

    __slots__ = ("_api", "name", "session", "waiting")

    def __init__(self, api: GatewayApi, name: str) -> None:
        """`session` is None, and what is said of it in `waiting`, until the device is durable."""
        self._api, self.name = api, name
        self.session: DeviceSession | None = None
        self.waiting: list[tuple[Act, Receipt]] = []

    def send_attributes(self, values: Mapping[str, Value]) -> None:
        """Changed shared attributes."""
        self._api.send(ATTRIBUTES, self._api.form_down().attribute_update(self.name, values, self._api.now_ms()))

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """Deleted shared attributes."""
        self._api.send(ATTRIBUTES, self._api.form_down().attributes_deleted(self.name, keys))

    def send_rpc(self, rpc_id: int, request: RpcRequest) -> Awaitable[RpcResponse | None]:
        """A call; the answer comes as a publish."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._api.send(RPC, self._api.form_down().rpc_request(self.name, rpc_id, request), done)
        return done

    def close(self, reason: str) -> None:
        """Deleted, or behind another gateway now: the gateway hears nothing of it, the next data opens it again."""
        self._api.dropped(self)


class GatewayApi:
    """Held by the `DeviceApi` of a device that is a gateway."""

    def __init__(
        self,
        desk: Desk,
        session: DeviceSession,
        version: int,
        outbox: Sender,
        granted: Mapping[str, int],
        answer: Callable[[Publish, Receipt, Callable[[], Verdict]], None],
        ask: Callable[[Awaitable[None]], None],
        forms_now: Callable[[], GatewayForms],
    ) -> None:
        """`answer` acknowledges a packet by the verdict that is known when its receipt is done; `ask` answers a
        question in its own time; `granted` is the QoS of each subscription; `forms_now` is what the profile asks for.
        """
        self._desk, self._session, self._version = desk, session, version
        self._outbox, self._granted, self._answer, self._ask = outbox, granted, answer, ask
        self._forms_now = forms_now
        self._cast = desk.config.json_type_cast
        self.now_ms = desk.clock.now_ms
        self._subs: dict[str, SubDevice] = {}
        self._latencies = Latencies(desk, session)
        self._touched_s = 0.0
        self._is_closed = False

    @property
    def _gateway(self) -> Device:
        return self._session.device

    def publish(self, packet: Publish) -> bool:
        """One PUBLISH on `v1/gateway/…`; False when there is no such topic.

        Raises:
            PayloadError: Not JSON.
        """
        handler = self._HANDLERS.get(packet.topic)
        if handler is None:
            return False
        waiting = WaitingPacket(self._version)
        try:
            handler(self, packet, waiting)
        except forms.ShapeError as error:
            self._complain(packet, str(error))
            self._desk.counters.add("broker.bad_payloads")
            waiting.trouble(Trouble.SHAPE)
        self._answer(packet, waiting.settled(), lambda: self._verdict(packet, waiting))
        return True

    def touch(self) -> None:
        """The gateway has said something: with `overwriteActivityTime` so have all its devices."""
        now_s = self._desk.clock.monotonic_s()
        if not self._subs or now_s < self._touched_s + TOUCH_S:
            return
        self._touched_s = now_s
        additional = (self._gateway.json or {}).get("additionalInfo")
        if isinstance(additional, Mapping) and additional.get("overwriteActivityTime") is True:
            for sub in self._subs.values():
                if sub.session is not None:
                    sub.session.touch()

    def close(self) -> None:
        """The gateway's connection is gone, and so are its devices."""
        self._is_closed = True
        subs, self._subs = self._subs, {}
        for sub in subs.values():
            if sub.session is not None:
                sub.session.close()

    def form_down(self) -> GatewayForm:
        """How what goes down is written."""
        return self._forms_now().down

    def devices(self) -> int:
        """How many devices are open."""
        return len(self._subs)

    def send(self, topic: str, payload: bytes, done: asyncio.Future[None] | None = None) -> None:
        """Downlinks need no subscription: then they have QoS 1."""
        self._outbox.publish(topic, payload, self._granted.get(topic, 1), done=done)

    def dropped(self, sub: SubDevice) -> None:
        """The device's session was ended from the other side."""
        if self._subs.get(sub.name) is sub:
            del self._subs[sub.name]

    # ── topics ──

    def _connect(self, packet: Publish, waiting: WaitingPacket) -> None:
        name, profile = self._forms_now().up.connect(packet.payload)
        self._do(packet, waiting, name, _nothing, profile)

    def _disconnect(self, packet: Publish, waiting: WaitingPacket) -> None:
        sub = self._subs.get(self._forms_now().up.disconnect(packet.payload))
        if sub is None:
            return
        if sub.session is not None:
            self.dropped(sub)
            sub.session.close()
        else:  # being made: it ends when what was said before is done
            self._do(packet, waiting, sub.name, lambda session: self._end(sub, session))

    def _end(self, sub: SubDevice, session: DeviceSession) -> None:
        self.dropped(sub)
        session.close()

    def _telemetry(self, packet: Publish, waiting: WaitingPacket) -> None:
        left_out: list[str] = []
        latencies: list[forms.Latency] = []
        now_ms = self._desk.clock.now_ms()
        subs, is_limited = self._subs, self._desk.rates is not None
        members = self._forms_now().up.telemetry_members(packet.payload, self._cast)
        form = members.form
        for name, said in self._devices_in(packet, waiting, members):
            try:
                items = form.telemetry(said, now_ms, self._cast, left_out, latencies)
            except payloads.PayloadError as error:
                self._invalid(packet, waiting, name, error)
                continue
            if is_limited and not self._may(packet, waiting, name, data_points(items)):
                continue
            sub = subs.get(name)
            if sub is not None and sub.session is not None:
                if items:
                    waiting.add(name, sub.session.post_telemetry(items))
            else:
                self._do(packet, waiting, name, _post(items))
        if latencies:
            self._latencies.add(latencies, now_ms)
        self._keys_left_out(packet, left_out)

    def _attributes(self, packet: Publish, waiting: WaitingPacket) -> None:
        left_out: list[str] = []
        members = self._forms_now().up.attribute_members(packet.payload, self._cast)
        for name, said in self._devices_in(packet, waiting, members):
            try:
                values = members.form.attributes(said, self._cast, left_out)
            except payloads.PayloadError as error:
                self._invalid(packet, waiting, name, error)
                continue
            if self._may(packet, waiting, name, len(values)):
                self._do(packet, waiting, name, _post_attributes(values))
        self._keys_left_out(packet, left_out)

    def _claim(self, packet: Publish, waiting: WaitingPacket) -> None:
        members = self._forms_now().up.claim_members(packet.payload, self._cast)
        for name, said in self._devices_in(packet, waiting, members):
            try:
                secret_key, duration_ms = members.form.claim(said)
            except payloads.PayloadError as error:
                self._invalid(packet, waiting, name, error)
                continue
            if self._may(packet, waiting, name):
                self._do(packet, waiting, name, _claimed(secret_key, duration_ms))

    def _attribute_question(self, packet: Publish, waiting: WaitingPacket) -> None:
        question = self._forms_now().up.question(packet.payload)
        if self._may(packet, waiting, question.device):
            self._do(packet, waiting, question.device, lambda session: self._ask(self._send_found(session, question)))

    def _rpc_answer(self, packet: Publish, waiting: WaitingPacket) -> None:
        name, rpc_id, text = self._forms_now().up.rpc_answer(packet.payload)
        if self._may(packet, waiting, name):
            self._do(packet, waiting, name, lambda session: session.answer_rpc(rpc_id, text))

    _HANDLERS: Final[Mapping[str, Callable[[GatewayApi, Publish, WaitingPacket], None]]] = {
        "v1/gateway/connect": _connect,
        DISCONNECT: _disconnect,
        "v1/gateway/telemetry": _telemetry,
        ATTRIBUTES: _attributes,
        "v1/gateway/attributes/request": _attribute_question,
        RPC: _rpc_answer,
        "v1/gateway/claim": _claim,
    }

    async def _send_found(self, session: DeviceSession, question: forms.AttributeQuestion) -> None:
        keys, is_client = question.keys, question.is_client
        client, shared = await session.request_attributes(
            list(keys) if is_client or not keys else None, None if is_client and keys else list(keys)
        )
        if not self._is_closed:
            self.send(ATTRIBUTES_RESPONSE, self.form_down().attribute_answer(question, client, shared, self.now_ms()))

    # ── devices ──

    def _devices_in(self, packet: Publish, waiting: WaitingPacket, of: Members) -> Sequence[tuple[str, Any]]:
        """The usable members of a packet; those beyond the bound are refused."""
        members, skipped = of.usable, of.skipped
        if skipped:
            self._desk.counters.add("broker.gateway_members_skipped", skipped)
            self._complain(packet, f"{skipped} members are skipped: no name, or not {of.wanted}")
        if len(members) > MAX_DEVICES_OF_PACKET:
            self._refuse(packet, waiting, Trouble.QUOTA, f"more than {MAX_DEVICES_OF_PACKET} devices in one packet")
        return members[:MAX_DEVICES_OF_PACKET]

    def _do(self, packet: Publish, waiting: WaitingPacket, name: str, act: Act, profile: str = "") -> None:
        """With the session of this device, now or when the device is durable."""
        sub = self._subs.get(name)
        if sub is None:
            if not self._may(packet, waiting, name):
                return
            try:
                sub = self._open(name, profile)
            except FullError as error:
                self._refuse(packet, waiting, Trouble.QUOTA, str(error))
                return
            except RejectedError as error:
                self._refuse(packet, waiting, Trouble.NOT_MADE, str(error))
                return
        if sub.session is None:
            receipt: Receipt = asyncio.get_running_loop().create_future()
            sub.waiting.append((act, receipt))
            waiting.add(name, receipt, Trouble.NOT_MADE)
        elif (done := act(sub.session)) is not None:
            waiting.add(name, done)

    def _may(self, packet: Publish, waiting: WaitingPacket, name: str, points: int = 0) -> bool:
        """Is this device within its rate limits, and its gateway? If not, the gateway is told of it by name."""
        try:
            self._desk.take_behind(self._gateway, name, points, packet.topic)
        except RateLimitedError:
            waiting.trouble(Trouble.RATE)
            if self._version == 5:
                self.send(DISCONNECT, self.form_down().disconnected(name, forms.RATE_LIMIT))
            return False
        return True

    def _open(self, name: str, profile: str) -> SubDevice:
        most = self._desk.config.max_gateway_devices
        if len(self._subs) >= most:
            raise FullError(f"{most} devices are open behind this gateway: broker.max_gateway_devices")
        device, making = self._desk.inlet.sub_device(self._gateway, name, profile)
        sub = SubDevice(self, name)
        if making is None:
            self._begin(sub, device)
        else:
            making.add_done_callback(lambda done: self._made(sub, device, done))
        self._subs[name] = sub
        return sub

    def _begin(self, sub: SubDevice, device: Device) -> DeviceSession:
        session = sub.session = self._desk.inlet.open_sub_session(device, sub)
        session.subscribe_attributes(True)
        session.subscribe_rpc(True, confirms=True)
        return session

    def _made(self, sub: SubDevice, device: Device, done: Receipt) -> None:
        """A new device is durable, or will not be: what waited for it goes on."""
        waiting, sub.waiting = sub.waiting, []
        error: BaseException | None = None
        if done.cancelled() or self._is_closed:
            for _, receipt in waiting:
                receipt.cancel()
            return
        try:
            if (error := done.exception()) is None:
                session = self._begin(sub, device)
        except RejectedError as refused:
            error = refused
        if error is not None:
            self.dropped(sub)
        for act, receipt in waiting:
            if error is not None:
                receipt.set_exception(error)
            else:
                follow(act(session), receipt)

    # ── answers ──

    def _verdict(self, packet: Publish, waiting: WaitingPacket) -> Verdict:
        for name, error in waiting.failed:
            self._complain(packet, str(error))
            self._desk.counters.add("broker.gateway_data_refused")
            if self._version == 5 and waiting.worst is Trouble.FAILED:
                self.send(DISCONNECT, self.form_down().disconnected(name, forms.OTHER_ERROR))
        return waiting.verdict(packet.qos)

    def _invalid(self, packet: Publish, waiting: WaitingPacket, name: str, error: payloads.PayloadError) -> None:
        self._desk.counters.add("broker.bad_payloads")
        self._complain(packet, f"one device's data, {len(name)} characters of name: {error}")
        waiting.trouble(Trouble.INVALID)

    def _refuse(self, packet: Publish, waiting: WaitingPacket, trouble: Trouble, reason: str) -> None:
        self._desk.counters.add("broker.gateway_devices_refused")
        self._complain(packet, reason)
        waiting.trouble(trouble)

    def _keys_left_out(self, packet: Publish, reasons: list[str]) -> None:
        if reasons:
            self._desk.counters.add("broker.keys_left_out", len(reasons))
            self._complain(packet, reasons[0])

    def _complain(self, packet: Publish, reason: str) -> None:
        self._desk.complaints.bad(self._gateway, packet.topic, reason)


def _nothing(_: DeviceSession) -> None:
    """Connecting is all."""


def _post(items: list[TsKv]) -> Act:
    return lambda session: session.post_telemetry(items) if items else None


def _post_attributes(values: dict[str, Value]) -> Act:
    return lambda session: session.post_attributes(values) if values else None


def _claimed(secret_key: str, duration_ms: int) -> Act:
    return lambda session: session.claim(secret_key, duration_ms)
