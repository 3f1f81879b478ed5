"""All buses of the gateway, each with a life of its own."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from gateway.errors import RefusedError, RejectedError, TransientError
from gateway.fieldbus.bus import Bus
from gateway.fieldbus.plugins import BusEntry, Plugins, parse_buses
from gateway.ports import Clock, DeviceInlet, DriverDevice, DriverPlugin
from gateway.supervise import Backoff, Counters, supervise

log = logging.getLogger(__name__)

_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9_-]")


class Fieldbus:
    """The room. `buses` is the section of the configuration file; `plugins` replaces the installed drivers.
    `folder` is that of the file: drivers find there what their configuration names.

    Raises:
        ConfigError: From the constructor: a bus that cannot be used, with its path in the file.
    """

    name = "fieldbus"

    def __init__(
        self,
        buses: Sequence[Mapping[str, Any]],
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
        *,
        plugins: Mapping[str, DriverPlugin] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._clock, self._counters = clock, counters
        self.entries: Sequence[BusEntry] = parse_buses(buses, Plugins(plugins), folder)
        self._devices = [device for entry in self.entries for device in entry.devices]
        self._buses = [Bus(entry, inlet, clock, counters) for entry in self.entries]
        self._bus_of = {device.name: bus for bus in self._buses for device in bus.entry.devices}

    def devices(self) -> Sequence[DriverDevice]:
        """Who is on all buses, as far as the configuration knows; before `serve` too."""
        return self._devices

    @property
    def buses(self) -> Sequence[Bus]:
        """All of them."""
        return self._buses

    def bus_of(self, device: str) -> Bus | None:
        """Where a device is; None: on no bus, as far as the configuration knows."""
        return self._bus_of.get(device)

    async def serve(self) -> None:
        """Run every bus until cancelled; returns at once when there is none."""
        async with asyncio.TaskGroup() as tasks:
            for bus in self._buses:
                tasks.create_task(
                    supervise(f"bus {bus.name}", self._fenced(bus), Backoff(1.0, 60.0), self._clock),
                    name=f"bus {bus.name}",
                )

    def status(self) -> list[dict[str, Any]]:
        """One entry a bus, for a person and for metrics."""
        return [bus.status() for bus in self._buses]

    def points(
        self, bus: str | None = None, device: str | None = None, quality: str | None = None, limit: int = 1000
    ) -> dict[str, Any]:
        """The points that fit, at most `limit`: quality, last good value and its age, achieved period, misses."""
        rows = (
            {"bus": each.name, **row}
            for each in self._buses
            if bus is None or each.name == bus
            for row in each.overview.points(device, quality)
        )
        found = list(islice(rows, limit + 1))
        return {"points": found[:limit], "more": len(found) > limit}

    def bus(self, name: str) -> Bus:
        """The bus of this name, for calls.

        Raises:
            RejectedError: There is none; the text names those that exist.
        """
        for each in self._buses:
            if each.name == name:
                return each
        names = ", ".join(bus.name for bus in self._buses) or "none"
        raise RejectedError(f"no bus is named {name!r}; the buses are: {names}")

    def gauges(self) -> dict[str, float]:
        """For metrics: of each bus, and never of each point."""
        gauges: dict[str, float] = {}
        for bus in self._buses:
            label = f'{{bus="{_NOT_PLAIN.sub("_", bus.name)}"}}'
            gauges[f"fieldbus.utilisation{label}"] = bus.utilisation
            gauges[f"fieldbus.calls_waiting{label}"] = bus.calls_waiting
            for quality, count in bus.overview.tally().items():
                gauges[f"fieldbus.points_{quality}{label}"] = count
        return gauges

    def _fenced(self, bus: Bus) -> Any:
        async def serve() -> None:
            try:
                await bus.serve()
            except (TransientError, RefusedError):
                raise
            except RejectedError as error:
                raise RefusedError(str(error)) from error
            except Exception as error:
                # A driver is foreign code: its bug ends its own bus, never the devices of another one.
                self._counters.add("fieldbus.driver_bugs")
                log.exception("bus %s: a bug in its driver", bus.name)
                raise RefusedError(f"its driver failed: {error!r}") from error

        return serve
