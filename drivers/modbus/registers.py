"""Words ⇄ values. Pure: no wire, no configuration file, no clock.

A register is an integer 0..65535 as it stands in the PDU (high byte first on the wire). `byte_order` says how the
two bytes of one register are to be read, `word_order` which register of a value comes first.

Source of the byte order: Modbus Application Protocol V1.1b3 §4.2; the word order is vendor practice.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, cast

from drivers.modbus.packed import field_of, from_bcd, plausible, put, to_bcd
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError


class Table(StrEnum):
    """The four tables of a unit; addresses are zero-based, as in the PDU."""

    COIL = "coil"
    DISCRETE_INPUT = "discrete_input"
    INPUT_REGISTER = "input_register"
    HOLDING_REGISTER = "holding_register"

    @property
    def is_bits(self) -> bool:
        """True for the tables of single bits."""
        return self in (Table.COIL, Table.DISCRETE_INPUT)

    @property
    def is_writable(self) -> bool:
        """True for the tables that Modbus can write."""
        return self in (Table.COIL, Table.HOLDING_REGISTER)


class Order(StrEnum):
    """Which end comes first."""

    BIG = "big"
    LITTLE = "little"


class Type(StrEnum):
    """What the bits mean."""

    BOOL = "bool"  #: one coil or discrete input
    BIT = "bit"  #: one bit of a register, 0 the least significant
    INT8 = "int8"  #: one byte of a register: the first one, with `byte_order: little` the second
    UINT8 = "uint8"
    FIELD = "field"  #: several bits of a register as a number
    BITS = "bits"  #: a list: coils in address order, or bits of registers from the least significant
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BCD16 = "bcd16"  #: four decimal digits
    BCD32 = "bcd32"  #: eight
    STRING = "string"  #: two characters a register
    HEX = "hex"  #: bytes as hexadecimal digits, two bytes a register


INT64_MAX: Final = 2**63 - 1
_FORMATS: Final = {
    Type.INT8: struct.Struct(">bx"),
    Type.UINT8: struct.Struct(">Bx"),
    Type.INT16: struct.Struct(">h"),
    Type.INT32: struct.Struct(">i"),
    Type.INT64: struct.Struct(">q"),
    Type.UINT16: struct.Struct(">H"),
    Type.UINT32: struct.Struct(">I"),
    Type.UINT64: struct.Struct(">Q"),
    Type.FLOAT16: struct.Struct(">e"),
    Type.FLOAT32: struct.Struct(">f"),
    Type.FLOAT64: struct.Struct(">d"),
    Type.BCD16: struct.Struct(">H"),
    Type.BCD32: struct.Struct(">I"),
}
_BCD: Final = frozenset({Type.BCD16, Type.BCD32})
_FLOATS: Final = frozenset({Type.FLOAT16, Type.FLOAT32, Type.FLOAT64})
_RANGES: Final = {
    Type.INT8: (-(2**7), 2**7 - 1),
    Type.UINT8: (0, 2**8 - 1),
    Type.INT16: (-(2**15), 2**15 - 1),
    Type.INT32: (-(2**31), 2**31 - 1),
    Type.INT64: (-(2**63), INT64_MAX),
    Type.UINT16: (0, 2**16 - 1),
    Type.UINT32: (0, 2**32 - 1),
    Type.UINT64: (0, INT64_MAX),  # a telemetry value is an int64
    Type.BCD16: (0, 9999),
    Type.BCD32: (0, 99_999_999),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one value lies in its registers.

    `count` is the number of registers of a string, the number of bits of `bits`, and 1 otherwise; a `field` has `width`
    bits from `bit` on. The engineering value is `raw * scale + offset`, rounded to `decimals` when given, and has to be
    within `plausible`. `nulls`: contents of its registers, unsigned, in its orders, that mean that there is no value.
    """

    type: Type
    byte_order: Order = Order.BIG
    word_order: Order = Order.BIG
    count: int = 1
    bit: int = 0
    scale: float = 1.0
    offset: float = 0.0
    decimals: int | None = None
    width: int = 1
    encoding: str = "utf-8"
    plausible: tuple[float, float] | None = None
    nulls: frozenset[int] = frozenset()
    write_word_order: Order | None = None  # of a device that takes the words in another order than it gives them

    @property
    def words(self) -> int:
        """Registers that the value takes."""
        if self.type in _FORMATS:
            return _FORMATS[self.type].size // 2
        if self.type in (Type.STRING, Type.HEX):
            return self.count
        return (self.count + 15) // 16 if self.type is Type.BITS else 1


def decode(words: Sequence[int], layout: Layout) -> Value:
    """Turn consecutive registers into one engineering value.

    Args:
        words: `layout.words` registers, each 0..65535, in address order.
        layout: Type, orders and scaling.

    Returns:
        bool for `bit`, a list of bool for `bits`, str for `string`; int when type, scale and offset are whole
        numbers, else float.

    Raises:
        RejectedError: Wrong number of words, NaN, infinity, beyond int64, no BCD, not plausible, one of `nulls`: the
            point is bad then, and the poll goes on.
    """
    return reader(layout)(words)


