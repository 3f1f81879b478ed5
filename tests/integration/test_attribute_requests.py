"""A real MQTT client asks the gateway for a shared attribute that only the (simulated) cloud knows."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from gateway.app import Gateway
from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.server import CloudSim
from gateway.config import BrokerConfig, CloudConfig, DeviceConfig, GatewayConfig
from gateway.demo.processes import free_port
from tests.e2e.parts import until

WAIT_S = 1.0


class Asker:
    """One MQTT connection; `ask` gives the answer and the seconds it took."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._answers: dict[int, asyncio.Future[object]] = {}
        self._listens = asyncio.Event()
        self._last = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.username_pw_set("tok")
        self._client.on_connect = lambda client, *_: client.subscribe("v1/devices/me/attributes/response/+", 1)
        self._client.on_subscribe = lambda *_: self._loop.call_soon_threadsafe(self._listens.set)
        self._client.on_message = lambda client, _, message: self._loop.call_soon_threadsafe(self._heard, message)
        self._client.connect_async("127.0.0.1", port)

    async def __aenter__(self) -> "Asker":
        self._client.loop_start()
        await asyncio.wait_for(self._listens.wait(), 5)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _heard(self, message: mqtt.MQTTMessage) -> None:
        self._answers[int(message.topic.rsplit("/", 1)[1])].set_result(json.loads(message.payload))

    async def ask(self, body: object) -> tuple[object, float]:
        self._last += 1
        self._answers[self._last] = self._loop.create_future()
        started_s = time.monotonic()
        self._client.publish(f"v1/devices/me/attributes/request/{self._last}", json.dumps(body), qos=1)
        return await asyncio.wait_for(self._answers[self._last], 10), time.monotonic() - started_s


@asynccontextmanager
async def house(folder):
    async with CloudSim(CloudSimOptions(http_port=None, devices=())) as sim:
        cloud = CloudConfig(
            host="127.0.0.1",
            port=sim.grpc_port,
            routing_key="demo-edge",
            routing_secret="demo-secret",
            attribute_wait_s=WAIT_S,
            reconnect_ms=100,
            reconnect_max_ms=200,
        )
        broker = BrokerConfig(host="127.0.0.1", port=free_port())
        device = DeviceConfig(name="Boiler", access_token="tok")
        gateway = Gateway(GatewayConfig(data_dir=folder, broker=broker, cloud=cloud, devices=(device,)))
        stop = asyncio.Event()
        running = asyncio.create_task(gateway.run(stop))
        try:
            await asyncio.wait_for(gateway.ready.wait(), 10)

            async def announced() -> bool:
                return sim.world.named("DEVICE", "Boiler") is not None

            await until(announced, 10, "the device did not reach the cloud")
            async with Asker(gateway.port) as asker:
                yield sim, gateway, asker
        finally:
            stop.set()
            await running


async def test_from_the_cloud_after_the_bound_and_at_once(tmp_path):
    async with house(tmp_path) as (sim, gateway, asker):
        boiler = sim.world.device_named("Boiler")

        # The cloud says nothing that we have not asked for: the value is only there.
        boiler.write_attributes("SHARED_SCOPE", {"target": 0, "is_on": False, "note": ""}, sim.now_ms())
        asked = gateway.counters.get("devices.attributes_asked")
        answer, _ = await asker.ask({"sharedKeys": "target,is_on,note"})
        assert answer == {"shared": {"target": 0, "is_on": False, "note": ""}}
        assert gateway.counters.get("devices.attributes_asked") == asked + 1

        # Asked a moment ago: what is missing now does not exist.
        answer, took_s = await asker.ask({"sharedKeys": "nobody_has_this,target"})
        assert answer == {"shared": {"target": 0}}
        assert took_s < 2 * WAIT_S

        # A new connection, and a cloud that does not answer.
        await sim.offline(0.1)
        await sim.wait_online()

        async def connected() -> bool:
            return gateway.counters.get("cloud.connects") == 2 and sim.is_edge_active

        await until(connected, 10, "no second connection")

        async def asks_again() -> bool:
            await asker.ask({"sharedKeys": "nobody_has_this"})
            return gateway.counters.get("devices.attributes_asked") == asked + 2

        started_s = time.monotonic()
        await until(asks_again, 10, "the new connection was not asked")
        assert time.monotonic() - started_s >= WAIT_S  # nobody answers for what does not exist

        # No cloud: at once.
        await sim.offline(60)

        async def is_away() -> bool:
            return not sim.is_listening

        await until(is_away, 5, "the cloud is still there")
        await asker.ask({"sharedKeys": "nobody_has_this"})  # the gateway hears of the end meanwhile
        _, took_s = await asker.ask({"sharedKeys": "nor_this,target"})
        assert took_s < WAIT_S / 2
