"""The broker room: sockets, and what belongs to all connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from gateway.broker.certificates import take_any_certificate
from gateway.broker.desk import Desk, Local
from gateway.broker.front import Connection
from gateway.config import BrokerConfig
from gateway.errors import RefusedError, TransientError
from gateway.ports import Clock, DeviceInlet
from gateway.supervise import Counters

log = logging.getLogger(__name__)

_LOOK_AROUND_S: Final = 1.0
_FAREWELL_S: Final = 1.0
_SHUTTING_DOWN: Final = 0x8B


class MqttBroker:
    """Devices that speak MQTT. `ready` is set while it listens; then `port` and `tls_port` are the real ones."""

    name = "broker"

    def __init__(self, config: BrokerConfig, inlet: DeviceInlet, clock: Clock, counters: Counters) -> None:
        self._config, self._inlet, self._clock, self._counters = config, inlet, clock, counters
        self._members: set[Connection] = set()
        self.ready = asyncio.Event()
        self.port = config.port
        self.tls_port = config.tls_port

    def connections(self) -> int:
        """Open sockets."""
        return len(self._members)

    async def serve(self) -> None:
        """Until cancelled; then every connection is told and closed.

        Raises:
            TransientError: The address is taken.
            RefusedError: Certificate or key cannot be used.
        """
        house = _House(self._config, self._inlet, self._clock, self._counters, self._members)
        servers = await self._listen(house.desk)
        try:
            log.info("listening for MQTT on %s port %d", self._config.host, self.port)
            self.ready.set()
            await house.live()
        finally:
            self.ready.clear()
            for server in servers:
                server.close()
            for connection in list(self._members):
                connection.close(_SHUTTING_DOWN)

    async def _listen(self, desk: Desk) -> list[asyncio.Server]:
        config = self._config
        servers: list[asyncio.Server] = []
        try:
            plain = await self._bind(desk, config.port, None)
            servers.append(plain)
            self.port = plain.sockets[0].getsockname()[1]
            if config.tls_port is not None:
                tls = await self._bind(desk, config.tls_port, _tls_context(config))
                servers.append(tls)
                self.tls_port = tls.sockets[0].getsockname()[1]
        except BaseException:
            for server in servers:
                server.close()
            raise
        return servers

    async def _bind(self, desk: Desk, port: int, context: ssl.SSLContext | None) -> asyncio.Server:
        host = self._config.host
        try:
            return await asyncio.get_running_loop().create_server(
                partial(Connection, desk, self._members), host, port, ssl=context, backlog=1024
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                remedy = "another program uses it; stop that one, or set broker.port to a free one"
            elif error.errno == errno.EACCES:
                remedy = "not allowed; use a port above 1023, or grant CAP_NET_BIND_SERVICE"
            else:
                remedy = f"{error.strerror or error}; check broker.host"
            raise TransientError(f"cannot listen for MQTT on {host} port {port}: {remedy}") from error


class _House:
    """One life of the room: its tasks, and the end of them."""

    def __init__(
        self, config: BrokerConfig, inlet: DeviceInlet, clock: Clock, counters: Counters, members: set[Connection]
    ) -> None:
        self._inlet, self._clock, self._members = inlet, clock, members
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup
        self._local: Local | None = None
        self._is_waiting_for_disk = False
        self._is_ending = False
        self.desk = Desk(
            config,
            inlet,
            clock,
            counters,
            spawn=self._spawn,
            bug=self._report,
            congested=self._congested,
            local=self._start_local if config.local_topics else None,
        )

    async def live(self) -> None:
        """Until cancelled or a bug is found; then say goodbye to the devices before the tasks end."""
        async with asyncio.TaskGroup() as self._tasks:
            self._spawn(self._look_around(), "broker: timeouts")
            try:
                await self._bug
            finally:
                await self._farewell()

    async def _farewell(self) -> None:
        self._is_ending = True
        for connection in list(self._members):
            connection.close(_SHUTTING_DOWN)
        until_s = asyncio.get_running_loop().time() + _FAREWELL_S
        # Polled, once in a life: a way for ten thousand connections to tell would cost more.
        while self._members and asyncio.get_running_loop().time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if self._is_ending:
            work.close()
        else:
            self._tasks.create_task(work, name=name)

    def _report(self, error: BaseException) -> None:
        if not self._bug.done():
            self._bug.set_exception(error)

    async def _look_around(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_AROUND_S)
            now_s = self._clock.monotonic_s()
            for connection in list(self._members):
                connection.check(now_s)

    def _congested(self) -> None:
        if not self._is_waiting_for_disk:
            self._is_waiting_for_disk = True
            self._spawn(self._wait_for_disk(), "broker: waiting for the disk")

    async def _wait_for_disk(self) -> None:
        await self._inlet.wait_uncongested()
        self._is_waiting_for_disk = False
        for connection in list(self._members):
            connection.disk_is_free()

    def _start_local(self) -> Local:
        if self._local is None:
            # amqtt is heavy to load, and most houses never need it.
            from gateway.broker.local import LocalBroker

            local = LocalBroker(self._spawn)
            self._spawn(local.run(), "broker: local topics")
            self._local = local
        return self._local


def _tls_context(config: BrokerConfig) -> ssl.SSLContext:
    if config.tls_cert is None or config.tls_key is None:
        raise RefusedError("broker.tls_port needs broker.tls_cert and broker.tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
        if config.tls_client_ca is not None:
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        elif config.x509:
            take_any_certificate(context, partial(_tls_context, config.model_copy(update={"x509": False})))
    except (OSError, ssl.SSLError) as error:
        raise RefusedError(f"broker.tls_cert, tls_key or tls_client_ca cannot be used: {error}") from error
    return context
