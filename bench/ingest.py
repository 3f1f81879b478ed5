"""MQTT QoS 1 → rules → SQLite FULL commit → PUBACK: 20 and 1,000 clients, 3.1.1 and 5.0, beside others, one run.

Stock amqtt and Mosquitto acknowledge what is in memory. The bare loop (`bench.bare_loop`) commits the same rows and
does nothing else: the limit of one Python process where many publishes share a commit. All share the machine with
their load, so ratios are of this machine.

    python -m bench.ingest [seconds]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from bench.broker_peers import bare_loop, mosquitto, mosquitto_path, stock_amqtt
from bench.report import figure, note
from tests.e2e.parts import GatewayProcess

CLIENTS, MANY_CLIENTS = 20, 1_000
SECONDS = 5.0
WINDOW, WINDOW_OF_MANY = 50, 2
LIMIT = 30_000.0
VERSIONS = {"3.1.1": 4, "5.0": 5}


async def load(
    port: int,
    *,
    seconds: float = SECONDS,
    clients: int = CLIENTS,
    window: int = WINDOW,
    rate: float | None = None,
    version: int = 4,
) -> dict[str, float]:
    """Run the publishers in a process of their own."""
    arguments = ["-m", "bench.mqtt_load", "--port", str(port), "--clients", str(clients), "--seconds", str(seconds)]
    arguments += ["--window", str(window), "--version", str(version)]
    if rate:
        arguments += ["--rate", str(rate)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load ended with {process.returncode}")
    answered, took_s, per_s, p50_ms, p99_ms = (float(word) for word in out.split())
    return {"answered": answered, "seconds": took_s, "rate": per_s, "p50_ms": p50_ms, "p99_ms": p99_ms}


async def _rows(port: int, seconds: float) -> dict[str, dict[str, float]]:
    """Each of the loads, one after the other."""
    found: dict[str, dict[str, float]] = {}
    for name, version in VERSIONS.items():
        few = await load(port, seconds=seconds, version=version)
        many = await load(port, seconds=seconds, clients=MANY_CLIENTS, window=WINDOW_OF_MANY, version=version)
        found[f"{CLIENTS} clients, {name}"], found[f"{MANY_CLIENTS:,} clients, {name}"] = few, many
    found["1 client, window 1"] = await load(port, seconds=min(seconds, 3.0), clients=1, window=1)
    return found


async def ours(folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    devices = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(MANY_CLIENTS)]
    async with GatewayProcess(folder, None, devices=devices) as gateway:
        await load(gateway.port, seconds=1)
        return await _rows(gateway.port, seconds)


async def peers(folder: Path, seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    async with bare_loop(folder) as port:
        found["bare loop, SQLite FULL"] = await _rows(port, seconds)
    async with stock_amqtt(folder) as port:
        row = await load(port, seconds=seconds)  # it knows 3.1.1 only
        found["stock amqtt, nothing stored"] = {f"{CLIENTS} clients, 3.1.1": row}
    if (path := mosquitto_path()) is not None:
        async with mosquitto(folder, path, persistence=False) as port:
            found["Mosquitto, nothing stored"] = await _rows(port, seconds)
        async with mosquitto(folder, path, persistence=True) as port:
            row = await load(port, seconds=seconds)
            found["Mosquitto, queued, saved each second"] = {f"{CLIENTS} clients, 3.1.1": row}
    return found


async def main(seconds: float = SECONDS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        others = await peers(Path(folder), seconds)
        mine = await ours(Path(folder), seconds)
    for name, result in mine.items():
        is_goal = name.startswith(f"{CLIENTS} ")
        figure(
            f"QoS 1 → rules → SQLite FULL → PUBACK, {name}",
            result["rate"],
            "msg/s",
            at_least=LIMIT if is_goal else None,
        )
        note(f"PUBACK latency p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms")
        for other, rows in others.items():
            if (row := rows.get(name)) is not None:
                note(
                    f"{other}: {row['rate']:,.0f} msg/s, p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms;"
                    f" ratio {result['rate'] / row['rate']:.2f}"
                )
    note(f"{CLIENTS} clients with {WINDOW} open each, {MANY_CLIENTS:,} with {WINDOW_OF_MANY}; {seconds:g} s each")


if __name__ == "__main__":
    asyncio.run(main(*(float(word) for word in sys.argv[1:2])))
