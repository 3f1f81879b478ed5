"""Weeks without a cloud, in small: a long queue, then everything in order."""

from __future__ import annotations

import orjson
import pytest

from bench.mqtt_load import run_load
from tests.e2e.parts import CloudProcess, GatewayProcess, until

DEVICES = 10
EVENTS = 50_000


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_50000_events_wait_for_the_cloud_and_arrive_in_order(tmp_path, kind, request):
    sections = {"devices": [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(DEVICES)]}
    if kind == "postgres":
        sections["store"] = {"kind": "postgres", "url": request.getfixturevalue("postgres_url")}
    cloud = CloudProcess(tmp_path)
    async with GatewayProcess(tmp_path, cloud.grpc_port, **sections) as gateway:
        tokens = [f"token-{i}" for i in range(DEVICES)]
        sent = await run_load(gateway.port, tokens, per_client=EVENTS // DEVICES, window=200)
        assert sent == EVENTS
        status = await gateway.status()
        assert status["queue"]["pending"] == EVENTS + DEVICES  # each device's creation comes first
        assert status["cloud"]["state"] != "ready"
        async with cloud:

            async def drained() -> bool:
                return await gateway.pending() == 0

            await until(drained, 120, "the queue did not drain")
            state = await cloud.state()
            assert state["out_of_order"] == 0
            for i in range(DEVICES):
                device = await cloud.device(f"D{i}")
                assert device["seq_contiguous"] == EVENTS // DEVICES
                assert device["missing"] == 0
            listed = await gateway.ask("/events?limit=200&status=deployed")
            newest = next(row for row in listed if row["action"] == "TIMESERIES_UPDATED")
            assert orjson.loads(newest["entityBody"])["data"]["seq"] == EVENTS // DEVICES
            assert await gateway.ask("/events?limit=1&status=pending") == []
