"""Local publish/subscribe with the clients people have, through kills of the gateway."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MessageState

from tests.e2e.parts import GatewayProcess, until

DEVICES = [{"name": "pump", "access_token": "tok"}, {"name": "fan", "access_token": "tok2"}]


class Paho(mqtt.Client):
    """paho 2.1 forgets at the second attempt to connect that a message had its PUBREC, and publishes it anew."""

    def _messages_reconnect_reset_out(self) -> None:
        for message in self._out_messages.values():
            if message.state == MessageState.MQTT_MS_RESEND_PUBREL:
                message.state = MessageState.MQTT_MS_WAIT_FOR_PUBCOMP
        super()._messages_reconnect_reset_out()


class Client:
    """paho with its session: what it was told is taken, what it has heard."""

    def __init__(self, token: str, port: int, subscription: str = "") -> None:
        self.heard: list[bytes] = []
        self.acknowledged: set[int] = set()
        self.is_subscribed = False
        self.present: list[bool] = []
        self._subscription = subscription
        self.client = Paho(CallbackAPIVersion.VERSION2, client_id=f"client-{token}", clean_session=False)
        self.client.username_pw_set(token)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_message = lambda *received: self.heard.append(received[-1].payload)
        self.client.on_publish = lambda _client, _data, mid, *_: self.acknowledged.add(mid)
        self.client.on_subscribe = self._on_subscribe
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, *_: Any) -> None:
        self.present.append(flags.session_present)
        if self._subscription and not flags.session_present:
            client.subscribe(self._subscription, 2)

    def _on_subscribe(self, *_: Any) -> None:
        self.is_subscribed = True

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


async def _is(condition: Any) -> bool:
    return bool(condition())


@pytest.mark.server
async def test_qos_2_arrives_exactly_once_and_in_order_through_kills(tmp_path):
    async with GatewayProcess(tmp_path, None, devices=DEVICES) as gateway:
        hears = Client("tok2", gateway.port, "plant/#")
        says = Client("tok", gateway.port)
        try:
            await until(lambda: _is(lambda: hears.is_subscribed), 10, "no SUBACK")
            sent = 0
            for life in range(1, 4):
                # paho lets a new message overtake the repeated ones between CONNECT and CONNACK.
                await until(lambda life=life: _is(lambda: len(says.present) == life), 20, "not connected again")
                for _ in range(150):
                    sent += 1
                    says.client.publish("plant/x", b"%d" % sent, 2)
                wanted = sent - 100
                await until(lambda wanted=wanted: _is(lambda: len(says.acknowledged) >= wanted), 20, "no answers")
                await gateway.kill()
                await gateway.start()
            await until(lambda: _is(lambda: len(says.acknowledged) == sent), 20, "not all acknowledged")
            await until(lambda: _is(lambda: len(hears.heard) >= sent), 20, "not all heard")
            assert hears.heard == [b"%d" % number for number in range(1, sent + 1)]
            assert not hears.present[0]
            assert all(hears.present[1:])
        finally:
            says.stop()
            hears.stop()


@pytest.mark.server
async def test_mosquitto_finds_its_queued_and_retained_messages_after_a_kill(tmp_path):
    async with GatewayProcess(tmp_path, None, devices=DEVICES) as gateway:
        common = ["-h", "127.0.0.1", "-p", str(gateway.port)]
        listen = ["mosquitto_sub", *common, "-u", "tok2", "-i", "sub-1", "-c", "-q", "1", "-t", "a/#", "-W", "10"]
        say = ["mosquitto_pub", *common, "-u", "tok", "-q", "1"]

        async def run(*arguments: str) -> str:
            done = await asyncio.to_thread(
                subprocess.run, arguments, capture_output=True, text=True, timeout=20, check=False
            )
            assert done.returncode == 0, done
            return done.stdout

        await run(*listen, "-E")  # subscribes and leaves
        await run(*say, "-t", "a/kept", "-m", "retained", "-r")
        for number in range(3):
            await run(*say, "-t", "a/x", "-m", str(number))
        status = await gateway.status()
        assert (status["mqtt"]["local"]["queued"], status["mqtt"]["local"]["retained"]) == (4, 1)
        await gateway.kill()
        await gateway.start()
        assert (await run(*listen, "-C", "4")).split() == ["retained", "0", "1", "2"]
        fresh = ["mosquitto_sub", *common, "-u", "tok2", "-q", "1", "-t", "a/+", "-F", "%r %p", "-C", "1", "-W", "10"]
        assert (await run(*fresh)).split() == ["1", "retained"]
