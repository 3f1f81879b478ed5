"""What a person does with parked events and with history, on processes and the real command line."""

import asyncio
import sys
import time

import pytest

from tests.e2e.parts import CloudProcess, GatewayProcess, NumberedDevice, until


async def command(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    text, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, text.decode()


@pytest.mark.server
async def test_parked_readings_and_history_reach_the_new_tenant_and_every_event_is_accounted_for(tmp_path):
    devices = [{"name": "T", "profile": "thermostat", "access_token": "t"}]
    async with CloudProcess(tmp_path) as cloud, GatewayProcess(tmp_path, cloud.grpc_port, devices=devices) as gateway:
        config = ("-c", str(gateway.config_path))
        device = NumberedDevice("t", gateway.port)
        start_ms = time.time_ns() // 1_000_000 - 3_600_000
        device.publish(start_ms)

        async def known() -> bool:
            return bool((await cloud.device("T")).get("telemetry", {}).get("seq"))

        await until(known, 20, "the first reading did not arrive")
        first = await cloud.device("T")
        await cloud.call("POST", "/api/faults", {"silent": True})
        for n in range(1, 101):
            device.publish(start_ms + n)

        async def acknowledged() -> bool:
            return len(device.acknowledged) == 101

        await until(acknowledged, 20, "the readings were not taken")
        await cloud.call("POST", "/api/edge", {"identity": "new"})
        await cloud.call("POST", "/api/faults", {"silent": False})

        async def announced() -> bool:
            found = await cloud.device("T")
            return bool(found) and found["id"] != first["id"]

        await until(announced, 30, "the device was not announced to the new tenant")

        async def tally() -> dict:
            queue = (await gateway.status())["queue"]
            waiting = queue["pending"] + queue["pending_express"]
            assert queue["accepted"] == queue["acked"] + waiting + queue["parked"] + queue["discarded"]
            return queue

        parked = (await tally())["parked"]
        assert parked >= 100
        (newest,) = await gateway.ask("/events?status=parked&limit=1")
        code, text = await command("events", "discard", "--seq", str(newest["seqId"]), *config)
        assert (code, text) == (0, "1 are discarded\n")
        code, text = await command("events", "resend", "--device", "T", *config)
        assert code == 0, text
        assert int(text.split()[0]) >= 99

        async def values() -> set[int]:
            rows = await cloud.call("GET", "/api/devices/T/telemetry?key=seq&limit=1000")
            return {row["value"] for row in rows}

        async def arrived() -> bool:
            return await values() >= set(range(3, 101))  # one was discarded, the first was the old tenant's

        await until(arrived, 30, "what was sent again did not arrive")
        assert 101 not in await values()
        queue = await tally()
        assert (queue["discarded"], queue["parked"]) == (1, parked - 1 - queue["resent"])
        await gateway.kill()
        await gateway.start()
        assert (await tally())["discarded"] == 1

        device.publish(start_ms + 200)
        await until(lambda: _holds(values, 102), 20, "a new reading did not arrive")
        before = (await gateway.status())["queue"]["accepted"]
        code, text = await command("resend", "--device", "T", "--from", str(start_ms), "--key", "seq", *config)
        assert (code, text) == (0, "1 events are on their way\n")  # the rest went with the old tenant's device
        assert (await gateway.status())["queue"]["accepted"] == before + 1
        code, text = await command("resend", "--device", "U", "--from", "0", *config)
        assert (code, text) == (2, "edge-gateway: device: there is no 'U'; `edge-gateway status` lists them\n")
        device.stop()


async def _holds(values, number: int) -> bool:
    return number in await values()
