"""What 100 points a second write to the block device, in MB a day: the wear of an SD card.

Ten devices, one MQTT message (QoS 1) a second each with ten values, through the whole gateway and up to a cloud that
confirms. The kernel's own figure (write_bytes in /proc/<pid>/io) over a short run, extrapolated to a day. The log is
written back into the file every 16 MB, which a short run does not reach: a day writes more than it says.

Limits: 150 MB a day, 20 MB a day in economy mode.

    python -m bench.sd_card [seconds [commit_every_s ...]]
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from bench.report import figure, note
from gateway.health import written_bytes
from tests.e2e.parts import CloudProcess, GatewayProcess, until

DEVICES, VALUES = 10, 10
LIMIT_MB, ECONOMY_LIMIT_MB = 150.0, 20.0


async def run(folder: Path, seconds: float, commit_every_s: float) -> tuple[float, int]:
    """(MB a day, points acknowledged)"""
    devices = [{"name": f"D{n}", "access_token": f"token-{n}"} for n in range(DEVICES)]
    store = {"kind": "sqlite", "commit_every_s": commit_every_s}
    async with (
        CloudProcess(folder) as cloud,
        GatewayProcess(folder, cloud.grpc_port, devices=devices, store=store) as edge,
    ):
        clients, acknowledged = [], [0]

        def count(*_: object) -> None:
            acknowledged[0] += 1

        for n in range(DEVICES):
            client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"D{n}")
            client.username_pw_set(f"token-{n}")
            client.max_inflight_messages_set(1_000)
            client.on_publish = count
            client.connect("127.0.0.1", edge.port)
            client.loop_start()
            clients.append(client)
        await asyncio.sleep(2)  # the sync of the beginning is over
        io = Path(f"/proc/{edge.process.pid}/io")
        before, started = written_bytes(io) or 0, time.monotonic()
        for turn in range(int(seconds)):
            for n, client in enumerate(clients):
                values = {f"value{k}": round(20 + 0.1 * (turn + n + k), 1) for k in range(VALUES)}
                client.publish("v1/devices/me/telemetry", json.dumps(values), qos=1)
            await asyncio.sleep(max(0.0, started + turn + 1 - time.monotonic()))

        async def is_done() -> bool:
            return acknowledged[0] == int(seconds) * DEVICES

        await until(is_done, 60 + commit_every_s, "not everything was acknowledged")
        await asyncio.sleep(0.5)
        written = (written_bytes(io) or 0) - before
        for client in clients:
            client.disconnect()
            client.loop_stop()
        return written / int(seconds) * 86_400 / 1e6, acknowledged[0] * VALUES


async def main() -> None:
    numbers = [float(word) for word in sys.argv[1:]] if __name__ == "__main__" else []
    seconds = numbers[0] if numbers else 16.0
    for every_s in numbers[1:] or (0.0, 5.0, 15.0):
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            per_day, points = await run(Path(folder), seconds, every_s)
        limit = ECONOMY_LIMIT_MB if every_s else LIMIT_MB
        figure(f"100 points/s to the block device, commit_every_s: {every_s:g}", per_day, "MB/day", at_most=limit)
        note(f"{points} points in {seconds:g} s, extrapolated to a day")


if __name__ == "__main__":
    asyncio.run(main())
