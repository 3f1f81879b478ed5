"""Data points of one Modbus slave: the vendor's types, scaling and ranges in our words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import ConfigError
from gateway.tb_import.notes import Imported, as_list, as_mapping, report_of, whole

_TABLES: Final = {1: "coil", 2: "discrete_input", 3: "holding_register", 4: "input_register"}
_WRITES: Final = {5: "coil", 15: "coil", 6: "holding_register", 16: "holding_register"}
_FIXED: Final = {
    f"{bits}{kind}": (f"{kind}{bits}", bits) for bits in (8, 16, 32, 64) for kind in ("int", "uint", "float")
}
_OPEN: Final = {
    **dict.fromkeys(("int", "integer", "long", "word", "dword", "dword/integer"), "int"),
    **dict.fromkeys(("uint", "unsigned", "unsigned integer", "unsigned int"), "uint"),
    **dict.fromkeys(("float", "double"), "float"),
}
_BITS: Final = ("bit", "bits", "coil", "coils")
_RANGE: Final = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*")
_KNOWN: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(
        ("tag", "type", "functionCode", "address", "objectsCount", "registersCount", "registerCount"), None
    ),
    **dict.fromkeys(("divider", "multiplier", "round", "bit", "bitTargetType", "variants", "reportStrategy"), None),
    "maxRegistersPerRequest": "requests are as long as the device allows: say max_registers at the device",
    "timeout": "a call has the deadline of its RPC",
}


class NotCarried(Exception):
    """The reason why a point stays behind, as a text."""


class Points:
    """`attributes`, `timeseries`, `attributeUpdates` and `rpc` of one slave."""

    def __init__(self, slave: Mapping[str, Any], where: str, strategies: list[Any], imported: Imported) -> None:
        self._slave, self._where, self._strategies, self._imported = slave, where, strategies, imported
        self._sections: dict[str, list[dict[str, Any]]] = {"telemetry": [], "attributes": [], "on_demand": []}
        self._by_key: dict[str, dict[str, Any]] = {}

    def read(self) -> dict[str, Any]:
        """The sections of the device, without empty ones."""
        for theirs, ours in (("timeseries", "telemetry"), ("attributes", "attributes")):
            for where, item in self._items(theirs):
                self._carry(where, item, lambda where=where, item=item, ours=ours: self._polled(where, item, ours))
        for theirs in ("attributeUpdates", "rpc"):
            for where, item in self._items(theirs):
                self._carry(where, item, lambda where=where, item=item: self._called(where, item))
        return {name: points for name, points in self._sections.items() if points}

    def _items(self, section: str) -> list[tuple[str, dict[str, Any]]]:
        where = f"{self._where}.{section}"
        items = as_list(self._slave.get(section), where)
        return [(f"{where}[{at}]", as_mapping(item, f"{where}[{at}]")) for at, item in enumerate(items)]

    def _carry(self, where: str, item: Mapping[str, Any], carry: Any) -> None:
        try:
            carry()
        except (NotCarried, ConfigError) as problem:
            self._imported.lost(where, f"{item.get('tag')!r}: {problem}")
            return
        self._imported.unknown(where, item, _KNOWN)

    def _polled(self, where: str, item: dict[str, Any], section: str) -> None:
        function = whole(item, "functionCode", None, where)
        if function not in _TABLES:
            raise NotCarried(f"functionCode {function} does not read; 1, 2, 3 and 4 do")
        for key, address in self._places(item, function, where):
            point: dict[str, Any] = {"key": key, "table": _TABLES[function], "address": address}
            point |= meaning(item, function, where, self._imported)
            point["address"] += point.pop("shift", 0)
            strategy = item.get("reportStrategy")
            if isinstance(strategy, dict):
                own = report_of([strategy], where, self._imported) or {}
                if own != (report_of(self._strategies, where, Imported()) or {}):
                    point["report"] = own
            self._add(point, section)

    def _places(self, item: Mapping[str, Any], function: int, where: str) -> list[tuple[str, int]]:
        tag, count = tag_of(item), _count(item, where)
        match = _RANGE.fullmatch(str(item.get("address")))
        if match is None:
            return [(tag, whole(item, "address", None, where))]
        first, last = int(match[1]), int(match[2])
        if function in (1, 2):
            raise NotCarried("a range of coils: describe it as one point of type bits")
        if last < first or last - first > 2000:
            raise NotCarried(f"the range {first}-{last} is not one of at most 2000 registers")
        tag = tag if "address" in tag else f"{tag}_${{address}}"
        names = {"unitId": self._slave.get("unitId"), "functionCode": function, "type": item.get("type")}
        names["objectsCount"] = count
        for name, value in names.items():
            tag = tag.replace(f"${{{name}}}", str(value))
        size = max(count, 1)
        return [(tag.replace("${address}", str(at)), at) for at in range(first, last + 2 - size, size)]

    def _called(self, where: str, item: dict[str, Any]) -> None:
        function, key = whole(item, "functionCode", None, where), tag_of(item)
        table = _WRITES.get(function) or _TABLES.get(function)
        if table is None:
            raise NotCarried(f"functionCode {function} neither reads nor writes")
        is_write = function in _WRITES
        read_function = {"coil": 1, "holding_register": 3}.get(table, function) if is_write else function
        point: dict[str, Any] = {"key": key, "table": table, "address": whole(item, "address", None, where)}
        point |= meaning(item, read_function, where, self._imported, is_call=True)
        point["address"] += point.pop("shift", 0)
        present = self._by_key.get(key)
        if present is None:
            self._add(point, "on_demand")
            present = point
        elif any(present.get(name) != point.get(name) for name in ("table", "address", "type", "count", "bit")):
            raise NotCarried(
                f"the key {key!r} is another point of this device already ({present['table']} {present['address']});"
                " give one of them another tag"
            )
        if is_write:
            present["writable"] = True
            self._check_write(where, function, present)

    def _check_write(self, where: str, function: int, point: dict[str, Any]) -> None:
        if (function, point["type"]) in ((15, "bool"), (16, "int16"), (16, "uint16"), (16, "float16")):
            point["write_function"] = function
        if function == 6 and point["type"][-2:] in ("32", "64"):
            self._imported.changed(
                where, "function 6 sends the first register alone there; here all of them are written"
            )
        if point.get("scale", 1) != 1:
            self._imported.changed(where, "the value is scaled when it is written too; there it is not")

    def _add(self, point: dict[str, Any], section: str) -> None:
        if point["key"] in self._by_key:
            other = self._by_key[point["key"]]
            raise NotCarried(f"the key {point['key']!r} is taken by {other['table']} {other['address']}")
        self._by_key[point["key"]] = point
        self._sections[section].append(point)


def tag_of(item: Mapping[str, Any]) -> str:
    """The key; raises `NotCarried` without one."""
    tag = str(item.get("tag") or item.get("key") or "")
    if not tag:
        raise NotCarried("has no tag")
    return tag


def _count(item: Mapping[str, Any], where: str) -> int:
    name = next((name for name in ("objectsCount", "registersCount", "registerCount") if name in item), "objectsCount")
    return whole(item, name, 1, where)


def meaning(
    item: Mapping[str, Any], function: int, where: str, imported: Imported, *, is_call: bool = False
) -> dict[str, Any]:
    """`type` and what belongs to it."""
    kind, count = str(item.get("type") or "").lower(), _count(item, where)
    if kind in _BITS or function in (1, 2):
        if kind not in _BITS:
            raise NotCarried(f"type {kind} of coils; only bits have a meaning there")
        return _bits(item, function, count)
    if kind == "string":
        return {"type": "string", "count": count}
    if kind == "bytes":
        return {"type": "hex", "count": count}
    name, bits = _FIXED.get(kind) or (f"{_OPEN[kind]}{count * 16}" if kind in _OPEN else "", count * 16)
    if not name or bits not in (8, 16, 32, 64) or name == "float8":
        raise NotCarried(f"type {kind!r} with objectsCount {count} does not exist")
    result: dict[str, Any] = {"type": name}
    if bits == 8:
        result["byte_order"] = "big"  # there the high byte, whatever the order
    if kind in _FIXED and count * 16 < bits:
        imported.changed(where, f"{kind} takes {bits // 16} registers, not {count}: there it gave no value")
    return result | ({} if is_call and not item.get("divider") and not item.get("multiplier") else _scale(item, name))


def _scale(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    divider, multiplier = (_number(item.get(key), key) for key in ("divider", "multiplier"))
    result: dict[str, Any] = {}
    if divider and divider != 1:
        result["scale"] = 1 / divider
    elif not divider and multiplier and multiplier != 1:
        result["scale"] = multiplier
    if name.startswith("float"):
        decimals = int(_number(item.get("round", 6), "round") or 0)
        power = math.log10(abs(divider)) if divider else 0.0
        if not (multiplier and not divider) and power == int(power):
            result["round"] = min(15, max(0, decimals + int(power)))
    variants = item.get("variants")
    if isinstance(variants, dict) and variants:
        if result.get("scale", 1) != 1 or name.startswith("float"):
            raise NotCarried("variants of a scaled number: leave the divider out, or name them in a rule chain")
        try:
            result["values"] = {int(number): text for number, text in variants.items()}
        except ValueError:
            raise NotCarried(f"variants must be named by whole numbers, not {', '.join(variants)}") from None
    return result


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise NotCarried(f"{name} must be a number, not {value!r}") from None
    if not math.isfinite(number):
        raise NotCarried(f"{name} must be a number, not {value!r}")
    return int(number) if number.is_integer() else number


def _bits(item: Mapping[str, Any], function: int, count: int) -> dict[str, Any]:
    """One register's list there begins with bits 8 to 15: that is ours with its bytes swapped."""
    is_coil = function in (1, 2)
    chosen, as_int = item.get("bit"), item.get("bitTargetType", "bool") != "bool"
    if count < 1 or (not is_coil and count > 16):
        raise NotCarried(f"objectsCount {count} of bits; there a list ends after 16")
    names = {"values": {0: 0, 1: 1}}
    if chosen is not None:
        place = min(int(_number(chosen, "bit") or 0), count - 1)
        if is_coil:
            return {"type": "bool", "shift": place} | names
        return {"type": "bit", "bit": place ^ 8, "byte_order": "big"} | names
    if count == 1:
        return ({"type": "bool"} if is_coil else {"type": "bit", "bit": 8, "byte_order": "big"}) | (
            names if as_int else {}
        )
    if as_int:
        raise NotCarried("a list of bits as numbers: here it is a list of true and false")
    return {"type": "bits", "count": count} | ({} if is_coil else {"byte_order": "little", "word_order": "big"})
