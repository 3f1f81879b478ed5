"""The simulator's HTTP API, and the simulator as a process."""

import asyncio
import os
import signal
import sys

import httpx
import orjson
import pytest

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim import CloudSim, CloudSimOptions, SimDevice
from tests.integration.cloud_sim_edge import Edge, telemetry, until


@pytest.fixture
async def sim():
    devices = (SimDevice(name="Valve B", token="valve-token"),)
    async with CloudSim(CloudSimOptions(poll_s=0.01, devices=devices)) as running:
        yield running


@pytest.fixture
async def http(sim):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sim.http_port}", trust_env=False) as client:
        yield client


async def test_state_and_devices(sim, http):
    state = (await http.get("/api/state")).json()
    assert (state["edge"]["active"], state["session"], state["listening"]) == (False, None, True)
    made = await http.post("/api/devices", json={"name": "Pump 1", "profile": "pump", "token": "p1"})
    assert (made.status_code, made.json()["token"], made.json()["type"]) == (201, "p1", "pump")
    again = await http.post("/api/devices", json={"name": "Pump 1"})
    assert (again.status_code, "exists" in again.json()["error"]) == (400, True)
    taken = await http.post("/api/devices", json={"name": "Pump 2", "token": "p1"})
    assert taken.status_code == 400
    assert [device["name"] for device in (await http.get("/api/devices")).json()] == ["Valve B", "Pump 1"]
    shown = await http.get("/api/devices/Valve%20B")
    assert shown.json()["credentials_type"] == "ACCESS_TOKEN"
    assert "valve-token" not in shown.text
    renamed = await http.patch("/api/devices/Pump%201", json={"name": "Pump one", "token": "p2"})
    assert renamed.json()["name"] == "Pump one"
    assert (await http.delete("/api/devices/Pump%20one")).status_code == 200
    assert (await http.get("/api/devices/Pump%20one")).status_code == 404


async def test_telemetry_that_arrived(sim, http):
    async with Edge(sim.grpc_port) as edge:
        await edge.connect()
        device = sim.world.device_named("Valve B").id
        for ts in (1, 2, 3):
            await edge.uplink(entityData=[telemetry(device, ts, t=ts * 10, seq=ts)])
        shown = (await http.get("/api/devices/Valve B")).json()
        assert shown["telemetry"]["t"] == {"ts": 3, "value": 30}
        assert (shown["seq_high"], shown["missing"], shown["points"]) == (3, 0, 6)
        values = (await http.get("/api/devices/Valve B/telemetry", params={"key": "t", "limit": 2})).json()
        assert values == [{"ts": 3, "value": 30}, {"ts": 2, "value": 20}]
        assert (await http.get("/api/devices/Valve B/telemetry")).status_code == 400
        assert (await http.post("/api/reset-counters")).status_code == 200
        assert (await http.get("/api/state")).json()["points_received"] == 0


async def test_attributes_and_rpc(sim, http):
    async with Edge(sim.grpc_port) as edge:
        tasks = []

        def on_downlink(msg):
            for call in msg.deviceRpcCallMsg:
                answer = edge_pb2.DeviceRpcCallMsg()
                answer.CopyFrom(call)
                answer.ClearField("requestMsg")
                answer.responseMsg.response = '{"level":3}'
                if call.requestMsg.method == "broken":
                    answer.responseMsg.error = "NO_ACTIVE_CONNECTION"
                tasks.append(asyncio.create_task(edge.post(deviceRpcCallMsg=[answer])))

        edge.on_downlink = on_downlink
        await edge.connect()
        place = "/api/devices/Valve B/attributes/SHARED_SCOPE"
        assert (await http.post(place, json={"limit": 7, "mode": "eco"})).json() == {"queued": True}
        await until(lambda: edge.downlinks)
        data = edge.downlinks[0].entityData[0]
        assert (data.postAttributeScope, sorted(kv.key for kv in data.attributesUpdatedMsg.kv)) == (
            "SHARED_SCOPE",
            ["limit", "mode"],
        )
        assert (await http.delete(place, params={"keys": "limit,mode"})).json() == {"queued": True}
        await until(lambda: len(edge.downlinks) == 2)
        assert list(edge.downlinks[1].entityData[0].attributeDeleteMsg.attributeNames) == ["limit", "mode"]
        wrong = await http.post("/api/devices/Valve B/attributes/MY_SCOPE", json={"a": 1})
        assert wrong.status_code == 400
        rpc = "/api/devices/Valve B/rpc"
        answer = await http.post(rpc, json={"method": "get", "params": {}, "timeout_ms": 3000})
        assert (answer.status_code, answer.json()) == (200, {"level": 3})
        absent = await http.post(rpc, json={"method": "broken"})
        assert (absent.status_code, absent.json()["error"]) == (409, "NO_ACTIVE_CONNECTION")
        assert (await http.post(f"{rpc}?form=short", json={"method": "broken"})).status_code == 504
        assert (await http.post(rpc, json={"params": 1})).status_code == 400
        assert (await http.post("/api/devices/Nobody/rpc", json={"method": "x"})).status_code == 404
    await until(lambda: not sim.is_edge_active)
    assert (await http.post(rpc, json={"method": "x", "timeout_ms": 50})).status_code == 408


