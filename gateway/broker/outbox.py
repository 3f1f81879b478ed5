"""What goes down to one device: packet ids of our side, and what waits for its PUBACK."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.broker import encode
from gateway.errors import TransientError

MAX_IN_FLIGHT: Final = 1000  # for clients that announce no smaller Receive Maximum


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
    ) -> None:
        self._version, self._write, self._overflow = version, write, overflow
        self._window = min(receive_maximum, MAX_IN_FLIGHT)
        self._max_packet_bytes, self._max_waiting_bytes = max_packet_bytes, max_waiting_bytes
        self._next_id = 0
        self._in_flight: dict[int, asyncio.Future[None] | None] = {}
        self._waiting: deque[tuple[str, bytes, bool, asyncio.Future[None] | None]] = deque()
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
    ) -> None:
        """Send, or wait for a place in the device's window.

        `done` completes when the device has it (PUBACK; QoS 0: when it is written) and fails with
        `TransientError` when the device will not get it on this connection.
        """
        if self._is_closed:
            _fail(done, "the device is not connected")
        elif qos == 0:
            if self._send(encode.publish(self._version, topic, payload, is_retained=is_retained), done):
                _finish(done)
        elif self._waiting or len(self._in_flight) >= self._window:
            self._waiting.append((topic, payload, is_retained, done))
            self._waiting_bytes += len(payload) + len(topic)
            if self._waiting_bytes > self._max_waiting_bytes:
                self._overflow()
        else:
            self._send_qos1(topic, payload, is_retained, done)

    def acknowledged(self, packet_id: int, reason: int) -> None:
        """PUBACK of the device; an id that is not in flight is ignored."""
        done = self._in_flight.pop(packet_id, None)
        if reason >= 0x80:
            _fail(done, f"the device refused it with reason {reason:#04x}")
        else:
            _finish(done)
        while self._waiting and len(self._in_flight) < self._window:
            topic, payload, is_retained, next_done = self._waiting.popleft()
            self._waiting_bytes -= len(payload) + len(topic)
            self._send_qos1(topic, payload, is_retained, next_done)

    def close(self) -> None:
        """The connection is gone: what waits fails."""
        self._is_closed = True
        for done in [*self._in_flight.values(), *(done for *_, done in self._waiting)]:
            _fail(done, "the connection ended before the device confirmed")
        self._in_flight.clear()
        self._waiting.clear()

    def _send_qos1(self, topic: str, payload: bytes, is_retained: bool, done: asyncio.Future[None] | None) -> None:
        packet_id = self._next_id % 65_535 + 1
        while packet_id in self._in_flight:
            packet_id = packet_id % 65_535 + 1
        self._next_id = packet_id
        if self._send(encode.publish(self._version, topic, payload, 1, packet_id, is_retained=is_retained), done):
            self._in_flight[packet_id] = done

    def _send(self, packet: bytes, done: asyncio.Future[None] | None) -> bool:
        if self._max_packet_bytes is not None and len(packet) > self._max_packet_bytes:
            _fail(done, f"{len(packet)} bytes are more than the device takes ({self._max_packet_bytes})")
            return False
        self._write(packet)
        return True


def _finish(done: asyncio.Future[None] | None) -> None:
    if done is not None and not done.done():
        done.set_result(None)


def _fail(done: asyncio.Future[None] | None, reason: str) -> None:
    if done is not None and not done.done():
        done.set_exception(TransientError(reason))
