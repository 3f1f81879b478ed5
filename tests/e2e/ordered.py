"""An MQTT device that keeps its order whatever happens: what is not acknowledged is sent again first.

(paho sends new messages in front of its resends after a reconnect, so it cannot show this.)
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from bench.mqtt_load import connect_packet

TOPIC = b"v1/devices/me/telemetry"


def numbered(number: int) -> bytes:
    return b'{"seq":%d}' % number


class InOrderDevice:
    """Numbers its readings; at most `window` of them without acknowledgement; after a reconnect the oldest first.

    `body` makes the payload of a number, at most 90 bytes; `every_s` is the time between two numbers.
    """

    def __init__(
        self,
        token: str,
        port: int,
        *,
        window: int = 100,
        every_s: float = 0.0,
        body: Callable[[int], bytes] = numbered,
    ) -> None:
        self._token, self._port, self._window, self._every_s, self._body = token, port, window, every_s, body
        self.sent = self.acknowledged = 0
        self.is_ending = False

    async def run(self) -> None:
        while not self.is_ending or self.acknowledged < self.sent:
            try:
                await self._session()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)  # until the gateway is up again

    async def _session(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(connect_packet(self._token, self._token))
            assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
            number = self.acknowledged
            while not self.is_ending or self.acknowledged < self.sent:
                while number < self.acknowledged + self._window and (number < self.sent or not self.is_ending):
                    number += 1
                    self.sent = max(self.sent, number)
                    writer.write(publish_packet(number, self._body(number)))
                await writer.drain()
                assert await reader.readexactly(4) == b"\x40\x02" + _packet_id(self.acknowledged + 1)
                self.acknowledged += 1
                if self._every_s:
                    await asyncio.sleep(self._every_s)
        finally:
            writer.close()


def _packet_id(number: int) -> bytes:
    return struct.pack(">H", (number - 1) % 65535 + 1)


def publish_packet(number: int, payload: bytes) -> bytes:
    body = struct.pack(">H", len(TOPIC)) + TOPIC + _packet_id(number) + payload
    return b"\x32" + bytes([len(body)]) + body  # the remaining length of so short a packet is one byte
