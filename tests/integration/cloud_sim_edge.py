"""A small edge, written by hand against the protocol: the other party in the tests of the simulated cloud."""

import asyncio
from collections.abc import Callable
from typing import Any, Self
from uuid import UUID

import grpc
import grpc.aio
import orjson

from gateway.cloud.pb import edge_pb2, queue_pb2

DEADLINE_S = 5.0


def halves(uuid: UUID) -> tuple[int, int]:
    high, low = uuid.int >> 64, uuid.int & (1 << 64) - 1
    return tuple(half - (1 << 64) if half >= 1 << 63 else half for half in (high, low))  # type: ignore[return-value]


async def until(condition: Callable[[], Any], what: str = "condition") -> Any:
    """Poll with a deadline."""
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while not (value := condition()):
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"timed out waiting for {what}")
        await asyncio.sleep(0.005)
    return value


class Edge:
    """One stream. Acknowledges downlinks by `ack`: True, False, or None for not at all."""

    def __init__(
        self, port: int, key: str = "demo-edge", secret: str = "demo-secret", *, trusted: bytes | None = None
    ) -> None:
        self._port, self._key, self._secret, self._trusted = port, key, secret, trusted
        self.ack: bool | None = True
        self.connected: edge_pb2.ConnectResponseMsg | None = None
        self.downlinks: list[edge_pb2.DownlinkMsg] = []
        self.answers: list[edge_pb2.UplinkResponseMsg] = []
        self.updates: list[edge_pb2.EdgeUpdateMsg] = []
        self.status: grpc.StatusCode | None = None
        self.details = ""
        self.on_downlink: Callable[[edge_pb2.DownlinkMsg], None] = lambda msg: None
        self._writes = asyncio.Lock()
        self._next_id = 0

    async def __aenter__(self) -> Self:
        place, options = f"127.0.0.1:{self._port}", [("grpc.use_local_subchannel_pool", 1)]
        gzip = grpc.Compression.Gzip
        if self._trusted is None:
            self._channel = grpc.aio.insecure_channel(place, options, gzip)
        else:
            trust = grpc.ssl_channel_credentials(self._trusted)
            self._channel = grpc.aio.secure_channel(place, trust, options, gzip)
        self._call = self._channel.stream_stream(
            "/edge.EdgeRpcService/handleMsgs",
            request_serializer=edge_pb2.RequestMsg.SerializeToString,
            response_deserializer=edge_pb2.ResponseMsg.FromString,
        )()
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        self._call.cancel()  # said to the server, whatever the reader is doing
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                if response.HasField("connectResponseMsg"):
                    self.connected = response.connectResponseMsg
                elif response.HasField("uplinkResponseMsg"):
                    self.answers.append(response.uplinkResponseMsg)
                elif response.HasField("edgeUpdateMsg"):
                    self.updates.append(response.edgeUpdateMsg)
                else:
                    self.downlinks.append(response.downlinkMsg)
                    if self.ack is not None:
                        await self.acknowledge(response.downlinkMsg, success=self.ack)
                    self.on_downlink(response.downlinkMsg)
        except grpc.aio.AioRpcError:
            pass
        self.status = await self._call.code()
        self.details = await self._call.details() or ""

    async def send(self, **fields: Any) -> None:
        async with self._writes:
            await self._call.write(edge_pb2.RequestMsg(**fields))

    async def connect(self, version: int = 12, limit: int = 4_194_304) -> edge_pb2.ConnectResponseMsg:
        await self.send(
            msgType=0,
            connectRequestMsg=edge_pb2.ConnectRequestMsg(
                edgeRoutingKey=self._key, edgeSecret=self._secret, edgeVersion=version, maxInboundMessageSize=limit
            ),
        )
        return await until(lambda: self.connected, "the connect answer")

    async def sync(self, *, full: bool) -> list[edge_pb2.DownlinkMsg]:
        """What came, the end included."""
        start = len(self.downlinks)
        await self.send(msgType=2, syncRequestMsg=edge_pb2.SyncRequestMsg(fullSync=full))
        await until(
            lambda: self.downlinks[start:] and self.downlinks[-1].HasField("syncCompletedMsg"), "the sync's end"
        )
        return self.downlinks[start:]

    async def acknowledge(self, msg: edge_pb2.DownlinkMsg, *, success: bool) -> None:
        answer = edge_pb2.DownlinkResponseMsg(success=success, downlinkMsgId=msg.downlinkMsgId)
        await self.send(msgType=1, downlinkResponseMsg=answer)

    async def post(self, **fields: Any) -> int:
        """Send an UplinkMsg; its id."""
        self._next_id += 1
        await self.send(msgType=1, uplinkMsg=edge_pb2.UplinkMsg(uplinkMsgId=self._next_id, **fields))
        return self._next_id

    async def uplink(self, **fields: Any) -> edge_pb2.UplinkResponseMsg:
        """Send an UplinkMsg; its answer."""
        id_ = await self.post(**fields)
        return await until(lambda: self.answer(id_), "the uplink answer")

    def answer(self, id_: int) -> edge_pb2.UplinkResponseMsg | None:
        return next((answer for answer in self.answers if answer.uplinkMsgId == id_), None)

    @property
    def tenant(self) -> dict[str, str]:
        assert self.connected is not None
        config = self.connected.configuration
        mask = (1 << 64) - 1
        id_ = UUID(int=(config.tenantIdMSB & mask) << 64 | config.tenantIdLSB & mask)
        return {"entityType": "TENANT", "id": str(id_)}

    def device_json(self, id_: UUID, name: str) -> dict[str, Any]:
        return {
            "id": {"entityType": "DEVICE", "id": str(id_)},
            "createdTime": 1_718_000_000_000,
            "tenantId": self.tenant,
            "customerId": None,
            "name": name,
            "type": "default",
            "deviceProfileId": None,
        }

    def device_update(self, id_: UUID, name_: str, **changes: Any) -> edge_pb2.DeviceUpdateMsg:
        msb, lsb = halves(id_)
        text = orjson.dumps(self.device_json(id_, name_) | changes).decode()
        return edge_pb2.DeviceUpdateMsg(msgType=0, idMSB=msb, idLSB=lsb, entity=text)


