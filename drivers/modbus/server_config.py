"""What the gateway as a Modbus server looks like in the configuration file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from drivers.modbus.listening import Place, SlavePort
from drivers.modbus.point import TEXTS
from drivers.modbus.registers import Layout, Order, Table, Type, encode, merge, truth, truths
from gateway.config import Settings
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.ports import GATEWAY_VALUES

_NUMBERS = frozenset(Type) - {Type.BOOL, Type.BIT, Type.BITS, *TEXTS}
_PARTS = (Type.BIT, Type.FIELD)
_Name = Annotated[str, Field(min_length=1, max_length=255)]


class ServedPoint(Settings):
    """One value that masters see: where it lies, what it shows, and what becomes of what they write."""

    table: Table
    address: Annotated[int, Field(ge=0, le=65535, description="Zero-based, as in the PDU: 40001 of a manual is 0.")]
    type: Type
    count: PositiveInt = Field(1, le=125, description="Registers of a string or `hex`, bits of `bits`.")
    bit: Annotated[int, Field(ge=0, le=15)] | None = Field(None, description="0 is the least significant.")
    width: Annotated[int, Field(ge=1, le=16)] | None = Field(None, description="Bits of a `field`, from `bit` on.")
    byte_order: Order | None = Field(None, description="Instead of the unit's; the only one that a string heeds.")
    word_order: Order | None = Field(None, description="Instead of the unit's.")
    scale: float = Field(1.0, allow_inf_nan=False, description="Value = register * scale + offset.")
    offset: float = Field(0.0, allow_inf_nan=False)
    gateway: str | None = Field(None, description="A value of the gateway itself, or:")
    device: _Name | None = Field(None, description="the last value of a device,")
    key: _Name | None = Field(None, description="under this key,")
    source: Literal["telemetry", "client_attribute", "shared_attribute", "server_attribute"] = "telemetry"
    max_age_s: PositiveFloat | None = Field(None, description="An older value is not good.")
    bad_value: bool | int | float | str | None = Field(
        None, description="Read when there is no good value; default: exception 4."
    )
    writable: bool = Field(False, description="Masters may write it.")
    write_to: Literal["telemetry", "attribute", "tag"] | None = Field(
        None, description="tag: a writable tag of a device on a bus."
    )

    @model_validator(mode="after")
    def _fits(self) -> ServedPoint:
        kind, table = self.type, self.table
        where = f"{table} {self.address}"
        if table.is_bits and kind not in (Type.BOOL, Type.BITS):
            raise ValueError(f"{where}: it is type bool, or bits for several; {kind} needs registers")
        if not table.is_bits and kind is Type.BOOL:
            raise ValueError(f"{where}: for one bit of a register say type: bit and bit: 0..15")
        if (kind in _PARTS) != (self.bit is not None):
            raise ValueError(f"{where}: type {kind if kind in _PARTS else 'bit'} and `bit: 0..15` belong together")
        if (kind is Type.FIELD) != (self.width is not None) or (self.bit or 0) + (self.width or 1) > 16:
            raise ValueError(f"{where}: type field has `bit` and `width`, together at most 16")
        if self.count != 1 and kind not in (Type.BITS, *TEXTS):
            raise ValueError(f"{where}: count is for string, hex and bits; {kind} has its own size")
        if self.scale == 0:
            raise ValueError(f"{where}: scale must not be 0")
        if kind not in _NUMBERS and (self.scale != 1 or self.offset != 0):
            raise ValueError(f"{where}: scale and offset are for numbers, not for {kind}")
        if self.address + self.span > 65536:
            raise ValueError(f"{where}: ends behind address 65535")
        self._check_source(where)
        self._check_writing(where)
        return self

    def _check_source(self, where: str) -> None:
        if (self.gateway is None) == (self.device is None) or (self.device is None) != (self.key is None):
            raise ValueError(f"{where}: say what it shows: `gateway: <value>`, or `device` and `key`")
        if self.gateway is not None and self.gateway not in GATEWAY_VALUES:
            raise ValueError(f"{where}: no gateway value {self.gateway!r}; there are {', '.join(GATEWAY_VALUES)}")

    def _check_writing(self, where: str) -> None:
        if self.writable != (self.write_to is not None):
            raise ValueError(f"{where}: `writable: true` and `write_to: telemetry | attribute | tag` belong together")
        if self.writable and not self.table.is_writable:
            raise ValueError(f"{where}: only coil and holding_register can be written")
        if self.writable and (self.device is None or self.type in _PARTS):
            raise ValueError(f"{where}: a value of the gateway, or a part of a register, cannot be written")

    @property
    def span(self) -> int:
        """Registers or bits that it takes."""
        return self.count if self.table.is_bits else Layout(type=self.type, count=self.count).words

    def content(self, value: Value, layout: Layout) -> list[int]:
        """The registers or bits that show a value.

        Raises:
            RejectedError: It does not fit.
        """
        if self.table.is_bits:
            held = truths(value, self.count) if self.type is Type.BITS else [truth(value)]
            return [int(bit) for bit in held]
        if isinstance(value, bool) and self.type in _NUMBERS:
            value = int(value)
        if self.type in (Type.BITS, *_PARTS):
            return merge([0] * layout.words, value, layout)
        return encode(value, layout)


class ServedUnit(Settings):
    """One unit id, with a table of its own."""

    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    byte_order: Order = Order.BIG
    word_order: Order = Order.BIG
    points: Annotated[tuple[ServedPoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_overlap(self) -> ServedUnit:
        taken: dict[tuple[Table, int], int] = {}  # the bits
        for point in self.points:
            bits = 0xFFFF if point.bit is None else ((1 << (point.width or 1)) - 1) << point.bit
            for address in range(point.address, point.address + point.span):
                place = (point.table, address)
                if taken.get(place, 0) & bits:
                    raise ValueError(f"unit {self.unit_id}: two points at {point.table} {address}")
                taken[place] = taken.get(place, 0) | bits
            if point.bad_value is not None:
                try:
                    point.content(point.bad_value, self.layout(point))
                except RejectedError as error:
                    raise ValueError(f"{point.table} {point.address}: bad_value: {error}") from None
        return self

    def layout(self, point: ServedPoint) -> Layout:
        """How a point of this unit lies in its registers."""
        is_text = point.type in (*TEXTS, Type.INT8, Type.UINT8)  # as in a device
        return Layout(
            type=point.type,
            byte_order=point.byte_order or (Order.BIG if is_text else self.byte_order),
            word_order=point.word_order or (Order.BIG if is_text or point.type is Type.BITS else self.word_order),
            count=point.count,
            bit=point.bit or 0,
            width=point.width or 1,
            scale=point.scale,
            offset=point.offset,
        )


class ServedDevice(Settings):
    """A device that masters speak for, where its profile is not `default`."""

    name: _Name
    profile: Annotated[str, Field(min_length=1)] = "default"
    label: str | None = None


class ModbusServerConfig(Settings):
    """The gateway as a Modbus slave: over TCP (`tcp`), or on a serial port (`serial`)."""

    kind: Literal["modbus"] = "modbus"
    name: Annotated[str, Field(min_length=1, max_length=64)] = "modbus-server"
    tcp: Place | None = None
    serial: SlavePort | None = None
    answer_timeout_s: PositiveFloat = Field(
        5.0, description="A write that is not durable, or not confirmed, by then is answered with exception 6."
    )
    devices: tuple[ServedDevice, ...] = ()
    units: Annotated[tuple[ServedUnit, ...], Field(min_length=1)]

    @field_validator("units")
    @classmethod
    def _unique_units(cls, units: tuple[ServedUnit, ...]) -> tuple[ServedUnit, ...]:
        ids = [unit.unit_id for unit in units]
        for unit_id in ids:
            if ids.count(unit_id) > 1:
                raise ValueError(f"unit {unit_id} stands twice")
        return units

    @model_validator(mode="after")
    def _one_way_in(self) -> ModbusServerConfig:
        if (self.tcp is None) == (self.serial is None):
            raise ValueError("needs one way in: `tcp: {listen: 127.0.0.1:1502}`, or `serial: {device: /dev/…}`")
        if self.serial is not None:
            for unit in self.units:
                if not 1 <= unit.unit_id <= 247:
                    raise ValueError(f"unit {unit.unit_id}: a slave on a serial line is 1 to 247")
        return self
