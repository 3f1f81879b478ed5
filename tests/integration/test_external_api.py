"""What devices behind a real mosquitto may ask for beside data: calls, limits, claims, packages; and who they are."""

import json
import subprocess
from contextlib import AsyncExitStack

import pytest

from gateway.domain.entity import time_uuid
from gateway.domain.rpc import RpcRequest
from gateway.errors import RejectedError
from tests.e2e.test_gateway_devices import sdk
from tests.fakes.inlet import FakeInlet
from tests.integration.external_house import Device, Room, house
from tests.integration.mosquitto import Mosquitto
from tests.integration.test_broker_ota import DATA, Shelf

pytestmark = pytest.mark.server


async def test_devices_call_the_server_ask_for_their_limits_and_may_be_claimed(tmp_path):
    async with house(tmp_path) as (_, room, device):
        device.say("edge/pump/call/request/1", {"method": "getSessionLimits", "params": {"timeout": 5000}})
        limits = json.loads(await device.hears("edge/pump/call/response/1"))
        assert limits["maxPayloadSize"] == 65536
        assert limits["rateLimits"]["messages"] is None
        pump = room.inlet.sub("pump")
        pump.server_answer = '{"time":5}'
        device.say("edge/pump/call/request/2", {"method": "getTime"})
        assert json.loads(await device.hears("edge/pump/call/response/2")) == {"time": 5}
        pump.server_answer = None
        device.say("edge/pump/call/request/3", {"method": "getTime"})
        assert json.loads(await device.hears("edge/pump/call/response/3")) == {"error": "timeout"}
        assert pump.calls == [(2, "getTime", None), (3, "getTime", None)]
        device.say("edge/pump/claim", {"secretKey": "s", "durationMs": 60000})
        device.say("edge/fan/claim", "")
        await room.until(lambda: pump.posted and "fan" in room.inlet.behind and room.inlet.sub("fan").posted)
        assert pump.posted == [("claim", "s", 60000)]
        assert room.inlet.sub("fan").posted == [("claim", "", 0)]
        device.say("edge/pump/call/request/x", {"method": "m"})
        device.say("edge/pump/call/request/4", "no call")
        device.say("edge/pump/claim", "[1]")
        await room.until(lambda: room.counters.get("external.bad_payloads") == 3)
        await room.until(lambda: room.room.status()["unacknowledged"] == 0)


async def test_a_claim_is_acknowledged_when_it_is_durable(tmp_path):
    async with house(tmp_path, "held") as (_, room, device):
        device.say("edge/pump/claim", "{}")
        await room.until(lambda: room.inlet.held)
        room.inlet.release()
        await room.until(lambda: room.inlet.held and room.inlet.sub("pump").posted)
        assert room.room.status()["unacknowledged"] == 1
        room.inlet.release()
        await room.until(lambda: room.room.status()["unacknowledged"] == 0)


async def test_a_question_that_cannot_be_answered_is_told_and_disturbs_nobody(tmp_path):
    async with house(tmp_path) as (_, room, device):
        device.say("edge/pump/status", "online")
        await room.until(lambda: "pump" in room.inlet.behind)

        async def gone(*_):
            raise RejectedError("the device was deleted")

        room.inlet.sub("pump").request_attributes = gone
        room.inlet.sub("pump").call_server = gone
        device.say("edge/pump/attributes/request/1", "{}")
        device.say("edge/pump/call/request/1", {"method": "m"})
        await room.until(lambda: room.counters.get("external.questions_failed") == 2)
        device.say("edge/pump/telemetry", {"t": 1})
        await room.until(lambda: room.inlet.sub("pump").posted)


