"""A hundred shared attributes change while the gateway, the device, or both are away: every key arrives once, newest."""

import asyncio
import json
from contextlib import asynccontextmanager

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.app import Gateway
from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.server import CloudSim
from gateway.config import BrokerConfig, CloudConfig, DeviceConfig, GatewayConfig
from gateway.demo.processes import free_port
from gateway.devices import refreshing
from tests.e2e.parts import until

KEYS = [f"set{number}" for number in range(100)]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(refreshing, "HOLD_S", 0.2)


class Listener:
    """One MQTT device; `heard`: every key and value it was told, in order."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.heard: list[tuple[str, object]] = []
        self._listens = asyncio.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.username_pw_set("tok")
        self._client.on_connect = lambda client, *_: client.subscribe("v1/devices/me/attributes", 1)
        self._client.on_subscribe = lambda *_: self._loop.call_soon_threadsafe(self._listens.set)
        self._client.on_message = lambda client, _, message: self._loop.call_soon_threadsafe(
            self.heard.extend, json.loads(message.payload).items()
        )
        self._client.connect_async("127.0.0.1", port)

    async def __aenter__(self) -> "Listener":
        self._client.loop_start()
        await asyncio.wait_for(self._listens.wait(), 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@asynccontextmanager
async def running(folder, sim, port, **cloud):
    options = {"reconnect_ms": 50, "reconnect_max_ms": 100, "routing_key": "demo-edge", "routing_secret": "demo-secret"}
    gateway = Gateway(
        GatewayConfig(
            data_dir=folder,
            broker=BrokerConfig(host="127.0.0.1", port=port),
            cloud=CloudConfig(host="127.0.0.1", port=sim.grpc_port, **options, **cloud),
            devices=(DeviceConfig(name="Boiler", access_token="tok"),),
        )
    )
    stop = asyncio.Event()
    task = asyncio.create_task(gateway.run(stop))
    try:
        await asyncio.wait_for(gateway.ready.wait(), 10)
        yield gateway
    finally:
        stop.set()
        await task


async def is_true(condition, what):
    async def ask():
        return condition()

    await until(ask, 20, what)


async def change(sim, rounds=2, **more):
    """Every key, again and again; were these changes stored for the edge?"""
    return [
        await sim.set_attributes("Boiler", "SHARED_SCOPE", {key: [number, n] for n, key in enumerate(KEYS)} | more)
        for number in range(rounds)
    ]


NEWEST = {key: [1, n] for n, key in enumerate(KEYS)}


@asynccontextmanager
async def known(folder):
    """A cloud that knows the device, which is up to date with `still` = 7; the gateway has stopped."""
    port = free_port()
    async with CloudSim(CloudSimOptions(http_port=None, devices=(), poll_s=0.05)) as sim:
        async with running(folder, sim, port) as gateway, Listener(port) as device:
            await is_true(lambda: sim.world.named("DEVICE", "Boiler"), "the device did not reach the cloud")
            await sim.set_attributes("Boiler", "SHARED_SCOPE", {"still": 7})
            await is_true(lambda: device.heard == [("still", 7)], "the first value did not come")
            assert gateway.counters.get("uplink.parked") == 0
        await is_true(lambda: not sim.is_edge_active, "the edge is still active")
        yield sim, port


async def round_done(gateway, sim):
    await is_true(
        lambda: gateway.counters.get("devices.attribute_rounds") and not len(sim.events), "no round was completed"
    )


@pytest.mark.parametrize("away", ["the gateway", "both", "both, and the device is back first"])
async def test_changes_while_the_gateway_is_away(tmp_path, away):
    async with known(tmp_path) as (sim, port):
        assert not any(await change(sim))  # the cloud keeps no such change for an edge that is away
        async with running(tmp_path, sim, port) as gateway:
            if away == "both":
                await round_done(gateway, sim)
            async with Listener(port) as device:
                await is_true(lambda: dict(device.heard) == NEWEST, "not all keys came")
                await round_done(gateway, sim)
                assert sorted(device.heard) == sorted(NEWEST.items())  # each once; `still` not again
        assert sim.state()["violations"] == []


async def test_changes_while_the_device_is_away(tmp_path):
    async with known(tmp_path) as (sim, port), running(tmp_path, sim, port) as gateway:
        await round_done(gateway, sim)
        assert all(await change(sim))
        await is_true(lambda: not len(sim.events), "the changes did not come down")
        async with Listener(port) as device:
            await is_true(lambda: dict(device.heard) == NEWEST, "not all keys came")
            assert sorted(device.heard) == sorted(NEWEST.items())


async def test_the_link_alone_is_away_and_nothing_is_asked_when_it_is_not_wanted(tmp_path):
    async with known(tmp_path) as (sim, port):
        async with running(tmp_path, sim, port) as gateway, Listener(port) as device:
            await round_done(gateway, sim)
            await sim.offline(1)
            await is_true(lambda: not sim.is_edge_active, "the edge is still active")
            assert not any(await change(sim))
            await sim.wait_online()
            await is_true(lambda: gateway.counters.get("devices.attribute_rounds") == 2, "no second round")
            await is_true(lambda: dict(device.heard) == NEWEST, "not all keys came")
            assert sorted(device.heard) == sorted(NEWEST.items())
        await is_true(lambda: not sim.is_edge_active, "the edge is still active")
        await change(sim, rounds=1)
        async with running(tmp_path, sim, port, refresh_attributes=False) as gateway, Listener(port) as device:
            await is_true(lambda: gateway.counters.get("cloud.connects") == 1 and sim.is_edge_active, "not connected")
            await sim.set_attributes("Boiler", "SHARED_SCOPE", {"mark": 1})
            await is_true(lambda: device.heard, "nothing came")
            assert device.heard == [("mark", 1)]
