"""The whole thing as processes: a gateway, a simulated cloud, MQTT clients with a memory of what was acknowledged."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from gateway.demo.processes import Process, free_port, until_listening
from gateway.status_view import LocalApiError, ask


class CloudProcess:
    """`edge-gateway cloud-sim`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.grpc_port, self.http_port = free_port(), free_port()
        arguments = ["-m", "gateway", "cloud-sim", "--grpc-port", str(self.grpc_port)]
        arguments += ["--http-port", str(self.http_port), "--no-view"]
        for name, value in options.items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        self.process = Process("cloud", arguments, folder / "cloud.log")

    async def __aenter__(self) -> CloudProcess:
        await self.process.start()
        await until_listening(self.http_port, self.process)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.stop()

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        return await asyncio.to_thread(self._call, method, path, body)

    def _call(self, method: str, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            text = response.read()
            assert response.status in (200, 201), f"{method} {path}: {response.status} {text!r}"
            return json.loads(text) if text else None
        finally:
            connection.close()

    async def state(self) -> dict[str, Any]:
        return await self.call("GET", "/api/state")

    async def device(self, name: str) -> dict[str, Any]:
        try:
            return await self.call("GET", f"/api/devices/{quote(name)}")
        except AssertionError:
            return {}


class GatewayProcess:
    """`edge-gateway run`, killed and started again at will on the same state."""

    def __init__(self, folder: Path, cloud_port: int | None, **sections: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.config_path = folder / "gateway.yaml"
        cloud: dict[str, Any] = {"enabled": cloud_port is not None}
        if cloud_port is not None:
            cloud |= {
                "host": "127.0.0.1",
                "port": cloud_port,
                "routing_key": "demo-edge",
                "routing_secret": "demo-secret",
                "reconnect_ms": 200,
                "reconnect_max_ms": 1000,
            }
        config: dict[str, Any] = {
            "data_dir": str(folder / "data"),
            "broker": {"host": "127.0.0.1", "port": self.port},
            "cloud": cloud | sections.pop("cloud", {}),
            **sections,
        }
        self.config_path.write_text(yaml.safe_dump(config))
        self.process = self._new_process()

    def _new_process(self) -> Process:
        return Process("gateway", ["-m", "gateway", "run", "-c", str(self.config_path)], self.folder / "gateway.log")

    async def __aenter__(self) -> GatewayProcess:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.stop()

    async def start(self) -> None:
        self.process = self._new_process()
        await self.process.start()
        await until_listening(self.port, self.process)
        await until(self._answers, 15, "the local API does not answer")

    async def _answers(self) -> bool:
        self.process.check()
        return await self.pending() >= 0

    async def kill(self) -> None:
        """As a power cut would: no goodbye."""
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.stop()

    async def status(self) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self.folder / "data" / "api.sock", "/status")

    async def ask(self, path: str) -> Any:
        return await asyncio.to_thread(ask, self.folder / "data" / "api.sock", path)

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text(errors="replace")

    async def pending(self) -> int:
        """Events that wait; -1 while the gateway does not answer."""
        try:
            return (await self.status())["queue"]["pending"]
        except LocalApiError:
            return -1


class NumberedDevice:
    """Publishes numbered telemetry and sends again what was not acknowledged, as the standard asks."""

    def __init__(self, token: str, port: int, qos: int = 1) -> None:
        self.sent = 0
        self._qos = qos
        self.acknowledged: set[int] = set()
        self._number_of: dict[int, int] = {}  # packet ids wrap at 65535
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"device-{token}", clean_session=False)
        self._client.username_pw_set(token)
        self._client.max_inflight_messages_set(100)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._on_publish
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def _on_publish(self, client: Any, userdata: Any, mid: int, *_: Any) -> None:
        self.acknowledged.add(self._number_of.pop(mid))

    def publish(self, ts_ms: int) -> None:
        self.sent += 1
        body = json.dumps({"ts": ts_ms, "values": {"seq": self.sent, "t": 20.5}})
        # The id is known before the message is on its way: paho counts from 1, and this client sends nothing else.
        mid = (self.sent - 1) % 65535 + 1
        self._number_of[mid] = self.sent
        info = self._client.publish("v1/devices/me/telemetry", body, qos=self._qos)
        assert info.mid == mid

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


async def until(condition: Any, timeout_s: float, what: str) -> Any:
    """Poll an async condition until it gives something true."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if result := await condition():
                    return result
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"after {timeout_s:g} s: {what}") from None
