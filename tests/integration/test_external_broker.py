"""A real mosquitto with devices behind it, and the room that is its client; then everything as processes, with kills."""

import asyncio
import json

import pytest

from gateway.broker.external_hearing import _is_downlink
from gateway.domain.entity import time_uuid
from gateway.domain.rpc import RpcRequest
from gateway.supervise import Backoff, SystemClock, supervise
from tests.e2e.parts import CloudProcess, GatewayProcess, until
from tests.fakes.inlet import FakeInlet
from tests.integration.external_house import Device, Room, house
from tests.integration.mosquitto import Mosquitto

pytestmark = pytest.mark.server


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_data_of_devices_that_their_topics_name(tmp_path, version):
    async with house(tmp_path, version=version) as (_, room, device):
        device.say("edge/pump/telemetry", [{"ts": 5, "values": {"t": 21.5}}])
        device.say("edge/pump/attributes", {"fw": "1.2b"})
        device.say("tele/plug/STATE", {"POWER": "ON"})
        device.say("v1/gateway/telemetry", {"fan": [{"ts": 6, "values": {"u": 1}}]})
        device.say("edge/pump/telemetry", "[no")
        device.say("v1/gateway/telemetry", "[no")
        await room.until(lambda: {"pump", "plug", "fan"} <= room.inlet.behind.keys())
        await room.until(lambda: len(room.room.problems) == 2)
        assert room.inlet.sub("pump").posted[0][0].values == {"t": 21.5}
        assert room.inlet.sub("pump").posted[1] == {"fw": "1.2b"}
        assert room.inlet.sub("plug").posted[0][0].values == {"POWER": True}
        assert room.inlet.sub("fan").posted[0][0].ts_ms == 6
        await room.until(lambda: room.room.status()["unacknowledged"] == 0)


async def test_downlinks_go_out_on_their_topics_and_answers_come_back(tmp_path):
    async with house(tmp_path) as (_, room, device):
        device.say("edge/pump/status", "online")
        await room.until(lambda: "pump" in room.inlet.behind and room.inlet.sub("pump"))
        session = room.inlet.sub("pump")
        session.channel.send_attributes({"target": 5})
        session.channel.send_attributes_deleted(["old"])
        assert json.loads(await device.hears("edge/pump/attributes/changed")) == {"target": 5}
        assert json.loads(await device.hears("edge/pump/attributes/deleted")) == {"deleted": ["old"]}
        request = RpcRequest(device_id=time_uuid(), method="set", params={"x": 1}, request_id=1, expires_ms=1 << 50)
        assert await session.channel.send_rpc(7, request) is None
        assert json.loads(await device.hears("edge/pump/rpc/request/7")) == {"method": "set", "params": {"x": 1}}
        device.say("edge/pump/rpc/response/7", {"ok": True})
        await room.until(lambda: session.answers == [(7, '{"ok":true}')])
        session.attributes = ({}, {"target": 5})
        device.say("edge/pump/attributes/request/3", {"sharedKeys": "target"})
        assert json.loads(await device.hears("edge/pump/attributes/response/3")) == {"shared": {"target": 5}}
        device.say("v1/gateway/connect", {"device": "fan"})
        await room.until(lambda: "fan" in room.inlet.behind)
        assert await room.inlet.sub("fan").channel.send_rpc(9, request) is None
        await device.hears("v1/gateway/rpc")
        device.say("v1/gateway/rpc", {"device": "fan", "id": 9, "data": {"ok": 1}})
        await room.until(lambda: room.inlet.sub("fan").answers == [(9, '{"ok":1}')])
        assert set(room.inlet.behind) == {"pump", "fan"}  # our own words on shared topics made no device
        device.say("edge/pump/status", "offline")
        await room.until(lambda: not session.is_open)


async def test_nothing_is_acknowledged_before_its_receipt_and_the_window_is_bounded(tmp_path):
    async with house(tmp_path, "held", max_inflight=3) as (_, room, device):
        device.say("edge/pump/status", "online")
        await room.until(lambda: room.inlet.held)
        room.inlet.release()
        await room.until(lambda: room.room.status()["unacknowledged"] == 0)
        for number in range(10):
            device.say("edge/pump/telemetry", {"n": number})
        await room.until(lambda: len(room.inlet.held) == 3)
        await asyncio.sleep(0.2)  # a fourth would have come by now
        assert room.room.status()["unacknowledged"] == len(room.inlet.held) == 3
        seen = 0
        while seen < 10:
            await room.until(lambda: room.inlet.held)
            seen += len(room.inlet.held)
            room.inlet.release()
        assert [items[0].values["n"] for items in room.inlet.sub("pump").posted] == list(range(10))


