"""Calculated fields beside their case folders: what is read, what is refused, what goes, and that nothing grows."""

from uuid import UUID

import pytest

from gateway.config import RulesConfig
from gateway.domain.changes import DeleteDevice, DeleteEntity, DropLocal, SaveEntity, SaveLocal
from gateway.domain.entity import EntityId
from gateway.errors import RejectedError, TransientError
from gateway.rules import field_values
from gateway.rules.alarm_state import Update
from gateway.rules.field_compute import results, rounded
from gateway.rules.field_spec import parse_field
from gateway.rules.field_values import Interest, Memory, Window
from gateway.rules.kept import frozen, thawed
from gateway.rules.node import changed, copied
from tests.unit.rules.kit import DEVICE, DEVICE_ID, PROFILE_ID, SAVE, SWITCH, Rules, message

FIELD_ID = UUID("77777777-4d5e-11ef-8a9b-0c1d2e3f4a5b")
ATTRIBUTES = ("telemetry.TbMsgAttributesNode", "save attributes", {})
LINKS = ((0, 1, "Post telemetry"), (0, 2, "Post attributes"))


def argument(key, kind="TS_LATEST", **more):
    return {"refEntityKey": {"key": key, "type": kind, "scope": "SERVER_SCOPE"}, **more}


def simple(expression="t * 2", **more):
    output = {"type": "TIME_SERIES", "name": "x"}
    return {"arguments": {"t": argument("t")}, "expression": expression, "output": output, **more}


def condition(*predicates, **more):
    filters = [{"argument": "t", "valueType": "NUMERIC", "predicates": list(predicates)}]
    return {"condition": {"type": "SIMPLE", "expression": {"type": "SIMPLE", "filters": filters}, **more}}


def above(limit, **more):
    return {"type": "NUMERIC", "operation": "GREATER", "value": {"staticValue": limit, **more}}


def alarm(rule, **more):
    return {"arguments": {"t": argument("t")}, "createRules": {"MAJOR": rule}, **more}


def json(configuration, kind="SIMPLE", owner=("DEVICE", DEVICE_ID), name="Field"):
    entity = {"entityType": owner[0], "id": str(owner[1])}
    return {"name": name, "type": kind, "entityId": entity, "configuration": configuration}


def started(*fields, save=SAVE, attributes=ATTRIBUTES):
    """Fields, and a chain that saves; the store has nothing."""
    rules = Rules([SWITCH, save, attributes], *LINKS)
    for number, field in enumerate(fields):
        rules.state.entities["CALCULATED_FIELD", str(UUID(int=FIELD_ID.int + number))] = field
    rules.engine.settle()
    return rules


async def send(rules, t, **more):
    """The values, as the messages that the fields send into the chain, and the last outcome."""
    out = rules.run({"t": t}, **more)
    while out.waits:
        out = rules.commit(await out.waits.pop(0)())
    return out


async def values_of(rules, t, **more):
    return [one.data for one in (await send(rules, t, **more)).emitted]


async def test_a_result_names_its_field_and_does_not_feed_it_again():
    rules = started(json(simple()))
    (result,) = (await send(rules, 4)).emitted
    assert (result.type, result.data, result.metadata) == ("POST_TELEMETRY_REQUEST", {"x": 8.0}, {"cfName": "Field"})
    assert result.fields == (FIELD_ID,)
    again = message({"t": 5})
    again.fields = result.fields
    assert not rules.engine.process(again).has_more
    for copy in (copied(again), changed(again, data={}), thawed(frozen(again))):
        assert copy.fields == (FIELD_ID,)


async def test_messages_of_alarms_have_the_flags_of_their_kind():
    counted = condition(above(80), type="REPEATING", count={"staticValue": 2})
    trees = alarm(counted, clearRule=condition({**above(80), "operation": "LESS"}))
    trees["createRules"]["CRITICAL"] = condition(above(100))
    rules = started(json(trees, "ALARM"))
    told = []
    for t in (90, 91, 92, 120, 10):
        out = await send(rules, t)
        rules.engine.settled(out.changes)
        for change in out.changes:
            if isinstance(change, SaveEntity):
                rules.state.entities[change.type, change.key] = change.json
        told += [(one.type, one.metadata, one.data["severity"]) for one in out.emitted]
    existing = {"isExistingAlarm": "true"}
    assert told == [
        ("ALARM_CREATED", {"isNewAlarm": "true", "alarmConditionRepeats": "2"}, "MAJOR"),
        ("ALARM_UPDATED", {**existing, "alarmConditionRepeats": "3"}, "MAJOR"),
        ("ALARM_SEVERITY_UPDATED", {**existing, "isSeverityUpdated": "true"}, "CRITICAL"),
        ("ALARM_CLEAR", {"isClearedAlarm": "true"}, "CRITICAL"),
    ]


