"""What all connections share: settings, the way inward, and what is kept about a device between connections."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol
from uuid import UUID

from gateway.broker.admission import Admission
from gateway.broker.packets import Publish
from gateway.config import BrokerConfig
from gateway.domain.entity import Device
from gateway.ports import Clock, DeviceInlet, Receipt
from gateway.supervise import Counters

log = logging.getLogger(__name__)


class LocalSession(Protocol):
    """One connection's share in local publish/subscribe."""

    @property
    def is_congested(self) -> bool:
        """True while the local broker is behind: read no more from this device."""
        ...

    def publish(self, packet: Publish) -> Receipt | None:
        """A receipt with QoS 1 and 2; it fails with `RejectedError` when the local broker is gone."""
        ...

    def subscribe(self, filters: list[tuple[str, int]], answer: Callable[[list[int]], None]) -> None:
        """`answer` gets the granted QoS, or 0x80, of each filter."""
        ...

    def unsubscribe(self, filters: list[str]) -> None:
        """Unknown filters are no error."""
        ...

    def close(self, *, is_graceful: bool) -> None:
        """The device is gone; without grace its will is published."""
        ...


class Local(Protocol):
    """Local publish/subscribe, whoever does it."""

    def attach(
        self,
        will: Publish | None,
        deliver: Callable[[Publish], None],
        relieved: Callable[[], None],
        gone: Callable[[], None],
    ) -> LocalSession:
        """A new member. `relieved`: congestion is over. `gone`: the session ended from the other side."""
        ...


READ_BYTES: Final = 32_768
"""Read from a socket at a time, so the most that waits here of a connection that is not read from."""

QUIET_S: Final = 60.0
"""Bad payloads of a device are logged once in this time, whatever it sends between them."""


class Complaints:
    """Bad payloads: logged now and then for each device; the caller counts them all."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged_s: dict[UUID, float] = {}

    def bad(self, device: Device, topic: str, reason: str) -> None:
        """Only the reason is logged, never the payload."""
        now_s = self._clock.monotonic_s()
        logged_s = self._logged_s.get(device.id)
        if logged_s is None or now_s - logged_s >= QUIET_S:
            self._logged_s[device.id] = now_s
            log.warning("device %r: bad payload on %s: %s; further ones are only counted", device.name, topic, reason)


class Desk:
    """One for each broker; connections come to it for everything that is not their own."""

    def __init__(
        self,
        config: BrokerConfig,
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
        *,
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        bug: Callable[[BaseException], None],
        congested: Callable[[], None],
        local: Callable[[], Local] | None,
    ) -> None:
        """`spawn` owns a task, `bug` ends the room, `congested` starts the waiter, `local` starts local topics."""
        self.config, self.inlet, self.clock, self.counters = config, inlet, clock, counters
        self.spawn, self.bug, self.congested, self.local = spawn, bug, congested, local
        self.complaints = Complaints(clock)
        self.admission = Admission(config, counters)
        self.doorkeeper = self.admission.doorkeeper
        self.read_buffer = memoryview(bytearray(READ_BYTES))
