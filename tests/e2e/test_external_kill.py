"""A stream through a real mosquitto while the gateway is killed again and again: nothing lost, each device in order."""

import asyncio
import json
import threading

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.e2e.parts import CloudProcess, GatewayProcess, until
from tests.integration.mosquitto import NOT_KILLED, Mosquitto

DEVICES, KILLS = ("pump", "fan", "oven"), 2


class Stream(threading.Thread):
    """Numbered telemetry of three devices with QoS 1, in one session, about 2,000 a second."""

    def __init__(self, port: int) -> None:
        super().__init__(name="stream")
        self.sent = 0
        self.is_ending = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="plant", clean_session=False)
        self._client.max_queued_messages_set(0)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def run(self) -> None:
        while not self.is_ending.wait(0.01):
            for _ in range(7):
                self.sent += 1
                for name in DEVICES:
                    body = json.dumps({"ts": 1_700_000_000_000 + self.sent, "values": {"seq": self.sent}})
                    last = self._client.publish(f"edge/{name}/telemetry", body, qos=1)
        last.wait_for_publish(60)
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.server
async def test_kills_in_the_middle_of_a_stream_lose_nothing_and_change_no_order(tmp_path):
    (tmp_path / "mosquitto").mkdir()
    folder = tmp_path / "mosquitto"
    async with Mosquitto(folder, "max_inflight_messages 0", *NOT_KILLED) as broker, CloudProcess(tmp_path) as cloud:
        outside = {"host": "127.0.0.1", "port": broker.port, "reconnect_s": 0.1, "reconnect_max_s": 0.3}
        outside |= {"max_inflight": 2000}
        store = {"kind": "sqlite", "commit_every_s": 0.3}  # so that each kill meets hundreds that are not on the disk
        async with GatewayProcess(tmp_path, cloud.grpc_port, external_broker=outside, store=store) as house:

            async def arrived_of(name: str) -> int:
                return (await cloud.device(name)).get("seq_contiguous") or 0

            async def connected() -> bool:
                return bool((await house.status())["external_broker"]["connected"])

            await until(connected, 15, "not connected to the broker")
            stream = Stream(broker.port)
            stream.start()
            try:
                for _ in range(KILLS):
                    mark = await arrived_of("pump") + 200

                    async def is_going_on(mark: int = mark) -> bool:
                        return await arrived_of("pump") >= mark

                    await until(is_going_on, 20, "nothing arrives")
                    await house.kill()
                    await house.start()
            finally:
                stream.is_ending.set()
                await asyncio.to_thread(stream.join)

            async def is_complete() -> bool:
                return [await arrived_of(name) for name in DEVICES] == [stream.sent] * len(DEVICES)

            await until(is_complete, 60, "something is lost")
            state = await cloud.state()
            assert (state["out_of_order"], state["missing"], state["violation_counts"]) == (0, 0, {})
            assert stream.sent > 200 * KILLS
