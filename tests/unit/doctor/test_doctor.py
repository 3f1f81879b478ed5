"""The rest of the round, and the command itself."""

import asyncio
import json
import socket
import time

import pytest
from click.testing import CliRunner

from gateway import cli
from gateway.app import Gateway
from gateway.cloud.tls import Expiry
from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.server import CloudSim
from gateway.config import BrokerConfig, GatewayConfig, HttpConfig, PostgresStore
from gateway.demo.processes import free_port
from gateway.doctor import Level, box, examine
from gateway.store.look import look
from gateway.supervise import SystemClock
from tests.integration.test_broker_tls import make_certificate
from tests.unit.cloud.server import until

DAY_MS = 86_400_000


def by_place(found):
    return {one.where: one for one in found}


def config_for(folder, cloud_port=None, **changes):
    cloud = {"enabled": False}
    if cloud_port:
        cloud = {"host": "127.0.0.1", "port": cloud_port, "routing_key": "demo-edge", "routing_secret": "demo-secret"}
    tree = {"data_dir": folder / "data", "broker": {"host": "127.0.0.1", "port": free_port()}, "cloud": cloud}
    return GatewayConfig.model_validate(tree | changes)


async def test_beside_a_running_service_it_asks_and_does_not_evict(tmp_path):
    async with CloudSim(CloudSimOptions(http_port=None)) as sim:
        config = config_for(tmp_path, sim.grpc_port)
        gateway, stop = Gateway(config), asyncio.Event()
        serving = asyncio.create_task(gateway.run(stop))
        async with asyncio.timeout(10):
            while not config.socket_path.exists() or gateway.counters.all().get("cloud.downlinks", 0) == 0:
                await asyncio.sleep(0.01)
        await until(lambda: sim.session is not None and not sim.session.is_syncing)
        found = by_place(await examine(config, SystemClock()))
        connects = sim.state()["connects"]
        stop.set()
        await serving
        assert connects == 1
        assert found["cloud"].level is Level.OK
        assert f"connected to 127.0.0.1:{sim.grpc_port}" in found["cloud"].text
        assert "in use by the service" in found["store"].text
        assert "the service listens" in found[f"port {config.broker.port}"].text

        found = by_place(await examine(config, SystemClock()))
        assert found["service"].text.startswith("not running")
        assert ": free, " in found["store"].text
        assert found["cloud credentials"].level is Level.OK
        assert sim.state()["connects"] == 2


async def test_a_store_that_is_held_by_somebody_who_does_not_answer_here_keeps_the_key_back(tmp_path):
    async with CloudSim(CloudSimOptions(http_port=None)) as sim:
        config = config_for(tmp_path, sim.grpc_port)
        holder = config.model_copy(update={"cloud": config.cloud.model_copy(update={"enabled": False})})
        holder = holder.model_copy(update={"api": holder.api.model_copy(update={"socket": tmp_path / "other.sock"})})
        gateway, stop = Gateway(holder), asyncio.Event()
        serving = asyncio.create_task(gateway.run(stop))
        async with asyncio.timeout(10):
            await gateway.ready.wait()
        found = by_place(await examine(config, SystemClock()))
        stop.set()
        await serving
        assert found["store"].level is Level.WARNING
        assert found["cloud credentials"].level is Level.WARNING
        assert found[f"port {config.broker.port}"].level is Level.PROBLEM
        assert sim.state()["connects"] == 0


async def test_what_waits_is_counted_without_the_service(tmp_path):
    devices = [{"name": name, "access_token": name} for name in ("A1", "B2", "C3")]
    config = config_for(tmp_path, devices=devices)
    assert not (await look(config.store, config.state_dir)).is_there
    gateway, stop = Gateway(config), asyncio.Event()
    serving = asyncio.create_task(gateway.run(stop))
    async with asyncio.timeout(10):
        await gateway.ready.wait()
    assert (await look(config.store, config.state_dir)).is_held
    stop.set()
    await serving
    seen = await look(config.store, config.state_dir)
    assert (seen.is_there, seen.is_held, seen.pending, seen.parked, seen.problem) == (True, False, 3, 0, "")
    (config.state_dir / "gateway.db").write_bytes(b"no database" * 1000)
    assert "not a database" in (await look(config.store, config.state_dir)).problem


