"""`edge-gateway rules test` and `rules replay`: chains walked offline, with a clock of their own."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gateway import cli
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.trial import Case, Mismatch

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("test")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--input", "messages", type=_FILE, help="Messages, one JSON object a line; FILE is a chain then.")
@click.option("--setup", type=_FILE, help="Devices, attributes, relations that are there before, a line each.")
@click.option("--expected", type=_FILE, help="What each message has to cause, a line each.")
@click.option("--update", is_flag=True, help="Write what was found as what is expected.")
@click.option("--json", "as_json", is_flag=True, help="Results and mismatches as JSON.")
def test(
    path: Path, messages: Path | None, setup: Path | None, expected: Path | None, update: bool, as_json: bool
) -> None:
    """Walk messages through the chain PATH, or run the cases in the folder PATH (docs/rules-test.md); nothing is sent.

    A case is a folder with chain.json, messages.jsonl, expected.jsonl and, where needed, setup.jsonl.
    Exit code 0 as expected, 1 not so, 78 when a file cannot be used.
    """
    logging.getLogger("gateway").addHandler(logging.NullHandler())
    try:
        if path.is_dir():
            outcomes = [_run_folder(folder, update) for folder in _folders(path)]
        else:
            outcomes = [_run_file(path, messages, setup, expected, update)]
    except ConfigError as error:
        fail(error)
    if as_json:
        click.echo(json.dumps([outcome.as_json() for outcome in outcomes], indent=2))
    else:
        for outcome in outcomes:
            outcome.tell(in_full=not path.is_dir() and expected is None)
        if path.is_dir():
            failed = sum(bool(outcome.mismatches) for outcome in outcomes)
            click.echo(f"{len(outcomes) - failed} of {len(outcomes)} cases as expected")
    sys.exit(1 if any(outcome.mismatches for outcome in outcomes) else 0)


@click.command("replay")
@click.argument("chain", type=_FILE)
@click.argument("recordings", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--chains", "more", multiple=True, type=_FILE, help="More chains, for nesting; again for more.")
@click.option("--setup", type=_FILE, help="Attributes, entities, relations that are there before, a line each.")
@click.option("--wait", "wait_s", default=0.0, type=click.FloatRange(0), help="Seconds that pass after the last line.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON, with the results of lines that failed.")
def replay(
    chain: Path, recordings: tuple[Path, ...], more: tuple[Path, ...], setup: Path | None, wait_s: float, as_json: bool
) -> None:
    """Recorded messages (`rules.record`; files or folders) through CHAIN, offline: what they would cause.

    Exit code 0, 1 when a message failed or a node cannot work, 78 when a file cannot be used.
    """
    from gateway.config import RulesConfig
    from gateway.trial.cases import read_lines
    from gateway.trial.replay import recorded
    from gateway.trial.replay import replay as play

    logging.getLogger("gateway").addHandler(logging.NullHandler())
    try:
        things = read_lines(setup) if setup is not None else []
        config = RulesConfig(root_chain=chain, chains=more)
        summary, failed = asyncio.run(play(config, recorded(recordings), things, wait_s))
    except ConfigError as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(summary.as_json() | {"failed": failed}, indent=2))
    else:
        caused = ", ".join(f"{count} {what}" for what, count in summary.caused.items()) or "nothing"
        click.echo(f"{summary.messages} messages in {summary.seconds:.0f} s caused: {caused}")
        width = max(map(len, summary.nodes), default=0)
        for place, count in summary.nodes.items():
            failures = summary.failures.get(place, 0)
            click.echo(f"  {place:{width}} {count:>10}" + (f"  {failures} failures" if failures else ""))
        for text, count in summary.errors.most_common():
            click.echo(f"failed {count} times: {text}")
        for problem in summary.problems:
            click.echo(f"problem: {problem}")
    sys.exit(1 if summary.errors or summary.problems else 0)


class _Outcome:
    """One case that was walked."""

    def __init__(self, case: Case, results: Sequence[dict[str, Any]], mismatches: Sequence[Mismatch]) -> None:
        self.case, self.results, self.mismatches = case, results, mismatches
        self.note = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "case": self.case.name,
            "ok": not self.mismatches,
            "results": self.results,
            "mismatches": [
                {"line": one.line, "key": one.key, "expected": one.expected, "found": one.found}
                for one in self.mismatches
            ],
        }

    def tell(self, *, in_full: bool) -> None:
        if in_full:
            for number, (line, result) in enumerate(zip(self.case.messages, self.results, strict=True), 1):
                click.echo(f"{number}: {json.dumps(line)}")
                for key, value in result.items():
                    for item in value:
                        click.echo(f"    {key}: {item if isinstance(item, str) else json.dumps(item)}")
        elif not self.mismatches:
            click.echo(f"ok    {self.case.name}{self.note}")
        else:
            click.echo(f"FAIL  {self.case.name}")
        line = 0
        for one in self.mismatches:
            if one.line != line:
                line = one.line
                click.echo(f"  line {line}: {_short(self.case.messages[line - 1])}")
            click.echo(f"    {one.key}")
            for text in _difference(one.expected, one.found):
                click.echo(f"      {text}")


def _folders(path: Path) -> list[Path]:
    from gateway.trial.cases import find_cases

    folders = find_cases(path)
    if not folders:
        raise ConfigError(str(path), "holds no case: a folder with chain.json and messages.jsonl")
    return folders


def _run_folder(folder: Path, update: bool) -> _Outcome:
    from gateway.trial.cases import Case, read_case, read_lines

    if not update:
        return _walked(read_case(folder), is_asserted=True)
    setup = folder / "setup.jsonl"
    case = Case(
        folder.name,
        folder / "chain.json",
        read_lines(setup) if setup.exists() else [],
        read_lines(folder / "messages.jsonl"),
        [],
    )
    return _updated(case, folder / "expected.jsonl")


def _run_file(chain: Path, messages: Path | None, setup: Path | None, expected: Path | None, update: bool) -> _Outcome:
    from gateway.trial.cases import Case, check_expected, read_lines

    if messages is None:
        raise ConfigError("--input", "is missing: a file with messages; or give a folder of cases")
    lines = read_lines(messages)
    case = Case(chain.stem, chain, read_lines(setup) if setup is not None else [], lines, [])
    if update:
        if expected is None:
            raise ConfigError("--update", "needs --expected: the file to write")
        return _updated(case, expected)
    if expected is None:
        return _walked(case, is_asserted=False)
    wanted = read_lines(expected)
    check_expected(wanted, lines, expected)
    return _walked(replace(case, expected=wanted), is_asserted=True)


def _walked(case: Case, *, is_asserted: bool) -> _Outcome:
    from gateway.trial import walk
    from gateway.trial.cases import compare

    results = asyncio.run(walk(case))
    return _Outcome(case, results, compare(case.expected, results) if is_asserted else [])


def _updated(case: Case, path: Path) -> _Outcome:
    """Walked twice: what differs each time is expected to be anything."""
    from gateway.trial import walk
    from gateway.trial.cases import agreed

    results, again = asyncio.run(walk(case)), asyncio.run(walk(case))
    lines = [json.dumps(agreed(one, other), ensure_ascii=False) for one, other in zip(results, again, strict=True)]
    text = "".join(f"{line}\n" for line in lines)
    is_new = not path.exists() or path.read_text(encoding="utf-8") != text
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}") from None
    outcome = _Outcome(case, results, [])
    outcome.note = f"  ({path} {'written' if is_new else 'unchanged'})"
    return outcome


def _difference(expected: Any, found: Any) -> list[str]:
    """Line by line where both are lists, else one against the other."""
    if not isinstance(expected, list) or not isinstance(found, list):
        return [f"- {_text(expected)}", f"+ {_text(found)}"]
    from gateway.trial.cases import fits

    lines = []
    for index in range(max(len(expected), len(found))):
        wanted = [expected[index]] if index < len(expected) else []
        got = [found[index]] if index < len(found) else []
        if wanted and got and fits(wanted, got):
            lines.append(f"  {_text(got[0])}")
        else:
            lines += [f"- {_text(item)}" for item in wanted] + [f"+ {_text(item)}" for item in got]
    return lines


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(line: Any) -> str:
    text = json.dumps(line, ensure_ascii=False)
    return text if len(text) <= 160 else text[:160] + "…"


def fail(error: ConfigError) -> NoReturn:
    """A file that cannot be used."""
    click.echo(f"edge-gateway: {error}", err=True)
    sys.exit(cli.EXIT_CONFIG)
