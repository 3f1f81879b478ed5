import asyncio

import pytest

from gateway.domain.telemetry import TsKv
from gateway.errors import RejectedError
from gateway.ports import AttributeNotice
from tests.fakes.house import FakeChannel, House, settle


async def test_each_time_stamp_is_a_message_of_its_own_and_all_share_one_receipt():
    async with House() as house:
        device = house.add_device()
        session = house.inlet.open_session(device, FakeChannel())
        await session.post_telemetry([TsKv(1000, {"t": 1}), TsKv(2000, {"t": 2})])
        assert [(m.type, m.data, m.metadata["ts"]) for m in house.rules.seen] == [
            ("POST_TELEMETRY_REQUEST", {"t": 1}, "1000"),
            ("POST_TELEMETRY_REQUEST", {"t": 2}, "2000"),
        ]
        assert house.rules.seen[0].metadata["deviceName"] == "Boiler"
        assert len(house.committer.units) == 1
        assert [event.body for event in house.committer.events()] == [
            b'{"ts":1000,"data":{"t":1}}',
            b'{"ts":2000,"data":{"t":2}}',
        ]


async def test_a_second_login_closes_the_first():
    async with House() as house:
        device, first, second = house.add_device(), FakeChannel(), FakeChannel()
        old = house.inlet.open_session(device, first)
        new = house.inlet.open_session(device, second)
        assert first.closed == ["taken_over"]
        old.close()  # the connection notices later: it must not end the new session
        assert house.inlet.sessions()[device.id] is new


async def test_a_deleted_device_gets_no_session():
    async with House() as house:
        device = house.add_device()
        await house.commands.delete_device(device.id)
        with pytest.raises(RejectedError, match="was deleted"):
            house.inlet.open_session(device, FakeChannel())


async def test_attribute_request_waits_for_what_the_session_posted_before():
    async with House() as house:
        device = house.add_device()
        session = house.inlet.open_session(device, FakeChannel())
        house.committer.hold()
        session.post_attributes({"fw": "2"})
        asked = asyncio.ensure_future(session.request_attributes(["fw"], None))
        await settle()
        assert not asked.done()
        house.add_attributes(device, "CLIENT_SCOPE", fw="2")
        house.committer.release()
        assert await asked == ({"fw": "2"}, {})


async def test_attribute_request_by_key_by_scope_and_of_everything():
    async with House() as house:
        device = house.add_device()
        house.add_attributes(device, "CLIENT_SCOPE", fw="2", model="X")
        house.add_attributes(device, "SHARED_SCOPE", target=21)
        house.add_attributes(device, "SERVER_SCOPE", secret="no")
        session = house.inlet.open_session(device, FakeChannel())
        assert await session.request_attributes(["fw", "nope"], ["target"]) == ({"fw": "2"}, {"target": 21})
        assert await session.request_attributes(None, ["target"]) == ({}, {"target": 21})
        assert await session.request_attributes([], []) == ({"fw": "2", "model": "X"}, {"target": 21})


async def test_pushes_wait_for_the_subscription():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        session = house.inlet.open_session(device, channel)
        house.add_attributes(device, "SHARED_SCOPE", a=1)
        house.inlet.notify(AttributeNotice(device.entity_id, {"a": 1}))
        assert channel.attributes == []
        session.subscribe_attributes(True)
        await settle()
        assert channel.attributes == [{"a": 1}]
        house.inlet.notify(AttributeNotice(device.entity_id, {"a": 2}, ["b"]))
        assert (channel.attributes, channel.deleted) == ([{"a": 1}, {"a": 2}], [["b"]])


async def test_call_to_the_server_is_answered_by_the_cloud():
    async with House() as house:
        device = house.add_device()
        session = house.inlet.open_session(device, FakeChannel())
        asked = asyncio.ensure_future(session.call_server(5, "getTime", {}))
        await settle()
        message = house.rules.seen[-1]
        assert (message.type, message.data) == ("TO_SERVER_RPC_REQUEST", {"method": "getTime", "params": {}})
        assert message.metadata["requestId"] == "5"
        await house.commands.answer_device(device.id, 6, None, "wrong number")
        await house.commands.answer_device(device.id, 5, None, '{"time":1}')
        assert await asked == '{"time":1}'
