"""What `rules check` finds, fault by fault."""

import pytest

from gateway.config import RulesConfig
from gateway.rules.chain import parse_loosely
from gateway.rules.check import check
from gateway.rules.node import REGISTRY, NoConfig, NodeKind
from tests.fakes.clock import FakeClock
from tests.unit.rules.kit import PASS, PUSH, SAVE, SWITCH, FakeState, js, metadata

YES = js("yes", "return true;")
SCRIPT = js("make", "return {msg: msg};", "transform.TbTransformMsgNode")
ALL = ("deduplication.TbMsgDeduplicationNode", "all", {"strategy": "ALL", "outMsgType": "X", "interval": 5})
INPUT = "flow.TbRuleChainInputNode"
OUT = ("flow.TbRuleChainOutputNode", "Done", {})


def findings(*chains):
    graphs = [
        graph
        for number, chain in enumerate(chains)
        for graph in parse_loosely(
            {"ruleChain": {"name": "Root" if not number else f"C{number}"}, "metadata": chain}, ""
        )
    ]
    return check(graphs, FakeState(), RulesConfig(), FakeClock())


def codes(*chains):
    return [(one.code, one.node) for one in findings(*chains)]


def test_a_good_chain_has_no_findings():
    assert findings(metadata([SWITCH, SAVE, PUSH], (0, 1, "Post Telemetry"), (1, 2, "Success"))) == []


@pytest.mark.parametrize(
    ("chain", "code", "node", "text"),
    [
        (metadata([("com.acme.Node", "own", {})]), "unknown_class", "own", "com.acme.Node"),
        (metadata([("kafka.TbKafkaNode", "k", {})]), "unsupported", "k", "'kafka'"),
        (metadata([js("bad", "return (;"), PUSH], (0, 1, "True")), "script", "bad", "line 1"),
        (metadata([(*ALL[:2], {"strategy": "NONE"})]), "configuration", "all", "strategy"),
        (metadata([SAVE], (0, 7, "Success")), "dangling", "", "there is no node 0 or 7"),
        (metadata([YES, PUSH], (0, 1, "Ture")), "label", "yes", "did you mean 'true'?"),
        (metadata([SAVE, PUSH], (0, 1, "Saved")), "label", "save", "it answers success"),
        (metadata([SWITCH, SAVE], (0, 1, "Post telemetri")), "label", "types", "'post telemetry'"),
        (metadata([SAVE, PUSH]), "unreached", "up", "nothing leads here"),
        (metadata([SAVE, SCRIPT], (0, 1, "Success")), "no_effect", "make", "no effect"),
        (metadata([ALL, PUSH], (0, 1, "Success")), "array", "all", "'up' answers with Failure"),
        (metadata([SAVE], first=None), "no_entry", "", "firstNodeIndex"),
        (metadata([PASS, PASS], (0, 1, "Success"), (1, 0, "Success")), "loop", "", "lead in a circle"),
        (metadata([(INPUT, "Elsewhere", {})]), "no_chain", "Elsewhere", "unless the cloud sends it"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_fault(chain, code, node, text):
    (found,) = [one for one in findings(chain) if one.code == code]
    assert (found.node, text in found.text) == (node, True)
    assert code in str(found)


def test_what_makes_another_body_takes_the_array_away():
    assert codes(metadata([ALL, SCRIPT, PUSH], (0, 1, "Success"), (1, 2, "Success"))) == []


def test_labels_of_an_input_node_are_the_outputs_of_its_chain_and_chains_do_not_enter_each_other_in_a_circle():
    enter = (INPUT, "C1", {})
    inner = metadata([SAVE, OUT], (0, 1, "Success"))
    assert codes(metadata([enter, PUSH], (0, 1, "done")), inner) == []
    assert codes(metadata([enter, PUSH], (0, 1, "Success")), inner) == [("label", "C1")]
    back = metadata([(INPUT, "Root", {})])
    assert [code for code, _ in codes(metadata([enter]), back)] == ["loop", "loop"]


def test_every_node_that_only_decides_has_its_labels(monkeypatch):
    """A class that is built later answers Success unless the table says more; an unsupported one is told alone."""
    monkeypatch.setitem(REGISTRY, "x.New", NodeKind("x.New", "new", NoConfig, lambda config, env: None))
    prefix = "org.thingsboard.rule.engine."
    assert codes(metadata([(f"{prefix}x.New", "n", {}), PUSH], (0, 1, "True"))) == [("label", "n")]
    unsupported = metadata([("kafka.TbKafkaNode", "k", {}), PUSH], (0, 1, "Whatever"))
    assert codes(unsupported) == [("unsupported", "k")]
