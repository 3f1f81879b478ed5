"""The worst traps of ThingsBoard's rule engine, by number: reference rule-engine §9. Where the gateway differs on
purpose the test says so, and docs/rules.md does.
"""

from __future__ import annotations

import orjson
import pytest

from gateway.config import RulesConfig
from gateway.domain.changes import AppendEvent, SaveEntity, SaveTelemetry
from gateway.domain.entity import EntityId
from gateway.domain.rpc import RpcResponse
from gateway.domain.telemetry import Attribute
from gateway.trial import Trial
from tests.unit.rules.kit import CHAIN_ID, DEVICE, DEVICE_ID, PASS, PUSH, SAVE, SWITCH, Rules, bodies, js, metadata

OTHER_ID = type(CHAIN_ID)(int=CHAIN_ID.int + 1)
FAILS = js("fails", "return 1;")
TRANSFORM = "transform.TbTransformMsgNode"
ATTRIBUTES = "telemetry.TbMsgAttributesNode"
POST_ATTRIBUTES = "POST_ATTRIBUTES_REQUEST"


def pushed(rules, *given, **more):
    return bodies(rules.run(*given, **more))


def tbel(body):
    return ("filter.TbJsFilterNode", "tbel", {"scriptLang": "TBEL", "tbelScript": body, "jsScript": "return true;"})


def test_trap_1_without_a_version_relations_turn_round_and_the_device_is_told():
    config = {"direction": "FROM", "relationType": "Contains", "checkForSingleEntity": False}
    rules = Rules([("filter.TbCheckRelationNode", "related", config, 0), PUSH], (0, 1, "True"))
    key, ends = "r", {"from": {"entityType": "ASSET", "id": str(CHAIN_ID)}}
    ends["to"] = {"entityType": "DEVICE", "id": str(DEVICE_ID)}
    relation = {**ends, "type": "Contains", "typeGroup": "COMMON"}
    rules.state.entities["RELATION", key] = relation
    rules.state.belongings = lambda entity: [("RELATION", key)]
    towards = len(pushed(rules))
    rules.state.entities["RELATION", key] = {**relation, "from": ends["to"], "to": ends["from"]}
    away = len(pushed(rules))
    new = Rules([("filter.TbCheckRelationNode", "related", config, 1), PUSH], (0, 1, "True"))
    new.state.entities["RELATION", key] = relation
    new.state.belongings = lambda entity: [("RELATION", key)]
    assert {towards, away} == {0, 1}
    assert len(pushed(new)) == away, "one version later the same words mean the other direction"
    old = Rules([(ATTRIBUTES, "save", {"scope": "SHARED_SCOPE"}, 0)])
    assert len(old.run({"a": 1}, POST_ATTRIBUTES, metadata={"notifyDevice": "false"}).notices) == 1


@pytest.mark.parametrize(("text", "told"), [("false", 0), ("true", 1)])
def test_trap_2_booleans_may_be_text(text, told):
    rules = Rules([(ATTRIBUTES, "save", {"scope": "SHARED_SCOPE", "notifyDevice": text}, 1)])
    assert len(rules.run({"a": 1}, POST_ATTRIBUTES, metadata={"notifyDevice": "false"}).notices) == told


def test_trap_3_labels_ignore_case_and_the_name_of_an_output_node_is_its_label():
    assert len(pushed(Rules([SWITCH, PUSH], (0, 1, "POST Telemetry")))) == 1
    enter = ("flow.TbRuleChainInputNode", "Inner", {"ruleChainId": str(OTHER_ID)})
    rules = Rules([enter, PUSH], (0, 1, "all GOOD"))
    rules.put(OTHER_ID, "Inner", metadata([("flow.TbRuleChainOutputNode", "All good", {"label": "other"})]))
    assert len(pushed(rules)) == 1


def test_trap_4_only_failure_fails_a_message_that_has_nowhere_to_go():
    assert Rules([FAILS]).run().errors == ["Root / fails: the script must give true or false, not 1"]
    assert Rules([js("no", "return false;"), PUSH], (0, 1, "True")).run().errors == []


def test_trap_5_two_connections_are_copies_with_new_ids_and_one_that_fails_leaves_the_other():
    seen = []
    rules = Rules([PASS, PASS, FAILS, PUSH], (0, 1, "Success"), (0, 2, "Success"), (1, 3, "Success"))
    nodes = rules.engine._root.nodes
    for node in nodes[:3]:
        node.run = lambda msg, out, run=node.run: (seen.append(msg.id), run(msg, out))[1]
    outcome = rules.run()
    assert len(set(seen)) == 3
    assert (len(bodies(outcome)), len(outcome.errors)) == (1, 1)


