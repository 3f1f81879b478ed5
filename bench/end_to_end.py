"""MQTT → rules → queue → gRPC → simulated cloud, 60 s at a steady rate: the backlog must not grow."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bench.ingest import load
from bench.report import figure, note
from tests.e2e.parts import CloudProcess, GatewayProcess, until

CLIENTS = 20
SECONDS = 60.0
LIMIT = 5_000.0
OFFERED = 10_000.0


async def main(offered: float = OFFERED, seconds: float = SECONDS) -> None:
    devices = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(CLIENTS)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        async with CloudProcess(folder) as cloud, GatewayProcess(folder, cloud.grpc_port, devices=devices) as gateway:

            async def ready() -> bool:
                return (await gateway.status())["cloud"]["state"] == "ready" and await gateway.pending() == 0

            await until(ready, 30, "the link is not ready")
            before = (await cloud.state())["events_received"]
            backlog: list[int] = []
            loading = asyncio.create_task(load(gateway.port, seconds=seconds, rate=offered))
            while not loading.done():
                await asyncio.wait([loading], timeout=2)
                backlog.append(await gateway.pending())
            sent = await loading
            arrived = (await cloud.state())["events_received"] - before
            figure(
                f"end to end to the cloud, sustained for {seconds:.0f} s",
                arrived / sent["seconds"],
                "msg/s",
                at_least=LIMIT,
            )
            half = len(backlog) // 2
            first, second = sum(backlog[:half]) / half, sum(backlog[half:]) / (len(backlog) - half)
            note(f"offered {sent['rate']:,.0f}/s; backlog on average {first:,.0f} events in the first half,")
            note(f"{second:,.0f} in the second; at the end {backlog[-1]:,}; PUBACK p99 {sent['p99_ms']:.1f} ms")
            state = await cloud.state()
            note(f"duplicates {state['duplicates']}, out of order {state['out_of_order']}")


if __name__ == "__main__":
    asyncio.run(main())
