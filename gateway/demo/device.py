"""A real MQTT device: paho-mqtt, QoS 1, one numbered reading after another. It counts what was acknowledged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


class Thermostat:
    """Publishes `{"ts":…,"values":{"seq":n,"temperature":…}}`, hears shared attributes, answers RPC."""

    def __init__(self, port: int, token: str, every_s: float, on_attribute: Callable[[dict[str, Any]], None]) -> None:
        self.acknowledged = 0
        self.published = 0
        self._every_s, self._on_attribute = every_s, on_attribute
        self._is_publishing = threading.Event()
        self._is_ending = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="demo-thermostat")
        self._client.username_pw_set(token)
        self._client.on_connect = self._connected
        self._client.on_publish = self._acknowledged
        self._client.on_message = self._message
        self._client.connect("127.0.0.1", port)
        self._thread = threading.Thread(target=self._publish, name="thermostat", daemon=True)

    def start(self) -> None:
        """Connect and publish in threads of its own."""
        self._client.loop_start()
        self._is_publishing.set()
        self._thread.start()

    def pause(self) -> None:
        """No more readings; what is in flight is still acknowledged."""
        self._is_publishing.clear()

    def resume(self) -> None:
        """Readings again."""
        self._is_publishing.set()

    def stop(self) -> None:
        """Disconnect."""
        self._is_ending.set()
        self._is_publishing.set()
        self._thread.join(2)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self) -> None:
        while not self._is_ending.wait(self._every_s):
            self._is_publishing.wait()
            if self._is_ending.is_set():
                return
            self.published += 1
            wave = (self.published % 200) / 10
            body = {"ts": time.time_ns() // 1_000_000, "values": {"seq": self.published, "temperature": 20.0 + wave}}
            self._client.publish("v1/devices/me/telemetry", json.dumps(body), qos=1)

    def _connected(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe([("v1/devices/me/attributes", 1), ("v1/devices/me/rpc/request/+", 1)])
        client.publish("v1/devices/me/attributes", json.dumps({"firmware": "1.4.2", "model": "T-100"}), qos=1)

    def _acknowledged(self, client: mqtt.Client, userdata: Any, mid: int, *_: Any) -> None:
        self.acknowledged += 1

    def _message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic.startswith("v1/devices/me/rpc/request/"):
            number = message.topic.rsplit("/", 1)[1]
            call = json.loads(message.payload)
            answer = {"device": "thermostat", "method": call["method"], "ok": True}
            client.publish(f"v1/devices/me/rpc/response/{number}", json.dumps(answer), qos=1)
        else:
            self._on_attribute(json.loads(message.payload))