def reader(layout: Layout) -> Callable[[Sequence[int]], Value]:
    """`decode` of one layout with everything worked out beforehand: this is what a poll calls for every point."""
    kind, count = layout.type, layout.words
    parse = _checked(_parser(layout), layout)

    def read(words: Sequence[int]) -> Value:
        if len(words) != count:
            raise RejectedError(f"{len(words)} registers where {kind} needs {count}")
        return parse(words)

    return read


def _checked(parse: Callable[[Sequence[int]], Value], layout: Layout) -> Callable[[Sequence[int]], Value]:
    """Costs nothing where nothing is asked for."""
    nulls, range_ = layout.nulls, layout.plausible
    if not nulls and range_ is None:
        return parse
    low, high = range_ or (-math.inf, math.inf)

    def checked(words: Sequence[int]) -> Value:
        if nulls and (found := _content(words, layout)) in nulls:
            raise RejectedError(f"0x{found:X} means that there is no value")
        return plausible(parse(words), low, high)

    return checked


def _content(words: Sequence[int], layout: Layout) -> int:
    if layout.type in (Type.INT8, Type.UINT8):
        return _to_bytes(words, layout)[0]
    content = int.from_bytes(_to_bytes(words, layout))
    return field_of(content, layout.bit, layout.width) if layout.type is Type.FIELD else content


def _parser(layout: Layout) -> Callable[[Sequence[int]], Value]:
    kind = layout.type
    if kind in _FORMATS or kind is Type.FIELD:
        raw, convert = _raw_reader(layout), _converter(layout)
        return lambda words: convert(raw(words))
    if kind is Type.STRING:
        return lambda words: _text(_to_bytes(words, layout), layout.encoding)
    if kind is Type.HEX:
        return lambda words: _to_bytes(words, layout).hex()
    is_swapped = layout.byte_order is Order.LITTLE
    if kind is Type.BITS:
        places = [(index >> 4, index & 15) for index in range(layout.count)]

        def bits(words: Sequence[int]) -> Value:
            held = [_swap(word) for word in words] if is_swapped else words
            return [bool(held[place] >> bit & 1) for place, bit in places]

        return bits
    bit = layout.bit ^ 8 if is_swapped else layout.bit
    return lambda words: bool(words[0] >> bit & 1)


def _raw_reader(layout: Layout) -> Callable[[Sequence[int]], int | float]:
    if layout.byte_order is Order.BIG and layout.type is Type.UINT16:
        return lambda words: words[0]
    if layout.byte_order is Order.BIG and layout.type is Type.INT16:
        return lambda words: (words[0] ^ 0x8000) - 0x8000
    if layout.type is Type.FIELD:
        return lambda words: _content(words, layout)
    if layout.type in _BCD:
        return lambda words: from_bcd(_content(words, layout))
    pack = struct.Struct(f"{'<' if layout.byte_order is Order.LITTLE else '>'}{layout.words}H").pack
    unpack = _FORMATS[layout.type].unpack
    if layout.word_order is Order.LITTLE:
        return lambda words: cast("int | float", unpack(pack(*reversed(words)))[0])
    return lambda words: cast("int | float", unpack(pack(*words))[0])


def encode(value: Json, layout: Layout) -> list[int]:
    """Turn an engineering value into registers, in address order: the reverse of `decode` for numbers and strings.

    Raises:
        RejectedError: Not this type, or out of range; the text says what would be right.
    """
    kind = layout.type
    if layout.write_word_order is not None:
        layout = replace(layout, word_order=layout.write_word_order)
    if kind in _FORMATS:
        return _to_words(_encode_number(value, layout), layout)
    if kind is Type.STRING:
        if not isinstance(value, str):
            raise RejectedError(f"{value!r} is not text")
        try:
            data = value.encode(layout.encoding)
        except UnicodeEncodeError:
            raise RejectedError(f"{value!r} cannot be written in {layout.encoding}") from None
        if len(data) > 2 * layout.count:
            raise RejectedError(f"text of {len(data)} bytes; at most {2 * layout.count} fit")
        return _to_words(data.ljust(2 * layout.count, b"\0"), layout)
    if kind is Type.HEX:
        return _to_words(_from_digits(value, 2 * layout.count), layout)
    raise RejectedError(f"{kind} is written into the registers as they are: use `merge`")


def _from_digits(value: Json, size: int) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise RejectedError(f"{value!r} is not {2 * size} hexadecimal digits")
    return data


def merge(words: Sequence[int], value: Json, layout: Layout) -> list[int]:
    """Set one bit, a list of bits or a field in registers that were just read.

    Raises:
        RejectedError: Not a truth value, a list of another length, a number that does not fit.
    """
    result = [_swap(word) for word in words] if layout.byte_order is Order.LITTLE else list(words)
    if layout.type is Type.BITS:
        for index, is_on in enumerate(truths(value, layout.count)):
            result[index >> 4] = result[index >> 4] & ~(1 << (index & 15)) | is_on << (index & 15)
    elif layout.type is Type.FIELD:
        result[0] = put(result[0], _encode_whole(value, layout), layout.bit, layout.width)
    else:
        result[0] = result[0] & ~(1 << layout.bit) | truth(value) << layout.bit
    return [_swap(word) for word in result] if layout.byte_order is Order.LITTLE else result


