"""A running broker on a real socket, and a client that says exactly the bytes it is told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.broker import MqttBroker, encode
from gateway.broker.packets import Connack, Connect, Packet
from gateway.broker.wire import Decoder
from gateway.config import BrokerConfig
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.inlet import FakeInlet, FakeSession

PATIENCE_S = 5.0


class Peer:
    """A client. `receive` gives the next packet, or None when the broker has closed the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.reader, self.writer, self.version = reader, writer, version
        self.decoder = Decoder(1 << 24, version)

    @classmethod
    async def open(cls, port: int, version: int = 4) -> "Peer":
        return cls(*await asyncio.open_connection("127.0.0.1", port), version)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def publish(self, topic: str, payload: bytes, qos: int = 0, packet_id: int = 0) -> None:
        self.send(encode.publish(self.version, topic, payload, qos, packet_id))

    async def receive(self) -> Packet | None:
        async with asyncio.timeout(PATIENCE_S):
            while (packet := self.decoder.next_packet()) is None:
                try:
                    data = await self.reader.read(65_536)
                except ConnectionResetError:
                    return None
                if not data:
                    return None
                self.decoder.receive(data)
        return packet

    async def ping(self) -> list[Packet | None]:
        """Everything that arrives up to the answer to a ping, without it; None at the end: closed."""
        self.send(encode.PINGREQ)
        seen: list[Packet | None] = []
        while True:
            packet = await self.receive()
            if type(packet).__name__ == "Pingresp":
                return seen
            seen.append(packet)
            if packet is None:
                return seen


class Site:
    """A broker with its fake device room."""

    def __init__(self, broker: MqttBroker, inlet: FakeInlet, clock: FakeClock, counters: Counters) -> None:
        self.broker, self.inlet, self.clock, self.counters = broker, inlet, clock, counters
        self.peers: list[Peer] = []

    async def open(self, version: int = 4) -> Peer:
        peer = await Peer.open(self.broker.port, version)
        self.peers.append(peer)
        return peer

    async def connect(self, version: int = 4, token: str = "tok", **fields: Any) -> tuple[Peer, FakeSession]:
        peer = await self.open(version)
        if version == 3:
            fields.setdefault("client_id", "peer")
        peer.send(encode.connect(Connect(version=version, user_name=token, **fields)))
        connack = await peer.receive()
        assert isinstance(connack, Connack)
        assert connack.code == 0
        return peer, self.inlet.opened[-1]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def site(
    receipts: str = "at_once", *, committer: Any = None, kept: Any = (), inlet: FakeInlet | None = None, **settings: Any
) -> AsyncIterator[Site]:
    """A broker on a free port; device `pump` has the token `tok`, device `fan` the token `tok2`."""
    clock, counters = FakeClock(), Counters()
    if inlet is None:
        inlet = FakeInlet(receipts)
        inlet.add_device("pump", "tok")
        inlet.add_device("fan", "tok2")
    packages, rates = settings.pop("packages", None), settings.pop("rates", None)
    config = BrokerConfig(host="127.0.0.1", port=0, **settings)
    broker = MqttBroker(config, inlet, clock, counters, committer, kept, rates)
    broker.packages = packages
    serving = asyncio.create_task(broker.serve())
    await asyncio.wait(
        [serving, asyncio.create_task(broker.ready.wait())], return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S
    )
    here = Site(broker, inlet, clock, counters)
    try:
        yield here
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        for peer in here.peers:
            peer.writer.close()
            try:
                await peer.writer.wait_closed()
            except OSError:
                assert peer.writer.is_closing()
        if not serving.cancelled() and serving.exception() is not None:
            raise serving.exception()
