"""The TLS listener with a private CA, as a plant would have it."""

import asyncio
import logging
import shutil
import ssl
import subprocess
import threading
from contextlib import suppress

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.broker import MqttBroker, encode
from gateway.broker.packets import Connack, Connect
from gateway.config import BrokerConfig
from gateway.supervise import Counters, SystemClock
from tests.fakes.inlet import FakeInlet
from tests.integration.broker_peer import Peer, site


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    return folder


def make_certificate(folder, prefix=""):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *ec, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", f"{prefix}key.pem", "-out", f"{prefix}cert.pem")  # fmt: skip


@pytest.fixture
async def broker(certificates):
    inlet = FakeInlet()
    inlet.add_device("Boiler", "token")
    config = BrokerConfig(
        host="127.0.0.1", port=0, tls_port=0, tls_cert=certificates / "cert.pem", tls_key=certificates / "key.pem"
    )
    room = MqttBroker(config, inlet, SystemClock(), Counters())
    serving = asyncio.create_task(room.serve())
    await asyncio.wait_for(room.ready.wait(), 5)
    yield room, inlet
    serving.cancel()
    await asyncio.wait([serving])


def publish_over_tls(port, certificate, version):
    acknowledged = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set("token")
    context = ssl.create_default_context(cafile=str(certificate))
    context.minimum_version = context.maximum_version = version
    client.tls_set_context(context)
    client.on_connect = lambda c, *_: c.publish("v1/devices/me/telemetry", '{"t":1}', qos=1)
    client.on_publish = lambda *_: acknowledged.set()
    client.connect("localhost", port)
    client.loop_start()
    try:
        assert acknowledged.wait(10)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_device_publishes_over_tls(broker, certificates, version):
    room, inlet = broker
    await asyncio.to_thread(publish_over_tls, room.tls_port, certificates / "cert.pem", version)
    assert inlet.opened[0].posted[0][0].values == {"t": 1}


async def test_old_tls_is_refused(broker):
    room, inlet = broker
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError, OSError)):
        await asyncio.open_connection("127.0.0.1", room.tls_port, ssl=context)
    assert inlet.opened == []


async def shown_certificate(port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return shown


def der(path):
    return ssl.PEM_cert_to_DER_cert(path.read_text())


@pytest.fixture(params=[True, False], ids=["x509", "no x509"])
async def renewable(certificates, tmp_path, request):
    for name in ("cert.pem", "key.pem"):
        shutil.copy(certificates / name, tmp_path / name)
    make_certificate(tmp_path, "next-")
    async with site(
        tls_port=0,
        websocket_tls_port=0,
        tls_cert=tmp_path / "cert.pem",
        tls_key=tmp_path / "key.pem",
        x509=request.param,
    ) as here:
        yield here, tmp_path


def renew(folder):
    for name in ("key.pem", "cert.pem"):
        shutil.copy(folder / f"next-{name}", folder / name)


async def secure_peer(here):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    peer = Peer(*await asyncio.open_connection("127.0.0.1", here.broker.tls_port, ssl=context), 4)
    here.peers.append(peer)
    peer.send(encode.connect(Connect(version=4, user_name="tok")))
    assert await peer.receive() == Connack(False, 0)
    return peer


@pytest.mark.parametrize("how", ["by signal", "by the clock"])
async def test_a_new_certificate_is_shown_and_no_session_ends(renewable, how):
    here, folder = renewable
    peer = await secure_peer(here)
    assert await shown_certificate(here.broker.tls_port) == der(folder / "cert.pem")
    renew(folder)
    if how == "by signal":
        here.broker.reload()
    else:
        await here.clock.advance(61)
    for port in (here.broker.tls_port, here.broker.websocket_tls_port):
        assert await shown_certificate(port) == der(folder / "next-cert.pem")
    assert await peer.ping() == []


async def test_a_certificate_that_cannot_be_used_changes_nothing(renewable, caplog):
    here, folder = renewable
    with caplog.at_level(logging.INFO, logger="gateway.broker"):
        old = der(folder / "cert.pem")
        (folder / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
        for _ in range(3):
            await here.clock.advance(61)
        assert "tls_cert" in here.broker.status()["tls_problem"]
        peer, _ = await here.connect()
        assert await peer.ping() == []
        assert await shown_certificate(here.broker.tls_port) == old  # the last good one
        renew(folder)
        await here.clock.advance(61)
    assert here.broker.status()["tls_problem"] is None
    assert await shown_certificate(here.broker.tls_port) == der(folder / "next-cert.pem")
    levels = [record.levelname for record in caplog.records if record.name != "gateway.broker.listener"]
    assert levels == ["WARNING", "INFO"]


async def test_without_any_certificate_the_plain_port_serves(tmp_path, certificates):
    files = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    async with site(tls_port=0, **files) as here:
        peer, _ = await here.connect()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shown_certificate(here.broker.tls_port)
        assert "No such file" in here.broker.status()["tls_problem"]
        for name in ("cert.pem", "key.pem"):
            shutil.copy(certificates / name, tmp_path / name)
        await here.clock.advance(61)
        assert await shown_certificate(here.broker.tls_port) == der(tmp_path / "cert.pem")
        assert await peer.ping() == []


async def test_a_key_with_a_password_is_a_problem_and_no_question(certificates, tmp_path):
    subprocess.run(
        [
            "openssl",
            "ec",
            "-in",
            certificates / "key.pem",
            "-aes128",
            "-passout",
            "pass:x",
            "-out",
            tmp_path / "key.pem",
        ],
        check=True,
        capture_output=True,
    )
    async with site(tls_port=0, tls_cert=certificates / "cert.pem", tls_key=tmp_path / "key.pem") as here:
        assert here.broker.status()["tls_problem"]


async def test_a_handshake_that_does_not_end_is_counted_and_closed(certificates):
    files = {"tls_cert": certificates / "cert.pem", "tls_key": certificates / "key.pem"}
    async with site(tls_port=0, connect_timeout_s=0.2, max_connections_per_address=2, **files) as here:
        port = here.broker.tls_port
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        third, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionResetError):
            assert await third.read() == b""  # both places are taken, though nobody is inside
        assert here.counters.get("broker.connections_over_address_limit") == 1
        for reader, _ in silent:
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
        await here.until(lambda: here.counters.get("broker.tls_handshakes_failed") == 2)
        for _, one in [*silent, (third, writer)]:
            one.close()
        assert (await secure_peer(here)) is not None


async def test_rubbish_in_place_of_a_handshake_is_only_counted(certificates, caplog):
    files = {"tls_cert": certificates / "cert.pem", "tls_key": certificates / "key.pem"}
    async with site(tls_port=0, **files) as here:
        writers = []
        for rubbish in (
            b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff",
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", here.broker.tls_port)
            writer.write(rubbish)
            writer.write_eof()
            writers.append(writer)
        await here.until(lambda: here.counters.get("broker.tls_handshakes_failed") == 3)
        for writer in writers:
            writer.close()
        assert (await secure_peer(here)) is not None
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
