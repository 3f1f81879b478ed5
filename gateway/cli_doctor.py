"""`edge-gateway doctor`: imported when it is called or listed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import click

from gateway import cli
from gateway.config import load_config
from gateway.errors import ConfigError


@click.command()
@cli.config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@click.option("--no-connect", is_flag=True, help="Do not show the routing key to the cloud.")
def doctor(config_path: Path | None, as_json: bool, no_connect: bool) -> None:
    """Look at everything, one line each: what is wrong and what would be right.

    Exit code 0 all is well, 1 warnings, 2 problems. Works beside a running service, which is then asked instead of
    being evicted from the cloud by a second connection.
    """
    logging.getLogger("gateway").addHandler(logging.NullHandler())  # what it would log is told as findings
    from gateway.doctor import examine, exit_code
    from gateway.doctor.findings import problem
    from gateway.supervise import SystemClock

    path = cli.find_config(config_path)
    try:
        config = load_config(path, os.environ)
    except ConfigError as error:
        where = "configuration" if path is None or str(path) in str(error) else f"configuration {path}"
        found = [problem(where, str(error), "correct it; edge-gateway config-sample shows every key")]
    else:
        found = asyncio.run(examine(config, SystemClock(), may_connect=not no_connect))
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
    else:
        for one in found:
            click.echo(one.line())
    sys.exit(exit_code(found))
