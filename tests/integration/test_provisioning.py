"""Provisioning, certificates and claims over real sockets, in front of the real device room."""

import asyncio
import contextlib
import json
import logging
import ssl
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import paho.mqtt.client as mqtt
import pytest

from gateway.broker import MqttBroker, encode
from gateway.broker.packets import PUBACK, Ack, Connack, Connect, Disconnect, Publish, Suback
from gateway.config import BrokerConfig, HttpConfig
from gateway.devices.provisioning import ProvisionKey, x509_credentials
from gateway.domain.changes import SaveDevice, SaveProfile
from gateway.domain.entity import Device, DeviceProfile, time_uuid
from gateway.domain.onboarding import certificate_hash, certificate_line
from gateway.errors import RejectedError
from gateway.supervise import SystemClock
from gateway.web import DeviceHttp
from tests.e2e.parts import CloudProcess, GatewayProcess, until
from tests.fakes.clock import FakeClock
from tests.fakes.house import House, settle
from tests.integration.broker_peer import PATIENCE_S, Peer

ROOT = Path(__file__).parents[2]
REQUEST, RESPONSE = "/provision/request", "/provision/response"
ASKED = {"provisionDeviceKey": "key", "provisionDeviceSecret": "s3cret", "deviceName": "D", "token": "tok"}
SUCCESS = {"credentialsValue": "tok", "credentialsType": "ACCESS_TOKEN", "status": "SUCCESS"}
NOT_FOUND = {"errorMsg": "Provision data was not found!", "status": "NOT_FOUND"}
CHAIN = "X509_CERTIFICATE_CHAIN"


@asynccontextmanager
async def street(clock=None, **settings):
    """A house with an MQTT door; profile `boiler` has the key `key`."""
    async with House() as house:
        key = ProvisionKey(profile="boiler", type="ALLOW_CREATE_NEW_DEVICES", key="key", secret="s3cret")
        house.inlet.provisioning.local = [key]
        config = BrokerConfig(**{"host": "127.0.0.1", "port": 0} | settings)
        room = MqttBroker(config, house.inlet, clock or SystemClock(), house.counters)
        serving = asyncio.create_task(room.serve())
        try:
            await asyncio.wait_for(room.ready.wait(), PATIENCE_S)
            yield house, room
        finally:
            serving.cancel()
            await asyncio.wait([serving])


@asynccontextmanager
async def peer(room, version=4, tls=None, **fields):
    where = ("localhost", room.tls_port) if tls else ("127.0.0.1", room.port)
    reader, writer = await asyncio.open_connection(*where, ssl=tls)
    here = Peer(reader, writer, version)
    try:
        here.send(encode.connect(Connect(version=version, **fields)))
        yield here
    finally:
        writer.close()


async def receive_all(here, count):
    return [await here.receive() for _ in range(count)]


# ── MQTT ──


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (3, {"user_name": "provision", "client_id": "c"}),
        (4, {"client_id": "provision"}),
        (5, {"user_name": "provision", "password": b"x"}),
    ],
)
async def test_a_device_asks_and_is_answered_after_the_disk(version, fields):
    async with street() as (house, room), peer(room, version, **fields) as here:
        assert await here.receive() == Connack(False, 0)
        here.send(encode.subscribe(version, 1, [(RESPONSE, 0), ("v1/devices/me/attributes", 1), ("#", 0)]))
        refused = 0x8F if version == 5 else 0x80
        assert await here.receive() == Suback(1, [0, refused, refused])
        house.committer.hold()
        here.publish(REQUEST, orjson.dumps(ASKED), 1, 7)
        assert await here.ping() == []  # not yet
        house.committer.release()
        assert await here.receive() == Ack(PUBACK, 7)
        answer = await here.receive()
        assert (answer.topic, answer.qos, orjson.loads(answer.payload)) == (RESPONSE, 0, SUCCESS)
        assert house.state.device_named("D").credentials.credentials_id == "tok"
        here.publish(REQUEST, orjson.dumps(ASKED), 1, 8)
        await here.receive()
        assert orjson.loads((await here.receive()).payload)["status"] == "FAILURE"


