"""What a person sees who has written something wrong: where, what would be right, the exit code, no traceback."""

import asyncio
import json
import logging
import os
import socket
import threading

import pytest
from click.testing import CliRunner

from gateway import cli
from gateway.app import Gateway
from gateway.config import load_config
from gateway.status_view import judge, render

MODBUS = (
    "buses:\n- kind: modbus\n  name: p\n  {host}: h\n  devices:\n  - {{name: B, unit_id: 1, telemetry: [{point}]}}\n"
)
POINT = "{key: a, table: coil, address: 0, type: bool}"


@pytest.fixture(autouse=True)
def away_from_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "SYSTEM_CONFIG", tmp_path / "etc" / "gateway.yaml")
    monkeypatch.setattr("gateway.config.gateway.SYSTEM_STATE", tmp_path / "var")


def edge_gateway(*arguments):
    return CliRunner().invoke(cli.main, arguments)


def check(tmp_path, text):
    (tmp_path / "g.yaml").write_text(text)
    return edge_gateway("check-config", "-c", "g.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MODBUS.format(host="hots", point=POINT), "buses[0].hots: unknown key; did you mean 'host'?"),
        (
            MODBUS.format(host="host", point=POINT.replace("address", "adress")),
            "buses[0].devices[0].telemetry[0].adress: unknown key; did you mean 'address'?",
        ),
        ("buses: [{kind: modbuss}]", "buses[0].kind: no driver of kind 'modbuss'; known kinds: modbus, serial"),
        ("rules: {root_chain: no.json}", "no.json: cannot be read: No such file"),
        ("rules: {root_chain: bad.json}", "bad.json: is no JSON"),
        ("rules: {root_chain: index.json}", "there is no node 0 or 7"),
        (
            "devices: [{name: A, access_token: same1}, {name: B, access_token: same1}]",
            "devices[B]: has the same credentials as 'A'",
        ),
        ("broker: {tls_port: 0, tls_cert: no.pem, tls_key: no.pem}", "broker.tls_cert: no.pem cannot be read"),
        ("broker: {tls_client_ca: bad.json}", "broker.tls_client_ca: bad.json is not PEM"),
        ("broker: {tls_port: 0, tls_cert: half.pem, tls_key: half.pem}", "broker.tls_cert: half.pem and the key"),
        (
            'broker: {profiles: [{name: A, attributes_schema: "syntax = \\"proto3\\";\\nmessage X {"}]}',
            "broker.profiles[0].attributes_schema: line 2: ",
        ),
        ("broker: {profiles: [{name: A}, {name: A}]}", "broker.profiles[1]: the profile 'A' stands twice"),
        ("cloud: {ssl_enabled: true, ssl_cert: no.pem}", "cloud.ssl_cert: no.pem cannot be read"),
    ],
)
def test_check_config_says_where_and_what_would_be_right(tmp_path, text, message):
    (tmp_path / "bad.json").write_text('{"a":')
    node = {"type": "org.thingsboard.rule.engine.action.TbLogNode", "name": "log", "configuration": {}}
    edges = [{"fromIndex": 0, "toIndex": 7, "type": "Success"}]
    (tmp_path / "index.json").write_text(
        json.dumps({"ruleChain": {"name": "C"}, "metadata": {"nodes": [node], "connections": edges}})
    )
    (tmp_path / "half.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    result = check(tmp_path, text)
    assert result.exit_code == cli.EXIT_CONFIG
    assert message in result.stderr
    assert result.stderr.startswith("edge-gateway: g.yaml: ")
    assert "same1" not in result.stderr


def test_a_script_that_does_not_parse_is_a_note_and_told_once(tmp_path, caplog):
    node = {
        "type": "org.thingsboard.rule.engine.filter.TbJsFilterNode",
        "name": "hot?",
        "configuration": {"scriptLang": "JS", "jsScript": "return ((;"},
    }
    (tmp_path / "c.json").write_text(
        json.dumps({"ruleChain": {"name": "C"}, "metadata": {"firstNodeIndex": 0, "nodes": [node], "connections": []}})
    )
    result = check(tmp_path, "rules: {root_chain: c.json}")
    assert result.exit_code == 0
    assert result.stderr.count("hot?") == 1
    assert "g.yaml: the configuration is good" in result.stdout
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("gateway").handlers)


