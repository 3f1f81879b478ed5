"""`edge-gateway rules build`: the chain that the short forms of a configuration make. Belongs to `cli_rules`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from gateway import cli
from gateway.cli_rules_test import fail
from gateway.errors import ConfigError


@click.command()
@cli.config_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it to this file.")
def build(config_path: Path | None, out: Path | None) -> None:
    """The rule chain that `rules.short` of the configuration makes, as JSON.

    Set as rules.root_chain, with rules.prefer_cloud: false, it does the same. It opens in ThingsBoard unless it has
    nodes of this gateway's own.
    """
    from gateway.config import load_config
    from gateway.rules.node import OWN_PREFIX
    from gateway.rules.short import short_chain

    try:
        config = load_config(cli.find_config(config_path), os.environ)
        if not config.rules.short:
            raise ConfigError("rules.short", "is empty: there is nothing to build a chain of (docs/rules-short.md)")
    except ConfigError as error:
        fail(error)
    chain = short_chain(config.rules.short)
    text = json.dumps(chain, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
    own = sorted({node["name"] for node in chain["metadata"]["nodes"] if node["type"].startswith(OWN_PREFIX)})
    if own:
        click.echo(f"note: does not open in ThingsBoard, which does not have these nodes: {', '.join(own)}", err=True)
