"""Real processes and a line between them that goes wrong: what was acknowledged is in the cloud or parked, in order.

`EDGE_GATEWAY_WALK_SEED` and `EDGE_GATEWAY_WALK_STEPS` make another walk or a longer one, `EDGE_GATEWAY_CUTS` more cuts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.ordered import InOrderDevice
from tests.e2e.parts import CloudProcess, GatewayProcess, until
from tests.fakes.tcp_proxy import TcpProxy

STEPS: Final = int(os.environ.get("EDGE_GATEWAY_WALK_STEPS", "16"))
SEED: Final = int(os.environ.get("EDGE_GATEWAY_WALK_SEED", "2"))
CUTS: Final = int(os.environ.get("EDGE_GATEWAY_CUTS", "3"))
DEVICES: Final = 4
FIRST_TS_MS: Final = 1_700_000_000_000
POISON: Final = "poison"  # a key that the cloud refuses for ever
SHORT: Final = {
    "edge_version": "4.3.0",
    "timeout_ms": 1000,
    "keepalive_s": 1.0,
    "keepalive_timeout_s": 0.5,
    "answer_timeout_s": 1.0,
    "sync_timeout_s": 1.5,
    "probe_s": 2.0,
    "reconnect_ms": 50,
    "reconnect_max_ms": 200,
    "retry_interval_ms": 50,
    "max_retries": 3,
    "stats_interval_s": 0,
}
TRAFFIC_BOUND_S: Final = SHORT["answer_timeout_s"] * 1.5 + 2.0  # docs/cloud.md: 30 s with 20 s; and two slow cores
IDLE_BOUND_S: Final = SHORT["keepalive_s"] + SHORT["keepalive_timeout_s"] + 2.5
NO_FAULTS: Final = {
    "fail_once": None,
    "never_answer": None,
    "slow_ms": 0,
    "silent": False,
    "unavailable": False,
    "shuffle_answers": False,
    "rtt_ms": 0,
    "sync_never_completes": False,
    "sync_fails_after": None,
}
FAULTS: Final = (
    {"fail_once": "*"},
    {"never_answer": "*"},
    {"slow_ms": 15},
    {"silent": True},
    {"unavailable": True},
    {"shuffle_answers": True, "rtt_ms": 40},
    {"sync_never_completes": True},
    {"sync_fails_after": 1},
)
TO_THE_CLOUD: Final = (
    "/api/takeover",
    "/api/goaway?grace_s=0.1",
    "/api/reset-connections",
    "/api/end-session",
    "/api/offline?seconds=0.3",
    "/api/sync",
)


def reading(number: int) -> bytes:
    """Sent again it is the same reading: the time stamp belongs to the number."""
    return b'{"ts":%d,"values":{"seq":%d}}' % (FIRST_TS_MS + number, number)


def poisoned(number: int) -> bytes:
    return b'{"ts":%d,"values":{"poison":%d}}' % (FIRST_TS_MS + number, number)


class Plant:
    """A cloud, a line, a gateway, and devices that publish all the time."""

    def __init__(self, folder: Path, every_s: float) -> None:
        self.cloud = CloudProcess(folder, keep_values=100_000)
        self.line = TcpProxy(self.cloud.grpc_port)
        self._folder, self._every_s = folder, every_s
        self.devices: list[InOrderDevice] = []
        self._running: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Plant]:
        async with self.cloud, self.line.listening():
            known = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(DEVICES)]
            known.append({"name": "bad", "access_token": "token-bad"})
            async with GatewayProcess(self._folder, self.line.port, devices=known, cloud=SHORT) as self.gateway:
                try:
                    yield self
                finally:
                    for task in self._running:
                        task.cancel()
                    await asyncio.gather(*self._running, return_exceptions=True)

    def publish(self, *, with_poison: bool = False) -> None:
        for i in range(DEVICES):
            self._add(InOrderDevice(f"token-{i}", self.gateway.port, window=20, every_s=self._every_s, body=reading))
        if with_poison:
            self._add(InOrderDevice("token-bad", self.gateway.port, window=1, every_s=0.5, body=poisoned))

    def _add(self, device: InOrderDevice) -> None:
        self.devices.append(device)
        self._running.append(asyncio.create_task(device.run()))

    async def flows(self) -> None:
        """Every device has had an acknowledgement from now on."""
        marks = [device.acknowledged for device in self.devices]

        async def goes_on() -> bool:
            return all(device.acknowledged > mark for device, mark in zip(self.devices, marks, strict=True))

        await until(goes_on, 30, "devices get no acknowledgements")

    async def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return (await self.gateway.status())["cloud"]["state"] == "ready"
        return False

    async def settle(self) -> None:
        """Everything is acknowledged, nothing waits."""
        for device in self.devices:
            device.is_ending = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._running)

        async def is_drained() -> bool:
            return await self.gateway.pending() == 0

        await until(is_drained, 60, "the queue did not drain")

    async def check(self) -> None:
        """Each reading is in the cloud once, first in the order of its device; only poison is parked."""
        state = await self.cloud.state()
        assert (state["missing"], state["out_of_order"], state["violation_counts"]) == (0, 0, {}), state["violations"]
        for i, device in enumerate(self.devices[:DEVICES]):
            held = await self.cloud.call("GET", f"/api/devices/D{i}/telemetry?key=seq&limit=100000")
            effects = {(one["ts"], one["value"]) for one in held}
            assert effects == {(FIRST_TS_MS + number, number) for number in range(1, device.sent + 1)}
        parked: list[dict[str, Any]] = await self.gateway.ask("/events?status=parked&limit=1000")
        assert all(POISON in row["entityBody"] for row in parked)
        for device in self.devices[DEVICES:]:
            texts = " ".join(row["entityBody"] for row in parked)
            assert all(f'"{POISON}":{number}}}' in texts for number in range(1, device.sent + 1))


class Walk:
    """Random steps; the same ones for the same seed."""

    def __init__(self, plant: Plant, rng: random.Random) -> None:
        self._plant, self._rng = plant, rng
        self.steps: list[str] = []

    async def take(self, steps: int) -> None:
        names, weights = zip(*WEIGHTS.items(), strict=True)
        for _ in range(steps):
            name = self._rng.choices(names, weights)[0]
            self.steps.append(name)
            await getattr(self, name)()
            await asyncio.sleep(self._rng.random() * 0.5)  # the random moment of what comes next
            self._plant.gateway.process.check()

    async def kill(self) -> None:
        await self._plant.gateway.kill()
        await self._plant.gateway.start()
        await self._plant.flows()

    async def restart(self) -> None:
        await self._plant.gateway.process.stop()
        await self._plant.gateway.start()
        await self._plant.flows()

    async def cut(self) -> None:
        getattr(self._plant.line, self._rng.choice(("reset", "close")))()

    async def silence(self) -> None:
        line = self._plant.line
        line.is_up_silent, line.is_down_silent = self._rng.choice(((True, False), (False, True), (True, True)))

    async def hold(self) -> None:
        self._plant.line.is_held = True

    async def heal(self) -> None:
        self._plant.line.heal()
        await self._plant.cloud.call("POST", "/api/faults", NO_FAULTS)

    async def fault(self) -> None:
        await self._plant.cloud.call("POST", "/api/faults", self._rng.choice(FAULTS))

    async def tell_cloud(self) -> None:
        path = self._rng.choice(TO_THE_CLOUD)
        self.steps[-1] += path.partition("?")[0]
        with contextlib.suppress(AssertionError):  # refused while no edge is connected
            await self._plant.cloud.call("POST", path)


WEIGHTS: Final = {
    "kill": 3,
    "restart": 1,
    "cut": 4,
    "silence": 4,
    "hold": 2,
    "heal": 6,
    "fault": 5,
    "tell_cloud": 5,
}


@pytest.mark.server
@pytest.mark.slow
async def test_what_is_acknowledged_is_in_the_cloud_or_parked_wherever_a_walk_of_processes_leads(tmp_path):
    plant = Plant(tmp_path, every_s=0.02)
    walk = Walk(plant, random.Random(SEED))
    try:
        async with plant.open():
            await plant.cloud.call("POST", "/api/faults", {"fail_always": POISON})
            plant.publish(with_poison=True)
            await plant.flows()
            await walk.take(STEPS)
            await walk.heal()
            await plant.settle()
            await plant.check()
    except BaseException as error:
        error.add_note(f"EDGE_GATEWAY_WALK_SEED={SEED} EDGE_GATEWAY_WALK_STEPS={STEPS}; taken: {' '.join(walk.steps)}")
        raise


@pytest.mark.server
@pytest.mark.slow
async def test_a_line_that_is_cut_at_random_under_traffic_loses_and_doubles_nothing(tmp_path):
    rng = random.Random(SEED)
    plant = Plant(tmp_path, every_s=DEVICES / 100)  # 100 readings a second
    async with plant.open():
        plant.publish()
        await until(plant.is_ready, 15, "the link is not ready")
        for _ in range(CUTS):
            await asyncio.sleep(rng.random() * 0.5)  # the random moment
            before = plant.line.connections
            plant.line.black_hole()
            await asyncio.sleep(rng.random() * 1.5)  # how long the line is dead
            plant.line.heal()

            async def is_back(before: int = before) -> bool:
                return plant.line.connections > before and await plant.is_ready()

            await until(is_back, 15, "the link is not ready again")
        await plant.settle()
        await plant.check()
        assert plant.line.connections > CUTS


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("traffic", [True, False], ids=["under traffic", "idle"])
async def test_a_line_that_is_dead_in_one_direction_is_replaced_within_the_stated_time(tmp_path, traffic):
    plant = Plant(tmp_path, every_s=0.05)
    bound_s = TRAFFIC_BOUND_S if traffic else IDLE_BOUND_S
    async with plant.open():
        if traffic:
            plant.publish()
        await until(plant.is_ready, 15, "the link is not ready")
        for up, down in ((True, False), (False, True), (True, True)):
            before, began_s = plant.line.connections, time.monotonic()
            plant.line.is_up_silent, plant.line.is_down_silent = up, down
            await asyncio.sleep(1.2)  # longer than the time between two signs of life: something is swallowed
            plant.line.heal()

            async def is_back(before: int = before) -> bool:
                return plant.line.connections > before and await plant.is_ready()

            await until(is_back, 15, f"up silent: {up}, down silent: {down}")
            took_s = time.monotonic() - began_s
            assert took_s < bound_s, f"up silent: {up}, down silent: {down}: {took_s:.1f} s"
        if traffic:
            await plant.settle()
            await plant.check()
