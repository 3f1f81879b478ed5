"""Finds the drivers and validates their configuration."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from gateway.config import parse_config
from gateway.errors import ConfigError
from gateway.ports import DriverDevice, DriverPlugin

GROUP: Final = "gateway.drivers"
"""Entry points of this group name a `DriverPlugin` each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusEntry:
    """One validated entry of `buses`."""

    name: str
    plugin: DriverPlugin
    config: BaseModel
    devices: Sequence[DriverDevice]


class Plugins:
    """The installed drivers by kind; a driver is imported when a bus asks for it."""

    def __init__(self, known: Mapping[str, DriverPlugin] | None = None) -> None:
        self._loaded: dict[str, DriverPlugin] = dict(known or {})
        self._points: dict[str, EntryPoint] = {}
        if known is None:
            self._points = {point.name: point for point in entry_points(group=GROUP)}

    @property
    def kinds(self) -> list[str]:
        """What may stand after `kind:`."""
        return sorted({*self._loaded, *self._points})

    def get(self, kind: object, where: str) -> DriverPlugin:
        """The driver of one kind.

        Raises:
            ConfigError: Unknown kind, or a driver that cannot be imported.
        """
        known = f"known kinds: {', '.join(self.kinds) or 'none'}"
        if kind is None:
            raise ConfigError(f"{where}.kind", f"is missing; {known}")
        if not isinstance(kind, str) or kind not in self.kinds:
            raise ConfigError(f"{where}.kind", f"no driver of kind {kind!r}; {known}")
        if kind not in self._loaded:
            try:
                plugin = self._points[kind].load()
            except ImportError as error:
                raise ConfigError(f"{where}.kind", f"the driver {kind!r} cannot be loaded: {error}") from error
            if not isinstance(plugin, DriverPlugin):
                raise ConfigError(f"{where}.kind", f"entry point {kind!r} of {GROUP} is not a DriverPlugin")
            self._loaded[kind] = plugin
        return self._loaded[kind]


def line_of(plugin: DriverPlugin, config: BaseModel) -> str | None:
    """The physical line that a bus will own: `host:port`, or the real path of a device file; None: nobody can tell.

    Two names of one adapter (`/dev/serial/by-id/…`, `/dev/ttyUSB0`) are one line, as far as the links exist now.
    """
    if plugin.line is not None:
        line = plugin.line(config)
        return os.path.realpath(line) if line is not None and line.startswith("/") else line
    for part in (getattr(config, "line", None), config):
        device, host, port = (getattr(part, name, None) for name in ("device", "host", "port"))
        if isinstance(device, str | Path) and str(device).startswith("/"):
            return os.path.realpath(device)
        if isinstance(port, str) and port.startswith("/"):
            return os.path.realpath(port)
        if isinstance(host, str) and isinstance(port, int):
            return f"{_address(host)}:{port}"
    return None


def _address(host: str) -> str:
    """One form of each address. Names are not looked up: that would need a network at the start."""
    host = host.lower().rstrip(".").removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def parse_buses(buses: Sequence[Mapping[str, Any]], plugins: Plugins, folder: Path | None = None) -> list[BusEntry]:
    """Validate the whole section; `folder` is that of the configuration file.

    Raises:
        ConfigError: The path of the first wrong key, and what would be right.
    """
    entries: list[BusEntry] = []
    owner: dict[str, str] = {}
    lines: dict[str, str] = {}
    for index, tree in enumerate(buses):
        where = f"buses[{index}]"
        plugin = plugins.get(tree.get("kind"), where)
        config = parse_config(plugin.config, dict(tree), where=where, folder=folder)
        name = str(getattr(config, "name", plugin.kind))
        if any(entry.name == name for entry in entries):
            raise ConfigError(f"{where}.name", f"a bus named {name!r} exists already; give each bus its own name")
        devices = tuple(plugin.devices(config))
        for device in devices:
            if device.name in owner:
                raise ConfigError(
                    f"{where}.devices",
                    f"device {device.name!r} is on bus {owner[device.name]!r} already; names are unique on a gateway",
                )
            owner[device.name] = name
        line = line_of(plugin, config)
        if line is not None:
            if line in lines:
                raise ConfigError(
                    where,
                    f"the line {line} belongs to bus {lines[line]!r} already, and a line has one master;"
                    f" put the devices of {name!r} under that bus",
                )
            lines[line] = name
        entries.append(BusEntry(name=name, plugin=plugin, config=config, devices=devices))
    return entries
