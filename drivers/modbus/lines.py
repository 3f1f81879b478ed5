"""The wires that a Modbus bus can use, as the configuration names them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from gateway.config import Settings

_Host = Annotated[str, Field(min_length=1)]
_Port = Annotated[int, Field(ge=1, le=65535)]


class _Paced(Settings):
    gap_ms: NonNegativeFloat | None = Field(
        None, description="Silence before each question; default: 3.5 characters on a serial port, none elsewhere."
    )
    connect_pause_ms: NonNegativeFloat = Field(0.0, description="From opening to the first question.")


class _Networked(_Paced):
    host: _Host

    @property
    def place(self) -> str:
        """Where it is, as a person finds it."""
        return f"{self.host}:{getattr(self, 'port', '')}"


class _Identified(_Networked):
    """A line with transaction ids."""

    transaction_ids: Literal["strict", "ignore"] = Field(
        "strict", description="ignore: for a device that answers with other ids than it was asked with."
    )
    close_after_cycle: bool = Field(
        False,
        description="Leave the connection when nothing is asked, for devices that have one for all their masters.",
    )

    late_ms: PositiveFloat | None = Field(
        None,
        description="For a box with a serial line behind it that answers under the newest id whatever comes: how long "
        "after its timeout an answer may still come. Default: ids tell late answers apart.",
    )

    @model_validator(mode="after")
    def _one_at_a_time(self) -> Self:
        if self.late_ms is not None and getattr(self, "in_flight", 1) > 1:
            raise ValueError(
                "late_ms is for ids that tell nothing, and several questions in flight need them; in_flight: 1"
            )
        if self.transaction_ids == "ignore" and getattr(self, "in_flight", 1) > 1:
            raise ValueError("several questions in flight are told apart by transaction ids alone; say in_flight: 1")
        return self


class TcpLine(_Identified):
    """Modbus TCP."""

    kind: Literal["tcp"] = "tcp"
    port: _Port = 502
    in_flight: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Questions that may be open at a time; more than 1 only for devices that say they can."
    )


class UdpLine(_Identified):
    """The frames of Modbus TCP in datagrams."""

    kind: Literal["udp"]
    port: _Port = 502


class TlsLine(_Identified):
    """Modbus/TCP Security."""

    kind: Literal["tls"]
    port: _Port = 802
    in_flight: Annotated[int, Field(ge=1, le=64)] = 1
    ca_file: Path | None = Field(
        None, description="Who the device's certificate must be signed by; default: the system's."
    )
    cert_file: Path | None = Field(None, description="Our certificate, when the device asks for one.")
    key_file: Path | None = None
    server_name: str | None = Field(None, description="Name in the device's certificate, when it is not the host.")

    @model_validator(mode="after")
    def _pair(self) -> TlsLine:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        return self


class _Shared(_Paced):
    """A line without transaction ids."""

    turnaround_ms: NonNegativeFloat = Field(100.0, description="Left to the units after a write to all (unit 0).")
    late_ms: PositiveFloat | None = Field(
        None, description="How long after its timeout an answer may still come; default: twice the timeout."
    )


class OverTcpLine(_Shared):
    """Frames of a serial line through a device server."""

    kind: Literal["rtu_over_tcp", "ascii_over_tcp"]
    host: _Host
    port: _Port

    @property
    def place(self) -> str:
        """Where it is, as a person finds it."""
        return f"{self.host}:{self.port}"


class Rs485(Settings):
    """The kernel switches the direction; for UARTs whose driver can (not for USB adapters, which do it themselves)."""

    rts_on_send: bool = Field(True, description="Level of RTS while sending.")
    delay_before_send_ms: NonNegativeFloat = 0.0
    delay_after_send_ms: NonNegativeFloat = 0.0


class SerialSettings(_Shared):
    """A serial port. Modbus over Serial Line V1.02 §2.5.1: even parity, or none with two stop bits."""

    kind: Literal["rtu", "ascii"]
    device: Annotated[str, Field(min_length=1, description="Path; /dev/serial/by-id stays the same for an adapter.")]
    baud: PositiveInt = 9600
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    data_bits: Literal[7, 8] = 8
    rs485: Rs485 | None = None
    echo: bool = Field(False, description="The adapter hears what it sends (two wires, receiver always on).")

    @model_validator(mode="after")
    def _whole_bytes(self) -> SerialSettings:
        if self.kind == "rtu" and self.data_bits != 8:
            raise ValueError("rtu needs data_bits: 8")
        return self

    @property
    def place(self) -> str:
        """Where it is, as a person finds it."""
        return self.device

    @property
    def byte_s(self) -> float:
        """Seconds that one character takes."""
        return (1 + self.data_bits + (self.parity != "none") + self.stop_bits) / self.baud

    @property
    def gap_s(self) -> float:
        """Silence between frames. Modbus over Serial Line V1.02 §2.5.1.1: 1.75 ms from 19200 baud on."""
        if self.gap_ms is not None:
            return self.gap_ms / 1000
        if self.kind == "ascii":
            return 0.0
        return 0.00175 if self.baud > 19200 else 3.5 * self.byte_s


Line = Annotated[TcpLine | UdpLine | TlsLine | OverTcpLine | SerialSettings, Field(discriminator="kind")]
