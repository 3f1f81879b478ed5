"""Bad input of every kind gets a clear answer, and the neighbour notices nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from tests.e2e.parts import CloudProcess, GatewayProcess, NumberedDevice, until

SECRET = "a-wrong-secret-7d1"


def publish(port, token, topic, payload, *more):
    """mosquitto_pub, as a person at a shell would."""
    return subprocess.run(
        [
            "mosquitto_pub",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-u",
            token,
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            payload,
            *more,
        ],
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.server
@pytest.mark.slow
async def test_bad_input_is_answered_and_disturbs_nobody(tmp_path):
    chain = {
        "ruleChain": {"name": "With a stranger", "root": True},
        "metadata": {
            "firstNodeIndex": 0,
            "nodes": [
                {
                    "type": "org.thingsboard.rule.engine.filter.TbMsgTypeSwitchNode",
                    "name": "switch",
                    "configuration": {},
                },
                {
                    "type": "org.thingsboard.rule.engine.telemetry.TbMsgTimeseriesNode",
                    "name": "save",
                    "configuration": {},
                },
                {"type": "com.example.Unheard", "name": "stranger", "configuration": {}},
                {"type": "org.thingsboard.rule.engine.edge.TbMsgPushToCloudNode", "name": "up", "configuration": {}},
            ],
            "connections": [
                {"fromIndex": 0, "toIndex": 1, "type": "Post telemetry"},
                {"fromIndex": 1, "toIndex": 2, "type": "Success"},
                {"fromIndex": 2, "toIndex": 3, "type": "Failure"},
            ],
        },
    }
    (tmp_path / "chain.json").write_text(json.dumps(chain))
    devices = [{"name": "Good", "access_token": "good"}, {"name": "Bad one", "access_token": "bad"}]
    rules = {"root_chain": str(tmp_path / "chain.json"), "prefer_cloud": False}
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, devices=devices, rules=rules) as gateway,
    ):
        neighbour = NumberedDevice("good", gateway.port)
        neighbour.publish(1)
        telemetry = "v1/devices/me/telemetry"
        run = asyncio.to_thread
        malformed = await run(publish, gateway.port, "bad", telemetry, '{"t":')
        assert malformed.returncode == 7  # 3.1.1: the connection was lost
        malformed = await run(publish, gateway.port, "bad", telemetry, '{"t":', "-V", "5")
        assert "Payload format invalid" in malformed.stdout + malformed.stderr
        wrong = await run(publish, gateway.port, "bad", telemetry, '"text"', "-V", "5")
        assert "Payload format invalid" in wrong.stdout + wrong.stderr
        unknown = await run(publish, gateway.port, "bad", "v1/devices/me/nonsense", "{}", "-V", "5")
        assert "Topic Name invalid" in unknown.stdout + unknown.stderr
        (tmp_path / "huge").write_text('{"x":"' + "y" * 1_000_000 + '"}')
        huge = subprocess.run(
            [
                "mosquitto_pub",
                "-p",
                str(gateway.port),
                "-u",
                "bad",
                "-q",
                "1",
                "-t",
                telemetry,
                "-f",
                str(tmp_path / "huge"),
            ],
            capture_output=True,
            timeout=20,
        )
        assert huge.returncode != 0
        stranger = await run(publish, gateway.port, "not-a-token-xyz", telemetry, "{}")
        assert stranger.returncode == 5
        stranger = await run(publish, gateway.port, "not-a-token-xyz", telemetry, "{}", "-V", "5")
        assert stranger.returncode == 134
        neighbour.publish(2)

        async def arrived() -> bool:
            return (await cloud.device("Good")).get("seq_contiguous") == 2

        await until(arrived, 20, "the neighbour's readings did not arrive")
        neighbour.stop()
        status = await gateway.status()
        (problem,) = status["rules"]["problems"]
        assert "stranger" in str(problem)
        assert "com.example.Unheard" in str(problem)
        assert status["counters"]["broker.bad_payloads"] == 3
        log = gateway.log()
        assert log.count("'Bad one'") == 1  # said once, with the device's name
        assert "not-a-token-xyz" not in log


@pytest.mark.server
async def test_a_wrong_secret_is_refused_clearly_and_never_logged(tmp_path):
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, cloud={"routing_secret": SECRET}) as gateway,
    ):

        async def refused() -> str:
            return (await gateway.status())["cloud"].get("last_error") or ""

        text = await until(refused, 15, "no refusal in the status")
        assert "routing key" in text
        assert SECRET not in text
        assert "routing key" in gateway.log()
        assert SECRET not in gateway.log()
        assert SECRET not in json.dumps(await gateway.status())


@pytest.mark.server
def test_a_typo_in_the_configuration_ends_with_78_and_says_where(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text("devices:\n  - name: A\n    acces_token: x\n")
    for command in ("check-config", "run"):
        done = subprocess.run(
            [sys.executable, "-m", "gateway", command, "-c", str(path)], capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 78
        assert "devices[0].acces_token" in done.stderr
        assert "did you mean 'access_token'?" in done.stderr
        assert "Traceback" not in done.stderr