async def test_without_a_subscription_the_answer_has_qos_1():
    async with street() as (_, room), peer(room, user_name="provision") as here:
        here.publish(REQUEST, orjson.dumps(ASKED))
        _, answer = await receive_all(here, 2)
        assert (type(answer), answer.qos) == (Publish, 1)
        here.send(encode.ack(PUBACK, answer.packet_id))
        assert await here.ping() == []


@pytest.mark.parametrize(
    ("version", "topic", "payload", "reason", "ending"),
    [
        (4, "v1/devices/me/telemetry", b"{}", 0, None),
        (5, "v1/devices/me/telemetry", b"{}", 0x90, 0x90),
        (4, REQUEST, b"{}", 0, None),
        (5, REQUEST, b'{"provisionDeviceKey":"key"}', 0, 0x83),
        (5, REQUEST, b"\x0a\x03abc", 0, 0x83),
    ],
)
async def test_other_topics_and_bad_requests_are_acknowledged_and_end_it(version, topic, payload, reason, ending):
    async with street() as (house, room), peer(room, version, user_name="provision") as here:
        here.publish(topic, payload, 1, 7)
        assert (await receive_all(here, 2))[1] == Ack(PUBACK, 7, reason)
        if ending is not None:
            assert await here.receive() == Disconnect(ending)
        assert await here.receive() is None
        assert house.committer.changes() == []


async def test_the_connection_ends_a_minute_after_the_response():
    clock = FakeClock()
    async with street(clock) as (_, room), peer(room, user_name="provision") as here:
        here.publish(REQUEST, orjson.dumps(ASKED))
        await receive_all(here, 2)
        await clock.advance(58)
        assert await here.ping() == []
        await clock.advance(3)
        assert await here.receive() is None


async def test_wrong_secrets_count_as_wrong_passwords_do(caplog):
    caplog.set_level(logging.DEBUG)
    async with street(wrong_password_limit=3) as (_, room):
        async with peer(room, user_name="provision") as here:
            assert await here.receive() == Connack(False, 0)
            for _ in range(3):
                here.publish(REQUEST, orjson.dumps(ASKED | {"provisionDeviceSecret": "gu3ss"}))
                assert orjson.loads((await here.receive()).payload) == NOT_FOUND
            assert await here.receive() is None
        async with peer(room, user_name="provision") as here:
            assert await here.receive() is None
    assert "gu3ss" not in caplog.text


async def test_a_device_of_another_transport_is_turned_down(caplog):
    async with street() as (house, room):
        profile = DeviceProfile(id=time_uuid(), name="boiler", origin="CLOUD", json={"transportType": "COAP"})
        house.state.apply([SaveProfile(profile)])
        house.add_device("Boiler", "tok")
        for version, code in ((4, 3), (5, 0x88)):
            async with peer(room, version, user_name="tok") as here:
                assert await here.receive() == Connack(False, code)
        assert house.counters.get("broker.connects_refused") == 2
    assert caplog.text.count("bound to another transport") == 1  # it comes again every few seconds


async def test_a_claim_over_mqtt():
    async with street() as (house, room):
        house.add_device("Boiler", "tok")
        async with peer(room, user_name="tok") as here:
            house.committer.hold()
            here.publish("v1/devices/me/claim", b'{"secretKey":"k","durationMs":60000}', 1, 3)
            await here.receive()
            assert await here.ping() == []
            house.committer.release()
            assert await here.receive() == Ack(PUBACK, 3)
            assert (await house.inlet.claims.claim("Boiler", "k")).value == "SUCCESS"
            here.publish("v1/devices/me/claim", b"[]", 1, 4)
            assert await here.receive() is None


