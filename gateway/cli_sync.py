"""`edge-gateway sync status`: imported when it is called or listed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gateway import cli


@click.group()
def sync() -> None:
    """What the cloud has told us, and where it and this gateway differ."""


@sync.command()
@cli.config_option
@click.option("--diff", "with_diff", is_flag=True, help="Every entity and field that differs.")
@click.option("--json", "as_json", is_flag=True, help="The whole answer as JSON.")
def status(config_path: Path | None, with_diff: bool, as_json: bool) -> None:
    """The last sync, what is owed, and what differs. Exit code 0, 1 when something differs, 2 not running."""
    answer = cli.ask_gateway(config_path, f"/sync{'?diff=1' if with_diff else ''}")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        for line in lines(answer):
            click.echo(line)
    diff = answer.get("diff", {})
    sys.exit(1 if any(diff.get(name) for name in ("only_here", "differing", "refused", "name_conflicts")) else 0)


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """For a terminal."""
    last, running = answer["last"], answer["running"]
    if running is not None:
        tries = f", attempt {running['attempts']}" if running["attempts"] > 1 else ""
        since = _moment(running["started_ms"])
        yield f"running: {running['kind']} since {since}, {running['messages']} messages{tries}"
    if last is None:
        yield "last: no sync has been completed with this edge"
    else:
        took = f"{last['messages']} messages in {last['duration_ms'] / 1000:.1f} s"
        tries = f", {last['attempts']} attempts" if last["attempts"] > 1 else ""
        yield f"last: {last['kind']}, completed {_moment(last['completed_ms'])}, {took}{tries}: {last['result']}"
    queue = answer["queue"]
    parked = "?" if queue["parked"] is None else queue["parked"]
    yield f"owed to the cloud: {queue['pending'] + queue['pending_express']} events wait, {parked} parked"
    for name, keys in answer["owed_attributes"].items():
        yield f"owed to {name!r}: shared attributes {', '.join(keys)}"
    if "diff" not in answer:
        return
    diff = answer["diff"]
    for one in diff["only_here"]:
        yield f"only here: {one['type']} {one['name']!r} ({one['id']}): {one['note']}"
    for one in diff["differing"]:
        yield f"differs: {one['type']} {one['name']!r} {one['field']}: cloud {one['cloud']!r}, here {one['here']!r}"
    for one in diff["refused"]:
        yield f"refused here: {one['what']}: {one['reason']}"
    for one in diff["removed_by_cloud"]:
        yield f"taken away by the cloud: {one['name']!r} ({one['id']}) on {_moment(one['at_ms'])}; not made again"
    for one in diff["adopted"]:
        yield f"adopted: {one['id']} took the place of {one['was']}"
    for one in diff["aliases"]:
        yield f"alias: {one['local_name']!r} here is {one['name']!r} in the cloud ({one['id']})"
    for one in diff["name_conflicts"]:
        yield f"conflict: {len(one['ids'])} devices are known as {one['name']!r}: {', '.join(one['ids'])}"
    if diff["not_listed"]:
        yield f"and {diff['not_listed']} more"


def _moment(ms: int) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(ms / 1000))}Z"
