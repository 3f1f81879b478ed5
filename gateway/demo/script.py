"""What the demo shows, step by step. Exit code 0 only if nothing was lost."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import yaml
from rich.console import Console
from rich.table import Table

from gateway.demo.device import Thermostat
from gateway.demo.processes import Process, free_port, until_listening
from gateway.errors import TransientError
from gateway.status_view import LocalApiError, ask

READINGS_PER_S: Final = 20
OFFLINE_S: Final = 10
DEVICE: Final = "Demo thermostat"

console = Console(highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Latencies:
    """Milliseconds, one entry a try."""

    rpc: list[float] = field(default_factory=list)
    attribute: list[float] = field(default_factory=list)


class Cloud:
    """The simulated cloud's HTTP API."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; parsed JSON, None for an empty answer.

        Raises:
            TransientError: Any status but 200.
        """
        return await asyncio.to_thread(self._call, method, path, body)

    def _call(self, method: str, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        except OSError as error:
            raise TransientError(f"the simulated cloud does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise TransientError(f"{method} {path}: {response.status} {text.decode(errors='replace')[:300]}")
        return json.loads(text) if text else None

    async def device(self, name: str) -> dict[str, Any]:
        """What the cloud knows of a device; empty while it does not know it."""
        try:
            found: dict[str, Any] = await self.call("GET", f"/api/devices/{quote(name)}")
        except TransientError:
            return {}
        return found


class Demo:
    """One run. The parts are processes; the device is a thread of this one."""

    def __init__(self, folder: Path, seconds: int) -> None:
        self.folder, self.seconds = folder, seconds
        self.mqtt_port, self.modbus_port, self.grpc_port, self.http_port = (free_port() for _ in range(4))
        self.cloud = Cloud(self.http_port)
        self.socket = folder / "data" / "api.sock"
        self.latencies = Latencies()
        self.attribute_seen = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.plant = self._process("plant", ["-m", "drivers.simulator.plant", "--port", str(self.modbus_port)])
        self.sim = self._process(
            "cloud",
            [
                "-m",
                "gateway",
                "cloud-sim",
                "--grpc-port",
                str(self.grpc_port),
                "--http-port",
                str(self.http_port),
                "--no-view",
            ],
        )
        self.gateway = self._process("gateway", ["-m", "gateway", "run", "--config", str(self._write_config())])
        self.device: Thermostat | None = None
        self.peak_pending = 0
        self.is_shown = False  # all was shown and nothing was lost; only --keep goes on
        self.started_s = time.monotonic()

    def _process(self, name: str, arguments: list[str]) -> Process:
        return Process(name, arguments, self.folder / f"{name}.log")

    def _write_config(self) -> Path:
        from importlib.resources import files

        plant = yaml.safe_load(files("drivers.simulator").joinpath("plant.yaml").read_text())
        for bus in plant["buses"]:
            bus["port"] = self.modbus_port
        config = {
            "config_version": 1,
            "data_dir": str(self.folder / "data"),
            "broker": {"host": "127.0.0.1", "port": self.mqtt_port},
            "cloud": {
                "host": "127.0.0.1",
                "port": self.grpc_port,
                "routing_key": "demo-edge",
                "routing_secret": "demo-secret",
                "reconnect_ms": 500,
                "reconnect_max_ms": 2000,
            },
            "devices": [{"name": DEVICE, "profile": "thermostat", "access_token": "demo-token-thermostat"}],
            "buses": plant["buses"],
        }
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All parts up; ended in reverse order whatever happens."""
        try:
            await self.plant.start()
            await self.sim.start()
            await until_listening(self.modbus_port, self.plant)
            await until_listening(self.http_port, self.sim)
            began_s = time.monotonic()
            await self.gateway.start()
            await until_listening(self.mqtt_port, self.gateway)
            say("gateway", f"accepts devices {time.monotonic() - began_s:.2f} s after its start")
            self.device = Thermostat(self.mqtt_port, "demo-token-thermostat", 1 / READINGS_PER_S, self.on_attribute)
            self.device.start()
            yield
        finally:
            if self.device is not None:
                await asyncio.to_thread(self.device.stop)
            for process in (self.gateway, self.sim, self.plant):
                await process.stop()

    def on_attribute(self, values: dict[str, Any]) -> None:
        """The device heard of a shared attribute (called on paho's thread)."""
        self._loop.call_soon_threadsafe(self.attribute_seen.set)

    def check(self) -> None:
        """All parts are alive."""
        for process in (self.plant, self.sim, self.gateway):
            process.check()
        self.gateway.sample_memory()

    async def status(self) -> dict[str, Any]:
        """The gateway's own view."""
        try:
            answer: dict[str, Any] = await asyncio.to_thread(ask, self.socket, "/status")
        except LocalApiError as error:
            raise TransientError(str(error)) from None
        self.peak_pending = max(self.peak_pending, answer["queue"]["pending"])
        return answer

    async def until(self, what: str, condition: Any, timeout_s: float) -> Any:
        """Poll until the condition gives something true, which is returned."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self.check()
                    if result := await condition():
                        return result
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TransientError(f"after {timeout_s:g} s: {what}") from None

    async def progress(self, seconds: float, label: str) -> None:
        """One line a second while time passes."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.check()
            status = await self.status()
            state = await self.cloud.call("GET", "/api/state")
            acknowledged = self.device.acknowledged if self.device else 0
            say(
                label,
                f"{acknowledged:5} acknowledged · {status['queue']['pending']:4} pending"
                f" · {state['events_received']:5} events in the cloud · link {status['cloud']['state']}",
            )
            await asyncio.sleep(min(1.0, left_s))


