"""Records what real clients send: `python -m tests.vectors.mqtt.record [interpreter with tb-mqtt-client]`.

Each client talks to a broker of ours through a proxy that keeps its bytes; the files of `corpus/` are the result.
"""

import asyncio
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version as version_of_package
from pathlib import Path

import gmqtt
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.integration.broker_peer import Site, site

CORPUS = Path(__file__).parent / "corpus"
SDK = Path(__file__).parents[2] / "integration/broker_sdk.py"
TELEMETRY, ATTRIBUTES = "v1/devices/me/telemetry", "v1/devices/me/attributes"


class Recorder:
    """A proxy in front of the broker; `sessions` has the bytes of each connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sessions: list[bytearray] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self.sessions.append(kept)
        inner, outer = await asyncio.open_connection("127.0.0.1", self._port)

        async def back() -> None:
            while data := await inner.read(65_536):
                writer.write(data)
            writer.close()

        answering = asyncio.create_task(back())
        while data := await reader.read(65_536):
            kept += data
            outer.write(data)
        outer.close()
        await asyncio.wait([answering])


def paho(version: int) -> Callable[[int], None]:
    def run(port: int) -> None:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="paho", protocol=version)
        client.username_pw_set("tok", "secret")
        client.will_set("house/pump", "gone", qos=1, retain=True)
        client.connect("127.0.0.1", port)
        client.loop_start()
        for topic in (ATTRIBUTES, "v1/devices/me/rpc/request/+", "house/#"):
            client.subscribe(topic, 1)
        for qos in (0, 1, 2):
            client.publish(TELEMETRY, f'{{"temperature":{qos}.5,"on":true}}', qos).wait_for_publish(5)
        client.publish(ATTRIBUTES + "/request/1", '{"clientKeys":"a,b"}', 1).wait_for_publish(5)
        client.publish("house/pump", b"\x00\x01\xff", 1, retain=True).wait_for_publish(5)
        client.unsubscribe("house/#")
        client.disconnect()
        client.loop_stop()

    return run


def paho_local(port: int) -> None:
    """Options and properties of 5.0, and a will that waits."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="local", protocol=mqtt.MQTTv5)
    client.username_pw_set("tok", "secret")
    message, will = Properties(PacketTypes.PUBLISH), Properties(PacketTypes.WILLMESSAGE)
    for properties in (message, will):
        properties.PayloadFormatIndicator = 1
        properties.MessageExpiryInterval = 60
        properties.ContentType = "text/plain"
        properties.ResponseTopic = "answers/1"
        properties.CorrelationData = b"\x00\xff"
        properties.UserProperty = [("a", "1"), ("a", "2")]
    will.WillDelayInterval = 30
    client.will_set("house/pump", "gone", qos=1, retain=True, properties=will)
    hello, asked, goodbye = (
        Properties(kind) for kind in (PacketTypes.CONNECT, PacketTypes.SUBSCRIBE, PacketTypes.DISCONNECT)
    )
    hello.SessionExpiryInterval, hello.ReceiveMaximum, hello.MaximumPacketSize = 600, 20, 10_000
    asked.SubscriptionIdentifier, goodbye.SessionExpiryInterval = 300, 10
    client.connect("127.0.0.1", port, clean_start=False, properties=hello)
    client.loop_start()
    options = SubscribeOptions(qos=2, noLocal=True, retainAsPublished=True, retainHandling=1)
    client.subscribe([("house/#", options)], properties=asked)
    client.subscribe("$share/crew/jobs/+", 1)
    for qos in (0, 1, 2):
        client.publish("house/pump", "on", qos, retain=True, properties=message).wait_for_publish(5)
        client.publish("jobs/1", "go", qos, properties=message).wait_for_publish(5)
    client.unsubscribe(["$share/crew/jobs/+", "house/#"])
    client.disconnect(properties=goodbye)
    client.loop_stop()


async def with_gmqtt(port: int) -> None:
    client = gmqtt.Client("gmqtt", user_property=("a", "b"), session_expiry_interval=60)
    client.set_auth_credentials("tok", None)
    await client.connect("127.0.0.1", port)
    client.subscribe(ATTRIBUTES, qos=1)
    client.publish(TELEMETRY, {"temperature": 21.5}, qos=1, content_type="json", message_expiry_interval=9)
    await asyncio.sleep(0.3)
    await client.disconnect()


async def program(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.DEVNULL)
    await asyncio.wait_for(process.wait(), 30)


async def version_of(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    text, _ = await process.communicate()
    return text.decode().split("\n")[0].strip()


async def main() -> None:
    CORPUS.mkdir(exist_ok=True)

    async def record(name: str, source: str, play: Callable[[int], object]) -> None:
        async with site() as here:
            recorder = Recorder(here.broker.port)
            server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
            await _play(here, play, server.sockets[0].getsockname()[1])
            await asyncio.sleep(0.2)
            server.close()
        lines = [f"# {name}", f"# Source: recorded, {source}", ""]
        for session in recorder.sessions:
            lines += [*(session[at : at + 40].hex(" ") for at in range(0, len(session), 40)), ""]
        (CORPUS / f"{name}.txt").write_text("\n".join(lines))

    for version, label in ((3, "3.1"), (4, "3.1.1"), (5, "5.0")):
        await record(f"paho-{label}", f"paho-mqtt {version_of_package('paho-mqtt')}", paho(version))
    await record("paho-local-5.0", f"paho-mqtt {version_of_package('paho-mqtt')}", paho_local)
    await record("gmqtt-5.0", f"gmqtt {version_of_package('gmqtt')}", with_gmqtt)
    if shutil.which("mosquitto_pub"):
        source = await version_of("mosquitto_pub", "--version")
        for version in ("mqttv31", "mqttv311", "mqttv5"):
            for qos in ("1", "2"):
                await record(
                    f"mosquitto-{version}-qos{qos}",
                    source,
                    lambda port, version=version, qos=qos: program(
                        "mosquitto_pub",
                        "-p",
                        str(port),
                        "-u",
                        "tok",
                        "-V",
                        version,
                        "-q",
                        qos,
                        "-i",
                        "mosquitto",
                        "-t",
                        TELEMETRY,
                        "-m",
                        '{"temperature":25}',
                    ),
                )
    if len(sys.argv) > 1:
        await record("tb-sdk-5.0", "tb-mqtt-client 1.13", lambda port: program(sys.argv[1], str(SDK), str(port)))


async def _play(here: Site, play: Callable[[int], object], port: int) -> None:
    if asyncio.iscoroutinefunction(play) or play.__name__ == "<lambda>":
        await play(port)  # type: ignore[misc]
    else:
        await asyncio.to_thread(play, port)


if __name__ == "__main__":
    asyncio.run(main())
