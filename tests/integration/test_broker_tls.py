"""The TLS listener with a private CA, as a plant would have it."""

import asyncio
import ssl
import subprocess
import threading

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.broker import MqttBroker
from gateway.config import BrokerConfig
from gateway.supervise import Counters, SystemClock
from tests.fakes.inlet import FakeInlet


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *ec, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", "key.pem", "-out", "cert.pem")  # fmt: skip
    return folder


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
