"""What all connections share: settings, the way inward, and what is kept about a device between connections."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final
from uuid import UUID

from gateway.broker.admission import Admission
from gateway.broker.local_hub import LocalHub
from gateway.broker.profile_topics import Transports
from gateway.config import BrokerConfig
from gateway.domain.entity import Device
from gateway.domain.rates import RateLimitedError, Rates
from gateway.ports import Clock, DeviceInlet, Packages
from gateway.supervise import Counters

log = logging.getLogger(__name__)


READ_BYTES: Final = 32_768
"""Read from a socket at a time, so the most that waits here of a connection that is not read from."""

QUIET_S: Final = 60.0
"""What is wrong with a device is logged once in this time and kind, whatever it sends between them."""


_MAX_QUIET: Final = 50_000  # then all may be said again


class Complaints:
    """What devices do wrong: logged now and then for each device and kind; the caller counts them all."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged_s: dict[tuple[UUID, str], float] = {}

    def bad(self, device: Device, topic: str, reason: str, what: str = "bad payload") -> None:
        """Only the reason is logged, never the payload."""
        if self._is_due(device, what):
            # A device profile's own topics have levels that the device chooses: they make no lines of their own here.
            shown = topic if topic.isprintable() else repr(topic)
            log.warning("device %r: %s on %s: %s; further ones are only counted", device.name, what, shown, reason)

    def refused(self, device: Device, reason: str) -> None:
        """Its connection is refused or ended; such a device comes again at once."""
        if self._is_due(device, reason):
            log.warning("device %r: %s; further ones are only counted", device.name, reason)

    def _is_due(self, device: Device, what: str) -> bool:
        now_s, key = self._clock.monotonic_s(), (device.id, what)
        logged_s = self._logged_s.get(key)
        if logged_s is not None and now_s - logged_s < QUIET_S:
            return False
        if len(self._logged_s) >= _MAX_QUIET:
            self._logged_s.clear()
        self._logged_s[key] = now_s
        return True


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
        local: LocalHub | None,
    ) -> None:
        """`spawn` owns a task, `bug` ends the room, `congested` starts the waiter, `local` None: no local topics."""
        self.config, self.inlet, self.clock, self.counters = config, inlet, clock, counters
        self.spawn, self.bug, self.congested, self.local = spawn, bug, congested, local
        self.packages: Packages | None = None
        self.rates: Rates | None = None  # nobody is limited
        self.complaints = Complaints(clock)
        self.transports = Transports(config.profiles)
        self.admission = Admission(config, counters)
        self.doorkeeper = self.admission.doorkeeper
        self.read_buffer = memoryview(bytearray(READ_BYTES))

    def take(self, device: Device, points: int, where: str) -> None:
        """One message of the device's own, see `Rates.take`; one too many is counted and named.

        Raises:
            RateLimitedError: It is over its limit.
        """
        if self.rates is None:
            return
        try:
            self.rates.take(device.id, points, self.clock.monotonic_s(), is_gateway=device.is_gateway)
        except RateLimitedError as error:
            self.counters.add("broker.rate_limited")
            self.complaints.bad(device, where, str(error), "too much")
            raise

    def take_behind(self, gateway: Device, name: str, points: int, where: str) -> None:
        """The same for the device of this name behind a gateway."""
        if self.rates is None:
            return
        try:
            self.rates.take_behind(gateway.id, name, points, self.clock.monotonic_s())
        except RateLimitedError as error:
            self.counters.add("broker.gateway_rate_limited")
            self.complaints.bad(gateway, where, str(error), "too much")
            raise
