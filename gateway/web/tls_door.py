"""HTTPS accepts by itself: a peer counts from its first moment, and a handshake takes the certificate of now."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.config import HttpConfig
from gateway.errors import RefusedError

log = logging.getLogger(__name__)

HANDSHAKE_S: Final = 10.0
_NO_ROOM_S: Final = 0.2  # no file is left for another socket


class Certificate:
    """Key and certificate from their files, loaded anew when these change. Those that cannot be used change nothing."""

    def __init__(self, config: HttpConfig) -> None:
        """The first time.

        Raises:
            RefusedError: They cannot be used: there would be nothing to listen with.
        """
        if config.tls_cert is None or config.tls_key is None:
            raise RefusedError("http.tls_port needs http.tls_cert and http.tls_key")
        self._files = config.tls_cert, config.tls_key
        self._stamp = self._now()
        self.problem: str | None = None
        try:
            self.context = _context(*self._files)
        except (OSError, ssl.SSLError) as error:
            raise RefusedError(f"http.tls_cert or tls_key cannot be used: {error}") from error

    def refresh(self, *, is_forced: bool = False) -> None:
        """For handshakes to come. Two log lines for a spell of bad files, its beginning and its end."""
        stamp = self._now()
        if stamp == self._stamp and self.problem is None and not is_forced:
            return
        self._stamp = stamp
        try:
            self.context = _context(*self._files)
        except (OSError, ssl.SSLError) as error:
            problem = f"http.tls_cert or tls_key cannot be used: {error}"
            if self.problem is None:
                log.warning("%s; the last certificate stays, tried again", problem)
            self.problem = problem
            return
        self.problem = None
        log.info("the certificate for HTTPS was loaded: new connections see it")

    def _now(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._files)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # An empty password: a key that needs one is an error here, not a question on a terminal.
    context.load_cert_chain(cert, key, password="")
    return context


class TlsDoor:
    """One HTTPS listener. Who is in the middle of a handshake is in `arriving`, oldest first."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        certificate: Certificate,
        *,
        may_enter: Callable[[str], bool],
        guest: Callable[[Callable[[], None]], asyncio.BaseProtocol],
        count: Callable[[str], None],
    ) -> None:
        """`guest` makes the protocol behind the door; it calls what it was given when it has its transport."""
        self._listeners, self._certificate = listeners, certificate
        self._may_enter, self._guest, self._count = may_enter, guest, count
        self.arriving: dict[asyncio.Task[None], float] = {}

    async def serve(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for listener in self._listeners:
                    tasks.create_task(self._accept(listener, tasks), name="http: TLS")
        finally:
            self.close()

    def close(self) -> None:
        """Nobody new."""
        for listener in self._listeners:
            listener.close()

    def turn_away_oldest(self) -> None:
        """Whoever has been shaking hands longest makes room."""
        task = next(iter(self.arriving))
        del self.arriving[task]
        task.cancel()

    async def _accept(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, (address, *_) = await loop.sock_accept(listener)
            except OSError as error:  # gone again, or no file left for it
                self._count("http.accept_failures")
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    await asyncio.sleep(_NO_ROOM_S)
                continue
            if not self._may_enter(address):
                peer.close()
                continue
            task = tasks.create_task(self._handshake(peer), name="http: TLS handshake")
            self.arriving[task] = loop.time()

    async def _handshake(self, peer: socket.socket) -> None:
        task: Any = asyncio.current_task()
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._guest(lambda: self._arrived(task)),
                peer,
                ssl=self._certificate.context,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self._count("http.tls_handshakes_failed")
        finally:
            self._arrived(task)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self.arriving.pop(task, None)
