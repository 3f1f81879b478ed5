"""A real mosquitto, something behind it, and the room that is its client."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from gateway.broker.external import ExternalBroker
from gateway.broker.mapping_rules import load_sets
from gateway.config import BrokerConfig, ExternalBrokerConfig, MappingsConfig
from gateway.supervise import Backoff, Counters, SystemClock, supervise
from tests.e2e.parts import until
from tests.fakes.inlet import FakeInlet
from tests.integration.mosquitto import Mosquitto


class Device:
    """Something behind the broker: says, hears, and sends again what was not acknowledged."""

    def __init__(self, port: int, *filters: str, name: str = "", user: str | None = None) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.raw: dict[str, bytes] = {}
        self.acknowledged: set[int] = set()
        self._filters = filters
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=not name)
        if user is not None:
            self._client.username_pw_set(user, f"password of {user}")
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_publish = lambda c, u, mid, *_: self.acknowledged.add(mid)
        self._ready = False
        self._client.on_subscribe = lambda *_: setattr(self, "_ready", True)
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def _on_connect(self, client: Any, *_: Any) -> None:
        client.subscribe([(name, 1) for name in (*self._filters, "test/ready")])

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        self.raw[message.topic] = message.payload
        self.heard.append((message.topic, message.payload.decode("utf-8", "replace")))

    async def ready(self) -> "Device":
        await until(self._is_ready, 10, "no subscription")
        return self

    async def _is_ready(self) -> bool:
        return self._ready

    def say(self, topic: str, body: Any, qos: int = 1) -> int:
        return self._client.publish(topic, body if isinstance(body, str | bytes) else json.dumps(body), qos=qos).mid

    async def hears(self, topic: str) -> Any:
        async def found() -> bool:
            return any(heard == topic for heard, _ in self.heard)

        await until(found, 10, f"{topic} is not in {self.heard}")
        return next(payload for heard, payload in self.heard if heard == topic)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Room:
    def __init__(self, broker: Mosquitto, inlet: FakeInlet, packages: Any = None, **settings: Any) -> None:
        self.inlet, self.counters = inlet, Counters()
        mappings = MappingsConfig(sets=({"use": "tasmota"},))
        config = ExternalBrokerConfig(**{"host": "127.0.0.1", "port": broker.port} | settings)
        self.room = ExternalBroker(
            config,
            BrokerConfig(),
            mappings,
            load_sets(mappings),
            inlet,
            SystemClock(),
            self.counters,
            packages=packages,
        )

    def keep(self) -> "asyncio.Task[None]":
        """Served until it is cancelled."""
        backoff = Backoff(0.1, 0.3)
        return asyncio.create_task(
            supervise("outside", self.room.serve, backoff, SystemClock(), spells=self.room.spells)
        )

    @asynccontextmanager
    async def kept(self):
        serving = self.keep()
        try:
            yield self
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            assert serving.cancelled() or serving.exception() is None

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return self.room.ready.is_set()

        await until(is_ready, 10, "the room is not ready")

    async def until(self, condition: Any, what: str = "it does not happen") -> None:
        async def holds() -> bool:
            return bool(condition())

        await until(holds, 10, what)


@asynccontextmanager
async def house(tmp_path, receipts="at_once", mosquitto=(), packages=None, **settings):
    async with Mosquitto(tmp_path, *mosquitto) as broker:
        inlet = FakeInlet(receipts)
        inlet.add_device("external-broker", "secret", is_gateway=True)
        device = Device(broker.port, "edge/#", "cmnd/#", "v1/gateway/rpc", "v1/devices/me/rpc/response/+")
        try:
            async with Room(broker, inlet, packages, **settings).kept() as room:
                await room.ready()
                await device.ready()
                yield broker, room, device
        finally:
            device.stop()
