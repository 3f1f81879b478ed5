"""Every folder of `gateway/rules/cases` is a test: a chain, messages, and what each of them has to cause."""

from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.trial import read_case, run_case
from gateway.trial.cases import read_lines

CASES = Path(__file__).parents[3] / "gateway" / "rules" / "cases"


@pytest.mark.parametrize("folder", sorted(path.name for path in CASES.iterdir()))
async def test_case(folder):
    _, mismatches = await run_case(read_case(CASES / folder))
    assert not mismatches, "\n".join(map(str, mismatches))


async def test_a_wrong_expectation_is_a_mismatch_with_line_and_key(tmp_path):
    source = CASES / "switch_save_and_push"
    for name in ("chain.json", "messages.jsonl"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    lines = (source / "expected.jsonl").read_text().splitlines()
    lines[1] = '{"attributes": []}'
    (tmp_path / "expected.jsonl").write_text("\n".join(lines))
    _, mismatches = await run_case(read_case(tmp_path))
    assert [(one.line, one.key, one.expected) for one in mismatches] == [(2, "attributes", [])]


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "messages.jsonl"
    path.write_text('{"msg": {}}\n\n{"msg": \n')
    with pytest.raises(ConfigError, match=r"messages\.jsonl, line 3: is no JSON"):
        read_lines(path)
