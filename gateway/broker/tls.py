"""TLS of the MQTT listeners: the context from its files, loaded anew when they change, and the door it stands at."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from gateway.broker.admission import Admission
from gateway.broker.certificates import take_any_certificate
from gateway.config import BrokerConfig
from gateway.supervise import Counters

log = logging.getLogger(__name__)

_SHUTDOWN_S: Final = 1.0
_NO_ROOM_S: Final = 0.2
_READ_LIMIT_BYTES: Final = 32_768  # decrypted and not yet taken, while reading is paused

_Stamp = tuple[tuple[int, int, int] | None, ...]


class TlsFiles:
    """The context for handshakes to come. While files cannot be used the last good one stays; none: nobody gets in.

    Two log lines for a spell of bad files, its beginning and its end.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        self._stamp: _Stamp = ()
        self.context: ssl.SSLContext | None = None
        self.problem: str | None = None
        """Why the files as they are now cannot be used."""

    def refresh(self, *, is_forced: bool = False) -> None:
        """Load the files when one of them is another than last time, or was bad, or `is_forced`."""
        stamp = tuple(_stamp(path) for path in self._paths())
        if stamp == self._stamp and self.problem is None and not is_forced:
            return
        is_first = not self._stamp
        self._stamp = stamp
        try:
            context = self._load()
        except (OSError, ssl.SSLError) as error:
            problem = f"broker.tls_cert, tls_key or tls_client_ca cannot be used: {_reason(error)}"
            if self.problem is None:
                stays = "nobody can connect over TLS" if self.context is None else "the last certificate stays"
                log.warning("%s; %s, tried again", problem, stays)
            self.problem = problem
            return
        if self.problem is not None or not is_first:
            log.info("the certificate for MQTT was loaded: new connections see it")
        self.context, self.problem = context, None

    def _paths(self) -> list[Path]:
        config = self._config
        return [path for path in (config.tls_cert, config.tls_key, config.tls_client_ca) if path is not None]

    def _load(self) -> ssl.SSLContext:
        config = self._config
        assert config.tls_cert is not None  # the configuration has been checked: a TLS port needs both
        assert config.tls_key is not None
        if config.tls_client_ca is not None:
            context = _context(config.tls_cert, config.tls_key)
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        elif config.x509:
            # Each handshake needs a context of its own, and the files may be in the middle of a change by then.
            if hasattr(os, "memfd_create"):
                fresh = _Kept(config.tls_cert.read_bytes() + b"\n" + config.tls_key.read_bytes()).context
            else:
                fresh = partial(_context, config.tls_cert, config.tls_key)
            context = fresh()
            take_any_certificate(context, fresh)
        else:
            context = _context(config.tls_cert, config.tls_key)
        return context


class _Kept:
    """Certificate and key in memory, where OpenSSL can read them as a file; gone with the last who uses it."""

    def __init__(self, pem: bytes) -> None:
        self._file = os.fdopen(os.memfd_create("certificate"), "wb", buffering=0)
        self._file.write(pem)
        self.path = Path(f"/proc/self/fd/{self._file.fileno()}")
        weakref.finalize(self, self._file.close)

    def context(self) -> ssl.SSLContext:
        """A new one."""
        return _context(self.path)


def _context(cert: Path, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An empty password: a key that needs one is an error here, not a question on a terminal.
    context.load_cert_chain(cert, key, password="")
    return context


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)


class TlsDoor:
    """One TLS listener: accepts, counts, shakes hands; then the connection has the socket.

    It accepts by itself, so that a peer is counted and bounded from its first moment, and so that each handshake
    takes the certificate of now.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        files: TlsFiles,
        admission: Admission,
        counters: Counters,
        guest: Callable[[], asyncio.BaseProtocol],
        *,
        now_s: Callable[[], float],
        timeout_s: float,
    ) -> None:
        """`guest` makes the protocol behind the door; `timeout_s` is for the handshake. The sockets are the door's."""
        self._listeners, self._files, self._admission, self._counters = listeners, files, admission, counters
        self._guest, self._now_s, self._timeout_s = guest, now_s, timeout_s

    async def serve(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for listener in self._listeners:
                    tasks.create_task(self._accept(listener, tasks), name="broker: TLS")
        finally:
            self.close()

    def close(self) -> None:
        """Nobody new."""
        for listener in self._listeners:
            listener.close()

    async def _accept(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, (address, *_) = await loop.sock_accept(listener)
            except OSError as error:  # gone again, or no file left for it
                self._counters.add("broker.accept_failures")
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    await asyncio.sleep(_NO_ROOM_S)
                continue
            context = self._files.context
            if context is None:
                self._counters.add("broker.tls_without_certificate")
                peer.close()
            elif self._admission.enter(address, self._now_s()):
                tasks.create_task(self._handshake(peer, address, context), name="broker: TLS handshake")
            else:
                peer.close()

    async def _handshake(self, peer: socket.socket, address: str, context: ssl.SSLContext) -> None:
        arrival = _Arrival(self._guest, lambda: self._admission.leave(address))
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: arrival,
                peer,
                ssl=context,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self._counters.add("broker.tls_handshakes_failed")
        finally:
            arrival.leave()


class _Arrival(asyncio.Protocol):
    """Keeps the place of a peer until its handshake is done: then the guest takes one of its own."""

    def __init__(self, guest: Callable[[], asyncio.BaseProtocol], leave: Callable[[], None]) -> None:
        self._guest = guest
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.leave()
        cast(Any, transport).set_read_buffer_limits(_READ_LIMIT_BYTES)
        guest = self._guest()
        transport.set_protocol(guest)
        guest.connection_made(transport)
