"""The latest telemetry of a few chosen devices, held ready for whoever asks without waiting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.domain.changes import Change, SaveTelemetry
from gateway.domain.entity import EntityId
from gateway.domain.telemetry import Value
from gateway.ports import Receipt

if TYPE_CHECKING:
    from gateway.devices.state import State


class Latest:
    """Implements `LatestValues`: what the store has, once it is durable. Bounded by what is wanted.

    `read` is the store's own `latest`: it is asked once for each device, and everything after that is overheard.
    """

    def __init__(self, state: State, read: Callable[[EntityId], Awaitable[Mapping[str, tuple[int, Value]]]]) -> None:
        self._state, self._read = state, read
        self._wanted: dict[str, set[str]] = {}
        self._held: dict[EntityId, dict[str, tuple[int, Value]]] = {}
        self._keys: dict[EntityId, set[str]] = {}
        self._loaded: set[EntityId] = set()

    def want(self, keys: Iterable[tuple[str, str]]) -> None:
        """Device and key of what is to be held ready."""
        for device, key in keys:
            self._wanted.setdefault(device, set()).add(key)

    def value(self, device: str, key: str) -> tuple[int, Value] | None:
        """Time (UTC epoch, milliseconds) and value; None: there is none, or nobody wanted it."""
        found = self._state.device_named(device)
        held = None if found is None else self._held.get(found.entity_id)
        return None if held is None else held.get(key)

    async def refresh(self) -> None:
        """Devices that exist since now: what the store has of them.

        Raises:
            TransientError: The store cannot be read now; the next call goes on.
        """
        for name, keys in self._wanted.items():
            device = self._state.device_named(name)
            if device is None or device.entity_id in self._loaded:
                continue
            entity = device.entity_id
            self._keys[entity] = keys  # overheard from here on, so that nothing falls between
            stored = await self._read(entity)
            for key in keys & stored.keys():
                self._keep(entity, key, *stored[key])
            self._loaded.add(entity)
        gone = [entity for entity in self._loaded if self._state.device(entity.id) is None]
        for entity in gone:
            self._loaded.discard(entity)
            self._keys.pop(entity, None)
            self._held.pop(entity, None)

    def overhear(self, receipt: Receipt, changes: Sequence[Change]) -> None:
        """What is on its way to the disk; for `Pipeline.on_submit`."""
        saved = [change for change in changes if type(change) is SaveTelemetry and change.entity in self._keys]
        if saved:
            receipt.add_done_callback(lambda done: self._take(done, saved))

    def _take(self, done: Receipt, saved: Sequence[SaveTelemetry]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        for change in saved:
            for key in self._keys.get(change.entity, set()) & change.values.keys():
                self._keep(change.entity, key, change.ts_ms, change.values[key])

    def _keep(self, entity: EntityId, key: str, ts_ms: int, value: Value) -> None:
        held = self._held.setdefault(entity, {})
        if key not in held or ts_ms >= held[key][0]:
            held[key] = (ts_ms, value)
