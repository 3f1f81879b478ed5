"""Debug events, times by samples, and what a person may ask."""

import orjson
import pytest

from gateway.errors import RejectedError
from gateway.rules import RuleDesk
from gateway.rules import debug as module
from tests.unit.rules.kit import CHAIN_ID, PUSH, SAVE, Rules, js, message, metadata

FAILS = js("fails", "return msg.bad ? 1 : true;")


def wishing(**settings):
    chain = metadata([SAVE, FAILS, PUSH], (0, 1, "Success"), (1, 2, "True"))
    chain["nodes"][1]["debugSettings"] = settings
    return chain


def made(**settings):
    rules = Rules()
    rules.put(CHAIN_ID, "Root", wishing(**settings), is_root=True)
    return rules, RuleDesk(rules.engine, rules.clock)


def labels(desk, node="fails"):
    return [event["labels"] for event in desk.debug_events("Root", node, 0, 1000)]


def runs(rules, name="fails"):
    """The function that is called for a node: its own where nobody looks."""
    (node,) = [node for chain in rules.engine.all() for node in chain.nodes if node.name == name]
    return node


def test_failures_alone_are_recorded_where_the_chain_says_so():
    rules, desk = made(failuresEnabled=True)
    rules.run()
    rules.run({"bad": 1})
    (event,) = desk.debug_events(None, None, 0, 10)
    assert (event["chain"], event["node"], event["labels"]) == ("Root", "fails", ["failure"])
    assert event["error"] == "the script must give true or false, not 1"
    assert (event["in"]["msg"], event["in"]["metadata"]["deviceName"]) == ('{"bad":1}', "Press 1")
    assert event["number"] == 1


def test_everything_for_ever_or_until_its_time_and_the_older_spelling():
    rules, desk = made(allEnabled=True)
    rules.run()
    assert labels(desk) == [["true"]]
    chain = wishing()
    chain["nodes"][1] |= {"debugSettings": None, "debugMode": True}
    rules.put(CHAIN_ID, "Root", chain, is_root=True)
    rules.run()
    assert len(labels(desk)) == 2


async def test_all_until_ends_by_itself_and_then_costs_nothing():
    rules = Rules()
    desk = RuleDesk(rules.engine, rules.clock)
    rules.put(CHAIN_ID, "Root", wishing(allEnabledUntil=rules.clock.now_ms() + 10_000), is_root=True)
    rules.run()
    await rules.clock.advance(11)
    rules.run()
    assert labels(desk) == [["true"]]
    assert runs(rules).run is runs(rules)._run


def test_nobody_looks_and_nothing_is_wrapped():
    rules, desk = made()
    assert all(node.run is node._run for chain in rules.engine.all() for node in chain.nodes)
    assert desk.debug_events(None, None, 0, 10) == []


def test_debug_settings_alone_change_without_starting_the_nodes_anew():
    rules, desk = made()
    rules.run()
    rules.put(CHAIN_ID, "Root", wishing(allEnabled=True), is_root=True)
    assert rules.passed("save") == 1
    rules.run()
    assert labels(desk) == [["true"]]
    assert desk.document("Root")["metadata"]["nodes"][1]["debugSettings"]["allEnabled"] is True
    rules.put(CHAIN_ID, "Root", wishing(), is_root=True)
    rules.run()
    assert len(labels(desk)) == 1


async def test_a_person_may_look_for_a_while_also_across_a_new_version_of_the_chain():
    rules, desk = made()
    assert desk.debug("root", "up", 1e9) == module.MAX_ASKED_S
    rules.put(CHAIN_ID, "Root", metadata([SAVE, PUSH], (0, 1, "Success")), is_root=True)
    rules.run()
    assert labels(desk, "up") == [["success"]]
    assert desk.overview()["chains"][-1]["nodes"][1]["debug"] is True
    await rules.clock.advance(module.MAX_ASKED_S + 1)
    rules.run()
    assert len(labels(desk, "up")) == 1
    for wrong in (("Rood", "up"), ("Root", "down")):
        with pytest.raises(RejectedError, match=r"there are|it has"):
            desk.debug(*wrong, 5)


