"""The room of devices that speak HTTP: its ports, and one life of the server behind them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gateway.config import HttpConfig
from gateway.domain.doorkeeper import Doorkeeper
from gateway.domain.rates import Rates
from gateway.ports import Clock, DeviceInlet, Packages
from gateway.supervise import Counters
from gateway.web.device_api import DeviceApi
from gateway.web.tls_door import Certificate
from gateway.web.visits import Visits

if TYPE_CHECKING:
    from gateway.web.listener import Server

log = logging.getLogger(__name__)

_LOOK_AROUND_S: Final = 1.0
_FAREWELL_S: Final = 1.0
_CERTIFICATE_S: Final = 60.0


class DeviceHttp:
    """Devices that speak HTTP. `ready` is set while it listens; then `port` and `tls_port` are the real ones.

    It shares a device with the MQTT connection that it may have: see `DeviceInlet.open_visit`.
    """

    name = "http"

    def __init__(
        self,
        config: HttpConfig,
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
        *,
        json_type_cast: bool = True,
        packages: Packages | None = None,
        rates: Rates | None = None,
    ) -> None:
        self._packages, self._rates = packages, rates
        self._config, self._inlet, self._clock, self._counters = config, inlet, clock, counters
        self._json_type_cast = json_type_cast
        self._doorkeeper = Doorkeeper(config.wrong_token_limit, config.block_s)
        self._visits = Visits(inlet, clock)
        self._connections: Callable[[], int] = lambda: 0
        self._certificate: Certificate | None = None
        self.ready = asyncio.Event()
        self.port, self.tls_port = config.port, config.tls_port

    def status(self) -> dict[str, Any]:
        """For `status`."""
        return {
            "port": self.port,
            "tls_port": self.tls_port,
            "listening": self.ready.is_set(),
            "connections": self._connections(),
            "tls_problem": None if self._certificate is None else self._certificate.problem,
        }

    def reload(self) -> None:
        """Read the certificate's files again; connections stay as they are."""
        if self._certificate is not None:
            self._certificate.refresh(is_forced=True)

    async def serve(self) -> None:
        """Until cancelled; then requests that wait for the disk have a moment to get their answer.

        Raises:
            TransientError: The address is taken.
            RefusedError: Certificate or key cannot be used.
        """
        from gateway.web.listener import Server  # late: an idle gateway has started before the web libraries are read

        config = self._config
        api = DeviceApi(
            config,
            self._inlet,
            self._visits,
            self._doorkeeper,
            self._clock,
            self._counters,
            json_type_cast=self._json_type_cast,
            packages=self._packages,
            rates=self._rates,
        )
        server = Server(
            api.routes(),
            max_connections=config.max_connections,
            request_timeout_s=config.request_timeout_s,
            idle_timeout_s=config.idle_timeout_s,
            is_blocked=lambda address: self._doorkeeper.is_blocked(address, self._clock.monotonic_s()),
            count=self._counters.add,
        )
        self._connections = lambda: len(server.members)
        try:
            if config.port is not None:
                self.port = await server.listen(config.host, config.port, "http.port")
                log.info("listening for HTTP devices on %s port %d", config.host, self.port)
            if config.tls_port is not None:
                self._certificate = certificate = Certificate(config)
                self.tls_port = await server.listen_tls(config.host, config.tls_port, certificate, "http.tls_port")
                log.info("listening for HTTPS devices on %s port %d", config.host, self.tls_port)
            self.ready.set()
            async with asyncio.TaskGroup() as tasks:
                if server.door is not None:
                    tasks.create_task(server.door.serve(), name="http: TLS listener")
                await self._live(server)
        finally:
            self.ready.clear()
            self._visits.close()
            await server.close(_FAREWELL_S)

    async def _live(self, server: Server) -> None:
        looked_s = self._clock.monotonic_s()
        while True:
            await self._clock.sleep(_LOOK_AROUND_S)
            server.look_around()
            self._visits.close_idle()
            if self._certificate is not None and self._clock.monotonic_s() - looked_s >= _CERTIFICATE_S:
                looked_s = self._clock.monotonic_s()
                self._certificate.refresh()
