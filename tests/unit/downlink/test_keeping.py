import pytest

from gateway.domain.changes import SaveEntity, SaveSetting
from gateway.domain.downlink import EntityUpdated, UpdateKind
from gateway.domain.entity import EdgeIdentity, EntityId, time_uuid
from gateway.downlink import keeping
from gateway.downlink.keeping import Full, keep
from gateway.errors import RejectedError
from tests.fakes.house import House

CREATED, UPDATED, DELETED = UpdateKind.CREATED, UpdateKind.UPDATED, UpdateKind.DELETED


class Kept:
    """What the cloud sent, applied."""

    def __init__(self):
        self.house = House()
        self.state = self.house.state
        self.device = self.house.add_device()
        self.here = {"entityType": "DEVICE", "id": str(self.device.id)}

    def send(self, type_, kind, id_, size_bytes=0, **json):
        changes = keep(EntityUpdated(type_, kind, id_, json or None, size_bytes), self.state)
        self.state.apply(changes)
        return changes

    def alarm(self, kind, id_, **json):
        return self.send("ALARM", kind, id_, originator=self.here, type="Hot", **json)

    def of(self, kind):
        return dict(self.state.entities(kind))


def test_alarm_is_created_acknowledged_cleared_and_deleted():
    kept, id_ = Kept(), time_uuid()
    kept.alarm(CREATED, id_, severity="MAJOR", details={"t": 1})
    assert kept.of("ALARM")[str(id_)]["status"] == "ACTIVE_UNACK"
    assert kept.state.open_alarm(kept.device.entity_id, "Hot")[0] == str(id_)
    kept.alarm(UpdateKind.ALARM_ACK, id_, ackTs=5)
    kept.alarm(UpdateKind.ALARM_CLEAR, id_, clearTs=6, details={"t": 2})
    alarm = kept.of("ALARM")[str(id_)]
    assert (alarm["status"], alarm["ackTs"], alarm["clearTs"]) == ("CLEARED_ACK", 5, 6)
    assert (alarm["details"], alarm["severity"]) == ({"t": 2}, "MAJOR")
    assert kept.state.open_alarm(kept.device.entity_id, "Hot") is None
    kept.alarm(DELETED, id_)
    kept.alarm(DELETED, id_)
    assert kept.of("ALARM") == {}


def test_created_merges_into_the_open_alarm_which_keeps_its_id():
    kept, first, second = Kept(), time_uuid(), time_uuid()
    kept.alarm(CREATED, first, id={"id": str(first)}, createdTime=1, severity="MINOR")
    kept.alarm(CREATED, second, id={"id": str(second)}, createdTime=2, severity="CRITICAL")
    ((key, alarm),) = kept.of("ALARM").items()
    assert (key, alarm["id"], alarm["createdTime"], alarm["severity"]) == (
        str(first), {"id": str(first)}, 1, "CRITICAL",
    )  # fmt: skip
    kept.alarm(UpdateKind.ALARM_CLEAR, first, clearTs=3)
    kept.alarm(CREATED, second, id={"id": str(second)}, severity="MAJOR")
    assert set(kept.of("ALARM")) == {str(first), str(second)}


@pytest.mark.parametrize("kind", [UPDATED, UpdateKind.ALARM_ACK, UpdateKind.ALARM_CLEAR, DELETED])
def test_an_alarm_that_is_not_known_is_no_error(kind):
    kept = Kept()
    kept.alarm(kind, time_uuid())
    assert kept.of("ALARM") == {}


def test_alarms_of_strangers_and_without_originator_are_ignored():
    kept = Kept()
    assert kept.send("ALARM", CREATED, time_uuid(), type="Hot") == []
    stranger = {"entityType": "DEVICE", "id": str(time_uuid())}
    assert kept.send("ALARM", CREATED, time_uuid(), type="Hot", originator=stranger) == []


def test_the_oldest_cleared_alarm_makes_room(monkeypatch):
    monkeypatch.setattr(keeping, "MOST", {**keeping.MOST, "ALARM": 3})
    kept, ids = Kept(), [time_uuid() for _ in range(4)]
    for number, id_ in enumerate(ids):
        kept.send("ALARM", CREATED, id_, type=str(number), originator=kept.here, cleared=number == 1)
    assert set(kept.of("ALARM")) == {str(ids[0]), str(ids[2]), str(ids[3])}


