"""Where chains come from: every file form, and what the cloud sends."""

import logging
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from gateway.config import RulesConfig
from gateway.domain.changes import AppendEvent, SaveTelemetry
from gateway.errors import ConfigError
from gateway.rules import RuleEngine
from gateway.rules.node import OWN_PREFIX, REGISTRY
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.unit.rules.kit import CHAIN_ID, PASS, PUSH, SAVE, FakeState, Rules, bodies, message, metadata

A_ID = UUID("aaaaaaaa-4d5e-11ef-8a9b-0c1d2e3f4a5b")
B_ID = UUID("bbbbbbbb-4d5e-11ef-8a9b-0c1d2e3f4a5b")
INPUT = "flow.TbRuleChainInputNode"


def write(folder: Path, name: str, tree: object) -> Path:
    path = folder / name
    path.write_bytes(tree if isinstance(tree, bytes) else orjson.dumps(tree))
    return path


def engine(**config: object) -> RuleEngine:
    made = RuleEngine(FakeState(), RulesConfig(**config), FakeClock(), Counters())
    made.load_files()
    return made


def kinds(made: RuleEngine) -> list[type]:
    return [type(change) for change in made.process(message()).changes]


def root(made: RuleEngine) -> str:
    return next(chain["name"] for chain in made.chains() if chain["root"])


def rule_chain_id(value: UUID) -> dict[str, str]:
    return {"entityType": "RULE_CHAIN", "id": str(value)}


# ── files ──


def test_built_in_chain_has_no_problems():
    made = engine()
    assert made.problems() == []
    (summary,) = made.chains()
    assert (summary["name"], summary["root"], summary["source"]) == ("Edge Root Rule Chain", True, "built-in")
    assert len(summary["nodes"]) == 8


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ({"ruleChain": {"name": "Line", "root": False}, "metadata": metadata([PUSH])}, "Line"),
        ({"ruleChain": None, "metadata": metadata([PUSH])}, "mine"),
        (metadata([PUSH]), "mine"),
        ({"nodes": metadata([PUSH])["nodes"], "connections": None, "firstNodeIndex": 0, "version": 3}, "mine"),
        ({**metadata([PUSH]), "ruleChainId": rule_chain_id(A_ID)}, "mine"),
    ],
)
def test_file_forms(tmp_path, tree, name):
    made = engine(root_chain=write(tmp_path, "mine.json", tree))
    assert root(made) == name
    assert kinds(made) == [AppendEvent]
    assert made.chains()[0]["source"] == "file"


def test_bulk_export_matches_by_id_and_has_one_root(tmp_path):
    def bulk(*roots: bool) -> dict[str, object]:
        heads = [
            {"id": rule_chain_id(chain_id), "name": name, "root": is_root}
            for chain_id, name, is_root in zip((A_ID, B_ID), ("A", "B"), roots, strict=True)
        ]
        enter = (INPUT, "to A", {"ruleChainId": str(A_ID)})
        contents = [
            {**metadata([enter]), "ruleChainId": rule_chain_id(B_ID)},
            {**metadata([SAVE]), "ruleChainId": rule_chain_id(A_ID)},
        ]
        return {"ruleChains": heads, "metadata": contents}

    made = engine(root_chain=write(tmp_path, "bulk.json", bulk(False, True)))
    assert (root(made), kinds(made)) == ("B", [SaveTelemetry])
    with pytest.raises(ConfigError, match="2 of them are marked as root"):
        engine(root_chain=write(tmp_path, "two.json", bulk(True, True)))


def test_first_node_by_its_id(tmp_path):
    content = metadata([PASS, PUSH], first=None)
    content["nodes"][1]["id"] = {"entityType": "RULE_NODE", "id": str(B_ID)}
    tree = {"ruleChain": {"name": "x", "firstRuleNodeId": {"entityType": "RULE_NODE", "id": str(B_ID)}}}
    assert kinds(engine(root_chain=write(tmp_path, "a.json", {**tree, "metadata": content}))) == [AppendEvent]
    assert kinds(engine(root_chain=write(tmp_path, "b.json", metadata([PUSH], first=None)))) == []


def test_chains_for_nesting_are_found_by_id_and_by_name(tmp_path):
    outer = write(tmp_path, "outer.json", metadata([(INPUT, "inner LINE", {"ruleChainId": str(B_ID)})]))
    named = {"ruleChain": {"name": "Inner line", "root": True}, "metadata": metadata([SAVE])}
    made = engine(root_chain=outer, chains=[write(tmp_path, "inner.json", named)])
    assert (root(made), kinds(made)) == ("outer", [SaveTelemetry])
    with_id = {**metadata([PUSH]), "ruleChainId": rule_chain_id(B_ID)}
    made = engine(
        root_chain=outer, chains=[write(tmp_path, "inner.json", named), write(tmp_path, "by_id.json", with_id)]
    )
    assert kinds(made) == [AppendEvent]


