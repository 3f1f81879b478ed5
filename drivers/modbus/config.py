"""What a Modbus bus looks like in the configuration file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from drivers.modbus.grouping import MAX_BITS, MAX_REGISTERS
from drivers.modbus.lines import Line, OverTcpLine, SerialSettings, TcpLine, TlsLine, UdpLine
from drivers.modbus.registers import Layout, Order, Table, Type
from gateway.config import Settings
from gateway.ports import Report

MAX_WRITE_REGISTERS = 123
MAX_WRITE_COILS = 1968
"""Quantities of one write request. Source: Modbus Application Protocol V1.1b3 §6.11, §6.12."""

_SIZED = (Type.BITS, Type.STRING)
_NUMBERS = tuple(kind for kind in Type if kind not in (Type.BOOL, Type.BIT, *_SIZED))


class Point(Settings):
    """One value of one device: where it lies and what it means."""

    key: Annotated[str, Field(min_length=1, max_length=255)]
    table: Table
    address: Annotated[int, Field(ge=0, le=65535, description="Zero-based, as in the PDU: 40001 of a manual is 0.")]
    type: Type
    count: PositiveInt = Field(1, description="Registers of a string, bits of `bits`.")
    bit: Annotated[int, Field(ge=0, le=15)] | None = Field(None, description="0 is the least significant.")
    byte_order: Order | None = Field(None, description="Instead of the device's; the only one that a string heeds.")
    word_order: Order | None = Field(None, description="Instead of the device's.")
    scale: float = Field(1.0, allow_inf_nan=False, description="Value = register * scale + offset.")
    offset: float = Field(0.0, allow_inf_nan=False)
    round: Annotated[int, Field(ge=0, le=15)] | None = Field(None, description="Decimals kept.")
    writable: bool = Field(False, description="May be written by RPC and by shared attributes.")
    every_ms: PositiveInt | None = Field(None, description="Instead of the device's.")
    report: Report | None = Field(None, description="Which readings are worth a message; instead of the device's.")

    @field_validator("scale")
    @classmethod
    def _not_zero(cls, scale: float) -> float:
        if scale == 0:
            raise ValueError("must not be 0")
        return scale

    @model_validator(mode="after")
    def _fits(self) -> Point:
        kind, table = self.type, self.table
        if table.is_bits and kind not in (Type.BOOL, Type.BITS):
            raise ValueError(f"{self.key!r}: {table} is type bool, or bits for several; {kind} needs registers")
        if not table.is_bits and kind is Type.BOOL:
            raise ValueError(f"{self.key!r}: for one bit of a register say type: bit and bit: 0..15")
        if (kind is Type.BIT) != (self.bit is not None):
            raise ValueError(f"{self.key!r}: type bit and `bit: 0..15` belong together")
        if self.count != 1 and kind not in _SIZED:
            raise ValueError(f"{self.key!r}: count is for string and bits; {kind} has its own size")
        if kind not in _NUMBERS and (self.scale != 1 or self.offset != 0 or self.round is not None):
            raise ValueError(f"{self.key!r}: scale, offset and round are for numbers, not for {kind}")
        if self.writable and not table.is_writable:
            raise ValueError(f"{self.key!r}: {table} cannot be written; only coil and holding_register can")
        self._check_size()
        return self

    def _check_size(self) -> None:
        limit = MAX_BITS if self.table.is_bits else MAX_REGISTERS
        write_limit = MAX_WRITE_COILS if self.table.is_bits else MAX_WRITE_REGISTERS
        noun = "coils" if self.table.is_bits else "registers"
        if self.span > limit:
            raise ValueError(f"{self.key!r}: {self.span} {noun}; one request carries at most {limit}")
        if self.writable and self.span > write_limit:
            raise ValueError(f"{self.key!r}: {self.span} {noun}; one write carries at most {write_limit}")
        if self.address + self.span > 65536:
            raise ValueError(f"{self.key!r}: ends behind address 65535")

    @property
    def span(self) -> int:
        """Registers or bits that it takes on the wire."""
        if self.table.is_bits:
            return self.count
        return Layout(type=self.type, count=self.count).words


class ModbusDevice(Settings):
    """One logical device. Several may share a unit id: their points then travel together."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    profile: Annotated[str, Field(min_length=1)] = "default"
    label: str | None = None
    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    every_ms: PositiveInt = 1000
    report: Report | None = Field(None, description="Default: every reading.")
    byte_order: Order = Order.BIG
    word_order: Order = Order.BIG
    telemetry: tuple[Point, ...] = ()
    attributes: tuple[Point, ...] = ()

    @model_validator(mode="after")
    def _unique_keys(self) -> ModbusDevice:
        seen: set[str] = set()
        for point in (*self.telemetry, *self.attributes):
            if point.key in seen:
                raise ValueError(
                    f"{self.name!r} has two points with the key {point.key!r}; keys are unique in a device"
                )
            seen.add(point.key)
        if not seen:
            raise ValueError(f"{self.name!r} has no points; give it telemetry or attributes")
        return self

    def layout(self, point: Point) -> Layout:
        """How a point of this device is to be read."""
        is_text = point.type is Type.STRING
        return Layout(
            type=point.type,
            byte_order=point.byte_order or (Order.BIG if is_text else self.byte_order),
            word_order=point.word_order or (Order.BIG if is_text or point.type is Type.BITS else self.word_order),
            count=point.count,
            bit=point.bit or 0,
            scale=point.scale,
            offset=point.offset,
            decimals=point.round,
        )


class ModbusConfig(Settings):
    """One Modbus wire and the devices behind it: `host` (and `port`) for Modbus TCP, `line` for every other kind."""

    kind: Literal["modbus"] = "modbus"
    name: Annotated[str, Field(min_length=1, max_length=64)] = "modbus"
    host: Annotated[str, Field(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 502
    line: Line | None = Field(None, description="Instead of host and port.")
    timeout_s: PositiveFloat = Field(1.0, description="For a connection, and for each answer.")
    max_gap_registers: Annotated[int, Field(ge=0, le=124)] = Field(
        8, description="Registers between two points that are read along rather than asked around."
    )
    max_gap_bits: Annotated[int, Field(ge=0, le=1999)] = 64
    max_registers: Annotated[int, Field(ge=1, le=MAX_REGISTERS)] = Field(
        MAX_REGISTERS, description="For devices that cannot answer the protocol's 125 at once."
    )
    devices: Annotated[tuple[ModbusDevice, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_wire(self) -> ModbusConfig:
        if self.host is None and self.line is None:
            raise ValueError("no wire; say `host: <name>` for Modbus TCP, or `line: {kind: rtu, device: /dev/…}`")
        if self.line is not None and (self.host is not None or "port" in self.model_fields_set):
            raise ValueError("host and port belong into `line` when there is one")
        return self

    @property
    def wire(self) -> TcpLine | UdpLine | TlsLine | OverTcpLine | SerialSettings:
        """How the units are reached."""
        return self.line or TcpLine(host=self.host or "", port=self.port)

    @field_validator("devices")
    @classmethod
    def _unique_names(cls, devices: tuple[ModbusDevice, ...]) -> tuple[ModbusDevice, ...]:
        seen: set[str] = set()
        for device in devices:
            if device.name in seen:
                raise ValueError(f"two devices are named {device.name!r}; names are unique on a gateway")
            seen.add(device.name)
        return devices