async def test_packages_come_in_chunks_and_a_new_download_gets_the_new_package(tmp_path):
    shelf = Shelf(tmp_path / "ota")
    await shelf.put(DATA)
    async with house(tmp_path, packages=shelf) as (_, room, device):

        async def chunk(number, size, rid=1):
            device.say(f"edge/pump/fw/request/{rid}/chunk/{number}", size)
            topic = f"edge/pump/fw/response/{rid}/chunk/{number}"
            await device.hears(topic)
            device.heard.clear()
            return device.raw[topic]

        assert b"".join([await chunk(number, "50000") for number in range(4)]) == DATA
        await shelf.put(b"b" * 100, "b")
        assert await chunk(2, "") == DATA[100_000:]  # the same download, the size of before
        assert await chunk(0, "60") == b"b" * 60
        assert await chunk(1, "60") == b"b" * 40
        assert await chunk(0, "", rid=2) == b"b" * 100
        device.say("edge/pump/fw/request/1/chunk/0", "65537")
        assert await device.hears("edge/pump/fw/error") == "PAYLOAD_TOO_LARGE"
        device.say("edge/pump/sw/request/1/chunk/0", "10")
        assert await device.hears("edge/pump/sw/error") == "NOT_FOUND"
        device.say("edge/pump/fw/request/1/chunk/0", "ten")
        await room.until(lambda: room.counters.get("external.bad_payloads") == 1)
        assert room.counters.get("external.package_errors") == 2
    await shelf.files.close()
    assert [file.holders for file in shelf.opened] == [0] * len(shelf.opened)


async def test_devices_take_turns_with_packages_and_each_may_wait_for_so_many_chunks(tmp_path):
    shelf = Shelf(tmp_path / "ota")
    await shelf.put(DATA)
    async with house(tmp_path, "held", packages=shelf) as (_, room, device):
        for name in ("pump", "fan"):
            device.say(f"edge/{name}/status", "online")
        await room.until(lambda: len(room.inlet.held) == 2)
        for number in range(20):  # they wait for the device to be made, and are asked for at once then
            device.say(f"edge/pump/fw/request/1/chunk/{number}", "10")
        device.say("edge/fan/fw/request/1/chunk/0", "10")
        await room.until(lambda: room.room.status()["unacknowledged"] == 23)
        room.inlet.release()
        await device.hears("edge/pump/fw/response/1/chunk/15")
        names = [topic.split("/")[1] for topic, _ in device.heard if "/fw/response/" in topic]
        assert "fan" in names[:2]
        assert room.counters.get("external.package_errors") == 4
    await shelf.files.close()


async def test_an_answer_to_a_call_of_an_earlier_connection_arrives(tmp_path):
    async with house(tmp_path) as (broker, room, device):
        device.say("edge/pump/status", "online")
        await room.until(lambda: "pump" in room.inlet.behind)
        request = RpcRequest(device_id=time_uuid(), method="set", params=1, request_id=1, expires_ms=1 << 50)
        assert await room.inlet.sub("pump").channel.send_rpc(7, request) is None
        broker.kill()
        await room.until(lambda: not room.room.ready.is_set())
        await broker.start()
        await room.ready()
        device.say("edge/pump/rpc/response/7", {"ok": True})
        await room.until(lambda: room.inlet.sub("pump").answers, "the answer is lost")
        assert [(number, json.loads(text)) for number, text in room.inlet.sub("pump").answers] == [(7, {"ok": True})]


async def test_the_vendors_gateway_client_works_through_the_broker(tmp_path):
    async with house(tmp_path) as (broker, room, _), sdk(broker.port) as gateway:  # it waits for its limits first
        await gateway("gw_connect_device", "Pump", "pump")
        await gateway("gw_send_telemetry", "Pump", [{"ts": 1_700_000_000_000, "values": {"t": 21.5}}])
        await gateway("gw_send_attributes", "Fan", {"fw": "2.1b"})
        await gateway("gw_claim", "Pump", "key", 60_000)
        await room.until(lambda: "Fan" in room.inlet.behind and len(room.inlet.sub("Pump").posted) == 2)
        pump = room.inlet.sub("Pump")
        assert (pump.device.type, pump.posted[0][0].values) == ("pump", {"t": 21.5})
        assert pump.posted[1] == ("claim", "key", 60_000)
        request = RpcRequest(device_id=time_uuid(), method="set", params={"x": 1}, request_id=1, expires_ms=1 << 50)
        assert await pump.channel.send_rpc(0, request) is None
        await gateway.hears(rpc={"device": "Pump", "data": {"id": 0, "method": "set", "params": {"x": 1}}})
        await room.until(lambda: pump.answers == [(0, '{"got":{"x":1}}')])
        pump.channel.send_attributes({"target": 7})
        await gateway.hears(attributes={"device": "Pump", "data": {"target": 7}})
        pump.attributes = ({}, {"target": 7})
        await gateway("gw_request_shared_attributes", "Pump", ["target"])
        await gateway.hears(found={"id": 1, "device": "Pump", "value": 7})


