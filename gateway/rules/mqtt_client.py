"""Publishing to a broker of somebody else, for rule nodes. Their door to paho-mqtt.

One connection a node: made with the first message, kept, made again with the next message after it was lost. paho lives
in a thread of its own and hands everything to the event loop. Every publish ends by its deadline; while the broker is
away, messages do not wait for it one after the other: they fail at once until it is tried again.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from gateway.errors import RejectedError, TransientError
from gateway.ports import Clock

ACKNOWLEDGED_S: Final = 10.0
MAX_PUBLISHES: Final = 100
"""Publishes of one node that wait for their acknowledgement; one more is refused."""
AGAIN_S: Final = (1.0, 30.0)
"""How long nobody tries after a failure: at first, and at most."""
MAX_TOPIC_BYTES: Final = 65_535
_KEEPALIVE_S: Final = 30
_VERSIONS: Final = {
    "MQTT_3_1": MQTTProtocolVersion.MQTTv31,
    "MQTT_3_1_1": MQTTProtocolVersion.MQTTv311,
    "MQTT_5": MQTTProtocolVersion.MQTTv5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where, and as whom."""

    host: str
    port: int
    connect_timeout_s: float
    client_id: str = ""
    is_clean: bool = True
    version: str = "MQTT_3_1_1"
    tls: ssl.SSLContext | None = None
    user: tuple[str, str] | None = field(default=None, repr=False)


class MqttPublisher:
    """Opened with its first message. Belongs to the event loop."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker, self._clock = broker, clock
        self._client: paho.Client | None = None
        self._connecting = asyncio.Lock()
        self._accepted: asyncio.Future[None] | None = None
        self._sent: dict[int, asyncio.Future[None]] = {}
        self._publishes = 0
        self._failures, self._again_s, self._error = 0, 0.0, ""

    async def publish(self, topic: str, payload: bytes, *, is_retained: bool) -> None:
        """With QoS 1; returns when the broker has it.

        Raises:
            RejectedError: No topic, or too many wait.
            TransientError: The broker is not reached, or does not acknowledge in time.
        """
        if not topic or len(topic.encode()) > MAX_TOPIC_BYTES or any(char in topic for char in "+#\0"):
            raise RejectedError(f"{topic[:50]!r} is no topic to publish to")
        if self._publishes >= MAX_PUBLISHES:
            raise RejectedError(f"{MAX_PUBLISHES} publishes of this node wait already")
        self._publishes += 1
        try:
            client = await self._connected()
            info = client.publish(topic, payload, 1, is_retained)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise TransientError(f"{self._where} is lost")
            done = self._sent[info.mid] = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(ACKNOWLEDGED_S):
                    await done
            except TimeoutError:
                raise TransientError(f"{self._where} does not acknowledge within {ACKNOWLEDGED_S:g} s") from None
            finally:
                self._sent.pop(info.mid, None)
        finally:
            self._publishes -= 1

    @property
    def _where(self) -> str:
        return f"{self._broker.host}:{self._broker.port}"

    async def _connected(self) -> paho.Client:
        async with self._connecting:
            if self._client is not None:
                return self._client
            if self._clock.monotonic_s() < self._again_s:
                raise TransientError(f"{self._error}; it is tried again in a moment")
            try:
                client = await self._connect()
            except TransientError as error:
                pause_s = min(AGAIN_S[0] * 2 ** min(self._failures, 10), AGAIN_S[1])
                self._failures, self._error = self._failures + 1, str(error)
                self._again_s = self._clock.monotonic_s() + pause_s
                raise
            self._failures, self._client = 0, client
            return client

    async def _connect(self) -> paho.Client:
        broker, loop = self._broker, asyncio.get_running_loop()
        is_5 = broker.version == "MQTT_5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=broker.client_id,
            clean_session=None if is_5 else broker.is_clean,
            protocol=_VERSIONS[broker.version],
            reconnect_on_failure=False,
        )
        client.connect_timeout = broker.connect_timeout_s
        if broker.user is not None:
            client.username_pw_set(*broker.user)
        if broker.tls is not None:
            client.tls_set_context(broker.tls)
        accepted = self._accepted = loop.create_future()

        def on_connect(client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            loop.call_soon_threadsafe(_settle, accepted, reason.value >= 0x80 and f"refuses us: {reason}")

        def on_disconnect(client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            loop.call_soon_threadsafe(self._lost, client, accepted, str(reason))

        def on_publish(client: Any, data: Any, mid: int, reason: Any, properties: Any) -> None:
            loop.call_soon_threadsafe(self._acknowledged, mid, reason.value >= 0x80 and f"does not take it: {reason}")

        client.on_connect, client.on_disconnect, client.on_publish = on_connect, on_disconnect, on_publish
        start = broker.is_clean if is_5 else paho.MQTT_CLEAN_START_FIRST_ONLY
        try:
            async with asyncio.timeout(broker.connect_timeout_s):
                await asyncio.to_thread(client.connect, broker.host, broker.port, _KEEPALIVE_S, clean_start=start)
                client.loop_start()
                await accepted
        except asyncio.CancelledError:
            client.disconnect()  # its thread, if there is one, ends with the connection
            raise
        except (OSError, ValueError, TimeoutError, TransientError) as error:
            await _ended(client)
            text = str(error) or f"no answer within {broker.connect_timeout_s:g} s"
            raise TransientError(f"{self._where}: {text}") from None
        return client

    def _lost(self, client: Any, accepted: asyncio.Future[None], reason: str) -> None:
        _settle(accepted, f"the connection ended: {reason}")
        if client is self._client:
            self._client = None
            sent, self._sent = self._sent, {}
            for done in sent.values():
                _settle(done, f"{self._where} is lost: {reason}")

    def _acknowledged(self, mid: int, problem: str | bool) -> None:
        done = self._sent.get(mid)
        if done is not None:
            _settle(done, problem and f"{self._where} {problem}")

    async def close(self) -> None:
        """What waits is lost."""
        client, self._client = self._client, None
        if client is not None:
            await _ended(client)


async def _ended(client: paho.Client) -> None:
    client.disconnect()
    await asyncio.shield(asyncio.to_thread(client.loop_stop))


def _settle(future: asyncio.Future[None], problem: str | bool) -> None:
    if future.done():
        return
    if problem:
        future.set_exception(TransientError(str(problem)))
    else:
        future.set_result(None)
