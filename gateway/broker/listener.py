"""The broker room: sockets, and what belongs to all connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final
from uuid import UUID

from gateway.broker.acl import load_acl
from gateway.broker.admission import Admission
from gateway.broker.desk import Desk
from gateway.broker.front import Connection
from gateway.broker.local_hub import LocalHub
from gateway.broker.local_router import Router, Unkept
from gateway.broker.mapped import Mapped
from gateway.broker.mapping import Rules
from gateway.broker.packets import Publish
from gateway.broker.tls import TlsDoor, TlsFiles
from gateway.config import BrokerConfig, MappingsConfig
from gateway.domain.entity import Device
from gateway.domain.rates import Rates
from gateway.errors import TransientError
from gateway.ports import Clock, Committer, DeviceInlet, Packages, Receipt
from gateway.supervise import Counters

log = logging.getLogger(__name__)

_LOOK_AROUND_S: Final = 1.0
_FAREWELL_S: Final = 1.0
_CERTIFICATES_S: Final = 60.0
_SHUTTING_DOWN: Final = 0x8B


class MqttBroker:
    """Devices that speak MQTT. `ready` is set while it listens; then `port` and `tls_port` are the real ones."""

    name = "broker"
    packages: Packages | None = None  # firmware and software for the devices

    def __init__(
        self,
        config: BrokerConfig,
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
        committer: Committer | None = None,
        kept: Iterable[tuple[str, str, bytes]] = (),
        rates: Rates | None = None,
    ) -> None:
        """`committer` and `kept` are for local publish/subscribe: without them nothing of it lasts. `rates` None:
        devices may send as much as they can.

        Raises:
            ConfigError: The rules for local topics cannot be used.
        """
        self._config, self._inlet, self._clock, self._counters = config, inlet, clock, counters
        self._rates = rates
        self._members: set[Connection] = set()
        self._local: LocalHub | None = None
        if config.local_topics:
            acl = load_acl(config)
            self._local = LocalHub(config, acl, clock, counters, committer or Unkept(), kept)
        self._mapped: Mapped | None = None
        self.ready = asyncio.Event()
        self.port = config.port
        self.tls_port = config.tls_port
        self.websocket_port = config.websocket_port
        self.websocket_tls_port = config.websocket_tls_port
        self._tls = TlsFiles(config)
        self._admission: Admission | None = None  # of this life

    def map_topics(self, rules: Rules, mappings: MappingsConfig) -> None:
        """Local messages that fit a rule are telemetry and attributes of devices as well."""
        local = self._local
        if local is None or not self._config.enabled:
            return

        def send(topic: str, payload: bytes, qos: int, is_retained: bool) -> Receipt | None:
            return local.publish(Publish(topic, payload, qos, is_retained=is_retained))

        cast = self._config.json_type_cast
        self._mapped = local.mapped = Mapped(rules, mappings, self._inlet, self._clock, self._counters, send, cast=cast)

    def device_changed(self, device_id: UUID, device: Device | None) -> None:
        """`DeviceChanged`: rights in local topics follow; what is kept for a deleted device goes."""
        if self._local is not None:
            self._local.device_changed(device_id, device)

    def keep_only(self, is_known: Callable[[UUID], bool]) -> None:
        """Before the start: what is kept for devices that there are no more goes."""
        if self._local is not None:
            self._local.keep_only(is_known)

    def connections(self) -> int:
        """Open sockets."""
        return len(self._members)

    def partial_bytes(self) -> int:
        """Held of packets that are not whole, all connections together."""
        return self._admission.partial_bytes if self._admission is not None else 0

    def stuck(self) -> int:
        """Connections that take nothing of what waits for them."""
        return sum(member.is_stuck for member in self._members)

    async def serve(self) -> None:
        """Until cancelled; then every connection is told and closed.

        Raises:
            TransientError: The address is taken. (A certificate that cannot be used keeps TLS away, and nothing else.)
        """
        if not self._config.enabled:
            self.ready.set()
            await asyncio.get_running_loop().create_future()
        house = _House(self._config, self._inlet, self._clock, self._counters, self._members, self._local)
        house.desk.packages, house.desk.rates = self.packages, self._rates
        try:
            await self._listen(house)
            for what, port in (
                ("MQTT", self.port),
                ("MQTT over TLS", self.tls_port),
                ("MQTT over WebSocket", self.websocket_port),
                ("MQTT over WebSocket and TLS", self.websocket_tls_port),
            ):
                if port is not None:
                    log.info("listening for %s on %s port %d", what, self._config.host, port)
            self.ready.set()
            await house.live()
        finally:
            self.ready.clear()
            house.lock_up()
            for connection in list(self._members):
                connection.close(_SHUTTING_DOWN)

    def reload(self) -> None:
        """Read the certificate's files again; connections stay as they are."""
        self._tls.refresh(is_forced=True)

    def status(self) -> dict[str, Any]:
        """For `status`: ports (None: not listening there), connections, and what is wrong with the certificate."""
        return {
            "port": self.port,
            "tls_port": self.tls_port,
            "websocket_port": self.websocket_port,
            "websocket_tls_port": self.websocket_tls_port,
            "listening": self.ready.is_set(),
            "connections": self.connections(),
            "unfinished_bytes": self.partial_bytes(),
            "slow_readers": self.stuck(),
            "tls_problem": self._tls.problem,
            "local": None if self._local is None else self._local.status(),
            "mappings": None if self._mapped is None else self._mapped.status(),
        }

    async def _listen(self, house: _House) -> None:
        config = self._config
        self._admission = house.desk.admission
        tcp = partial(Connection, house.desk, self._members)
        self.port = await self._bind(house, config.port, "broker.port", tcp)
        if config.tls_port is not None or config.websocket_tls_port is not None:
            self._tls.refresh()
            house.keep_fresh(self._tls)
        if config.tls_port is not None:
            self.tls_port = await self._bind_tls(house, config.tls_port, "broker.tls_port", tcp)
        if config.websocket_port is None and config.websocket_tls_port is None:
            return
        # Most houses have no use for it.
        from gateway.broker.websocket import WebSocket

        def web() -> WebSocket:
            return WebSocket(config, self._counters, house.desk.admission, tcp())

        if config.websocket_port is not None:
            self.websocket_port = await self._bind(house, config.websocket_port, "broker.websocket_port", web)
        if config.websocket_tls_port is not None:
            self.websocket_tls_port = await self._bind_tls(
                house, config.websocket_tls_port, "broker.websocket_tls_port", web
            )

    async def _bind_tls(self, house: _House, port: int, setting: str, guest: Callable[[], asyncio.BaseProtocol]) -> int:
        host = self._config.host
        listeners: list[socket.socket] = []
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(found):
                listener = socket.create_server(address, family=family, backlog=1024, reuse_port=False)
                listener.setblocking(False)
                listeners.append(listener)
        except OSError as error:
            for listener in listeners:
                listener.close()
            raise _cannot_listen(error, host, port, setting) from error
        house.doors.append(
            TlsDoor(
                listeners,
                self._tls,
                house.desk.admission,
                self._counters,
                guest,
                now_s=self._clock.monotonic_s,
                timeout_s=self._config.connect_timeout_s,
            )
        )
        return int(listeners[0].getsockname()[1])

    async def _bind(self, house: _House, port: int, setting: str, protocol: Callable[[], asyncio.BaseProtocol]) -> int:
        host = self._config.host
        try:
            server = await asyncio.get_running_loop().create_server(protocol, host, port, backlog=1024)
        except OSError as error:
            raise _cannot_listen(error, host, port, setting) from error
        house.servers.append(server)
        return int(server.sockets[0].getsockname()[1])


