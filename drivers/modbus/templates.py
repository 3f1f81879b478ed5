"""Device templates: the register map of a kind of device, written once and used by name.

Those that come along lie in `devices/` beside this file, a user's own in `devices/` beside the configuration file;
where both have one of a name, the user's is taken.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from drivers.modbus.point import Point
from drivers.modbus.registers import Order
from gateway.config import Settings, load_settings
from gateway.errors import ConfigError
from gateway.ports import DeviceTemplate, Report

READY: Final = Path(__file__).parent / "devices"
FOLDER: Final = "devices"
"""Beside the configuration file: where a user's own templates lie."""

Sure = Literal["tried", "documented", "reported"]
"""How a register map is known: tried with a device; from the maker's document; from others who use it."""


class Group(Settings):
    """Points that are read equally often."""

    every_ms: PositiveInt
    attributes: bool = Field(False, description="Posted as client attributes instead of telemetry.")
    report: Report | None = None


class TemplatePoint(Point):
    """A point, and the group that says how often it is read."""

    group: Annotated[str, Field(min_length=1)]


class LineSettings(Settings):
    """What a device's serial port is set to when it leaves the factory."""

    baud: PositiveInt | None = None
    parity: Literal["none", "even", "odd"] | None = None
    stop_bits: Literal[1, 2] | None = None


