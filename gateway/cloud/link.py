"""The gRPC stream: carries the conversation of `session`, translated by the codec. The only door to grpc.

One call of `serve` is the life of one connection; `supervise` makes the next. Inside live four tasks: a
reader (never blocked by what the cloud asks, except when too many downlinks wait), the applier (`applier`: what the
cloud asks, acknowledged when durable), a writer (everything we say, in order, waiting for the transport), and
a watchman (a sync that does not end, a cloud that is silent).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import grpc
import grpc.aio

from gateway.cloud.applier import Applier
from gateway.cloud.certificates import Certificates
from gateway.cloud.decode import decode_response
from gateway.cloud.diagnosis import diagnose, layer_of
from gateway.cloud.encode import encode_ack, encode_connect, encode_probe, encode_sync, encode_uplink
from gateway.cloud.endings import HELD_S, Endings
from gateway.cloud.pending import Pending
from gateway.cloud.session import (
    Accepted,
    DownlinkReceived,
    EdgeChanged,
    LinkEvent,
    Refusal,
    Refused,
    Session,
    State,
    StreamEnded,
    SyncApplied,
    UplinkAnswered,
)
from gateway.cloud.tls import read_pair, read_roots
from gateway.config import CloudConfig
from gateway.domain.cloud_event import Lane, StoredEvent
from gateway.domain.downlink import EdgeConfigured
from gateway.domain.entity import EdgeIdentity
from gateway.errors import GatewayError, LinkLost, RefusedError, RejectedError, TransientError
from gateway.ports import Clock, DownlinkHandler, StateReader, UplinkAnswer
from gateway.supervise import Counters

log = logging.getLogger(__name__)

METHOD: Final = "/edge.EdgeRpcService/handleMsgs"
_ENVELOPE_BYTES: Final = 4096  # the limit is compared with the message here and with its wrapping there
_WATCH_S: Final = 0.5
_STREAM_OVER: Final = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
_LARGEST_ID: Final = (1 << 31) - 2

Call = Any  # bytes both ways; the stubs of grpc.aio know only half of a call


class _NoContact(TransientError):
    """The attempt failed below the conversation: a probe finds better words."""


class _Completed(TransientError):
    """The cloud ended the stream in order."""


class _Mute(TransientError):
    """The stream stands, and the cloud answers nothing."""


class GrpcLink:
    """Implements `CloudLink`."""

    name = "cloud"

    def __init__(
        self, config: CloudConfig, handler: DownlinkHandler, state: StateReader, clock: Clock, counters: Counters
    ) -> None:
        self._config, self._handler, self._state = config, handler, state
        self._clock, self._counters = clock, counters
        self._applier = Applier(handler, clock, counters, self._acknowledge, self._synced)
        self._certificates = Certificates(config, clock)
        self._session = Session()
        self._session.state = State.CLOSED
        self._since_ms = clock.now_ms()
        self._number = 0
        self._last_error: str | None = None
        self._max_message_bytes = config.max_inbound_bytes - _ENVELOPE_BYTES
        self._ready, self._lost = asyncio.Event(), asyncio.Event()
        self._lost.set()
        self._pending = Pending()
        self._outbox: asyncio.PriorityQueue[tuple[int, int, bytes]] = asyncio.PriorityQueue()
        self._posted = itertools.count()
        self._sync_heard_s = 0.0
        self._spells = 0
        self._accepted_s: float | None = None
        self._endings = Endings(config)
        self._ready_s: float | None = None
        self._is_untold = False  # ready again, and not said while the line comes and goes

    # ── as the sender sees it ────────────────────────────────────────────────────────────────

    @property
    def is_ready(self) -> bool:
        """Uplink is allowed."""
        return self._ready.is_set()

    async def wait_ready(self) -> int:
        """Returns when uplink is allowed: the number of the session."""
        await self._ready.wait()
        return self._number

    async def wait_lost(self) -> None:
        """Returns when uplink is not allowed."""
        await self._lost.wait()

    @property
    def max_message_bytes(self) -> int:
        """What the cloud announced, less what the envelope needs."""
        return self._max_message_bytes

    def size_bytes(self, events: Sequence[StoredEvent]) -> int:
        """What these events would weigh as one message; 0 when nothing would be sent.

        Raises:
            RejectedError: An event cannot be encoded.
        """
        request = encode_uplink(_LARGEST_ID, events, self._state)
        return 0 if request is None else len(request)

    def send(self, events: Sequence[StoredEvent]) -> asyncio.Future[UplinkAnswer]:
        """One uplink message with these events; see `CloudLink.send`."""
        if not self._ready.is_set():
            raise LinkLost("the cloud is not connected")
        future: asyncio.Future[UplinkAnswer] = asyncio.get_running_loop().create_future()
        content = tuple((event.lane, event.seq_id, hash(event.body)) for event in events)
        id_ = self._pending.id_of(content)
        try:
            request = encode_uplink(id_, events, self._state)
        except RejectedError as error:
            future.set_exception(error)
            return future
        if request is None:
            self._counters.add("uplink.skipped", len(events))
            future.set_result(UplinkAnswer(is_success=True))
        elif len(request) > self._max_message_bytes:
            text = f"the message has {len(request)} bytes, the cloud takes {self._max_message_bytes}"
            future.set_exception(RejectedError(text))
        else:
            self._pending.add(id_, future, self._clock.monotonic_s(), content)
            self._post(request, is_urgent=events[0].lane is Lane.EXPRESS)
        return future

    def status(self) -> dict[str, Any]:
        """For the page and the command line; no keys, no secrets."""
        return {
            "state": self._session.state.value,
            "since_ms": self._since_ms,
            "last_error": self._last_error,
            "layer": layer_of(self._last_error) if self._last_error else None,
            "reconnects": max(0, self._number - 1),
            "session": self._number,
            "in_flight": len(self._pending),
            "edge": self._applier.edge_name,
            "refused_downlinks": self._applier.refused(),
            "server": f"{self._config.host}:{self._config.port}",
            "certificates": self._certificates.status(),
        }

    def spells(self) -> int:
        """How often the link became ready: what fails after that is another outage."""
        return self._spells

    # ── one connection ───────────────────────────────────────────────────────────────────────

    async def serve(self) -> None:
        """From the connect request to the end of the stream.

        Raises:
            TransientError: The stream ended or never began; connect again after a while.
            RefusedError: A person must act: key, secret, edition or a certificate file.
        """
        self._session, self._pending = Session(), Pending()
        self._outbox = asyncio.PriorityQueue()
        self._applier.begin()
        self._since_ms = self._clock.now_ms()
        self._accepted_s = self._ready_s = None
        self._is_untold = False
        try:
            await self._connect()
        except BaseException as error:
            cause = await self._explained(_cause(error))
            self._last_error = str(cause) if isinstance(cause, GatewayError) else type(cause).__name__
            if cause is error:
                raise
            raise cause from None
        finally:
            self._ready.clear()
            self._lost.set()
            if self._ready_s is not None:
                self._endings.ended(self._clock.monotonic_s() - self._ready_s)
            self._on(StreamEnded())
            self._pending.fail(self._last_error or "the link was closed")

    async def _explained(self, cause: BaseException) -> BaseException:
        """The same, in better words where there are some."""
        if isinstance(cause, _NoContact):
            reason = await diagnose(self._config)
            return TransientError(f"{self._where}: {reason}") if reason else cause
        if self._accepted_s is None:
            return cause
        if not isinstance(cause, _Completed | _Mute):
            self._endings.failed()
            return cause
        lived_s = self._clock.monotonic_s() - self._accepted_s
        if not self._endings.evicted(lived_s, is_mute=isinstance(cause, _Mute)):
            return cause
        if isinstance(cause, _Mute):
            return RefusedError(
                "the cloud accepts us and falls silent soon after, again and again: probably another gateway uses the"
                " same routing key (a server before 4.0.2 does not say so); give each gateway an edge of its own"
            )
        return RefusedError(
            "another gateway uses the same routing key: the cloud closes the stream again and again shortly after it"
            " has accepted us; give each gateway an edge of its own in the cloud"
        )

    @property
    def _where(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    async def _connect(self) -> None:
        key = self._config.routing_key.get_secret_value()
        secret = self._config.routing_secret.get_secret_value()
        if not key or not secret:
            raise RefusedError(
                "no routing key or no secret: set cloud.routing_key and cloud.routing_secret"
                " (or CLOUD_ROUTING_KEY and CLOUD_ROUTING_SECRET)"
            )
        request = encode_connect(key, secret, self._config.edge_version, self._config.max_inbound_bytes)
        self._certificates.look_at_files()
        compression = grpc.Compression.Gzip if self._config.gzip else grpc.Compression.NoCompression
        async with open_channel(self._config) as channel:
            open_stream: Any = channel.stream_stream
            call: Call = open_stream(METHOD)(compression=compression)
            try:
                identity = await self._introduce(call, request)
                await self._converse(call, identity)
            finally:
                call.cancel()

    async def _introduce(self, call: Call, request: bytes) -> EdgeIdentity:
        """The connect request and the verdict."""
        try:
            async with asyncio.timeout(self._config.timeout_ms / 1000):
                with contextlib.suppress(*_STREAM_OVER):  # the read tells why
                    await call.write(request)
                event = await self._read(call)
                while self._session.state is State.CONNECTING:
                    event = await self._read(call)
        except TimeoutError:
            raise _NoContact(f"{self._where}: no verdict within {self._config.timeout_ms} ms") from None
        if isinstance(event, Refused):
            raise _refusal(event)
        if not isinstance(event, Accepted):
            raise TransientError("the cloud closed the stream before it answered")
        _check_edition(event.identity)
        self._max_message_bytes = event.max_message_bytes - _ENVELOPE_BYTES
        self._accepted_s = self._clock.monotonic_s()
        self._number += 1
        self._counters.add("cloud.connects")
        return event.identity

    async def _converse(self, call: Call, identity: EdgeIdentity) -> None:
        self._applier.edge_name = identity.name
        is_full = await self._handler.connected(identity)
        self._sync_heard_s = self._clock.monotonic_s()
        self._post(encode_sync(is_full), is_urgent=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_all(call), name="cloud.write")
            tasks.create_task(self._read_all(call), name="cloud.read")
            tasks.create_task(self._applier.serve(), name="cloud.apply")
            tasks.create_task(self._watch(), name="cloud.watch")
            tasks.create_task(self._certificates.watch(), name="cloud.certificates")

    async def _read(self, call: Call) -> LinkEvent:
        try:
            data = await call.read()
        except grpc.aio.AioRpcError as error:
            kind = _NoContact if self._session.state is State.CONNECTING and _is_transport(error) else TransientError
            raise kind(_reason(error, self._config)) from None
        if not isinstance(data, bytes):  # the mark of the end: completed with OK, an error would have raised
            raise _Completed(
                "the cloud closed the stream: the edge was deleted there, or another gateway uses the same key"
            )
        event = decode_response(data)
        self._pending.heard(self._clock.monotonic_s())
        self._on(event)
        return event

    async def _read_all(self, call: Call) -> None:
        while True:
            event = await self._read(call)
            if isinstance(event, UplinkAnswered):
                if not self._pending.answer(event.id, event.answer):
                    self._counters.add("cloud.answers_unknown")
            elif isinstance(event, DownlinkReceived | EdgeChanged):
                for identity in _identities(event):
                    _check_edition(identity)
                    self._check_identity(identity, call)
                self._sync_heard_s = self._clock.monotonic_s()  # a long sync is fine, a stuck one is not
                await self._applier.put(event)

    def _check_identity(self, identity: EdgeIdentity, call: Call) -> None:
        """Another edge in the middle of a session: nothing more goes up, the next connect deals with it.

        What was read ahead or is on its way belongs to the old edge, and the new one must not get it.
        """
        known = self._state.identity()
        if known is not None and known.edge_id != identity.edge_id:
            self._ready.clear()
            self._lost.set()
            call.cancel()  # what waits to be written is not written any more
            raise TransientError(
                f"the cloud says that this gateway now is the edge {identity.name!r} ({identity.edge_id}):"
                " connecting anew"
            )

    def _post(self, request: bytes, *, is_urgent: bool) -> None:
        """To be written; RPC and acknowledgements pass the telemetry that waits for the line.

        Bounded by the sender's window and by the inbox.
        """
        self._outbox.put_nowait((0 if is_urgent else 1, next(self._posted), request))

    async def _write_all(self, call: Call) -> None:
        while True:
            _, _, request = await self._outbox.get()
            try:
                await call.write(request)
            except _STREAM_OVER:
                return  # the reader learns of the end as well, with its reason

    def _acknowledge(self, downlink_id: int) -> None:
        self._post(encode_ack(downlink_id), is_urgent=True)

    def _synced(self) -> None:
        self._on(SyncApplied())
        if not self._ready.is_set():
            self._last_error = None
            self._ready_s = self._clock.monotonic_s()
            self._lost.clear()
            self._ready.set()
            if self._endings.is_flapping:
                self._is_untold = True
                self._counters.add("cloud.flaps")
            else:
                self._tell_connected()

    def _tell_connected(self) -> None:
        """The end of an outage: what fails from here on is another one."""
        self._is_untold = False
        self._spells += 1
        log.info("cloud: connected to %s:%d as %r", self._config.host, self._config.port, self._applier.edge_name)

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(_WATCH_S)
            now_s = self._clock.monotonic_s()
            is_syncing = self._session.state is State.SYNCING
            if is_syncing and now_s - self._sync_heard_s >= self._config.sync_timeout_s:
                raise TransientError(f"the cloud's sync stands still for {self._config.sync_timeout_s:g} s")
            if self._pending.overdue_s(now_s, self._config.answer_timeout_s):
                raise _Mute(
                    f"the cloud has not answered for {self._config.answer_timeout_s:g} s though messages are waiting"
                )
            if self._ready_s is None:
                continue
            if self._is_untold and now_s - self._ready_s >= HELD_S:
                self._endings.held()
                self._tell_connected()
            if self._config.probe_s and not self._pending and self._pending.silent_s(now_s) >= self._config.probe_s:
                self._probe(now_s)

    def _probe(self, now_s: float) -> None:
        """Ask for an answer: a server that has forgotten this stream still answers the pings of the transport."""
        future: asyncio.Future[UplinkAnswer] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # whatever it says, it is a sign
        id_ = self._pending.id_of(None)
        self._pending.add(id_, future, now_s)
        self._counters.add("cloud.probes")
        self._post(encode_probe(id_), is_urgent=True)

    def _on(self, event: LinkEvent | StreamEnded) -> None:
        before = self._session.state
        if self._session.on(event) is not before:
            self._since_ms = self._clock.now_ms()


def _identities(event: DownlinkReceived | EdgeChanged) -> list[EdgeIdentity]:
    """What a message says of who we are."""
    if isinstance(event, EdgeChanged):
        return [event.identity]
    return [command.identity for command in event.downlink.commands if isinstance(command, EdgeConfigured)]


def _check_edition(identity: EdgeIdentity) -> None:
    if identity.cloud_type != "CE":
        raise RefusedError(
            f"the cloud is a {identity.cloud_type or 'nameless'} edition; only the Community Edition (CE)"
            " has a protocol that this gateway knows"
        )


def open_channel(config: CloudConfig) -> grpc.aio.Channel:
    """A channel of our own: nothing of an earlier outage is remembered in it, and no call is repeated by it.

    Raises:
        RefusedError: The certificate file cannot be read.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", round(config.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(config.keepalive_timeout_s * 1000)),
        # Without this one the core waits a minute for the answer to a ping, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", round(config.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # The announced limit is compared with the message, this one with its wrapping: a little more.
        ("grpc.max_receive_message_length", config.max_inbound_bytes + 65_536),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if config.proxy_host:
        options.append(("grpc.http_proxy", _proxy_url(config)))
    else:
        options.append(("grpc.enable_http_proxy", 0))  # the configuration decides, not a variable of the environment
    host = f"[{config.host}]" if ":" in config.host else config.host
    target = f"{host}:{config.port}"
    if not config.ssl_enabled:
        return grpc.aio.insecure_channel(target, options)
    if config.ssl_server_name:
        options.append(("grpc.ssl_target_name_override", config.ssl_server_name))
    key, certificate = read_pair(config) or (None, None)
    credentials = grpc.ssl_channel_credentials(read_roots(config), key, certificate)
    return grpc.aio.secure_channel(target, credentials, options)


