"""`edge-gateway status`: asks the running gateway over its socket and shows one screen."""

from __future__ import annotations

import http.client
import json
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

PENDING_HEALTHY: Final = 1000
PENDING_WARNING: Final = 5000
LAG_HEALTHY_S: Final = 5.0
LAG_WARNING_S: Final = 30.0
HOURS_WARNING: Final = 6.0
SALVAGE_TOLD_S: Final = 7 * 86_400.0
REFUSED_SHOWN: Final = 3


class LocalApiError(Exception):
    """The gateway did not answer on its socket."""


class NotRunning(LocalApiError):
    """Nobody listens there: no gateway runs with this configuration."""


class Answered(LocalApiError):
    """A gateway is there, and says no."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float = 10) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(socket_path: Path, path: str, body: Any = None) -> Any:
    """GET, or POST of a JSON `body`; parsed JSON.

    Raises:
        LocalApiError: Not running, no rights, or an error answer; the text says which.
    """
    connection = _UnixConnection(socket_path, 10 if body is None else 40)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        answer = json.loads(response.read())
    except PermissionError:
        raise LocalApiError(f"no rights for {socket_path}: try as root or as a member of its group") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunning(f"no gateway answers on {socket_path}; is it running, with this configuration?") from None
    except (OSError, ValueError) as error:
        raise LocalApiError(f"{socket_path}: {error}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise Answered(answer.get("error", f"HTTP {response.status}"))
    return answer


def is_healthy(status: dict[str, Any]) -> bool:
    """No warning of `judge`."""
    return not judge(status)


def judge(status: dict[str, Any]) -> list[str]:
    """What a person should look at; empty when all is well."""
    remarks = []
    queue = status["queue"]
    cloud = status.get("cloud")
    if queue["pending"] > PENDING_WARNING:
        remarks.append(f"{queue['pending']} events wait for the cloud")
    if (queue["lag_s"] or 0) > LAG_WARNING_S:
        remarks.append(f"the oldest waiting event is {queue['lag_s']:.0f} s old")
    if queue["parked"]:
        remarks.append(
            f"{queue['parked']} events are parked: edge-gateway events --status parked; then resend or discard"
        )
    if cloud and cloud["state"] != "ready":
        remarks.append(f"the cloud link is {cloud['state']}: {cloud.get('last_error') or 'connecting'}")
    if not status.get("mqtt", {}).get("listening", True):
        remarks.append("no MQTT device can connect: the log says why the gateway does not listen")
    if not status.get("http", {}).get("listening", True):
        remarks.append("no HTTP device can connect: the log says why the gateway does not listen")
    if (status.get("uplink") or {}).get("main", {}).get("is_paused"):
        remarks.append("the cloud limits the rate: nothing is sent for a while (cloud.rate_limit_pause_s)")
    if external := status.get("external_broker"):
        if not external["connected"]:
            remarks.append(f"the external broker is not connected: {external.get('error') or 'connecting'}")
        remarks += [f"the external broker refuses the subscription {name!r}" for name in external["refused_filters"]]
    for bus in status.get("buses", []):
        if not bus.get("connected", True):
            remarks.append(f"bus {bus['name']} is not connected")
    for place in status.get("servers", []):
        if not place["is_open"]:
            remarks.append(f"{place['name']}: no master can come in: the log says why")
    if queue.get("problem"):
        remarks.append(f"the store cannot be read: {queue['problem']}")
    if status["store"].get("problem"):
        remarks.append(f"the store does not take everything: {status['store']['problem']}")
    elif status["store"]["oldest_waiting_s"] > 5 + status["store"].get("commit_every_s", 0):
        remarks.append(f"the store has not answered for {status['store']['oldest_waiting_s']:.0f} s")
    forecast = status.get("forecast") or {}
    is_filling = queue["pending"] > PENDING_HEALTHY  # what is confirmed makes room by itself
    if is_filling and (hours := forecast.get("hours_left")) is not None and hours < HOURS_WARNING:
        remarks.append(f"the store is full in {hours:.1f} hours at the present rate")
    if (salvage := status.get("salvage")) and time.time() - salvage["time"] / 1000 < SALVAGE_TOLD_S:
        lost = ", ".join(f"about {count} of {table}" for table, count in salvage["lost"].items())
        remarks.append(
            f"the store was damaged ({salvage['why']}); lost: {lost or 'nothing'}; kept: {salvage['kept_as']}"
        )
    if no_room := (status.get("counters") or {}).get("rules.attributes_no_room"):
        remarks.append(
            f"{no_room} attributes were not kept here (they went to the cloud): a device invents keys without end?"
        )
    remarks += [
        f"device {name!r} was deleted in the cloud, or is no longer assigned to this edge: its data is not taken"
        for name in status.get("removed_devices", ())
    ]
    if names := status.get("untaken_devices"):
        remarks.append(
            f"{len(names)} devices that were announced to the cloud did not come with its last two syncs, such as"
            f" {names[0]!r}: what they say may be lost there. Is the tenant's quota of devices used up? They were"
            " announced again"
        )
    remarks += [f"firmware and software: {problem}" for problem in (status.get("ota") or {}).get("problems", ())]
    remarks += [f"rule problem: {problem}" for problem in status["rules"]["problems"]]
    return remarks


def render(status: dict[str, Any]) -> None:
    """One screen."""
    from rich.console import Console
    from rich.table import Table

    # A name may contain "[/]"; a line stays one, so that it can be searched for.
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    queue, cloud = status["queue"], status.get("cloud")
    state = f"{cloud['state']}" + (f" as {cloud['edge']!r}" if cloud and cloud.get("edge") else "") if cloud else "off"
    console.print(f"edge-gateway {status['version']}, up {status['uptime_s']} s, {status['memory_bytes'] >> 20} MB")
    console.print(f"cloud    {state}")
    if cloud and cloud.get("last_error"):
        console.print(f"         last error ({cloud.get('layer') or 'edge protocol'}): {cloud['last_error']}")
    for certificate in cloud["certificates"] if cloud and cloud.get("certificates") else ():
        days = certificate["days_left"]
        end = datetime.fromtimestamp(certificate["not_after_ms"] / 1000, UTC)
        left = f"{days} days left" if days >= 0 else "EXPIRED"
        console.print(f"         certificate {certificate['name']} until {end:%Y-%m-%d} ({left})")
    for line in _refused(cloud.get("refused_downlinks") or {}) if cloud else ():
        console.print(f"         {line}")
    if queue["lag_s"] is None:
        console.print(f"queue    {queue['pending']} pending")
    else:
        console.print(f"queue    {queue['pending']} pending, {queue['parked']} parked, lag {queue['lag_s']:.1f} s")
    if queue.get("acked") is not None:
        console.print(
            f"         {queue['accepted']} accepted so far: {queue['acked']} acked by the cloud,"
            f" {queue['pending'] + queue['pending_express']} pending, {queue['parked']} parked,"
            f" {queue['discarded']} discarded"
        )
    console.print(f"store    {_outlook(status.get('forecast') or {})}")
    console.print(f"mqtt     port {status['mqtt']['port']}, {status['mqtt']['connections']} connections")
    if problem := status["mqtt"].get("tls_problem"):
        console.print(f"         {problem}", style="red", markup=False)
    if (http := status.get("http")) is not None:
        ports = ", ".join(f"port {port}" for port in (http.get("port"), http.get("tls_port")) if port is not None)
        console.print(f"http     {ports}, {http.get('connections', 0)} connections")
        if problem := http.get("tls_problem"):
            console.print(f"         {problem}", style="red", markup=False)
    for bus in status.get("buses", []):
        console.print(
            f"bus      {bus['name']} ({bus['kind']}): {'connected' if bus.get('connected') else 'not connected'}"
            + _points(bus)
        )
        for point in bus.get("not_good", ()):
            age = "" if point["age_s"] is None else f", last good value {point['age_s']:.0f} s ago"
            console.print(f"         {point['device']}.{point['key']} is {point['quality']}: {point['reason']}{age}")
    for place in status.get("servers", []):
        where = place.get("listen") or place.get("device")
        counts = place["counts"]
        console.print(
            f"masters  {place['name']} on {where}: {counts.get('requests', 0)} requests,"
            f" {counts.get('exceptions', 0)} exceptions, {counts.get('refused', 0)} connections refused",
            markup=False,
        )
    for name, part in (("mapping", status["mqtt"].get("mappings")), ("outside", status.get("external_broker"))):
        if part:
            console.print(f"{name:8} {part['devices']} devices open")
            for problem in part["problems"][-1:]:
                console.print(f"         newest problem: {problem['topic']}: {problem['reason']}")
    for chain in status["rules"]["chains"]:
        console.print(f"rules    {_short(chain)}")
    table = Table("device", "profile", "from", "online", "readings since it connected")
    for device in status["devices"][:50]:
        online, readings = ("yes", str(device["readings"])) if device["is_online"] else ("-", "-")
        table.add_row(device["name"], device["profile"], device["origin"].lower(), online, readings)
    console.print(table)
    if len(status["devices"]) > 50:
        console.print(f"… and {len(status['devices']) - 50} devices more")
    for remark in judge(status):
        console.print(f"! {remark}", style="yellow")


def _refused(refused: dict[str, Any]) -> list[str]:
    """What the cloud sent and could not be applied: how much, and the last few."""
    if not refused.get("count"):
        return []
    lines = [f"{refused['count']} messages of the cloud could not be applied; the last:"]
    for one in refused["last"][-REFUSED_SHOWN:]:
        at = datetime.fromtimestamp(one["at_ms"] / 1000, UTC)
        text = "".join(char if char.isprintable() else " " for char in f"{one['what']}: {one['reason']}")
        lines.append(f"{at:%Y-%m-%d %H:%M:%SZ} {text}")
    return lines


def _points(bus: dict[str, Any]) -> str:
    counts = bus.get("points")
    if not counts or not any(counts.values()):
        return ""
    missed = f", {bus['late_merged']} turns missed" if bus.get("late_merged") else ""
    return (
        f", {counts['good']} points good, {counts['stale']} stale, {counts['bad']} bad,"
        f" line {bus['utilisation']:.0%} busy{missed}"
    )


def _outlook(forecast: dict[str, Any]) -> str:
    if forecast.get("used_bytes") is None:
        return "not measured yet"
    parts = [f"{forecast['used_bytes'] / 1e6:.1f} of {forecast['limit_bytes'] / 1e6:.0f} MB"]
    if forecast["event_bytes"]:
        parts.append(f"{forecast['event_bytes']} bytes an event")
    if forecast["hours_left"] is not None:
        parts.append(f"full in {forecast['hours_left']:.1f} h at this rate")
    if forecast["drain_s"]:
        parts.append(f"drained in {forecast['drain_s']} s")
    return ", ".join(parts)


def _short(chain: dict[str, Any]) -> str:
    failures = sum(node.get("failures", 0) for node in chain.get("nodes", []))
    root = ", root" if chain["root"] else ""
    failed = f", {failures} failures" if failures else ""
    return f"{chain['name']!r} ({chain['source']}{root}), {len(chain.get('nodes', []))} nodes{failed}"
