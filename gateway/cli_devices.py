"""`edge-gateway devices`: imported when it is called or listed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from gateway import cli
from gateway.errors import ConfigError


@click.group()
def devices() -> None:
    """Kinds of devices that the drivers know."""


@devices.command()
@click.argument("name", required=False)
@cli.config_option
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def templates(name: str | None, config_path: Path | None, as_json: bool) -> None:
    """Device templates: those that come along, and those in `devices` beside the configuration file; NAME: its points.

    Exit code 78 when a template cannot be used, or there is none of that name.
    """
    from gateway.fieldbus.plugins import Plugins

    path = cli.find_config(config_path)
    plugins = Plugins()
    try:
        found = [
            (kind, template)
            for kind in plugins.kinds
            for template in plugins.get(kind, "drivers").templates(path.parent if path is not None else None)
            if name is None or template.name == name
        ]
        if name is not None and not found:
            raise ConfigError("NAME", f"there is no template {name!r}; `edge-gateway devices templates` lists them")
    except ConfigError as error:
        click.echo(f"edge-gateway: {error}", err=True)
        sys.exit(cli.EXIT_CONFIG)
    if as_json:
        click.echo(json.dumps([{"kind": kind, **asdict(template)} for kind, template in found], indent=2))
        return
    for kind, template in found:
        if name is None:
            click.echo(f"{template.name:24} {kind:10} {template.description}")
            continue
        click.echo(f"{template.name} ({kind}): {template.description}")
        click.echo(f"source: {template.source}\nfile: {template.place}")
        click.echo(
            "".join(f"{word}: {text}\n" for word, text in (("line", template.line), ("notes", template.notes)) if text)
        )
        width = max(len(key) for key, _ in template.points)
        for key, what in template.points:
            click.echo(f"  {key:{width}}  {what}")
