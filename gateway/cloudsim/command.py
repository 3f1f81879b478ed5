"""`edge-gateway cloud-sim`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import orjson

from gateway.cloudsim.faults import Faults
from gateway.cloudsim.options import VERSIONS, CloudSimOptions, CustomerKind, Flavour, SimDevice
from gateway.domain.entity import Json
from gateway.errors import ConfigError, RejectedError, TransientError

EXIT_CONFIG = 78


def run_cloud_sim(options: CloudSimOptions) -> None:
    """Run the simulator until it is told to stop.

    Raises:
        TransientError: A port is taken.
    """
    from gateway.cloudsim.server import run

    try:
        import uvloop
    except ImportError:
        asyncio.run(run(options))
    else:
        uvloop.run(run(options))


def parse_device(text: str) -> SimDevice:
    """`NAME`, `NAME=TOKEN` or `NAME:PROFILE=TOKEN`."""
    place, _, token = text.partition("=")
    name, _, profile = place.partition(":")
    if not name.strip():
        raise click.BadParameter(f"{text!r}: write NAME, NAME=TOKEN or NAME:PROFILE=TOKEN")
    return SimDevice(name=name.strip(), profile=profile.strip() or "default", token=token)


def parse_fault(text: str) -> tuple[str, Json]:
    """`NAME` (true) or `NAME=VALUE`: the value as in the HTTP API; what is not JSON is a text."""
    name, mark, given = text.partition("=")
    value: Json = True
    if mark:
        try:
            value = orjson.loads(given)
        except orjson.JSONDecodeError:
            value = given
    try:
        Faults().update({name: value})
    except RejectedError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None
    return name, value


@click.command("cloud-sim", help="A stand-in for the cloud's side of the edge protocol. A development tool.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=7070, show_default=True, help="Port of the edge protocol; 0: a free one.")
@click.option("--http-port", default=7080, show_default=True, help="Port of the HTTP API; 0: a free one.")
@click.option("--no-http", is_flag=True, help="No HTTP API.")
@click.option("--routing-key", default="demo-edge", show_default=True)
@click.option("--routing-secret", default="demo-secret", show_default=True)
@click.option("--version", "version", type=click.Choice(VERSIONS), help="Release  [default: 4.3; of winstar: 3.7]")
@click.option(
    "--flavour", default="thingsboard", show_default=True, type=click.Choice([kind.value for kind in Flavour])
)
@click.option(
    "--cloud-type", default="CE", show_default=True, help="Edition that it says it is; edges refuse all but CE."
)
@click.option("--widgets", default=3, show_default=True, help="Widget types, each one a message of a full sync.")
@click.option("--fault", "faults", multiple=True, help="NAME or NAME=VALUE, in force from the start; repeatable.")
@click.option("--ack-within-s", default=10.0, show_default=True, help="A later acknowledgement is a violation.")
@click.option("--customer", default="none", show_default=True, type=click.Choice([kind.value for kind in CustomerKind]))
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rtt-ms", default=0.0, show_default=True, help="Latency added to every answer and downlink.")
@click.option("--keep-values", default=100, show_default=True, help="Telemetry values kept for each key.")
@click.option("--device", "devices", multiple=True, help="NAME, NAME=TOKEN or NAME:PROFILE=TOKEN; repeatable.")
@click.option("--resend-interval-s", default=60.0, show_default=True, help="Wait for acknowledgements of a pack.")
@click.option("--shuffle-answers", is_flag=True, help="Let answers overtake one another.")
@click.option("--max-inbound", default=4_194_304, show_default=True, help="Largest message taken, in bytes.")
@click.option("--view/--no-view", default=True, show_default=True, help="Live page, when this is a terminal.")
def cloud_sim(
    host: str,
    grpc_port: int,
    http_port: int,
    no_http: bool,
    routing_key: str,
    routing_secret: str,
    version: str | None,
    flavour: str,
    cloud_type: str,
    widgets: int,
    faults: tuple[str, ...],
    ack_within_s: float,
    customer: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    rtt_ms: float,
    keep_values: int,
    devices: tuple[str, ...],
    resend_interval_s: float,
    shuffle_answers: bool,
    max_inbound: int,
    view: bool,
) -> None:
    """The click command; `gateway.cli` only has to add it."""
    try:
        options = CloudSimOptions(
            host=host,
            grpc_port=grpc_port,
            http_port=None if no_http else http_port,
            routing_key=routing_key,
            routing_secret=routing_secret,
            version=version or ("3.7" if flavour == Flavour.WINSTAR else "4.3"),
            flavour=Flavour(flavour),
            cloud_type=cloud_type,
            widgets=widgets,
            faults=tuple(parse_fault(text) for text in faults),
            ack_within_s=ack_within_s,
            customer=CustomerKind(customer),
            tls_cert=tls_cert,
            tls_key=tls_key,
            rtt_ms=rtt_ms,
            keep_values=keep_values,
            show_view=view,
            devices=tuple(parse_device(text) for text in devices) or CloudSimOptions().devices,
            resend_interval_s=resend_interval_s,
            shuffle_answers=shuffle_answers,
            max_inbound=max_inbound,
        )
        run_cloud_sim(options)
    except ConfigError as error:
        click.echo(f"cloud-sim: {error}", err=True)
        raise SystemExit(EXIT_CONFIG) from None
    except TransientError as error:
        click.echo(f"cloud-sim: {error}", err=True)
        raise SystemExit(1) from None
