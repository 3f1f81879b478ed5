"""The routing table (reference rule-engine §3.2) and errors outside a node's handler (§3.3): a test for each row.

More about each is in `test_walk`, `test_chains` and `test_waiting`; here is what the rows promise, in their order.
"""

import pytest

from gateway.domain.changes import AppendEvent
from gateway.errors import RejectedError, TransientError
from gateway.rules.node import REGISTRY, NoConfig, NodeKind, Routed
from gateway.rules.walk import MAX_EXECUTIONS
from tests.unit.rules.kit import CHAIN_ID, PASS, PUSH, P, Rules, bodies, js, message, metadata

ANSWERS = (f"{P}test.Answers", "answers", {})
END = (f"{P}test.End", "end", {})


@pytest.fixture
def answer(monkeypatch):
    """What the node `answers` does, one after the other, and the messages that came to `end`."""
    said, ended = [], []

    def run(msg, out):
        one = said.pop(0)
        if isinstance(one, Exception):
            raise one
        return Routed(tuple(one), (msg,), "why") if isinstance(one, list) else one

    def end(msg, out):
        ended.append(msg)
        return "success"

    monkeypatch.setitem(REGISTRY, "test.Answers", NodeKind("test.Answers", "a", NoConfig, lambda config, env: run))
    monkeypatch.setitem(REGISTRY, "test.End", NodeKind("test.End", "e", NoConfig, lambda config, env: end))
    return said, ended


# ── §3.2 ──


@pytest.mark.parametrize("labels", [["failure"], ["other", "failure"], "failure"])
def test_row_failure_without_connection_the_message_fails_with_text_chain_and_node(answer, labels):
    answer[0].append(labels)
    rules = Rules([ANSWERS])
    (error,) = rules.run().errors
    assert error.startswith("Root / answers: ")
    assert rules.engine.chains()[-1]["nodes"][0]["failures"] == 1


@pytest.mark.parametrize("labels", [["success"], "success", [], None])
def test_row_any_other_answer_without_connection_the_message_succeeds(answer, labels):
    answer[0].append(labels)
    outcome = Rules([ANSWERS, END], (0, 1, "True")).run()
    assert (outcome.errors, answer[1]) == ([], [])


@pytest.mark.parametrize("labels", [["A"], ["a", "none"], "a"])
def test_row_one_connection_the_message_is_handed_on_with_its_id(answer, labels):
    answer[0].append([label.lower() for label in labels] if isinstance(labels, list) else labels)
    msg = message()
    Rules([ANSWERS, END], (0, 1, "A")).engine.process(msg)
    assert [one.id for one in answer[1]] == [msg.id]


@pytest.mark.parametrize("labels", ["a", ["a", "b"]])
def test_row_more_connections_a_copy_with_a_new_id_for_each_of_them(answer, labels):
    answer[0].append(labels)
    msg = message()
    to_b = (0, 2, "A" if labels == "a" else "B")
    outcome = Rules([ANSWERS, END, (*END[:1], "more", {})], (0, 1, "A"), to_b).engine.process(msg)
    ids = {one.id for one in answer[1]}
    assert (len(ids), msg.id in ids, outcome.errors) == (2, False, [])
    assert all(one.data is msg.data for one in answer[1])


def test_bullet_two_labels_to_the_same_node_deliver_twice(answer):
    answer[0].append(["a", "b"])
    Rules([ANSWERS, END], (0, 1, "A"), (0, 1, "B")).run()
    assert len(answer[1]) == 2


@pytest.mark.parametrize("error", [RejectedError("no"), TransientError("no"), ValueError("no")])
def test_bullet_what_a_handler_throws_is_its_failure(answer, error):
    answer[0].extend([error, error])
    assert Rules([ANSWERS]).run().errors[0].endswith("no")
    assert Rules([ANSWERS, END], (0, 1, "Failure")).run().errors == []
    assert len(answer[1]) == 1


