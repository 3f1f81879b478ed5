"""One publisher, many subscribers: deliveries a second of local topics, beside amqtt as it comes, in the same run.

The publisher sends QoS 1 with a window of 50, the subscribers listen with QoS 0 and count. `kept`: the subscribers
have persistent sessions. Server and load have a process each; the device room is a fake.

    python -m bench.local_pubsub [seconds]
"""

import asyncio
import subprocess
import sys
import time

import uvloop

from bench.report import figure
from gateway.broker import MqttBroker, encode
from gateway.broker.packets import Connect
from gateway.config import BrokerConfig
from gateway.demo.processes import free_port
from gateway.supervise import Counters, SystemClock
from tests.fakes.inlet import FakeInlet

WINDOW, TOPIC, PAYLOAD = 50, "plant/pump/speed", bytes(64)
_DELIVERY = len(encode.publish(4, TOPIC, PAYLOAD))
_PUBACK, _CONNACK, _SUBACK = 4, 4, 5


class Subscriber(asyncio.Protocol):
    def __init__(self, name: str, is_kept: bool) -> None:
        self.size = 0
        self._hello = encode.connect(Connect(version=4, client_id=name, user_name=name, is_clean=not is_kept))
        self._hello += encode.subscribe(4, 1, [(TOPIC, 0)])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        self.size += len(data)

    @property
    def is_ready(self) -> bool:
        return self.size >= _CONNACK + _SUBACK


class Publisher(asyncio.Protocol):
    def __init__(self) -> None:
        self.is_open = True
        self._size = -_CONNACK
        self._packets = [encode.publish(4, TOPIC, PAYLOAD, 1, number) for number in range(1, WINDOW + 1)] * 2
        self._next = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(encode.connect(Connect(version=4, client_id="says", user_name="says")) + self._take(WINDOW))

    def _take(self, count: int) -> bytes:
        start, self._next = self._next, (self._next + count) % WINDOW
        return b"".join(self._packets[start : start + count])

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        count, self._size = divmod(self._size, _PUBACK)
        if count > 0 and self.is_open:
            self.transport.write(self._take(count))


async def load(port: int, subscribers: int, seconds: float, is_kept: bool) -> float:
    loop = asyncio.get_running_loop()
    hears = []
    for number in range(subscribers):
        _, one = await loop.create_connection(lambda n=number: Subscriber(f"hears-{n}", is_kept), "127.0.0.1", port)
        hears.append(one)
    async with asyncio.timeout(20):
        while not all(one.is_ready for one in hears):
            await asyncio.sleep(0.05)
    _, says = await loop.create_connection(Publisher, "127.0.0.1", port)
    await asyncio.sleep(0.5)
    before, started_s = sum(one.size for one in hears), time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (sum(one.size for one in hears) - before) / _DELIVERY / (time.perf_counter() - started_s)
    for one in (says, *hears):
        one.transport.abort()
    return rate


async def serve(port: int) -> None:
    inlet = FakeInlet("next_turn")
    for name in ("says", *(f"hears-{number}" for number in range(100))):
        inlet.add_device(name, name)
    await MqttBroker(BrokerConfig(host="127.0.0.1", port=port), inlet, SystemClock(), Counters()).serve()


async def _ready(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def measured(module: list[str], subscribers: int, seconds: float, *, is_kept: bool = False) -> float:
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", *module, str(port)], stderr=subprocess.DEVNULL)

    async def run() -> float:
        await _ready(port)
        return await load(port, subscribers, seconds, is_kept)

    try:
        return uvloop.run(run())
    finally:
        server.kill()
        server.wait()


def main() -> None:
    seconds = next((float(one) for one in sys.argv[1:] if one.replace(".", "").isdigit()), 2.0)
    for subscribers in (10, 100):
        peer = measured(["bench.stock_amqtt"], subscribers, seconds)
        ours = ["bench.local_pubsub", "--serve"]
        figure(f"amqtt as it comes, {subscribers} subscribers", peer, "msg/s")
        figure(f"local topics, {subscribers} subscribers", measured(ours, subscribers, seconds), "msg/s", at_least=peer)
        kept = measured(ours, subscribers, seconds, is_kept=True)
        figure(f"local topics, {subscribers} subscribers with a session", kept, "msg/s", at_least=peer)


if __name__ == "__main__":
    if "--serve" in sys.argv:
        uvloop.run(serve(int(sys.argv[-1])))
    else:
        main()