class _House:
    """One life of the room: its tasks, and the end of them."""

    def __init__(
        self,
        config: BrokerConfig,
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
        members: set[Connection],
        local: LocalHub | None,
    ) -> None:
        self._inlet, self._clock, self._members = inlet, clock, members
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup
        self.servers: list[asyncio.Server] = []
        self.doors: list[TlsDoor] = []
        self._serving: list[asyncio.Task[None]] = []
        self._tls: TlsFiles | None = None
        self._router: Router | None = None
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
            local=local,
        )
        if local is not None:
            local.open(self._start_router)

    async def live(self) -> None:
        """Until cancelled or a bug is found; then say goodbye to the devices before the tasks end."""
        async with asyncio.TaskGroup() as self._tasks:
            self._spawn(self._look_around(), "broker: timeouts")
            if self._tls is not None:
                self._spawn(self._look_at_certificates(self._tls), "broker: certificates")
            for door in self.doors:
                self._serving.append(self._tasks.create_task(door.serve(), name="broker: TLS listener"))
            try:
                await self._bug
            finally:
                await self._farewell()

    def keep_fresh(self, tls: TlsFiles) -> None:
        """Look at its files now and then."""
        self._tls = tls

    def lock_up(self) -> None:
        """Nobody new."""
        for server in self.servers:
            server.close()
        for serving in self._serving:
            serving.cancel()
        if not self._serving:
            for door in self.doors:
                door.close()

    async def _farewell(self) -> None:
        self._is_ending = True
        self.lock_up()
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
            if self.desk.local is not None:
                self.desk.local.look_around()
                if self.desk.local.mapped is not None:
                    self.desk.local.mapped.look_around()

    async def _look_at_certificates(self, tls: TlsFiles) -> None:
        while True:
            await self._clock.sleep(_CERTIFICATES_S)
            tls.refresh()

    def _congested(self) -> None:
        if not self._is_waiting_for_disk:
            self._is_waiting_for_disk = True
            self._spawn(self._wait_for_disk(), "broker: waiting for the disk")

    async def _wait_for_disk(self) -> None:
        await self._inlet.wait_uncongested()
        self._is_waiting_for_disk = False
        for connection in list(self._members):
            connection.disk_is_free()

    def _start_router(self) -> Router:
        if self._router is None:
            # amqtt is heavy to load, and most houses never need it.
            from gateway.broker.local import LocalBroker

            router = LocalBroker(self._spawn)
            self._spawn(router.run(), "broker: local topics")
            self._router = router
        return self._router


def _cannot_listen(error: OSError, host: str, port: int, setting: str) -> TransientError:
    if error.errno == errno.EADDRINUSE:
        remedy = f"another program uses it; stop that one, or set {setting} to a free one"
    elif error.errno == errno.EACCES:
        remedy = "not allowed; use a port above 1023, or grant CAP_NET_BIND_SERVICE"
    else:
        remedy = f"{error.strerror or error}; check broker.host"
    return TransientError(f"cannot listen for MQTT on {host} port {port}: {remedy}")
