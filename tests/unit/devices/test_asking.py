"""Shared attributes that are not here: who waits for the cloud, how long, and what goes up."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from gateway.devices.asking import ASK_AGAIN_S, MAX_WAITING_OF_DEVICE
from gateway.domain.cloud_event import Lane
from tests.fakes.house import FakeChannel, House, settle
from tests.fakes.link import FakeLink


@asynccontextmanager
async def asked_house(*, is_up=True):
    async with House() as house:
        house.inlet.asking.link = house.link = FakeLink(is_up=is_up)
        house.inlet.asking.wait_s = 3.0
        yield house


def open_session(house, name="Boiler"):
    return house.inlet.open_session(house.add_device(name, name), FakeChannel())


def ask(session, client=None, shared=("target",)):
    return asyncio.ensure_future(session.request_attributes(client, shared))


def questions(house):
    return [event for event in house.committer.events() if event.action == "ATTRIBUTES_REQUEST"]


async def from_cloud(house, session, **values):
    await house.commands.update_attributes(session.device.entity_id, "SHARED_SCOPE", values, house.clock.now_ms())


@pytest.mark.parametrize("value", [21, 0, False, "", {"a": None}])
async def test_a_key_that_is_not_here_is_asked_of_the_cloud_and_answered_when_it_comes(value):
    async with asked_house() as house:
        session = open_session(house)
        first, second = ask(session), ask(session, ["fw"], ["target"])
        await settle()
        (event,) = questions(house)  # one for both
        assert (event.type, event.entity_id, event.lane) == ("DEVICE", session.device.id, Lane.EXPRESS)
        assert house.inlet.asking.waiting() == 2
        await from_cloud(house, session, other=1)
        await settle()
        assert not first.done()
        await from_cloud(house, session, target=value)
        assert await first == await second == ({}, {"target": value})
        assert house.inlet.asking.waiting() == 0


async def test_what_is_here_and_what_is_the_devices_own_is_answered_at_once():
    async with asked_house() as house:
        session = open_session(house)
        house.add_attributes(session.device, "SHARED_SCOPE", target=0)
        assert await session.request_attributes(["fw"], ["target"]) == ({}, {"target": 0})
        assert await session.request_attributes([], []) == ({}, {"target": 0})
        assert await session.request_attributes(["nope"], None) == ({}, {})
        assert questions(house) == []


async def test_with_the_link_down_the_answer_is_what_is_known_at_once():
    async with asked_house(is_up=False) as house:
        assert await open_session(house).request_attributes(None, ["target"]) == ({}, {})
        assert questions(house) == []


async def test_a_silent_cloud_is_waited_for_only_so_long_and_not_asked_again_soon():
    async with asked_house() as house:
        session = open_session(house)
        asked = ask(session)
        await house.clock.advance(2.9)
        assert not asked.done()
        late = ask(session, shared=["limit"])  # shares the question, and what is left of its time
        await house.clock.advance(0.2)
        assert asked.done()
        assert await asked == await late == ({}, {})
        assert await session.request_attributes(None, ["limit"]) == ({}, {})
        assert len(questions(house)) == 1
        await house.clock.advance(ASK_AGAIN_S)
        again = ask(session)
        await settle()
        assert len(questions(house)) == 2
        await from_cloud(house, session, target=1)
        assert await again == ({}, {"target": 1})


async def test_a_lost_link_ends_the_wait_and_a_new_connection_begins_anew():
    async with asked_house() as house:
        session = open_session(house)
        asked = ask(session)
        await settle()
        house.link.lose()
        assert await asked == ({}, {})
        house.link.connect()
        again = ask(session)
        await settle()
        assert len(questions(house)) == 2
        again.cancel()
        await asyncio.wait([again])
        assert house.inlet.asking.waiting() == 0


async def test_a_closed_session_waits_no_longer_and_other_sessions_do():
    async with asked_house() as house:
        gone, stays = open_session(house), open_session(house, "Pump")
        first, other = ask(gone), ask(stays)
        await settle()
        gone.close()
        assert await first == ({}, {})
        assert not other.done()
        assert house.inlet.asking.waiting() == 1
        other.cancel()
        await asyncio.wait([other])


async def test_one_device_cannot_fill_the_waiting_room():
    async with asked_house() as house:
        noisy, quiet = open_session(house), open_session(house, "Pump")
        asked = [ask(noisy) for _ in range(MAX_WAITING_OF_DEVICE)]
        await settle()
        assert await ask(noisy) == ({}, {})
        assert house.counters.get("devices.attribute_waits_refused") == 1
        other = ask(quiet)
        await settle()
        assert not other.done()
        await from_cloud(house, quiet, target=5)
        assert await other == ({}, {"target": 5})
        noisy.close()
        assert await asyncio.gather(*asked) == [({}, {})] * MAX_WAITING_OF_DEVICE


async def test_its_own_writes_are_durable_before_the_question_is_asked():
    async with asked_house() as house:
        session = open_session(house)
        house.committer.hold()
        session.post_attributes({"fw": "2"})
        asked = ask(session, ["fw"], ["target"])
        await settle()
        assert house.inlet.asking.waiting() == 0
        house.add_attributes(session.device, "CLIENT_SCOPE", fw="2")
        house.committer.release()
        await settle()
        assert len(questions(house)) == 1
        await from_cloud(house, session, target=1)
        assert await asked == ({"fw": "2"}, {"target": 1})