async def test_an_alarm_that_somebody_else_has_cleared_lets_the_rules_begin_again():
    rules = started(json(alarm(condition(above(80), type="REPEATING", count={"staticValue": 2})), "ALARM"))
    await send(rules, 90)
    (made,) = (await send(rules, 90)).emitted
    rules.engine.settled([SaveEntity("ALARM", made.data["id"]["id"], made.data)])  # lost, or deleted meanwhile
    assert (await send(rules, 90)).emitted == []
    assert [one.type for one in (await send(rules, 90)).emitted] == ["ALARM_CREATED"]


async def test_what_was_counted_goes_with_the_field_and_with_the_device():
    tree = json(
        alarm(condition(above(80), type="REPEATING", count={"staticValue": 9})), "ALARM", ("DEVICE_PROFILE", PROFILE_ID)
    )
    for gone in (DeleteEntity("CALCULATED_FIELD", str(FIELD_ID)), DeleteDevice(DEVICE_ID)):
        rules = started(tree)
        assert [type(change) for change in (await send(rules, 90)).changes][-1:] == [SaveLocal]
        if isinstance(gone, DeleteDevice):
            del rules.state.devices[DEVICE_ID]
        else:
            del rules.state.entities["CALCULATED_FIELD", str(FIELD_ID)]
        rules.engine.settled([gone])
        dropped = [change for out in await rules.wait(2) for change in out.changes]
        assert [type(change) for change in dropped] == [DropLocal]
        assert rules.local == {}


async def test_without_fields_nothing_is_looked_at_and_nothing_waits():
    rules = started()
    assert rules.engine._shared.fields is None
    assert not rules.run({"t": 1}).has_more
    rules = started(json(simple()))
    assert not rules.run({"other": 1}).has_more  # nobody's key
    assert not rules.run({"t": 1}, originator=EntityId("ASSET", DEVICE_ID)).has_more
    assert rules.run({"t": 1}).waits  # the store is asked once
    await send(rules, 1)
    assert not rules.run({"t": 1}).waits


class Stored:
    async def latest(self, entity):
        return {"t": (1000, 90)}


class Unreadable:
    async def latest(self, entity):
        raise TransientError("the store is away")


async def test_a_store_that_cannot_be_read_stops_the_field_and_not_the_message():
    rules = started(json(simple("t + 0", arguments={"t": argument("t"), "u": argument("u", defaultValue="1")})))
    rules.engine._shared.series = Unreadable()
    assert await values_of(rules, 1) == []
    assert rules.counters.get("rules.field_values_unread") == 1
    rules.engine._shared.series = None
    assert await values_of(rules, 2) == [{"x": 2.0}]


@pytest.mark.parametrize(
    ("settings", "computed"),
    [
        ({"type": "WEBSOCKETS_ONLY"}, 0),
        ({"type": "ADVANCED", "calculatedFields": {"type": "SKIP"}}, 0),
        ({"type": "ADVANCED", "timeseries": {"type": "SKIP"}, "latest": {"type": "SKIP"}}, 2),
        ({"type": "DEDUPLICATE", "deduplicationIntervalSecs": 60}, 1),
    ],
)
async def test_the_strategy_of_the_save_node_decides_what_fields_hear(settings, computed):
    rules = started(json(simple()), save=(SAVE[0], "save", {"processingSettings": settings}))
    await send(rules, 1)
    await send(rules, 2)
    assert rules.engine.fields()[0]["evaluations"] == computed


async def test_attributes_that_are_not_saved_may_feed_fields_all_the_same():
    tree = simple(arguments={"t": argument("t", "ATTRIBUTE")})
    settings = {"type": "ADVANCED", "attributes": {"type": "SKIP"}, "calculatedFields": {"type": "ON_EVERY_MESSAGE"}}
    rules = started(json(tree), attributes=(ATTRIBUTES[0], "save", {"processingSettings": settings}))
    out = await send(rules, 4, type_="POST_ATTRIBUTES_REQUEST", metadata={"scope": "SERVER_SCOPE"})
    assert (out.changes, [one.data for one in out.emitted]) == ([], [{"x": 8.0}])


async def test_what_the_cloud_writes_is_news_at_once():
    threshold = {**above(None), "value": {"staticValue": None, "dynamicValueArgument": "limit"}}
    tree = alarm(condition(threshold), arguments={"t": argument("t"), "limit": argument("limit", "ATTRIBUTE")})
    rules = started(json(tree, "ALARM"))
    assert await values_of(rules, 90) == []  # not all arguments are known
    meta = {"source": "cloud", "scope": "SERVER_SCOPE"}
    out = rules.run({"limit": 80}, "ATTRIBUTES_UPDATED", metadata=meta)
    assert [one.type for one in out.emitted] == ["ALARM_CREATED"]
    assert rules.run({"limit": 70}, "ATTRIBUTES_UPDATED", metadata={"scope": "SERVER_SCOPE"}).has_more is False


