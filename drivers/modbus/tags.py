"""The points of a configuration, ready for use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from drivers.modbus.config import ModbusConfig
from drivers.modbus.grouping import Span
from drivers.modbus.point import Point
from drivers.modbus.registers import Layout, Table, Type, reader
from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.ports import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A point of the configuration, ready for use."""

    device: str
    key: str
    unit_id: int
    table: Table
    address: int
    count: int
    layout: Layout
    value: Callable[[Sequence[int]], Value]  # what the content of its registers or bits means
    is_writable: bool
    is_attribute: bool
    is_polled: bool = True  # False: read when somebody asks
    report: Report | None = None
    limits: tuple[float | None, float | None] = (None, None)  # of what may be written
    step: float | None = None  # only multiples of it are written
    write_function: int | None = None
    read_back: bool = True
    numbers: Mapping[str, int] = field(default_factory=dict)  # name of a value to what is written for it

    def to_write(self, value: Json) -> Json:
        """What a caller gave as what is encoded: a name as its number, a number within the limits.

        Raises:
            RejectedError: Beyond the limits, or a text that is no name.
        """
        if self.numbers and isinstance(value, str):
            if value not in self.numbers:
                raise RejectedError(f"{value!r} is none of {', '.join(str(name) for name in self.numbers)}")
            return self.numbers[value]
        if self.numbers and isinstance(value, int | float) and value not in self.numbers.values():
            known = ", ".join(f"{number} ({name})" for name, number in self.numbers.items())
            raise RejectedError(f"{value} is none of {known}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._check(value)
        return value

    def _check(self, value: int | float) -> None:
        low, high = self.limits
        if (low is not None and value < low) or (high is not None and value > high):
            ends = " to ".join("…" if end is None else f"{end:g}" for end in self.limits)
            raise RejectedError(f"{value:g} is outside of {ends}")
        if self.step is not None and math.isfinite(value):
            steps = (value - (low or 0)) / self.step
            if abs(steps - round(steps)) > 1e-6:
                nearest = (low or 0) + round(steps) * self.step
                raise RejectedError(f"{value:g} is no step of {self.step:g}; the nearest is {nearest:g}")

    @property
    def name(self) -> str:
        """As a person finds it."""
        return f"{self.device}.{self.key}"


def spans(config: ModbusConfig) -> Iterable[Span[Tag]]:
    """Every point of every device, and where it lies."""
    for device in config.devices:
        for points, section in (
            (device.telemetry, "telemetry"),
            (device.attributes, "attributes"),
            (device.on_demand, "on_demand"),
        ):
            for point in points:
                unit_id = device.unit_id if point.unit_id is None else point.unit_id
                tag = Tag(
                    device=device.name,
                    key=point.key,
                    unit_id=unit_id,
                    table=point.table,
                    address=point.address,
                    count=point.span,
                    layout=device.layout(point),
                    value=_named(point, meaning(point.table, device.layout(point))),
                    is_writable=point.writable,
                    is_attribute=section == "attributes",
                    is_polled=section != "on_demand",
                    report=point.report or device.report,
                    limits=(point.min, point.max),
                    step=point.step,
                    write_function=point.write_function,
                    read_back=point.read_back,
                    numbers={name: number for number, name in (point.values or {}).items() if isinstance(name, str)},
                )
                yield Span(
                    unit_id=unit_id,
                    table=point.table,
                    address=point.address,
                    count=point.span,
                    every_ms=point.every_ms or device.every_ms,
                    point=tag,
                )


def _named(point: Point, read: Callable[[Sequence[int]], Value]) -> Callable[[Sequence[int]], Value]:
    names = point.values
    if names is None:
        return read

    def named(content: Sequence[int]) -> Value:
        number = read(content)
        return names.get(int(number), number) if isinstance(number, int) else number

    return named


def meaning(table: Table, layout: Layout) -> Callable[[Sequence[int]], Value]:
    """What the content of registers or bits means."""
    if not table.is_bits:
        return reader(layout)
    if layout.type is Type.BITS:
        return lambda bits: [bool(bit) for bit in bits]
    return lambda bits: bool(bits[0])
