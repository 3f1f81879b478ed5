"""TLS of the MQTT listeners: the context from its files, loaded anew when they change, and the door it stands at."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, cast

from gateway.broker.admission import Admission
from gateway.broker.certificates import take_any_certificate
from gateway.config import BrokerConfig
from gateway.supervise import Counters

log = logging.getLogger(__name__)

_SHUTDOWN_S: Final = 1.0
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


class Guest(Protocol):
    """What is behind the door."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        ...

    def data_received(self, data: bytes) -> None:
        """What came together with its end."""
        ...


class TlsDoor(asyncio.Protocol):
    """One socket during its handshake; afterwards the connection has it.

    The handshake is ours and not the server's, so that a peer is counted and bounded from its first moment,
    and so that each handshake takes the certificate of now.
    """

    def __init__(
        self,
        files: TlsFiles,
        admission: Admission,
        counters: Counters,
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        connection: Callable[[], Guest],
        *,
        now_s: Callable[[], float],
        timeout_s: float,
    ) -> None:
        """`connection` makes the protocol behind the door; `timeout_s` is for the handshake."""
        self._files, self._admission, self._counters, self._spawn = files, admission, counters, spawn
        self._connection, self._now_s, self._timeout_s = connection, now_s, timeout_s
        self._early: list[bytes] = []
        self._transport: asyncio.Transport
        self._is_lost = False
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, then let it prove itself."""
        if self._is_open:
            return
        self._is_open = True
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        address = peer[0] if peer else ""
        context = self._files.context
        if context is None:
            self._counters.add("broker.tls_without_certificate")
            self._transport.abort()
        elif not self._admission.enter(address, self._now_s()):
            self._transport.abort()
        else:
            self._transport.pause_reading()  # the handshake reads
            self._spawn(self._handshake(context, address), "broker: TLS handshake")

    def data_received(self, data: bytes) -> None:
        """What came in one piece with the end of the handshake."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It left before it was inside."""
        self._is_lost = True

    async def _handshake(self, context: ssl.SSLContext, address: str) -> None:
        inside: asyncio.Transport | None = None
        try:
            inside = await asyncio.get_running_loop().start_tls(
                self._transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self._counters.add("broker.tls_handshakes_failed")
        finally:
            self._admission.leave(address)
            if inside is None:
                self._transport.abort()
        if inside is None or self._is_lost:
            return
        cast(Any, inside).set_read_buffer_limits(_READ_LIMIT_BYTES)
        protocol = self._connection()
        inside.set_protocol(cast("asyncio.BaseProtocol", protocol))
        protocol.connection_made(inside)
        for data in self._early:
            protocol.data_received(data)