def test_a_chain_of_a_file_that_the_cloud_will_replace_is_a_note(tmp_path):
    chain = {"ruleChain": {"name": "C"}, "metadata": {"firstNodeIndex": None, "nodes": [], "connections": []}}
    (tmp_path / "c.json").write_text(json.dumps(chain))
    text = "note: rules.root_chain is used until the cloud sends its root chain"
    cloud = "cloud: {host: h, routing_key: k, routing_secret: s}\n"
    assert text in check(tmp_path, cloud + "rules: {root_chain: c.json}").stderr
    assert text not in check(tmp_path, cloud + "rules: {root_chain: c.json, prefer_cloud: false}").stderr
    assert text not in check(tmp_path, "cloud: {enabled: false}\nrules: {root_chain: c.json}").stderr


def test_postgres_without_its_extra_is_found_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = check(tmp_path, "store: {kind: postgres, url: 'postgresql://u:p@h/d'}")
    assert result.exit_code == cli.EXIT_CONFIG
    assert "pip install 'edge-gateway[postgres]'" in result.stderr


def test_a_configuration_that_may_not_be_seen_is_named(monkeypatch):
    class Forbidden(type(cli.SYSTEM_CONFIG)):
        def is_file(self):
            raise PermissionError(13, "Permission denied")

        def read_text(self, **_):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cli, "SYSTEM_CONFIG", Forbidden("/etc/edge-gateway/gateway.yaml"))
    result = edge_gateway("status")
    assert result.exit_code == cli.EXIT_CONFIG
    assert "/etc/edge-gateway/gateway.yaml: no rights to read it: try as root" in result.stderr


@pytest.mark.parametrize("command", ["status", "events"])
def test_nobody_answers(command):
    result = edge_gateway(command)
    assert result.exit_code == 2
    assert "no gateway answers on data/api.sock" in result.stderr


def test_a_member_of_the_group_asks_the_service(tmp_path, monkeypatch):
    (tmp_path / "var").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "var" / "api.sock"))
        listener.listen()

        listener.settimeout(10)

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

        thread = threading.Thread(target=answer)
        thread.start()
        result = edge_gateway("events", "--json")
        thread.join(5)
    assert result.exit_code == 0
    assert result.stdout == "[]\n"


def test_data_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "g.yaml").write_text("data_dir: file/x\nbroker: {port: 0, host: 127.0.0.1}\ncloud: {enabled: false}")
    with pytest.raises(Exception, match=r"file/x cannot be written .* set data_dir"):
        asyncio.run(Gateway(load_config(tmp_path / "g.yaml", {})).run(asyncio.Event()))


async def test_a_database_server_that_is_away_at_the_start_is_waited_for(tmp_path, caplog):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]  # bound, not listening: refused
        (tmp_path / "g.yaml").write_text(
            f"store: {{kind: postgres, url: 'postgresql://u:hunter2@127.0.0.1:{port}/d'}}\nbroker: {{port: 0}}"
        )
        stop = asyncio.Event()
        running = asyncio.create_task(Gateway(load_config(tmp_path / "g.yaml", {})).run(stop))
        async with asyncio.timeout(10):
            while "no device can connect before it answers" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not running.done()
        stop.set()
        async with asyncio.timeout(10):
            await running
    assert "hunter2" not in caplog.text


async def test_a_taken_port_is_told_and_nobody_is_told_that_devices_may_connect(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "g.yaml").write_text(
            f"data_dir: d\nbroker: {{host: 127.0.0.1, port: {port}}}\ncloud: {{enabled: false}}"
        )
        gateway, stop = Gateway(load_config(tmp_path / "g.yaml", {})), asyncio.Event()
        running = asyncio.create_task(gateway.run(stop))
        async with asyncio.timeout(10):
            await gateway.ready.wait()
        stop.set()
        await running
    assert "set broker.port to a free one" in caplog.text
    assert "no MQTT device can connect yet" in caplog.text
    assert "is ready" not in caplog.text


def test_status_shows_that_the_gateway_does_not_listen():
    queue = {"pending": 0, "lag_s": 0.0, "parked": 0}
    status = {"queue": queue, "store": {"oldest_waiting_s": 0}, "rules": {"problems": []}}
    assert judge({**status, "mqtt": {"listening": True}}) == []
    assert "no MQTT device can connect" in judge({**status, "mqtt": {"listening": False}})[0]
    unread = {"packages": 0, "used_bytes": 0, "problems": ["packages.yaml: is no YAML"]}
    assert judge({**status, "ota": unread}) == ["firmware and software: packages.yaml: is no YAML"]


