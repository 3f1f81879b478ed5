"""Order within a device through kills, with a client that sends again, in order, before it goes on.

(paho sends new messages in front of its resends after a reconnect, so it cannot show this.)
"""

from __future__ import annotations

import asyncio
import struct

import pytest

from bench.mqtt_load import connect_packet
from tests.e2e.parts import CloudProcess, GatewayProcess, until

DEVICES, KILLS, WINDOW = 3, 5, 100
TOPIC = b"v1/devices/me/telemetry"


class InOrderDevice:
    """Numbers its readings; at most `WINDOW` of them without acknowledgement; after a reconnect the oldest first."""

    def __init__(self, token: str, port: int) -> None:
        self._token, self._port = token, port
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
                while number < self.acknowledged + WINDOW and (number < self.sent or not self.is_ending):
                    number += 1
                    self.sent = max(self.sent, number)
                    writer.write(_publish(number))
                await writer.drain()
                assert await reader.readexactly(4) == b"\x40\x02" + _packet_id(self.acknowledged + 1)
                self.acknowledged += 1
        finally:
            writer.close()


def _packet_id(number: int) -> bytes:
    return struct.pack(">H", (number - 1) % 65535 + 1)


def _publish(number: int) -> bytes:
    body = struct.pack(">H", len(TOPIC)) + TOPIC + _packet_id(number) + b'{"seq":%d}' % number
    return b"\x32" + bytes([len(body)]) + body  # the remaining length of so short a packet is one byte


@pytest.mark.server
@pytest.mark.slow
async def test_kills_lose_nothing_and_change_no_order(tmp_path):
    devices = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(DEVICES)]
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as gateway,
    ):
        clients = [InOrderDevice(f"token-{i}", gateway.port) for i in range(DEVICES)]
        running = [asyncio.create_task(client.run()) for client in clients]
        for _ in range(KILLS):
            marks = [client.acknowledged + 500 for client in clients]

            async def is_going_on(marks: list[int] = marks) -> bool:
                return all(client.acknowledged >= mark for client, mark in zip(clients, marks, strict=True))

            await until(is_going_on, 30, "no acknowledgements after a restart")
            await gateway.kill()
            await gateway.start()
        for client in clients:
            client.is_ending = True
        await asyncio.wait_for(asyncio.gather(*running), 30)

        async def is_drained() -> bool:
            return await gateway.pending() == 0

        await until(is_drained, 60, "the queue did not drain")
        state = await cloud.state()
        assert (state["out_of_order"], state["missing"], state["violation_counts"]) == (0, 0, {})
        for index, client in enumerate(clients):
            assert (await cloud.device(f"D{index}"))["seq_contiguous"] == client.sent
