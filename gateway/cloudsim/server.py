"""The simulated cloud with its listeners: gRPC for the edge, HTTP for people and tests."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim.api import HttpServer
from gateway.cloudsim.core import Cloud
from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.reset import reset_connections
from gateway.cloudsim.session import Session
from gateway.cloudsim.view import show
from gateway.errors import RejectedError, TransientError

SERVICE: Final = "edge.EdgeRpcService"
METHOD: Final = "handleMsgs"
_RETRY_S: Final = 0.2
_EOF: Final[Any] = grpc.aio.EOF  # type: ignore[attr-defined]
_HARD_LIMIT_BYTES: Final = 64 << 20  # above it gRPC itself ends the stream, before we can note by how much


class CloudSim(Cloud):
    """A `Cloud` that listens while its block is entered."""

    def __init__(self, options: CloudSimOptions) -> None:
        super().__init__(options)
        self.grpc_port = options.grpc_port
        self.http_port = options.http_port or 0
        self._server: grpc.aio.Server | None = None
        self._http: HttpServer | None = None
        self._switching = asyncio.Lock()
        self._reopening: asyncio.Task[None] | None = None
        self._stopping: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._open_listener()
        if self.options.http_port is not None:
            self._http = HttpServer(self, self.options.host, self.options.http_port)
            self.http_port = await self._http.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)
        if self._http is not None:
            await self._http.stop()
        await self._close_listener()
        for task in self._stopping:
            task.cancel()
        await asyncio.gather(*self._stopping, return_exceptions=True)

    async def offline(self, seconds: float) -> None:
        """Drop the stream abruptly and refuse connections; open again on the same port. Returns when closed."""
        if self._reopening is not None and not self._reopening.done():
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)
        self.counters.add("offline_spells")
        await self._close_listener()
        self._reopening = asyncio.create_task(self._reopen(seconds), name="cloud-sim reopen")

    async def wait_online(self) -> None:
        """Returns when an offline spell is over."""
        if self._reopening is not None:
            await asyncio.shield(self._reopening)

    @property
    def is_listening(self) -> bool:
        """False during an offline spell."""
        return self._server is not None

    async def _reopen(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        while True:
            try:
                return await self._open_listener()
            except TransientError:  # somebody took the port meanwhile: it is ours again when it is free
                await asyncio.sleep(_RETRY_S)

    async def _open_listener(self) -> None:
        options = self.options
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _HARD_LIMIT_BYTES + options.max_inbound),
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
                ("grpc.so_reuseport", 0),
            ]
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self._handle,
            request_deserializer=self._parse,
            response_serializer=edge_pb2.ResponseMsg.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        address = f"{options.host}:{self.grpc_port}"
        try:
            if options.tls_cert is not None and options.tls_key is not None:
                pair = (options.tls_key.read_bytes(), options.tls_cert.read_bytes())
                self.grpc_port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self.grpc_port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise TransientError(f"{address}: {error}") from error
        await server.start()
        self._server = server

    def _parse(self, data: bytes) -> edge_pb2.RequestMsg | int:
        """A number: this many bytes are too many."""
        return len(data) if len(data) > self.options.max_inbound else edge_pb2.RequestMsg.FromString(data)

    async def goaway(self, grace_s: float = 1.0) -> None:
        """As an orderly restart: GOAWAY now, the open stream ends after the grace; new ones are taken at once."""
        async with self._switching:
            server, self._server = self._server, None
            if server is None:
                raise RejectedError("the cloud is offline")
            self._stopping = [task for task in self._stopping if not task.done()]
            self._stopping.append(asyncio.create_task(server.stop(grace_s), name="cloud-sim goaway"))
            while True:
                await asyncio.sleep(0)
                try:
                    return await self._open_listener()
                except TransientError:
                    await asyncio.sleep(_RETRY_S / 10)

    async def reset(self) -> int:
        """TCP RST on every connection of the edge protocol, without a word before; how many there were."""
        return reset_connections(self.grpc_port)

    async def _close_listener(self) -> None:
        async with self._switching:
            server, self._server = self._server, None
            if server is not None:
                await server.stop(None)

    async def _handle(self, _: Any, context: Any) -> None:
        too_big = 0

        async def read() -> edge_pb2.RequestMsg | None:
            nonlocal too_big
            request = await context.read()
            if isinstance(request, int):
                too_big = request
                return None
            return None if request is _EOF else request

        try:
            is_proper = await Session(self).serve(read, context.write)
        except asyncio.CancelledError:
            if self._server is not None:
                raise
            return  # we closed the listener ourselves: the call is gone, and the library would log an error
        if too_big:
            limit = self.options.max_inbound
            self.violations.add("too_big", f"a message of {too_big} bytes; {limit} were announced")
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details(f"gRPC message exceeds maximum size {limit}: {too_big}")
        elif not is_proper:
            context.set_code(grpc.StatusCode.UNKNOWN)


async def run(options: CloudSimOptions) -> None:
    """The simulator as a process of its own: until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with CloudSim(options) as sim, _showing(sim):
        await stop.wait()


@contextlib.asynccontextmanager
async def _showing(sim: CloudSim) -> AsyncIterator[None]:
    is_live = sim.options.show_view and sys.stdout.isatty()
    task = asyncio.create_task(show(sim, sim.grpc_port, sim.http_port, is_live=is_live), name="cloud-sim view")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
