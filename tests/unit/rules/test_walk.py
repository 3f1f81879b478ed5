"""The routing table, nested chains, and what ends a message that would go on for ever."""

from dataclasses import replace
from uuid import UUID

import pytest

from gateway.domain.changes import AppendEvent, SaveTelemetry
from gateway.domain.entity import EntityId
from gateway.domain.rpc import RpcError, RpcResponse
from gateway.rules.node import REGISTRY
from gateway.rules.walk import MAX_EXECUTIONS
from tests.unit.rules.kit import CHAIN_ID, PASS, PROFILE_ID, PUSH, SAVE, SWITCH, Rules, bodies, js, message, metadata

OTHER_ID = UUID("22222222-4d5e-11ef-8a9b-0c1d2e3f4a5b")
YES = js("yes", "return true;")
FAILS = js("fails", "return 1;")
INPUT = "flow.TbRuleChainInputNode"
OUTPUT = "flow.TbRuleChainOutputNode"


# ── the routing table, row by row ──


def test_failure_without_a_connection_fails_the_message_with_chain_and_node():
    rules = Rules([SAVE, FAILS], (0, 1, "Success"))
    outcome = rules.run()
    assert outcome.errors == ["Root / fails: the script must give true or false, not 1"]
    assert isinstance(outcome.changes[0], SaveTelemetry)  # what was done before stays


def test_failure_with_a_connection_goes_on_there():
    outcome = Rules([FAILS, PUSH], (0, 1, "failure")).run()
    assert outcome.errors == []
    assert isinstance(outcome.changes[0], AppendEvent)


def test_any_other_label_without_a_connection_ends_quietly():
    outcome = Rules([YES, PUSH], (0, 1, "False")).run()
    assert (outcome.changes, outcome.errors) == ([], [])


def test_an_empty_set_of_labels_ends_quietly():
    outcome = Rules([js("none", "return [];", "filter.TbJsSwitchNode"), PUSH], (0, 1, "Success")).run()
    assert (outcome.changes, outcome.errors) == ([], [])


@pytest.mark.parametrize("label", ["True", "TRUE", "true"])
def test_labels_compare_ignoring_case(label):
    assert len(Rules([YES, PUSH], (0, 1, label)).run().changes) == 1


def seen_ids(rules):
    """Ids of the messages that reach nodes called `end`."""
    ids = []
    for chain in rules.engine._chains.values():
        for node in chain.nodes:
            if node.name == "end":
                node.run = lambda msg, out: ids.append(msg.id)
    return ids


def test_one_connection_hands_the_message_on_and_two_make_copies():
    end = (PASS[0], "end", {})
    for count in (1, 2, 3):
        rules = Rules([YES, *[end] * count], *[(0, index + 1, "True") for index in range(count)])
        ids = seen_ids(rules)
        msg = message()
        rules.engine.process(msg)
        assert len(set(ids)) == count
        assert (msg.id in ids) == (count == 1)


def test_a_message_that_a_node_makes_is_handed_on_as_one_is_that_it_got():
    end, copies = (
        (PASS[0], "end", {}),
        ("transform.TbCopyKeysNode", "copy", {"copyFrom": "DATA", "keys": ["temperature"]}),
    )
    for count in (0, 1, 2):
        rules = Rules([copies, *[end] * count], *[(0, index + 1, "Success") for index in range(count)])
        ids = seen_ids(rules)
        msg = message({"temperature": 1})
        assert rules.engine.process(msg).errors == []
        assert len(set(ids)) == count
        assert (msg.id in ids) == (count == 1)


def test_two_labels_to_one_node_deliver_twice_and_a_repeated_label_once():
    both = js("both", 'return ["A", "B", "a"];', "filter.TbJsSwitchNode")
    rules = Rules([both, PUSH], (0, 1, "A"), (0, 1, "B"))
    assert len(rules.run().changes) == 2


def test_branches_are_walked_in_the_order_of_the_connections():
    def mark(n):
        return js(f"m{n}", f"return {{msg: {{n: {n}}}}};", "transform.TbTransformMsgNode")

    rules = Rules(
        [YES, mark(1), mark(2), PUSH, PUSH], (0, 1, "True"), (0, 2, "True"), (1, 3, "Success"), (2, 4, "Success")
    )
    assert [body["data"]["n"] for body in bodies(rules.run())] == [1, 2]


def test_a_failure_in_one_branch_does_not_touch_the_others():
    outcome = Rules([YES, FAILS, PUSH], (0, 1, "True"), (0, 2, "True")).run()
    assert len(outcome.errors) == 1
    assert len(outcome.changes) == 1


