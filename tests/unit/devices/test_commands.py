from uuid import UUID, uuid4

import pytest

from gateway.domain.changes import DeleteEntity, SaveAttributes, SaveEntity
from gateway.domain.message import Message
from gateway.errors import RejectedError
from tests.fakes.house import FakeChannel, House

DEVICE_ID = UUID("0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5b")
PROFILE_ID = UUID("6c7d8e90-4d5e-11ef-8a9b-0c1d2e3f4a5b")


def device_json(name="Boiler-7", **more):
    return {
        "id": {"entityType": "DEVICE", "id": str(DEVICE_ID)},
        "createdTime": 1718000000000,
        "name": name,
        "type": "boiler",
        "label": "Cellar",
        "deviceProfileId": {"entityType": "DEVICE_PROFILE", "id": str(PROFILE_ID)},
        "additionalInfo": {"gateway": True},
        **more,
    }


async def test_new_device_is_kept_whole_and_its_attributes_and_relations_are_asked_for():
    async with House() as house:
        await house.commands.put_device(DEVICE_ID, device_json(unknownKey=1))
        device = house.state.device(DEVICE_ID)
        assert device is not None
        assert (device.name, device.type, device.profile_id, device.is_gateway) == (
            "Boiler-7",
            "boiler",
            PROFILE_ID,
            True,
        )
        assert device.json == device_json(unknownKey=1)
        asked = ["ATTRIBUTES_REQUEST", "RELATION_REQUEST", "CALCULATED_FIELD_REQUEST"]
        assert [e.action for e in house.committer.events()] == asked
        await house.commands.put_device(DEVICE_ID, device_json(label="Attic"))
        assert len(house.committer.events()) == 3
        assert house.state.device(DEVICE_ID).label == "Attic"


async def test_calculated_fields_go_with_their_device_and_their_profile():
    def field(number, kind, owner):
        entity = {"entityType": kind, "id": str(owner)}
        return SaveEntity("CALCULATED_FIELD", str(UUID(int=number)), {"name": "F", "entityId": entity})

    async with House() as house:
        await house.commands.put_profile(PROFILE_ID, {"name": "boiler"})
        await house.commands.put_device(DEVICE_ID, device_json())
        await house.pipeline.commit([field(1, "DEVICE", DEVICE_ID), field(2, "DEVICE_PROFILE", PROFILE_ID)])
        await house.commands.delete_device(DEVICE_ID)
        assert list(house.state.entities("CALCULATED_FIELD")) == [str(UUID(int=2))]
        await house.commands.delete_profile(PROFILE_ID)
        assert not house.state.entities("CALCULATED_FIELD")


async def test_the_clouds_name_wins_and_the_local_one_still_finds_the_device():
    async with House() as house:
        device = house.add_device("Boiler")
        await house.commands.put_device(device.id, device_json("Boiler_x7Yq"))
        found = house.inlet.find_device("Boiler")
        assert found is not None
        assert (found.id, found.name, found.credentials) == (device.id, "Boiler_x7Yq", device.credentials)


async def test_credentials_replace_the_old_ones_and_end_the_session_under_them():
    async with House() as house:
        device, channel = house.add_device(token="old"), FakeChannel()
        house.inlet.open_session(device, channel)
        await house.commands.put_credentials(
            device.id, {"credentialsType": "ACCESS_TOKEN", "credentialsId": "new", "credentialsValue": None}
        )
        assert house.inlet.find_credentials("old") is None
        assert house.inlet.find_credentials("new")[1].id == device.id
        assert channel.closed == ["not_authorized"]


async def test_same_credentials_again_leave_the_session_alone():
    async with House() as house:
        device, channel = house.add_device(token="same"), FakeChannel()
        house.inlet.open_session(device, channel)
        await house.commands.put_credentials(device.id, {"credentialsType": "ACCESS_TOKEN", "credentialsId": "same"})
        assert channel.closed == []


async def test_shared_attributes_are_stored_walk_the_rules_as_from_the_cloud_and_reach_the_device():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_attributes(True)
        await house.commands.update_attributes(device.entity_id, "SHARED_SCOPE", {"target": 21}, 5000)
        assert house.state.attribute(device.entity_id, "SHARED_SCOPE", "target") == (5000, 21)
        message = house.rules.seen[-1]
        assert (message.type, message.metadata["source"], message.metadata["scope"]) == (
            "ATTRIBUTES_UPDATED",
            "cloud",
            "SHARED_SCOPE",
        )
        assert channel.attributes == [{"target": 21}]


