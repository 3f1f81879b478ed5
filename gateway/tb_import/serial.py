"""The serial connector's file (class SerialConnector). Source of all meanings: device API sheet §5.6."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.tb_import.notes import Imported, as_list, as_mapping, report_of, whole

_PARITY: Final = {"N": "none", "E": "even", "O": "odd", "M": "mark", "S": "space"}
_TYPES: Final = {"string": "text", "int": "integer", "float": "number", "double": "number", "bool": "bool"}
_DEVICE: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(("name", "deviceName", "type", "deviceType", "port", "baudrate", "bytesize", "stopbits"), None),
    **dict.fromkeys(("parity", "timeout", "dsrdtr", "rtscts", "xonxoff", "delimiter", "byteorder"), None),
    **dict.fromkeys(("telemetry", "timeseries", "attributes", "attributeUpdates", "serverSideRpc"), None),
    "converter": None,
    "uplink_converter": None,
    "downlink_converter": None,
    "writeTimeout": "timeout_s is for what is sent too",
    "interByteTimeout": "a text's frame ends with its delimiter alone",
    "exclusive": "a port belongs to one program here in any case",
    "reportStrategy": "the serial driver reports every reading; filter in a rule chain",
}
_OURS: Final = ("SerialUplinkConverter", "SerialDownlinkConverter", None, "")


def read_serial(tree: Any, where: str, imported: Imported) -> None:
    """Add the buses of one file, one for each device.

    Raises:
        ConfigError: It is no such file.
    """
    for at, item in enumerate(as_list(as_mapping(tree, where).get("devices"), f"{where}: devices")):
        place = f"{where}: devices[{at}]"
        _device(as_mapping(item, place), place, imported)


def _device(tree: dict[str, Any], where: str, imported: Imported) -> None:
    name = str(tree.get("deviceName") or tree.get("name") or "SerialDevice")
    if any(device["name"] == name for bus in imported.buses for device in bus["devices"]):
        imported.lost(where, f"a device named {name!r} exists already; give this one another name")
        return
    port = str(tree.get("port") or "/dev/ttyUSB0")
    if any(bus.get("port") == port for bus in imported.buses):
        imported.lost(where, f"the port {port} has a device already; a port has one owner")
        return
    imported.unknown(where, tree, _DEVICE)
    for key in ("converter", "uplink_converter", "downlink_converter"):
        if tree.get(key) not in _OURS:
            imported.lost(f"{where}.{key}", "converters of your own do not exist here; the built-in meaning was taken")
    device: dict[str, Any] = {"name": name}
    profile = str(tree.get("deviceType") or tree.get("type") or "default")
    device |= {"profile": profile} if profile != "default" else {}
    messages = []
    for section, ours in (("timeseries", "telemetry"), ("telemetry", "telemetry"), ("attributes", "attributes")):
        if section == "telemetry" and "timeseries" in tree:
            continue
        for at, item in enumerate(as_list(tree.get(section), f"{where}.{section}")):
            message = _message(as_mapping(item, f"{where}.{section}[{at}]"), f"{where}.{section}[{at}]", ours, imported)
            messages += [message] if message else []
    commands = _commands(tree, where, imported)
    device |= {"messages": messages} if messages else {}
    device |= {"commands": commands} if commands else {}
    if not messages and not commands:
        imported.lost(where, f"{name!r} has nothing that could be carried over")
        return
    end = str(tree.get("delimiter") or "\n")
    bus: dict[str, Any] = {"kind": "serial", "name": imported.bus_name(f"serial {port}"), "port": port}
    bus["baudrate"] = whole(tree, "baudrate", 9600, where)
    parity = str(tree.get("parity", "N")).upper()[:1]
    bus |= {"bytesize": whole(tree, "bytesize", 8, where), "parity": _PARITY.get(parity, "none")}
    stop = tree.get("stopbits", 1)
    bus["stopbits"] = 2 if stop == 2 else 1
    if stop not in (1, 2):
        imported.lost(f"{where}.stopbits", f"{stop!r} does not exist here; 1 is taken")
    flows = [flow for flow in ("rtscts", "xonxoff", "dsrdtr") if tree.get(flow)]
    bus |= {"flow": flows[0]} if flows else {}
    for flow in flows[1:]:
        imported.lost(f"{where}.{flow}", f"one kind of flow control at a time; {flows[0]} is taken")
    timeout = tree.get("timeout")
    bus["timeout_s"] = float(timeout) if isinstance(timeout, int | float) and timeout > 0 else 1.0
    imported.changed(where, "a frame ends with its delimiter alone; there one second of silence ends it too")
    imported.buses.append(bus | {"frame": {"end": end}, "devices": [device]})


def _message(item: dict[str, Any], where: str, section: str, imported: Imported) -> dict[str, Any] | None:
    key, kind = str(item.get("key") or ""), str(item.get("type") or "")
    if not key:
        imported.lost(where, "has no key")
        return None
    if report_of([item.get("reportStrategy")], where, imported):
        imported.lost(f"{where}.reportStrategy", "the serial driver reports every reading; filter in a rule chain")
    start, end, first, last = (item.get(name) for name in ("fromDelimiter", "untilDelimiter", "fromByte", "toByte"))
    if kind not in _TYPES and kind != "json":
        imported.lost(where, f"{key!r}: type {kind or 'none'} shows bytes as hexadecimal digits; take struct")
        return None
    if kind == "json":
        imported.lost(where, f"{key!r}: a whole JSON frame under one key; say json: true and name its fields")
        return None
    if first and last and last != -1:
        imported.lost(
            where, f"{key!r}: fromByte and toByte together do not mean there what they say; use regex or struct"
        )
        return None
    if start or end:
        before, after = re.escape(str(start or "")), re.escape(str(end or ""))
        pattern = f"^.*?(?P<v>{before}.*?)(?:{after}|$)" if start and end else ""
        pattern = pattern or (f"^.*?(?P<v>{before}.*)$" if start else f"^(?P<v>.*?)(?:{after}|$)")
    elif first or last:
        cut = ".{1}$" if last == -1 else ".*$" if last else "$"
        middle = f"(?P<v>.{{{int(last)}}})" if last and last > 0 else "(?P<v>.*)"
        pattern = f"^.{{{int(first or 0)}}}{middle}{cut}"
    else:
        pattern = "^(?P<v>.*)$"
    field = {"key": key, "at": "v", "type": _TYPES[kind]}
    if start and kind in ("int", "float", "double"):
        imported.changed(
            where, f"{key!r}: the number follows {start!r} here; there the mark is part of it and spoils it"
        )
        pattern = pattern.replace(f"(?P<v>{re.escape(str(start))}", f"{re.escape(str(start))}(?P<v>")
    return {"regex": f"(?s){pattern}", section: [field]}


def _commands(tree: Mapping[str, Any], where: str, imported: Imported) -> list[dict[str, Any]]:
    commands: list[dict[str, Any]] = []

    def add(key: str, send: str, place: str, answer: dict[str, Any] | None = None) -> None:
        if any(command["key"] == key for command in commands):
            imported.lost(place, f"a command {key!r} exists already; keys are unique in a device")
            return
        commands.append({"key": key, "send": send} | ({"answer": answer} if answer else {}))

    for at, item in enumerate(as_list(tree.get("attributeUpdates"), f"{where}.attributeUpdates")):
        place = f"{where}.attributeUpdates[{at}]"
        key, text = str(item.get("attributeOnPlatform") or ""), str(item.get("stringToDevice") or "")
        text = text.replace("{", "{{").replace("}", "}}")
        for name, value in (
            ("deviceName", tree.get("deviceName") or tree.get("name")),
            ("deviceType", tree.get("type")),
        ):
            text = text.replace(f"${{{{{name}}}}}", str(value))
        text = text.replace(f"${{{{{key}}}}}", "{value}")
        if not key or not text or "${{" in text:
            imported.lost(place, "a command has one attribute, that of its own name")
            continue
        add(key, text, place)
    for at, item in enumerate(as_list(tree.get("serverSideRpc"), f"{where}.serverSideRpc")):
        place = f"{where}.serverSideRpc[{at}]"
        key, kind = str(item.get("method") or ""), str(item.get("type") or "string")
        if not key or kind in ("int", "float", "double"):
            imported.lost(
                place, f'{key!r}: type {kind} is sent as bytes of varying number; say send: "hex: {{value:>H}}"'
            )
            continue
        answer = None
        if item.get("withResponse"):
            reply = {"key": "result", "type": item.get("responseType", "string")}
            reply |= {
                theirs: item[name]
                for theirs, name in (
                    ("fromByte", "responseFromByte"),
                    ("toByte", "responseToByte"),
                    ("untilDelimiter", "responseUntilDelimiter"),
                )
                if name in item
            }
            answer = _message(reply, place, "telemetry", imported)
        add(key, "{value}", place, answer)
    return commands