async def test_a_schedule_opens_by_itself_and_closes():
    rules = started(
        json(
            alarm(
                condition(above(80), schedule={"dynamicValueArgument": "hours"}),
                arguments={"t": argument("t"), "hours": argument("hours", defaultValue=HOURS)},
            ),
            "ALARM",
        )
    )
    now_ms = rules.clock.now_ms()
    midnight_ms = now_ms // 86_400_000 * 86_400_000
    await rules.clock.advance((midnight_ms + 86_400_000 + 3_600_000 - now_ms) / 1000)  # one o'clock
    assert (await send(rules, 90, metadata={"ts": str(rules.clock.now_ms())})).emitted == []
    outcomes = await rules.wait(3_540)
    assert [one for out in outcomes for one in out.emitted] == []
    told = [one.type for out in await rules.wait(180) for one in out.emitted]
    assert told == ["ALARM_CREATED"]  # once: time alone does not write it anew


async def test_looks_that_time_makes_count_no_repeats():
    always = {"staticValue": {"type": "ANY_TIME"}}
    counted = condition(above(80), type="REPEATING", count={"staticValue": 2}, schedule=always)
    rules = started(json(alarm(counted), "ALARM"))
    await send(rules, 90)
    assert [one for out in await rules.wait(300) for one in out.emitted] == []
    rules.restart()
    rules.engine._shared.series = Stored()
    for out in await rules.wait(2):
        while out.waits:
            assert rules.commit(await out.waits.pop(0)()).emitted == []
    assert [one for out in await rules.wait(300) for one in out.emitted] == []
    assert [one.type for one in (await send(rules, 90)).emitted] == ["ALARM_CREATED"]


HOURS = '{"daysOfWeek": [1, 2, 3, 4, 5, 6, 7], "startsOn": 7200000, "endsOn": 10800000}'


@pytest.mark.parametrize(
    ("predicate", "value", "holds"),
    [
        ({"type": "BOOLEAN", "operation": "EQUAL", "value": {"staticValue": True}}, -1, True),
        ({"type": "BOOLEAN", "operation": "EQUAL", "value": {"staticValue": True}}, 0, False),
        ({"type": "STRING", "operation": "IN", "ignoreCase": True, "value": {"staticValue": "ON, Auto"}}, "auto", True),
        ({"type": "COMPLEX", "operation": "OR", "predicates": [above(5), above(50)]}, 6, True),
        ({"type": "COMPLEX", "operation": "AND", "predicates": [above(5), above(50)]}, 6, False),
        (above(5), "much", False),
    ],
)
async def test_predicates(predicate, value, holds):
    rules = started(json(alarm(condition(predicate)), "ALARM"))
    assert bool((await send(rules, value)).emitted) is holds
    assert rules.counters.get("rules.field_failures") == 0


@pytest.mark.parametrize(
    ("kind", "tree", "text"),
    [
        ("ENTITY_AGGREGATION", {}, "fields of type ENTITY_AGGREGATION are not evaluated here"),
        ("SIMPLE", {}, "configuration.arguments must be an object with at least one argument"),
        ("SIMPLE", simple("t *"), "the formula 't *', character 4"),
        ("SIMPLE", simple(""), "configuration.expression must be a text"),
        (
            "SIMPLE",
            simple(arguments={"t": argument("t", "TS_ROLLING")}),
            "arguments.t: a rolling argument is for fields",
        ),
        ("SIMPLE", simple(arguments={"ctx": argument("t")}), "arguments.ctx: the name must be of letters"),
        ("SIMPLE", simple(output={"type": "LOG"}), "configuration.output.type must be TIME_SERIES or ATTRIBUTES"),
        ("SCRIPT", simple("return {"), "the script cannot be read|line 1"),
        (
            "SCRIPT",
            simple(arguments={"t": argument("t", "TS_ROLLING")}),
            "arguments.t.timeWindow must be a whole number",
        ),
        ("ALARM", alarm({}), "createRules.MAJOR must be an object with condition"),
        ("ALARM", alarm(condition(above(1), type="DURATION", unit="YEARS")), "MAJOR.condition.unit 'YEARS' is unknown"),
        ("ALARM", alarm(condition(above(None))), "dynamicValueArgument 'None' is no argument; there are t"),
    ],
)
async def test_a_field_that_cannot_be_evaluated_says_where_and_stops_nothing(kind, tree, text):
    rules = started(json(tree, kind, name="Bad"), json(simple(), name="Good"))
    problems = [str(problem) for problem in rules.engine.problems()]
    assert len(problems) == 1
    assert problems[0].startswith("calculated fields / Bad: not evaluated: ")
    assert any(part in problems[0] for part in text.split("|")), problems[0]
    assert await values_of(rules, 3) == [{"x": 6.0}]