def test_legacy_connections_become_input_nodes(tmp_path):
    content = metadata([PASS])
    content["ruleChainConnections"] = [
        {"fromIndex": 0, "targetRuleChainId": rule_chain_id(B_ID), "additionalInfo": {}, "type": "Success"}
    ]
    target = {**metadata([SAVE]), "ruleChainId": rule_chain_id(B_ID)}
    made = engine(root_chain=write(tmp_path, "a.json", content), chains=[write(tmp_path, "b.json", target)])
    assert kinds(made) == [SaveTelemetry]
    assert [node["name"] for node in made.chains()[0]["nodes"]] == ["pass", "Rule Chain Input"]


def connected(*connections: tuple[int, int, str]) -> dict[str, object]:
    return metadata([PASS, (PASS[0], "b", {}), (PASS[0], "c", {})], *connections)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        ([], "must be an object with 'ruleChain' and 'metadata'"),
        ({}, "is no rule chain"),
        ({"metadata": 5}, "metadata: must be an object"),
        ({"ruleChain": 5, "metadata": {}}, "ruleChain: must be an object"),
        ({"metadata": {}}, "metadata.nodes: must be a list"),
        ({"nodes": [5]}, r"nodes\[0\]: must be an object"),
        ({"metadata": {"nodes": [], "connections": 5}}, "metadata.connections: must be a list"),
        ({"nodes": [], "connections": [5]}, r"connections\[0\]: must be an object"),
        ({"nodes": [], "connections": [{"fromIndex": 0, "toIndex": 1}]}, r"connections\[0\].type: must be a relation"),
        ({"nodes": [], "ruleChainConnections": 5}, "ruleChainConnections: must be a list"),
        ({"nodes": [], "ruleChainConnections": [5]}, r"ruleChainConnections\[0\]: must be an object"),
        ({"nodes": [], "ruleChainConnections": [{"fromIndex": 9, "type": "a"}]}, "there is no node 9"),
        ({"nodes": [], "firstNodeIndex": 0}, "there is no node 0; 0 nodes are counted from 0"),
        ({"nodes": [], "firstNodeIndex": True}, "there is no node True"),
        (connected((0, 3, "Success")), "there is no node 0 or 3"),
        (connected((1, 1, "Success")), "node 1 is connected to itself"),
        (connected((0, 1, "x"), (1, 2, "x"), (2, 1, "y")), "the nodes (b → c → b|c → b → c) lead in a circle"),
        ({"ruleChains": [], "metadata": {}}, "metadata: must be a list"),
        ({"ruleChains": [5], "metadata": []}, r"ruleChains\[0\]: must be an object with an id"),
        ({"ruleChains": [{"id": str(A_ID)}], "metadata": []}, "has no entry in 'metadata'"),
        ({"ruleChains": [], "metadata": []}, "has 0 chains"),
    ],
)
def test_a_file_that_is_no_chain_says_what_is_wrong(tmp_path, tree, text):
    path = write(tmp_path, "wrong.json", tree)
    with pytest.raises(ConfigError, match=text) as caught:
        engine(root_chain=path)
    assert str(path) in caught.value.where


