"""The machine: folder, store, clock, ports, certificates."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gateway.cloud.tls import Expiry, file_expiries, pem_expiry
from gateway.config import BrokerConfig, GatewayConfig, HttpConfig, SqliteStore
from gateway.doctor.findings import Finding, ok, problem, warning
from gateway.store.look import StoreLook

_FREE_BYTES: Final = 64 << 20
_SANE_MS: Final = 1_577_836_800_000  # 2020-01-01: before it no clock has been set
_SYNCED: Final = Path("/run/systemd/timesync/synchronized")


def state_folder(config: GatewayConfig) -> list[Finding]:
    """There, writable, and with room for what the store may use."""
    folder = config.state_dir
    nearest = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        remedy = "make it a folder that the service's user may write, or set data_dir; or run this command as root"
        return [problem("state folder", f"{nearest} cannot be written by this user", remedy)]
    if nearest != folder and not folder.exists():
        found = [ok("state folder", f"{folder} does not exist yet; `run` makes it")]
    else:
        found = [ok("state folder", f"{folder} can be written")]
    free = shutil.disk_usage(nearest).free
    if free < _FREE_BYTES:
        found.append(problem("disk", f"{_mb(free)} are free", "make room: the store cannot grow"))
    elif isinstance(config.store, SqliteStore) and config.store.max_bytes is not None:
        path = config.store.path or folder / "gateway.db"
        left = config.store.max_bytes - (path.stat().st_size if path.is_file() else 0)
        if free < left:
            remedy = "lower store.max_bytes below what is free, or make room"
            found.append(warning("disk", f"{_mb(free)} are free, the store may still grow by {_mb(left)}", remedy))
        else:
            found.append(ok("disk", f"{_mb(free)} are free, the store may still grow by {_mb(max(0, left))}"))
    else:
        found.append(ok("disk", f"{_mb(free)} are free"))
    return found


def store(seen: StoreLook, max_bytes: int | None, *, is_running: bool) -> list[Finding]:
    """Who has it, what waits in it."""
    if seen.problem:
        remedy = "see its owner and rights; the log of `run` says more"
        return [problem("store", f"{seen.where}: {seen.problem}", remedy)]
    if not seen.is_there:
        return [ok("store", f"{seen.where}: empty; `run` makes it")]
    found = []
    if seen.is_held and not is_running:
        remedy = "it has another data_dir or api.socket than this configuration: name its file with -c"
        found.append(warning("store", f"{seen.where} is in use by a gateway that does not answer here", remedy))
    else:
        who = "in use by the service" if seen.is_held else "free"
        found.append(ok("store", f"{seen.where}: {who}, {_mb(seen.size_bytes)}"))
    if max_bytes is not None and seen.size_bytes > 0.9 * max_bytes:
        remedy = "connect the cloud, or raise store.max_bytes"
        found.append(warning("store", f"{seen.size_bytes * 100 // max_bytes} % of store.max_bytes are used", remedy))
    if seen.parked:
        remedy = "edge-gateway events --status parked shows why"
        found.append(warning("queue", f"{seen.pending} events wait, {seen.parked} are parked", remedy))
    elif (seen.pending or 0) > 5000:
        found.append(warning("queue", f"{seen.pending} events wait for the cloud", "see the cloud's lines below"))
    else:
        found.append(ok("queue", f"{seen.pending} events wait for the cloud"))
    return found


def clock(now_ms: int) -> list[Finding]:
    """Is it set at all, and does anybody keep it right?"""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now_ms < _SANE_MS:
        remedy = "set it, or let NTP: readings get wrong times and TLS refuses every certificate"
        return [problem("clock", f"{text}: never set", remedy)]
    if _SYNCED.exists():
        return [ok("clock", f"{text}, kept by NTP (systemd-timesyncd)")]
    return [ok("clock", f"{text}; whether NTP keeps it right cannot be seen here: timedatectl tells")]


def listeners(broker: BrokerConfig, mqtt: Mapping[str, Any] | None) -> list[Finding]:
    """The MQTT ports: ours, free, or somebody else's. `mqtt` is what the running service says of them."""
    if not broker.enabled:
        return []
    names = ("port", "tls_port", "websocket_port", "websocket_tls_port")
    return _listeners("broker", broker.host, {name: getattr(broker, name) for name in names}, mqtt)


def http_listeners(http: HttpConfig, said: Mapping[str, Any] | None) -> list[Finding]:
    """The same for HTTP; nothing when it is off."""
    return _listeners("http", http.host, {"port": http.port, "tls_port": http.tls_port}, said)


def _listeners(
    section: str, host: str, ports: Mapping[str, int | None], said: Mapping[str, Any] | None
) -> list[Finding]:
    found = []
    for name, port in ports.items():
        if port is None:
            continue
        key, where = f"{section}.{name}", f"port {port}"
        remedy = f"stop the program that has it (ss -ltnp), or set {key}"
        if said is not None and said.get("listening", True):
            found.append(ok(where, f"{key}: the service listens, {said.get('connections', 0)} connections"))
        elif said is not None:
            found.append(problem(where, f"{key}: the service cannot listen there", remedy))
        else:
            found.append(_try_port(where, key, host, port, remedy))
    return found


def _try_port(where: str, key: str, host: str, port: int, remedy: str) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return problem(where, f"{key}: another program has it", remedy)
            if error.errno == errno.EACCES:
                return warning(where, f"{key}: this user may not open it", "the service may; or take one above 1023")
            return problem(where, f"{key}: {host}: {error.strerror}", f"correct {key.partition('.')[0]}.host")
    return ok(where, f"{key}: free")


def certificates(config: GatewayConfig, now_ms: int) -> list[Finding]:
    """When the named files end. Whether they fit together is part of the configuration's check."""
    broker = config.broker
    named = (
        ("broker.tls_cert", broker.tls_cert),
        ("broker.tls_client_ca", broker.tls_client_ca),
        ("http.tls_cert", config.http.tls_cert),
    )
    found = [pem_expiry(name, path) for name, path in named if path is not None]
    expiries = [one for one in found if one is not None] + file_expiries(config.cloud)
    return [expiring(one, now_ms) for one in expiries]


def expiring(expiry: Expiry, now_ms: int) -> Finding:
    """Warned of for 30 days, a problem on the last one."""
    days, where = expiry.days_left(now_ms), f"certificate {expiry.name}"
    day = f"{datetime.fromtimestamp(expiry.not_after_ms / 1000, UTC):%Y-%m-%d}"
    if days < 0:
        return problem(where, f"expired on {day}", "put a new one in its place; if it is not: is the clock right?")
    if days < 1:
        return problem(where, f"expires within a day ({day})", "put a new one in its place today")
    if days < 30:
        when = "this week" if days < 7 else "soon"
        return warning(where, f"expires in {days} days ({day})", f"put a new one in its place {when}")
    return ok(where, f"valid until {day}, {days} days")


def _mb(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MB"
