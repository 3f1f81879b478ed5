"""Foreign masters in: field bus → drivers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydantic import BaseModel

from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.ports.clock import Clock
from gateway.ports.drivers import DriverDevice

Tally = Callable[[str], None]
"""Counts one of what the text names; names are fixed in the code."""


class Server(Protocol):
    """A place where foreign masters come in. Made by a driver, kept going by fieldbus."""

    async def serve(self) -> None:
        """Take in masters until cancelled. TransientError: the place cannot be opened now; RefusedError: a person must
        act.
        """
        ...

    def status(self) -> Mapping[str, Json]:
        """For a person: `is_open`, and `listen` or `device`, which is the place; more as the driver likes."""
        ...


@dataclass(frozen=True, slots=True)
class LastValue:
    """What is known of one value: how old it is, and why it is not good (None: it is); then it may be anything."""

    value: Value
    age_s: float
    problem: str | None = None


class Served(Protocol):
    """What a server may ask of the house. Implemented by fieldbus; answers from memory."""

    def gateway(self, name: str) -> Value | None:
        """A value of the gateway itself (`GATEWAY_VALUES`); None: not known now."""
        ...

    def telemetry(self, device: str, key: str) -> LastValue | None:
        """The last one of a device: of a bus as it was read, else as the store has it. None: there is none."""
        ...

    def attribute(self, device: str, scope: str, key: str) -> LastValue | None:
        """None: there is none."""
        ...

    async def post(self, device: str, telemetry: Mapping[str, Value], attributes: Mapping[str, Value]) -> None:
        """Into the rules, as if the device had sent it; returns when it is durable.

        Raises:
            RejectedError: No such device, or it can never be durable.
        """
        ...

    async def write(self, device: str, key: str, value: Value, timeout_s: float) -> None:
        """To a tag of a bus; returns when the device has confirmed.

        Raises:
            RejectedError: No such tag, or the device refused; FullError: too many calls wait for its bus;
                TransientError: no answer, the value may have arrived; BusLost: nobody on the bus can be reached.
        """
        ...


GATEWAY_VALUES: Final = (
    "uptime_s",
    "heartbeat",
    "time_s",
    "cloud_state",
    "cloud_connected",
    "pending",
    "pending_express",
    "parked",
    "devices",
    "connected_devices",
)
"""What a server can show of the gateway itself. `heartbeat` counts seconds, modulo 65536; `cloud_state`: 0 off, 1 not
connected, 2 connected."""


@dataclass(frozen=True, slots=True)
class ServerPlugin:
    """How a driver takes in masters that ask the gateway itself."""

    config: type[BaseModel]
    open: Callable[[Any, Served, Clock, Tally], Server]
    devices: Callable[[Any], Sequence[DriverDevice]]
    """Those that masters speak for; the gateway creates them when they do not exist yet."""
    keys: Callable[[Any], Iterable[tuple[str, str]]]
    """Device and key of all telemetry that it shows, so that it is held ready."""
    tags: Callable[[Any], Iterable[tuple[str, str]]]
    """Device and key of all tags of buses that it writes."""
    line: Callable[[Any], str | None]
    """The physical line that it owns, as in `DriverPlugin`; None: it only listens."""


class LatestValues(Protocol):
    """The latest telemetry of chosen devices, held ready. Implemented by devices."""

    def want(self, keys: Iterable[tuple[str, str]]) -> None:
        """Device and key of what is to be held ready."""
        ...

    def value(self, device: str, key: str) -> tuple[int, Value] | None:
        """Time (UTC epoch, milliseconds) and value, once durable; None: there is none, or nobody wanted it."""
        ...

    async def refresh(self) -> None:
        """Now and then: devices that exist since now. TransientError: the store cannot be read."""
        ...
