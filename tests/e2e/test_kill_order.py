"""Order within a device through kills, with a client that sends again, in order, before it goes on."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.ordered import InOrderDevice
from tests.e2e.parts import CloudProcess, GatewayProcess, until

DEVICES, KILLS = 3, 5


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