async def test_sync_faults_chains_and_offline(sim, http):
    assert (await http.post("/api/sync")).status_code == 400
    async with Edge(sim.grpc_port) as edge:
        await edge.connect()
        assert (await http.post("/api/sync")).status_code == 200
        await until(lambda: edge.downlinks and edge.downlinks[-1].HasField("syncCompletedMsg"))
        await until(lambda: not sim.session.is_syncing)
        export = {"ruleChain": {"name": "Mine"}, "metadata": {"nodes": [], "connections": []}}
        made = await http.post("/api/rule-chains?root=false", json=export)
        assert made.status_code == 201
        await until(lambda: edge.downlinks[-1].ruleChainUpdateMsg)
        assert orjson.loads(edge.downlinks[-1].ruleChainUpdateMsg[0].entity)["root"] is False
        assert (await http.post("/api/rule-chains", json={"nodes": []})).status_code == 400
        faults = await http.post("/api/faults", json={"fail_once": "*", "slow_ms": 1})
        assert (faults.json()["fail_once"], faults.json()["slow_ms"]) == ("*", 1)
        assert (await http.post("/api/faults", json={"boom": 1})).status_code == 400
        assert (await http.get("/api/faults")).json()["fail_once"] == "*"
        assert (await http.post("/api/edge", json={"customer": "real"})).status_code == 200
        await until(lambda: edge.updates)
        assert (await http.post("/api/offline?seconds=0.1")).status_code == 200
        await until(lambda: edge.status)
        assert (await http.get("/api/state")).json()["listening"] is False
        assert (await http.post("/api/offline?seconds=soon")).status_code == 400
    await sim.wait_online()
    async with Edge(sim.grpc_port) as edge:
        await edge.connect()
        assert (await http.post("/api/end-session")).status_code == 200
        await until(lambda: edge.status)
        assert edge.status.name == "OK"


@pytest.mark.server
async def test_runs_as_a_process_and_stops_when_told():
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "gateway.cloudsim",
            "--grpc-port",
            "0",
            "--http-port",
            "0",
            "--device",
            "Fan=fan-token",
        ),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(15):
            text = ""
            while "fan-token" not in text:
                line = await process.stdout.readline()
                assert line, text
                text += line.decode()
        port = int(text.split("CLOUD_RPC_PORT=")[1].split()[0])
        async with Edge(port) as edge:
            assert (await edge.connect()).responseCode == edge_pb2.ACCEPTED
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_what_the_cloud_is_and_does_can_be_told_over_http(sim, http):
    assert (await http.post("/api/everything")).status_code == 400  # nobody is there
    async with Edge(sim.grpc_port) as edge:
        await edge.connect()
        wanted = len(edge_pb2.DownlinkMsg.DESCRIPTOR.fields) - 1
        assert (await http.post("/api/everything")).json() == {"queued": wanted}
        await until(lambda: len(edge.downlinks) == wanted)
        await edge.uplink(entityData=[telemetry(sim.world.device_named("Valve B").id, 0, t=1)])
        state = (await http.get("/api/state")).json()
        assert state["violation_counts"] == {"zero_ts": 1}
        assert state["violations"] == ["zero_ts: t at 0"]
        await http.post("/api/edge", json={"name": "Plant 2"})
        await until(lambda: [update for update in edge.updates if update.configuration.name == "Plant 2"])
        assert (await http.patch("/api/devices/Valve B", json={"assigned": False})).json()["assigned"] is False
        before = (await http.get("/api/state")).json()["edge"]["id"]
        changed = (await http.post("/api/edge", json={"identity": "new"})).json()
        assert changed["id"] != before
        await until(lambda: edge.status)
    for body in ({"identity": "old"}, {"customer": "some"}, {"nonsense": 1}, {}):
        assert (await http.post("/api/edge", json=body)).status_code == 400, body


async def test_endings_over_http(sim, http):
    for path in ("/api/takeover", "/api/goaway?grace_s=0", "/api/reset-connections"):
        async with Edge(sim.grpc_port) as edge:
            await edge.connect()
            assert (await http.post(path)).status_code == 200
            await until(lambda edge=edge: edge.status, path)
        await until(lambda: not sim.is_edge_active)
    assert (await http.post("/api/takeover")).status_code == 400


async def test_release_flavour_and_edition_over_http(sim, http):
    state = (await http.post("/api/cloud", json={"flavour": "winstar", "cloud_type": "PE"})).json()
    assert (state["version"], state["flavour"], state["cloud_type"]) == ("3.7", "winstar", "PE")
    state = (await http.post("/api/cloud", json={"flavour": "thingsboard", "version": "4.2"})).json()
    assert (state["version"], state["flavour"]) == ("4.2", "thingsboard")
    for body in ({"version": "9"}, {"flavour": "acme"}, {"flavour": "winstar", "version": "4.3"}, {}):
        assert (await http.post("/api/cloud", json=body)).status_code == 400, body
