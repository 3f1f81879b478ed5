"""The points of a configuration, ready for use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from drivers.modbus.config import ModbusConfig
from drivers.modbus.grouping import Span
from drivers.modbus.registers import Layout, Table, Type, reader
from gateway.domain.telemetry import Value
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
    report: Report | None = None

    @property
    def name(self) -> str:
        """As a person finds it."""
        return f"{self.device}.{self.key}"


def spans(config: ModbusConfig) -> Iterable[Span[Tag]]:
    """Every point of every device, and where it lies."""
    for device in config.devices:
        for points, is_attribute in ((device.telemetry, False), (device.attributes, True)):
            for point in points:
                tag = Tag(
                    device=device.name,
                    key=point.key,
                    unit_id=device.unit_id,
                    table=point.table,
                    address=point.address,
                    count=point.span,
                    layout=device.layout(point),
                    value=_meaning(point.table, device.layout(point)),
                    is_writable=point.writable,
                    is_attribute=is_attribute,
                    report=point.report or device.report,
                )
                yield Span(
                    unit_id=device.unit_id,
                    table=point.table,
                    address=point.address,
                    count=point.span,
                    every_ms=point.every_ms or device.every_ms,
                    point=tag,
                )


def _meaning(table: Table, layout: Layout) -> Callable[[Sequence[int]], Value]:
    if not table.is_bits:
        return reader(layout)
    if layout.type is Type.BITS:
        return lambda bits: [bool(bit) for bit in bits]
    return lambda bits: bool(bits[0])
