"""One MQTT connection: bytes, CONNECT, limits. API publishes go on to `DeviceApi`.

A connection reads only while it may: it stops when too many publishes wait for their answer, when too much
waits for the disk, when the device does not read what is sent to it, and when the local broker is behind.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, cast
from uuid import uuid4

from gateway.broker import auth, encode, subscriptions
from gateway.broker.certificates import Presented, presented
from gateway.broker.desk import Desk
from gateway.broker.device_api import MAX_QOS2_OPEN, DeviceApi
from gateway.broker.local_member import LocalMember
from gateway.broker.local_sessions import FIRST_ID
from gateway.broker.outbox import Outbox
from gateway.broker.packets import (
    PUBREC,
    PUBREL,
    Ack,
    Auth,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    ProtocolError,
    Publish,
    Subscribe,
    Unsubscribe,
)
from gateway.broker.provision import ProvisionSession, asks_to_be_provisioned
from gateway.broker.receipts import AckQueue
from gateway.broker.topics import is_local
from gateway.broker.wire import Decoder
from gateway.domain.entity import Device
from gateway.domain.onboarding import CertificateChain
from gateway.domain.rates import RateLimitedError
from gateway.errors import RejectedError
from gateway.ports import Receipt

log = logging.getLogger(__name__)

_PACKETS_A_TURN: Final = 256  # then the others have their turn
_TURN_S: Final = 0.02  # the same, when its messages are slow in the rules
_PAUSE_S: Final = 0.02  # then the others have so long
_MIN_WRITE_BUFFER: Final = 1 << 20
_CONNECT: Final = 0x10
MAX_CLIENT_ID_3_1: Final = 23  # MQTT 3.1 wants one, of at most so many characters; later versions leave it free
_LINGER_S: Final = 1.0  # for the last packets of a closing connection

NORMAL, PROTOCOL_ERROR, FAILURE, NOT_AUTHORIZED, SERVER_FAULT, KEEPALIVE_TIMEOUT = 0x00, 0x82, 0x83, 0x87, 0x8B, 0x8D
OVER_RATE = 0x97


# Why nothing is read from a connection just now; any of them.
INFLIGHT, DISK, SLOW_READER, TURN, LOCAL, IDENTITY = 1, 2, 4, 8, 16, 32


class Connection(asyncio.BufferedProtocol):
    """From accept to close."""

    def __init__(self, desk: Desk, members: set[Connection]) -> None:
        """`members` holds this connection while its socket is open."""
        self._desk, self._members = desk, members
        self._config = desk.config
        self._decoder = Decoder(desk.config.max_packet_bytes)
        self._max_write_bytes = max(_MIN_WRITE_BUFFER, 4 * desk.config.max_packet_bytes)
        self._out: list[bytes] = []
        self._hold = 0
        self._connect: Connect | None = None
        self._first: int | None = None  # the very first byte
        self._api: DeviceApi | None = None
        self._provision: ProvisionSession | None = None  # in place of the API
        self._local: LocalMember | None = None
        self._is_streaming, self._behind_bytes = False, 0
        self._closed_s: float | None = None
        self._stuck_s: float | None = None  # since when the device takes nothing
        self._partial_bytes = 0  # of a packet that is not whole
        self._is_inside = False
        self._transport: asyncio.Transport

    # ── asyncio.Protocol ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Dropped at once when the house is full or the address is blocked."""
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if peer else ""
        self._opened_s = self._seen_s = self._desk.clock.monotonic_s()
        self._acks = AckQueue(self._answered, self.close, self._desk.bug)
        if self._desk.admission.enter(self._address, self._seen_s):
            self._is_inside = True
            self._members.add(self)
        else:
            self._closed_s = self._seen_s
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """One for all connections, emptied at once: a peer can be read of no more at a time than it holds."""
        return self._desk.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of the device."""
        self.data_received(bytes(self._desk.read_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Bytes of the device."""
        if self._closed_s is not None:
            return
        self._seen_s = self._desk.clock.monotonic_s()
        if self._api is None and self._first is None:
            self._first = data[0]
            if self._first != _CONNECT:  # some other protocol: no waiting for the rest of its "packet"
                self._protocol_error(ProtocolError("the first packet is not CONNECT"))
                return
        self._decoder.receive(data)
        if not self._hold:
            self._process()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, whoever closed it."""
        if self._closed_s is None:
            self._closed_s = self._desk.clock.monotonic_s()
        if self._is_inside:
            self._is_inside = False
            self._members.discard(self)
            self._desk.admission.leave(self._address)
        self._hold_partial(0)
        self._decoder.clear()
        self._acks.close()
        if self._local is not None:
            self._local.close(is_graceful=False)  # nothing when it has said goodbye before
        if self._api is not None:
            self._outbox.close()
            self._api.ended()
        elif self._provision is not None:
            self._outbox.close()

    def pause_writing(self) -> None:
        """The device does not read."""
        self._stuck_s = self._desk.clock.monotonic_s()
        self._hold_for(SLOW_READER)
        if self._api is not None:
            self._api.chunks.pause()

    def resume_writing(self) -> None:
        """It reads again."""
        self._stuck_s = None
        if self._api is not None:
            self._api.chunks.resume()
        self._release(SLOW_READER)
        if self._local is not None:
            self._local.room()

    # ── the listener's side ──

    @property
    def device(self) -> Device | None:
        """Who is connected; None before CONNECT."""
        return None if self._api is None else self._api.session.device

    @property
    def is_stuck(self) -> bool:
        """The device takes nothing of what waits for it."""
        return self._stuck_s is not None

    @property
    def _name(self) -> str:
        return self._address if self.device is None else self.device.name

    def check(self, now_s: float) -> None:
        """Called now and then: end what has been silent for too long."""
        if self._closed_s is not None:
            if now_s - self._closed_s > _LINGER_S:
                self._transport.abort()
            return
        if self._connect is None:
            if now_s - self._opened_s > self._config.connect_timeout_s:
                self._desk.counters.add("broker.connect_timeouts")
                self.close(NORMAL)
            return
        silent_s = now_s - self._seen_s
        if self._stuck_s is not None and now_s - self._stuck_s > self._config.slow_reader_timeout_s:
            self._too_slow()
        elif self._hold:
            self._seen_s = now_s  # it cannot be heard
        elif self._connect.keepalive_s and silent_s > 1.5 * self._connect.keepalive_s:
            self._desk.counters.add("broker.keepalive_timeouts")
            self.close(KEEPALIVE_TIMEOUT)
        elif silent_s > self._config.idle_timeout_s:
            self._desk.counters.add("broker.idle_timeouts")
            self.close(FAILURE)
        elif self._provision is not None and self._provision.is_over(now_s):
            self.close(NORMAL)

    def disk_is_free(self) -> None:
        """What waited for the disk has become little."""
        self._release(DISK)

    def write(self, data: bytes) -> None:
        """Bytes for the device; all of one turn of the loop leave in one write."""
        if self._closed_s is not None:
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        if self._is_streaming:
            self._behind_bytes += len(data)
            if self._behind_bytes > self._max_write_bytes:
                self._too_slow()

    def _stream(self, data: bytes, has_more: bool) -> None:
        """A part of a packet that leaves in parts; everything else waits until its end."""
        if self._closed_s is None:
            self._flush()
            self._is_streaming, self._behind_bytes = has_more, self._behind_bytes if has_more else 0
            self._transport.write(data)
            self._flush()

    def close(self, reason: int) -> None:
        """End the connection: 5.0 clients hear why. What is written before still leaves."""
        if self._closed_s is not None:
            return
        if self._connect is not None and self._connect.version == 5 and reason != NORMAL:
            self.write(encode.disconnect(5, reason))
        self._flush()
        self._closed_s = self._desk.clock.monotonic_s()
        self._transport.close()

    def give_up(self) -> None:
        """Its unfinished packet takes room that others need."""
        if self._closed_s is None:
            self._partial_bytes = 0
            self._closed_s = self._desk.clock.monotonic_s()
            self._transport.abort()

    # ── incoming ──

    def _process(self) -> None:
        if self._closed_s is not None:
            return
        decoder, api, acks = self._decoder, self._api, self._acks
        if api is not None:
            if self._desk.inlet.is_congested:
                self._hold_for(DISK)
                self._desk.congested()
                return
            api.refresh()
        max_inflight = self._config.max_inflight
        monotonic_s = self._desk.clock.monotonic_s
        until_s = monotonic_s() + _TURN_S
        try:
            for count in range(_PACKETS_A_TURN):
                packet = decoder.next_packet()
                if packet is None:
                    if decoder.held_bytes or self._partial_bytes:
                        self._hold_partial(decoder.held_bytes, is_another=count > 0)
                    break
                if api is not None and type(packet) is Publish:
                    api.publish(packet)
                    if acks.unanswered + api.asking >= max_inflight:
                        self._hold_for(INFLIGHT)
                else:
                    self._handle(packet)
                    api = self._api
                if self._hold or self._closed_s is not None:
                    break
                if monotonic_s() > until_s:
                    # An answer takes the others several rounds of the loop: a pause, not only a round.
                    self._hold_for(TURN)
                    self._loop.call_later(_PAUSE_S, self._release, TURN)
                    break
            else:
                self._hold_for(TURN)
                self._loop.call_soon(self._release, TURN)
        except ProtocolError as error:
            self._protocol_error(error)
            return
        except RejectedError as error:
            log.warning("device %r: %s; closed", self._name, error)
            self.close(FAILURE)
            return
        if api is not None:
            api.touch()
            if self._desk.inlet.is_congested and self._closed_s is None:
                self._hold_for(DISK)
                self._desk.congested()
            if self._local is not None and self._local.is_congested:
                self._hold_for(LOCAL)

    def _handle(self, packet: Packet) -> None:
        if isinstance(packet, Connect):
            if self._connect is not None:
                raise ProtocolError("a second CONNECT", PROTOCOL_ERROR)
            self._accept(packet)
        elif isinstance(packet, Auth) and self._connect is not None and self._connect.version == 5:
            self._desk.counters.add("broker.auth_packets_ignored")
        elif self._provision is not None and not isinstance(packet, Disconnect):
            self._provision.handle(packet)
        elif self._api is None and self._provision is None:
            raise ProtocolError("the first packet is not CONNECT")
        elif isinstance(packet, Disconnect):
            if packet.session_expiry_s and self._connect is not None and not self._connect.session_expiry_s:
                raise ProtocolError("DISCONNECT with a session expiry after a CONNECT without one", PROTOCOL_ERROR)
            if self._local is not None:
                self._local.close(is_graceful=packet.reason != 0x04, expiry_s=packet.session_expiry_s)
            self.close(NORMAL)
        elif self._api is None:
            raise ProtocolError("the first packet is not CONNECT")
        elif isinstance(packet, Pingreq):
            self.write(encode.PINGRESP)
        elif isinstance(packet, Ack) and packet.kind == PUBREL:
            if self._local is None:
                self._api.released(packet.packet_id)
            else:
                self._local.released(packet.packet_id, self._api.released)
        elif isinstance(packet, Ack):
            self._acknowledged(packet)
        elif isinstance(packet, Subscribe):
            version, begin = self._connect.version if self._connect else 4, self._local_member
            subscriptions.subscribe(packet, version, self._desk, self._api, self._local, begin, self.write)
        elif isinstance(packet, Unsubscribe):
            version = self._connect.version if self._connect else 4
            subscriptions.unsubscribe(packet, version, self._api, self._local, self.write)
        else:
            raise ProtocolError(f"{type(packet).__name__} is not for a client to send", PROTOCOL_ERROR)

    def _protocol_error(self, error: ProtocolError) -> None:
        self._desk.counters.add("broker.protocol_errors")
        log.debug("%s: %s", self._address, error)
        if error.reason_code == 0x84:
            self.write(encode.connack(4, 1))
        self.close(error.reason_code)

    def _hold_partial(self, size_bytes: int, *, is_another: bool = False) -> None:
        if size_bytes or self._partial_bytes:
            self._partial_bytes = size_bytes
            self._desk.admission.holds(self, size_bytes, is_another=is_another)

    # ── CONNECT ──

    def _accept(self, packet: Connect) -> None:
        self._connect = packet
        if packet.version == 3 and not 1 <= len(packet.client_id) <= MAX_CLIENT_ID_3_1:
            self._desk.counters.add("broker.connects_refused")
            self._turn_down(packet, auth.BAD_CLIENT_ID)
            return
        if asks_to_be_provisioned(packet):
            self._start_provisioning(packet)
            return
        shown = presented(self._transport) if self._config.x509 else None
        if shown is not None:
            self._accept_certificate(packet, shown)
            return
        find = self._desk.inlet.find_credentials
        device = auth.authenticate(find, packet.client_id, packet.user_name, packet.password)
        if device is None:
            self._refuse(packet, auth.refusal(packet.client_id, packet.user_name, packet.password))
        else:
            self._admit(packet, device)

    def _accept_certificate(self, packet: Connect, shown: Presented) -> None:
        """User name and password do not count beside a certificate."""
        now_s = self._desk.clock.now_ms() / 1000
        is_valid = shown.from_s <= now_s <= shown.until_s or not self._config.x509_check_validity
        if shown.chain is None or not is_valid:
            self._desk.counters.add("broker.certificates_not_valid")
            self._refuse(packet, auth.NOT_AUTHORIZED)
            return
        self._hold_for(IDENTITY)  # a new device must be on disk first
        self._desk.spawn(self._admit_by_certificate(packet, shown.chain), "broker: certificate")

    async def _admit_by_certificate(self, packet: Connect, chain: CertificateChain) -> None:
        try:
            device = await self._desk.inlet.admit_by_certificate(chain)
        except RejectedError as error:
            log.warning("%s: a device could not be admitted by its certificate: %s", self._address, error)
            self._turn_down(packet, auth.UNAVAILABLE)
            return
        if self._closed_s is not None:
            return
        if device is None:
            self._refuse(packet, auth.NOT_AUTHORIZED)
            return
        try:
            self._admit(packet, device)
        except RejectedError as error:  # deleted while its certificate became durable
            log.warning("device %r: %s; closed", device.name, error)
            self.close(FAILURE)
            return
        self._release(IDENTITY)

    def _start_provisioning(self, packet: Connect) -> None:
        packet.user_name = packet.password = None
        self._desk.counters.add("broker.provisioning_connects")
        self._open_outbox(packet)
        self.write(encode.connack(packet.version, 0, is_session_present=not packet.is_clean))
        self._provision = ProvisionSession(
            self._desk, self._address, packet.version, self._outbox, self.write, self.close
        )

    def _admit(self, packet: Connect, device: Device) -> None:
        desk = self._desk
        if not auth.speaks_mqtt(desk.inlet.profile_of(device)):
            desk.counters.add("broker.connects_refused")
            desk.complaints.refused(device, "its profile is bound to another transport than MQTT; refused")
            self._turn_down(packet, auth.UNAVAILABLE)
            return
        packet.user_name = packet.password = None  # not needed any more, so not kept
        desk.doorkeeper.accepted(self._address)
        if not self._may_open(device):
            self._turn_down(packet, auth.OVER_RATE, OVER_RATE)
            return
        desk.counters.add("broker.connects")
        self._open_outbox(packet)
        self._write_connack(packet, device)
        self._api = DeviceApi(
            desk,
            device,
            packet.version,
            self.write,
            self._acks,
            self._outbox,
            self.close,
            self._relieved,
            self._publish_local,
            self._stream,
        )
        if self._local is not None:
            self._resume_local(self._local, self._api)

    def _may_open(self, device: Device) -> bool:
        try:
            self._desk.take(device, 0, "CONNECT")
        except RateLimitedError:
            self._desk.counters.add("broker.connects_refused")
            return False
        return True

    def _open_outbox(self, packet: Connect) -> None:
        self._outbox = Outbox(
            packet.version,
            self.write,
            self._too_slow,
            receive_maximum=packet.receive_maximum,
            max_packet_bytes=packet.max_packet_bytes,
            max_waiting_bytes=self._max_write_bytes,
            highest_id=FIRST_ID - 1,
            dropped=self._desk.counters.add,
        )

    def _refuse(self, packet: Connect, codes: tuple[int, int]) -> None:
        """Wrong credentials: they count against the address."""
        self._desk.counters.add("broker.connects_refused")
        if self._desk.doorkeeper.refused(self._address, self._seen_s):
            log.warning(
                "%s: too many connections with wrong credentials; blocked for %g s", self._address, self._config.block_s
            )
        self._turn_down(packet, codes)

    def _turn_down(self, packet: Connect, codes: tuple[int, int], reason: int = NOT_AUTHORIZED) -> None:
        self.write(encode.connack(packet.version, codes[packet.version == 5]))
        packet.user_name = packet.password = None
        self.close(reason)

    # ── local topics ──

    def _publish_local(self, packet: Publish) -> tuple[Receipt | None, int]:
        return self._local_member().publish(packet)

    def _acknowledged(self, packet: Ack) -> None:
        local = self._local
        if local is None or not local.acknowledged(packet):
            if packet.kind == PUBREC:
                self._outbox.received(packet.packet_id, packet.reason)
            else:
                self._outbox.acknowledged(packet.packet_id, packet.reason)
        if local is not None:
            local.room()

    def _write_connack(self, packet: Connect, device: Device) -> None:
        """Nothing of the API is kept between connections: there the flag only mirrors the question, as ThingsBoard
        does it. A client with an id of its own may have a session for local topics, and hears the truth.
        """
        is_present, expiry_s = not packet.is_clean and packet.version != 5, 0
        hub, will = self._desk.local, packet.will
        if will is not None and (hub is None or not is_local(will.topic)):
            self._desk.counters.add("broker.wills_ignored")
            self._desk.complaints.bad(device, will.topic, "it is never published: only local topics have one", "will")
        if hub is not None and (packet.client_id or (will is not None and is_local(will.topic))):
            self._local = self._new_member(packet, device)
            if packet.client_id:
                is_present, expiry_s = self._local.is_present, self._local.expiry_s
        properties = b""
        if packet.version == 5:
            properties = encode.limits(
                receive_maximum=MAX_QOS2_OPEN,
                max_packet_bytes=self._config.max_packet_bytes,
                has_local=hub is not None,
                session_expiry_s=None if expiry_s == packet.session_expiry_s else expiry_s,
                assigned_id="" if packet.client_id else f"gateway-{uuid4().hex}",
            )
        self.write(encode.connack(packet.version, 0, is_session_present=is_present, properties=properties))

    def _resume_local(self, local: LocalMember, api: DeviceApi) -> None:
        api.resume(local.received)
        subscriptions.restore(local.api_filters, api)
        local.start()

    def _local_member(self) -> LocalMember:
        if self._local is None:
            assert self._connect is not None  # callers have looked
            assert self.device is not None
            self._local = self._new_member(self._connect, self.device)
        return self._local

    def _new_member(self, packet: Connect, device: Device) -> LocalMember:
        assert self._desk.local is not None  # callers have looked
        return LocalMember(
            self._desk.local,
            device,
            packet,
            self._outbox,
            self.write,
            lambda: bool(self._hold & SLOW_READER),
            lambda: self._release(LOCAL),
            lambda: self.close(SERVER_FAULT),
        )

    # ── flow ──

    def _hold_for(self, reason: int) -> None:
        if not self._hold and not self._transport.is_closing():
            self._transport.pause_reading()
        self._hold |= reason

    def _answered(self, answers: bytes) -> None:
        self.write(answers)
        self._relieved()

    def _relieved(self) -> None:
        """One question less: half of the window is free again."""
        if not self._hold & INFLIGHT or self._api is None:
            return
        if self._acks.unanswered + self._api.asking <= self._config.max_inflight // 2:
            self._loop.call_soon(self._release, INFLIGHT)

    def _release(self, reason: int) -> None:
        if not self._hold & reason:
            return
        self._hold &= ~reason
        if self._hold or self._closed_s is not None:
            return
        self._process()
        if not self._hold and not self._transport.is_closing():
            self._transport.resume_reading()

    def _flush(self) -> None:
        if not self._out or self._closed_s is not None or self._is_streaming:
            return
        data = b"".join(self._out)
        self._out.clear()
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._max_write_bytes:
            self._too_slow()

    def _too_slow(self) -> None:
        if self._closed_s is None:
            self._desk.counters.add("broker.slow_readers_closed")
            text = f"reads too slowly: over {self._max_write_bytes} bytes wait; closed"
            if self.device is not None:
                self._desk.complaints.refused(self.device, text)
            else:
                log.debug("%s: %s", self._address, text)
            self._closed_s = self._desk.clock.monotonic_s()
            self._transport.abort()
