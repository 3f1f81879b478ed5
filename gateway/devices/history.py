"""Telemetry that is kept here goes up again: after the cloud has lost some, or did not want it before.

One event for each time stamp, through the ordinary queue. The cloud keeps one value for each key and time stamp, so a
second time changes nothing there. What goes up is what was saved here, also what the rules did not send then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import orjson

from gateway.devices.parked import BECOMES_ANOTHER
from gateway.devices.slices import BUSY, Slices
from gateway.devices.state import State
from gateway.domain.again import HistoryOrder, Slice, moment_ms, moment_text
from gateway.domain.changes import AppendEvent, Change
from gateway.domain.cloud_event import Action, CloudEvent, Lane
from gateway.domain.entity import Device, EntityId
from gateway.domain.telemetry import Value
from gateway.errors import RejectedError
from gateway.ports import Clock, Store
from gateway.supervise import Counters

SLICE_VALUES: Final = 1_000
"""Values of one request, about: so many events at most."""
PENDING_MOST: Final = 4_000
"""While more events than this wait for the cloud, history waits."""
_DAY_MS: Final = 86_400_000
_NAMED: Final = 20  # keys that an error names


class HistoryDesk:
    """Carries out `HistoryOrder`s."""

    def __init__(
        self,
        store: Store,
        state: State,
        slices: Slices,
        clock: Clock,
        counters: Counters,
        history_days: int,
        becomes_another: Callable[[], bool] = lambda: False,
    ) -> None:
        """`becomes_another`: whether the identity is being changed; devices then get other ids."""
        self._store, self._state, self._slices = store, state, slices
        self._clock, self._counters, self._history_days = clock, counters, history_days
        self._becomes_another = becomes_another

    async def send(self, order: HistoryOrder) -> Slice:
        """One slice of an order; `place` is the time stamp up to which everything is in the queue.

        Raises:
            RejectedError: Unknown device or key, an empty range, or one that is not kept any more.
            TransientError: The store cannot be read now.
        """
        async with self._slices.lock:
            device = self._state.device_named(order.device)
            if device is None:
                raise RejectedError(f"device: there is no {order.device!r}; `edge-gateway status` lists them")
            oldest_ms = self._check_range(order)
            if not await self._slices.is_free():
                return Slice(place=order.place, waits=BUSY)
            pending = self._store.events.last(Lane.MAIN) - self._store.events.cursor(Lane.MAIN)
            if pending > PENDING_MOST:
                return Slice(place=order.place, waits=f"{pending} events wait for the cloud")
            keys = await self._keys(device, order)
            start_ms = order.from_ms if order.place is None else _place(order.place)
            note = None
            if order.place is None and order.from_ms < oldest_ms:
                note = f"history is kept for {self._history_days} days: before {moment_text(oldest_ms)} there is little"
            rows, end_ms = await self._rows(device.entity_id, keys, start_ms, order.to_ms)
            if self._becomes_another() or self._state.device(device.id) is None:
                return Slice(place=order.place, waits=BECOMES_ANOTHER)
            if rows and not await self._slices.write(
                [self._event(device, ts_ms, rows[ts_ms]) for ts_ms in sorted(rows)]
            ):
                return Slice(place=order.place, waits=BUSY, note=note)
            self._counters.add("devices.history_resent", len(rows))
            return Slice(done=len(rows), place=None if end_ms >= order.to_ms else str(end_ms), note=note)

    def _check_range(self, order: HistoryOrder) -> int:
        """From when on history is kept."""
        if order.from_ms >= order.to_ms:
            raise RejectedError(
                f"from {moment_text(order.from_ms)} to {moment_text(order.to_ms)} is an empty range:"
                " `from` is the first moment, `to` the first one that is not meant"
            )
        oldest_ms = self._clock.now_ms() - self._history_days * _DAY_MS
        if order.to_ms <= oldest_ms:
            raise RejectedError(
                f"to: {moment_text(order.to_ms)} is older than what is kept: store.history_days is"
                f" {self._history_days}, so history begins at {moment_text(oldest_ms)}"
            )
        return oldest_ms

    async def _keys(self, device: Device, order: HistoryOrder) -> Sequence[str]:
        known = sorted(await self._store.latest(device.entity_id))
        for key in order.keys:
            if key not in known:
                names = ", ".join(known[:_NAMED]) + (" …" if len(known) > _NAMED else "")
                raise RejectedError(f"key: {order.device!r} has no telemetry {key!r}; it has: {names or 'none'}")
        return list(dict.fromkeys(order.keys)) or known

    async def _rows(
        self, entity: EntityId, keys: Sequence[str], start_ms: int, to_ms: int
    ) -> tuple[dict[int, dict[str, Value]], int]:
        """Values by time stamp, complete up to the returned moment: the first one that a key was not read for."""
        limit = max(1, SLICE_VALUES // max(1, len(keys)))
        end_ms = to_ms
        pages = []
        for key in keys:
            page = await self._store.history(entity, key, start_ms, to_ms, limit)
            if len(page) == limit:
                end_ms = min(end_ms, page[-1][0] + 1)
            pages.append((key, page))
        rows: dict[int, dict[str, Value]] = {}
        for key, page in pages:
            for ts_ms, value in page:
                if ts_ms < end_ms:
                    rows.setdefault(ts_ms, {})[key] = value
        return rows, end_ms

    def _event(self, device: Device, ts_ms: int, values: dict[str, Value]) -> Change:
        return AppendEvent(
            CloudEvent(
                type="DEVICE",
                action=Action.TIMESERIES_UPDATED.value,
                entity_id=device.id,
                created_ms=self._clock.now_ms(),
                body=orjson.dumps({"ts": ts_ms, "data": values}),
            )
        )


def _place(text: str) -> int:
    try:
        return moment_ms(text, "place")
    except RejectedError:
        raise RejectedError(f"place: {text!r} is not the place of an answer") from None
