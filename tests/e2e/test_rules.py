"""Rules looked at while the real service runs: recorded, followed, walked again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.demo.processes import Process
from tests.e2e.parts import GatewayProcess, until

pytestmark = pytest.mark.server


async def test_a_node_is_followed_and_the_recording_gives_the_same_through_the_chain(tmp_path):
    devices = [{"name": "T1", "profile": "thermostat", "access_token": "token-1"}]
    async with GatewayProcess(tmp_path, None, devices=devices, rules={"record": {"devices": ["T1"]}}) as gateway:
        words = ["debug", "Edge Root Rule Chain/Push to cloud", "--follow", "--config", str(gateway.config_path)]
        following = Process("follow", ["-m", "gateway", "rules", *words], tmp_path / "follow.log")
        await following.start()

        async def is_followed():
            seen = await gateway.ask("/rules")
            return any(node.get("debug") for chain in seen["chains"] for node in chain["nodes"])

        await until(is_followed, 20, "nobody follows")
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set("token-1")
        client.connect("127.0.0.1", gateway.port)
        client.loop_start()
        for number in range(20):
            info = client.publish("v1/devices/me/telemetry", json.dumps({"n": number}), qos=1)
        await asyncio.to_thread(info.wait_for_publish, 10)
        client.disconnect()
        client.loop_stop()

        async def is_told():
            return (tmp_path / "follow.log").read_text().count("Edge Root Rule Chain / Push to cloud → success") == 20

        await until(is_told, 20, "the events do not show")
        os.kill(following.pid, signal.SIGINT)
        await following.stop()
    recordings = tmp_path / "data" / "recordings"
    lines = [line for path in recordings.iterdir() for line in path.read_text().splitlines()]
    assert sum('"POST_TELEMETRY_REQUEST"' in line for line in lines) == 20
    chain = Path(__file__).parents[2] / "gateway" / "rules" / "default_chain.json"
    again = [sys.executable, "-m", "gateway", "rules", "replay", str(chain), str(recordings)]
    done = await asyncio.to_thread(subprocess.run, again, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "20 saved" in done.stdout
