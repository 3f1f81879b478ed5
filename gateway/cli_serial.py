"""`edge-gateway serial`: a serial line by hand, through the running service. Imported when it is called or listed."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from gateway import cli

_CONTEXT: Final = {"help_option_names": ["-h", "--help"]}
_LOOK_S: Final = 0.25
_ESCAPE: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_ESCAPES: Final = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}


class _Bytes(click.ParamType[bytes]):
    r"""`SN\r\n` or `hex: AA C0`."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """From what was typed."""
        if isinstance(value, bytes):
            return value
        text = str(value)
        if text.lower().startswith("hex:"):
            try:
                return bytes.fromhex(text[4:])
            except ValueError:
                self.fail(f"{text!r}: after hex: two digits a byte, such as 'hex: AA C0'", param, ctx)
        data, position = b"", 0
        for found in _ESCAPE.finditer(text):
            data += text[position : found.start()].encode()
            position = found.end()
            if found[1]:
                data += bytes.fromhex(found[1])
            elif found[2] in _ESCAPES:
                data += _ESCAPES[found[2]].encode()
            else:
                self.fail(rf"\{found[2]} means nothing; known are \r \n \t \0 \\ \x41", param, ctx)
        return data + text[position:].encode()


@click.group(context_settings=_CONTEXT)
def serial() -> None:
    """A serial line by hand, through the running gateway: in turn with its questions, never beside them.

    BUS is the name in the configuration. Exit code 0, 1 nothing came, 2 not running or a wrong order.
    """


@serial.command()
@click.argument("bus")
@click.argument("data", type=_Bytes())
@cli.config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def send(bus: str, data: bytes, config_path: Path | None, as_json: bool) -> None:
    r"""Send DATA as it is, such as 'SN\r\n' or 'hex: AA C0', and print what comes until the line is quiet.

    Nothing is added: no end mark, no checksum. What comes is treated as what it is besides. The service's log has who
    sent what.
    """
    if not data:
        raise click.BadParameter("nothing to send; `edge-gateway serial listen` looks on", param_hint="DATA")
    order = {"bus": bus, "unit": "", "pdu": data.hex(), "who": _who()}
    said = cli.ask_gateway(config_path, "/buses/raw", order)
    if "error" in said:
        click.echo(f"edge-gateway: {said['error']}", err=True)
        sys.exit(1)
    came = bytes.fromhex(said["pdu"])
    if as_json:
        click.echo(json.dumps({"data": came.hex(), "took_ms": said["took_ms"]}))
    elif came:
        click.echo(_shown(came))
    else:
        click.echo("nothing came", err=True)
    sys.exit(0 if came else 1)


@serial.command()
@click.argument("bus")
@click.option("--seconds", type=click.FloatRange(0.1), help="So long; default: until Ctrl-C.")
@cli.config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def listen(bus: str, seconds: float | None, config_path: Path | None, as_json: bool) -> None:
    """Show what passes on the line: bytes that were sent and that came, and what became of them."""
    until_s = None if seconds is None else time.monotonic() + seconds
    after, count = 0, 0
    is_first = True
    try:
        while True:
            rows = cli.ask_gateway(config_path, "/buses/trace", {"bus": bus, "after": after})["rows"]
            for row in rows:
                if not is_first and row["n"] > after + 1:
                    click.echo(f"{row['n'] - after - 1} rows were faster than this program", err=True)
                after, is_first = row["n"], False
                count += row["what"] == "came"
                click.echo(json.dumps(row) if as_json else _line(row))
            if until_s is not None and time.monotonic() >= until_s:
                break
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        sys.exit(130)
    if not count:
        click.echo("nothing came", err=True)
    sys.exit(0 if count else 1)


def _line(row: dict[str, Any]) -> str:
    moment = time.strftime("%H:%M:%S", time.localtime(row["ts_ms"] / 1000))
    text = _shown(bytes.fromhex(row["data"])) if row["data"] else row["text"]
    return f"{moment}.{row['ts_ms'] % 1000:03d}  {row['what']:<7}  {text}"


def _shown(data: bytes) -> str:
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    return f"{data.hex(' ').upper()}  '{text}'"


def _who() -> str:
    try:
        return f"{os.environ.get('SUDO_USER') or getpass.getuser()} (uid {os.getuid()})"
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
