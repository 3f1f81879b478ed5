"""What was acknowledged is in the cloud, whatever moment the power went."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

import pytest

from tests.e2e.parts import CloudProcess, GatewayProcess, NumberedDevice, until

KILLS = int(os.environ.get("EDGE_GATEWAY_KILLS", "20"))
DEVICES = 4


@pytest.mark.server
@pytest.mark.slow
async def test_every_acknowledged_publish_reaches_the_cloud_through_random_kills(tmp_path):
    rng = random.Random(2)
    devices = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(DEVICES)]
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as gateway,
    ):
        clients = [NumberedDevice(f"token-{i}", gateway.port) for i in range(DEVICES)]
        publishing = asyncio.create_task(_publish(clients))
        try:
            for _ in range(KILLS):
                before = sum(len(client.acknowledged) for client in clients)

                async def is_going_on(before: int = before) -> bool:
                    return sum(len(client.acknowledged) for client in clients) > before + 50

                await until(is_going_on, 30, "no acknowledgements after a restart")
                await asyncio.sleep(rng.random() * 0.3)  # the random moment, not a wait for something
                await gateway.kill()
                await gateway.start()
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])

        async def all_acknowledged() -> bool:
            return all(len(client.acknowledged) == client.sent for client in clients)

        await until(all_acknowledged, 60, "resends were not acknowledged")
        await until(lambda: _is_drained(gateway), 60, "the queue did not drain")
        for index, client in enumerate(clients):
            seen: dict[str, Any] = await cloud.device(f"D{index}")
            assert seen["missing"] == 0
            assert seen["seq_contiguous"] == client.sent
            client.stop()
        assert (await gateway.status())["queue"]["parked"] == 0


async def _publish(clients: list[NumberedDevice]) -> None:
    while True:
        for client in clients:
            if client.sent - len(client.acknowledged) < 500:
                client.publish(time.time_ns() // 1_000_000)
        await asyncio.sleep(0.002)


async def _is_drained(gateway: GatewayProcess) -> bool:
    return await gateway.pending() == 0
