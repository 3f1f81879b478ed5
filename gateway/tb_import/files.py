"""Which files there are, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

from gateway.errors import ConfigError
from gateway.tb_import.modbus import read_modbus
from gateway.tb_import.notes import Imported, as_list, as_mapping
from gateway.tb_import.serial import read_serial

_GENERAL: Final = {
    "thingsboard": {
        "host": "the cloud is reached by its edge protocol: cloud.host, routing_key and routing_secret of an Edge",
        "security": "the Edge has a key and a secret of its own; nothing was copied",
        "provisioning": "the Edge is made in ThingsBoard once",
        "remoteShell": "there is none",
        "remoteConfiguration": "connectors are described in this file alone",
        "statistics": "figures are at `edge-gateway status` and in the local API",
        "deviceFiltering": "leave devices out of `buses`",
        "checkingDeviceActivity": "a device that does not answer counts as disconnected by itself",
        "rateLimits": "the cloud's limits are heeded as they are met",
    },
    "storage": {"type": "every event waits on the disk: see store (docs/storage.md)"},
    "grpc": {"enabled": "connectors of your own become drivers: docs/write-a-driver.md"},
}
_ELSEWHERE: Final = {
    "mqtt": "devices connect to this gateway itself, or through mappings and external_broker (docs/mappings.md)",
    "rest": "devices post to the HTTP device API (docs/http-devices.md)",
}


def load(path: Path) -> Imported:
    """A connector's file, a `tb_gateway.json` with the files it names, or the folder of one.

    Raises:
        ConfigError: With the file, and what would be right.
    """
    imported = Imported()
    if path.is_dir():
        inside = [path / name for name in ("tb_gateway.json", "tb_gateway.yaml") if (path / name).is_file()]
        if not inside:
            raise ConfigError(str(path), "has no tb_gateway.json; name a file instead")
        path = inside[0]
    tree = as_mapping(_read(path), str(path))
    if "connectors" in tree or "thingsboard" in tree:
        _gateway(tree, path, imported)
    else:
        _connector(tree, path.name, None, imported)
    return imported


def _gateway(tree: dict[str, Any], path: Path, imported: Imported) -> None:
    for section, members in _GENERAL.items():
        held = tree.get(section)
        for name, reason in members.items():
            if isinstance(held, dict) and held.get(name) not in (None, False):
                imported.lost(f"{path.name}: {section}.{name}", reason)
    thingsboard = tree.get("thingsboard")
    report = thingsboard.get("reportStrategy") if isinstance(thingsboard, dict) else None
    for at, item in enumerate(as_list(tree.get("connectors"), f"{path.name}: connectors")):
        where = f"{path.name}: connectors[{at}]"
        connector = as_mapping(item, where)
        kind, name = str(connector.get("type") or ""), str(connector.get("configuration") or "")
        if kind != "modbus" and "Serial" not in str(connector.get("class") or "") and kind != "serial":
            imported.lost(
                where, _ELSEWHERE.get(kind, f"connector {kind!r}: there is no driver for it (docs/write-a-driver.md)")
            )
            continue
        file = path.parent / name
        if not name or not file.is_file():
            imported.lost(f"{where}.configuration", f"there is no file {name!r} beside {path.name}")
            continue
        try:
            _connector(as_mapping(_read(file), name), name, report, imported)
        except ConfigError as problem:
            imported.lost(where, f"the file cannot be used: {problem}")


def _connector(tree: dict[str, Any], name: str, report: Any, imported: Imported) -> None:
    if "master" in tree or "server" in tree:
        read_modbus(tree, name, report, imported)
    elif "devices" in tree:
        read_serial(tree, name, imported)
    else:
        raise ConfigError(
            name, "is neither a tb_gateway.json nor a file of the Modbus (`master`) or serial (`devices`) connector"
        )


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "is no text in UTF-8") from None
    try:
        if path.suffix in (".yaml", ".yml"):
            return yaml.safe_load(text)
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}", f"is no JSON: {error.msg}") from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is no YAML: {error}") from None
