"""A place instead of a key: `type=16int;functionCode=3;objectsCount=1;address=5;`. Pure.

Dashboards that were made for the vendor's gateway send it. The
device's unit and orders apply. A value to write is text there; it becomes what the type needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from drivers.modbus.registers import Layout, Order, Table, Type
from drivers.modbus.tags import Tag, meaning
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

if TYPE_CHECKING:
    from drivers.modbus.config import ModbusDevice

_TABLES: Final = {
    1: Table.COIL,
    2: Table.DISCRETE_INPUT,
    3: Table.HOLDING_REGISTER,
    4: Table.INPUT_REGISTER,
    5: Table.COIL,
    6: Table.HOLDING_REGISTER,
    15: Table.COIL,
    16: Table.HOLDING_REGISTER,
}
_TYPES: Final = {
    "8int": Type.INT8,
    "8uint": Type.UINT8,
    "16int": Type.INT16,
    "16uint": Type.UINT16,
    "16float": Type.FLOAT16,
    "32int": Type.INT32,
    "32uint": Type.UINT32,
    "32float": Type.FLOAT32,
    "64int": Type.INT64,
    "64uint": Type.UINT64,
    "64float": Type.FLOAT64,
    "string": Type.STRING,
    "bytes": Type.HEX,
    "bits": Type.BITS,
    "bit": Type.BITS,
}
_WIDE: Final = {"int": "int", "integer": "int", "long": "int", "uint": "uint", "float": "float", "double": "float"}
_PARTS: Final = ("type", "functionCode", "objectsCount", "address")


class _PlacedTag(Tag):
    """A value comes as text."""

    __slots__ = ()

    def to_write(self, value: Json) -> Json:
        """Text as what is encoded."""
        if not isinstance(value, str) or self.layout.type in (Type.STRING, Type.HEX):
            return value
        if self.table is Table.COIL:
            return _truths(value) if self.layout.type is Type.BITS else _truths(value)[0]
        try:
            return int(value, 0)
        except ValueError:
            pass
        try:
            return float(value)
        except ValueError:
            raise RejectedError(f"{value!r} is not a number") from None


def is_place(key: str) -> bool:
    """True for what looks like a place, right or wrong."""
    return "functionCode=" in key


def placed_tag(device: ModbusDevice, text: str, *, may_write: bool) -> Tag:
    """A point that is in no configuration.

    Raises:
        RejectedError: Not allowed, or not to be understood; the text says what would be right.
    """
    if device.rpc_addresses == "none" or (may_write and device.rpc_addresses != "write"):
        need = "write" if may_write else "read"
        raise RejectedError(f"{device.name} takes keys, not places; `rpc_addresses: {need}` of the device allows it")
    parts = _parts(text)
    function, count, address = (_number(parts, name) for name in ("functionCode", "objectsCount", "address"))
    table = _TABLES.get(function)
    if table is None or (function >= 5) != may_write:
        known = ", ".join(str(code) for code in _TABLES if (code >= 5) == may_write)
        raise RejectedError(f"functionCode={function} does not {'write' if may_write else 'read'}; {known} do")
    kind, is_one = _kind(parts["type"], count, table)
    is_text = kind in (Type.STRING, Type.HEX)
    layout = Layout(
        type=kind,
        byte_order=Order.BIG if is_text or kind in (Type.INT8, Type.UINT8) else device.byte_order,
        word_order=Order.BIG if is_text else device.word_order,
        count=count if is_text or kind is Type.BITS else 1,
    )
    span = count if table.is_bits else layout.words
    if not 1 <= span <= (2000 if table.is_bits else 125) or address + span > 65536:
        raise RejectedError(f"{span} from address {address} on are not in one request")
    return _PlacedTag(
        device=device.name,
        key=text,
        unit_id=device.unit_id,
        table=table,
        address=address,
        count=span,
        layout=layout,
        value=_truth if table.is_bits and is_one else meaning(table, layout),
        is_writable=may_write,
        is_attribute=False,
        write_function=function if may_write else None,
    )


def _truth(bits: Sequence[int]) -> Value:
    return bool(bits[0])


def _parts(text: str) -> dict[str, str]:
    parts = dict(part.strip().partition("=")[::2] for part in text.split(";") if part.strip())
    missing = [name for name in _PARTS if name not in parts]
    unknown = [name for name in parts if name not in _PARTS]
    if missing or unknown:
        raise RejectedError(f"{text!r} is no place; right is type=16int;functionCode=3;objectsCount=1;address=5;")
    return parts


def _number(parts: dict[str, str], name: str) -> int:
    text = parts[name]
    if not text.isdecimal() or len(text) > 5:
        raise RejectedError(f"{name}={text} is not a number from 0 to 65535")
    return int(text)


def _kind(name: str, count: int, table: Table) -> tuple[Type, bool]:
    if name in _WIDE:
        name = f"{16 * count}{_WIDE[name]}"
    kind = _TYPES.get(name)
    if table.is_bits:
        return (Type.BOOL if count == 1 else Type.BITS), count == 1
    if kind is None or kind is Type.BITS:
        right = ", ".join(text for text, kind in _TYPES.items() if kind is not Type.BITS)
        raise RejectedError(f"type={name} is not for registers; these are: {right}")
    return kind, False


def _truths(text: str) -> list[bool]:
    known = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
    found = [known.get(part.strip().lower()) for part in text.strip("[] ").split(",")]
    if None in found:
        raise RejectedError(f"{text!r} is not true or false (several: [1,0,1])")
    return [bool(bit) for bit in found]