def test_status_shows_where_masters_come_in(capsys):
    place = {
        "name": "bus [x]: share",
        "is_open": True,
        "listen": "127.0.0.1:1502",
        "counts": {"requests": 7, "refused": 1},
    }
    status = {
        **{"version": "1", "uptime_s": 1, "memory_bytes": 0, "devices": [], "store": {"oldest_waiting_s": 0}},
        "queue": {"pending": 0, "deployed": 0, "parked": 0, "lag_s": 0.0},
        "mqtt": {"port": 1, "connections": 0},
        "rules": {"problems": [], "chains": []},
        "servers": [place],
    }
    render(status)
    line = "masters  bus [x]: share on 127.0.0.1:1502: 7 requests, 0 exceptions, 1 connections refused"
    assert line in capsys.readouterr().out
    assert judge(status) == []
    assert "bus [x]: share: no master can come in" in judge({**status, "servers": [place | {"is_open": False}]})[0]


def test_a_name_from_outside_cannot_break_the_screen(capsys):
    name = "[/] :smile: [bold]"
    device = {"name": name, "profile": "p", "is_online": True, "origin": "EDGE", "readings": 3}
    cloud = {"state": "closed", "edge": name, "last_error": name}
    render(
        {
            **{"version": "1", "uptime_s": 1, "memory_bytes": 0, "cloud": cloud, "devices": [device]},
            "queue": {"pending": 0, "deployed": 0, "parked": 0, "lag_s": 0.0},
            "store": {"oldest_waiting_s": 0},
            "mqtt": {"port": 1, "connections": 0},
            "rules": {"problems": [name], "chains": []},
        }
    )
    assert capsys.readouterr().out.count(name) == 5


def test_status_lists_what_the_cloud_sent_and_could_not_be_applied_and_breaks_no_line(capsys):
    refused = {"at_ms": 1_800_000_000_000, "what": "DEVICE 1", "reason": "name is missing\nhere " + "x" * 100}
    last = [{**refused, "what": f"DEVICE {number}"} for number in range(5)]
    cloud = {"state": "ready", "edge": "E", "refused_downlinks": {"count": 7, "last": last}}
    queue = {"pending": 5, "deployed": 9, "parked": 1, "lag_s": 0.0, "pending_express": 0, "discarded": 0}
    status = {
        **{"version": "1", "uptime_s": 1, "memory_bytes": 0, "cloud": cloud, "devices": []},
        "queue": {**queue, "accepted": 12, "acked": 6},
        "store": {"oldest_waiting_s": 0},
        "uplink": {"main": {"is_paused": True}},
        "mqtt": {"port": 1, "connections": 0},
        "http": {"port": 8080, "tls_port": None, "listening": False, "connections": 2},
        "rules": {"problems": [], "chains": []},
    }
    render(status)
    lines = capsys.readouterr().out.splitlines()
    assert "         7 messages of the cloud could not be applied; the last:" in lines
    shown = [line for line in lines if "DEVICE" in line]
    assert shown[0] == f"         2027-01-15 08:00:00Z DEVICE 2: name is missing here {'x' * 100}"
    assert [line.split()[3] for line in shown] == ["2:", "3:", "4:"]
    assert "queue    5 pending, 1 parked, lag 0.0 s" in lines  # a parked event is none that was deployed
    assert any(line.endswith("5 pending, 1 parked, 0 discarded") for line in lines)
    assert "http     port 8080, 2 connections" in lines
    assert any(line.startswith("! the cloud limits the rate") for line in lines)
    assert any(line.startswith("! no HTTP device can connect") for line in lines)


def test_status_says_what_the_store_lacks_which_devices_are_gone_and_when_certificates_end(capsys):
    cloud = {
        **{"state": "closed", "edge": "", "last_error": "cloud:7070: TLS: the certificate has another name"},
        **{"layer": "TLS", "certificates": [{"name": "server", "not_after_ms": 1_800_000_000_000, "days_left": 12}]},
    }
    status = {
        **{"version": "1", "uptime_s": 1, "memory_bytes": 0, "cloud": cloud, "devices": []},
        "queue": {"pending": 0, "deployed": 0, "parked": 0, "lag_s": 0.0},
        "store": {"oldest_waiting_s": 99, "problem": "store is full (10 of 10 bytes); telemetry waits"},
        "mqtt": {"port": 1, "connections": 0},
        "rules": {"problems": [], "chains": []},
        "removed_devices": ["Boiler"],
    }
    render(status)
    screen = " ".join(capsys.readouterr().out.split())
    assert "store is full (10 of 10 bytes); telemetry waits" in screen
    assert "has not answered" not in screen
    assert "device 'Boiler' was deleted in the cloud" in screen
    assert "last error (TLS): cloud:7070: TLS: the certificate has another name" in screen
    assert "certificate server until 2027-01-15 (12 days left)" in screen
