"""`edge-gateway import`: imported when it is called or listed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway import cli
from gateway.errors import ConfigError


@click.group("import")
def import_() -> None:
    """Take over what another gateway was configured with."""


@import_.command("tb-gateway")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it there, not over a file.")
def tb_gateway(path: Path, out: Path | None) -> None:
    """Make `buses` and `servers` of the ThingsBoard IoT Gateway's Modbus and serial connectors.

    PATH is a connector's file, a tb_gateway.json, or the folder of one. What could not be carried over is told on
    stderr and stands as comments in the result. Exit code 0 when everything was carried over, 1 when something was
    not, 78 when PATH cannot be used.
    """
    from gateway.fieldbus.plugins import Plugins, parse_buses
    from gateway.fieldbus.servers import parse_servers
    from gateway.tb_import import load, to_yaml

    try:
        imported = load(path)
        plugins = Plugins()
        parse_servers(imported.servers, plugins, parse_buses(imported.buses, plugins, path.parent))
    except ConfigError as error:
        click.echo(f"edge-gateway: {error}", err=True)
        sys.exit(cli.EXIT_CONFIG)
    text = to_yaml(imported, path.name)
    if out is None:
        click.echo(text, nl=False)
    else:
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            click.echo(f"edge-gateway: {out}: {error.strerror}", err=True)
            sys.exit(cli.EXIT_CONFIG)
    for note in imported.notes:
        click.echo(f"{'not carried over' if note.is_lost else 'different'}: {note.where}: {note.text}", err=True)
    devices = sum(len(bus["devices"]) for bus in imported.buses)
    click.echo(f"{len(imported.buses)} buses, {devices} devices", err=True)
    sys.exit(1 if any(note.is_lost for note in imported.notes) else 0)