def test_bullet_an_originators_messages_keep_their_order_along_hand_overs(answer):
    rules = Rules([PASS, PASS, PUSH], (0, 1, "Success"), (1, 2, "Success"))
    changes = [change for n in range(5) for change in rules.run({"n": n}).changes]
    assert len(changes) == 5
    assert [bodies(rules.run({"n": n}))[0]["data"]["n"] for n in range(3)] == [0, 1, 2]


# ── §3.3 ──


def test_row_a_node_that_cannot_start_answers_failure_by_its_own_connection_which_differs_on_purpose(answer):
    """In ThingsBoard the message fails at once; here an author may connect it (docs/rules.md)."""
    for bad in (
        js("bad", "return ("),
        ("com.acme.Own", "bad", {}),
        ("transform.TbRenameKeysNode", "bad", {"renameKeysMapping": {}}),
    ):
        rules = Rules([bad, END], (0, 1, "Failure"))
        assert rules.run().errors == []
        assert len(rules.texts()) == 1
        assert Rules([bad]).run().errors[0].startswith("Root / bad: ")
    assert len(answer[1]) == 3


def test_row_starting_is_not_tried_again_and_said_once(caplog):
    rules = Rules([js("bad", "return (")])
    for _ in range(3):
        rules.run()
        rules.put(CHAIN_ID, "Root", metadata([js("bad", "return (")]), is_root=True)
    assert caplog.text.count("the script cannot be read") == 1


def test_row_a_chain_that_cannot_start_leaves_the_former_and_entering_it_is_failure():
    rules = Rules([PUSH])
    rules.put(CHAIN_ID, "Root", {"nodes": 5}, is_root=True)
    assert [type(change) for change in rules.run().changes] == [AppendEvent]
    other = type(CHAIN_ID)(int=CHAIN_ID.int ^ 1)
    rules.put(other, "Inner", {"nodes": 5})
    rules.put(CHAIN_ID, "Root", metadata([("flow.TbRuleChainInputNode", "in", {"ruleChainId": str(other)})]), True)
    assert "is not known here" in rules.run().errors[0]


def test_row_a_target_cannot_vanish_while_a_message_walks(answer):
    """A walk is one step: it sees one version of each chain. What waits goes on in the next one: `test_waiting`."""
    rules = Rules([ANSWERS, END], (0, 1, "a"))
    answer[0].append("a")
    node = rules.engine._root.nodes[0]
    run = node.run

    def replaced_meanwhile(msg, out):
        rules.put(CHAIN_ID, "Root", metadata([PUSH]), is_root=True)
        return run(msg, out)

    node.run = replaced_meanwhile
    assert rules.run().errors == []
    assert len(answer[1]) == 1
    assert len(rules.run().changes) == 1


def test_row_more_executions_than_allowed_the_message_fails():
    rules = Rules([PASS, PASS], (0, 1, "Success"), (1, 0, "Success"))
    assert f"more than {MAX_EXECUTIONS} nodes" in rules.run().errors[0]
    assert rules.counters.get("rules.loops") == 1


def test_row_a_limit_inside_a_node_counts_as_success(caplog):
    caplog.set_level("INFO")
    log = ("action.TbLogNode", "log", {"scriptLang": "JS", "jsScript": "return 'x';"})
    rules = Rules([log, PUSH], (0, 1, "Success"))
    outcomes = [rules.run() for _ in range(30)]
    assert rules.counters.get("rules.log_lines_left_out") > 0
    assert all((len(outcome.changes), outcome.errors) == (1, []) for outcome in outcomes)


def test_row_a_chain_edited_meanwhile_starts_no_node_anew_when_nothing_but_its_surroundings_changed():
    """What a node holds belongs to its place: an edit beside it leaves it alone."""
    held = ("deduplication.TbMsgDeduplicationNode", "one", {"interval": 10})
    rules = Rules([held, PUSH], (0, 1, "Success"))
    rules.run({"n": 1})
    rules.put(CHAIN_ID, "Root", metadata([held, PUSH, PASS], (0, 1, "Success"), (1, 2, "Success")), is_root=True)
    rules.run({"n": 2})
    assert len(rules.local) == 2