def test_events_are_bounded_by_number_and_by_bytes(monkeypatch):
    rules, desk = made(allEnabled=True)
    for _ in range(module.PER_NODE + 10):
        rules.run()
    numbers = [event["number"] for event in desk.debug_events("Root", "fails", 0, 1000)]
    assert numbers == list(range(11, module.PER_NODE + 11))
    assert [event["number"] for event in desk.debug_events("Root", None, 205, 3)] == [208, 209, 210]
    monkeypatch.setattr(module, "MAX_BYTES", 20_000)
    rules.run({"text": "x" * 9000})
    assert rules.engine.debugger._bytes <= 20_000
    assert len(desk.debug_events(None, None, 0, 1000)[-1]["in"]["msg"]) == module.MAX_CHARS + 1


async def test_the_rate_is_limited_with_one_word_about_it(monkeypatch):
    monkeypatch.setattr(module, "RATE_COUNT", 5)
    rules, desk = made(allEnabled=True)
    for _ in range(10):
        rules.run()
    events = desk.debug_events(None, None, 0, 100)
    assert [len(event.get("labels", ())) for event in events] == [1] * 5 + [0]
    assert "limited to 5 in 3600 s" in events[-1]["error"]
    assert rules.counters.get("rules.debug_left_out") == 5
    await rules.clock.advance(module.RATE_S)
    rules.run()
    assert len(desk.debug_events(None, None, 0, 100)) == 7


def test_credentials_do_not_show():
    rules, desk = made(allEnabled=True)
    rules.engine.process(message({"password": "p1", "in": [{"accessToken": "p2"}]}, metadata={"credentials": "p3"}))
    text = orjson.dumps(desk.debug_events(None, None, 0, 10)).decode()
    assert not any(secret in text for secret in ("p1", "p2", "p3"))
    rest = ("rest.TbRestApiCallNode", "call", {"credentials": {"type": "basic", "password": "p4"}})
    rules.put(CHAIN_ID, "Root", metadata([rest]), is_root=True)
    text = orjson.dumps(desk.document("Root")).decode()
    assert ("p4" in text, "basic" in text) == (False, True)


def test_a_chain_that_is_shown_is_the_chain_that_was_sent():
    rules, desk = made()
    shown = desk.document(str(CHAIN_ID))
    assert (shown["ruleChain"]["name"], shown["ruleChain"]["root"]) == ("Root", True)
    assert [one["type"] for one in shown["metadata"]["connections"]] == ["Success", "True"]
    former = rules.engine._cloud[CHAIN_ID].compiled
    rules.put(CHAIN_ID, "Root", shown["metadata"], is_root=True)
    assert rules.engine._cloud[CHAIN_ID].compiled is former


def test_times_come_from_samples_of_a_few_messages_and_the_rest_runs_bare(monkeypatch):
    rules, desk = made()
    assert "mean_us" not in desk.overview()["chains"][-1]["nodes"][0]
    for _ in range(20):
        desk.sample()  # a few nodes of all chains each time, in turn
    node = runs(rules)
    for _ in range(100):
        rules.run()
    assert node.run is node._run
    assert 32 <= node.timed < 100
    assert desk.overview()["chains"][-1]["nodes"][1]["mean_us"] > 0
    desk.sample()
    rules.engine.watch(lambda step: None)
    rules.engine.watch(None)
    for _ in range(40):
        rules.run()
    assert node.run is node._run


def test_metrics_of_each_chain():
    rules, desk = made()
    rules.put(CHAIN_ID, 'Line "1"\n', wishing(), is_root=True)
    rules.run()
    rules.run({"bad": 1})
    text = "".join(desk.metrics())
    place = f'{{chain="Line \\"1\\"\\n",id="{CHAIN_ID}",source="cloud"}}'
    assert f"edge_gateway_rules_chain_messages_total{place} 2\n" in text
    assert f"edge_gateway_rules_chain_node_runs_total{place} 5\n" in text
    assert f"edge_gateway_rules_chain_failures_total{place} 1\n" in text