class Template(Settings):
    """One kind of device."""

    description: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1, description="Name of the maker's document, and its release.")]
    sure: Sure = "documented"
    notes: str | None = None
    profile: Annotated[str, Field(min_length=1)] = "default"
    line: LineSettings = LineSettings()
    byte_order: Order = Order.BIG
    word_order: Order = Order.BIG
    groups: Annotated[dict[str, Group], Field(min_length=1)]
    points: Annotated[tuple[TemplatePoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Template:
        seen: set[str] = set()
        for index, point in enumerate(self.points):
            if point.group not in self.groups:
                known = ", ".join(self.groups)
                raise ValueError(f"points[{index}] ({point.key}): no group {point.group!r}; there are {known}")
            if point.key in seen:
                raise ValueError(f"points[{index}]: the key {point.key!r} stands twice; keys are unique in a device")
            seen.add(point.key)
        return self


class GroupUse(Settings):
    """What a device changes of a group of its template."""

    every_ms: PositiveInt | None = None
    report: Report | None = None


class TemplateUse(Settings):
    """The part of a device's configuration that says which template it follows, and where it differs."""

    template: str | None = Field(None, description="Name of a template; its points come before those that stand here.")
    groups: dict[str, GroupUse] = Field(default_factory=dict, description="Other periods for groups of the template.")
    leave_out: tuple[str, ...] = Field((), description="Keys of the template that are not read; * and ? are patterns.")
    prefix: str = Field("", description="Stands before each key of the template.")

    @field_validator("prefix")
    @classmethod
    def _is_short(cls, prefix: str) -> str:
        if len(prefix) > 64:
            raise ValueError("is longer than 64 characters")
        return prefix


def names(folder: Path | None = None) -> list[str]:
    """What `template` may say; `folder` is that of the configuration file."""
    folders = [READY, *([folder / FOLDER] if folder is not None else [])]
    return sorted({path.stem for each in folders for path in each.glob("*.yaml")})


def find(name: str, folder: Path | None = None) -> Path:
    """The file of one template.

    Raises:
        ValueError: There is none of this name; the text says which there are.
    """
    for place in (*([folder / FOLDER] if folder is not None else []), READY):
        path = place / f"{name}.yaml"
        if re.fullmatch(r"[\w.-]+", name) and path.is_file():
            return path
    known = names(folder)
    close = difflib.get_close_matches(name, known, n=1)
    raise ValueError(
        f"there is no template {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")
    )


def load(path: Path) -> Template:
    """One file, read again when it has changed.

    Raises:
        ConfigError: The place begins with the file.
    """
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None


@lru_cache(maxsize=64)
def _load(path: Path, _changed_ns: int) -> Template:
    return load_settings(Template, path)


def known(folder: Path | None = None) -> Sequence[DeviceTemplate]:
    """All templates, for a person.

    Raises:
        ConfigError: One of them cannot be used.
    """
    return [_described(find(name, folder)) for name in names(folder)]


def _described(path: Path) -> DeviceTemplate:
    template = load(path)
    line = template.line
    settings = [f"{line.baud} baud" if line.baud else "", f"parity {line.parity}" if line.parity else ""]
    settings.append(f"{line.stop_bits} stop bits" if line.stop_bits else "")
    return DeviceTemplate(
        name=path.stem,
        description=template.description,
        source=f"{template.source} ({template.sure})",
        place=str(path),
        notes=" ".join((template.notes or "").split()),
        line=", ".join(text for text in settings if text),
        points=tuple(_row(point, template.groups[point.group]) for point in template.points),
    )


def _row(point: TemplatePoint, group: Group) -> tuple[str, str]:
    what = [f"{point.table} {point.address}", point.type.value, point.unit or ""]
    what.append(f"{point.group}: every {point.every_ms or group.every_ms} ms")
    what.append("attribute" if group.attributes else "")
    if point.writable:
        low, high = point.min, point.max
        what.append("writable" + (f" {low:g} to {high:g}" if low is not None and high is not None else ""))
    if point.values:
        what.append(", ".join(f"{number} = {name}" for number, name in point.values.items()))
    return point.key, "; ".join(text for text in what if text)


def expand(tree: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The tree of a device with the points of its template in it; a point that stands there already wins.

    Raises:
        ValueError: What is said about the template does not fit it. A template that does not exist, or cannot be
            read, is left to the validation of `template`, which knows its place in the file.
    """
    try:
        template = load(find(str(tree["template"]), folder))
    except (ValueError, ConfigError):
        return dict(tree)
    use = TemplateUse.model_validate({key: tree[key] for key in TemplateUse.model_fields if key in tree})
    for name in use.groups:
        if name not in template.groups:
            raise ValueError(f"groups.{name}: {use.template} has no such group; it has {', '.join(template.groups)}")
    patterns = {text: re.compile(_pattern(text)) for text in use.leave_out}
    keys = [point.key for point in template.points]
    for text, pattern in patterns.items():
        if not any(pattern.fullmatch(key) for key in keys):
            close = difflib.get_close_matches(text, keys, n=1)
            raise ValueError(
                f"leave_out: {use.template} has no key {text!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
    orders = {"byte_order": template.byte_order, "word_order": template.word_order}
    result: dict[str, Any] = {"profile": template.profile, **orders, **tree}
    own = {section: list(tree.get(section) or ()) for section in ("telemetry", "attributes")}
    beside = (*own["telemetry"], *own["attributes"], *(tree.get("on_demand") or ()))
    taken = {point.get("key") for point in beside if isinstance(point, Mapping)}
    for point in template.points:
        key = use.prefix + point.key
        if key in taken or any(pattern.fullmatch(point.key) for pattern in patterns.values()):
            continue
        group, changed = template.groups[point.group], use.groups.get(point.group, GroupUse())
        more: dict[str, Any] = {"key": key, "every_ms": changed.every_ms or point.every_ms or group.every_ms}
        report = changed.report or point.report or group.report
        if report is not None:
            more["report"] = report
        fields = point.model_dump(exclude_unset=True, exclude={"group"})
        own["attributes" if group.attributes else "telemetry"].append(fields | more)
    return result | {section: tuple(points) for section, points in own.items() if points}


def line_settings(devices: Any, folder: Path | None, said: Container[str]) -> dict[str, Any]:
    """Settings of the serial port that the templates of these devices name, without those that are said already.

    Raises:
        ValueError: They name different ones.
    """
    found: dict[str, dict[Any, str]] = {}
    for tree in devices if isinstance(devices, list | tuple) else ():
        if not (isinstance(tree, Mapping) and isinstance(tree.get("template"), str)):
            continue
        try:
            line = load(find(tree["template"], folder)).line
        except (ValueError, ConfigError):
            continue  # the device itself complains, with its place
        for key, value in line.model_dump(exclude_none=True).items():
            found.setdefault(key, {}).setdefault(value, tree["template"])
    result: dict[str, Any] = {}
    for key, values in found.items():
        if key in said:
            continue
        if len(values) > 1:
            differ = ", ".join(f"{values[value]} {value}" for value in sorted(values))
            raise ValueError(
                f"the templates differ in {key} ({differ}); set the devices alike, and say `{key}` under `line`"
            )
        result[key] = next(iter(values))
    return result


def _pattern(text: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in text)
