"""What the cloud sends in one go: different devices share a commit, everything else keeps its turn."""

import asyncio

import pytest

from gateway.devices import Found, found_devices
from gateway.domain.changes import SaveDevice
from gateway.domain.downlink import MOVED_DEVICES, CredentialsUpdated, Downlink, EntityUpdated, UpdateKind
from gateway.domain.entity import time_uuid
from gateway.downlink import Dispatcher
from gateway.errors import RejectedError
from tests.fakes.house import FakeChannel, House, settle
from tests.unit.downlink.test_dispatch import FakeChains

PROFILE = time_uuid()
IN_PROFILE = {"entityType": "DEVICE_PROFILE", "id": str(PROFILE)}


@pytest.fixture
async def house():
    async with House() as house:
        house.dispatcher = Dispatcher(
            house.commands, FakeChains(), house.pipeline.commit, house.state, house.clock, house.counters
        )
        profile = EntityUpdated("DEVICE_PROFILE", UpdateKind.UPDATED, PROFILE, {"name": "boiler"})
        await house.dispatcher.handle(Downlink(0, [profile]))
        house.committer.units.clear()
        yield house


def device(id_, name, token=None, **more):
    json = {"name": name, "type": "boiler", "deviceProfileId": IN_PROFILE, "createdTime": 7, **more}
    commands = [
        EntityUpdated("DEVICE_PROFILE", UpdateKind.UPDATED, PROFILE, {"name": "boiler"}),
        EntityUpdated("DEVICE", UpdateKind.CREATED, id_, json),
    ]
    if token is not None:
        commands.append(CredentialsUpdated(id_, {"credentialsType": "ACCESS_TOKEN", "credentialsId": token}))
    return Downlink(1, commands)


def deleted(id_):
    return Downlink(1, [EntityUpdated("DEVICE", UpdateKind.DELETED, id_, None)])


async def handle_all(house, *downlinks):
    """All at once, with a disk that answers when everything that may reach it has; the units in each of its turns."""
    tasks = [asyncio.create_task(house.dispatcher.handle(downlink)) for downlink in downlinks]
    turns = []
    house.committer.hold()
    await settle()
    while not all(task.done() for task in tasks):
        before = len(house.committer.units)
        house.committer.release()
        house.committer.hold()
        turns.append(len(house.committer.units) - before)
        await settle()
    house.committer.release()
    await asyncio.gather(*tasks)
    return [count for count in turns if count]


async def test_different_devices_share_a_commit_and_one_needs_one_unit(house):
    ids = [time_uuid() for _ in range(5)]
    turns = await handle_all(house, *(device(id_, f"D{n}", f"t{n}") for n, id_ in enumerate(ids)))
    assert turns == [5]
    assert house.inlet.find_credentials("t3")[1].id == ids[3]


async def test_the_same_again_writes_nothing(house):
    id_ = time_uuid()
    await house.dispatcher.handle(device(id_, "D", "t"))
    house.committer.units.clear()
    await house.dispatcher.handle(device(id_, "D", "t"))
    assert house.committer.units == []
    await house.dispatcher.handle(device(id_, "D", "t", label="new"))
    assert house.state.device(id_).label == "new"


async def test_one_device_keeps_its_order(house):
    id_, other = time_uuid(), time_uuid()
    turns = await handle_all(house, device(id_, "A"), device(id_, "B"), device(other, "C"), device(id_, "D"))
    assert house.state.device(id_).name == "D"
    assert len(turns) >= 3
    names = [c.device.name for unit in house.committer.units for c in unit if isinstance(c, SaveDevice)]
    assert [name for name in names if name != "C"] == ["A", "B", "D"]


async def test_a_name_that_is_given_away_keeps_its_order(house):
    first, second = time_uuid(), time_uuid()
    await house.dispatcher.handle(device(first, "A", "t1"))
    assert await handle_all(house, device(first, "B", "t1"), device(second, "A", "t2")) == [1, 1]
    assert house.state.device_named("A").id == second


