"""More than the disk takes, from a real mosquitto; and connections that come and go."""

import asyncio
import socket

import pytest

from gateway.demo.processes import free_port
from tests.fakes.inlet import FakeInlet
from tests.integration.external_house import Device, Room, house
from tests.integration.mosquitto import NOT_KILLED, Mosquitto

pytestmark = pytest.mark.server


def numbers(room, name="pump"):
    return [items[0].values["n"] for items in room.inlet.sub(name).posted]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_while_the_disk_does_not_keep_up_the_broker_keeps_what_comes(tmp_path, version):
    async with house(tmp_path, mosquitto=NOT_KILLED, version=version, max_inflight=20) as (_, room, device):
        device.say("edge/pump/status", "online")
        await room.until(lambda: "pump" in room.inlet.behind)
        room.inlet.calm.clear()
        mids = {device.say("edge/pump/telemetry", {"n": number, "fill": "x" * 1000}) for number in range(500)}
        await room.until(lambda: mids <= device.acknowledged and room.room.status()["unacknowledged"] == 20)
        await asyncio.sleep(0.2)  # more would have come by now
        assert room.room.status()["unacknowledged"] == len(room.room.life.hearing._held) == 20
        assert not room.inlet.sub("pump").posted
        room.inlet.calm.set()
        await room.until(lambda: numbers(room) == list(range(500)), "not everything, or in another order")


async def test_qos_0_without_end_costs_neither_memory_nor_those_who_use_qos_1(tmp_path):
    async with house(tmp_path, mosquitto=NOT_KILLED, max_inflight=20, keepalive_s=2) as (_, room, device):
        device.say("edge/pump/status", "online")
        await room.until(lambda: "pump" in room.inlet.behind)
        works = room.room.works
        room.inlet.calm.clear()
        for number in range(200):
            device.say("edge/flood/telemetry", {"n": number}, qos=0)
        for number in range(10):
            device.say("edge/pump/telemetry", {"n": number})
        await room.until(lambda: room.room.status()["unacknowledged"] == 30)
        assert len(room.room.life.hearing._held) == 30
        left_out = room.counters.get("external.qos0_left_out")
        assert left_out == 180
        await asyncio.sleep(3.2)  # longer than a broker waits for a sign of life
        room.inlet.calm.set()
        await room.until(lambda: numbers(room) == list(range(10)))
        assert room.room.works == works, "the connection did not last"
        assert "flood" in room.inlet.behind


async def test_a_message_that_is_too_long_is_told_and_the_next_one_is_taken(tmp_path):
    async with house(tmp_path) as (_, room, device):
        device.say("edge/pump/telemetry", b" " * (1 << 20) + b"{}")
        device.say("edge/pump/telemetry", {"n": 1})
        await room.until(lambda: "pump" in room.inlet.behind and room.inlet.sub("pump").posted)
        assert "1048578 bytes" in room.room.status()["problems"][0]["reason"]
        await room.until(lambda: room.room.status()["unacknowledged"] == 0)


async def test_a_broker_that_is_away_at_the_start_and_connections_that_come_and_go(tmp_path, caplog):
    caplog.set_level("INFO")
    broker = Mosquitto(tmp_path)
    inlet = FakeInlet()
    inlet.add_device("external-broker", "secret", is_gateway=True)
    room = Room(broker, inlet)
    async with room.kept():
        await room.until(lambda: "Connection refused" in caplog.text)
        async with broker:
            await room.ready()
            device = Device(broker.port)
            try:
                for number in range(3):
                    await room.ready()
                    device.say("edge/pump/telemetry", {"n": number})
                    await room.until(lambda number=number: "pump" in inlet.behind and numbers(room)[-1:] == [number])
                    room.room.life._client.socket().shutdown(socket.SHUT_RDWR)
                    await room.until(lambda number=number: room.room.works == number + 2)
            finally:
                device.stop()
        await room.until(lambda: caplog.text.count("Connection refused") == 2)  # at the start, and now
    assert caplog.text.count("connected to 127.0.0.1") == room.room.works == 4


async def test_a_listener_that_never_answers_is_given_up(tmp_path):
    port = free_port()
    holding = []
    server = await asyncio.start_server(lambda _, writer: holding.append(writer), "127.0.0.1", port)
    room = Room(Mosquitto(tmp_path), FakeInlet(), port=port, keepalive_s=1)
    async with server, room.kept():
        await room.until(lambda: "before it answered" in room.room.status()["error"])
        for writer in holding:
            writer.close()