def test_a_switch_that_names_failure_fails_only_without_a_connection():
    named = js("named", 'return "Failure";', "filter.TbJsSwitchNode")
    assert Rules([named]).run().errors == ["Root / named: failed"]
    assert Rules([named, PUSH], (0, 1, "Failure")).run().errors == []


def test_filter_keeps_telemetry_here():
    hot = js("hot?", "return msg.temperature > 80;")
    rules = Rules([SAVE, hot, PUSH], (0, 1, "Success"), (1, 2, "True"))
    cool, warm = rules.run({"temperature": 20}), rules.run({"temperature": 90})
    assert [type(change) for change in cool.changes] == [SaveTelemetry]
    assert [type(change) for change in warm.changes] == [SaveTelemetry, AppendEvent]


def test_unknown_node_in_the_middle_answers_failure_and_its_neighbours_work(caplog):
    strange = ("com.example.MyNode", "strange", {})
    rules = Rules([SAVE, strange, PUSH, PUSH], (0, 1, "Success"), (0, 2, "Success"), (1, 3, "Failure"))
    outcome = rules.run()
    assert [type(change) for change in outcome.changes] == [SaveTelemetry, AppendEvent, AppendEvent]
    assert rules.texts() == ["unknown node class 'com.example.MyNode'"]
    rules.run()
    assert caplog.text.count("unknown node class") == 1
    (problem,) = rules.engine.problems()
    assert (problem.chain, problem.node, problem.type) == ("Root", "strange", "com.example.MyNode")
    assert problem == "Root / strange: unknown node class 'com.example.MyNode'"


def test_known_but_unsupported_node_names_itself_as_the_editor_does():
    rules = Rules([("mail.TbSendEmailNode", "mail", {})])
    assert rules.run().errors[0].startswith("Root / mail: 'send email' is not supported by this gateway")


def test_winstarcloud_classes_are_the_same_nodes():
    nodes = [(f"org.winstarcloud.rule.engine.{kind}", name, config) for kind, name, config in (SWITCH, SAVE)]
    rules = Rules(nodes, (0, 1, "Post telemetry"))
    assert [type(change) for change in rules.run().changes] == [SaveTelemetry]


def test_an_error_that_quotes_a_device_stays_one_printable_line():
    rules = Rules([js("quote", "throw new Error(msg.t);")])
    (text,) = rules.run({"t": "a\rb\u001b[2J" + "x" * 400}).errors
    assert text.isprintable()
    assert text.startswith("Root / quote: the script failed: Error: a b [2Jxxx")
    assert len(text) == 301


def test_counters_of_nodes():
    rules = Rules([YES, FAILS], (0, 1, "True"))
    rules.run()
    rules.run()
    summary = next(chain for chain in rules.engine.chains() if chain["root"])
    assert (summary["id"], summary["name"], summary["source"]) == (str(CHAIN_ID), "Root", "cloud")
    assert [(node["messages"], node["failures"]) for node in summary["nodes"]] == [(2, 0), (2, 2)]


def test_a_bug_in_a_node_is_its_failure(monkeypatch):
    rules = Rules([PASS])
    monkeypatch.setattr(rules.engine._root.nodes[0], "run", lambda msg, out: 1 / 0)
    assert rules.run().errors == ["Root / pass: ZeroDivisionError: division by zero"]
    assert rules.counters.get("rules.node_bugs") == 1


# ── going on for ever ──


