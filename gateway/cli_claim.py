"""`edge-gateway claim`: imported when it is called or listed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from gateway import cli

_SAYING: Final = {
    "SUCCESS": "it is yours: the server attribute claimed says so, here and in the cloud",
    "FAILURE": "a wrong key, an expired claim, or no claim of this device",
    "CLAIMED": "somebody has claimed it already",
}


@click.command()
@cli.config_option
@click.argument("device")
@click.option("--secret", default="", help="The key that the device named in its claim; none: it named none.")
@click.option("--ask-secret", is_flag=True, help="Ask for the key, so that no list of processes shows it.")
def claim(config_path: Path | None, device: str, secret: str, ask_secret: bool) -> None:
    """Claim DEVICE. Exit code 0 when it succeeded, 1 when not, 2 not running."""
    if ask_secret:
        secret = click.prompt("key", hide_input=True, default="", show_default=False)
    answer = cli.ask_gateway(config_path, "/claim", {"device": device, "secretKey": secret})
    status = str(answer["status"])
    click.echo(f"{status}: {_SAYING.get(status, '')}")
    sys.exit(0 if status == "SUCCESS" else 1)