def test_trap_6_a_node_that_did_not_start_answers_failure_which_here_may_be_connected():
    broken = js("broken", "return ((;")
    assert len(Rules([broken]).run().errors) == 1
    outcome = Rules([broken, PUSH], (0, 1, "Failure")).run()
    assert (outcome.errors, len(bodies(outcome))) == ([], 1)


@pytest.mark.parametrize("cloud", ["cloud", "CLOUD"])
def test_trap_7_what_is_derived_of_the_clouds_data_is_pushed_with_fresh_metadata_only(cloud):
    derived = {"scriptLang": "JS", "jsScript": "return {msg: {d: 1}};"}
    rules = Rules([(TRANSFORM, "derive", derived), PUSH], (0, 1, "Success"))
    assert pushed(rules, metadata={"source": cloud}) == []
    fresh = {"scriptLang": "JS", "jsScript": "return {msg: {d: 1}, metadata: {ts: metadata.ts}};"}
    rules = Rules([(TRANSFORM, "derive", fresh), PUSH], (0, 1, "Success"))
    assert [body["data"] for body in pushed(rules, metadata={"source": cloud, "ts": "7"})] == [{"d": 1}]


def test_trap_8_an_array_is_a_failure_here_and_does_not_vanish_after_a_success():
    outcome = Rules([PUSH]).run([{"a": 1}])
    assert outcome.changes == []
    assert len(outcome.errors) == 1


async def test_trap_9_the_first_value_of_a_series_carries_its_quotes(tmp_path):
    path = tmp_path / "chain.json"
    config = {"latestTsKeyNames": ["t", "s"], "fetchMode": "FIRST", "startInterval": 10, "endInterval": 0}
    nodes = [("metadata.TbGetTelemetryNode", "get", config)]
    nodes.append((TRANSFORM, "show", {"scriptLang": "JS", "jsScript": "return {msg: {m: metadata}};"}))
    path.write_bytes(_document(metadata([*nodes, PUSH], (0, 1, "Success"), (1, 2, "Success"))))
    async with Trial(RulesConfig(root_chain=path)) as trial:
        await trial.set_up({"device": "Device", "telemetry": {"-60000": {"t": 21.5, "s": "on"}}})
        result = await trial.send({"msg": {"x": 1}})
    found = result["pushed"][0]["body"]["data"]["m"]
    assert (found["t"], found["s"]) == ('"21.5"', '"on"')


def test_trap_10_a_failed_enrichment_hands_on_what_it_found():
    config = {"serverAttributeNames": ["here", "nowhere"], "fetchTo": "DATA", "tellFailureIfAbsent": True}
    rules = Rules([("metadata.TbGetAttributesNode", "get", config), PUSH], (0, 1, "Failure"))
    rules.state.attributes[DEVICE, "SERVER_SCOPE", "here"] = Attribute(1, 5)
    assert [body["data"] for body in pushed(rules, {"a": 1})] == [{"a": 1, "ss_here": 5}]


@pytest.mark.parametrize(("meta", "told"), [({"notifyDevice": "false"}, 0), ({}, 1), ({"notifyDevice": ""}, 1)])
def test_trap_11_a_device_does_not_hear_of_what_it_said_but_of_what_a_script_says(meta, told):
    rules = Rules([(ATTRIBUTES, "save", {"scope": "SHARED_SCOPE", "notifyDevice": False})])
    assert len(rules.run({"a": 1}, POST_ATTRIBUTES, metadata=meta).notices) == told


def test_trap_12_parameters_of_a_call_are_text_downwards_and_parsed_upwards():
    call = ("rpc.TbSendRPCRequestNode", "call", {})
    down = Rules([call]).run({"method": "m", "params": '{"on":true}'}, "RPC_CALL_FROM_SERVER_TO_DEVICE", metadata={})
    assert [one.request.params for one in down.calls] == [{"on": True}]
    meta = {"requestId": "7", "serviceId": "s", "sessionId": "x"}
    (up,) = pushed(Rules([PUSH]), {"method": "m", "params": {"on": True}}, "TO_SERVER_RPC_REQUEST", metadata=meta)
    assert up["params"] == '{"on":true}'


def test_trap_13_a_call_is_acknowledged_at_once_and_its_reply_is_a_new_message():
    rules = Rules([("rpc.TbSendRPCRequestNode", "call", {}), PASS], (0, 1, "Success"))
    asked = rules.run({"method": "m", "params": "{}"}, "MY_CALL", metadata={})
    assert (asked.waits, rules.passed("pass")) == ([], 0)
    seen = []
    node = rules.engine._root.nodes[1]
    node.run = lambda msg, out: seen.append(msg)
    asked.calls[0].resume(RpcResponse(response='{"ok":1}'))
    assert [(msg.type, msg.data) for msg in seen] == [("MY_CALL", {"ok": 1})]


