"""A million events wait while the cloud is away: how fast they go up, and what does not wait for them.

    python -m bench.million [drain|rpc|live …] [events] [rtt_ms …]

The real gateway process and the simulated cloud in another; 20 devices. The queue is filled through the store's own
commit (`bench.ingest` measures the way in). Beside the goals stands the vendor's own strategy on the same simulator,
with few events where a round trip makes it slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from bench import vendor_strategy
from bench.drain import DEVICES
from bench.filled import fill
from bench.report import figure, note
from tests.e2e.parts import CloudProcess, GatewayProcess, until

EVENTS = 1_000_000
GOALS = {0.0: 40_000.0, 50.0: 20_000.0, 200.0: 8_000.0}
RPC_ADDED_MS = 50.0
LIVE_AGE_S = 3.0
MEMORY_MB = 150.0


@contextlib.asynccontextmanager
async def backlog(
    events: int, rtt_ms: float, **cloud_section: Any
) -> AsyncIterator[tuple[GatewayProcess, CloudProcess]]:
    """A gateway with so much in its queue, and a cloud that is still away."""
    devices = [{"name": f"D{i}", "access_token": f"token-{i}"} for i in range(DEVICES)]
    devices.append({"name": "Caller", "access_token": "token-caller"})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cloud = CloudProcess(folder, rtt_ms=rtt_ms)
        async with GatewayProcess(folder, cloud.grpc_port, devices=devices, cloud=cloud_section) as gateway:
            await fill(gateway, events, DEVICES)
            yield gateway, cloud


async def drain(events: int, rtt_ms: float) -> None:
    """Events a second from the first one that arrives to the last."""
    async with backlog(events, rtt_ms) as (gateway, cloud), cloud:
        started_s, base, state = 0.0, 0, await cloud.state()
        while state["events_received"] < events:
            await asyncio.sleep(0.05)
            state = await cloud.state()
            if not started_s and state["events_received"]:
                started_s, base = time.monotonic(), state["events_received"]
        rate = (events - base) / (time.monotonic() - started_s)
        figure(f"drain of {events:,} queued events, RTT {rtt_ms:g} ms", rate, "events/s", at_least=GOALS.get(rtt_ms))
        figure("the gateway's highest memory (RSS)", peak_mb(gateway.process.pid), "MB", at_most=MEMORY_MB)
        note(f"duplicates {state['duplicates']}, out of order {state['out_of_order']}, missing {state['missing']}")
    few = min(events, 2_000) if rtt_ms else min(events, 20_000)
    theirs = await vendor_strategy.measure(few, rtt_ms)
    figure(f"vendor's strategy: {few:,} events, RTT {rtt_ms:g} ms", theirs, "events/s")
    note(f"ours is {rate / theirs:,.1f} times as fast")


def peak_mb(pid: int) -> float:
    """The highest resident size that the process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Callee:
    """A device that answers every call at once."""

    def __init__(self, port: int, token: str) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="callee")
        self._client.username_pw_set(token)
        self._client.on_connect = lambda client, *_: client.subscribe("v1/devices/me/rpc/request/+", 1)
        self._client.on_message = self._answer
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _answer(self, client: Any, userdata: Any, message: Any) -> None:
        number = message.topic.rpartition("/")[2]
        client.publish(f"v1/devices/me/rpc/response/{number}", message.payload, qos=1)

    def publish(self, values: dict[str, Any]) -> None:
        """Telemetry."""
        self._client.publish("v1/devices/me/telemetry", json.dumps(values), qos=1)

    def stop(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()


async def calls(cloud: CloudProcess, gateway: GatewayProcess, *, is_busy: bool, count: int = 200) -> list[float]:
    """Round trips in ms, one after the other; while busy only those that ended before the backlog did."""
    took: list[float] = []
    while len(took) < count:
        started_s = time.perf_counter()
        await cloud.call("POST", "/api/devices/Caller/rpc", {"method": "echo", "params": {"n": len(took)}})
        took.append((time.perf_counter() - started_s) * 1000)
        if is_busy and len(took) % 10 == 0 and await gateway.pending() < 1000:
            break
    return sorted(took)


async def rpc(events: int, rtt_ms: float = 50.0) -> None:
    """What a waiting backlog adds to a call through an MQTT device."""
    async with backlog(events, rtt_ms) as (gateway, cloud):
        callee = Callee(gateway.port, "token-caller")
        try:
            async with cloud:

                async def is_known() -> bool:
                    return bool(await cloud.device("Caller"))

                await until(is_known, 60, "the device is not in the cloud")
                busy = await calls(cloud, gateway, is_busy=True)

                async def is_drained() -> bool:
                    return await gateway.pending() == 0

                await until(is_drained, 600, "the queue does not drain")
                idle = await calls(cloud, gateway, is_busy=False)
        finally:
            callee.stop()
    p99 = [times[min(len(times) - 1, len(times) * 99 // 100)] for times in (busy, idle)]
    figure(f"RPC p99 added by {events:,} waiting events", max(0.0, p99[0] - p99[1]), "ms", at_most=RPC_ADDED_MS)
    note(
        f"{len(busy)} calls while draining: p99 {p99[0]:.1f} ms; {len(idle)} when idle: {p99[1]:.1f} ms;"
        f" RTT {rtt_ms:g} ms"
    )


async def live(events: int, rtt_ms: float = 200.0) -> None:
    """`live_first`: when the cloud has a new value, counted from the moment the link was ready again.

    The device goes on publishing: it is new to the simulator, and its creation is the first thing in the backlog.
    Once after an outage in which the gateway ran, and so has looked through what waits; once right after a start.
    """
    for is_restart in (False, True):
        async with backlog(events, rtt_ms, drain="live_first") as (gateway, cloud):
            device = Callee(gateway.port, "token-0")
            try:

                async def has_looked(gateway: GatewayProcess = gateway) -> bool:
                    return bool((await gateway.status())["uplink"]["main"]["looked_through"] >= events)

                if not is_restart:
                    await until(has_looked, 120, "it has not looked through what waits")
                age_s, waiting = await _age_of_a_live_value(gateway, cloud, device)
            finally:
                device.stop()
        when = "a start" if is_restart else "an outage"
        figure(f"age of the first live value after {when}, RTT {rtt_ms:g} ms", age_s, "s", at_most=LIVE_AGE_S)
        note(f"{waiting:,} of {events:,} events still waited when it arrived")


async def _age_of_a_live_value(gateway: GatewayProcess, cloud: CloudProcess, device: Callee) -> tuple[float, int]:
    async with cloud:

        async def is_ready() -> bool:
            return bool((await gateway.status())["cloud"]["state"] == "ready")

        await until(is_ready, 60, "the link is not ready")
        started_s = time.monotonic()

        async def has_arrived() -> bool:
            device.publish({"fresh": 1})
            return "fresh" in json.dumps(await cloud.device("D0"))

        await until(has_arrived, 600, "the new value did not arrive")
        return time.monotonic() - started_s, await gateway.pending()


PARTS = ("drain", "rpc", "live")


async def main(parts: tuple[str, ...] = PARTS, events: int = EVENTS, rtts_ms: tuple[float, ...] | None = None) -> None:
    """Every figure with its goal."""
    if "drain" in parts:
        for rtt_ms in rtts_ms or tuple(GOALS):
            await drain(events, rtt_ms)
    if "rpc" in parts:
        for rtt_ms in rtts_ms or (50.0,):
            await rpc(events, rtt_ms)
    if "live" in parts:
        for rtt_ms in rtts_ms or (200.0,):
            await live(events, rtt_ms)


if __name__ == "__main__":
    numbers = [argument for argument in sys.argv[1:] if argument not in PARTS]
    asyncio.run(
        main(
            tuple(argument for argument in sys.argv[1:] if argument in PARTS) or PARTS,
            int(numbers[0]) if numbers else EVENTS,
            tuple(float(number) for number in numbers[1:]) or None,
        )
    )
