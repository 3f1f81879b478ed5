"""A firmware update from the cloud to the vendor's own device client and back, and over HTTP; a kill in the middle."""

import asyncio
import base64
import hashlib
import json
import os
from pathlib import Path

import httpx
import pytest

from tests.e2e.parts import CloudProcess, GatewayProcess, free_port, until

ROOT = Path(__file__).parents[2]
FIRMWARE = os.urandom(300_000)


async def update(port, chunk_size):
    """What the SDK made of it."""
    python = Path(os.environ.get("EDGE_GATEWAY_TB_PYTHON") or ROOT / ".venv-tb" / "bin" / "python")
    assert python.exists(), f"{python}: make an environment with tb-mqtt-client and mmh3, or set EDGE_GATEWAY_TB_PYTHON"
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(ROOT / "tests" / "e2e" / "ota_sdk.py"),
        str(port),
        "ota-token",
        str(chunk_size),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return json.loads(out)


@pytest.mark.server
async def test_the_vendors_client_updates_its_firmware(tmp_path):
    http_port = free_port()
    devices = [{"name": "Boiler", "access_token": "ota-token"}]
    sections = {"devices": devices, "http": {"host": "127.0.0.1", "port": http_port}}
    cloud = CloudProcess(tmp_path)
    async with cloud, GatewayProcess(tmp_path, cloud.grpc_port, **sections) as gateway:

        async def arrived():
            return (await cloud.device("Boiler")).get("id")

        await until(arrived, 15, "the device did not reach the cloud")
        package = {"title": "thermostat", "version": "2.0", "data": base64.b64encode(FIRMWARE).decode()}
        made = await cloud.call("POST", "/api/ota", {**package, "algorithm": "MURMUR3_128"})
        await cloud.call("POST", "/api/devices/Boiler/ota", {"package": made["id"]})

        async def assigned():
            held = [one for one in (await gateway.ask("/ota"))["packages"] if one["devices"] == ["Boiler"]]
            return held and held[0]["problem"] is None

        await until(assigned, 15, "the package did not reach the gateway")
        file = tmp_path / "data" / "ota" / made["id"]
        assert file.read_bytes() == FIRMWARE
        await gateway.kill()  # the package was acknowledged: it is there after a power cut
        await gateway.start()
        expected = {"size": len(FIRMWARE), "sha256": hashlib.sha256(FIRMWARE).hexdigest(), "version": "2.0"}
        assert await update(gateway.port, 50_000) == expected | {"in_time": True}

        async def reported():
            latest = (await cloud.device("Boiler")).get("telemetry", {})
            return {key: latest[key]["value"] for key in latest if "fw" in key} if "last" in latest else None

        told = await until(reported, 15, "the device's report did not reach the cloud")
        assert told["fw_state"] == "UPDATED"
        assert (told["current_fw_title"], str(told["current_fw_version"])) == ("thermostat", "2.0")

        url = f"http://127.0.0.1:{http_port}/api/v1/ota-token/firmware"
        async with httpx.AsyncClient(timeout=10) as client:
            whole = await client.get(url, params={"title": "thermostat", "version": "2.0"})
            assert (whole.status_code, whole.content) == (200, FIRMWARE)
            assert whole.headers["x-filename"] == "thermostat-2.0.bin"
            assert whole.headers["content-disposition"] == "attachment;filename=thermostat-2.0.bin"
            assert whole.headers["content-type"] == "application/octet-stream"
            ask = {"title": "thermostat", "version": "2.0", "size": "200000"}
            for number, content in enumerate((FIRMWARE[:200_000], FIRMWARE[200_000:], b"")):
                part = await client.get(url, params=ask | {"chunk": str(number)})
                assert (part.status_code, part.content) == (200, content)
            for wrong, status in (({"version": "1"}, 400), ({"size": "x"}, 400), ({}, 200)):
                assert (await client.get(url, params=ask | wrong)).status_code == status
            assert (await client.get(url)).status_code == 400
            software = url.replace("firmware", "software")
            assert (await client.get(software, params=ask)).status_code == 404

        await cloud.call("POST", "/api/devices/Boiler/ota", {"package": None})

        async def unassigned():
            return not any(one["devices"] for one in (await gateway.ask("/ota"))["packages"])

        await until(unassigned, 15, "the assignment did not go")
        await cloud.call("DELETE", f"/api/ota/{made['id']}")

        async def gone():
            return not file.exists()

        await until(gone, 15, "the file did not go")
        assert "ota" not in str((await gateway.status())["ota"]["problems"])


@pytest.mark.server
async def test_without_a_cloud_from_a_folder_in_one_message(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "t.bin").write_bytes(FIRMWARE)
    line = "{title: thermostat, version: '3', file: t.bin, profiles: [default], checksum_algorithm: MURMUR3_32}"
    (folder / "packages.yaml").write_text(f"packages:\n  - {line}\n")
    sections = {"devices": [{"name": "Boiler", "access_token": "ota-token"}], "ota": {"folder": str(folder)}}
    async with GatewayProcess(tmp_path, None, **sections) as gateway:

        async def assigned():
            return any(one["devices"] for one in (await gateway.ask("/ota"))["packages"])

        await until(assigned, 15, "the package was not assigned")
        got = await update(gateway.port, 0)
        assert (got["size"], got["version"], got["in_time"]) == (len(FIRMWARE), "3", True)