async def test_attributes_not_newer_than_the_stored_ones_are_dropped():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_attributes(True)
        await house.commands.update_attributes(device.entity_id, "SHARED_SCOPE", {"a": 1, "b": 1}, 5000)
        await house.commands.update_attributes(device.entity_id, "SHARED_SCOPE", {"a": 2}, 5000)
        await house.commands.update_attributes(device.entity_id, "SHARED_SCOPE", {"b": 2}, 5001)
        assert channel.attributes == [{"a": 1, "b": 1}, {"b": 2}]
        saved = [c.values for c in house.committer.changes() if isinstance(c, SaveAttributes)]
        assert saved == [{"a": 1, "b": 1}, {"b": 2}]


async def test_server_attributes_are_never_shown_to_the_device():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_attributes(True)
        await house.commands.update_attributes(device.entity_id, "SERVER_SCOPE", {"limit": 9}, 1)
        assert channel.attributes == []
        assert house.state.attribute(device.entity_id, "SERVER_SCOPE", "limit") == (1, 9)


async def test_data_for_an_unknown_entity_is_no_error_and_changes_nothing():
    async with House() as house:
        unknown = house.add_device().entity_id._replace(id=uuid4())
        await house.commands.update_attributes(unknown, "SHARED_SCOPE", {"a": 1}, 1)
        await house.commands.delete_attributes(unknown, "SHARED_SCOPE", ["a"])
        message = Message(type="POST_TELEMETRY_REQUEST", originator=unknown, data={}, metadata={}, ts_ms=0)
        await house.commands.post_from_cloud(message)
        assert house.committer.changes() == []


async def test_deleted_attributes_are_told():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel).subscribe_attributes(True)
        house.add_attributes(device, "SHARED_SCOPE", a=1)
        await house.commands.delete_attributes(device.entity_id, "SHARED_SCOPE", ["a"])
        assert house.state.attribute(device.entity_id, "SHARED_SCOPE", "a") is None
        assert channel.deleted == [["a"]]


async def test_deleting_a_device_ends_its_session_and_its_credentials():
    async with House() as house:
        device, channel = house.add_device(), FakeChannel()
        house.inlet.open_session(device, channel)
        await house.commands.delete_device(device.id)
        await house.commands.delete_device(device.id)
        assert channel.closed == ["not_authorized"]
        assert house.inlet.find_credentials("token") is None


async def test_deleting_a_device_takes_along_its_alarms_that_are_on_their_way_to_the_disk():
    class Book:
        def __init__(self):
            self.noted = []

        def leaving(self, originator):
            return ["under way", "known"] if originator == device.entity_id else []

        def note(self, changes):
            self.noted = list(changes)

    async with House() as house:
        device = house.add_device()
        book = house.commands.alarms = Book()
        alarm = {"originator": {"entityType": "DEVICE", "id": str(device.id)}, "type": "Hot", "cleared": False}
        await house.pipeline.commit([SaveEntity("ALARM", "known", alarm)])
        await house.commands.delete_device(device.id)
        deleted = [change for change in house.committer.changes() if isinstance(change, DeleteEntity)]
        assert deleted == [DeleteEntity("ALARM", "known"), DeleteEntity("ALARM", "under way")] == book.noted


async def test_profile_from_the_cloud_takes_the_place_of_a_local_one_of_the_same_name():
    from gateway.devices import Found, found_devices

    async with House() as house:
        await house.pipeline.commit(found_devices([Found(name="Pump", profile="pump")], house.state, 1))
        local = house.state.profile_named("pump")
        await house.commands.put_profile(
            PROFILE_ID, {"name": "pump", "defaultEdgeRuleChainId": {"id": str(DEVICE_ID), "entityType": "RULE_CHAIN"}}
        )
        assert local is not None
        assert house.state.profile(local.id) is None
        assert house.state.device_named("Pump").profile_id == PROFILE_ID
        assert house.state.profile_named("pump").default_rule_chain_id == DEVICE_ID


@pytest.mark.parametrize("json", [{}, {"name": ""}, {"name": 5}, device_json(deviceProfileId={"id": "nonsense"})])
async def test_broken_device_json_is_rejected(json):
    async with House() as house:
        with pytest.raises(RejectedError):
            await house.commands.put_device(DEVICE_ID, json)
        assert house.state.device(DEVICE_ID) is None
