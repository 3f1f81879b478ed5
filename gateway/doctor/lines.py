"""Serial lines: adapters that the configuration names, who may open them and who has them, what comes on them.

No port is opened: that alone resets some devices.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gateway.doctor.findings import Finding, ok, problem, warning

_SERIAL: Final = Path("/dev/serial")
_PROC: Final = Path("/proc")


def serial_lines(
    trees: Sequence[Mapping[str, Any]], section: str, said: Sequence[Mapping[str, Any]] | None = None
) -> list[Finding]:
    """Each device file of a section: there, open to us, free, by a name that survives a reboot; and what comes on it.

    `said`: what the running service tells of these buses, in their order; None: it does not run.
    """
    stable = _stable_names()
    found = []
    for index, tree in enumerate(trees):
        told = said[index] if said is not None and index < len(said) else None
        for key, path in _device_files(tree, f"{section}[{index}]"):
            found.append(_look_at(key, path, stable, told) or ok(key, f"{path} is there"))
            if told is not None and (trouble := _trouble(key, told)) is not None:
                found.append(trouble)
    return found


def holders(path: str) -> dict[int, str]:
    """Who has this device file open or locked: pid to the name of the program, as far as this user may see it."""
    real, found = os.path.realpath(path), set()
    with suppress(OSError):
        seen = os.stat(real)
        mark = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
        for line in (_PROC / "locks").read_text().splitlines():  # what pyserial and others lock with flock
            words = line.split()
            if mark in words and words[words.index(mark) - 1].isdecimal():
                found.add(int(words[words.index(mark) - 1]))
    for folder in _PROC.glob("[0-9]*/fd"):
        with suppress(OSError):  # another user's, or gone meanwhile
            if any(os.readlink(link) == real for link in folder.iterdir()):
                found.add(int(folder.parent.name))
    return {pid: _program(pid) for pid in sorted(found)}


def _look_at(key: str, path: str, stable: Mapping[str, str], told: Mapping[str, Any] | None) -> Finding | None:
    """None: all is well."""
    try:
        seen = os.stat(path)
    except OSError as error:
        known = ", ".join(stable.values()) or "none is plugged in"
        return problem(key, f"{path}: {error.strerror or error}", f"adapters here: {known}")
    if not stat.S_ISCHR(seen.st_mode):
        return problem(key, f"{path} is no serial port", f"adapters here: {', '.join(stable.values()) or 'none'}")
    if not os.access(path, os.R_OK | os.W_OK):
        group = _group(seen.st_gid)
        remedy = f"the service's user must be in the group {group}: usermod -a -G {group} <user>, and restart it"
        text = f"{path} is {_user(seen.st_uid)}:{group} {stat.filemode(seen.st_mode)}, not open to {_user(os.getuid())}"
        return warning(key, text, remedy)
    is_ours = told is not None and told.get("lost_since_ms") is None  # who has it then is the service
    if not is_ours and (others := holders(path)):
        names = ", ".join(f"{name} (pid {pid})" for pid, name in others.items())
        return problem(key, f"{path} is in use by {names}", "a port belongs to one program: stop that one")
    better = stable.get(os.path.realpath(path))
    if better is not None and not path.startswith(str(_SERIAL)):
        return warning(key, f"{path} may be another adapter after a reboot", f"use {better}")
    return None


def _trouble(key: str, told: Mapping[str, Any]) -> Finding | None:
    """What the running service sees on a line that does not work, or not wholly."""
    if told.get("lost_since_ms") is not None:
        return problem(key, str(told.get("last_error")), "see what the text says; the port is looked for all the time")
    silent = [unit for unit in told.get("units", ()) if not unit.get("ok") and unit.get("last_error")]
    if silent:
        return warning(key, str(silent[0]["last_error"]), "compare the settings of the line with those of the device")
    line = told.get("line", {})
    bad, good = line.get("bad_frames", 0), line.get("frames", 0)
    if isinstance(bad, int) and bad * 20 > good:
        return warning(key, f"{bad} bad frames beside {good} good ones, the last: {line.get('last_bad')}", _CABLE)
    return None


_CABLE: Final = "look at the wires, their screen and their ends; edge-gateway serial listen shows what comes"


def _stable_names() -> dict[str, str]:
    """Device file to the name that stays: of the adapter itself, else of its socket."""
    found: dict[str, str] = {}
    for folder in ("by-path", "by-id"):
        found |= {os.path.realpath(link): str(link) for link in sorted((_SERIAL / folder).glob("*"))}
    return found


def _device_files(tree: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _device_files(value, f"{where}.{key}")
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _device_files(value, f"{where}[{index}]")
    elif isinstance(tree, str) and tree.startswith("/dev/"):
        yield where, tree


def _program(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return "a program"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
