"""The mqtt node against a real listener on the loopback that speaks as much MQTT as a publisher needs."""

import asyncio
from contextlib import asynccontextmanager

from tests.unit.rules.kit import Rules

END = ("action.TbLogNode", "end", {})
BAD = ("action.TbLogNode", "bad", {})


class Broker:
    """Keeps what is published; `is_silent`: acknowledges nothing, `refusal`: the code of its CONNACK."""

    def __init__(self):
        self.published, self.connects, self.refusal, self.is_silent = [], [], 0, False
        self.writers = []

    async def serve(self, reader, writer):
        self.writers.append(writer)
        try:
            while True:
                kind, body = (await reader.readexactly(1))[0], await self._body(reader)
                if kind >> 4 == 1:
                    self.connects.append(body)
                    writer.write(bytes((0x20, 2, 0, self.refusal)))
                elif kind >> 4 == 3:
                    end = 2 + int.from_bytes(body[:2], "big")
                    self.published.append((body[2:end].decode(), body[end + 2 :], kind & 0x0F))
                    if not self.is_silent:
                        writer.write(bytes((0x40, 2)) + body[end : end + 2])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _body(self, reader):
        size, shift = 0, 0
        while True:
            byte = (await reader.readexactly(1))[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return await reader.readexactly(size)


@asynccontextmanager
async def opened(**config):
    broker = Broker()
    listener = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    whole = {"host": "127.0.0.1", "port": port, "topicPattern": "plant/${deviceName}", "cleanSession": True, **config}
    nodes = [("mqtt.TbMqttNode", "mqtt", whole), END, BAD]
    rules = Rules(nodes, (0, 1, "Success"), (0, 2, "Failure"), allow_mqtt=["127.0.0.1"])
    seen = []
    root = next(chain for chain in rules.engine._chains.values() if chain.name == "Root")
    root.nodes[1].run = lambda msg, out: seen.append(("success", msg))
    root.nodes[2].run = lambda msg, out: seen.append(("failure", msg))

    async def ask(data=None, device="P1"):
        out = rules.run(data, metadata={"deviceName": device})
        for wait in out.waits:
            await wait()
        return seen[-1]

    try:
        yield broker, ask, rules
    finally:
        await rules.engine.close()
        listener.close()
        for writer in broker.writers:
            writer.close()


async def test_it_publishes_with_qos_1_over_one_connection_that_is_kept():
    async with opened(clientId="edge", appendClientIdSuffix=True, retainedMessage=True) as (broker, ask, _):
        assert (await ask({"t": 1}))[0] == "success"
        label, msg = await ask({"t": 2})
        assert (label, msg.data) == ("success", {"t": 2})
        assert broker.published == [("plant/P1", b'{"t":1}', 0b0011), ("plant/P1", b'{"t":2}', 0b0011)]
        assert len(broker.connects) == 1
        assert b"edge_edge-gateway" in broker.connects[0]


async def test_credentials_go_with_the_connect_and_text_without_quotes():
    secret = {"type": "basic", "username": "u", "password": "top-secret"}
    async with opened(credentials=secret, parseToPlainText=True) as (broker, ask, _):
        await ask("on")
        assert broker.published[0][1] == b"on"
        assert b"top-secret" in broker.connects[0]


async def test_after_a_lost_connection_the_next_message_makes_another():
    async with opened() as (broker, ask, _):
        await ask()
        broker.writers[0].close()
        async with asyncio.timeout(5):
            while (await ask())[0] != "success" or len(broker.connects) < 2:
                await asyncio.sleep(0.01)


async def test_who_refuses_us_is_not_asked_again_at_once_and_messages_fail_meanwhile():
    async with opened() as (broker, ask, rules):
        broker.refusal = 5
        label, msg = await ask()
        assert label == "failure"
        assert "refuses us: Not authorized" in msg.metadata["error"]
        assert "it is tried again in a moment" in (await ask())[1].metadata["error"]
        assert len(broker.connects) == 1
        broker.refusal = 0
        await rules.clock.advance(1)
        assert (await ask())[0] == "success"


async def test_a_connection_that_ends_before_the_acknowledgement_is_a_failure():
    async with opened() as (broker, ask, _):
        await ask()
        broker.is_silent = True
        asking = asyncio.create_task(ask())
        async with asyncio.timeout(5):
            while len(broker.published) < 2:
                await asyncio.sleep(0.01)
        broker.writers[0].close()
        label, msg = await asking
        assert label == "failure"
        assert "is lost" in msg.metadata["error"]


async def test_a_topic_with_wildcards_is_a_failure():
    async with opened() as (broker, ask, _):
        label, msg = await ask(device="#")
        assert (label, msg.metadata["error"]) == ("failure", "RejectedError: 'plant/#' is no topic to publish to")
        assert broker.connects == []


def test_what_is_not_allowed_or_cannot_work_is_told_at_the_start():
    def problem(allow_mqtt=("localhost",), **config):
        return Rules([("mqtt.TbMqttNode", "mqtt", {"cleanSession": True, **config})], allow_mqtt=allow_mqtt).texts()[0]

    assert problem(allow_mqtt=()).startswith("localhost:1883 is not called: rules.allow_mqtt does not name it")
    assert "needs a clientId" in problem(cleanSession=False)
    assert "protocolVersion" in problem(protocolVersion="MQTT_9")
