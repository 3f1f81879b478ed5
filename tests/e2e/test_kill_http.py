"""What was answered with 200, or with PUBCOMP, is in the cloud, whatever moment the power went.

`EDGE_GATEWAY_KILLS=200` for more kills than in the suite.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.demo.processes import free_port
from tests.e2e.parts import CloudProcess, GatewayProcess, NumberedDevice, until

KILLS = int(os.environ.get("EDGE_GATEWAY_KILLS", "5"))
DEVICES = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(4)]

pytestmark = [pytest.mark.server, pytest.mark.slow]


class HttpDevice:
    """Posts numbered telemetry on one connection, the next when the last was answered; else the same again."""

    def __init__(self, token: str, port: int) -> None:
        self._token, self._port = token, port
        self.answered = 0
        self.is_ending = False

    async def run(self) -> None:
        while not self.is_ending:
            try:
                await self._post_all()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)  # until the gateway is up again

    async def _post_all(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST /api/v1/{self._token}/telemetry HTTP/1.1\r\nHost: gateway\r\nContent-Length: "
        try:
            while not self.is_ending:
                ts_ms = time.time_ns() // 1_000_000
                body = b'{"ts":%d,"values":{"seq":%d,"t":20.5}}' % (ts_ms, self.answered + 1)
                writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                status = answer.split(b" ", 2)[1]
                assert status in (b"200", b"503"), answer  # 503: it is about to stop
                if status == b"200":
                    self.answered += 1
        finally:
            writer.close()


async def kill_at_random(gateway: GatewayProcess, acknowledged: Callable[[], int], rng: random.Random) -> None:
    for _ in range(KILLS):
        before = acknowledged()

        async def is_going_on(before: int = before) -> bool:
            return acknowledged() > before + 50

        await until(is_going_on, 30, "nothing is acknowledged after a restart")
        await asyncio.sleep(rng.random() * 0.3)  # the random moment, not a wait for something
        await gateway.kill()
        await gateway.start()


async def is_in_the_cloud(cloud: CloudProcess, gateway: GatewayProcess, counts: dict[str, int]) -> None:
    async def is_drained() -> bool:
        return await gateway.pending() == 0

    await until(is_drained, 60, "the queue did not drain")
    for name, count in counts.items():
        seen: dict[str, Any] = await cloud.device(name)
        assert seen["missing"] == 0
        assert seen["seq_contiguous"] >= count
    assert (await gateway.status())["queue"]["parked"] == 0


async def test_every_post_that_was_answered_reaches_the_cloud_in_order_through_random_kills(tmp_path):
    port = free_port()
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, devices=DEVICES, http={"host": "127.0.0.1", "port": port}) as gateway,
    ):
        clients = [HttpDevice(device["access_token"], port) for device in DEVICES]
        running = [asyncio.create_task(client.run()) for client in clients]
        await kill_at_random(gateway, lambda: sum(client.answered for client in clients), random.Random(3))
        for client in clients:
            client.is_ending = True
        await asyncio.wait_for(asyncio.gather(*running), 30)
        await is_in_the_cloud(cloud, gateway, {f"D{i}": client.answered for i, client in enumerate(clients)})
        state = await cloud.state()
        assert (state["out_of_order"], state["violation_counts"]) == (0, {})


async def test_every_qos_2_publish_that_was_completed_reaches_the_cloud_through_random_kills(tmp_path):
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, devices=DEVICES) as gateway,
    ):
        clients = [NumberedDevice(device["access_token"], gateway.port, qos=2) for device in DEVICES]

        async def publish() -> None:
            while True:
                for client in clients:
                    if client.sent - len(client.acknowledged) < 200:
                        client.publish(time.time_ns() // 1_000_000)
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish())
        try:
            await kill_at_random(gateway, lambda: sum(len(client.acknowledged) for client in clients), random.Random(4))
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])

        async def all_completed() -> bool:
            return all(len(client.acknowledged) == client.sent for client in clients)

        await until(all_completed, 60, "resends were not completed")
        await is_in_the_cloud(cloud, gateway, {f"D{i}": client.sent for i, client in enumerate(clients)})
        for client in clients:
            client.stop()
