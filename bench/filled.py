"""A queue filled quickly: telemetry through the store's own commit, while the gateway is down.

The events are what the push node makes of `{"seq", "temperature"}` from each device in turn.
"""

from __future__ import annotations

from gateway.config import load_config
from gateway.domain.changes import AppendEvent
from gateway.domain.cloud_event import Action, CloudEvent
from gateway.ports import Store
from gateway.store.open import open_store
from gateway.supervise import Counters, SystemClock
from tests.e2e.parts import GatewayProcess

_GROUP = 2_000


async def fill(gateway: GatewayProcess, events: int, devices: int) -> None:
    """`events` of D0 … of the gateway's devices, numbered from 1 in each; it runs before and after."""
    await gateway.process.stop()
    config = load_config(gateway.config_path, {})
    async with open_store(config.store, config.data_dir, SystemClock(), Counters()) as store:
        await append(store, events, devices)
    await gateway.start()


async def append(store: Store, events: int, devices: int) -> None:
    """The same into an open store that knows the devices."""
    ids = {device.name: device.id for device in (await store.load()).devices}
    now_ms = SystemClock().now_ms()
    for first in range(0, events, _GROUP):
        unit = []
        for number in range(first, min(first + _GROUP, events)):
            body = b'{"ts":%d,"data":{"seq":%d,"temperature":21.5}}' % (now_ms + number, number // devices + 1)
            unit.append(
                AppendEvent(
                    CloudEvent(
                        type="DEVICE",
                        action=Action.TIMESERIES_UPDATED.value,
                        entity_id=ids[f"D{number % devices}"],
                        created_ms=now_ms,
                        body=body,
                    )
                )
            )
        await store.commit([unit])
