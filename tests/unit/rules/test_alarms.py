"""Alarm nodes beside their case folders: what is kept, what goes, and that nothing grows."""

from dataclasses import replace
from uuid import UUID

import orjson
import pytest

from gateway.domain.changes import DeleteDevice, DeleteEntity, DropLocal, SaveEntity, SaveLocal
from gateway.domain.entity import EntityId
from gateway.rules import alarms
from gateway.rules.schedule import parse_schedule
from tests.unit.rules.kit import CHAIN_ID, DEVICE_ID, PROFILE_ID, PUSH, Rules, metadata

PROFILE = ("profile.TbDeviceProfileNode", "profile", {})
CREATE = ("action.TbCreateAlarmNode", "create", {"alarmType": "Hot"})
CLEAR = ("action.TbClearAlarmNode", "clear", {"alarmType": "Hot"})
LINKS = ((0, 1, "Alarm Created"), (0, 1, "Alarm Updated"), (0, 1, "Alarm Cleared"))


def rule(times=3, limit=80, key="t", **more):
    predicate = {"type": "NUMERIC", "operation": "GREATER", "value": {"defaultValue": limit}}
    one = {"key": {"type": "TIME_SERIES", "key": key}, "valueType": "NUMERIC", "predicate": predicate}
    spec = {"type": "REPEATING", "predicate": {"defaultValue": times}}
    return {"condition": {"condition": [one], "spec": {**spec, **more}}}


def profile(*trees):
    return {"profileData": {"alarms": [{"id": name, "alarmType": name, **rest} for name, rest in trees]}}


def started(*trees):
    rules = Rules([PROFILE, PUSH], *LINKS)
    rules.state.add_device(profile_json=profile(*trees))
    return rules


def send(rules, t, ts):
    return rules.run({"t": t}, metadata={"ts": str(ts)})


def saved(out):
    return [change.json for change in out.changes if isinstance(change, SaveEntity)]


def test_a_message_that_moves_no_rule_writes_nothing():
    rules = started(("Hot", {"createRules": {"CRITICAL": rule()}}))
    assert send(rules, 20, 1).changes == []
    assert [type(change) for change in send(rules, 90, 2).changes] == [SaveLocal]
    assert [type(change) for change in send(rules, 20, 3).changes] == [DropLocal]
    assert rules.local == {}


def test_counts_stay_when_the_profile_or_the_chain_is_sent_again_and_go_with_their_rule():
    trees = [("Hot", {"createRules": {"CRITICAL": rule()}}), ("Other", {"createRules": {"MINOR": rule(9)}})]
    rules = started(*trees)
    send(rules, 90, 1)
    rules.state.add_device(profile_json=profile(*trees))
    send(rules, 90, 2)
    rules.put(CHAIN_ID, "Root", metadata([PROFILE, PUSH, PUSH], *LINKS, (1, 2, "Success")), is_root=True)
    out = send(rules, 90, 3)
    assert [alarm["type"] for alarm in saved(out)] == ["Hot"]
    rules.state.add_device(profile_json=profile(trees[0]))
    send(rules, 90, 4)
    (body,) = rules.local.values()
    assert set(orjson.loads(body)["counts"]) == {"Hot"}


@pytest.mark.parametrize("way", ["message", "deleted", "no alarms"])
async def test_the_state_of_a_device_that_is_gone_goes(way):
    rules = started(("Hot", {"createRules": {"CRITICAL": rule()}}))
    send(rules, 90, 1)
    assert len(rules.local) == 1
    if way == "message":
        rules.run({}, "ENTITY_DELETED")
    elif way == "deleted":
        del rules.state.devices[DEVICE_ID]
        await rules.wait(60)
    else:
        rules.state.add_device(profile_json=profile())
        send(rules, 90, 2)
    assert rules.local == {}
    await rules.wait(120)
    assert rules.engine.due_s == float("inf")


def test_a_message_of_an_unknown_device_ends_and_others_pass():
    rules = Rules([PROFILE, PUSH], (0, 1, "Success"))
    del rules.state.devices[DEVICE_ID]
    assert rules.run().changes == []
    assert len(rules.run(originator=EntityId("ASSET", DEVICE_ID)).changes) == 1


def test_thresholds_of_customer_and_tenant_are_inherited():
    dynamic = {"sourceType": "CURRENT_DEVICE", "sourceAttribute": "limit", "inherit": True}
    tree = rule(1)
    tree["condition"]["condition"][0]["predicate"]["value"]["dynamicValue"] = dynamic
    rules = started(("Hot", {"createRules": {"CRITICAL": tree}}))
    customer, tenant = CHAIN_ID, PROFILE_ID
    json = {"customerId": {"entityType": "CUSTOMER", "id": str(customer)}}
    rules.state.devices[DEVICE_ID] = replace(rules.state.devices[DEVICE_ID], json=json)
    identity = type("Identity", (), {"customer_id": None, "tenant_id": tenant})()
    rules.state.identity = lambda: identity
    attribute = type("Attribute", (), {"value": 95})
    rules.state.attributes[EntityId("TENANT", tenant), "SERVER_SCOPE", "limit"] = attribute
    assert saved(send(rules, 94, 1)) == []
    assert len(saved(send(rules, 96, 2))) == 1
    lower = type("Attribute", (), {"value": 50})
    rules.state.attributes[EntityId("CUSTOMER", customer), "SERVER_SCOPE", "limit"] = lower
    assert len(saved(send(rules, 60, 3))) == 1


