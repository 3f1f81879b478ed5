"""Ordinary publish/subscribe between devices, and that it never touches the device API."""

import asyncio

import pytest
from amqtt.broker import Broker

from gateway.broker import encode, local
from gateway.broker.packets import PUBACK, PUBREC, Ack, Connack, Connect, Publish, Suback
from tests.integration.broker_peer import site


@pytest.mark.parametrize(("sender", "listener"), [(4, 5), (5, 4), (3, 4)])
async def test_devices_talk_to_each_other_in_any_version(sender, listener):
    async with site() as here:
        hears, _ = await here.connect(listener, "tok2")
        hears.send(encode.subscribe(listener, 1, [("plant/+/speed", 2), ("v1/devices/me/attributes", 1)]))
        assert await hears.receive() == Suback(1, [2, 1])
        says, session = await here.connect(sender, "tok")
        says.publish("plant/pump/speed", b"1480", 1, 7)
        assert await says.receive() == Ack(PUBACK, 7)
        push = await hears.receive()
        assert (push.topic, push.payload, push.qos) == ("plant/pump/speed", b"1480", 1)
        says.publish("plant/pump/speed", b"1490", 2, 8)
        assert await says.receive() == Ack(PUBREC, 8)
        assert (await hears.receive()).payload == b"1490"
        assert session.posted == []


async def test_no_wildcard_hears_the_device_api():
    async with site() as here:
        hears, _ = await here.connect(4, "tok2")
        hears.send(encode.subscribe(4, 1, [("#", 1), ("+/devices/me/telemetry", 1), ("+/+/+/+", 1), ("v1/#", 1)]))
        assert await hears.receive() == Suback(1, [1, 1, 1, 0x80])
        says, session = await here.connect(4, "tok")
        topics = [
            "v1/devices/me/telemetry",
            "v2/t",
            "v1/devices/me/attributes",
            "v1/gateway/telemetry",
            "v1/x",
            "$SYS/x",
        ]
        for topic in topics:
            says.publish(topic, b'{"a":1}', 1, 1)
        says.publish("end/of/the/test", b"", 1, 2)
        assert Ack(PUBACK, 2) in [await says.receive() for _ in range(len(topics))]
        push = await hears.receive()
        assert push.topic == "end/of/the/test"
        assert len(session.posted) == 3


async def test_retained_messages_and_wills_are_served():
    async with site() as here:
        says = await here.open(5)
        will = Publish("plant/pump/state", b"gone", 1)
        says.send(encode.connect(Connect(version=5, user_name="tok", will=will)))
        assert await says.receive() == Connack(False, 0)
        says.send(encode.publish(5, "plant/pump/state", b"on", 1, 1, is_retained=True))
        assert await says.receive() == Ack(PUBACK, 1)
        hears, _ = await here.connect(4, "tok2")
        hears.send(encode.subscribe(4, 1, [("plant/pump/state", 1)]))
        assert await hears.receive() == Suback(1, [1])
        push = await hears.receive()
        assert (push.payload, push.is_retained) == (b"on", True)
        says.writer.transport.abort()
        assert (await hears.receive()).payload == b"gone"


@pytest.mark.parametrize("has_local", [True, False])
async def test_a_will_that_no_one_will_ever_hear_is_told(caplog, has_local):
    topics = ["v1/devices/me/telemetry", "v1/gateway/rpc", "/provision/response", "$SYS/x"]
    async with site(local_topics=has_local) as here:
        hears, _ = await here.connect(4, "tok2")
        hears.send(encode.subscribe(4, 1, [("#", 1), ("v1/devices/me/attributes", 1), ("v1/gateway/rpc", 1)]))
        await hears.receive()
        for topic in topics:
            says, session = await here.connect(5, will=Publish(topic, b'{"gone":1}', 1))
            says.writer.transport.abort()
        await here.until(lambda: not session.is_open)
        assert await hears.ping() == []
        assert session.posted == []
        assert here.counters.get("broker.wills_ignored") == len(topics)
    told = "device 'pump': will on v1/devices/me/telemetry: it is never published: only local topics have one"
    assert caplog.text.count("never published") == caplog.text.count(told) == 1


async def test_a_polite_goodbye_publishes_no_will():
    async with site() as here:
        hears, _ = await here.connect(4, "tok2")
        hears.send(encode.subscribe(4, 1, [("will", 1), ("end", 1)]))
        await hears.receive()
        says = await here.open()
        says.send(encode.connect(Connect(version=4, user_name="tok", will=Publish("will", b"gone", 0))))
        await says.receive()
        says.publish("end", b"1", 1, 1)
        assert await says.receive() == Ack(PUBACK, 1)
        says.send(encode.disconnect(4))
        assert await says.receive() is None
        assert (await hears.receive()).topic == "end"
        assert await hears.ping() == []


async def test_many_messages_to_a_device_all_arrive():
    async with site() as here:
        hears, _ = await here.connect(5, "tok2")
        hears.send(encode.subscribe(5, 1, [("n", 1)]))
        await hears.receive()
        says, _ = await here.connect(4, "tok")
        for number in range(300):
            says.publish("n", b"%d" % number, 1, number + 1)
        got = []
        for _ in range(300):
            push = await hears.receive()
            hears.send(encode.ack(PUBACK, push.packet_id))
            got.append(int(push.payload))
        assert sorted(got) == list(range(300))
        assert [await says.receive() for _ in range(300)] == [Ack(PUBACK, n) for n in range(1, 301)]


@pytest.mark.parametrize(("version", "reason"), [(4, 0), (5, 0x90)])
async def test_switched_off_a_local_topic_is_an_unknown_one(version, reason):
    async with site(local_topics=False) as here:
        peer, _ = await here.connect(version)
        peer.publish("plant/x", b"1", 1, 1)
        assert await peer.ping() == [Ack(PUBACK, 1, reason)]


def router_tasks():
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("local device-connection-")]


@pytest.mark.parametrize("ending", [encode.disconnect(4), b""], ids=["goodbye", "dropped"])
async def test_who_leaves_in_the_breath_of_its_subscription_leaves_nothing_behind(ending):
    async with site() as here:
        for number in range(20):
            peer, _ = await here.connect(4, "tok")
            peer.send(encode.subscribe(4, 1, [(f"plant/{number}/#", 1)]) + ending)
            await peer.writer.drain()
            peer.writer.close()
        await here.until(lambda: not here.broker.connections())
        await here.until(lambda: not router_tasks())


async def test_filters_that_nobody_has_any_more_are_forgotten(monkeypatch):
    routers = []
    monkeypatch.setattr(local, "Broker", lambda *given: routers.append(Broker(*given)) or routers[-1])
    async with site() as here:
        peer, _ = await here.connect(4, "tok")
        for number in range(20):
            peer.send(
                encode.subscribe(4, 1, [(f"plant/{number}/#", 1)]) + encode.unsubscribe(4, 2, [f"plant/{number}/#"])
            )
        peer.send(encode.subscribe(4, 3, [("plant/kept", 1)]))
        while await peer.receive() != Suback(3, [1]):
            pass
        await here.until(lambda: list(routers[0].subscriptions) == ["plant/kept"])