@pytest.mark.server
async def test_the_vendors_sdk_provisions_itself():
    python = ROOT / ".venv-tb/bin/python"
    assert python.exists(), "needs the vendor's client in a venv of its own: make .venv-tb/done"
    async with street() as (house, room):
        script = Path(__file__).parent / "provision_sdk.py"
        process = await asyncio.create_subprocess_exec(
            str(python), str(script), str(room.port), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(30):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        held = house.state.device_named("Sensor").credentials.credentials_id
        assert json.loads(output.decode().strip().splitlines()[-1]) == {"token": held, "sent": True}


# ── HTTP ──


@asynccontextmanager
async def shop(**settings):
    async with House() as house:
        key = ProvisionKey(profile="boiler", type="ALLOW_CREATE_NEW_DEVICES", key="key", secret="s3cret")
        house.inlet.provisioning.local = [key]
        room = DeviceHttp(
            HttpConfig(**{"host": "127.0.0.1", "port": 0} | settings), house.inlet, SystemClock(), house.counters
        )
        serving = asyncio.create_task(room.serve())
        try:
            await asyncio.wait_for(room.ready.wait(), 10)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{room.port}/api/v1", timeout=10) as client:
                yield house, client
        finally:
            serving.cancel()
            await asyncio.wait([serving])


async def test_over_http_every_answer_is_200_and_comes_after_the_disk():
    async with shop(wrong_token_limit=3) as (house, client):
        house.committer.hold()
        asking = asyncio.create_task(client.post("/provision", json=ASKED))
        await asyncio.sleep(0.1)
        assert not asking.done()
        house.committer.release()
        answer = await asking
        assert (answer.status_code, answer.json()) == (200, SUCCESS)
        assert (await client.post("/tok/telemetry", json={"t": 1})).status_code == 200
        again = await client.post("/provision", json=ASKED)
        assert (again.status_code, again.json()["status"]) == (200, "FAILURE")
        bad = await client.post("/provision", content=b'{"provisionDeviceKey":"key"}')
        assert (bad.status_code, sorted(bad.json())) == (500, ["errorCode", "message", "status", "timestamp"])
        for _ in range(3):
            wrong = await client.post("/provision", json=ASKED | {"provisionDeviceSecret": "x"})
            assert (wrong.status_code, wrong.json()) == (200, NOT_FOUND)
        with pytest.raises(httpx.TransportError):
            await client.post("/provision", json=ASKED)


async def test_a_claim_over_http():
    async with shop() as (house, client):
        house.add_device("Boiler", "tok")
        assert (await client.post("/tok/claim")).status_code == 200
        assert (await client.post("/tok/claim", json={"secretKey": "late"})).status_code == 200
        assert (await house.inlet.claims.claim("Boiler", "late")).value == "FAILURE"
        assert (await house.inlet.claims.claim("Boiler", "")).value == "SUCCESS"


# ── certificates ──


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("x509")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    def key(name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]

    def own(name, *more):
        openssl("req", "-x509", *key(name), "-days", "2", "-subj", f"/CN={name}", "-out", f"{name}.pem", *more)

    def signed(name, by, *more):
        openssl("req", *key(name), "-subj", f"/CN={name}", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial",
                "-days", "2", "-out", f"{name}.pem", *more)  # fmt: skip

    (folder / "ca.ext").write_text("basicConstraints=CA:TRUE\n")
    own("localhost", "-addext", "subjectAltName=DNS:localhost")
    own("boiler")
    own("root")
    own("stranger")
    signed("maker", "root", "-extfile", "ca.ext")
    signed("dev-7", "maker")
    signed("dev-8", "stranger")
    for name, parts in {
        "whole": ("dev-7", "maker", "root"),
        "short": ("dev-7", "maker"),
        "broken": ("dev-7", "stranger"),
        "stuffed": ("dev-8", "maker", "stranger"),  # the maker's stands there, but has signed nothing
        "borrowed": ("dev-8", "maker"),
    }.items():
        (folder / f"{name}.chain").write_text("".join((folder / f"{part}.pem").read_text() for part in parts))
    return folder


@asynccontextmanager
async def gate(paper, **settings):
    files = {"tls_port": 0, "tls_cert": paper / "localhost.pem", "tls_key": paper / "localhost.key"}
    async with street(**files | settings) as (house, room):
        yield house, room


def shows(paper, certificate, key, version=ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile=str(paper / "localhost.pem"))
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(paper / certificate, paper / f"{key}.key")
    return context


def add_owner(house, paper, name, certificate):
    credentials = x509_credentials((paper / certificate).read_text())
    device = Device(id=time_uuid(), name=name, type="boiler", credentials=credentials)
    house.state.apply([SaveDevice(device)])
    return device


def add_maker(house, paper, certificate="maker.pem", may_create=True):
    key = certificate_hash(certificate_line((paper / certificate).read_text()))
    house.inlet.provisioning.local = [
        ProvisionKey(profile="boiler", type=CHAIN, key=key, name_pattern=r"(dev-\d+)", may_create=may_create)
    ]


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_self_signed_certificate_is_its_device_and_the_token_beside_it_counts_for_nothing(paper, tls):
    async with gate(paper) as (house, room):
        device = add_owner(house, paper, "Boiler", "boiler.pem")
        house.add_device("Pump", "tok")
        async with peer(room, 5, shows(paper, "boiler.pem", "boiler", tls), user_name="tok") as here:
            assert await here.receive() == Connack(False, 0)
            here.publish("v1/devices/me/telemetry", b'{"t":1}', 1, 1)
            assert await here.receive() == Ack(PUBACK, 1)
        assert [message.originator for message in house.rules.seen] == [device.entity_id]


async def test_a_certificate_that_nobody_owns_is_refused_at_connect_and_its_address_counted(paper):
    async with gate(paper, wrong_password_limit=2) as (house, room):
        house.add_device("Pump", "tok")
        for version, code in ((4, 5), (5, 0x87)):
            context = shows(paper, "stranger.pem", "stranger")
            async with peer(room, version, context, user_name="tok") as here:
                assert await here.receive() == Connack(False, code)
        async with peer(room, user_name="tok") as here:
            assert await here.receive() is None


@pytest.mark.parametrize("now_ms", [1_700_000_000_000, 4_000_000_000_000], ids=["not yet", "expired"])
async def test_dates_count_unless_told_otherwise(paper, now_ms):
    for checks, code in ((True, 0x87), (False, 0)):
        async with gate(paper, clock=FakeClock(now_ms), x509_check_validity=checks) as (house, room):
            add_owner(house, paper, "Boiler", "boiler.pem")
            async with peer(room, 5, shows(paper, "boiler.pem", "boiler")) as here:
                assert await here.receive() == Connack(False, code)


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", ["whole.chain", "short.chain"])
async def test_a_makers_chain_creates_its_device_once(paper, shown, tls):
    async with gate(paper) as (house, room):
        add_maker(house, paper)
        for _ in range(2):
            async with peer(room, 4, shows(paper, shown, "dev-7", tls)) as here:
                assert await here.receive() == Connack(False, 0)
        assert [device.name for device in house.state.devices()] == ["dev-7"]
        assert [event.action for event in house.committer.events()] == ["ADDED"]


@pytest.mark.parametrize(
    ("shown", "key"), [("broken.chain", "dev-7"), ("stuffed.chain", "dev-8"), ("borrowed.chain", "dev-8")]
)
async def test_a_chain_whose_links_do_not_hold_gets_nobody_in(paper, shown, key):
    async with gate(paper) as (house, room):
        add_maker(house, paper)
        async with peer(room, 5, shows(paper, "stranger.pem", "stranger")) as here:  # vouches for nobody later
            assert await here.receive() == Connack(False, 0x87)
        for _ in range(2):
            with contextlib.suppress(OSError):  # it may end in the handshake
                async with peer(room, 5, shows(paper, shown, key)) as here:
                    assert await here.receive() in (Connack(False, 0x87), None)
        await settle()
        assert list(house.state.devices()) == []


async def test_a_chain_with_a_link_too_many_is_refused_even_with_a_known_leaf(paper):
    async with gate(paper) as (house, room):
        add_owner(house, paper, "Boiler", "dev-8.pem")
        for shown, code in (("dev-8.pem", 0), ("stuffed.chain", 0x87)):
            async with peer(room, 5, shows(paper, shown, "dev-8")) as here:
                assert await here.receive() == Connack(False, code)


async def test_without_a_certificate_the_token_counts(paper):
    async with gate(paper) as (house, room):
        house.add_device("Pump", "tok")
        context = ssl.create_default_context(cafile=str(paper / "localhost.pem"))
        async with peer(room, 5, context, user_name="tok") as here:
            assert await here.receive() == Connack(False, 0)


async def test_paho_with_a_certificate(paper):
    async with gate(paper) as (house, room):
        add_owner(house, paper, "Boiler", "boiler.pem")
        acknowledged = threading.Event()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.tls_set(str(paper / "localhost.pem"), str(paper / "boiler.pem"), str(paper / "boiler.key"))
        client.on_connect = lambda c, *_: c.publish("v1/devices/me/telemetry", '{"t":1}', qos=1)
        client.on_publish = lambda *_: acknowledged.set()
        await asyncio.to_thread(client.connect, "localhost", room.tls_port)
        client.loop_start()
        try:

            async def is_done():
                return acknowledged.is_set()

            await until(is_done, 10, "the PUBACK")
        finally:
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)
        assert house.rules.seen[0].data == {"t": 1}


