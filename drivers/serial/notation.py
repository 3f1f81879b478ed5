"""How bytes are written in the configuration file, and what is sent is made of. Pure."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.telemetry import Value
from gateway.errors import RejectedError

_HEX: Final = re.compile(r"\s*hex:(.*)", re.DOTALL)
_HOLE: Final = re.compile(r"\{\{|\}\}|\{(value|checksum)(?::([^{}]*))?\}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def to_bytes(text: str) -> bytes:
    """`hex: AA C0` as those bytes, anything else as its UTF-8.

    Raises:
        ValueError: Not hexadecimal.
    """
    match = _HEX.fullmatch(text)
    if match is None:
        return text.encode()
    try:
        return bytes.fromhex(match[1])
    except ValueError:
        raise ValueError(f"{text!r}: after `hex:` two digits a byte are expected, such as `hex: AA C0`") from None


def shown(data: bytes, limit: int = 32) -> str:
    """For a person: hexadecimal, and the text beside it."""
    head = data[:limit]
    more = f" … ({len(data)} bytes)" if len(data) > limit else ""
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in head)
    return f"{head.hex(' ').upper()}{more} '{text}'" if data else "nothing"


@dataclass(frozen=True, slots=True)
class Template:
    """What is sent: fixed parts, and holes for a value and for the checksum of what stands before it."""

    parts: tuple[bytes | tuple[str, str], ...]
    is_binary: bool
    encoding: str = "utf-8"

    @property
    def takes_value(self) -> bool:
        """There is a `{value}` in it."""
        return any(part[0] == "value" for part in self.parts if isinstance(part, tuple))

    @property
    def takes_checksum(self) -> bool:
        """There is a `{checksum}` in it."""
        return any(part[0] == "checksum" for part in self.parts if isinstance(part, tuple))

    def render(self, value: Any = None, checksum: Callable[[bytes], bytes] | None = None) -> bytes:
        """The bytes to send.

        Raises:
            RejectedError: The value does not fit.
        """
        sent = b""
        for part in self.parts:
            if isinstance(part, bytes):
                sent += part
            elif part[0] == "value":
                sent += self._value(value, part[1])
            else:
                sent += checksum(sent) if checksum is not None else b""
        return sent

    def _value(self, value: Value, form: str) -> bytes:
        if isinstance(value, dict | list) or value is None:
            raise RejectedError("needs one number, text or truth as its value")
        try:
            if self.is_binary:
                return struct.pack(form, value)
            text = ("1" if value else "0") if isinstance(value, bool) and not form else format(value, form)
            if _CONTROL.search(text):
                raise RejectedError("a value must not contain control characters: they would be read as another line")
            return text.encode(self.encoding)
        except (struct.error, ValueError, TypeError, OverflowError) as error:
            raise RejectedError(f"{value!r} cannot be written as {form or self.encoding!r}: {error}") from None


def to_template(text: str, encoding: str = "utf-8") -> Template:
    r"""`SET {value:05.1f}\r\n` or `hex: AA B4 {value:<H} {checksum} AB`; `{{` and `}}` are braces in a text.

    Raises:
        ValueError: What is wrong with it.
    """
    match = _HEX.fullmatch(text)
    body, is_binary = (match[1], True) if match else (text, False)
    parts: list[bytes | tuple[str, str]] = []
    fixed, position = "", 0
    for mark in _HOLE.finditer(body):
        fixed += _plain(body[position : mark.start()], body)
        position = mark.end()
        if mark[1] is None:
            fixed += mark[0][0]
            continue
        form = mark[2] or ""
        _check_form(mark[1], form, is_binary)
        parts += [_encoded(fixed, is_binary, encoding), (mark[1], form)]
        fixed = ""
    parts.append(_encoded(fixed + _plain(body[position:], body), is_binary, encoding))
    return Template(tuple(parts), is_binary, encoding)


def _plain(text: str, body: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError(f"{body!r}: only {{value}} and {{checksum}} may stand in braces")
    return text


def _encoded(text: str, is_binary: bool, encoding: str) -> bytes:
    return to_bytes(f"hex:{text}") if is_binary else text.encode(encoding)


def _check_form(what: str, form: str, is_binary: bool) -> None:
    if what == "checksum":
        if form:
            raise ValueError("{checksum} has the form that `checksum` says; nothing stands behind it")
        return
    if is_binary:
        try:
            count = len(struct.unpack(form, bytes(struct.calcsize(form)))) if form else 0
        except struct.error:
            count = 0
        if count != 1:
            raise ValueError("among hexadecimal bytes {value} needs one struct code, such as {value:<H}")
        return
    if len(form) > 16 or sum(character.isdigit() for character in form) > 4:
        raise ValueError(f"{form!r} is too long for the form of a value, such as 05.1f")
