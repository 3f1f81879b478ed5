"""The `slave` section of the Modbus connector's file: the gateway as a Modbus server, as an entry of `servers`.

There the gateway keeps registers that masters write, and polls itself; here what masters write is data of the device at
once. Source of all meanings: device API sheet §5.4.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import ConfigError
from gateway.tb_import.modbus_points import NotCarried, meaning, tag_of
from gateway.tb_import.notes import Imported, as_list, as_mapping, whole

_TABLES: Final = {
    "holding_registers": ("holding_register", 3),
    "input_registers": ("input_register", 4),
    "coils_initializer": ("coil", 1),
    "discrete_inputs": ("discrete_input", 2),
}
_SECTIONS: Final = {
    "timeseries": ("telemetry", "telemetry"),
    "attributes": ("client_attribute", "attribute"),
    "attributeUpdates": ("shared_attribute", None),
}
"""Source of what is read, and where what is written goes."""

_KNOWN: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(
        ("type", "host", "port", "method", "unitId", "deviceName", "deviceType", "byteOrder", "wordOrder", "values"),
        None,
    ),
    **dict.fromkeys(("baudrate", "stopbits", "bytesize", "parity", "handleLocalEcho"), None),
    **dict.fromkeys(("sendDataToThingsBoard", "pollPeriod"), None),
    "repack": "the word order alone says how words are packed",
    "identity": "function 43 is not answered",
    "security": "TLS is not served: let a tunnel end it",
}
_FRAMINGS: Final = {("tcp", "socket"): "tcp", ("tcp", "rtu"): "rtu_over_tcp"}
_PARITY: Final = {"N": "none", "E": "even", "O": "odd"}


def read_server(slave: Mapping[str, Any], where: str, imported: Imported) -> None:
    """Add the server.

    Raises:
        ConfigError: A member that cannot be understood.
    """
    if slave.get("sendDataToThingsBoard") is not True:
        imported.changed(where, "is left out: without sendDataToThingsBoard it is not started there either")
        return
    name = str(slave.get("deviceName") or "Modbus Slave")
    way = _way(slave, where, imported)
    if way is None:
        return
    orders = {
        ours: _order(slave, theirs) for ours, theirs in (("byte_order", "byteOrder"), ("word_order", "wordOrder"))
    }
    points = _points(slave, where, name, imported)
    if not points:
        imported.lost(where, "has no value that could be carried over")
        return
    imported.unknown(where, {key: value for key, value in slave.items() if value not in (None, {}, False)}, _KNOWN)
    server: dict[str, Any] = {"kind": "modbus", "name": f"modbus slave {name}"[:64], **way}
    if slave.get("deviceType", "default") != "default":
        server["devices"] = [{"name": name, "profile": str(slave["deviceType"])}]
    server["units"] = [{"unit_id": whole(slave, "unitId", 1, where), **orders, "points": points}]
    imported.servers.append(server)


def _way(slave: Mapping[str, Any], where: str, imported: Imported) -> dict[str, Any] | None:
    kind, method = str(slave.get("type", "tcp")).lower(), str(slave.get("method") or "socket").lower()
    if kind == "serial" and method == "rtu":
        serial = {"device": str(slave.get("port") or ""), "baud": whole(slave, "baudrate", 19200, where)}
        serial |= {"parity": _PARITY.get(str(slave.get("parity", "N")).upper()[:1], "none")}
        if slave.get("handleLocalEcho") is True:
            serial["local_echo"] = True
        return {"serial": serial | {"stop_bits": whole(slave, "stopbits", 1, where)}}
    if (kind, method) not in _FRAMINGS:
        imported.lost(where, f"type {kind} with method {method} is not served (docs/modbus-server.md)")
        return None
    host, port = str(slave.get("host") or "127.0.0.1"), whole(slave, "port", 502, where)
    if not _is_loopback(host):
        imported.lost(
            f"{where}.host",
            f"listens on 127.0.0.1 until somebody says who may come in: listen: '{host}:{port}' and allow: [<masters>]",
        )
    return {"tcp": {"listen": f"127.0.0.1:{port}", "framing": _FRAMINGS[kind, method]}}


def _points(slave: Mapping[str, Any], where: str, device: str, imported: Imported) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    taken: set[tuple[str, int]] = set()
    values = as_mapping(slave.get("values") or {}, f"{where}.values")
    for theirs, (table, function) in _TABLES.items():
        held = values.get(theirs) or {}
        if isinstance(held, list):  # as older files have it
            held = held[0] if held else {}
        for section, items in as_mapping(held, f"{where}.values.{theirs}").items():
            for at, item in enumerate(as_list(items, f"{where}.values.{theirs}.{section}")):
                place = f"{where}.values.{theirs}.{section}[{at}]"
                try:
                    points.append(
                        _point(as_mapping(item, place), place, device, table, function, section, taken, imported)
                    )
                except (NotCarried, ConfigError) as problem:
                    imported.lost(place, str(problem))
    return points


def _point(
    item: Mapping[str, Any],
    where: str,
    device: str,
    table: str,
    function: int,
    section: str,
    taken: set[tuple[str, int]],
    imported: Imported,
) -> dict[str, Any]:
    key = tag_of(item)
    if section not in _SECTIONS:
        raise NotCarried(f"{key!r}: a slave cannot call its master; show a value in a register instead")
    source, target = _SECTIONS[section]
    is_coil = function in (1, 2)
    what: dict[str, Any] = (
        {"type": "bool"}
        if is_coil and whole(item, "objectsCount", 1, where) == 1
        else meaning(item, function, where, imported)
    )
    address = whole(item, "address", None, where) + what.pop("shift", 0)
    for member in ("round", "values"):
        what.pop(member, None)
    places = {(table, at) for at in range(address, address + _span(what, is_coil=is_coil))}
    if places & taken:
        raise NotCarried(f"{key!r}: another value is at {table} {address} already")
    taken |= places
    point = {"table": table, "address": address, **what, "device": device, "key": key, "source": source}
    if target is not None and table in ("coil", "holding_register") and what["type"] != "bit":
        point |= {"writable": True, "write_to": target}
    value = _first(item.get("value"), what, is_coil=is_coil)
    if value is not None:
        point["bad_value"] = value
    return point


def _span(what: Mapping[str, Any], *, is_coil: bool) -> int:
    kind, count = str(what["type"]), int(what.get("count", 1))
    if is_coil or kind in ("string", "hex"):
        return count
    return -(-count // 16) if kind == "bits" else max(1, _bits(kind) // 16)


def _bits(kind: str) -> int:
    return int(kind.lstrip("uintfloa") or 16) if kind not in ("bit", "bool") else 16


def _first(value: Any, what: Mapping[str, Any], *, is_coil: bool) -> Any:
    """What masters read before anything is known; None where it does not fit."""
    kind = str(what["type"])
    if kind in ("bool", "bit"):
        return bool(value) if isinstance(value, bool | int) else None
    if is_coil or kind in ("bits", "hex"):
        return None
    if kind == "string":
        return value if isinstance(value, str) and len(value.encode()) <= 2 * int(what["count"]) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if "float" in kind:
        return value
    bits, raw = _bits(kind), value / what.get("scale", 1)
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return value if low <= raw <= high else None


def _order(slave: Mapping[str, Any], name: str) -> str:
    return "big" if str(slave.get(name) or "LITTLE").upper() == "BIG" else "little"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
