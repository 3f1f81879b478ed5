"""`edge-gateway rules`: what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.unit.rules.kit import PUSH, SAVE, js, metadata

CASES = Path(__file__).parents[2] / "gateway" / "rules" / "cases"


def run(*arguments):
    return CliRunner().invoke(main, ["rules", *map(str, arguments)])


@pytest.fixture
def case(tmp_path):
    """A folder with one case, that is as expected."""
    folder = tmp_path / "hot"
    folder.mkdir()
    hot = js("hot?", "return msg.t > 80;")
    chain = metadata([SAVE, hot, PUSH], (0, 1, "Success"), (1, 2, "True"))
    (folder / "chain.json").write_text(json.dumps({"ruleChain": {"name": "Root"}, "metadata": chain}))
    (folder / "messages.jsonl").write_text('{"msg": {"t": 20}}\n{"msg": {"t": 90}}\n')
    (folder / "expected.jsonl").write_text('{"pushed": []}\n{"pushed": [{"body": {"data": {"t": 90}}}]}\n')
    return folder


def test_a_folder_of_cases_runs_as_one(case):
    result = run("test", case.parent)
    assert (result.exit_code, result.output) == (0, "ok    hot\n1 of 1 cases as expected\n")
    assert run("test", case).exit_code == 0


def test_a_mismatch_is_a_readable_difference_and_exit_code_1(case):
    (case / "expected.jsonl").write_text('{"pushed": []}\n{"pushed": [{"body": {"data": {"t": 91}}}], "path": ["*"]}\n')
    result = run("test", case.parent)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[:2] == ["FAIL  hot", '  line 2: {"msg": {"t": 90}}']
    assert '      - {"body": {"data": {"t": 91}}}' in lines
    assert any(line.startswith('      + {"of": "Device"') and '{"t": 90}' in line for line in lines)
    assert "      + hot? → true" in lines
    assert lines[-1] == "0 of 1 cases as expected"
    (said,) = json.loads(run("test", case.parent, "--json").output)
    assert (said["ok"], {one["key"] for one in said["mismatches"]}) == (False, {"path", "pushed"})


def test_update_writes_what_was_found_and_then_it_is_as_expected(case):
    (case / "expected.jsonl").unlink()
    assert "written" in run("test", case, "--update").output
    assert "unchanged" in run("test", case, "--update").output
    assert run("test", case).exit_code == 0
    first = json.loads((case / "expected.jsonl").read_text().splitlines()[0])
    assert first["path"] == ["save → success", "hot? → false"]


def test_one_chain_with_messages_prints_path_and_results(case):
    result = run("test", case / "chain.json", "--input", case / "messages.jsonl")
    assert result.exit_code == 0
    assert "    path: hot? → true" in result.output
    assert '    pushed: {"of": "Device", "action": "TIMESERIES_UPDATED"' in result.output
    named = ("--input", case / "messages.jsonl", "--expected", case / "expected.jsonl")
    assert run("test", case / "chain.json", *named).output == "ok    chain\n"


def test_what_cannot_be_used_is_told_with_its_place(case):
    (case / "messages.jsonl").write_text('{"msg": {}}\n{"reply": {}}\n')
    result = run("test", case / "chain.json", "--input", case / "messages.jsonl")
    assert (result.exit_code, "line 2: there is no call that could be answered" in result.output) == (78, True)
    assert run("test", case / "chain.json").exit_code == 78
    assert run("test", case / "chain.json", "--input", case / "messages.jsonl", "--update").exit_code == 78
    (case / "expected.jsonl").write_text("{}\n")
    result = run("test", case)
    assert (result.exit_code, "has 1 lines, and the messages have 2" in result.output) == (78, True)
    (case / "chain.json").unlink()
    assert "holds no case" in run("test", case).output


def test_a_set_up_that_is_no_such_thing_names_its_line(case):
    setup = case / "setup.jsonl"
    setup.write_text('{"device": "A"}\n{"entity": "ASSET"}\n')
    result = run("test", case)
    assert (result.exit_code, "set-up, line 2: 'name' is missing" in result.output) == (78, True)


def test_check_exit_codes_and_json(case, tmp_path):
    chain = case / "chain.json"
    assert (run("check", chain).exit_code, run("check", chain).output) == (0, "nothing is wrong\n")
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"ruleChain": {"name": "Bad"}, "metadata": metadata([SAVE, PUSH], (0, 1, "Sucess"))}))
    result = run("check", chain, bad)
    assert result.exit_code == 1
    assert "warning: Bad / save (nodes[0]): never answers 'Sucess'" in result.output
    (found,) = json.loads(run("check", bad, "--json").output)
    assert (found["code"], found["index"], found["severity"]) == ("label", 0, "warning")
    bad.write_text("{")
    assert (run("check", bad).exit_code, str(bad) in run("check", bad).output) == (78, True)
    bad.write_text("{}")
    assert (run("check", bad).exit_code, str(bad) in run("check", bad).output) == (78, True)
    assert "is here twice" in run("check", chain, chain).output