def truth(value: Json) -> bool:
    """A value for a coil.

    Raises:
        RejectedError: Neither true, false, 1 nor 0.
    """
    if value in (0, 1) and isinstance(value, bool | int | float):
        return bool(value)
    raise RejectedError(f"{value!r} is not true or false")


def truths(value: Json, count: int) -> list[bool]:
    """A list of values for neighbouring coils.

    Raises:
        RejectedError: Not a list of `count` truth values.
    """
    if not isinstance(value, list | tuple) or len(value) != count:
        raise RejectedError(f"{value!r} is not a list of {count} values true or false")
    return [truth(item) for item in value]


def _to_bytes(words: Sequence[int], layout: Layout) -> bytes:
    ordered = reversed(words) if layout.word_order is Order.LITTLE else words
    return struct.pack(f"{'<' if layout.byte_order is Order.LITTLE else '>'}{len(words)}H", *ordered)


def _to_words(data: bytes, layout: Layout) -> list[int]:
    words = list(struct.unpack(f"{'<' if layout.byte_order is Order.LITTLE else '>'}{len(data) // 2}H", data))
    return words[::-1] if layout.word_order is Order.LITTLE else words


def _swap(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8


def _converter(layout: Layout) -> Callable[[int | float], int | float]:
    """Raw number → engineering value, checked to be one."""
    scale, offset, decimals = layout.scale, layout.offset, layout.decimals
    is_whole = layout.type not in _FLOATS and scale.is_integer() and offset.is_integer()
    if is_whole:
        factor, shift = int(scale), int(offset)
        return lambda raw: _int64(cast("int", raw) * factor + shift)
    divisor = _divisor(scale)

    def convert(raw: int | float) -> float:
        # 3 * 0.1 is 0.30000000000000004 in binary, 3 / 10 is 0.3: what the device's manual says
        value = (raw / divisor if divisor else raw * scale) + offset
        if not math.isfinite(value):
            raise RejectedError(f"{value} is not a number")
        return value if decimals is None else round(value, decimals)

    return convert


def _int64(value: int) -> int:
    if not -(2**63) <= value <= INT64_MAX:
        raise RejectedError(f"{value} is beyond a 64-bit integer")
    return value


def _divisor(scale: float) -> int:
    """10 for 0.1, 100 for 0.01 …; 0 when the scale is no such fraction."""
    if not 1e-12 < abs(scale) < 1.0:
        return 0
    whole = round(1.0 / scale)
    return whole if 1.0 / whole == scale else 0


def _number(value: Json, layout: Layout) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RejectedError(f"{value!r} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise RejectedError(f"{value} cannot be written")
    if layout.plausible is not None:
        plausible(value, *layout.plausible)
    return value


def _encode_number(value: Json, layout: Layout) -> bytes:
    if layout.type in _FLOATS:
        value = _number(value, layout)
        raw = _raw(value, layout)
        try:
            data = _FORMATS[layout.type].pack(raw)
        except (OverflowError, struct.error):
            raise RejectedError(f"{value} is too large for {layout.type}") from None
        return data
    whole = _encode_whole(value, layout)
    return _FORMATS[layout.type].pack(to_bcd(whole) if layout.type in _BCD else whole)


def _encode_whole(value: Json, layout: Layout) -> int:
    value = _number(value, layout)
    low, high = (0, (1 << layout.width) - 1) if layout.type is Type.FIELD else _RANGES[layout.type]
    raw = _raw(value, layout)
    if not math.isfinite(raw) or not low <= round(raw) <= high:
        ends = sorted((_engineering_end(low, layout), _engineering_end(high, layout)))
        raise RejectedError(f"{value} is out of range; {ends[0]:.15g} to {ends[1]:.15g} can be written")
    return round(raw)


def _raw(value: int | float, layout: Layout) -> int | float:
    if layout.scale == 1.0 and (layout.offset == 0.0 or (isinstance(value, int) and layout.offset.is_integer())):
        return value - int(layout.offset) if layout.offset else value
    divisor = _divisor(layout.scale)
    try:
        return (value - layout.offset) * divisor if divisor else (value - layout.offset) / layout.scale
    except OverflowError:
        return math.inf


def _engineering_end(raw: int, layout: Layout) -> float:
    return raw * layout.scale + layout.offset


def _text(data: bytes, encoding: str) -> str:
    """Up to the first NUL, without trailing spaces; hexadecimal digits when it is not of this encoding."""
    wide = 2 if encoding.startswith("utf-16") else 1
    end = next((at for at in range(0, len(data), wide) if not any(data[at : at + wide])), len(data))
    try:
        return data[:end].decode(encoding).rstrip()
    except UnicodeDecodeError:
        return data[:end].hex().upper()
