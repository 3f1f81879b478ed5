"""HTTP/1.1 on sockets of our own: uvicorn's protocol, with a bound for everything that a peer may hold.

A peer holds a connection (at most `max_connections`; when all are taken the one that is quiet longest makes room), the
time until its request is complete, the time until it has taken its answer, and the time between two requests.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from gateway.errors import TransientError
from gateway.web.tls_door import Certificate, TlsDoor

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MAX_HEAD_BYTES: Final = 16_384
"""Request line and headers."""

_POLL_S: Final = 0.01

# uvicorn warns of each request that is no HTTP: those are counted. A bug of ours is still told.
_log: Final = logging.getLogger("gateway.web.http")
_log.setLevel(logging.ERROR)

_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Server:
    """The sockets of one ASGI app. `count` is told of refusals by name; `is_blocked` is asked for each new peer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_connections: int,
        request_timeout_s: float,
        idle_timeout_s: float,
        is_blocked: Callable[[str], bool],
        count: Callable[[str], None],
    ) -> None:
        self.config = uvicorn.Config(
            cast(Any, app),
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            ws="none",
            timeout_keep_alive=cast(int, idle_timeout_s),
            limit_concurrency=max_connections + 1,  # requests whose peers have left count too
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        self.config.load()
        self.state = ServerState()
        self.max_connections, self.request_timeout_s = max_connections, request_timeout_s
        self.is_blocked, self.count = is_blocked, count
        self.members: dict[_Connection, None] = {}
        self._servers: list[asyncio.Server] = []
        self.door: TlsDoor | None = None

    async def listen(self, host: str, port: int, what: str) -> int:
        """One more listener; returns the real port. `what` names the setting, for a person.

        Raises:
            TransientError: The address cannot be had.
        """
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: _Connection(self),
                host,
                port,
                backlog=1024,
            )
        except OSError as error:
            raise _cannot_listen(error, host, port, what) from error
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def listen_tls(self, host: str, port: int, certificate: Certificate, what: str) -> int:
        """The HTTPS listener, see `listen`; its `door` is to be served."""
        listeners: list[socket.socket] = []
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(found):
                listener = socket.create_server(address, family=family, backlog=1024)
                listener.setblocking(False)
                listeners.append(listener)
        except OSError as error:
            for listener in listeners:
                listener.close()
            raise _cannot_listen(error, host, port, what) from error
        self.door = TlsDoor(
            listeners,
            certificate,
            may_enter=self._may_enter,
            guest=lambda arrived: _Connection(self, arrived),
            count=self.count,
        )
        return int(listeners[0].getsockname()[1])

    @property
    def is_full(self) -> bool:
        """Every place is taken; who is in the middle of a handshake has one."""
        arriving = 0 if self.door is None else len(self.door.arriving)
        return len(self.members) + arriving >= self.max_connections

    def _may_enter(self, address: str) -> bool:
        if self.is_blocked(address):
            self.count("http.blocked_connections")
            return False
        if self.is_full and not self.make_room():
            self.count("http.connections_refused")
            return False
        return True

    def make_room(self) -> bool:
        """The connection that is quiet longest goes, or who has been shaking hands longer; False: all are at work."""
        quiet = min(
            (member for member in self.members if member.is_idle), key=lambda member: member.heard_s, default=None
        )
        door = self.door
        arrived_s = next(iter(door.arriving.values()), None) if door is not None else None
        if door is not None and arrived_s is not None and (quiet is None or arrived_s < quiet.heard_s):
            door.turn_away_oldest()
        elif quiet is not None:
            quiet.leave()
        else:
            return False
        self.count("http.idle_connections_evicted")
        return True

    def look_around(self) -> None:
        """Once a second: who has taken too long goes."""
        now_s = asyncio.get_running_loop().time()
        for member in list(self.members):
            member.check(now_s)

    async def close(self, patience_s: float) -> None:
        """No new connections and requests; those at work have `patience_s` to be answered."""
        loop = asyncio.get_running_loop()
        for server in self._servers:
            server.close()
        if self.door is not None:
            self.door.close()
        for member in list(self.members):
            member.shutdown()
        until_s = loop.time() + patience_s
        # Polled, once in a life: a way for a thousand connections to tell would cost more.
        while self.members and loop.time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        for member in list(self.members):
            member.transport.abort()


def _cannot_listen(error: OSError, host: str, port: int, what: str) -> TransientError:
    if error.errno == errno.EADDRINUSE:
        remedy = f"another program uses it; stop that one, or set {what} to a free one"
    elif error.errno == errno.EACCES:
        remedy = "not allowed; use a port above 1023, or grant CAP_NET_BIND_SERVICE"
    else:
        remedy = f"{error.strerror or error}; check http.host"
    return TransientError(f"cannot listen for HTTP on {host} port {port}: {remedy}")


class _Connection(H11Protocol):
    """One peer."""

    def __init__(self, server: Server, arrived: Callable[[], None] = lambda: None) -> None:
        """`arrived` is told that it has its transport: from then on the place is its own."""
        super().__init__(server.config, server.state, {})
        self._arrived = arrived
        self.logger = _log
        self._house = server
        self.heard_s = 0.0
        self._owes_since_s: float | None = None  # the rest of a request
        self._stuck_since_s: float | None = None  # does not take what was sent

    @property
    def is_idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A peer that may not knock is dropped without a word; one too many is told."""
        self._arrived()
        super().connection_made(transport)
        self.heard_s = self._owes_since_s = self.loop.time()
        house = self._house
        if self.client is not None and house.is_blocked(self.client[0]):
            house.count("http.blocked_connections")
            transport.abort()
            return
        if house.is_full and not house.make_room():
            house.count("http.connections_refused")
            self.connections.discard(self)  # its farewell takes nobody's place
            transport.write(_BUSY)
            transport.close()
        house.members[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self._house.members.pop(self, None)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; nothing is read any more once the connection is to end."""
        if self.transport.is_closing():
            return
        self.heard_s = self.loop.time()
        if self._owes_since_s is None:
            self._owes_since_s = self.heard_s
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._owes_since_s = None

    def send_400_response(self, msg: str) -> None:
        """No HTTP."""
        self._house.count("http.bad_requests")
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer was under way already
            self.transport.abort()

    def leave(self) -> None:
        """Make room for another."""
        self._house.members.pop(self, None)
        self.transport.abort()

    def check(self, now_s: float) -> None:
        """Has it taken too long?"""
        limit_s = self._house.request_timeout_s
        if not (self.flow.write_paused or self.transport.is_closing()):
            self._stuck_since_s = None
        elif self._stuck_since_s is None:
            self._stuck_since_s = now_s
        elif now_s - self._stuck_since_s > limit_s:
            self._house.count("http.slow_connections")
            self.transport.abort()
            return
        if self._owes_since_s is None or self.transport.is_closing():
            return
        if self.flow.read_paused:  # we let it wait
            self._owes_since_s = now_s
        elif now_s - self._owes_since_s > limit_s:
            self._house.count("http.slow_connections")
            if self.is_idle or not self.cycle.response_started:
                self.transport.write(_SLOW)
                self.transport.close()
            else:
                self.transport.abort()
