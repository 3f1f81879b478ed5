"""A sensor on a pseudo terminal, a gateway and a simulated cloud as processes: readings up, calls down, a kill between."""

import pytest

from tests.e2e.parts import CloudProcess, GatewayProcess, until
from tests.fakes.serial_line import SerialLine

pytestmark = pytest.mark.server


def bus(port):
    return {
        "kind": "serial",
        "name": "bench",
        "port": str(port),
        "frame": {"end": "\r\n"},
        "checksum": {"kind": "xor", "after": "*", "form": "hex"},
        "devices": [
            {
                "name": "Scale-1",
                "messages": [{"regex": "^W(?P<weight>[0-9.]+)$", "telemetry": [{"key": "weight"}]}],
                "commands": [
                    {
                        "key": "limit",
                        "send": "L{value:d}*{checksum}\r\n",
                        "answer": {"regex": "^L=(?P<limit>[0-9]+)$", "telemetry": [{"key": "limit"}]},
                    }
                ],
            }
        ],
    }


def frame(text):
    checksum = 0
    for byte in text.encode():
        checksum ^= byte
    return f"{text}*{checksum:02X}\r\n".encode()


async def test_readings_go_up_and_calls_come_back_with_their_answer(tmp_path):
    line = SerialLine(tmp_path / "adapter").plug()
    line.answers = {frame("L7"): frame("W2.5") + frame("L=7")}
    try:
        async with CloudProcess(tmp_path) as cloud:
            gateway = GatewayProcess(tmp_path, cloud.grpc_port, buses=[bus(line.name)])
            async with gateway:

                async def weight():
                    line.say(frame("W1.5") + b"W9*00\r\n")
                    return await newest(cloud) == 1.5

                await until(weight, 20, "no weight in the cloud")
                line.received.clear()
                answer = await cloud.call("POST", "/api/devices/Scale-1/rpc", {"method": "limit", "params": 7})
                assert answer == {"result": {"value": 7}}
                status = (await gateway.status())["buses"][0]
                assert status["connected"]
                assert status["line"]["bad_frames"] > 0
                assert "its checksum is '00'" in status["line"]["last_bad"]
                await gateway.kill()
                await gateway.start()
                line.received.clear()

                async def heavier():
                    line.say(frame("W8"))
                    return await newest(cloud) == 8

                await until(heavier, 20, "no weight after a kill")
    finally:
        line.pull()


async def newest(cloud):
    device = await cloud.device("Scale-1")
    return device.get("telemetry", {}).get("weight", {}).get("value")