def test_trap_14_behind_an_alarm_node_is_the_alarm_not_the_telemetry():
    create = ("action.TbCreateAlarmNode", "create", {"alarmType": "Hot"})
    outcome = Rules([create, SAVE], (0, 1, "Created")).run({"t": 95})
    assert outcome.errors == ["Root / save: messages of type 'ALARM' are no telemetry"]
    event = Rules([create, PUSH], (0, 1, "Created")).run({"t": 95})
    (alarm,) = [change for change in event.changes if isinstance(change, SaveEntity)]
    (up,) = [change.event for change in event.changes if isinstance(change, AppendEvent)]
    assert (up.type, up.action, str(up.entity_id)) == ("ALARM", "ADDED", alarm.key)


def test_trap_15_a_text_that_reads_as_a_number_stays_text_here():
    (save,) = Rules([SAVE]).run({"a": "17", "b": "x"}).changes
    assert save == SaveTelemetry(DEVICE, 1000, {"a": "17", "b": "x"})


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("var a = 1\nreturn true;", True),
        ("if (msg.temperature) { return true; } return false;", False),
        ("var n = 7; return n / 2 == 3;", None),
        ("return 7 / 2 == 3.5;", None),
    ],
)
def test_trap_16_tbel_needs_semicolons_and_truths_and_divides_by_type(body, problem):
    rules = Rules([tbel(body), PUSH], (0, 1, "True"))
    outcome = rules.run()
    if problem is None:
        assert (outcome.errors, len(bodies(outcome))) == ([], 1)
    else:
        assert len(outcome.errors) == 1
        assert bool(rules.texts()) is problem, "what does not translate is listed; a wrong truth shows when it runs"


@pytest.mark.parametrize("lang", [{}, {"scriptLang": None}, {"scriptLang": "JS"}])
def test_trap_17_without_a_language_a_script_is_javascript_and_the_other_text_is_a_leftover(lang):
    config = {**lang, "jsScript": "return [1].every(x => x)", "tbelScript": "leftover (("}
    rules = Rules([("filter.TbJsFilterNode", "js", config), PUSH], (0, 1, "True"))
    assert (rules.texts(), len(pushed(rules))) == ([], 1)


async def test_trap_18_what_a_node_holds_is_found_by_its_place_because_its_id_changes():
    delay = ("delay.TbMsgDelayNode", "later", {"periodInSeconds": 5})

    def sent(number):
        tree = metadata([delay, PUSH], (0, 1, "Success"))
        for index, node in enumerate(tree["nodes"]):
            node["id"] = {"entityType": "RULE_NODE", "id": str(type(CHAIN_ID)(int=number * 10 + index))}
            node["additionalInfo"] = {"layoutX": number}
        return tree

    rules = Rules()
    rules.put(CHAIN_ID, "Root", sent(1), True)
    rules.run({"a": 1})
    rules.put(CHAIN_ID, "Root", sent(2), True)
    rules.restart()
    rules.put(CHAIN_ID, "Root", sent(3), True)
    assert [body["data"] for out in await rules.wait(6) for body in bodies(out)] == [{"a": 1}]


async def test_trap_19_only_metadata_may_come_while_messages_are_under_way_and_nodes_that_stay_the_same_go_on():
    create = ("action.TbCreateAlarmNode", "create", {"alarmType": "Hot"})
    delay = ("delay.TbMsgDelayNode", "later", {"periodInSeconds": 5})
    rules = Rules([delay, PUSH], (0, 1, "Success"))
    rules.run({"a": 1})
    rules.engine.put_metadata(CHAIN_ID, metadata([create, PUSH, delay], (2, 1, "Success"), first=2))
    rules.engine.put_metadata(CHAIN_ID, {"nodes": [], "connections": []})  # to be ignored
    rules.run({"a": 2})
    assert [body["data"] for out in await rules.wait(6) for body in bodies(out)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("type_", ["POST_TELEMETRY_REQUEST", "INACTIVITY_EVENT", "ALARM_CLEAR"])
def test_trap_20_the_profiles_default_chain_gets_what_its_devices_cause_not_the_root(type_):
    rules = Rules([PASS])
    rules.put(OTHER_ID, "Press line", metadata([("transaction.TbSynchronizationEndNode", "mine", {})]))
    rules.state.add_device(chain_id=OTHER_ID)
    rules.run({"a": 1}, type_)
    rules.run({"a": 1}, type_, originator=EntityId("CUSTOMER", DEVICE_ID))
    assert (rules.passed("mine"), rules.passed("pass")) == (1, 1)


def _document(tree):
    return orjson.dumps({"ruleChain": {"name": "Root"}, "metadata": tree})
