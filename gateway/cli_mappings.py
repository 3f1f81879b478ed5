"""`edge-gateway mappings`: imported when it is called or listed."""

from __future__ import annotations

import sys
import time

import click

from gateway import cli
from gateway.errors import ConfigError


@click.group()
def mappings() -> None:
    """Mapping rules: what a foreign topic and payload would become."""


@mappings.command()
@click.argument("file")
@click.option("--topic", required=True, help="As the device publishes it.")
@click.option("--payload", default="", help="As the device publishes it.")
def test(file: str, topic: str, payload: str) -> None:
    """What FILE (or a set that comes along, such as tasmota) makes of a message; nothing is sent.

    Exit code 0 when a rule takes it, 1 when none does or the payload does not fit, 78 when the file cannot be used.
    """
    from gateway.broker.mapped import to_json
    from gateway.broker.mapping import MisfitError, Rules
    from gateway.broker.mapping_rules import load_file

    try:
        rules = Rules([load_file(file)])
    except ConfigError as error:
        click.echo(f"edge-gateway: {error}", err=True)
        sys.exit(cli.EXIT_CONFIG)
    try:
        heard = rules.read(topic, payload.encode(), time.time_ns() // 1_000_000)
    except MisfitError as error:
        click.echo(f"does not fit: {error}", err=True)
        sys.exit(1)
    if heard is None:
        click.echo("no rule takes this topic; it stays a local message", err=True)
        sys.exit(1)
    click.echo(to_json(heard).decode())