def test_a_missing_file_and_the_same_chain_twice(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        engine(chains=[tmp_path / "nope.json"])
    path = write(tmp_path, "a.json", metadata([PASS]))
    with pytest.raises(ConfigError, match="is here already"):
        engine(root_chain=path, chains=[path])


def test_odd_nodes_load_and_are_listed(tmp_path):
    content = metadata([PASS])
    content["nodes"] += [
        {"type": None},
        {"type": PASS[0], "name": None, "configuration": [1]},
        {"type": "org.thingsboard.rule.engine." + PASS[0], "name": "n", "configuration": "x"},
        {"type": "org.thingsboard.rule.engine." + SAVE[0], "configuration": None, "configurationVersion": "1"},
    ]
    made = engine(root_chain=write(tmp_path, "a.json", content))
    assert [problem.text for problem in made.problems()] == [
        "unknown node class ''",
        f"unknown node class {PASS[0]!r}",
        "its configuration is no object",
    ]


def test_the_example_loads_without_problems():
    made = engine(root_chain=Path(__file__).parents[3] / "config" / "rules" / "hot_machines.json")
    assert made.problems() == []
    cool, hot = (made.process(message({"temperature": t})) for t in (20, 100))
    assert [type(change) for change in cool.changes] == [SaveTelemetry]
    assert bodies(hot) == [{"ts": 1000, "data": {"temperature": 100, "temperatureF": 212}}]


def test_all_stock_classes_are_known():
    # 77 classes of 4.3 (reference rule-engine §0.2), and one old name of the transformation script.
    stock = [name for name in REGISTRY if not name.startswith(OWN_PREFIX)]
    assert len(stock) == 78


# ── the cloud ──


def test_the_clouds_root_takes_over_with_its_metadata_and_gives_back():
    rules = Rules()
    made = rules.engine
    made.put_chain(A_ID, {"name": "From the cloud", "root": True})
    assert root(made) == "Edge Root Rule Chain"
    made.put_metadata(A_ID, metadata([PUSH]))
    assert (root(made), kinds(made)) == ("From the cloud", [AppendEvent])
    assert made.chains()[-1]["source"] == "cloud"
    made.remove_chain(A_ID)
    made.remove_chain(A_ID)
    assert (root(made), kinds(made)) == ("Edge Root Rule Chain", [SaveTelemetry, AppendEvent])


def test_a_second_root_takes_over_when_complete_and_leaves_no_claim_behind():
    rules = Rules([PUSH])
    made = rules.engine
    made.put_chain(B_ID, {"name": "B", "root": True})
    assert root(made) == "Root"
    made.put_metadata(B_ID, metadata([SAVE]))
    assert root(made) == "B"
    made.remove_chain(B_ID)
    assert root(made) == "Edge Root Rule Chain"


def test_a_chain_that_is_root_no_longer():
    rules = Rules([PUSH])
    rules.engine.put_chain(CHAIN_ID, {"name": "Root", "root": False})
    assert root(rules.engine) == "Edge Root Rule Chain"


def test_prefer_cloud_off_keeps_the_local_root_and_still_nests():
    rules = Rules([PUSH], prefer_cloud=False)
    assert root(rules.engine) == "Edge Root Rule Chain"
    assert [type(change) for change in rules.engine.process(message(), CHAIN_ID).changes] == [AppendEvent]


def test_empty_metadata_is_ignored():
    rules = Rules([PUSH])
    for empty in ({"nodes": []}, {"nodes": None}, {}):
        rules.engine.put_metadata(CHAIN_ID, empty)
    assert kinds(rules.engine) == [AppendEvent]


def test_metadata_may_come_before_its_chain():
    made = engine()
    made.put_metadata(A_ID, metadata([PUSH]))
    assert root(made) == "Edge Root Rule Chain"
    made.put_chain(A_ID, {"name": "Late", "root": True})
    assert root(made) == "Late"


def test_unusable_metadata_leaves_the_former_chain_at_work(caplog):
    rules = Rules([PUSH])
    rules.engine.put_metadata(CHAIN_ID, {"nodes": "text"})
    assert kinds(rules.engine) == [AppendEvent]
    assert "not usable as sent by the cloud: metadata.nodes: must be a list" in rules.texts()[0]
    rules.engine.put_metadata(CHAIN_ID, metadata([SAVE]))
    assert (rules.texts(), kinds(rules.engine)) == ([], [SaveTelemetry])


def test_a_connection_to_a_node_that_the_cloud_cut_out_is_listed():
    rules = Rules([SAVE, PUSH], (0, 1, "Success"), (0, 2, "Success"))
    assert "there is no node 0 or 2" in rules.texts()[0]
    assert kinds(rules.engine) == [SaveTelemetry, AppendEvent]


def test_that_the_clouds_chain_takes_the_place_of_a_file_is_said_aloud(tmp_path, caplog):
    path = tmp_path / "mine.json"
    path.write_bytes(orjson.dumps({"ruleChain": {"name": "Mine"}, "metadata": metadata([PUSH])}))
    rules = Rules(root_chain=path)
    rules.put(CHAIN_ID, "Root", metadata([PUSH]), is_root=True)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "'Mine' of the configuration is not used" in record.getMessage()
    rules.put(CHAIN_ID, "Renamed", metadata([PUSH]), is_root=True)
    assert len(caplog.records) == 1


def test_a_repeated_chain_keeps_its_counters_and_a_changed_one_starts_anew(caplog):
    caplog.set_level(logging.INFO)
    rules = Rules([PUSH])
    rules.run()
    rules.put(CHAIN_ID, "Root", metadata([PUSH]), is_root=True)
    assert rules.passed("up") == 1
    rules.put(CHAIN_ID, "Renamed", metadata([PUSH]), is_root=True)
    assert (rules.passed("up"), root(rules.engine)) == (0, "Renamed")
    assert "'Renamed' (cloud) is the root chain now" in caplog.text
