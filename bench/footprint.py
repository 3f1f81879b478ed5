"""From start to the first accepted publish; resident memory idle and with 500 connected devices."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from bench.mqtt_load import Publisher, run_load
from bench.report import figure
from tests.e2e.parts import CloudProcess, GatewayProcess, until

DEVICES = 500


async def first_publish(gateway: GatewayProcess) -> float:
    """Seconds from the start of the process to the PUBACK of a publish."""
    started_s = time.perf_counter()
    gateway.process = gateway._new_process()
    await gateway.process.start()
    while True:
        gateway.process.check()
        try:
            await run_load(gateway.port, ["token-0"], per_client=1, window=1)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            return time.perf_counter() - started_s


async def main() -> None:
    devices = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(DEVICES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with CloudProcess(folder) as cloud:
            gateway = GatewayProcess(folder, cloud.grpc_port, devices=devices)
            try:
                figure(
                    "start to the first accepted publish, new database", await first_publish(gateway), "s", at_most=2.0
                )

                async def idle() -> bool:
                    return (await gateway.status())["cloud"]["state"] == "ready" and await gateway.pending() == 0

                await until(idle, 60, "the link is not ready")
                await gateway.process.stop()
                figure("start to the first accepted publish, again", await first_publish(gateway), "s", at_most=2.0)
                await until(idle, 60, "the link is not ready")
                figure(
                    "resident memory idle, cloud connected", gateway.process.sample_memory() / 1e6, "MB", at_most=90.0
                )
                loop = asyncio.get_running_loop()
                clients = []
                for i in range(DEVICES):
                    client = Publisher(f"token-{i}", "v1/devices/me/telemetry", 20, 5, None)
                    await loop.create_connection(lambda client=client: client, "127.0.0.1", gateway.port)
                    clients.append(client)
                await asyncio.gather(*(client.connected for client in clients))
                for client in clients:
                    client.start()
                await asyncio.gather(*(client.done for client in clients))
                await until(idle, 60, "the queue did not drain")
                resident = gateway.process.sample_memory() / 1e6
                figure(
                    f"resident memory, {DEVICES} connected devices after 20 readings each",
                    resident,
                    "MB",
                    at_most=150.0,
                )
            finally:
                await gateway.process.stop()


if __name__ == "__main__":
    asyncio.run(main())