async def test_topics_that_name_nobody_are_told_once_with_what_to_use(tmp_path, caplog):
    async with house(tmp_path) as (_, room, device):
        for number in range(5):
            device.say("v1/devices/me/telemetry", {"t": number})
        await room.until(lambda: room.counters.get("external.nameless") == 5)
        assert caplog.text.count("'edge/{device}/telemetry'") == 1
        assert room.room.status()["problems"][0]["topic"] == "v1/devices/me/telemetry"
        assert not room.inlet.behind


async def test_users_of_the_broker_speak_for_themselves_by_its_rules(tmp_path, caplog):
    users = tmp_path / "users"
    users.write_text("".join(f"{user}:password of {user}\n" for user in ("edge", "pump", "fan")))
    subprocess.run(["mosquitto_passwd", "-U", str(users)], check=True)
    users.chmod(0o600)
    (tmp_path / "acl").write_text(
        "user edge\ntopic read edge/#\ntopic write edge/pump/#\npattern readwrite edge/%u/#\n"
    )
    rules = (f"password_file {users}", f"acl_file {tmp_path}/acl")
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(tmp_path, *rules, is_open=False))
        inlet = FakeInlet()
        inlet.add_device("external-broker", "secret", is_gateway=True)
        room = Room(broker, inlet, user="edge", password="password of edge")
        await stack.enter_async_context(room.kept())
        await room.ready()
        pump, fan = Device(broker.port, "edge/#", user="pump"), Device(broker.port, "edge/#", user="fan")
        stack.callback(pump.stop)
        stack.callback(fan.stop)
        await pump.ready()
        await fan.ready()
        pump.say("edge/fan/telemetry", {"false": 1})
        pump.say("edge/pump/telemetry", {"t": 1})
        fan.say("edge/fan/telemetry", {"t": 2})
        await room.until(lambda: {"pump", "fan"} <= inlet.behind.keys())
        assert inlet.sub("fan").posted[0][0].values == {"t": 2}
        inlet.sub("pump").channel.send_attributes({"a": 1})
        await pump.hears("edge/pump/attributes/changed")
        assert not [topic for topic, _ in fan.heard if "pump" in topic]
        inlet.sub("fan").channel.send_attributes({"a": 1})  # nobody has allowed the gateway to write there
        await room.until(lambda: room.counters.get("external.downlinks_refused") == 1)
        assert "Not authorized" in room.room.status()["problems"][-1]["reason"]
        assert "password of" not in caplog.text


async def test_two_gateways_divide_the_devices_and_keep_the_order_of_each(tmp_path):
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(tmp_path))
        rooms = []
        for part in (1, 2):
            inlet = FakeInlet()
            inlet.add_device("external-broker", "secret", is_gateway=True)
            rooms.append(Room(broker, inlet, part=part, parts=2, client_id=f"edge-{part}"))
            await stack.enter_async_context(rooms[-1].kept())
            await rooms[-1].ready()
        device = Device(broker.port)
        stack.callback(device.stop)
        await device.ready()
        names = [f"d{number}" for number in range(8)]
        for number in range(20):
            for name in names:
                device.say(f"edge/{name}/telemetry", {"n": number})
        device.say("v1/gateway/telemetry", {"other": [{"n": 1}]})
        device.say("edge/d0/claim", "")
        device.say("edge/d1/claim", "")
        await rooms[0].until(lambda: all(room.counters.get("external.messages") >= 162 for room in rooms))
        first, second = (room.inlet.behind.keys() for room in rooms)
        assert first | second == {*names, "other"}
        assert not first & second
        assert len(first) > 1 < len(second)
        for room in rooms:
            for name in set(names) & room.inlet.behind.keys():
                said = [one for one in room.inlet.sub(name).posted if one[0] != "claim"]
                assert [items[0].values["n"] for items in said] == list(range(20))


async def test_a_second_client_with_our_id_is_told(tmp_path, caplog):
    async with house(tmp_path) as (broker, room, _):
        async with Room(broker, FakeInlet()).kept():  # mosquitto 2.0 says nothing to the one that it cuts
            await room.until(lambda: "has another client the client id 'edge-gateway'?" in caplog.text)
        await room.ready()
        room.room.life._lost(142, "Session taken over")  # as others do
        await room.until(lambda: "another client has taken our client id 'edge-gateway'" in caplog.text)
        assert "each gateway needs its own external_broker.client_id" in room.room.status()["error"]
