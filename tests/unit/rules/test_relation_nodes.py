"""Relations made and deleted by nodes, while nothing of it is durable yet."""

import orjson

from gateway.domain.changes import AppendEvent, DeleteEntity, SaveDevice, SaveEntity
from tests.unit.rules.kit import Rules


class Held(dict):
    """The state's dictionaries, which the port has as methods."""

    def __call__(self, type_=None):
        return {} if type_ else iter(self.values())


def rules(*nodes):
    """A state in which nothing becomes durable."""
    labels = ("Post telemetry", "Post attributes")[: len(nodes)]
    switch = ("filter.TbMsgTypeSwitchNode", "types", {})
    made = Rules([switch, *nodes], *((0, 1 + place, label) for place, label in enumerate(labels)))
    made.state.devices, made.state.entities = Held(made.state.devices), Held()
    made.state.belongings = lambda entity: ()
    made.state.device_named = lambda name: None
    return made


CREATE = (
    "action.TbCreateRelationNode",
    "create",
    {"relationType": "Feeds", "entityType": "DEVICE", "entityNamePattern": "P", "createEntityIfNotExists": True},
)
DELETE = ("action.TbDeleteRelationNode", "delete", {"relationType": "Feeds"})


def relations(out):
    events = [c.event for c in out.changes if isinstance(c, AppendEvent) and c.event.type == "RELATION"]
    return [(event.action, orjson.loads(event.body)["to"]["id"]) for event in events]


async def test_one_device_is_made_for_two_messages_that_come_at_once():
    house = rules(CREATE)
    first, second = house.run(), house.run()
    made = [change.device for change in first.changes if isinstance(change, SaveDevice)]
    assert [device.name for device in made] == ["P"]
    assert not any(isinstance(change, SaveDevice) for change in second.changes)
    assert {to for _, to in relations(first) + relations(second)} == {str(made[0].id)}
    assert [message.type for message in first.emitted] == ["ENTITY_CREATED"]
    await house.clock.advance(61)  # it was deleted meanwhile: the state does not know it
    assert any(isinstance(change, SaveDevice) for change in house.run().changes)


def test_what_is_on_its_way_to_the_disk_can_be_deleted():
    house = rules(CREATE, DELETE)
    key = next(change.key for change in house.run().changes if isinstance(change, SaveEntity))
    gone = house.run(type_="POST_ATTRIBUTES_REQUEST")
    assert [change.key for change in gone.changes if isinstance(change, DeleteEntity)] == [key]
    assert [action for action, _ in relations(gone)] == ["RELATION_DELETED"]
    assert relations(house.run(type_="POST_ATTRIBUTES_REQUEST")) == []


def test_secrets_of_a_device_that_was_made_are_in_no_message():
    out = rules(CREATE).run()
    device = next(change.device for change in out.changes if isinstance(change, SaveDevice))
    assert device.credentials.credentials_id not in repr(out.emitted) + repr(device)
