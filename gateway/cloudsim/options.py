"""What a simulated cloud is asked to be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from gateway.domain.entity import Json
from gateway.errors import ConfigError

VERSIONS: Final = ("3.7", "3.8", "3.9", "4.0", "4.1", "4.2", "4.3")
MAX_WIDGETS: Final = 100_000
_VERSION = re.compile(r"(\d+)\.(\d+)(\.\d+)*")


class Flavour(StrEnum):
    """Whose server it is; the protocol is one."""

    THINGSBOARD = "thingsboard"
    WINSTAR = "winstar"  #: WinstarCloud: release 3.7, and rule node types begin with `org.winstarcloud.`

    @property
    def brand(self) -> str:
        """What the types of rule nodes begin with."""
        return "org.winstarcloud." if self is Flavour.WINSTAR else "org.thingsboard."


class CustomerKind(StrEnum):
    """What the edge's configuration says about its customer; the first two both mean that there is none."""

    NONE = "none"  #: both halves of the id are 0
    NULL = "null"  #: the id of "no customer", `NULL_UUID`
    REAL = "real"  #: a customer that exists and is part of the sync


@dataclass(frozen=True, slots=True, kw_only=True)
class SimDevice:
    """A device that is assigned to the edge from the start. An empty token: one is made up."""

    name: str
    profile: str = "default"
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSimOptions:
    """Everything about a simulated cloud. Port 0 takes a free one; `http_port` None: no HTTP API."""

    host: str = "127.0.0.1"
    grpc_port: int = 0
    http_port: int | None = 0
    routing_key: str = "demo-edge"
    routing_secret: str = field(default="demo-secret", repr=False)
    version: str = "4.3"
    flavour: Flavour = Flavour.THINGSBOARD
    cloud_type: str = "CE"
    """An edge refuses every other than CE."""
    customer: CustomerKind = CustomerKind.NONE
    widgets: int = 3
    """Widget types of the system tenant: a real server has hundreds, each one a message of a full sync."""
    faults: tuple[tuple[str, Json], ...] = ()
    """Names and values of `FaultSettings`, in force from the start."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    rtt_ms: float = 0.0
    """Added to every answer and downlink as latency; throughput is not limited by it."""
    keep_values: int = 100
    """Telemetry values kept for each key of an entity, besides the latest one. Counts are always exact."""
    show_view: bool = False
    devices: tuple[SimDevice, ...] = (SimDevice(name="Thermostat A"), SimDevice(name="Valve B"))
    resend_interval_s: float = 60.0
    """How long a pack waits for its acknowledgements before it is sent again."""
    ack_within_s: float = 10.0
    """A downlink that is not acknowledged by then is a violation."""
    poll_s: float = 1.0
    """Delay between a connect and the first look at the event queue, when no sync is asked for."""
    shuffle_answers: bool = False
    max_inbound: int = 4_194_304
    """Bytes; enforced on the wire and announced in the connect answer."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ConfigError: With the option's name.
        """
        match = _VERSION.fullmatch(self.version)
        if match is None or f"{match[1]}.{match[2]}" not in VERSIONS:
            raise ConfigError("version", f"{self.version!r} is not simulated; use one of {', '.join(VERSIONS)}")
        if self.flavour is Flavour.WINSTAR and self.release != (3, 7):
            raise ConfigError("version", "WinstarCloud speaks 3.7 only")
        if not self.routing_key or not self.routing_secret:
            raise ConfigError("routing_key", "key and secret must not be empty")
        if self.widgets < 0 or self.widgets > MAX_WIDGETS:
            raise ConfigError("widgets", f"use a number from 0 to {MAX_WIDGETS}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert", "certificate and key are given together")
        if (
            self.rtt_ms < 0
            or self.keep_values < 0
            or self.resend_interval_s <= 0
            or self.poll_s < 0
            or self.ack_within_s <= 0
        ):
            raise ConfigError("rtt_ms", "times and counts must not be negative")

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor number, to compare with."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)