def test_when_all_alarms_are_kept_the_oldest_cleared_one_goes_else_false(monkeypatch):
    monkeypatch.setattr(alarms, "MAX_ALARMS", 2)
    rules = Rules([CREATE, PUSH], (0, 1, "False"))
    kept = {name: {"cleared": name == "b"} for name in "ab"}
    rules.state.entities = lambda kind: kept
    rules.state.open_alarm = lambda originator, type_: None
    rules.state.entity_json = lambda kind, key: kept.get(key)
    changes = rules.run({"t": 1}).changes
    assert changes[0] == DeleteEntity("ALARM", "b")
    assert isinstance(changes[1], SaveEntity)
    assert rules.counters.get("rules.alarms_forgotten") == 1
    rules.engine.settled(changes)
    kept["b"] = {"cleared": False}
    (change,) = rules.run({"t": 1}).changes
    assert not isinstance(change, SaveEntity)
    assert rules.counters.get("rules.alarms_no_room") == 1


def test_an_alarm_as_originator_is_cleared_itself():
    (created,) = saved(Rules([CREATE]).run({"t": 1}))
    other = Rules([CLEAR, PUSH], (0, 1, "False"))
    id_ = UUID(created["id"]["id"])
    other.state.entities["ALARM", str(id_)] = created
    out = other.run({}, originator=EntityId("ALARM", id_))
    assert [alarm["cleared"] for alarm in saved(out)] == [True]


def test_a_severity_that_is_none_stops_the_node():
    rules = Rules([("action.TbCreateAlarmNode", "create", {"severity": "HOT"}), PUSH], (0, 1, "Created"))
    assert "'HOT' is no severity" in rules.texts()[0]


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"type": "NEVER"}, "schedule.type 'NEVER' is unknown"),
        ({"type": "SPECIFIC_TIME", "daysOfWeek": [0]}, r"schedule.daysOfWeek must be a list of 1 \(Monday\)"),
        ({"daysOfWeek": [1], "timezone": "Mars/Base"}, "schedule.timezone 'Mars/Base' is unknown"),
        ({"daysOfWeek": [1], "startsOn": -1}, "schedule.startsOn must be milliseconds after midnight"),
        ({"items": [{"dayOfWeek": 9}]}, "schedule.items.dayOfWeek must be 1"),
    ],
)
def test_a_schedule_that_is_none_says_what_would_be_right(tree, text):
    with pytest.raises(Exception, match=text):
        parse_schedule(tree)


@pytest.mark.parametrize(
    ("ts_ms", "is_active"), [(7_199_999, False), (7_200_000, True), (10_799_999, True), (10_800_000, False)]
)
def test_a_window_begins_with_its_start_and_ends_before_its_end(ts_ms, is_active):
    active = parse_schedule({"daysOfWeek": [4], "startsOn": 7_200_000, "endsOn": 10_800_000})
    assert active(ts_ms) is is_active


def test_a_time_that_no_calendar_knows_is_in_no_window():
    assert not parse_schedule({"daysOfWeek": [1, 2, 3, 4, 5, 6, 7], "startsOn": 0, "endsOn": 0})(10**18)


def test_on_the_day_on_which_clocks_change_times_are_those_that_have_passed():
    active = parse_schedule({"daysOfWeek": [7], "timezone": "Europe/Berlin", "startsOn": 3 * 3_600_000, "endsOn": 0})
    midnight_ms = 1_711_839_600_000  # 2024-03-31; 02:00 is 03:00 there
    assert not active(midnight_ms + 3 * 3_600_000 - 1)
    assert active(midnight_ms + 3 * 3_600_000)


def test_a_device_that_is_being_deleted_takes_its_alarms_along_and_gets_no_more_until_it_is_back():
    rules = Rules([CREATE, PUSH], (0, 1, "Created"))
    book, device = rules.engine.alarms, EntityId("DEVICE", DEVICE_ID)
    (under_way,) = (change for change in rules.run({"t": 1}).changes if isinstance(change, SaveEntity))
    other = EntityId("ASSET", DEVICE_ID)
    rules.run({"t": 1}, originator=other)
    deletion = [DeleteDevice(DEVICE_ID), *(DeleteEntity("ALARM", key) for key in book.leaving(device))]
    assert deletion[1:] == [DeleteEntity("ALARM", under_way.key)]
    book.note(deletion)
    assert saved(rules.run({"t": 1})) == []  # between submit and commit
    assert len(saved(rules.run({"t": 1}, originator=other))) == 1  # the alarm of another one is updated
    known = rules.state.devices.pop(DEVICE_ID)
    rules.engine.settled(deletion)
    assert saved(rules.run({"t": 1})) == []  # what a node held back of it
    rules.state.devices[DEVICE_ID] = known
    assert len(saved(rules.run({"t": 1}))) == 1


def test_a_deletion_that_fails_leaves_the_device_its_alarms():
    rules = Rules([CREATE, PUSH], (0, 1, "Created"))
    book = rules.engine.alarms
    assert book.leaving(EntityId("DEVICE", DEVICE_ID)) == []
    rules.engine.settled([DeleteDevice(DEVICE_ID)])
    assert len(saved(rules.run({"t": 1}))) == 1
