"""The way to the cloud, one layer after the other, and whether it knows us at the end of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.cloud.diagnosis import layers, server_certificate
from gateway.cloud.tls import Expiry, common_names, not_after_ms
from gateway.config import CloudConfig
from gateway.devices import State
from gateway.doctor.box import expiring
from gateway.doctor.findings import Finding, Level, ok, problem, warning
from gateway.errors import RefusedError, RejectedError, TransientError
from gateway.ports import Clock, Snapshot


async def findings(
    config: CloudConfig, status: Mapping[str, Any] | None, clock: Clock, *, may_connect: bool
) -> list[Finding]:
    """`status` is what the running service says, None when none runs; only then, and if it may, it connects."""
    if not config.enabled:
        return [ok("cloud", "off (cloud.enabled: false)")]
    link = (status or {}).get("cloud")
    if link is not None and link["state"] == "ready":
        text = f"the service is connected to {link['server']} as {link['edge']!r}"
        ends = [Expiry(one["name"], one["not_after_ms"]) for one in link.get("certificates", ())]
        server = [expiring(one, clock.now_ms()) for one in ends if one.name == "server"]
        return [ok("cloud", text), *server]
    found = await _layers(config, clock)
    is_open = found[-1].level < Level.PROBLEM
    if link is not None:
        text = f"the service is {link['state']}: {link.get('last_error') or 'no answer yet'}"
        return [*found, problem("cloud credentials", text, _remedy(str(link.get("last_error"))))] if is_open else found
    if not config.routing_key.get_secret_value() or not config.routing_secret.get_secret_value():
        remedy = "set cloud.routing_key and cloud.routing_secret (or their files, or the systemd credentials)"
        return [*found, problem("cloud credentials", "there are none", remedy)]
    if not is_open:
        return found
    if not may_connect:
        text = "not tried: a gateway may be connected under this key, and would be evicted"
        return [*found, warning("cloud credentials", text, "ask the running service: edge-gateway status")]
    return [*found, *await _introduce(config, clock)]


async def _layers(config: CloudConfig, clock: Clock) -> list[Finding]:
    found = []
    for layer in await layers(config):
        where = f"cloud {layer.name}"
        if layer.is_ok:
            found.append(ok(where, layer.text))
            continue
        text, _, remedy = layer.text.removeprefix(f"{layer.name}: ").partition("; ")
        found.append(problem(where, text, remedy or _remedy(text)))
    if not config.ssl_enabled or not any(one.where == "cloud TLS" for one in found):
        return found
    der = await server_certificate(config)
    try:
        subject, issuer = common_names(der or b"")
        expiry = expiring(Expiry("of the server", not_after_ms(der or b"")), clock.now_ms())
    except RejectedError:
        return found
    text = f"{subject!r}, issued by {issuer!r}, {expiry.text}"
    place = next(index for index, one in enumerate(found) if one.where == "cloud TLS")
    found.insert(place, Finding(expiry.level, "cloud certificate", text, expiry.remedy))
    return found


async def _introduce(config: CloudConfig, clock: Clock) -> list[Finding]:
    from gateway.cloud.visit import visit  # gRPC: only when it comes so far

    began_s = clock.monotonic_s()
    try:
        verdict = await visit(config, State(Snapshot()), clock)
    except RefusedError as error:
        return [problem("cloud credentials", str(error), _remedy(str(error)))]
    except TransientError as error:
        return [problem("cloud service", str(error), _remedy(str(error)))]
    took_ms = (clock.monotonic_s() - began_s) * 1000
    who = verdict.identity
    return [
        ok("cloud credentials", f"accepted as the edge {who.name!r} ({who.edge_id}) in {took_ms:.0f} ms"),
        ok(
            "cloud release",
            f"edition {who.cloud_type}; we announce {config.edge_version};"
            f" messages up to {verdict.max_message_bytes} bytes",
        ),
    ]


def _remedy(text: str) -> str:
    for sign, remedy in (
        ("certificate expired", "renew it on the server; if it is not expired, this machine's clock is wrong"),
        ("it cannot reach", "cloud.host and cloud.port, as the proxy sees them"),
        ("no HTTP proxy", "set cloud.proxy_host and cloud.proxy_port to an HTTP proxy (not SOCKS), or leave them out"),
        ("client certificate", "set cloud.ssl_client_cert and cloud.ssl_client_key to a pair that the server accepts"),
        ("edition", "connect to a ThingsBoard Community Edition (3.7 to 4.3)"),
        ("another gateway", "give each gateway an edge of its own in the cloud"),
        ("UNIMPLEMENTED", "set cloud.port to the server's edge port: 7070, or what its EDGES_RPC_PORT says"),
        ("no verdict", "is it the edge port? the server's log says why it does not answer"),
        ("not available", "try again later: the server is starting, or its edge service is off"),
        ("unavailable", "try again later: the server is starting, or its edge service is off"),
        ("routing key", "copy key and secret from the page of this edge in the cloud: Edge instances, details"),
    ):
        if sign in text:
            return remedy
    return "the server's log says more"