def say(who: str, text: str) -> None:
    """One line of progress."""
    console.print(f"[bold cyan]{who:>10}[/]  {text}")


async def run_demo(*, keep: bool, seconds: int) -> int:
    """Run it; the exit code. `seconds` is the time of the whole show without set-up."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a closed terminal ends the parts too
        loop.add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="edge-gateway-demo-", ignore_cleanup_errors=True) as folder:
        demo = Demo(Path(folder), seconds)
        show = asyncio.create_task(_guard(demo, keep))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([show, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not show.done():
            show.cancel()
            await asyncio.wait([show])
            console.print("stopped; everything is ended")
            return 0 if demo.is_shown else 130
        stopped.cancel()
        return show.result()


async def _guard(demo: Demo, keep: bool) -> int:
    try:
        return await _show(demo, keep)
    except SystemExit:  # rich, when nobody reads our output any more (`| head`): the parts are ended
        return 1
    except (TransientError, OSError) as error:  # TimeoutError is an OSError
        console.print("[red]the demo failed:[/]", end=" ")
        console.print(str(error) or "no answer in time", markup=False)
        for process in (demo.gateway, demo.sim, demo.plant):
            if process.log_path.exists():
                tail = process.log_path.read_text(errors="replace").splitlines()[-5:]
                console.print(f"  last of {process.name}: " + " | ".join(tail), markup=False)
        return 1


async def _show(demo: Demo, keep: bool) -> int:
    console.print("edge-gateway demo: a Modbus plant and an MQTT device → gateway → simulated cloud\n")
    async with demo.running():
        say("cloud", f"gRPC on {demo.grpc_port}, HTTP on {demo.http_port}: http://127.0.0.1:{demo.http_port}/api/state")
        await _up(demo)
        await demo.progress(max(3, (demo.seconds - OFFLINE_S) * 0.35), "live")
        await _down(demo)
        up = (await demo.cloud.call("GET", "/api/state"))["latency_ms"]
        await demo.cloud.call("POST", f"/api/offline?seconds={OFFLINE_S}")
        say("cloud", f"goes away for {OFFLINE_S} seconds; the plant and the device go on")
        await demo.progress(OFFLINE_S, "offline")
        say("cloud", "is back; the queue drains")
        await demo.progress(max(3, (demo.seconds - OFFLINE_S) * 0.35), "drain")
        return await _end(demo, up, keep)


async def _up(demo: Demo) -> None:
    first = await demo.until(
        "no reading of the device arrived in the cloud", lambda: _has(demo, DEVICE, "temperature"), 20
    )
    say("cloud", f"first MQTT reading: {DEVICE} temperature = {first}")
    value = await demo.until(
        "no reading of the plant arrived in the cloud", lambda: _has(demo, "Boiler", "temperature"), 20
    )
    say("cloud", f"first Modbus reading: Boiler temperature = {value}")


async def _has(demo: Demo, device: str, key: str) -> Any:
    latest = (await demo.cloud.device(device)).get("telemetry", {}).get(key)
    return latest["value"] if latest else None


async def _down(demo: Demo) -> None:
    for on in (False, True, False, True):
        began_s = time.monotonic()
        answer = await demo.cloud.call("POST", "/api/devices/Pump/rpc", {"method": "pump", "params": on})
        demo.latencies.rpc.append((time.monotonic() - began_s) * 1000)
        say("rpc", f"Pump.pump({str(on).lower()}) → {json.dumps(answer)} in {demo.latencies.rpc[-1]:.0f} ms")
    flow = await demo.until("the pump's flow did not rise", lambda: _flowing(demo), 15)
    say("plant", f"the coil is on: flow = {flow:.1f}")
    answer = await demo.cloud.call("POST", f"/api/devices/{quote(DEVICE)}/rpc", {"method": "identify", "params": {}})
    say("rpc", f"{DEVICE}.identify() → {json.dumps(answer)}")
    for step in range(5):
        demo.attribute_seen.clear()
        began_s = time.monotonic()
        await demo.cloud.call("POST", f"/api/devices/{quote(DEVICE)}/attributes/SHARED_SCOPE", {"target": 21.5 + step})
        async with asyncio.timeout(10):
            await demo.attribute_seen.wait()
        demo.latencies.attribute.append((time.monotonic() - began_s) * 1000)
    say(
        "attribute",
        f"shared attribute 'target' reached the MQTT device in {_percentile(demo.latencies.attribute, 50):.0f} ms",
    )


async def _flowing(demo: Demo) -> float | None:
    flow = await _has(demo, "Pump", "flow")
    return flow if isinstance(flow, int | float) and flow > 0.5 else None


async def _end(demo: Demo, up: dict[str, float], keep: bool) -> int:
    device = demo.device
    if device is None:
        raise TransientError("the device never started")
    device.pause()

    async def all_acknowledged() -> bool:
        return device.acknowledged >= device.published + 1  # one publish more: its attributes

    async def drained() -> dict[str, Any] | None:
        status = await demo.status()
        in_cloud = await demo.cloud.device(DEVICE)
        done = status["queue"]["pending"] < 20 and (in_cloud.get("seq_contiguous") or 0) >= device.published
        return status if done else None

    await demo.until("readings without acknowledgement", all_acknowledged, 15)
    status = await demo.until("the queue did not drain", drained, 30)
    in_cloud = await demo.cloud.device(DEVICE)
    state = await demo.cloud.call("GET", "/api/state")
    demo.gateway.sample_memory()
    lost = device.published - in_cloud["seq_contiguous"]
    table = Table("figure", "value", title="what happened", title_justify="left")
    rows: Sequence[tuple[str, Any]] = (
        ("readings accepted (MQTT, acknowledged)", device.published),
        ("readings accepted (Modbus polls)", status["counters"].get("fieldbus.readings", 0)),
        ("cloud events queued", status["queue"]["pending"] + status["queue"]["deployed"]),
        ("cloud events deployed", status["queue"]["deployed"]),
        ("most events waiting while offline", demo.peak_pending),
        ("parked", status["queue"]["parked"]),
        ("numbered readings lost", lost),
        ("duplicates in the cloud", state["duplicates"]),
        ("out of order", state["out_of_order"]),
        ("latency up, device to cloud, p50 / p99", f"{up['p50']:.0f} / {up['p99']:.0f} ms"),
        ("latency down, RPC to Modbus and back, p50 / p99", _both(demo.latencies.rpc)),
        ("latency down, attribute to MQTT, p50 / p99", _both(demo.latencies.attribute)),
        ("gateway memory, peak", f"{demo.gateway.peak_bytes / 1e6:.0f} MB"),
    )
    for name, value in rows:
        table.add_row(name, str(value))
    console.print()
    console.print(table)
    if lost or status["queue"]["parked"] or state["out_of_order"]:
        console.print("[red]something was lost, parked or out of order[/]")
        return 1
    console.print(f"nothing was lost. ({time.monotonic() - demo.started_s:.0f} s)")
    demo.is_shown = True
    if keep:
        console.print(
            f"left running: MQTT on 127.0.0.1:{demo.mqtt_port} (token demo-token-thermostat), Modbus on"
            f" {demo.modbus_port}, cloud at http://127.0.0.1:{demo.http_port}/api/state\n"
            f"try: {sys.executable} -m gateway status --config {demo.folder}/gateway.yaml\n"
            "Ctrl-C ends everything."
        )
        device.resume()
        while True:
            demo.check()
            await asyncio.sleep(1)
    return 0


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def _both(values: Sequence[float]) -> str:
    return f"{_percentile(values, 50):.0f} / {_percentile(values, 99):.0f} ms"
