"""What goes down to one device: packet ids of our side, and what waits for its PUBACK (PUBCOMP with QoS 2)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.broker import encode
from gateway.broker.packets import PUBREL
from gateway.errors import TransientError

MAX_IN_FLIGHT: Final = 1000  # for clients that announce no smaller Receive Maximum
_HEAD_BYTES: Final = 10  # of a publish, beside its topic and payload: at the most


Write = Callable[[], bytes | None]


class UnsentError(TransientError):
    """The connection ended before anything of the message was written."""


class Outbox:
    """Publishes to one device in order. Memory is bounded by `max_waiting_bytes`, then `overflow` is called."""

    def __init__(
        self,
        version: int,
        write: Callable[[bytes], None],
        overflow: Callable[[], None],
        *,
        receive_maximum: int,
        max_packet_bytes: int | None,
        max_waiting_bytes: int,
        highest_id: int = 65_535,
        dropped: Callable[[str], None] = lambda counter: None,
    ) -> None:
        """Packet ids above `highest_id` are somebody else's, who tells by `others` how many are in flight.

        `dropped` hears under which counter a message ends that nobody waits for.
        """
        self._dropped = dropped
        self._version, self._write, self._overflow = version, write, overflow
        self._window = min(receive_maximum, MAX_IN_FLIGHT)
        self._max_packet_bytes, self._max_waiting_bytes = max_packet_bytes, max_waiting_bytes
        self._next_id, self._highest_id = 0, highest_id
        self._others = 0
        self._in_flight: dict[int, asyncio.Future[None] | None] = {}
        self._waiting: deque[tuple[str, bytes, int, bool, asyncio.Future[None] | None, Write | None]] = deque()
        self._waiting_bytes = 0
        self._is_closed = False

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        *,
        is_retained: bool = False,
        done: asyncio.Future[None] | None = None,
        properties: Write | None = None,
    ) -> None:
        """Send, or wait for a place in the device's window.

        `done` completes when the device has it (PUBACK; QoS 0: when it is written) and fails with
        `TransientError` when the device will not get it on this connection (`UnsentError`: nothing of it was
        written). `properties` is asked when it is sent: for those of 5.0, None when the message is over.
        """
        if self._is_closed:
            _fail(done, UnsentError("the device is not connected"))
        elif qos == 0:
            said = b"" if properties is None else properties()
            if said is None:
                self._is_over(done)
                return
            data = encode.publish(self._version, topic, payload, is_retained=is_retained, properties=said)
            if self._send(data, done):
                _finish(done)
        elif self._waiting or len(self._in_flight) + self._others >= self._window:
            self._waiting.append((topic, payload, qos, is_retained, done, properties))
            self._waiting_bytes += len(payload) + len(topic)
            if self._waiting_bytes > self._max_waiting_bytes:
                self._overflow()
        else:
            self._send_numbered(topic, payload, qos, is_retained, done, properties)

    def takes(self, content_bytes: int) -> bool:
        """Is a packet with so many bytes of topic and payload small enough for the device?"""
        return self._max_packet_bytes is None or content_bytes + _HEAD_BYTES <= self._max_packet_bytes

    def begin(self, topic: str, payload_bytes: int, qos: int) -> bytes:
        """The head of a publish whose payload the caller writes; QoS 0 when the device's window is full."""
        if qos == 0 or not self.has_room:
            return encode.publish_head(self._version, topic, payload_bytes)
        packet_id = self._free_id()
        self._in_flight[packet_id] = None
        return encode.publish_head(self._version, topic, payload_bytes, qos, packet_id)

    @property
    def has_room(self) -> bool:
        """True while one more would be sent at once."""
        return not self._waiting and len(self._in_flight) + self._others < self._window

    def others(self, in_flight: int) -> None:
        """Packets in flight that are not from here, but share the device's window."""
        is_less, self._others = in_flight < self._others, in_flight
        if is_less:
            self._fill()

    def received(self, packet_id: int, reason: int) -> None:
        """PUBREC of the device: PUBREL follows, and the place is free at its PUBCOMP."""
        if reason >= 0x80:
            self.acknowledged(packet_id, reason)
        else:
            is_known = packet_id in self._in_flight
            self._write(encode.ack(PUBREL, packet_id, self._version, 0 if is_known else 0x92))

    def acknowledged(self, packet_id: int, reason: int) -> None:
        """PUBACK or PUBCOMP of the device; an id that is not in flight is ignored."""
        done = self._in_flight.pop(packet_id, None)
        if reason >= 0x80:
            _fail(done, TransientError(f"the device refused it with reason {reason:#04x}"))
        else:
            _finish(done)
        self._fill()

    def close(self) -> None:
        """The connection is gone: what waits fails."""
        self._is_closed = True
        for done in self._in_flight.values():
            _fail(done, TransientError("the connection ended before the device confirmed"))
        for *_, done, _ in self._waiting:
            _fail(done, UnsentError("the connection ended before the device confirmed"))
        self._in_flight.clear()
        self._waiting.clear()

    def _fill(self) -> None:
        while self._waiting and len(self._in_flight) + self._others < self._window:
            topic, payload, qos, is_retained, done, properties = self._waiting.popleft()
            self._waiting_bytes -= len(payload) + len(topic)
            if done is not None and done.cancelled():
                continue  # nobody waits for it any more: a call that went out now would be executed late
            self._send_numbered(topic, payload, qos, is_retained, done, properties)

    def _send_numbered(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        is_retained: bool,
        done: asyncio.Future[None] | None,
        properties: Write | None,
    ) -> None:
        said = b"" if properties is None else properties()
        if said is None:
            self._is_over(done)
            return
        packet_id = self._free_id()
        data = encode.publish(self._version, topic, payload, qos, packet_id, is_retained=is_retained, properties=said)
        if self._send(data, done):
            self._in_flight[packet_id] = done

    def _is_over(self, done: asyncio.Future[None] | None) -> None:
        """Nobody wants it any more."""
        _finish(done)
        self._dropped("broker.local_expired")

    def _free_id(self) -> int:
        packet_id = self._next_id % self._highest_id + 1
        while packet_id in self._in_flight:
            packet_id = packet_id % self._highest_id + 1
        self._next_id = packet_id
        return packet_id

    def _send(self, packet: bytes, done: asyncio.Future[None] | None) -> bool:
        if self._max_packet_bytes is not None and len(packet) > self._max_packet_bytes:
            if done is None:
                self._dropped("broker.too_large_for_device")
            _fail(
                done, TransientError(f"{len(packet)} bytes are more than the device takes ({self._max_packet_bytes})")
            )
            return False
        self._write(packet)
        return True


def _finish(done: asyncio.Future[None] | None) -> None:
    if done is not None and not done.done():
        done.set_result(None)


def _fail(done: asyncio.Future[None] | None, error: TransientError) -> None:
    if done is not None and not done.done():
        done.set_exception(error)
