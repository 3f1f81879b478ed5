"""`edge-gateway modbus`: registers by hand, through the running service. Imported when it is called or listed."""

from __future__ import annotations

import getpass
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from gateway import cli
from gateway.errors import ConfigError, RejectedError
from gateway.ports import Registers, RegisterTool

_TOLD_S: Final = 2.0  # between two lines of progress
_CONTEXT: Final = {"help_option_names": ["-h", "--help"]}


class _NoAnswer(Exception):
    """The unit is silent, or nobody on the bus can be reached (`is_lost`)."""

    def __init__(self, text: str, is_lost: bool) -> None:
        super().__init__(text)
        self.is_lost = is_lost


class _Refused(Exception):
    """The unit answered with an exception code."""


def _number(text: str) -> int:
    """12 or 0x0C."""
    try:
        return int(text, 0) if isinstance(text, str) else int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number") from None


class _Line:
    """One bus of the running gateway."""

    def __init__(self, config_path: Path | None, bus: str) -> None:
        self._config_path, self._bus = config_path, bus
        self.took_ms = 0

    def ask(self, unit: int, pdu: bytes) -> bytes:
        """The PDU that answers, refusals included.

        Raises:
            _NoAnswer: None came.
        """
        order = {"bus": self._bus, "unit": str(unit), "pdu": pdu.hex(), "who": _who()}
        said = cli.ask_gateway(self._config_path, "/buses/raw", order)
        self.took_ms = said["took_ms"]
        if "error" in said:
            raise _NoAnswer(said["error"], said["kind"] == "lost")
        return bytes.fromhex(said["pdu"])

    def read(self, unit: int, place: Registers) -> list[Any]:
        """The values."""
        tool = _tool()
        answers = []
        for pdu in tool.read(place):
            answer = self.ask(unit, pdu)
            if (why := tool.refusal(answer)) is not None:
                raise _Refused(why)
            answers.append(answer)
        return list(tool.values(place, answers))


def _who() -> str:
    try:
        return f"{os.environ.get('SUDO_USER') or getpass.getuser()} (uid {os.getuid()})"
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _tool() -> RegisterTool:
    from gateway.fieldbus.plugins import Plugins

    try:
        make = Plugins().get("modbus", "drivers").tool
    except ConfigError as error:
        _fail(str(error), 2)
    if make is None:
        _fail("the installed modbus driver has no such commands", 2)
    return make()


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"edge-gateway: {text}", err=True)
    sys.exit(code)


@contextmanager
def _answering(where: str) -> Iterator[None]:
    """What goes wrong ends the program with a text and its code: 1 no answer or a refusal, 2 a wrong order."""
    try:
        yield
    except RejectedError as error:
        _fail(str(error), 2)
    except _NoAnswer as error:
        _fail(str(error), 1)
    except _Refused as error:
        _fail(f"{where}: {error}", 1)


