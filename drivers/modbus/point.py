"""One point of a Modbus device in the configuration file: where it lies and what it means."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from drivers.modbus.grouping import MAX_BITS, MAX_REGISTERS
from drivers.modbus.registers import Layout, Order, Table, Type
from gateway.config import Settings
from gateway.ports import Report

MAX_WRITE_REGISTERS = 123
MAX_WRITE_COILS = 1968
"""Quantities of one write request. Source: Modbus Application Protocol V1.1b3 §6.11, §6.12."""

TEXTS = (Type.STRING, Type.HEX)
_SIZED = (Type.BITS, *TEXTS)
_NUMBERS = tuple(kind for kind in Type if kind not in (Type.BOOL, Type.BIT, *_SIZED))
_FLOATS = (Type.FLOAT16, Type.FLOAT32, Type.FLOAT64)


def _is_same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


class Point(Settings):
    """One value of one device: where it lies and what it means."""

    key: Annotated[str, Field(min_length=1, max_length=255)]
    table: Table
    address: Annotated[int, Field(ge=0, le=65535, description="Zero-based, as in the PDU: 40001 of a manual is 0.")]
    type: Type
    count: PositiveInt = Field(1, description="Registers of a string, bits of `bits`.")
    bit: Annotated[int, Field(ge=0, le=15)] | None = Field(None, description="0 is the least significant.")
    width: Annotated[int, Field(ge=1, le=16)] | None = Field(None, description="Bits of a `field`, from `bit` on.")
    encoding: Literal["utf-8", "ascii", "latin-1", "cp1252", "utf-16-be", "utf-16-le"] = Field(
        "utf-8", description="Of a string; what is not of it is shown as hexadecimal digits."
    )
    unit_id: Annotated[int, Field(ge=0, le=255)] | None = Field(None, description="Instead of the device's.")
    byte_order: Order | None = Field(
        None, description="Instead of the device's; the only one that a string, int8 and uint8 heed (little: low byte)."
    )
    write_word_order: Order | None = Field(None, description="Where words are written in another order than read.")
    word_order: Order | None = Field(None, description="Instead of the device's.")
    scale: float = Field(1.0, allow_inf_nan=False, description="Value = register * scale + offset.")
    offset: float = Field(0.0, allow_inf_nan=False)
    round: Annotated[int, Field(ge=0, le=15)] | None = Field(None, description="Decimals kept.")
    plausible: tuple[float, float] | None = Field(
        None, description="Least and most of what is believed; another value makes the point bad, and is not written."
    )
    null_values: tuple[Annotated[int, Field(ge=-(2**63), lt=2**64)], ...] = Field(
        (), description="Contents of its registers by which the device says that it has no value, such as 0x8000."
    )
    unit: str | None = Field(None, description="Unit of measure, for a person.")
    values: Annotated[dict[int, bool | int | float | str], Field(min_length=1)] | None = Field(
        None, description="What numbers of the register mean; one that is not named stays a number."
    )
    min: float | None = Field(None, allow_inf_nan=False, description="Less is not written.")
    max: float | None = Field(None, allow_inf_nan=False, description="More is not written.")
    step: PositiveFloat | None = Field(
        None, description="Written are only whole multiples of it, counted from `min` or 0."
    )
    write_function: Literal[5, 6, 15, 16, 22, 23] | None = Field(
        None, description="For devices that know but one way; else 5 or 15, 6 or 16, and 22 for bits of a register."
    )
    read_back: bool = Field(True, description="False for what can only be written: the answer is what was written.")
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
        if (kind in (Type.BIT, Type.FIELD)) != (self.bit is not None):
            raise ValueError(
                f"{self.key!r}: type {'field' if kind is Type.FIELD else 'bit'} and `bit: 0..15` belong together"
            )
        if (kind is Type.FIELD) != (self.width is not None) or (self.bit or 0) + (self.width or 1) > 16:
            raise ValueError(f"{self.key!r}: type field has `bit` and `width`, together at most 16")
        if self.count != 1 and kind not in _SIZED:
            raise ValueError(f"{self.key!r}: count is for string and bits; {kind} has its own size")
        if kind not in _NUMBERS and (self.scale != 1 or self.offset != 0 or self.round is not None):
            raise ValueError(f"{self.key!r}: scale, offset and round are for numbers, not for {kind}")
        if kind not in _NUMBERS and (self.plausible is not None or self.null_values):
            raise ValueError(f"{self.key!r}: plausible and null_values are for numbers, not for {kind}")
        if self.plausible is not None and not self.plausible[0] <= self.plausible[1]:
            raise ValueError(f"{self.key!r}: plausible is [least, most]")
        if self.encoding != "utf-8" and kind is not Type.STRING:
            raise ValueError(f"{self.key!r}: encoding is for type string, not for {kind}")
        self._check_values()
        self._check_writing()
        if self.writable and not table.is_writable:
            raise ValueError(f"{self.key!r}: {table} cannot be written; only coil and holding_register can")
        self._check_size()
        return self

    def _check_values(self) -> None:
        if self.values is not None:
            if self.type in (*_SIZED, *_FLOATS) or self.scale != 1 or self.offset != 0:
                raise ValueError(f"{self.key!r}: values are for whole numbers and bits, without scale and offset")
            names = list(self.values.values())
            if self.writable and any(_is_same(a, b) for at, a in enumerate(names) for b in names[:at]):
                raise ValueError(f"{self.key!r}: two numbers of values have one name; nobody could write it")
        if self.min is not None or self.max is not None:
            if not self.writable or self.type not in _NUMBERS:
                raise ValueError(f"{self.key!r}: min and max bound what is written to a writable number")
            if self.min is not None and self.max is not None and self.min > self.max:
                raise ValueError(f"{self.key!r}: min {self.min:g} is more than max {self.max:g}")

    def _check_writing(self) -> None:
        function = self.write_function
        if not self.writable and (function is not None or not self.read_back or self.step is not None):
            raise ValueError(f"{self.key!r}: write_function, read_back and step are for points with `writable: true`")
        if self.step is not None and self.type not in _NUMBERS:
            raise ValueError(f"{self.key!r}: step is for numbers, not for {self.type}")
        if function is None:
            return
        if (function in (5, 15)) != self.table.is_bits:
            right = "5 or 15" if self.table.is_bits else "6, 16, 22 or 23"
            raise ValueError(f"{self.key!r}: function {function} does not write a {self.table}; {right} does")
        if function == 22 and self.span > 1:
            raise ValueError(f"{self.key!r}: function 22 writes one register, and {self.type} takes {self.span}")
        if function == 23 and self.type in (Type.BIT, Type.BITS, Type.FIELD):
            raise ValueError(f"{self.key!r}: bits of a register are written by function 6, 16 or 22")

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
    def nulls(self) -> frozenset[int]:
        """`null_values` as its registers hold them: -1 is 0xFFFF in one of them."""
        bits = self.width or (8 if self.type in (Type.INT8, Type.UINT8) else 16 * self.span)
        return frozenset(value & (1 << bits) - 1 for value in self.null_values)

    @property
    def span(self) -> int:
        """Registers or bits that it takes on the wire."""
        if self.table.is_bits:
            return self.count
        return Layout(type=self.type, count=self.count).words
