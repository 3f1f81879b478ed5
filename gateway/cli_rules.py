"""`edge-gateway rules`: imported when it is called or listed."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from gateway import cli
from gateway.cli_rules_build import build
from gateway.cli_rules_test import fail, replay, test
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.rules.check import Finding


_FOLLOW_S: Final = 0.5  # between two looks
_ASK_EVERY_S: Final = 30.0  # recording ends by itself when nobody asks any more


@click.group()
def rules() -> None:
    """Rule chains: those that run here, and those that are being written."""


rules.add_command(test)
rules.add_command(replay)
rules.add_command(build)


@rules.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="A list of findings.")
def check(files: Sequence[Path], as_json: bool) -> None:
    """What is wrong, or probably not meant, in the chains of FILES; they may enter one another.

    Exit code 0 nothing (notes aside), 1 something, 78 when a file is no rule chain.
    """
    try:
        findings = _examine(files)
    except ConfigError as error:
        fail(error)
    told = [finding for finding in findings if finding.severity != "note"]
    if as_json:
        keys = ("severity", "code", "chain", "node", "index", "text")
        click.echo(json.dumps([{key: getattr(finding, key) for key in keys} for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
        if not told:
            click.echo("nothing is wrong")
    sys.exit(1 if told else 0)


def _examine(files: Sequence[Path]) -> list[Finding]:
    from gateway.config import RulesConfig
    from gateway.devices import State
    from gateway.ports import Snapshot
    from gateway.rules.chain import parse_loosely
    from gateway.rules.check import check as examine
    from gateway.rules.engine import read_tree
    from gateway.trial import TrialClock

    logging.getLogger("gateway").addHandler(logging.NullHandler())
    graphs = []
    for path in files:
        try:
            graphs += parse_loosely(read_tree(path), path.stem)
        except ConfigError as error:
            raise error if str(path) in error.where else ConfigError(f"{path}: {error.where}", error.problem) from None
    twice = [graph.name for index, graph in enumerate(graphs) if graph.id in {one.id for one in graphs[:index]}]
    if twice:
        raise ConfigError(str(files[-1]), f"the chain {twice[0]!r} is here twice (same id, or same name without id)")
    return examine(graphs, State(Snapshot()), RulesConfig(), TrialClock())


@rules.command("ls")
@cli.config_option
@click.option("--files", "from_files", is_flag=True, help="The chains that the configuration names, without a gateway.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def list_chains(config_path: Path | None, from_files: bool, as_json: bool) -> None:
    """Chains of the running gateway, with what their nodes have done. Exit code 0, 1 when there are problems."""
    seen = _from_files(config_path) if from_files else cli.ask_gateway(config_path, "/rules")
    if as_json:
        click.echo(json.dumps(seen, indent=2))
    else:
        for chain in seen["chains"]:
            root = ", root" if chain["root"] else ""
            click.echo(f"{chain['name']}  ({chain['source']}{root})  {chain['id']}")
            width = max((len(node["name"]) for node in chain["nodes"]), default=0)
            for node in chain["nodes"]:
                click.echo(_row(node, width))
        for field in seen["fields"]:
            click.echo(_field_row(field))
        for problem in seen["problems"]:
            click.echo(f"problem: {problem}", err=True)
    sys.exit(1 if seen["problems"] else 0)


def _row(node: dict[str, Any], width: int) -> str:
    mean = f"{node['mean_us']:.1f} µs" if "mean_us" in node else "-"
    marks = "  debug" if node.get("debug") else ""
    if "problem" in node:
        marks += f"  NOT RUN: {node['problem']}"
    kind = node["type"].rpartition(".")[2]
    return (
        f"  {node['name']:{width}}  {kind:32} {node['messages']:>10} messages {node['failures']:>7} failures"
        f" {mean:>10}{marks}"
    )


def _field_row(field: dict[str, Any]) -> str:
    state = f"NOT EVALUATED: {field['problem']}" if "problem" in field else f"{field['evaluations']} evaluations"
    last = f"  last: {field['error']}" if "error" in field else ""
    return f"field {field['name']}  ({field['type']} of {field['of']})  {state} {field['failures']} failures{last}"


def _from_files(config_path: Path | None) -> dict[str, Any]:
    import os

    from gateway.config import load_config
    from gateway.devices import State
    from gateway.ports import Snapshot
    from gateway.rules import RuleDesk, RuleEngine
    from gateway.supervise import Counters
    from gateway.trial import TrialClock

    logging.getLogger("gateway").addHandler(logging.NullHandler())
    try:
        config = load_config(cli.find_config(config_path), os.environ)
        engine = RuleEngine(State(Snapshot()), config.rules, TrialClock(), Counters())
        engine.load_files()
    except ConfigError as error:
        fail(error)
    return RuleDesk(engine, TrialClock()).overview()


@rules.command()
@click.argument("chain")
@cli.config_option
def show(chain: str, config_path: Path | None) -> None:
    """CHAIN (id or name) of the running gateway as ThingsBoard's export; credentials in it are hidden."""
    click.echo(json.dumps(cli.ask_gateway(config_path, f"/rules/chain?chain={quote(chain)}"), indent=2))


@rules.command()
@click.argument("place", required=False, metavar="[CHAIN/NODE]")
@cli.config_option
@click.option("--follow", is_flag=True, help="Record all events of this node and show them until Ctrl-C.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def debug(place: str | None, config_path: Path | None, follow: bool, limit: int, as_json: bool) -> None:
    """Debug events of a chain, of a node, or of all: of nodes with debugSettings, and of those that are followed.

    A chain with a slash in its name is given by its id.
    """
    chain, _, node = (place or "").partition("/")
    if follow and not node:
        raise click.UsageError("--follow needs CHAIN/NODE")
    query = "".join(f"&{key}={quote(value)}" for key, value in (("chain", chain), ("node", node)) if value)
    after, asked_s = 0, -_ASK_EVERY_S
    while True:
        if follow and time.monotonic() - asked_s >= _ASK_EVERY_S:
            asked_s = time.monotonic()
            words = {"chain": chain, "node": node, "seconds": 2 * _ASK_EVERY_S}
            cli.ask_gateway(config_path, "/rules/debug", words)
        for event in cli.ask_gateway(config_path, f"/rules/debug?after={after}&limit={limit}{query}"):
            after = event["number"]
            click.echo(json.dumps(event) if as_json else _told(event))
        if not follow:
            if not after and not as_json:
                click.echo("no debug events; --follow records those of one node", err=True)
            return
        time.sleep(_FOLLOW_S)


def _told(event: dict[str, Any]) -> str:
    moment = time.strftime("%H:%M:%S", time.gmtime(event["ts"] / 1000))
    lines = [f"{moment}.{event['ts'] % 1000:03d}Z {event['chain']} / {event['node']}"]
    if "labels" in event:
        lines[0] += f" → {', '.join(event['labels']) or 'ends here'}  ({event['took_us']} µs)"
    for word, message in (("in ", event.get("in")), *(("out", one) for one in event.get("out", ()))):
        if message is not None:
            text = f"{message['type']} {message['originator']} {message['msg']} {json.dumps(message['metadata'])}"
            lines.append(f"    {word} {text}")
    if "error" in event:
        lines.append(f"    error: {event['error']}")
    return "\n".join(lines)
