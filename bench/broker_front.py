"""How many QoS 1 publishes a second one core carries through the front: parse, session, receipt, PUBACK.

The device room is a fake whose receipts are done on the next turn of the loop. Clients (20, window 50) run in
a process of their own. Limit to stand beside: 12,000 a second through the whole gateway on one core.

    python -m bench.broker_front [seconds] [--profile]
"""

import asyncio
import cProfile
import multiprocessing
import pstats
import sys
import time

import uvloop

from gateway.broker import MqttBroker, encode
from gateway.broker.packets import Connect
from gateway.config import BrokerConfig
from gateway.supervise import Counters, SystemClock
from tests.fakes.inlet import FakeInlet

CLIENTS, WINDOW = 20, 50
PAYLOAD = b'{"temperature":23.5,"humidity":41}'
TOPIC = "v1/devices/me/telemetry"


class Client(asyncio.Protocol):
    """Sends as many as it got answers for; counts PUBACKs by their size (4 bytes)."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.acked = 0
        self._rest = 4  # CONNACK
        self._packets = [encode.publish(4, TOPIC, PAYLOAD, 1, packet_id) for packet_id in range(1, WINDOW + 1)]
        self._next = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(encode.connect(Connect(version=4, user_name=self.token)) + self._take(WINDOW))

    def _take(self, count: int) -> bytes:
        start, self._next = self._next, (self._next + count) % WINDOW
        doubled = self._packets + self._packets
        return b"".join(doubled[start : start + count])

    def data_received(self, data: bytes) -> None:
        if self._rest:
            skipped = min(self._rest, len(data))
            self._rest -= skipped
            data = data[skipped:]
        self._bytes = getattr(self, "_bytes", 0) + len(data)
        count, self._bytes = divmod(self._bytes, 4)
        self.acked += count
        if count:
            self.transport.write(self._take(count))


def load(port: int, seconds: float, result: "multiprocessing.Queue[float]") -> None:
    async def run() -> float:
        loop = asyncio.get_running_loop()
        clients = []
        for number in range(CLIENTS):
            _, client = await loop.create_connection(lambda n=number: Client(f"token-{n}"), "127.0.0.1", port)
            clients.append(client)
        await asyncio.sleep(0.5)
        first, started = sum(c.acked for c in clients), time.perf_counter()
        await asyncio.sleep(seconds)
        rate = (sum(c.acked for c in clients) - first) / (time.perf_counter() - started)
        for client in clients:
            client.transport.abort()
        return rate

    result.put(uvloop.run(run()))


async def serve(seconds: float) -> tuple[float, float]:
    inlet = FakeInlet("next_turn")
    for number in range(CLIENTS):
        inlet.add_device(f"device-{number}", f"token-{number}")
    broker = MqttBroker(BrokerConfig(host="127.0.0.1", port=0), inlet, SystemClock(), Counters())
    serving = asyncio.create_task(broker.serve())
    await broker.ready.wait()
    result: multiprocessing.Queue[float] = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=load, args=(broker.port, seconds, result))
    process.start()
    cpu_s, seen = time.process_time(), 0
    while process.is_alive():
        await asyncio.sleep(0.1)
        for session in inlet.opened:
            seen += len(session.posted)
            session.posted.clear()
    cpu_s = time.process_time() - cpu_s
    rate = result.get()
    assert seen >= rate * seconds, "the clients counted more answers than the sessions saw messages"
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return rate, cpu_s


def main() -> None:
    numbers = [float(a) for a in sys.argv[1:] if not a.startswith("-")]
    seconds = numbers[0] if numbers else 5.0
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    if profile:
        profile.enable()
    rate, cpu_s = uvloop.run(serve(seconds))
    if profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    print(f"{rate:,.0f} msg/s with QoS 1, {CLIENTS} clients, window {WINDOW}; server used {cpu_s:.1f} s of CPU")


if __name__ == "__main__":
    main()