async def test_what_was_not_acknowledged_comes_again_after_a_kill_of_the_broker(tmp_path, caplog):
    async with house(tmp_path, "held") as (broker, room, device):
        device.say("edge/pump/status", "online")
        await room.until(lambda: room.inlet.held)
        room.inlet.release()
        mids = {device.say("edge/pump/telemetry", {"n": number}) for number in range(5)}
        await room.until(lambda: len(room.inlet.held) == 5 and mids <= device.acknowledged)
        lost = room.inlet.held[:]
        await asyncio.sleep(1.2)  # mosquitto writes its sessions once a second
        room.inlet.held.clear()
        broker.kill()
        await room.until(lambda: not room.room.ready.is_set())
        for receipt in lost:
            receipt.set_result(None)  # too late: whoever hears of it is another connection
        room.inlet.receipts = "at_once"
        await broker.start()
        await room.ready()
        session = room.inlet.sub
        await room.until(lambda: [i[0].values["n"] for i in session("pump").posted] == list(range(5)), "not again")
        told = [record.message for record in caplog.records if "is lost" in record.message]
        assert len(told) == 1


async def test_a_shared_subscription_where_it_is_granted_else_a_plain_one(tmp_path):
    async with house(tmp_path, share="site") as (_, room, device):
        device.say("edge/pump/telemetry", {"t": 1})
        await room.until(lambda: "pump" in room.inlet.behind)
    (tmp_path / "plain").mkdir()
    async with house(tmp_path / "plain", share="site", version="3.1.1") as (_, room, device):
        room.room.life._subscribing[9999] = ["$share/site/x/+"]
        room.room.life._subscribed(9999, [0x80])  # as a broker says no
        await room.until(lambda: not room.room.life._subscribing)
        device.say("x/y", "1")
        device.say("edge/pump/telemetry", {"t": 1})
        await room.until(lambda: "pump" in room.inlet.behind and room.counters.get("external.messages") == 2)


async def test_wrong_credentials_are_told_and_tried_again_slowly(tmp_path, caplog):
    async with Mosquitto(tmp_path, "allow_anonymous false") as broker:
        room = Room(broker, FakeInlet())
        serving = asyncio.create_task(supervise("outside", room.room.serve, Backoff(0.1, 0.2), SystemClock()))
        await room.until(lambda: "refuses us" in caplog.text)
        serving.cancel()
        await asyncio.wait([serving])
        assert caplog.text.count("refuses us") == 1


def test_our_own_words_on_the_gateway_api_are_told_by_their_form():
    rpc, attributes = "v1/gateway/rpc", "v1/gateway/attributes"
    assert _is_downlink(rpc, b'{"device":"d","data":{"id":1,"method":"m","params":1}}')
    assert _is_downlink(attributes, b'{"device":"d","data":{"a":1}}')
    assert not _is_downlink(rpc, b'{"device":"d","id":1,"data":{}}')
    assert not _is_downlink(attributes, b'{"device":{"a":1},"data":{"a":1}}')
    assert not _is_downlink(attributes, b"{")
    assert not _is_downlink("v1/gateway/telemetry", b'{"device":"d","data":{}}')


async def test_as_processes_with_kills_of_both_sides_nothing_is_lost(tmp_path):
    (tmp_path / "mosquitto").mkdir()
    async with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        CloudProcess(tmp_path) as cloud,
    ):
        outside = {"host": "127.0.0.1", "port": broker.port, "reconnect_s": 0.1, "reconnect_max_s": 0.3}
        house = GatewayProcess(
            tmp_path, cloud.grpc_port, external_broker=outside, mappings={"sets": [{"use": "tasmota"}]}
        )
        async with house:

            async def connected() -> bool:
                return bool((await house.status())["external_broker"]["connected"])

            await until(connected, 15, "not connected to the broker")
            device = Device(broker.port, "cmnd/#", name="plant")
            try:
                numbers: dict[int, int] = {}

                def say(count: int) -> None:
                    for _ in range(count):
                        numbers[device.say("tele/plug/SENSOR", {f"n{len(numbers)}": 1})] = len(numbers)

                say(50)
                await house.kill()  # messages in flight
                say(50)
                await house.start()
                await until(connected, 15, "not connected after its kill")

                async def taken() -> bool:
                    return len(device.acknowledged) >= 100

                await until(taken, 15, "the broker does not take everything")
                await asyncio.sleep(1.2)  # mosquitto writes its sessions once a second
                broker.kill()
                await broker.start()
                say(20)

                async def arrived() -> bool:
                    plug = await cloud.device("plug")
                    return {f"n{number}" for number in range(120)} <= plug.get("telemetry", {}).keys()

                await until(arrived, 30, "something is lost")
                plug = await cloud.device("plug")
                assert plug["type"] == "tasmota"
                answer = asyncio.create_task(
                    cloud.call("POST", "/api/devices/plug/rpc", {"method": "setPower", "params": True})
                )
                assert await device.hears("cmnd/plug/POWER") == "ON"
                device.say("stat/plug/RESULT", {"POWER": "ON"})
                assert await answer == {"POWER": "ON"}
                assert house.log().count("external broker: the connection") == 1
            finally:
                device.stop()
