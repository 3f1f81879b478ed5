"""From readings to the sessions of their devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.domain.telemetry import TsKv, Value
from gateway.fieldbus.channel import BusChannel
from gateway.fieldbus.records import PollRecord, Records
from gateway.ports import Reading, Receipt
from gateway.supervise import Counters


class Delivery:
    """The channels of one bus' devices, and what goes through them."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.channels: dict[str, BusChannel] = {}
        self._attribute_keys: set[tuple[str, str]] = set()

    def take(
        self, unit: str, record: PollRecord | None, readings: Sequence[Reading], records: Records, now_s: float
    ) -> list[Receipt]:
        """Remember good readings and hand on those that are to be reported; what came by a poll, or unasked (None)."""
        self._counters.add("fieldbus.readings", len(readings))
        reported = records.take(unit, record, readings, now_s)
        if len(reported) != len(readings):
            self._counters.add("fieldbus.readings_unchanged", len(readings) - len(reported))
            for device in {reading.device for reading in readings}:  # it spoke, though there was nothing to tell
                self.channels[device].touch()
        receipts: list[Receipt] = []
        for device, (series, attributes) in self._sort(reported).items():
            items = [TsKv(ts_ms, values) for ts_ms, values in series.items()]
            posted = self.channels[device].post(items, attributes)
            if not posted:
                records.forget((device,))
            receipts += posted
        return receipts

    def _sort(self, readings: Sequence[Reading]) -> dict[str, tuple[dict[int, dict[str, Value]], dict[str, Value]]]:
        sorted_: dict[str, tuple[dict[int, dict[str, Value]], dict[str, Value]]] = {}
        device, ts_ms = None, 0
        values: dict[str, Value] = {}
        for reading in readings:
            if reading.is_attribute:
                self._attribute_keys.add((reading.device, reading.key))
                sorted_.setdefault(reading.device, ({}, {}))[1][reading.key] = reading.value
                continue
            if reading.ts_ms != ts_ms or reading.device != device:  # neighbours mostly share both
                device, ts_ms = reading.device, reading.ts_ms
                values = sorted_.setdefault(device, ({}, {}))[0].setdefault(ts_ms, {})
            values[reading.key] = reading.value
        return sorted_

    def is_attribute(self, device: str, key: str) -> bool:
        """True when readings of this tag have been attributes."""
        return (device, key) in self._attribute_keys

    def settle(self, receipts: Sequence[Receipt]) -> None:
        """Count those that will never be durable."""
        for receipt in receipts:
            if receipt.done() and not receipt.cancelled() and receipt.exception() is not None:
                self._counters.add("fieldbus.readings_rejected")

    def fall_silent(self, devices: Iterable[str]) -> None:
        """Nothing comes from them."""
        for device in devices:
            self.channels[device].fall_silent()

    def end(self) -> None:
        """The bus stops."""
        for channel in self.channels.values():
            channel.end()
        self.channels.clear()
