"""200,000 events wait while the cloud is away; then it comes back, next door and at a round trip of 100 ms."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from bench.report import figure, note
from tests.e2e.parts import CloudProcess, GatewayProcess

EVENTS = 200_000
DEVICES = 20


async def fill(port: int, events: int) -> None:
    arguments = ["-m", "bench.mqtt_load", "--port", str(port), "--clients", str(DEVICES), "--window", "200"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, "--per-client", str(events // DEVICES), stdout=asyncio.subprocess.DEVNULL
    )
    if await process.wait():
        raise RuntimeError("the load failed")


async def drain(rtt_ms: int, limit: float, events: int = EVENTS) -> None:
    devices = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(DEVICES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cloud = CloudProcess(folder, rtt_ms=rtt_ms)
        async with GatewayProcess(folder, cloud.grpc_port, devices=devices) as gateway:
            await fill(gateway.port, events)
            async with cloud:
                started_s = first_s = 0.0
                left = events
                while left:
                    await asyncio.sleep(0.05)
                    state = await cloud.state()
                    if not first_s and state["events_received"]:
                        first_s = time.monotonic()
                        started_s = first_s
                        base = state["events_received"]
                    left = events - state["events_received"]
                took_s = time.monotonic() - started_s
                figure(
                    f"drain of {events:,} queued events, RTT {rtt_ms} ms",
                    (events - base) / took_s,
                    "events/s",
                    at_least=limit,
                )
                note(f"duplicates {state['duplicates']}, out of order {state['out_of_order']}")


async def main() -> None:
    await drain(0, 20_000)
    await drain(100, 5_000)


if __name__ == "__main__":
    asyncio.run(main())
