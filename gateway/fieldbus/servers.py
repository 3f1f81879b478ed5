"""Where foreign masters come in: the gateway as a slave (`servers`), and the lines of buses that are shared."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel

from gateway.config import parse_config
from gateway.errors import ConfigError, RefusedError, TransientError
from gateway.fieldbus.house import House, SharedBus
from gateway.fieldbus.plugins import BusEntry, Plugins, line_of
from gateway.fieldbus.room import Fieldbus
from gateway.ports import Clock, DriverDevice, LatestValues, Server, ServerPlugin
from gateway.supervise import Backoff, Counters, supervise

log = logging.getLogger(__name__)

TEND_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEntry:
    """One validated entry of `servers`."""

    name: str
    kind: str
    plugin: ServerPlugin
    config: BaseModel
    devices: Sequence[DriverDevice]


def parse_servers(
    servers: Sequence[Mapping[str, Any]], plugins: Plugins, buses: Sequence[BusEntry]
) -> list[ServerEntry]:
    """Validate the whole section.

    Raises:
        ConfigError: The path of the first wrong key, and what would be right.
    """
    lines = {line_of(entry.plugin, entry.config): f"bus {entry.name!r}" for entry in buses}
    on_buses = {device.name for entry in buses for device in entry.devices}
    entries: list[ServerEntry] = []
    for index, tree in enumerate(servers):
        where = f"servers[{index}]"
        driver = plugins.get(tree.get("kind"), where)
        if driver.server is None:
            raise ConfigError(f"{where}.kind", f"{driver.kind} has no server; modbus has")
        config = parse_config(driver.server.config, dict(tree), where=where)
        name = str(getattr(config, "name", driver.kind))
        if any(entry.name == name for entry in entries):
            raise ConfigError(f"{where}.name", f"a server named {name!r} exists already; give each its own name")
        line = driver.server.line(config)
        if line is not None:
            if line in lines:
                raise ConfigError(where, f"the line {line} belongs to {lines[line]} already")
            lines[line] = f"server {name!r}"
        for device, key in driver.server.tags(config):
            if device not in on_buses:
                raise ConfigError(where, f"write_to: tag of {device}.{key}: no bus has a device {device!r}")
        entries.append(
            ServerEntry(
                name=name,
                kind=driver.kind,
                plugin=driver.server,
                config=config,
                devices=tuple(driver.server.devices(config)),
            )
        )
    return entries


@dataclass(slots=True)
class _Standing:
    name: str
    kind: str
    server: Server
    counts: dict[str, int]


class Servers:
    """The room's other half. `connect` gives it what masters of `servers` may see; lines are shared without it.

    Raises:
        ConfigError: From the constructor: a server that cannot be used, with its path in the file.
    """

    name = "servers"

    def __init__(
        self,
        servers: Sequence[Mapping[str, Any]],
        fieldbus: Fieldbus,
        clock: Clock,
        counters: Counters,
        plugins: Plugins | None = None,
    ) -> None:
        self._fieldbus, self._clock, self._counters = fieldbus, clock, counters
        self._entries = parse_servers(servers, plugins or Plugins(), fieldbus.entries)
        self._house: House | None = None
        self._latest: LatestValues | None = None
        self._standing: list[_Standing] = []
        for bus in fieldbus.buses:
            share = bus.entry.plugin.share
            if share is None:
                continue
            counts: dict[str, int] = {}
            tally = partial(self._count, "shares", counts)
            server = share(bus.entry.config, SharedBus(bus, clock), clock, tally)
            if server is not None:
                self._standing.append(_Standing(f"bus {bus.name}: share", bus.entry.plugin.kind, server, counts))

    def devices(self) -> list[DriverDevice]:
        """Whom masters speak for, as far as the configuration knows."""
        return [device for entry in self._entries for device in entry.devices]

    def keys(self) -> list[tuple[str, str]]:
        """Device and key of all telemetry that masters see."""
        return [pair for entry in self._entries for pair in entry.plugin.keys(entry.config)]

    @property
    def is_any(self) -> bool:
        """There is a server, or a bus that is shared."""
        return bool(self._entries or self._standing)

    def connect(self, house: House, latest: LatestValues) -> None:
        """Once, before `serve`."""
        self._house, self._latest = house, latest
        latest.want(self.keys())
        for entry in self._entries:
            counts: dict[str, int] = {}
            tally = partial(self._count, "servers", counts)
            self._standing.append(
                _Standing(entry.name, entry.kind, entry.plugin.open(entry.config, house, self._clock, tally), counts)
            )

    async def serve(self) -> None:
        """Take in masters until cancelled; returns at once when there is no place for any."""
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._house is not None and self._latest is not None:
                    tasks.create_task(self._tend(self._house, self._latest), name="servers: values")
                for each in self._standing:
                    tasks.create_task(
                        supervise(each.name, self._fenced(each), Backoff(1.0, 10.0), self._clock), name=each.name
                    )
        finally:
            if self._house is not None:
                self._house.close()

    def status(self) -> list[dict[str, Any]]:
        """One entry a place, for a person."""
        return [
            {"name": each.name, "kind": each.kind, **each.server.status(), "counts": dict(sorted(each.counts.items()))}
            for each in self._standing
        ]

    def _count(self, section: str, counts: dict[str, int], what: str) -> None:
        counts[what] = counts.get(what, 0) + 1
        self._counters.add(f"{section}.{what}")

    async def _tend(self, house: House, latest: LatestValues) -> None:
        """What is not overheard: devices that are new, events that are parked, masters that have left."""
        while True:
            try:
                await latest.refresh()
            except TransientError as error:
                log.debug("servers: %s", error)  # the store's outage has log lines of its own
            await house.refresh()
            house.close_idle()
            await self._clock.sleep(TEND_S)

    def _fenced(self, each: _Standing) -> Any:
        async def serve() -> None:
            try:
                await each.server.serve()
            except (TransientError, RefusedError):
                raise
            except Exception as error:
                # Foreign code: its bug ends its own place, never the buses.
                self._counters.add("servers.bugs")
                log.exception("%s: a bug in its driver", each.name)
                raise RefusedError(f"its driver failed: {error!r}") from error

        return serve