def test_arguments_of_other_entities():
    tree = simple(arguments={"t": argument("t", refDynamicSourceConfiguration={"type": "RELATION_PATH_QUERY"})})
    with pytest.raises(RejectedError, match=r"arguments.t: the source RELATION_PATH_QUERY is not read here"):
        parse_field(FIELD_ID, json(tree))
    tree = simple(arguments={"t": argument("t", refDynamicSourceConfiguration={"type": "CURRENT_OWNER"})})
    assert parse_field(FIELD_ID, json(tree)).arguments[0].source == "CURRENT_OWNER"


@pytest.mark.parametrize(
    ("default", "value"), [("1", 1), ("1.5", 1.5), ("true", True), ("", None), (None, None), ("on", "on")]
)
def test_a_default_is_a_text_that_may_read_as_a_number(default, value):
    (read,) = parse_field(FIELD_ID, json(simple(arguments={"t": argument("t", defaultValue=default)}))).arguments
    assert (read.default, type(read.default)) == (value, type(value))


def test_results():
    assert results({"a": 1, "b": None}) == [(None, {"a": 1})]
    assert results([{"ts": 5, "values": {"a": 1}}, {}]) == [(5, {"a": 1})]
    assert results(None) == []
    for bad in (5, ["a"], {"ts": "5", "values": {"a": 1}}, {"a": "NaN"}):
        with pytest.raises(RejectedError):
            results(bad)
    assert [rounded(2.345, n) for n in (None, 0, 2)] == [2.345, 2, 2.35]
    assert (rounded(-2.5, 0), type(rounded(2.0, 0))) == (-3, int)


def test_memory_is_bounded_in_entities_and_in_points(monkeypatch):
    memory, interest = Memory(), Interest(windows={Window("t", 1000, 1 << 50)})
    monkeypatch.setattr(field_values, "MOST_ENTITIES", 3)
    monkeypatch.setattr(field_values, "MOST_POINTS", 25)
    for number in range(5):
        entity = EntityId("DEVICE", UUID(int=number))
        for ts_ms in range(10):
            memory.make(entity).merge(interest, Update(ts_ms, "", {"t": ts_ms}))
            memory.used(entity)
    assert len(memory) == 2
    assert memory.get(EntityId("DEVICE", UUID(int=4))) is not None
    memory.forget(EntityId("DEVICE", UUID(int=4)))
    memory.clear()
    assert len(memory) == 0


def test_a_window_keeps_the_newest_in_order():
    known, window = Memory().make(DEVICE), Window("t", 3, 100)
    interest = Interest(windows={window})
    for ts_ms, value in ((10, 1), (30, "3"), (20, True), (40, {"a": 1}), (40, 4)):
        known.merge(interest, Update(ts_ms, "", {"t": value}))
    rolling = known.windows[window]
    assert (rolling.times.tolist(), rolling.values.tolist()) == ([20, 30, 40], [1.0, 3.0, 4.0])
    known.take_points(window, [(25, 9), (40, 0)])  # what has come meanwhile stays
    assert (rolling.times.tolist(), rolling.values.tolist()) == ([25, 30, 40], [9.0, 3.0, 4.0])
    rolling.trim(128)
    assert rolling.times.tolist() == [30, 40]


async def test_a_field_with_a_bug_is_counted_and_the_next_one_is_computed(monkeypatch):
    rules = started(json(simple(), name="Bug"), json(simple(), name="Good"))
    rules.engine._fields._all[str(FIELD_ID)]._compute = lambda arguments: 1 / 0
    assert await values_of(rules, 1) == [{"x": 2.0}]
    bug, good = rules.engine.fields()
    assert (bug["failures"], good["failures"], rules.counters.get("rules.field_failures")) == (1, 0, 1)
    assert bug["error"].endswith("ZeroDivisionError: division by zero")


def test_the_configuration_is_read_again_when_the_cloud_sends_another():
    rules = started(json(simple("t *")))
    assert rules.engine.problems()
    rules.state.entities["CALCULATED_FIELD", str(FIELD_ID)] = json(simple())
    rules.engine.settled([SaveEntity("CALCULATED_FIELD", str(FIELD_ID), None)])
    assert rules.engine.problems() == []
    assert RulesConfig() == rules.config
