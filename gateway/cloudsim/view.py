"""What a person sees of the simulator: a live page in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cloudsim.core import Cloud
from gateway.cloudsim.options import Flavour

_NAMES: Final = {Flavour.THINGSBOARD: "ThingsBoard", Flavour.WINSTAR: "WinstarCloud"}
_REFRESH_S: Final = 0.5
_LINE_S: Final = 5.0
_ROWS: Final = 20
_KEYS: Final = 4


def greeting(cloud: Cloud, grpc_port: int, http_port: int) -> str:
    """Where it listens, and how to point a gateway to it. The secret is the simulator's own."""
    options = cloud.options
    lines = [
        f"Simulated {_NAMES[options.flavour]} {options.version} cloud: a development tool, not for production.",
        f"  edge gRPC   {options.host}:{grpc_port}" + (" (TLS)" if options.tls_cert else ""),
    ]
    if options.http_port is not None:
        lines.append(f"  HTTP API    http://{options.host}:{http_port}/api/state (no login)")
    lines += [
        "Point a gateway to it:",
        f"  CLOUD_RPC_HOST={options.host} CLOUD_RPC_PORT={grpc_port} CLOUD_ROUTING_KEY={options.routing_key}"
        f" CLOUD_ROUTING_SECRET={options.routing_secret}",
        "Devices assigned to the edge, with their demo access tokens:",
    ]
    for device in cloud.world.of_type("DEVICE"):
        lines.append(f"  {device.name:<20} {cloud.world.credentials[device.id]['credentialsId']}")
    return "\n".join(lines)


async def show(cloud: Cloud, grpc_port: int, http_port: int, *, is_live: bool) -> None:
    """Until cancelled."""
    console = Console()
    console.print(greeting(cloud, grpc_port, http_port), highlight=False, markup=False, soft_wrap=True)
    rate = _Rate(cloud)
    if not is_live:
        while True:
            await asyncio.sleep(_LINE_S)
            console.print(status_line(cloud, rate.points_per_s()), highlight=False, markup=False, soft_wrap=True)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(page(cloud, rate.points_per_s()), refresh=True)
            await asyncio.sleep(_REFRESH_S)


class _Rate:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._points, self._at_s = cloud, cloud.arrivals.points, time.monotonic()

    def points_per_s(self) -> float:
        """Since the last look."""
        points, now_s = self._cloud.arrivals.points, time.monotonic()
        rate = max(0, points - self._points) / max(now_s - self._at_s, 1e-3)
        self._points, self._at_s = points, now_s
        return rate


def _edge_word(cloud: Cloud) -> str:
    if cloud.session is None:
        return "not connected"
    return "syncing" if cloud.session.is_syncing else "connected"


def status_line(cloud: Cloud, points_per_s: float) -> str:
    """Everything important in one line."""
    arrivals = cloud.arrivals
    return (
        f"edge {_edge_word(cloud)}; {len(cloud.world.of_type('DEVICE'))} devices; {arrivals.points} values"
        f" ({points_per_s:.0f}/s); duplicates {arrivals.duplicates}; out of order {arrivals.out_of_order};"
        f" unknown {cloud.count('dropped_unknown')}; failures {cloud.count('uplink_failures')};"
        f" violations {cloud.violations.total}"
    )


def page(cloud: Cloud, points_per_s: float) -> Group:
    """The live page."""
    devices = sorted(cloud.world.of_type("DEVICE"), key=lambda device: -device.last_activity_ms)
    table = Table("device", "profile", "values", "last values", title="Devices", title_justify="left", expand=True)
    for device in devices[:_ROWS]:
        latest = list(device.series.latest.items())[:_KEYS]
        values = ", ".join(f"{key}={value}" for key, (_, value) in latest)
        table.add_row(Text(device.name), Text(str(device.json.get("type"))), str(device.series.points), Text(values))
    if len(devices) > _ROWS:
        table.caption = f"and {len(devices) - _ROWS} more"
    calls = Table("device", "method", "result", title="Last calls", title_justify="left", expand=True)
    for record in list(cloud.rpc_calls.recent)[-5:]:
        calls.add_row(Text(record.device), Text(record.method), Text(record.result))
    wrong = Text("\n".join(cloud.violations.texts[-5:]))
    return Group(Text(status_line(cloud, points_per_s)), table, calls, wrong)