def test_a_bug_in_the_start_of_a_node_is_its_problem_and_its_neighbours_work(monkeypatch):
    kind = REGISTRY["transaction.TbSynchronizationBeginNode"]
    monkeypatch.setitem(REGISTRY, kind.java_class, replace(kind, make=lambda config, env: 1 // 0))
    rules = Rules([PASS, PUSH], (0, 1, "Failure"))
    assert rules.texts() == ["it cannot start: ZeroDivisionError: integer division or modulo by zero"]
    assert (len(bodies(rules.run())), rules.counters.get("rules.node_bugs")) == (1, 1)


def test_a_circle_ends_with_an_error_and_is_listed():
    rules = Rules([PASS, (PASS[0], "again", {})], (0, 1, "Success"), (1, 0, "Success"))
    assert "lead in a circle" in rules.texts()[0]
    outcome = rules.run()
    assert outcome.errors[0].endswith(f"passed more than {MAX_EXECUTIONS} nodes")
    assert rules.passed("pass") + rules.passed("again") == MAX_EXECUTIONS


def test_a_circle_that_doubles_stays_bounded():
    rules = Rules([PASS, PASS, PASS], (0, 1, "Success"), (0, 2, "Success"), (1, 0, "Success"), (2, 0, "Success"))
    assert len(rules.run().errors) == 1
    assert rules.passed("pass") <= MAX_EXECUTIONS


def test_a_circle_of_scripts_ends_by_time():
    slow = js("slow", "var t = Date.now(); while (Date.now() - t < 4) {} return true;")
    rules = Rules([slow, PASS], (0, 1, "True"), (1, 0, "Success"), script_timeout_ms=20)
    assert rules.run().errors == ["Root / slow: the scripts of this message took too long together"]
    assert rules.passed("slow") < 40
    again = Rules([js("fine", "return true;")])
    assert again.run().errors == []


def test_an_overloaded_machine_is_no_fault_of_the_scripts(monkeypatch):
    rules = Rules([js("one", "return true;"), js("two", "return true;"), PUSH], (0, 1, "True"), (1, 2, "True"))
    wall_s = iter(range(0, 1000, 10))
    monkeypatch.setattr("gateway.rules.script.time.perf_counter", lambda: next(wall_s))
    outcome = rules.run()
    assert outcome.errors == []
    assert len(outcome.changes) == 1


# ── nested chains ──


def nested(inner_nodes, *inner_connections, config=None):
    enter = (INPUT, "Inner", {"ruleChainId": str(OTHER_ID)} if config is None else config)
    rules = Rules([enter, PUSH, PUSH], (0, 1, "Done"), (0, 2, "Failure"))
    if inner_nodes is not None:
        rules.put(OTHER_ID, "Inner", metadata(inner_nodes, *inner_connections))
    return rules


def test_a_nested_chain_comes_back_by_the_output_nodes_name():
    rules = nested([SAVE, (OUTPUT, "DONE", {})], (0, 1, "Success"))
    assert [type(change) for change in rules.run().changes] == [SaveTelemetry, AppendEvent]


def test_two_levels_come_back_one_by_one():
    deep_id = UUID("44444444-4d5e-11ef-8a9b-0c1d2e3f4a5b")
    rules = nested([(INPUT, "Deep", {"ruleChainId": str(deep_id)}), (OUTPUT, "Done", {})], (0, 1, "Up"))
    rules.put(deep_id, "Deep", metadata([SAVE, (OUTPUT, "up", {})], (0, 1, "Success")))
    assert [type(change) for change in rules.run().changes] == [SaveTelemetry, AppendEvent]


def test_a_nested_chain_that_just_ends_returns_nothing():
    assert [type(change) for change in nested([SAVE]).run().changes] == [SaveTelemetry]


def test_an_output_that_nobody_listens_to_ends_quietly_unless_it_is_failure():
    assert nested([(OUTPUT, "Nobody", {})]).run().errors == []
    rules = Rules([(INPUT, "Inner", {"ruleChainId": {"entityType": "RULE_CHAIN", "id": str(OTHER_ID)}})])
    rules.put(OTHER_ID, "Inner", metadata([(OUTPUT, "Failure", {})]))
    assert len(rules.run().errors) == 1


def test_an_output_without_an_input_ends_quietly():
    assert Rules([(OUTPUT, "Done", {})]).run().errors == []


def test_the_inner_chain_may_arrive_later():
    rules = nested(None)
    first = rules.run()
    assert [type(change) for change in first.changes] == [AppendEvent]  # by Failure
    rules.put(OTHER_ID, "Inner", metadata([SAVE]))
    assert [type(change) for change in rules.run().changes] == [SaveTelemetry]


def test_an_unknown_chain_says_so():
    rules = Rules([(INPUT, "Gone", {"ruleChainId": str(OTHER_ID)})])
    assert f"the rule chain 'Gone' ({OTHER_ID}) is not known here" in rules.run().errors[0]


def test_a_chain_does_not_enter_itself_nor_run_in_a_circle_of_chains():
    rules = Rules([(INPUT, "self", {"ruleChainId": str(CHAIN_ID)})])
    assert "leads into itself" in rules.run().errors[0]
    rules = nested([(INPUT, "back", {"ruleChainId": str(CHAIN_ID)}), PASS], (0, 1, "Failure"))
    outcome = rules.run()
    assert rules.passed("Inner") == 2
    assert [type(change) for change in outcome.changes] == [AppendEvent]  # processing loop: Failure of the input


def test_copies_keep_their_place_in_nested_chains():
    rules = nested([PASS, (OUTPUT, "Done", {}), (OUTPUT, "Done", {})], (0, 1, "Success"), (0, 2, "Success"))
    assert len(rules.run().changes) == 2


def test_input_may_prefer_the_profiles_chain():
    rules = nested([SAVE], config={"ruleChainId": None, "forwardMsgToDefaultRuleChain": "true"})
    rules.state.add_device(chain_id=OTHER_ID)
    outcome = rules.engine.process(message(), CHAIN_ID)
    assert [type(change) for change in outcome.changes] == [SaveTelemetry]


def test_an_empty_inner_chain_swallows():
    rules = nested(None)
    rules.put(OTHER_ID, "Inner", metadata([PASS], first=None))
    assert (rules.run().changes, rules.run().errors) == ([], [])


# ── where a message enters ──


def test_profile_chain_when_it_is_here_else_root():
    rules = Rules([PUSH])
    rules.state.add_device(chain_id=OTHER_ID)
    assert [type(change) for change in rules.run().changes] == [AppendEvent]
    rules.put(OTHER_ID, "Press line", metadata([SAVE]))
    assert [type(change) for change in rules.run().changes] == [SaveTelemetry]
    assert rules.run(originator=message().originator._replace(type="ASSET")).changes[0].event.type == "ASSET"


@pytest.mark.parametrize("kind", ["DEVICE", "ASSET"])
def test_a_profile_enters_its_own_chain_and_a_deletion_that_of_the_profile_in_its_body(kind):
    rules = Rules([PUSH])
    rules.put(OTHER_ID, "Press line", metadata([PASS]))
    rules.state.add_device(chain_id=OTHER_ID)
    chain = {"entityType": "RULE_CHAIN", "id": str(OTHER_ID)}
    rules.state.entities["ASSET_PROFILE", str(PROFILE_ID)] = {"defaultEdgeRuleChainId": chain}
    rules.state.devices.clear()
    key = {"DEVICE": "deviceProfileId", "ASSET": "assetProfileId"}[kind]
    body = {key: {"entityType": f"{kind}_PROFILE", "id": str(PROFILE_ID)}}
    rules.run({}, "ENTITY_UPDATED", originator=EntityId(f"{kind}_PROFILE", PROFILE_ID))
    assert rules.passed("pass") == 1
    rules.run(body, "ENTITY_DELETED", originator=EntityId(kind, CHAIN_ID))
    assert rules.passed("pass") == 2
    for odd in (body | {key: None}, {key: {"id": "x"}}, [1]):
        rules.run(odd, "ENTITY_DELETED", originator=EntityId(kind, CHAIN_ID))
    rules.run(body, "ENTITY_UPDATED", originator=EntityId(kind, CHAIN_ID))
    rules.run({}, "ENTITY_UPDATED", originator=EntityId(f"{kind}_PROFILE", CHAIN_ID))
    assert rules.passed("pass") == 2


def test_a_named_chain_that_is_unknown_says_nothing():
    outcome = Rules([PUSH]).engine.process(message(), OTHER_ID)
    assert (outcome.changes, outcome.errors) == ([], [])


def test_a_chain_without_entry_says_nothing():
    rules = Rules()
    rules.put(CHAIN_ID, "Root", metadata([PUSH], first=None), is_root=True)
    assert (rules.run().changes, rules.run().errors) == ([], [])


# ── going on later ──

CALL = ("rpc.TbSendRPCRequestNode", "call", {})
REPLY_PUSH = js("reply", "return {msgType: 'POST_TELEMETRY_REQUEST'};", "transform.TbTransformMsgNode")


def test_the_devices_reply_goes_on_behind_the_call():
    rules = Rules([CALL, REPLY_PUSH, PUSH, PUSH], (0, 1, "Success"), (1, 2, "Success"), (0, 3, "Failure"))
    outcome = rules.run({"method": "read", "params": 5}, "TICK", metadata={"a": "b"})
    (call,) = outcome.calls
    assert outcome.changes == []
    assert call.request.is_from_cloud is False
    assert call.request.expires_ms == rules.clock.now_ms() + 60_000
    assert bodies(call.resume(RpcResponse(response='{"v": 7}')))[0]["data"] == {"v": 7}
    failed = call.resume(RpcResponse(error=RpcError.NO_ACTIVE_CONNECTION))
    assert failed.errors == ["Root / up: messages of type 'TICK' cannot go to the cloud"]


def test_a_reply_in_plain_text_and_none_at_all():
    rules = Rules([CALL, js("log", "return {msg: {got: msg}, msgType: 'POST_TELEMETRY_REQUEST'};",
                            "transform.TbTransformMsgNode"), PUSH], (0, 1, "Success"), (1, 2, "Success"))  # fmt: skip
    (call,) = rules.run({"method": "read", "params": {}}, "TICK").calls
    assert bodies(call.resume(RpcResponse(response="fine")))[0]["data"] == {"got": "fine"}
    assert bodies(call.resume(RpcResponse()))[0]["data"] == {"got": {}}
