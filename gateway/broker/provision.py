"""A connection that asks to be provisioned: two topics, and an end.

Source: ThingsBoard 4.3 device API: CONNECT as `provision` is accepted unconditionally; other topics are refused, the
connection is closed 60 s after a response. QoS 2 is done as MQTT defines it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from gateway.broker import encode
from gateway.broker.desk import Desk
from gateway.broker.outbox import Outbox
from gateway.broker.packets import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Ack,
    Connect,
    Packet,
    Pingreq,
    ProtocolError,
    Publish,
    Subscribe,
    Unsubscribe,
)
from gateway.broker.provision_forms import read_request
from gateway.domain.onboarding import PROVISION_USER, ProvisionStatus
from gateway.domain.payloads import PayloadError

log = logging.getLogger(__name__)

REQUEST: Final = "/provision/request"
RESPONSE: Final = "/provision/response"
CLOSED_AFTER_S: Final = 60.0
MAX_OPEN: Final = 8
"""Requests of one connection that wait for the disk; one more ends it."""

_TOPIC_NAME_INVALID, _FAILURE, _QUOTA_EXCEEDED, _NOT_AUTHORIZED = 0x90, 0x83, 0x97, 0x87


def asks_to_be_provisioned(packet: Connect) -> bool:
    """By its user name or its client id."""
    return PROVISION_USER in (packet.user_name, packet.client_id)


class ProvisionSession:
    """Everything that such a connection may say."""

    def __init__(
        self,
        desk: Desk,
        address: str,
        version: int,
        outbox: Outbox,
        write: Callable[[bytes], None],
        close: Callable[[int], None],
    ) -> None:
        """A wrong secret counts against `address` as a wrong password does."""
        self._desk, self._address, self._version, self._outbox = desk, address, version, outbox
        self._write, self._close = write, close
        self._qos = 1
        self._open = 0
        self._answered_s: float | None = None

    def is_over(self, now_s: float) -> bool:
        """Nothing more is expected."""
        return self._answered_s is not None and not self._open and now_s - self._answered_s >= CLOSED_AFTER_S

    def handle(self, packet: Packet) -> None:
        """Anything but CONNECT and DISCONNECT."""
        if isinstance(packet, Publish):
            self._publish(packet)
        elif isinstance(packet, Subscribe):
            refused = 0x8F if self._version == 5 else 0x80
            codes = [min(qos, 1) if name == RESPONSE else refused for name, qos in packet.filters]
            self._qos = next((code for code in codes if code < 2), self._qos)
            self._write(encode.suback(self._version, packet.packet_id, codes))
        elif isinstance(packet, Unsubscribe):
            codes = [0 if name == RESPONSE else 0x11 for name in packet.filters]
            self._write(encode.unsuback(self._version, packet.packet_id, codes))
        elif isinstance(packet, Pingreq):
            self._write(encode.PINGRESP)
        elif isinstance(packet, Ack) and packet.kind == PUBACK:
            self._outbox.acknowledged(packet.packet_id, packet.reason)
        elif isinstance(packet, Ack) and packet.kind == PUBREL:
            self._write(encode.ack(PUBCOMP, packet.packet_id, self._version))
        else:
            raise ProtocolError(f"{type(packet).__name__} is not for a client to send", 0x82)

    def _publish(self, packet: Publish) -> None:
        if packet.topic != REQUEST:
            self._acknowledge(packet, _TOPIC_NAME_INVALID)
            self._close(_TOPIC_NAME_INVALID)
        elif self._is_blocked():
            self._close(_NOT_AUTHORIZED)
        elif self._open >= MAX_OPEN:
            self._close(_QUOTA_EXCEEDED)
        else:
            self._open += 1
            self._desk.spawn(self._request(packet), "broker: provisioning")

    async def _request(self, packet: Publish) -> None:
        """The answer, and the PUBACK before it, when everything is durable."""
        try:
            request, write = read_request(packet.payload)
            answer = await self._desk.inlet.provision(request)
        except PayloadError:
            self._desk.counters.add("broker.bad_payloads")
            self._acknowledge(packet)
            self._close(_FAILURE)
            return
        finally:
            self._open -= 1
        if answer.status is ProvisionStatus.NOT_FOUND:
            if self._desk.doorkeeper.refused(self._address, self._desk.clock.monotonic_s()):
                log.warning("%s: too many wrong provision secrets; blocked", self._address)
        elif answer.status is ProvisionStatus.SUCCESS:
            self._desk.doorkeeper.accepted(self._address)
        self._acknowledge(packet)
        self._outbox.publish(RESPONSE, write(answer), self._qos)
        self._answered_s = self._desk.clock.monotonic_s()
        if self._is_blocked():
            self._close(_NOT_AUTHORIZED)

    def _is_blocked(self) -> bool:
        return self._desk.doorkeeper.is_blocked(self._address, self._desk.clock.monotonic_s())

    def _acknowledge(self, packet: Publish, reason: int = 0) -> None:
        if packet.qos:
            kind = PUBACK if packet.qos == 1 else PUBREC
            self._write(encode.ack(kind, packet.packet_id, self._version, reason if self._version == 5 else 0))
