"""When the certificates of the link end: our files and the server's own, looked at once a day, warned of once each."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Final

from gateway.cloud.diagnosis import server_certificate
from gateway.cloud.tls import WARN_DAYS, Expiry, file_expiries, not_after_ms
from gateway.config import CloudConfig
from gateway.errors import RejectedError
from gateway.ports import Clock

log = logging.getLogger(__name__)

_EVERY_S: Final = 86_400.0
_SERVER: Final = "server"


class Certificates:
    """Those of one link, over all of its connections."""

    def __init__(self, config: CloudConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._expiries: dict[str, Expiry] = {}
        self._told: set[Expiry] = set()
        self._due_s = 0.0

    def look_at_files(self) -> None:
        """Before each connect; one that cannot be read is the connect's business."""
        if self._config.ssl_enabled:
            self._look_at(file_expiries(self._config))

    async def watch(self) -> None:
        """While connected: once a day, with the first good connection."""
        while self._config.ssl_enabled:
            now_s = self._clock.monotonic_s()
            if now_s < self._due_s:
                await self._clock.sleep(self._due_s - now_s)
            self._due_s = self._clock.monotonic_s() + _EVERY_S
            self._look_at(file_expiries(self._config))
            der = await server_certificate(self._config)
            with contextlib.suppress(RejectedError):
                self._look_at([Expiry(_SERVER, not_after_ms(der))] if der else [])

    def status(self) -> list[dict[str, Any]]:
        """For the page and the command line."""
        now_ms = self._clock.now_ms()
        return [
            {"name": expiry.name, "not_after_ms": expiry.not_after_ms, "days_left": expiry.days_left(now_ms)}
            for expiry in self._expiries.values()
        ]

    def _look_at(self, expiries: Sequence[Expiry]) -> None:
        for expiry in expiries:
            self._expiries[expiry.name] = expiry
            days = expiry.days_left(self._clock.now_ms())
            if days < WARN_DAYS and expiry not in self._told:
                self._told.add(expiry)
                when = "has expired" if days < 0 else f"expires in {days} days"
                which = "the server's certificate" if expiry.name == _SERVER else f"the certificate {expiry.name}"
                log.warning("cloud: %s %s; the link ends with it", which, when)