def _meaning(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what registers mean."""
    order = click.Choice(["big", "little"])
    for option in (
        cli.config_option,
        click.option("--json", "as_json", is_flag=True, help="As JSON."),
        click.option("--word-order", default="big", show_default=True, type=order, help="Registers within a value."),
        click.option("--byte-order", default="big", show_default=True, type=order, help="Bytes within a register."),
        click.option("--type", "kind", default="", help="int16, uint16 (default), float32, uint32, string …"),
    ):
        command = option(command)
    return command


@click.group(context_settings=_CONTEXT)
def modbus() -> None:
    """Registers by hand, through the running gateway: in turn with its polling, never beside it.

    BUS is the name in the configuration; TABLE is coil, discrete, input or holding; addresses are zero-based: 40001 of
    a manual is holding 0. Exit code 0, 1 no answer or refused, 2 not running or a wrong order.
    """


@modbus.command()
@click.argument("bus")
@click.argument("unit", type=click.IntRange(0, 255))
@click.argument("table")
@click.argument("address", type=_number)
@click.argument("count", type=_number, default=1)
@_meaning
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--every", default=1.0, show_default=True, type=click.FloatRange(0.1), help="Seconds, with --watch.")
def read(
    bus: str,
    unit: int,
    table: str,
    address: int,
    count: int,
    kind: str,
    byte_order: str,
    word_order: str,
    as_json: bool,
    config_path: Path | None,
    watch: bool,
    every: float,
) -> None:
    """Read COUNT values (of a string: its registers)."""
    place = Registers(
        table=table, address=address, count=count, type=kind, byte_order=byte_order, word_order=word_order
    )
    line = _Line(config_path, bus)
    where = f"{bus}: unit {unit}, {table} {address}"
    if not watch:
        with _answering(where):
            values = line.read(unit, place)
        click.echo(json.dumps(values) if as_json else "\n".join(_rows(place, values)))
        return
    with suppress(KeyboardInterrupt), _answering(where):
        while True:
            _look_again(line, unit, place, as_json)
            time.sleep(every)


def _look_again(line: _Line, unit: int, place: Registers, as_json: bool) -> None:
    moment = time.strftime("%H:%M:%S")
    try:
        values = line.read(unit, place)
    except (_NoAnswer, _Refused) as error:
        click.echo(f"{moment}  {error}", err=True)
    else:
        click.echo(json.dumps(values) if as_json else f"{moment}  {'  '.join(map(_text, values))}")


def _rows(place: Registers, values: Sequence[Any]) -> Iterator[str]:
    width = _tool().width(place)
    for index, value in enumerate(values):
        yield f"{place.address + index * width:>5}  {_text(value)}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@modbus.command(context_settings={**_CONTEXT, "ignore_unknown_options": True})
@click.argument("bus")
@click.argument("unit", type=click.IntRange(0, 255))
@click.argument("table")
@click.argument("address", type=_number)
@click.argument("values", nargs=-1, required=True)
@_meaning
@click.option("--function", default=0, type=int, help="5, 6, 15 or 16 instead of the usual one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def write(
    bus: str,
    unit: int,
    table: str,
    address: int,
    values: tuple[str, ...],
    kind: str,
    byte_order: str,
    word_order: str,
    as_json: bool,
    config_path: Path | None,
    function: int,
    yes: bool,
) -> None:
    """Write VALUES one behind the other, in one request; says what was there before, and what is there then.

    Limits of the configuration do not apply. Exit code 1 as well when the device then holds another value.
    """
    place = Registers(
        table=table, address=address, type=kind, byte_order=byte_order, word_order=word_order, function=function
    )
    line, tool = _Line(config_path, bus), _tool()
    where = f"{bus}: unit {unit}, {table} {address}"
    with _answering(where):
        pdu = tool.write(place, values)
        size = len(values)
        if kind in ("string", "hex"):
            text = values[0]
            size = max(1, (len(text.encode()) + 1) // 2 if kind == "string" else len(text.replace(" ", "")) // 4)
        place = replace(place, count=size)
        wanted = list(tool.values(place, tool.as_read(place, pdu)))
        before = _look(line, unit, place)
        if not as_json:
            click.echo(f"before: {_shown(before)}")
        if not yes:
            _confirm(f"Write {' '.join(values)} to {where}?")
        answer = line.ask(unit, pdu)
        if (why := tool.refusal(answer)) is not None:
            raise _Refused(why)
        after = _look(line, unit, place)
    if as_json:
        click.echo(json.dumps({"before": before, "written": list(values), "after": after}))
    else:
        click.echo(f"after:  {_shown(after)}")
    if after is None:
        click.echo("written, but it cannot be read back", err=True)
    elif after != wanted:
        click.echo(f"the device holds another value than was written ({' '.join(values)})", err=True)
        sys.exit(1)


def _look(line: _Line, unit: int, place: Registers) -> list[Any] | None:
    """None: it cannot be read, as things that can only be written."""
    try:
        return line.read(unit, place)
    except (_Refused, RejectedError):
        return None
    except _NoAnswer as error:
        if error.is_lost:
            raise
        return None


def _shown(values: Sequence[Any] | None) -> str:
    return "cannot be read" if values is None else "  ".join(map(_text, values))


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        _fail("nobody can be asked here: --yes writes without asking", 2)
    click.confirm(question, abort=True, err=True)


@modbus.command()
@click.argument("bus")
@click.option("--units", default="1-247", show_default=True, help="Such as 1-10,17.")
@click.option("--tables", default="holding,input,coil,discrete", show_default=True, help="Where to look.")
@click.option("--address", default=0, show_default=True, type=_number, help="What to read there.")
@cli.config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def scan(bus: str, units: str, tables: str, address: int, config_path: Path | None, as_json: bool) -> None:
    """Who answers? One request for a unit that is silent, one for each table for one that is there.

    Rests as long as each request took: half of the line is left to polling. Ctrl-C stops it. Exit code 1: nobody.
    """
    tool, line = _tool(), _Line(config_path, bus)
    found: list[dict[str, Any]] = []
    unit, is_stopped = 0, False
    with _answering(bus):
        numbers = _numbers(units)
        requests = [
            (table, tool.read(Registers(table=table, address=address))[0], Registers(table=table, address=address))
            for table in tables.split(",")
        ]
    told_s = time.monotonic()
    try:
        for unit in numbers:
            if time.monotonic() - told_s >= _TOLD_S:
                told_s = time.monotonic()
                click.echo(f"unit {unit} … {len(found)} found", err=True)
            with _answering(bus):
                seen = _look_at(line, tool, unit, requests)
            if seen:
                found.append({"unit": unit, "tables": seen})
                if not as_json:
                    click.echo(f"unit {unit}: {', '.join(f'{table} {_said(one)}' for table, one in seen.items())}")
    except KeyboardInterrupt:
        is_stopped = True
    if as_json:
        click.echo(json.dumps(found))
    end = f"stopped at unit {unit}" if is_stopped else f"{len(numbers)} units asked"
    click.echo(f"{end}, {len(found)} found", err=True)
    sys.exit(130 if is_stopped else 0 if found else 1)


def _look_at(
    line: _Line, tool: RegisterTool, unit: int, requests: Sequence[tuple[str, bytes, Registers]]
) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for table, pdu, place in requests:
        try:
            answer = line.ask(unit, pdu)
        except _NoAnswer as error:
            if error.is_lost:
                raise
            time.sleep(line.took_ms / 1000)
            return seen
        why = tool.refusal(answer)
        seen[table] = {"value": tool.values(place, [answer])[0]} if why is None else {"refused": why.split("; ")[0]}
        time.sleep(line.took_ms / 1000)
    return seen


def _said(one: dict[str, Any]) -> str:
    return f"= {_text(one['value'])}" if "value" in one else f"({one['refused']})"


def _numbers(text: str) -> list[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or not 0 <= int(first) <= int(last or first) <= 255:
            raise RejectedError(f"units {part!r} are none; right is 1-247 or 1,2,17 (0 to 255)")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


@modbus.command()
@click.argument("bus")
@click.argument("unit", type=click.IntRange(0, 255))
@click.argument("digits", metavar="HEX")
@click.option("--yes", is_flag=True, help="Do not ask before what writes.")
@cli.config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def raw(bus: str, unit: int, digits: str, yes: bool, config_path: Path | None, as_json: bool) -> None:
    """Send HEX, a function code and what belongs to it (without unit and checksum); prints the answer.

    `modbus raw BUS 1 2B0E0100` asks a unit who it is.
    """
    tool, line = _tool(), _Line(config_path, bus)
    with _answering(f"{bus}: unit {unit}"):
        try:
            pdu = bytes.fromhex(digits.removeprefix("0x").replace(":", " "))
        except ValueError:
            raise RejectedError(f"{digits!r}: hexadecimal digits, two for each byte") from None
        if tool.may_write(pdu) and not yes:
            _confirm(f"Function {pdu[0]} writes. Send it to {bus}, unit {unit}?")
        answer = line.ask(unit, pdu)
        why = tool.refusal(answer)
    if as_json:
        click.echo(json.dumps({"pdu": answer.hex(), "refused": why}))
    else:
        click.echo(answer.hex(" ") or "sent to all units, who do not answer")
    if why is not None:
        click.echo(f"edge-gateway: {bus}: unit {unit}: {why}", err=True)
        sys.exit(1)
