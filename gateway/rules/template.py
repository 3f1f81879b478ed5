"""Templates in configuration values: `${key}` is metadata, `$[a.b]` the body.

What is not found stays literally in the text. Source: reference rule-engine §3.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import orjson

from gateway.domain.entity import Json
from gateway.domain.message import Message
from gateway.rules.node import as_text

_METADATA: Final = re.compile(r"\$\{([^{}]+)\}")
_DATA: Final = re.compile(r"\$\[([^\[\]]+)\]")


def template(text: str) -> Callable[[Message], str]:
    """A function that fills the template in for a message; metadata first, then data."""
    if "${" not in text and "$[" not in text:
        return lambda msg: text

    def fill(msg: Message) -> str:
        with_metadata = _METADATA.sub(lambda found: _from_metadata(msg, found), text)
        return _DATA.sub(lambda found: _from_data(msg.data, found), with_metadata)

    return fill


def _from_metadata(msg: Message, found: re.Match[str]) -> str:
    if found[1] == "*":
        return orjson.dumps(msg.metadata).decode()
    return msg.metadata.get(found[1], found[0])


def _from_data(data: Json, found: re.Match[str]) -> str:
    if found[1] == "*":
        return orjson.dumps(data).decode()
    value = data
    for part in found[1].split("."):
        if not isinstance(value, dict) or part not in value:
            return found[0]
        value = value[part]
    return found[0] if value is None or isinstance(value, dict | list) else as_text(value)
