"""Scripts and what they give, in both languages. The first line of the file is the message of all that name none."""

import re
from pathlib import Path

import orjson
import pytest

from gateway.config import RulesConfig
from gateway.errors import RejectedError
from gateway.rules.node import Shared
from gateway.rules.script import Script
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.unit.rules.kit import FakeState, message

LINES = [orjson.loads(line) for line in (Path(__file__).parent / "scripts" / "cases.jsonl").read_text().splitlines()]


def outcome(case, language, shared):
    """What the script gives, as ("result", value) or ("error", text)."""
    msg = message(case.get("message", LINES[0]["message"]), metadata=case.get("metadata", LINES[0]["metadata"]))
    try:
        return "result", Script("details", case["script"], language == "TBEL", shared).details(msg)
    except RejectedError as error:
        return "error", str(error)


def mismatch(case, language, shared):
    kind, got = outcome(case, language, shared)
    if "error" in case:
        is_right = kind == "error" and re.search(case["error"], got)
    else:
        is_right = (
            kind == "result" and got == case["result"] and isinstance(got, bool) == isinstance(case["result"], bool)
        )
    return (
        None
        if is_right
        else f"{language}: {case['script']!r} gave {got!r}, not {case.get('result', case.get('error'))!r}"
    )


@pytest.mark.parametrize("language", ["JS", "TBEL"])
def test_scripts(language):
    shared = Shared(FakeState(), RulesConfig(), FakeClock(), Counters())
    cases = [case for case in LINES[1:] if case["language"] in (language, "both")]
    assert len(cases) > 90
    wrong = [text for case in cases if (text := mismatch(case, language, shared))]
    assert not wrong, "\n".join(wrong)
