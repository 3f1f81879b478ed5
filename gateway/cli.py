"""The command line. `run` imports the gateway only; every other command only what it needs."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gateway import __version__
from gateway.errors import ConfigError, RefusedError, TransientError

if TYPE_CHECKING:
    from gateway.config import GatewayConfig

EXIT_CONFIG = 78  # EX_CONFIG of sysexits(3): the unit does not restart on it

SYSTEM_CONFIG = Path("/etc/edge-gateway/gateway.yaml")

config_option = click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Configuration file; default {SYSTEM_CONFIG}, else config/gateway.yaml here.",
)


_ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "claim": ("gateway.cli_claim", "claim"),
    "cloud-sim": ("gateway.cloudsim.command", "cloud_sim"),
    "devices": ("gateway.cli_devices", "devices"),
    "doctor": ("gateway.cli_doctor", "doctor"),
    "ota": ("gateway.cli_ota", "ota"),
    "events": ("gateway.cli_events", "events"),
    "modbus": ("gateway.cli_modbus", "modbus"),
    "import": ("gateway.cli_import", "import_"),
    "mappings": ("gateway.cli_mappings", "mappings"),
    "resend": ("gateway.cli_events", "resend"),
    "serial": ("gateway.cli_serial", "serial"),
    "rules": ("gateway.cli_rules", "rules"),
    "sync": ("gateway.cli_sync", "sync"),
}
"""Commands with a module of their own, imported when they are called or listed."""


class _Commands(click.Group):
    """Those of this module, and those of `_ELSEWHERE`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """By name."""
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command."""
        if cmd_name in _ELSEWHERE:
            module, name = _ELSEWHERE[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-gateway")
def main() -> None:
    """An industrial IoT gateway: MQTT and Modbus in, rules and a durable queue inside, a ThingsBoard cloud above."""


@main.command()
@config_option
def run(config_path: Path | None) -> None:
    """Run the gateway until SIGTERM."""
    config_path, config = _load(config_path)
    from gateway.health import set_up_logging

    set_up_logging(config.log.level)
    from gateway.app import run_until_signal

    try:
        _run(run_until_signal(config))
    except* ConfigError as errors:
        _fail_config(errors.exceptions[0], config_path)
    except* (TransientError, RefusedError) as errors:
        click.echo(f"edge-gateway: {_first(errors)}", err=True)
        sys.exit(1)


@main.command("check-config")
@config_option
@click.option("--quiet", is_flag=True, help="Say nothing when all is well.")
def check_config(config_path: Path | None, quiet: bool) -> None:
    """Check the configuration, drivers and rule chains included; exit code 78 when something is wrong."""
    config_path, config = _load(config_path)
    from gateway.app import check

    logging.getLogger("gateway").addHandler(logging.NullHandler())  # what it would log is told as notes
    try:
        remarks = check(config)
    except ConfigError as error:
        _fail_config(error, config_path)
    for remark in remarks:
        click.echo(f"note: {remark}", err=True)
    if not quiet:
        click.echo(f"{config_path or 'no file, all defaults'}: the configuration is good")


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The whole answer as JSON.")
def status(config_path: Path | None, as_json: bool) -> None:
    """Connection, queue, devices, drivers. Exit code 0 healthy, 1 degraded, 2 not running."""
    answer = _ask(_load(config_path)[1], "/status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        from gateway.status_view import render

        render(answer)
    from gateway.status_view import is_healthy

    sys.exit(0 if is_healthy(answer) else 1)


@main.command()
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
@click.option("--seconds", default=45, show_default=True, help="How long data flow before the final drain.")
def demo(keep: bool, seconds: int) -> None:
    """The whole path in one terminal: a plant, a device, the gateway, a cloud that goes away and comes back."""
    from gateway.demo import run_demo

    sys.exit(_run(run_demo(keep=keep, seconds=seconds)))


@main.command("config-sample")
def config_sample() -> None:
    """Print the sample configuration: every key, its default, why."""
    from gateway.config_sample import sample_yaml

    click.echo(sample_yaml(), nl=False)


def _load(path: Path | None) -> tuple[Path | None, GatewayConfig]:
    """The file that was read (None: there is none, all defaults), and what it says."""
    from gateway.config import load_config

    path = find_config(path)
    try:
        return path, load_config(path, os.environ)
    except ConfigError as error:
        _fail_config(error, path)


def find_config(path: Path | None) -> Path | None:
    """The file to read: the given one, else the first that is there; None: there is none."""
    return path or next((p for p in (SYSTEM_CONFIG, Path("config/gateway.yaml")) if _is_there(p)), None)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return True  # reading it will say so


def _fail_config(error: BaseException, path: Path | None = None) -> NoReturn:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    prefix = f"{path}: " if path and str(path) not in str(error) else ""
    click.echo(f"edge-gateway: {prefix}{error}", err=True)
    sys.exit(EXIT_CONFIG)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _run(main_coroutine: Any) -> Any:
    """On uvloop where it exists."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main_coroutine)
    return uvloop.run(main_coroutine)


def ask_gateway(config_path: Path | None, path: str, body: Any = None) -> Any:
    """GET from the gateway of this configuration, or POST; ends the program with 2 when none answers."""
    return _ask(_load(config_path)[1], path, body)


def _ask(config: GatewayConfig, path: str, body: Any = None) -> Any:
    from gateway.status_view import Answered, LocalApiError, ask

    problem: LocalApiError | None = None
    for socket_path in config.socket_paths:
        try:
            return ask(socket_path, path, body)
        except Answered as error:
            problem = error
            break  # this is the one; that nobody listens at the next place is no news
        except LocalApiError as error:
            problem = error
    click.echo(f"edge-gateway: {problem}", err=True)
    sys.exit(2)
