"""A full sync of 5,000 downlinks into a real gateway process, and the same once more. Limits: 10 s, 40 MB more memory.

    python -m bench.full_sync [downlinks] [mixed|devices]

The server sends packs of 50 and the next one when all are acknowledged, as ThingsBoard does. `devices`: each
downlink is a device with its profile and credentials, which have to be on the disk before it is acknowledged.
`mixed`: a fifth of them; the others are widgets of 4 kB. The second time nothing has changed, and (devices) next
to nothing may be written.
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


KINDS = {"mixed": 5, "devices": 1}  # one device in so many downlinks


def downlink(number: int, every: int = 1) -> edge_pb2.DownlinkMsg:
    msg = edge_pb2.DownlinkMsg(downlinkMsgId=number)
    if number % every:
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
    def __init__(self, count: int, every: int) -> None:
        self.count, self.every = count, every
        self.refused: list[str] = []
        self.took_s: asyncio.Queue[float] = asyncio.Queue()
        self.again = asyncio.Event()

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
                tasks.append(asyncio.create_task(self._syncs(context, acks)))
            elif request.HasField("downlinkResponseMsg"):
                acks.put_nowait(request.downlinkResponseMsg)
            elif request.HasField("uplinkMsg"):
                answer = {"success": True, "uplinkMsgId": request.uplinkMsg.uplinkMsgId}
                await context.write(edge_pb2.ResponseMsg(uplinkResponseMsg=answer))

    async def _syncs(self, context, acks) -> None:
        await self._sync(context, acks)
        await self.again.wait()
        await self._sync(context, acks)

    async def _sync(self, context, acks) -> None:
        started_s = time.perf_counter()
        for first in range(1, self.count + 1, PACK):
            waiting = set(range(first, min(first + PACK, self.count + 1)))
            for number in sorted(waiting):
                await context.write(edge_pb2.ResponseMsg(downlinkMsg=downlink(number, self.every)))
            while waiting:
                ack = await acks.get()
                waiting.discard(ack.downlinkMsgId)
                if not ack.success:
                    self.refused.append(ack.errorMsg)
        await context.write(edge_pb2.ResponseMsg(downlinkMsg={"downlinkMsgId": 0, "syncCompletedMsg": {}}))
        await acks.get()
        self.took_s.put_nowait(time.perf_counter() - started_s)


async def sync(count: int, kind: str) -> None:
    """Both syncs of one kind."""
    server = grpc.aio.server()
    cloud = Cloud(count, KINDS[kind])
    edge_pb2_grpc.add_EdgeRpcServiceServicer_to_server(cloud, server)
    port = server.add_insecure_port("127.0.0.1:0")
    with tempfile.TemporaryDirectory() as name:
        async with GatewayProcess(Path(name), port, cloud={"reconnect_ms": 1000}) as gateway:
            before = gateway.process.sample_memory()
            peak = before

            async def wait() -> float:
                nonlocal peak
                while cloud.took_s.empty():
                    await asyncio.sleep(0.1)
                    gateway.process.check()
                    peak = max(peak, gateway.process.sample_memory())
                return cloud.took_s.get_nowait()

            await server.start()
            took_s = await wait()
            figure(f"a full sync of {count:,} downlinks ({kind}), the last one acknowledged", took_s, "s", at_most=10)
            figure("memory during it, above that of the idle gateway", (peak - before) / 1e6, "MB", at_most=40)
            status = await gateway.status()
            note(f"{len(status['devices']):,} devices; {len(cloud.refused)} refused: {cloud.refused[:1]}")
            while await gateway.pending():
                await asyncio.sleep(0.1)
            written = (await gateway.status())["counters"]["committer.units"]
            cloud.again.set()
            took_s = await wait()
            figure("the same again, nothing has changed", took_s, "s", at_most=10)
            written = (await gateway.status())["counters"]["committer.units"] - written
            limit = 100 if kind == "devices" else None
            figure("units of work written by that", written, "", at_most=limit)
        await server.stop(None)


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 5000
    for kind in [argument for argument in sys.argv[1:] if argument in KINDS] or KINDS:
        await sync(count, kind)


if __name__ == "__main__":
    asyncio.run(main())