async def test_a_database_server_that_is_away(tmp_path):
    store = PostgresStore(kind="postgres", url=f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d")
    seen = await look(store, tmp_path)
    (found,) = box.store(seen, None, is_running=False)
    assert found.level is Level.PROBLEM
    assert "refused" in found.text
    assert "hunter2" not in found.line()


@pytest.mark.server
async def test_a_database_server(postgres_server, tmp_path):
    store = PostgresStore(kind="postgres", url=postgres_server.url, schema_name="doctor_looks")
    assert not (await look(store, tmp_path)).is_there
    config = config_for(tmp_path, store=store.model_dump(), devices=[{"name": "A", "access_token": "a1"}])
    gateway, stop = Gateway(config), asyncio.Event()
    serving = asyncio.create_task(gateway.run(stop))
    async with asyncio.timeout(10):
        await gateway.ready.wait()
    seen = await look(store, tmp_path)
    assert (seen.is_there, seen.is_held, seen.pending, seen.problem) == (True, True, 1, "")
    stop.set()
    await serving
    assert (await look(store, tmp_path)).is_held is False


@pytest.mark.parametrize(
    ("days", "level", "text"),
    [(-1, 2, "expired on"), (0, 2, "within a day"), (6, 1, "in 6 days"), (29, 1, "in 29 days"), (30, 0, "30 days")],
)
def test_a_certificate_that_ends(days, level, text):
    found = box.expiring(Expiry("broker.tls_cert", 1_700_000_000_000 + days * DAY_MS), 1_700_000_000_000)
    assert (found.level, text in found.text) == (level, True)
    assert bool(found.remedy) == bool(level)


def test_a_clock_that_was_never_set():
    assert box.clock(1_000)[0].level is Level.PROBLEM
    assert box.clock(time.time_ns() // 1_000_000)[0].level is Level.OK


def test_ports_free_taken_and_without_rights():
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = BrokerConfig(host="127.0.0.1", port=other.getsockname()[1])
        (found,) = box.listeners(taken, None)
        assert (found.level, "broker.port: another program has it" in found.text) == (Level.PROBLEM, True)
        (found,) = box.listeners(taken, {"listening": False})
        assert "the service cannot listen" in found.text
    assert box.listeners(BrokerConfig(host="127.0.0.1", port=free_port()), None)[0].level is Level.OK
    assert box.listeners(BrokerConfig(host="192.0.2.1", port=free_port()), None)[0].remedy == "correct broker.host"


def test_every_port_that_is_configured_is_looked_at(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        files = {"tls_cert": tmp_path / "c", "tls_key": tmp_path / "k"}
        ports = {
            "port": free_port(),
            "tls_port": free_port(),
            "websocket_port": taken,
            "websocket_tls_port": free_port(),
        }
        found = box.listeners(BrokerConfig(host="127.0.0.1", **ports, **files), None)
        assert [one.level for one in found] == [Level.OK, Level.OK, Level.PROBLEM, Level.OK]
        assert "set broker.websocket_port" in found[2].remedy
        http = HttpConfig(host="127.0.0.1", port=free_port(), tls_port=taken, **files)
        found = box.http_listeners(http, None)
        assert [one.level for one in found] == [Level.OK, Level.PROBLEM]
        assert found[1].text == "http.tls_port: another program has it"
    assert box.http_listeners(HttpConfig(), None) == []
    assert box.listeners(BrokerConfig(enabled=False), None) == []
    found = box.http_listeners(HttpConfig(port=8080), {"listening": True, "connections": 3})
    assert [one.text for one in found] == ["http.port: the service listens, 3 connections"]
    (found,) = box.http_listeners(HttpConfig(port=8080), {"listening": False})
    assert (found.level, "set http.port" in found.remedy) == (Level.PROBLEM, True)
    (found,) = box.http_listeners(HttpConfig(host="192.0.2.1", port=free_port()), None)
    assert found.remedy == "correct http.host"


async def test_http_is_part_of_the_round_and_its_certificate_too(tmp_path):
    make_certificate(tmp_path)
    paper = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    with socket.create_server(("127.0.0.1", 0)) as other:
        http = {"host": "127.0.0.1", "tls_port": other.getsockname()[1], **paper}
        found = by_place(await examine(config_for(tmp_path, http=http), SystemClock()))
    assert found[f"port {http['tls_port']}"].text == "http.tls_port: another program has it"
    assert "expires in 1 days" in found["certificate http.tls_cert"].text


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (found,) = box.state_folder(config_for(tmp_path, data_dir=tmp_path / "file" / "data"))
    assert found.level is Level.PROBLEM
    assert "data_dir" in found.remedy


@pytest.mark.parametrize(
    ("text", "code", "first"),
    [
        ("borker: {}", 2, "unknown key; did you mean 'broker'?"),
        ("rules: {root_chain: no.json}", 2, "no.json: cannot be read"),
        ("cloud: {enabled: false}", 0, "good"),
        ("cloud: {host: 127.0.0.1, port: 1}", 2, "no routing_key"),
    ],
)
def test_the_command(tmp_path, monkeypatch, text, code, first):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.yaml").write_text(text if text.startswith("borker") else f"{text}\nbroker: {{port: 0}}\ndata_dir: d")
    result = CliRunner().invoke(cli.main, ["doctor", "-c", "g.yaml"])
    assert result.exit_code == code, result.output
    assert first in result.output
    result = CliRunner().invoke(cli.main, ["doctor", "-c", "g.yaml", "--json"])
    found = json.loads(result.stdout)
    assert {"level", "where", "text", "remedy"} == set(found[0])
    assert max({"ok": 0, "warning": 1, "problem": 2}[one["level"]] for one in found) == code
    assert not (tmp_path / "d").exists()
