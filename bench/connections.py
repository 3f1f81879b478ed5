"""What a connection costs: memory of idle ones, connects a second, and PUBACK times of many slow publishers.

Idle connections (1,000, and 5,000 where open files allow it) beside stock amqtt with 1,000; limit 20 kB each. Then
2,000 devices with one QoS 1 message a second each: p99 of the PUBACK and the CPU that the front needs. The clients
run in a process of their own, the device room is a fake whose receipts are done on the next turn of the loop.

    python -m bench.connections [--seconds 20] [--full] [--trace]

`--full` is five minutes; `--trace` shows which lines hold the memory (tracemalloc).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import resource
import socket
import subprocess
import sys
import time
import tracemalloc
from multiprocessing.connection import Connection as Pipe

import psutil
import uvloop

from bench.mqtt_load import connect_packet
from gateway.broker import MqttBroker, encode
from gateway.config import BrokerConfig
from gateway.supervise import Counters, SystemClock
from tests.fakes.inlet import FakeInlet

LIMIT_KB = 20.0
FLOOD_LIMIT_KB = 40.0  # one read, and what the allocator adds
PUBLISHERS = 2000
PAYLOAD = b'{"temperature":23.5}'


class Client(asyncio.Protocol):
    """Connects; publishes when it is told to."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.is_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_s = 0.0
        self.took_s: list[float] = []
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(connect_packet(self.token, self.token))

    def data_received(self, data: bytes) -> None:
        if not self.is_up.done():
            self.is_up.set_result(None)
        elif data[0] == 0x40:
            self.took_s.append(time.perf_counter() - self.sent_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def publish(self) -> None:
        self.sent_s = time.perf_counter()
        self.transport.write(encode.publish(4, "v1/devices/me/telemetry", PAYLOAD, 1, 1))


def clients(port: int, count: int, seconds: float, pipe: Pipe) -> None:
    """`count` connections; then quiet until told to go, publishing for `seconds`, or (negative) flooding."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        all_ = []
        for first in range(0, count, 100):
            batch = range(first, min(first + 100, count))
            made = await asyncio.gather(
                *(loop.create_connection(lambda n=n: Client(f"token-{n}"), "127.0.0.1", port) for n in batch)
            )
            all_ += [client for _, client in made]
            await asyncio.gather(*(client.is_up for _, client in made))
        pipe.send(count / (time.perf_counter() - started))
        if not seconds:
            await loop.run_in_executor(None, pipe.recv)
        elif seconds < 0:
            await loop.run_in_executor(None, pipe.recv)
            one = encode.publish(4, "v1/devices/me/telemetry", PAYLOAD)
            for client in all_:
                client.transport.write(one * 10_000)
            await loop.run_in_executor(None, pipe.recv)
        else:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                second = time.perf_counter()
                for number, client in enumerate(all_):  # spread over the second
                    client.publish()
                    if number % 20 == 19:
                        wait = second + number / count - time.perf_counter()
                        await asyncio.sleep(max(0.0, wait))
            await asyncio.sleep(0.5)
            took = sorted(one for client in all_ for one in client.took_s)
            lost = sum(client.is_lost for client in all_)
            pipe.send((len(took), took[len(took) // 2], took[len(took) * 99 // 100], lost))
        for client in all_:
            client.transport.abort()

    uvloop.run(run())


def _start(port: int, count: int, seconds: float) -> tuple[multiprocessing.Process, Pipe]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=clients, args=(port, count, seconds, theirs))
    process.start()  # type: ignore[attr-defined]
    return process, ours  # type: ignore[return-value]


async def front(count: int, seconds: float, is_traced: bool) -> None:
    inlet = FakeInlet("next_turn")
    for number in range(count):
        inlet.add_device(f"device-{number}", f"token-{number}")
    broker = MqttBroker(BrokerConfig(host="127.0.0.1", port=0), inlet, SystemClock(), Counters())
    serving = asyncio.create_task(broker.serve())
    await broker.ready.wait()
    loop = asyncio.get_running_loop()
    if is_traced:
        tracemalloc.start(1)
    gc.collect()
    before = psutil.Process().memory_info().rss
    process, pipe = _start(broker.port, count, seconds)
    rate = await loop.run_in_executor(None, pipe.recv)
    gc.collect()
    each_kb = (psutil.Process().memory_info().rss - before) / count / 1000
    verdict = "" if each_kb <= LIMIT_KB else " OVER THE LIMIT"
    print(f"{count:,} idle connections: {each_kb:.1f} kB each (limit {LIMIT_KB:g}){verdict}; {rate:,.0f} connects/s")
    if is_traced:
        for line in tracemalloc.take_snapshot().statistics("lineno")[:30]:
            print(f"  {line.size / count:8.0f} B/connection  {line.traceback[0].filename}:{line.traceback[0].lineno}")
        tracemalloc.stop()
    if seconds:
        cpu_s, started = time.process_time(), time.perf_counter()
        answer = loop.run_in_executor(None, pipe.recv)
        while not answer.done():
            await asyncio.wait([answer], timeout=1)
            for session in inlet.opened:
                session.posted.clear()
        count_, p50_s, p99_s, lost = answer.result()
        cpu = (time.process_time() - cpu_s) / (time.perf_counter() - started)
        print(
            f"{count:,} devices, one message a second each, {seconds:g} s: {count_:,} answers,"
            f" p50 {p50_s * 1000:.1f} ms, p99 {p99_s * 1000:.1f} ms, {cpu:.0%} of a core, {lost} connections lost"
        )
    else:
        pipe.send(None)
    await loop.run_in_executor(None, process.join)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def flood(count: int) -> None:
    """Everybody sends without end while the disk is behind: what is read and not handled must stay small."""
    inlet = FakeInlet("next_turn")
    for number in range(count):
        inlet.add_device(f"device-{number}", f"token-{number}")
    broker = MqttBroker(BrokerConfig(host="127.0.0.1", port=0), inlet, SystemClock(), Counters())
    serving = asyncio.create_task(broker.serve())
    await broker.ready.wait()
    loop = asyncio.get_running_loop()
    process, pipe = _start(broker.port, count, -1)
    await loop.run_in_executor(None, pipe.recv)
    gc.collect()
    before = psutil.Process().memory_info().rss
    inlet.calm.clear()
    pipe.send(None)
    await asyncio.sleep(5)
    each_kb = (psutil.Process().memory_info().rss - before) / count / 1000
    verdict = "" if each_kb <= FLOOD_LIMIT_KB else " OVER THE LIMIT"
    print(
        f"{count:,} connections that flood while the disk is behind: {each_kb:.1f} kB more each"
        f" (limit {FLOOD_LIMIT_KB:g}){verdict}; {broker.connections():,} of them are still there"
    )
    pipe.send(None)
    await loop.run_in_executor(None, process.join)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def stock_amqtt(count: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "bench.stock_amqtt", str(port)])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        time.sleep(0.3)
        before = psutil.Process(server.pid).memory_info().rss
        process, pipe = _start(port, count, 0)
        if not pipe.poll(60):
            print(f"stock amqtt: {count:,} connections did not come up in 60 s")
        else:
            rate = pipe.recv()
            each_kb = (psutil.Process(server.pid).memory_info().rss - before) / count / 1000
            print(f"stock amqtt, {count:,} idle connections: {each_kb:.1f} kB each; {rate:,.0f} connects/s")
            pipe.send(None)
        process.join(5)
        if process.is_alive():
            process.kill()
    finally:
        server.kill()
        server.wait()


def _apart(count: int, seconds: float, is_traced: bool = False) -> None:
    """In a process of its own: memory that one run has left behind would hide the next one's."""
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(count, seconds, is_traced))
    process.start()
    process.join()


def _measure(count: int, seconds: float, is_traced: bool) -> None:
    uvloop.run(flood(count) if seconds < 0 else front(count, seconds, is_traced))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--idle-only", action="store_true")
    # Under `python -m bench` the arguments are names of benchmarks.
    options = parser.parse_args(sys.argv[1:] if sys.argv[0].endswith("connections.py") else [])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    _apart(1000, 0, options.trace)
    if hard >= 12_000:  # both ends
        _apart(5000, 0)
    if options.idle_only:
        return
    _apart(1000, -1)
    if options.full and hard >= 12_000:
        _apart(5000, -1)
    stock_amqtt(1000)
    _apart(PUBLISHERS, 300.0 if options.full else options.seconds)


if __name__ == "__main__":
    main()
