"""HTTP POST → rules → SQLite FULL commit → 200 on keep-alive connections, beside the same server storing nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from bench.report import figure, note
from gateway.config import HttpConfig
from gateway.demo.processes import Process, free_port, until_listening
from gateway.supervise import Counters, SystemClock
from gateway.web import DeviceHttp
from tests.e2e.parts import GatewayProcess
from tests.fakes.inlet import FakeInlet

CONNECTIONS = 32
SECONDS = 3.0
LIMIT_RATIO = 0.5
"""Of what the server reaches without rules and without a disk."""


async def client(port: int, token: str, until_s: float, took_s: list[float]) -> None:
    """One device on one connection: the next reading follows the answer to the last one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"temperature":21.5,"pressure":1013,"running":true}'
    head = f"POST /api/v1/{token}/telemetry HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    while (start_s := time.perf_counter()) < until_s:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(answer.decode())
        took_s.append(time.perf_counter() - start_s)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def load(port: int, seconds: float, connections: int) -> tuple[float, float, float]:
    """Requests per second, p50 and p99 in milliseconds; a process of its own asks."""
    arguments = ["-m", "bench.http_ingest", "load", str(port), str(seconds), str(connections)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load ended with {process.returncode}")
    rate, p50_ms, p99_ms = (float(word) for word in out.split())
    return rate, p50_ms, p99_ms


async def run_load(port: int, seconds: float, connections: int) -> None:
    took_s: list[float] = []
    start_s = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for number in range(connections):
            clients.create_task(client(port, f"token-{number}", start_s + seconds, took_s))
    spent_s = time.perf_counter() - start_s
    took_s.sort()
    p50_s, p99_s = (took_s[int(len(took_s) * share)] for share in (0.5, 0.99))
    sys.stdout.write(f"{len(took_s) / spent_s} {p50_s * 1000} {p99_s * 1000}\n")


async def run_peer(port: int) -> None:
    """The same server in front of nothing."""
    inlet = FakeInlet("next_turn")
    for number in range(CONNECTIONS):
        inlet.add_device(f"D{number}", f"token-{number}")
    await DeviceHttp(HttpConfig(host="127.0.0.1", port=port), inlet, SystemClock(), Counters()).serve()


async def peer(folder: Path) -> tuple[float, float, float]:
    port = free_port()
    process = Process("peer", ["-m", "bench.http_ingest", "peer", str(port)], folder / "peer.log")
    await process.start()
    try:
        await until_listening(port, process)
        await load(port, 1.0, CONNECTIONS)
        return await load(port, SECONDS, CONNECTIONS)
    finally:
        await process.stop()


async def ours(folder: Path) -> tuple[float, float, float]:
    port = free_port()
    devices = [{"name": f"D{number}", "access_token": f"token-{number}"} for number in range(CONNECTIONS)]
    async with GatewayProcess(folder, None, devices=devices, http={"host": "127.0.0.1", "port": port}):
        await load(port, 1.0, CONNECTIONS)
        return await load(port, SECONDS, CONNECTIONS)


async def _ours(folder: Path, number: int) -> tuple[float, float, float]:
    fresh = folder / f"ours-{number}"
    fresh.mkdir()
    return await ours(fresh)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rounds = [(await peer(Path(folder)), await _ours(Path(folder), number)) for number in range(2)]
    bare = max(bare for bare, _ in rounds)  # in turns, and the better one: a neighbour's load hits either
    rate, p50_ms, p99_ms = max(own for _, own in rounds)
    figure(f"HTTP POST → rules → SQLite FULL → 200, {CONNECTIONS} connections", rate, "req/s")
    figure("  the same beside this server storing nothing", rate, "req/s", at_least=bare[0] * LIMIT_RATIO)
    note(f"without storing {bare[0]:,.0f} req/s: ratio {rate / bare[0]:.2f}, limit {LIMIT_RATIO}")
    note(f"latency p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms; without storing {bare[1]:.1f} and {bare[2]:.1f} ms")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["load", port_text, seconds_text, connections_text]:
            asyncio.run(run_load(int(port_text), float(seconds_text), int(connections_text)))
        case ["peer", port_text]:
            uvloop.run(run_peer(int(port_text)))
        case _:
            asyncio.run(main())
