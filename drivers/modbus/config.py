"""What a Modbus bus looks like in the configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from drivers.modbus.grouping import MAX_BITS, MAX_REGISTERS
from drivers.modbus.lines import Line, OverTcpLine, SerialSettings, TcpLine, TlsLine, UdpLine
from drivers.modbus.point import TEXTS, Point
from drivers.modbus.registers import Layout, Order, Type
from drivers.modbus.share import Share
from drivers.modbus.templates import TemplateUse, expand, find, line_settings, load
from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.ports import Report

_Address = Annotated[int, Field(ge=0, le=65535)]


class ModbusDevice(TemplateUse):
    """One logical device. Several may share a unit id: their points then travel together."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    profile: Annotated[str, Field(min_length=1)] = "default"
    label: str | None = None
    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    every_ms: PositiveInt = 1000
    report: Report | None = Field(None, description="Default: every reading.")
    byte_order: Order = Order.BIG
    word_order: Order = Order.BIG
    rpc_addresses: Literal["none", "read", "write"] = Field(
        "read", description="What `get` and `set` may do with a place instead of a key (type=16int;functionCode=3;…)."
    )
    max_registers: Annotated[int, Field(ge=1, le=MAX_REGISTERS)] | None = Field(
        None, description="The longest request for it, where it is known; else it is found out."
    )
    max_bits: Annotated[int, Field(ge=1, le=MAX_BITS)] | None = None
    holes: tuple[tuple[_Address, _Address], ...] = Field(
        (), description="First and last address of what no request of its unit may read across, in any table."
    )
    telemetry: tuple[Point, ...] = ()
    attributes: tuple[Point, ...] = ()
    on_demand: tuple[Point, ...] = Field((), description="Read and written by calls alone.")

    @model_validator(mode="before")
    @classmethod
    def _from_template(cls, tree: Any, info: ValidationInfo) -> Any:
        is_used = isinstance(tree, Mapping) and isinstance(tree.get("template"), str)
        return expand(tree, _folder(info)) if is_used else tree

    @field_validator("template")
    @classmethod
    def _exists(cls, template: str | None, info: ValidationInfo) -> str | None:
        if template is not None:
            try:
                load(find(template, _folder(info)))
            except ConfigError as error:
                raise ValueError(f"the template cannot be used: {error}") from None
        return template

    @model_validator(mode="after")
    def _needs_template(self) -> ModbusDevice:
        said = [key for key in ("groups", "leave_out", "prefix") if key in self.model_fields_set]
        if said and self.template is None:
            raise ValueError(f"{self.name!r}: {' and '.join(said)} change a template; say `template: <name>` as well")
        return self

    @model_validator(mode="after")
    def _outside_of_holes(self) -> ModbusDevice:
        for first, last in self.holes:
            if first > last:
                raise ValueError(f"{self.name!r}: the hole [{first}, {last}] ends before it begins")
            for point in (*self.telemetry, *self.attributes, *self.on_demand):
                if point.address <= last and point.address + point.span > first:
                    raise ValueError(f"{self.name!r}: {point.key!r} lies in the hole [{first}, {last}]")
        return self

    @model_validator(mode="after")
    def _unique_keys(self) -> ModbusDevice:
        seen: set[str] = set()
        for point in (*self.telemetry, *self.attributes, *self.on_demand):
            if point.key in seen:
                raise ValueError(
                    f"{self.name!r} has two points with the key {point.key!r}; keys are unique in a device"
                )
            seen.add(point.key)
        if not seen:
            raise ValueError(f"{self.name!r} has no points; give it telemetry, attributes or a template")
        return self

    def layout(self, point: Point) -> Layout:
        """How a point of this device is to be read."""
        is_text = point.type in (*TEXTS, Type.INT8, Type.UINT8)  # the order of a device is that of its numbers
        return Layout(
            type=point.type,
            byte_order=point.byte_order or (Order.BIG if is_text else self.byte_order),
            word_order=point.word_order or (Order.BIG if is_text or point.type is Type.BITS else self.word_order),
            count=point.count,
            bit=point.bit or 0,
            scale=point.scale,
            offset=point.offset,
            decimals=point.round,
            width=point.width or 1,
            encoding=point.encoding,
            plausible=point.plausible,
            nulls=point.nulls,
            write_word_order=point.write_word_order,
        )


def _folder(info: ValidationInfo) -> Path | None:
    """Of the configuration file."""
    folder = (info.context or {}).get("folder")
    return folder if isinstance(folder, Path) else None


class ModbusConfig(Settings):
    """One Modbus wire and the devices behind it: `host` (and `port`) for Modbus TCP, `line` for every other kind."""

    kind: Literal["modbus"] = "modbus"
    name: Annotated[str, Field(min_length=1, max_length=64)] = "modbus"
    host: Annotated[str, Field(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 502
    line: Line | None = Field(None, description="Instead of host and port.")
    share: Share | None = Field(None, description="Other masters may ask on this line too (docs/modbus-server.md).")
    timeout_s: PositiveFloat = Field(1.0, description="For a connection, and for each answer.")
    max_gap_registers: Annotated[int, Field(ge=0, le=124)] | None = Field(
        None,
        description="Registers between two points that are read along rather than asked around; default: as many as "
        "cost less than a second request on this line.",
    )
    max_gap_bits: Annotated[int, Field(ge=0, le=1999)] | None = None
    max_registers: Annotated[int, Field(ge=1, le=MAX_REGISTERS)] = Field(
        MAX_REGISTERS, description="For devices that cannot answer the protocol's 125 at once."
    )
    max_bits: Annotated[int, Field(ge=1, le=MAX_BITS)] = MAX_BITS
    devices: Annotated[tuple[ModbusDevice, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _line_of_templates(cls, tree: Any, info: ValidationInfo) -> Any:
        """What the templates say of a serial port, where `line` does not."""
        line = tree.get("line") if isinstance(tree, Mapping) else None
        if not isinstance(line, Mapping) or line.get("kind") not in ("rtu", "ascii"):
            return tree
        more = line_settings(tree.get("devices"), _folder(info), said=line)
        return {**tree, "line": {**line, **more}}

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