def kv(key: str, value: Any) -> queue_pb2.KeyValueProto:
    if isinstance(value, bool):
        return queue_pb2.KeyValueProto(key=key, type=0, bool_v=value)
    if isinstance(value, int):
        return queue_pb2.KeyValueProto(key=key, type=1, long_v=value)
    if isinstance(value, float):
        return queue_pb2.KeyValueProto(key=key, type=2, double_v=value)
    return queue_pb2.KeyValueProto(key=key, type=3, string_v=value)


def telemetry(id_: UUID, ts: int, type_: str = "DEVICE", **values: Any) -> edge_pb2.EntityDataProto:
    msb, lsb = halves(id_)
    series = queue_pb2.TsKvListProto(ts=ts, kv=[kv(key, value) for key, value in values.items()])
    post = queue_pb2.PostTelemetryMsg(tsKvList=[series])
    return edge_pb2.EntityDataProto(entityIdMSB=msb, entityIdLSB=lsb, entityType=type_, postTelemetryMsg=post)


def attributes(id_: UUID, scope: str, ts: int | None, **values: Any) -> edge_pb2.EntityDataProto:
    msb, lsb = halves(id_)
    data = edge_pb2.EntityDataProto(entityIdMSB=msb, entityIdLSB=lsb, entityType="DEVICE", postAttributeScope=scope)
    data.attributesUpdatedMsg.kv.extend(kv(key, value) for key, value in values.items())
    if ts is not None:
        data.attributeTs = ts
    return data


def credentials_update(id_: UUID, token: str) -> edge_pb2.DeviceCredentialsUpdateMsg:
    json = {
        "id": {"id": str(UUID(int=id_.int ^ 1))},
        "deviceId": {"entityType": "DEVICE", "id": str(id_)},
        "credentialsType": "ACCESS_TOKEN",
        "credentialsId": token,
        "credentialsValue": None,
    }
    return edge_pb2.DeviceCredentialsUpdateMsg(entity=orjson.dumps(json).decode())
