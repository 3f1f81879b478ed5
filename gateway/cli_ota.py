"""`edge-gateway ota ls`: imported when it is called or listed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gateway import cli

_MOST_NAMES = 5


@click.group()
def ota() -> None:
    """Firmware and software that devices download from this gateway."""


@ota.command()
@cli.config_option
@click.option("--json", "as_json", is_flag=True, help="The whole answer as JSON.")
def ls(config_path: Path | None, as_json: bool) -> None:
    """Packages, who has them, and why one is not served. Exit code 0, 1 with a problem, 2 not running."""
    answer = cli.ask_gateway(config_path, "/ota")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        for line in lines(answer):
            click.echo(line)
    sys.exit(1 if answer["problem"] or any(one["problem"] for one in answer["packages"]) else 0)


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """For a terminal."""
    if answer["problem"]:
        yield f"problem: {answer['problem']}"
    for one in answer["packages"]:
        what = one["url"] or f"{one['size_bytes']} bytes {one['checksum']}"
        names, more = one["devices"][:_MOST_NAMES], len(one["devices"]) - _MOST_NAMES
        holders = ", ".join(names) + (f" and {more} more" if more > 0 else "") if names else "no device"
        yield f"{one['type'].lower()} {one['title']} {one['version']} ({one['source']}) {what}: {holders}"
        if one["problem"]:
            yield f"  not served: {one['problem']}"
    if not answer["packages"]:
        yield "no packages"
    yield f"packages of the cloud use {answer['used_bytes']} of {answer['max_bytes']} bytes"