def test_a_relation_needs_both_ends():
    kept, asset = Kept(), time_uuid()
    ends = {"from": {"entityType": "ASSET", "id": str(asset)}, "to": kept.here, "type": "Contains"}
    assert kept.send("RELATION", CREATED, None, **ends) == []
    kept.send("ASSET", CREATED, asset, name="Hall")
    kept.send("RELATION", CREATED, None, **ends)
    kept.send("RELATION", UPDATED, None, **ends)
    assert len(kept.of("RELATION")) == 1
    kept.send("RELATION", DELETED, None, **ends)
    assert kept.of("RELATION") == {}
    with pytest.raises(RejectedError):
        kept.send("RELATION", CREATED, None, type="Contains")


def test_relations_to_the_edge_itself_are_kept():
    kept = Kept()
    edge = EdgeIdentity(edge_id=time_uuid(), tenant_id=time_uuid())
    kept.state.apply([SaveSetting("edge_identity", edge.to_json())])
    end = {"entityType": "EDGE", "id": str(edge.edge_id)}
    kept.send("RELATION", CREATED, None, **{"from": end, "to": kept.here, "type": "ManagedByEdge"})
    assert len(kept.of("RELATION")) == 1


def test_relations_and_alarms_go_with_their_asset():
    kept, asset = Kept(), time_uuid()
    end = {"entityType": "ASSET", "id": str(asset)}
    kept.send("ASSET", CREATED, asset, name="Hall")
    kept.send("RELATION", CREATED, None, **{"from": end, "to": kept.here, "type": "Contains"})
    kept.send("ALARM", CREATED, time_uuid(), type="Fire", originator=end)
    kept.send("ASSET", DELETED, asset)
    assert kept.of("ASSET") == kept.of("RELATION") == kept.of("ALARM") == {}
    assert kept.state.open_alarm(EntityId("ASSET", asset), "Fire") is None


async def test_relations_and_alarms_go_with_their_device():
    kept = Kept()
    kept.alarm(CREATED, time_uuid())
    kept.send("RELATION", CREATED, None, **{"from": kept.here, "to": kept.here, "type": "Loop"})
    await kept.house.commands.delete_device(kept.device.id)
    assert kept.of("RELATION") == kept.of("ALARM") == {}


def test_a_customer_of_the_same_title_is_replaced():
    kept, old, new = Kept(), time_uuid(), time_uuid()
    kept.send("CUSTOMER", CREATED, old, title="Acme")
    kept.send("CUSTOMER", CREATED, new, title="Acme")
    kept.send("CUSTOMER", CREATED, time_uuid(), title="Other")
    assert str(old) not in kept.of("CUSTOMER")
    assert len(kept.of("CUSTOMER")) == 2
    kept.send("CUSTOMER", DELETED, new)
    assert len(kept.of("CUSTOMER")) == 1


def test_a_large_document_is_kept_by_name_and_all_of_them_are_bounded(monkeypatch):
    kept, id_ = Kept(), time_uuid()
    (change,) = kept.send("DASHBOARD", CREATED, id_, 5 << 20, name="Plant", title="Plant", configuration={"x": 1})
    assert change.json == {"name": "Plant", "title": "Plant", "isNameOnly": True}
    monkeypatch.setattr(keeping, "ALL_DOCUMENTS", 1000)
    kept.send("DASHBOARD", CREATED, id_, 700, name="Plant")
    assert kept.state.documents_bytes() == 700
    (change,) = kept.send("DASHBOARD", CREATED, time_uuid(), 700, name="B", configuration={"x": 1})
    assert change.json == {"name": "B", "isNameOnly": True}
    kept.send("DASHBOARD", DELETED, id_)
    assert kept.state.documents_bytes() == 200


def test_too_many_of_a_kind_are_refused_but_known_ones_change(monkeypatch):
    monkeypatch.setattr(keeping, "MOST", {**keeping.MOST, "ASSET": 1})
    kept, id_ = Kept(), time_uuid()
    kept.send("ASSET", CREATED, id_, name="A")
    kept.send("ASSET", UPDATED, id_, name="B")
    with pytest.raises(Full):
        kept.send("ASSET", CREATED, time_uuid(), name="C")
    assert [asset["name"] for asset in kept.of("ASSET").values()] == ["B"]


def test_documents_are_not_among_what_is_in_memory():
    kept = Kept()
    kept.state.apply([SaveEntity("DASHBOARD", "x", {"name": "D"}, 10)])
    assert kept.state.entity_json("DASHBOARD", "x") is None