def _proxy_url(config: CloudConfig) -> str:
    """As grpc wants it: user and password are percent-encoded, so that any character may be in them."""
    user = ""
    if config.proxy_user is not None:
        password = config.proxy_password.get_secret_value() if config.proxy_password else ""
        user = f"{quote(config.proxy_user, safe='')}:{quote(password, safe='')}@"
    host = f"[{config.proxy_host}]" if ":" in (config.proxy_host or "") else config.proxy_host
    return f"http://{user}{host}:{config.proxy_port}"


def _refusal(event: Refused) -> GatewayError:
    if event.reason is Refusal.UNKNOWN_KEY:
        return RefusedError("the cloud does not know this routing key: was it mistyped, or the edge deleted there?")
    if event.reason is Refusal.WRONG_SECRET:
        return RefusedError("the cloud knows this routing key, but its secret is another one")
    if event.reason is Refusal.BAD_CREDENTIALS:
        return RefusedError("the cloud does not know this routing key, or its secret is wrong; check both")
    return TransientError("the cloud cannot accept us now (SERVER_UNAVAILABLE)")


def _is_transport(error: grpc.aio.AioRpcError) -> bool:
    """May a probe say more than the status code?"""
    return error.code() not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def _reason(error: grpc.aio.AioRpcError, config: CloudConfig) -> str:
    """A short text that names the layer; the server's own words are kept out, they may hold secrets."""
    where = f"{config.host}:{config.port}"
    code, details = error.code(), (error.details() or "").lower()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"{where}: wrong service: gRPC answers here, but it is no edge port (UNIMPLEMENTED);"
            " ThingsBoard's is 7070 by default"
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"{where}: gRPC RESOURCE_EXHAUSTED (a message over the limit, or too much at once)"
    if code is not grpc.StatusCode.UNAVAILABLE:
        return f"{where}: gRPC {code.name}: the server ended the stream with an error; its log says why"
    for sign, layer in (
        ("certificate_verify_failed", "TLS: the server's certificate is not trusted"),
        ("hostname verification", "TLS: the certificate has another name"),
        ("peer name", "TLS: the certificate has another name"),
        ("ssl", "TLS handshake failed (is TLS on at both ends?)"),
        ("handshake", "TLS handshake failed (is TLS on at both ends?)"),
        ("connection refused", "TCP: connection refused"),
        ("name resolution", "DNS: no address for this name"),
        ("dns", "DNS: no address for this name"),
        ("goaway", "HTTP/2: the server ends the connection; it stops or restarts"),
        ("cancelling all calls", "HTTP/2: the server ends the connection; it stops or restarts"),
        ("shutdown", "HTTP/2: the server ends the connection; it stops or restarts"),
        ("keepalive", "HTTP/2: no answer to keepalive pings"),
        ("timed out", "TCP: timed out"),
        ("timeout", "TCP: timed out"),
        ("connection reset", "TCP: connection reset"),
        ("socket closed", "TCP: connection closed"),
    ):
        if sign in details:
            return f"{where}: {layer}"
    return f"{where}: gRPC UNAVAILABLE: the server, or something on the way to it, ended the connection"


def _cause(error: BaseException) -> BaseException:
    """What ended a group of tasks, when it is one of our errors alone; a bug keeps its group."""
    inner = error
    while isinstance(inner, BaseExceptionGroup) and all(
        isinstance(one, GatewayError | BaseExceptionGroup) for one in inner.exceptions
    ):
        inner = inner.exceptions[0]
    return inner
