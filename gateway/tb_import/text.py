"""The buses and servers of an import as a commented piece of configuration."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

from gateway.tb_import.notes import Imported

_FLOW = ("points", "telemetry", "attributes", "on_demand", "messages", "commands")


class _Dumper(yaml.SafeDumper):
    """A point stands in one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Lists are indented below their key."""
        super().increase_indent(flow, False)


class _Line(dict[str, Any]):
    """Written as {a: 1, b: 2}."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Line ends and control characters as escapes, in double quotes."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _text)
_Dumper.add_representer(
    _Line, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", dict(data), flow_style=True)
)


def to_yaml(imported: Imported, source: str) -> str:
    """A file that `check-config` takes, or that goes into `conf.d`; the notes stand above, as comments."""
    lines = [f"# Made from {source} by `edge-gateway import tb-gateway`."]
    lost = [note for note in imported.notes if note.is_lost]
    changed = [note for note in imported.notes if not note.is_lost]
    for title, notes in (("Not carried over", lost), ("Carried over, with a difference", changed)):
        if notes:
            lines += ["#", f"# {title}:"]
        for note in notes:
            text = f"{note.where}: {note.text}".encode("unicode_escape").decode("ascii", "replace")
            lines += textwrap.wrap(text, 110, initial_indent="# - ", subsequent_indent="#   ", break_long_words=False)
    tree = {"buses": [bus | {"devices": [_lined(device) for device in bus["devices"]]} for bus in imported.buses]}
    if imported.servers:
        tree["servers"] = [
            server | {"units": [_lined(unit) for unit in server["units"]]} for server in imported.servers
        ]
    body = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return "\n".join(lines) + "\n" + body


def _lined(device: dict[str, Any]) -> dict[str, Any]:
    return {key: [_Line(point) for point in value] if key in _FLOW else value for key, value in device.items()}