async def test_a_deletion_is_passed_by_nobody(house):
    first, second = time_uuid(), time_uuid()
    turns = await handle_all(house, device(first, "A"), deleted(first), device(second, "B"), device(first, "A"))
    assert turns[:2] == [1, 1]
    assert {one.id for one in house.state.devices()} == {first, second}


async def test_a_changed_profile_is_passed_by_nobody_and_moves_every_device(house):
    ids = [time_uuid() for _ in range(3)]
    renamed = Downlink(9, [EntityUpdated("DEVICE_PROFILE", UpdateKind.UPDATED, PROFILE, {"name": "kettle"})])
    await handle_all(house, *(device(id_, f"D{n}") for n, id_ in enumerate(ids)), renamed)
    assert {one.type for one in house.state.devices()} == {"kettle"}


async def test_a_device_without_a_profile_of_its_own_gets_the_one_named_like_its_type(house):
    id_ = time_uuid()
    await house.dispatcher.handle(
        Downlink(1, [EntityUpdated("DEVICE", UpdateKind.CREATED, id_, {"name": "D", "type": "boiler"})])
    )
    assert house.state.device(id_).profile_id == PROFILE


async def test_a_device_ahead_of_the_new_name_of_its_profile_follows_it(house):
    id_ = time_uuid()
    await house.dispatcher.handle(
        Downlink(
            1,
            [
                EntityUpdated(
                    "DEVICE",
                    UpdateKind.CREATED,
                    id_,
                    {"name": "D", "type": "kettle", "deviceProfileId": IN_PROFILE},
                )
            ],
        )
    )
    await house.dispatcher.handle(
        Downlink(2, [EntityUpdated("DEVICE_PROFILE", UpdateKind.UPDATED, PROFILE, {"name": "kettle"})])
    )
    assert (house.state.device(id_).type, house.state.device(id_).profile_id) == ("kettle", PROFILE)


async def test_two_that_take_the_place_of_ours_at_once_are_both_remembered(house):
    wanted = [Found(name=name) for name in ("A", "B")]
    await house.pipeline.commit(found_devices(wanted, house.state, house.clock.now_ms()))
    ours = {house.state.device_named(name).id for name in ("A", "B")}
    await handle_all(house, device(time_uuid(), "A"), device(time_uuid(), "B"))
    assert {*house.state.setting(MOVED_DEVICES)} == {str(id_) for id_ in ours}


async def test_broken_credentials_do_not_keep_the_device_out(house):
    id_ = time_uuid()
    broken = device(id_, "D")
    broken.commands.append(CredentialsUpdated(id_, {"credentialsType": "ACCESS_TOKEN"}))
    with pytest.raises(RejectedError, match="credentialsId"):
        await house.dispatcher.handle(broken)
    assert house.state.device(id_).credentials is None


async def test_a_session_under_other_credentials_ends_when_they_come_with_the_device(house):
    id_ = time_uuid()
    await house.dispatcher.handle(device(id_, "D", "old"))
    channel = FakeChannel()
    house.inlet.open_session(house.state.device(id_), channel)
    await house.dispatcher.handle(device(id_, "D", "old", label="x"))
    assert channel.closed == []
    await house.dispatcher.handle(device(id_, "D", "new"))
    assert channel.closed == ["not_authorized"]


async def test_one_that_is_cancelled_leaves_its_place(house):
    id_ = time_uuid()
    house.committer.hold()
    first = asyncio.create_task(house.dispatcher.handle(device(id_, "A")))
    second = asyncio.create_task(house.dispatcher.handle(device(id_, "B")))
    await settle()
    for task in (first, second):
        task.cancel()
        await asyncio.wait([task])
    house.committer.release()
    await house.dispatcher.handle(device(id_, "C"))
    assert house.state.device(id_).name == "C"
