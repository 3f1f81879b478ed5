"""A gRPC server whose conduct is the test: one coroutine per connection, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import grpc.aio

from gateway.cloud.pb import edge_pb2, edge_pb2_grpc

WHO = edge_pb2.EdgeConfiguration(
    edgeIdMSB=1, edgeIdLSB=2, tenantIdMSB=3, tenantIdLSB=4, name="Cellar edge", secret="secret-1", cloudType="CE"
)


_OPTIONS = [  # the pings that a ThingsBoard server permits
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
]


class Peer:
    """One stream, as the server sees it."""

    def __init__(self, stream, context) -> None:
        self._stream, self.context = stream, context
        self.requests: list[edge_pb2.RequestMsg] = []

    async def read(self) -> edge_pb2.RequestMsg:
        request = await anext(self._stream)
        self.requests.append(request)
        return request

    async def write(self, **fields) -> None:
        await self.context.write(edge_pb2.ResponseMsg(**fields))

    async def accept(self, **changes) -> None:
        who = edge_pb2.EdgeConfiguration()
        who.CopyFrom(WHO)
        for name, value in changes.items():
            setattr(who, name, value)
        await self.read()
        await self.write(connectResponseMsg={"configuration": who, "maxInboundMessageSize": 100_000})

    async def sync(self) -> edge_pb2.RequestMsg:
        """The sync request, answered by SyncCompleted; the acknowledgement of it."""
        await self.read()
        await self.write(downlinkMsg={"downlinkMsgId": 1, "syncCompletedMsg": {}})
        return await self.read()

    async def downlink(self, **fields) -> edge_pb2.DownlinkResponseMsg:
        await self.write(downlinkMsg=fields)
        return (await self.read()).downlinkResponseMsg


class Server(edge_pb2_grpc.EdgeRpcServiceServicer):
    def __init__(self, conduct) -> None:
        self.conduct = conduct
        self.peers: list[Peer] = []

    async def handleMsgs(self, request_iterator, context):
        peer = Peer(request_iterator, context)
        self.peers.append(peer)
        await self.conduct(peer)


@contextlib.asynccontextmanager
async def serving(conduct, credentials=None):
    """Yields (server, port)."""
    grpc_server = grpc.aio.server(options=_OPTIONS)
    service = Server(conduct)
    edge_pb2_grpc.add_EdgeRpcServiceServicer_to_server(service, grpc_server)
    port = (
        grpc_server.add_secure_port("127.0.0.1:0", credentials)
        if credentials
        else grpc_server.add_insecure_port("127.0.0.1:0")
    )
    await grpc_server.start()
    try:
        yield service, port
    finally:
        await grpc_server.stop(None)


async def until(condition, timeout_s: float = 20.0) -> None:
    """Poll a condition."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
