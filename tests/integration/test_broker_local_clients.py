"""Foreign clients, unchanged, with local topics in MQTT 5.0: paho, aiomqtt, gmqtt and mosquitto's tools."""

import asyncio
import shutil

import aiomqtt
import gmqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.broker import encode
from gateway.broker.packets import PUBACK, Ack
from tests.integration.broker_peer import PATIENCE_S, site
from tests.integration.test_broker_clients import PahoDevice, get


def said(**fields):
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in fields.items():
        setattr(properties, name, value)
    return properties


async def test_paho_shares_hears_properties_and_asks_for_answers():
    async with site() as here, PahoDevice(here.broker.port, paho.MQTTv5) as device:
        options = SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True, retainHandling=1)
        identified = Properties(PacketTypes.SUBSCRIBE)
        identified.SubscriptionIdentifier = 42
        device.client.subscribe([("plant/#", options)], properties=identified)
        assert (await get(device.subscribed))[3][0].value == 1
        device.client.subscribe("$share/crew/jobs", 1)
        assert (await get(device.subscribed))[3][0].value == 1
        async with aiomqtt.Client(
            "127.0.0.1", here.broker.port, username="tok2", protocol=aiomqtt.ProtocolVersion.V5
        ) as other:
            properties = said(
                MessageExpiryInterval=60,
                ContentType="text/plain",
                ResponseTopic="answers/1",
                CorrelationData=b"\x00\xff",
                PayloadFormatIndicator=1,
                UserProperty=[("a", "1"), ("a", "2")],
            )
            await other.publish("plant/a", b"x", qos=1, retain=True, properties=properties)
            message = (await get(device.messages))[2]
            assert (message.topic, message.payload, message.qos, message.retain) == ("plant/a", b"x", 1, True)
            heard = message.properties
            assert (heard.ContentType, heard.ResponseTopic, heard.CorrelationData) == (
                "text/plain",
                "answers/1",
                b"\x00\xff",
            )
            assert (heard.UserProperty, heard.PayloadFormatIndicator) == ([("a", "1"), ("a", "2")], 1)
            assert (heard.SubscriptionIdentifier, heard.MessageExpiryInterval) == ([42], 60)
            await other.subscribe("$share/crew/jobs", qos=1)
            for number in range(4):
                await other.publish("jobs", str(number), qos=1)
            for _ in range(2):
                assert (await get(device.messages))[2].topic == "jobs"
            async with asyncio.timeout(PATIENCE_S):
                mine = [(await anext(aiter(other.messages))).topic.value for _ in range(2)]
            assert mine == ["jobs", "jobs"]
        device.client.publish("plant/own", b"mine", 1)
        reason = (await get(device.published))[3]
        assert str(reason) in ("Success", "No matching subscribers")


async def test_gmqtt_hears_properties():
    async with site() as here:
        client = gmqtt.Client("some-id", clean_session=True)
        client.set_auth_credentials("tok", None)
        heard: asyncio.Queue = asyncio.Queue()
        subscribed: asyncio.Queue = asyncio.Queue()
        client.on_message = lambda *given: heard.put_nowait(given) or 0
        client.on_subscribe = lambda *given: subscribed.put_nowait(given)
        await client.connect("127.0.0.1", here.broker.port)
        client.subscribe("plant/+", qos=1, subscription_identifier=5)
        await get(subscribed)
        teller, _ = await here.connect(5, "tok2")
        properties = b"\x02\x00\x00\x00\x3c\x03\x00\x01t\x26\x00\x01k\x00\x01v"
        teller.send(encode.publish(5, "plant/a", b"x", 1, 1, properties=properties))
        assert await teller.receive() == Ack(PUBACK, 1)
        _, topic, payload, qos, props = await get(heard)
        assert (topic, payload, qos) == ("plant/a", b"x", 1)
        assert (props["message_expiry_interval"], props["content_type"]) == ([60], ["t"])
        assert (props["user_property"], props["subscription_identifier"]) == ([("k", "v")], [5])
        await client.disconnect()


@pytest.mark.server
async def test_mosquittos_tools():
    assert shutil.which("mosquitto_sub") is not None, "mosquitto's clients are missing: see tests/debian.sh"
    async with site() as here:
        base = ("-V", "mqttv5", "-h", "127.0.0.1", "-p", str(here.broker.port), "-q", "1")
        hears = await asyncio.create_subprocess_exec(
            *("mosquitto_sub", *base, "-u", "tok2", "-t", "$share/g/plant/#", "-C", "1", "-W", "10"),
            *("-D", "SUBSCRIBE", "subscription-identifier", "9", "-F", "%t %p %q %C %R %D %P %E %S"),
            stdout=asyncio.subprocess.PIPE,
        )
        await here.until(lambda: here.broker.status()["local"]["shared_groups"] == 1)
        says = await asyncio.create_subprocess_exec(
            *("mosquitto_pub", *base, "-u", "tok", "-t", "plant/a", "-m", "x", "-D", "PUBLISH", "content-type", "text"),
            *("-D", "PUBLISH", "response-topic", "r", "-D", "PUBLISH", "correlation-data", "c"),
            *("-D", "PUBLISH", "user-property", "k", "v", "-D", "PUBLISH", "message-expiry-interval", "60"),
        )
        assert await says.wait() == 0
        assert hears.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert (await hears.stdout.read()).decode().strip() == "plant/a x 1 text r c k:v 60 9"
        assert await hears.wait() == 0