@pytest.mark.server
async def test_who_was_told_a_token_has_it_after_kill_9_and_the_cloud_knows_the_device(tmp_path):
    """Provisioned, killed, started again, claimed from the command line."""
    keys = [{"profile": "sensor", "key": "key", "secret": "s3cret"}]
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, provisioning={"keys": keys}) as gateway,
    ):
        async with peer(gateway, user_name="provision") as here:
            here.publish(REQUEST, orjson.dumps(ASKED), 1, 1)
            answer = (await receive_all(here, 3))[2]
            assert orjson.loads(answer.payload) == SUCCESS
            await gateway.kill()
        await gateway.start()
        async with peer(gateway, user_name="tok") as here:
            assert await here.receive() == Connack(False, 0)
            here.publish("v1/devices/me/claim", b'{"secretKey":"k"}', 1, 2)
            assert await here.receive() == Ack(PUBACK, 2)

        async def is_known():
            device = await cloud.device("D")
            return device.get("profile", device.get("type")) == "sensor"

        await until(is_known, 15, "the cloud knows the device")

        def claim(key):
            command = [
                sys.executable,
                "-m",
                "gateway",
                "claim",
                "D",
                "-c",
                str(gateway.config_path),
                "--secret",
                key,
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            return done.returncode, done.stdout.partition(":")[0], done.stderr

        said = [await asyncio.to_thread(claim, key) for key in ("wrong", "k", "k")]
        assert said == [(1, "FAILURE", ""), (0, "SUCCESS", ""), (1, "CLAIMED", "")]
        assert "s3cret" not in gateway.log()


async def test_a_device_that_is_deleted_while_it_is_admitted_does_not_end_the_others(paper, monkeypatch):
    async with gate(paper) as (house, room):
        add_owner(house, paper, "Boiler", "boiler.pem")
        house.add_device("Pump", "tok")
        opened = house.inlet.open_session

        def deleted(device, channel):
            if device.name == "Boiler":
                raise RejectedError("device 'Boiler' was deleted")
            return opened(device, channel)

        monkeypatch.setattr(house.inlet, "open_session", deleted)
        async with peer(room, user_name="tok") as other:
            assert await other.receive() == Connack(False, 0)
            async with peer(room, 4, shows(paper, "boiler.pem", "boiler")) as here:
                while await here.receive() is not None:
                    pass
            assert await other.ping() == []
