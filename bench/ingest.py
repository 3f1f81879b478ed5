"""MQTT QoS 1 → rules → SQLite FULL commit → PUBACK, 20 clients, beside stock amqtt that only acknowledges."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from bench.report import figure, note
from gateway.demo.processes import Process, free_port, until_listening
from tests.e2e.parts import GatewayProcess

CLIENTS = 20
SECONDS = 10.0
WINDOW = 50
LIMIT = 12_000.0


async def load(
    port: int, *, seconds: float = SECONDS, clients: int = CLIENTS, window: int = WINDOW, rate: float | None = None
) -> dict[str, float]:
    """Run the publishers in a process of their own."""
    arguments = ["-m", "bench.mqtt_load", "--port", str(port), "--clients", str(clients), "--seconds", str(seconds)]
    arguments += ["--window", str(window)]
    if rate:
        arguments += ["--rate", str(rate)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load ended with {process.returncode}")
    answered, took_s, per_s, p50_ms, p99_ms = (float(word) for word in out.split())
    return {"answered": answered, "seconds": took_s, "rate": per_s, "p50_ms": p50_ms, "p99_ms": p99_ms}


async def stock_amqtt(folder: Path) -> dict[str, float]:
    port = free_port()
    process = Process("amqtt", ["-m", "bench.stock_amqtt", str(port)], folder / "amqtt.log")
    await process.start()
    try:
        await until_listening(port, process)
        return await load(port)
    finally:
        await process.stop()


async def ours(folder: Path) -> dict[str, float]:
    devices = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(CLIENTS)]
    async with GatewayProcess(folder, None, devices=devices) as gateway:
        await load(gateway.port, seconds=2)
        return await load(gateway.port)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        peer = await stock_amqtt(Path(folder))
        result = await ours(Path(folder))
    figure("MQTT QoS 1 → rules → SQLite FULL → PUBACK, 20 clients", result["rate"], "msg/s", at_least=LIMIT)
    figure(
        "  the same beside stock amqtt (acknowledges, stores nothing)", result["rate"], "msg/s", at_least=peer["rate"]
    )
    note(f"PUBACK latency p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms with {CLIENTS} × {WINDOW} open")


if __name__ == "__main__":
    asyncio.run(main())
