"""A full sync of 5,000 downlinks into a real gateway process. Limits: 10 s, and 40 MB more memory.

    python bench/full_sync.py [downlinks]

The server sends packs of 50 and the next one when all are acknowledged, as ThingsBoard does. A fifth are
devices with their profile and credentials, which have to be on the disk before they are acknowledged; the others
are widgets of 4 kB.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

import grpc.aio
import orjson

from bench.report import figure, note
from gateway.cloud.codec import halves
from gateway.cloud.pb import edge_pb2, edge_pb2_grpc
from tests.e2e.parts import GatewayProcess

PACK = 50
PROFILE_ID = UUID("6c7d8e90-4d5e-11ef-8a9b-0c1d2e3f4a5b")
TENANT = {"entityType": "TENANT", "id": "5b6c7d80-4d5e-11ef-8a9b-0c1d2e3f4a5b"}


def downlink(number: int) -> edge_pb2.DownlinkMsg:
    msg = edge_pb2.DownlinkMsg(downlinkMsgId=number)
    if number % 5:
        high, low = halves(UUID(int=2 << 76 | 1 << 63 | number))
        entity = orjson.dumps({"name": f"Widget {number}", "descriptor": "x" * 4000}).decode()
        msg.widgetTypeUpdateMsg.add(msgType=0, idMSB=high, idLSB=low, entity=entity)
        return msg
    id_ = UUID(int=1 << 76 | 1 << 63 | number)
    high, low = halves(id_)
    profile = {"entityType": "DEVICE_PROFILE", "id": str(PROFILE_ID)}
    json = {
        "id": {"entityType": "DEVICE", "id": str(id_)},
        "createdTime": 1_718_000_000_000,
        "tenantId": TENANT,
        "name": f"Device {number}",
        "type": "boiler",
        "deviceProfileId": profile,
        "deviceData": {"configuration": {"type": "DEFAULT"}, "transportConfiguration": {"type": "DEFAULT"}},
    }
    msg.deviceUpdateMsg.add(msgType=0, idMSB=high, idLSB=low, entity=orjson.dumps(json).decode())
    credentials = {
        "deviceId": {"entityType": "DEVICE", "id": str(id_)},
        "credentialsType": "ACCESS_TOKEN",
        "credentialsId": f"token-{number}",
    }
    msg.deviceCredentialsUpdateMsg.add(entity=orjson.dumps(credentials).decode())
    high, low = halves(PROFILE_ID)
    json = {"id": profile, "name": "boiler", "type": "DEFAULT", "transportType": "DEFAULT", "tenantId": TENANT}
    msg.deviceProfileUpdateMsg.add(msgType=0, idMSB=high, idLSB=low, entity=orjson.dumps(json).decode())
    return msg


class Cloud(edge_pb2_grpc.EdgeRpcServiceServicer):
    def __init__(self, count: int) -> None:
        self.count = count
        self.refused: list[str] = []
        self.took_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def handleMsgs(self, requests, context):
        acks: asyncio.Queue = asyncio.Queue()
        tasks = []
        async for request in requests:
            if request.HasField("connectRequestMsg"):
                who = edge_pb2.EdgeConfiguration(
                    edgeIdMSB=1, edgeIdLSB=2, tenantIdMSB=3, tenantIdLSB=4, name="e", cloudType="CE"
                )
                await context.write(edge_pb2.ResponseMsg(connectResponseMsg={"configuration": who}))
            elif request.HasField("syncRequestMsg"):
                tasks.append(asyncio.create_task(self._sync(context, acks)))
            elif request.HasField("downlinkResponseMsg"):
                acks.put_nowait(request.downlinkResponseMsg)
            elif request.HasField("uplinkMsg"):
                answer = {"success": True, "uplinkMsgId": request.uplinkMsg.uplinkMsgId}
                await context.write(edge_pb2.ResponseMsg(uplinkResponseMsg=answer))

    async def _sync(self, context, acks) -> None:
        started_s = time.perf_counter()
        for first in range(1, self.count + 1, PACK):
            waiting = set(range(first, min(first + PACK, self.count + 1)))
            for number in sorted(waiting):
                await context.write(edge_pb2.ResponseMsg(downlinkMsg=downlink(number)))
            while waiting:
                ack = await acks.get()
                waiting.discard(ack.downlinkMsgId)
                if not ack.success:
                    self.refused.append(ack.errorMsg)
        await context.write(edge_pb2.ResponseMsg(downlinkMsg={"downlinkMsgId": 0, "syncCompletedMsg": {}}))
        await acks.get()
        self.took_s.set_result(time.perf_counter() - started_s)


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 5000
    server = grpc.aio.server()
    cloud = Cloud(count)
    edge_pb2_grpc.add_EdgeRpcServiceServicer_to_server(cloud, server)
    port = server.add_insecure_port("127.0.0.1:0")
    with tempfile.TemporaryDirectory() as name:
        async with GatewayProcess(Path(name), port, cloud={"reconnect_ms": 1000}) as gateway:
            before = gateway.process.sample_memory()
            peak = before
            await server.start()
            while not cloud.took_s.done():
                await asyncio.wait([cloud.took_s], timeout=0.1)
                gateway.process.check()
                peak = max(peak, gateway.process.sample_memory())
            figure(
                f"a full sync of {count:,} downlinks, the last one acknowledged", cloud.took_s.result(), "s", at_most=10
            )
            figure("memory during it, above that of the idle gateway", (peak - before) / 1e6, "MB", at_most=40)
            devices = len((await gateway.status())["devices"])
            note(f"{devices:,} devices; {len(cloud.refused)} refused: {cloud.refused[:1]}")
        await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
