"""`edge-gateway rules`: imported when it is called or listed."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway import cli
from gateway.cli_rules_test import fail, test
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.rules.check import Finding


@click.group()
def rules() -> None:
    """Rule chains: those that run here, and those that are being written."""


rules.add_command(test)


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


def ask(config_path: Path | None, path: str, body: Any = None) -> Any:
    """The running gateway of this configuration."""
    return cli.ask_gateway(config_path, path, body)
