"""Where foreign masters may come in, as the configuration names it."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from gateway.config import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOOPBACK = ("127.0.0.0/8", "::1/128")


class Place(Settings):
    """A TCP port for masters. Modbus knows no password: who may come in is told by the address."""

    listen: Annotated[str, Field(min_length=1, description="`port` (then on 127.0.0.1) or `address:port`.")]
    framing: Literal["tcp", "rtu_over_tcp"] = "tcp"
    allow: tuple[str, ...] = Field(
        (), description="Addresses or networks of masters, 10.0.0.0/24; needed unless it listens on loopback."
    )
    max_connections: Annotated[int, Field(ge=1, le=64)] = 16
    idle_timeout_s: PositiveFloat = Field(300.0, description="A connection without any request is closed.")
    frame_timeout_s: PositiveFloat = Field(5.0, description="A request is whole, and its answer taken, in this time.")

    @field_validator("listen", mode="before")
    @classmethod
    def _as_text(cls, listen: Any) -> Any:
        return str(listen) if isinstance(listen, int) and not isinstance(listen, bool) else listen

    @field_validator("listen")
    @classmethod
    def _is_place(cls, listen: str) -> str:
        split_place(listen)
        return listen

    @field_validator("allow")
    @classmethod
    def _are_networks(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for text in allow:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise ValueError(f"{text!r} is no address or network such as 192.168.1.7 or 192.168.1.0/24") from None
        return allow

    @model_validator(mode="after")
    def _somebody_is_named(self) -> Place:
        if not self.allow and not _is_loopback(self.host):
            raise ValueError(
                f"listen {self.listen} can be reached from elsewhere, and Modbus knows no password: say who may come "
                "in, allow: [192.168.1.7]"
            )
        return self

    @property
    def host(self) -> str:
        """The address to bind to."""
        return split_place(self.listen)[0]

    @property
    def port(self) -> int:
        """The port to bind to; 0: any."""
        return split_place(self.listen)[1]

    @property
    def networks(self) -> tuple[Network, ...]:
        """Who may come in."""
        return tuple(ipaddress.ip_network(text, strict=False) for text in self.allow or _LOOPBACK)


class SlavePort(Settings):
    """A serial port on which we are a slave."""

    device: Annotated[str, Field(min_length=1, description="Path; /dev/serial/by-id stays the same for an adapter.")]
    baud: PositiveInt = 9600
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    gap_ms: NonNegativeFloat | None = Field(
        None, description="Silence before our answer; default: 3.5 characters, 1.75 ms from 19200 baud on."
    )
    local_echo: bool = Field(False, description="The adapter hears what it sends itself.")


def split_place(text: str) -> tuple[str, int]:
    """Address and port; `[::1]:502` for IPv6.

    Raises:
        ValueError: Not a place; the text says what is.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    try:
        ipaddress.ip_address(host)
        if not port.isdecimal() or not 0 <= int(port) <= 65535:
            raise ValueError(port)
    except ValueError:
        raise ValueError(f"{text!r} is no place; say 1502, 127.0.0.1:1502, 0.0.0.0:502 or [::1]:1502") from None
    return host, int(port)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
