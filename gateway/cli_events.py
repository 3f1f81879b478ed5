"""`edge-gateway events` and `resend`: imported when they are called or listed."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from gateway import cli
from gateway.domain.again import moment_text

_AGAIN_S: Final = 0.5  # between two requests while something has to wait
_TOLD_S: Final = 2.0  # between two lines of progress


@click.group(invoke_without_command=True)
@cli.config_option
@click.option("--status", "wanted", type=click.Choice(["pending", "deployed", "parked"], case_sensitive=False))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--before", type=int, help="Only events with a smaller seq_id.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@click.pass_context
def events(
    ctx: click.Context, config_path: Path | None, wanted: str | None, limit: int, before: int | None, as_json: bool
) -> None:
    """Cloud events, newest first; and what to do with parked ones."""
    ctx.obj = config_path
    if ctx.invoked_subcommand is not None:
        return
    query = f"?limit={limit}" + (f"&status={wanted}" if wanted else "") + (f"&before={before}" if before else "")
    rows = cli.ask_gateway(config_path, f"/events{query}")
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(_line(row))
    if not rows:
        click.echo("no events", err=True)


def _line(row: Mapping[str, Any]) -> str:
    body = (row["entityBody"] or "")[:100]
    reason = ""
    if "reason" in row:
        tries = f", refused {row['tries']} times" if row["tries"] else ""
        reason = f"  parked {_moment(row['parkedTime'])}{tries}: {row['reason']}"
    return (
        f"{row['seqId']:>8} {row['lane'].lower():<7} {_moment(row['createdTime'])} {row['status']:<8}"
        f" {row['type']}/{row['action']} {row['entityId'] or ''} {body}{reason}"
    )


def _moment(ms: int) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(ms / 1000))}Z"


def _which(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which parked events are meant."""
    for option in reversed(
        (
            cli.config_option,
            click.option("--seq", "numbers", type=int, multiple=True, help="This one; again for more."),
            click.option("--lane", type=click.Choice(["main", "express"]), help="Numbers mean main unless told."),
            click.option("--reason", help="Those with this text in their reason."),
            click.option("--device", help="Those of this device: its name, or an id."),
            click.option("--all", "is_all", is_flag=True, help="All that fit; needed when nothing else is given."),
        )
    ):
        command = option(command)
    return command


@events.command("resend")
@_which
@click.pass_context
def resend_parked(ctx: click.Context, /, config_path: Path | None, **which: Any) -> None:
    """Send parked events again. Exit code 0, 1 when some stay parked or none was found, 2 not running, wrong order."""
    _decide(config_path or ctx.obj, "resend", which, "are sent again")


@events.command("discard")
@_which
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def discard_parked(ctx: click.Context, /, config_path: Path | None, yes: bool, **which: Any) -> None:
    """Delete parked events for good. Exit code 0, 1 when none was found, 2 not running, wrong order."""
    is_narrow = which["numbers"] or which["reason"] or which["device"]
    if which["is_all"] and not is_narrow and not yes:
        click.confirm("Delete ALL parked events? The cloud will never have them.", abort=True, err=True)
    _decide(config_path or ctx.obj, "discard", which, "are discarded")


def _decide(config_path: Path | None, do: str, which: Mapping[str, Any], verb: str) -> None:
    order: dict[str, Any] = {"do": do, "all": which["is_all"]}
    for name, option in (("seq", "numbers"), ("lane", "lane"), ("reason", "reason"), ("device", "device")):
        if which[option]:
            order[name] = list(which[option]) if name == "seq" else which[option]
    done, stays = 0, Counter[str]()
    try:
        for answer in _slices(config_path, "/events/parked", order, lambda count, _: f"{count} {verb}"):
            done += answer["done"]
            stays.update(answer["stays"])
    except KeyboardInterrupt:
        click.echo(f"stopped: {done} {verb}, the others are as they were", err=True)
        sys.exit(130)
    click.echo(f"{done} {verb}" if done or stays else "no parked event fits")
    for reason, count in stays.most_common():
        click.echo(f"{count} stay parked: {reason}")
    sys.exit(0 if done and not stays else 1)


@click.command()
@cli.config_option
@click.option("--device", required=True, help="Its name.")
@click.option("--from", "first", required=True, help="First moment: ISO 8601 (UTC unless told), or milliseconds.")
@click.option("--to", "end", help="First moment that is not meant; default: now.")
@click.option("--key", "keys", multiple=True, help="Only this one; again for more.")
def resend(config_path: Path | None, device: str, first: str, end: str | None, keys: tuple[str, ...]) -> None:
    """Send telemetry that is kept here to the cloud again.

    Through the ordinary queue; waits while that is long. May be stopped and begun again: the cloud keeps one value for
    each key and time stamp. Exit code 0, 1 when there was nothing to send, 2 not running, wrong order.
    """
    order: dict[str, Any] = {"device": device, "from": first, "to": end or str(time.time_ns() // 1_000_000)}
    order["keys"] = list(keys)
    done, place = 0, None
    try:
        for answer in _slices(config_path, "/history", order, _so_far):
            done += answer["done"]
            place = answer["place"]
    except KeyboardInterrupt:
        at = first if place is None else moment_text(int(place))
        click.echo(f"stopped after {done} events; it goes on with --from {at}", err=True)
        sys.exit(130)
    click.echo(f"{done} events are on their way" if done else "nothing is kept of this device, these keys, this range")
    sys.exit(0 if done else 1)


def _so_far(count: int, place: str) -> str:
    return f"{count} events, up to {moment_text(int(place))}"


def _slices(
    config_path: Path | None, path: str, order: dict[str, Any], progress: Callable[[int, str], str]
) -> Iterator[Mapping[str, Any]]:
    """Ask until the order is carried out; what waits, and how far it is, is told on stderr."""
    waits, told_s, done = "", time.monotonic(), 0
    while True:
        answer = cli.ask_gateway(config_path, path, order)
        if answer["note"]:
            click.echo(f"note: {answer['note']}", err=True)
        yield answer
        done += answer["done"]
        is_done = answer["place"] is None and answer["waits"] is None
        if is_done:
            return
        if answer["place"] is not None:
            order["place"] = answer["place"]
            if time.monotonic() - told_s >= _TOLD_S:
                told_s = time.monotonic()
                click.echo(progress(done, answer["place"]), err=True)
        if answer["waits"] is not None:
            if answer["waits"].lstrip("0123456789") != waits:
                waits = answer["waits"].lstrip("0123456789")
                click.echo(f"waiting: {answer['waits']}", err=True)
            time.sleep(_AGAIN_S)
