"""The Modbus connector's file. Source of all meanings: device API sheet §5.2 to §5.4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import ConfigError
from gateway.tb_import.modbus_points import Points
from gateway.tb_import.modbus_server import read_server
from gateway.tb_import.notes import NO_EFFECT, Imported, as_list, as_mapping, report_of, whole

_OTHERWISE: Final = "silent units are tried again by a rule of the house, rarer each time (docs/field-bus.md)"

SLAVE: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(
        ("type", "host", "port", "method", "unitId", "deviceName", "deviceType", "pollPeriod", "timeout", "tls"), None
    ),
    **dict.fromkeys(("byteOrder", "wordOrder", "baudrate", "stopbits", "bytesize", "parity", "reportStrategy"), None),
    **dict.fromkeys(("attributes", "timeseries", "attributeUpdates", "rpc", "delayBetweenRequestsMs"), None),
    **dict.fromkeys(("strict", "retryOnEmpty", "retryOnInvalid", "sendDataOnlyOnChange"), NO_EFFECT),
    **dict.fromkeys(("connectAttemptTimeMs", "connectAttemptCount", "waitAfterFailedAttemptsMs"), _OTHERWISE),
    **dict.fromkeys(("timeseriesPollPeriod", "devices"), None),
    "retries": "an answer that does not come is asked for again within a second, once; then rarer",
    "repack": "the word order alone says how words are packed",
    "handleLocalEcho": None,
    "uplink_converter": "converters of your own do not exist here; the built-in meaning was taken",
    "downlink_converter": "converters of your own do not exist here; the built-in meaning was taken",
    "attributesPollPeriod": "attributes are read with pollPeriod; say every_ms at each of them",
}
"""Members of a slave; with a reason: why they are not carried over."""

_LINES: Final = {
    ("tcp", "socket"): "tcp",
    ("tcp", "rtu"): "rtu_over_tcp",
    ("tcp", "ascii"): "ascii_over_tcp",
    ("udp", "socket"): "udp",
    ("tls", "tls"): "tls",
    ("tls", "socket"): "tls",
    ("serial", "rtu"): "rtu",
    ("serial", "ascii"): "ascii",
}
_PARITY: Final = {"N": "none", "E": "even", "O": "odd"}
_SERVER: Final = ("host", "port", "type", "method", "timeout", "byteOrder", "wordOrder", "retries", "baudrate")


def read_modbus(tree: Any, where: str, general_report: Any, imported: Imported) -> None:
    """Add the buses of one file.

    Raises:
        ConfigError: It is no such file.
    """
    tree = as_mapping(tree, where)
    if "server" in tree:
        slaves, place = _of_old_form(tree, where), f"{where}: server.devices"
    elif "master" in tree:
        slaves = as_list(as_mapping(tree["master"], f"{where}: master").get("slaves"), f"{where}: master.slaves")
        place = f"{where}: master.slaves"
    else:
        raise ConfigError(where, "has neither `master` nor `server`; it is no file of the Modbus connector")
    if tree.get("slave"):
        read_server(as_mapping(tree["slave"], f"{where}: slave"), f"{where}: slave", imported)
    buses: dict[str, dict[str, Any]] = {}
    for index, slave in enumerate(slaves):
        _slave(as_mapping(slave, f"{place}[{index}]"), f"{place}[{index}]", tree, general_report, buses, imported)


def _of_old_form(tree: Mapping[str, Any], where: str) -> list[Any]:
    server = as_mapping(tree["server"], f"{where}: server")
    slaves = []
    for index, device in enumerate(as_list(server.get("devices"), f"{where}: server.devices")):
        slave = dict(as_mapping(device, f"{where}: server.devices[{index}]"))
        slave |= {name: server[name] for name in _SERVER if name in server and not slave.get(name)}
        if "timeseriesPollPeriod" in slave:
            slave["pollPeriod"] = slave["timeseriesPollPeriod"]
        slaves.append(slave)
    return slaves


def _slave(
    slave: dict[str, Any],
    where: str,
    file: Mapping[str, Any],
    general_report: Any,
    buses: dict[str, dict[str, Any]],
    imported: Imported,
) -> None:
    line, line_key = _line(slave, where, imported)
    if line is None:
        return
    name = str(slave.get("deviceName") or "")
    if not name:
        raise ConfigError(f"{where}.deviceName", "is missing: the name of the device in the cloud")
    if any(device["name"] == name for bus in imported.buses for device in bus["devices"]):
        imported.lost(where, f"a device named {name!r} exists already; give this one another deviceName")
        return
    imported.unknown(where, slave, SLAVE)
    strategies = [slave.get("reportStrategy"), file.get("reportStrategy"), general_report]
    device: dict[str, Any] = {"name": name, "unit_id": whole(slave, "unitId", None, where)}
    if slave.get("deviceType", "default") != "default":
        device["profile"] = str(slave["deviceType"])
    device["every_ms"] = whole(slave, "pollPeriod", 5000, where)
    device |= {"byte_order": _order(slave, "byteOrder", where), "word_order": _order(slave, "wordOrder", where)}
    report = report_of(strategies, where, imported)
    if report is not None:
        device["report"] = report
    points = Points(slave, where, strategies, imported)
    device |= points.read()
    if not any(device.get(section) for section in ("telemetry", "attributes", "on_demand")):
        imported.lost(where, f"{name!r} has no point that could be carried over")
        return
    timeout = slave.get("timeout", 30)
    timeout_s = float(timeout) if isinstance(timeout, int | float) and timeout > 0 else 30.0
    if line_key not in buses:
        new: dict[str, Any] = {
            "kind": "modbus",
            "name": imported.bus_name(f"modbus {line_key}"),
            "line": line,
            "timeout_s": timeout_s,
        }
        buses[line_key] = new | {"devices": []}
        imported.buses.append(buses[line_key])
    bus = buses[line_key]
    if bus["line"] != line:
        imported.changed(where, "differs from the first slave of this connection in its line; the first one's is used")
    if timeout_s != bus["timeout_s"]:
        bus["timeout_s"] = max(timeout_s, bus["timeout_s"])
        imported.changed(f"{where}.timeout", f"one line has one timeout: {bus['timeout_s']:g} s, the longest")
    elif timeout_s > 5:
        imported.changed(
            f"{where}.timeout", f"{timeout_s:g} s is carried over; 1 to 2 s bring a silent unit back sooner"
        )
    bus["devices"].append(device)


def _line(slave: Mapping[str, Any], where: str, imported: Imported) -> tuple[dict[str, Any] | None, str]:
    kind, method = str(slave.get("type", "tcp")).lower(), str(slave.get("method") or "").lower()
    tls = slave.get("tls") if isinstance(slave.get("tls"), dict) else None
    kind = "tls" if tls and kind == "tcp" else kind
    method = method or ("rtu" if kind == "serial" else "socket")
    if (kind, method) not in _LINES:
        imported.lost(where, f"type {kind} with method {method} does not exist here; the whole slave is left out")
        return None, ""
    line: dict[str, Any] = {"kind": _LINES[kind, method]}
    if kind == "serial":
        key = str(slave.get("port") or "")
        if not key:
            raise ConfigError(f"{where}.port", "is missing: the path of the adapter")
        parity = str(slave.get("parity", "N")).upper()[:1]
        line |= {"device": key, "baud": whole(slave, "baudrate", 19200, where), "parity": _PARITY.get(parity, "none")}
        line |= {"stop_bits": whole(slave, "stopbits", 1, where), "data_bits": whole(slave, "bytesize", 8, where)}
        if slave.get("handleLocalEcho") is True:
            line["echo"] = True
        if parity not in _PARITY:
            imported.lost(f"{where}.parity", f"{slave['parity']!r} does not exist in Modbus; none is taken")
    else:
        host = str(slave.get("host") or "")
        if not host:
            raise ConfigError(f"{where}.host", "is missing: the address of the slave")
        line |= {"host": host, "port": whole(slave, "port", 502, where)}
        key = f"{host}:{line['port']}"
    if tls:
        names = (("cert_file", "certfile"), ("key_file", "keyfile"))
        line |= {ours: tls[theirs] for ours, theirs in names if tls.get(theirs)}
        if tls.get("password"):
            imported.lost(f"{where}.tls.password", "the key file must not be encrypted")
    if delay := slave.get("delayBetweenRequestsMs"):
        line["gap_ms"] = delay
    return line, key


def _order(slave: Mapping[str, Any], name: str, where: str) -> str:
    order = str(slave.get(name) or "LITTLE").lower()
    if order not in ("big", "little"):
        raise ConfigError(f"{where}.{name}", f"must be BIG or LITTLE, not {slave[name]!r}")
    return order
