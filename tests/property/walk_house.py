"""A gateway in pieces that can be killed, and the memory of the cloud that it speaks to.

Everything of the gateway is real but the devices' wires: the store on its file, the committer, the rules, the
device room, the downlink, the sender and the link over gRPC.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from gateway.app import _restore_chains
from gateway.cloud.link import GrpcLink
from gateway.cloud.pb import edge_pb2
from gateway.cloudsim.server import CloudSim
from gateway.cloudsim.values import uuid_of
from gateway.config import CloudConfig, RulesConfig, SqliteStore
from gateway.devices import Commands, Found, Inlet, Pipeline, RpcDesk, State, found_devices
from gateway.devices.founding import token_credentials
from gateway.domain.rpc import RpcRequest, RpcResponse
from gateway.downlink import Dispatcher
from gateway.errors import TransientError
from gateway.ports import DeviceSession
from gateway.rules import RuleEngine
from gateway.store import GroupCommitter, open_store
from gateway.supervise import Backoff, Counters, SystemClock, supervise
from gateway.uplink.drain import Uplink


class WalkDevice:
    """A device on a wire that never fails: it answers each call at once and remembers what it was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.session: DeviceSession | None = None
        self.heard: dict[str, Any] = {}
        self.calls: defaultdict[int, int] = defaultdict(int)

    def send_attributes(self, values: Mapping[str, Any]) -> None:
        self.heard.update(values)

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.heard.pop(key, None)

    async def send_rpc(self, rpc_id: int, request: RpcRequest) -> RpcResponse | None:
        if self.session is None:
            raise TransientError("the gateway is down")
        self.calls[request.params["n"]] += 1
        session = self.session
        asyncio.get_running_loop().call_soon(lambda: session.answer_rpc(rpc_id, '{"ok":true}'))
        return None

    def close(self, reason: str) -> None:
        self.session = None


class WalkHouse:
    """One gateway at a time on one state; `start`, then `stop` or `kill`, then `start` again."""

    def __init__(self, folder: Path, config: CloudConfig) -> None:
        self._folder, self.config = folder, config
        self._path = folder / "0" / "gateway.db"
        self._starts = 0
        self._rooms = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._mouth: asyncio.Task[None] | None = None
        self.devices: dict[str, WalkDevice] = {}

    async def start(self) -> None:
        """As the composition root does it."""
        clock, self.counters = SystemClock(), Counters()
        self._rooms = AsyncExitStack()
        store_config = SqliteStore(path=self._path)
        opening = open_store(store_config, self._path.parent, clock, self.counters)
        self.store = await self._rooms.enter_async_context(opening)
        snapshot = await self.store.load()
        for newest, _ in await self.store.events.find(None, 1):
            snapshot.newest_ms = newest.created_ms
        self.committer = GroupCommitter(self.store, clock, self.counters)
        self.state = State(snapshot)
        rules = RuleEngine(self.state, RulesConfig(), clock, self.counters)
        rules.load_files()
        _restore_chains(rules, snapshot)
        self.pipeline = Pipeline(rules, self.committer, self.state, self.counters)
        self.rpc = RpcDesk(self.pipeline, self.state, clock, self.counters)
        self.inlet = Inlet(self.state, self.pipeline, self.committer, self.rpc, clock, self.counters)
        devices = Commands(self.state, self.pipeline, self.inlet, self.rpc, clock, self.store.events)
        downlink = Dispatcher(devices, rules, self.pipeline.commit, self.state, clock, self.counters)
        self.link = GrpcLink(self.config, downlink, self.state, clock, self.counters)
        self.uplink = Uplink(
            self.config, self.store.events, self.link, self.committer, clock, self.counters, self.state
        )
        self._keep(self.committer.name, self.committer.serve)
        await self._found(list(self.devices))
        self._mouth = self._keep(self.rpc.name, self.rpc.serve)
        self.rpc.recover(snapshot)
        for device in self.devices.values():
            self._plug_in(device)
        reconnect = Backoff(self.config.reconnect_ms / 1000, self.config.reconnect_max_ms / 1000)
        self._keep("cloud", lambda: supervise("cloud", self.link.serve, reconnect, clock, spells=self.link.spells))
        self._keep("uplink", lambda: supervise("uplink", self.uplink.serve, Backoff(0.05, 0.2), clock))

    def _keep(self, name: str, serve: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        async def run() -> None:
            await serve()

        task = asyncio.create_task(run(), name=name)
        self._tasks.append(task)
        return task

    async def _found(self, names: Sequence[str]) -> None:
        wanted = [Found(name=name, credentials=token_credentials(f"token {name}")) for name in names]
        changes = found_devices(wanted, self.state, SystemClock().now_ms())
        if changes:
            await self.pipeline.commit(changes)

    def _plug_in(self, device: WalkDevice) -> None:
        known = self.inlet.find_device(device.name)
        assert known is not None
        device.session = self.inlet.open_session(known, device)
        device.session.subscribe_attributes(True)
        device.session.subscribe_rpc(True)

    async def add_device(self, name: str) -> WalkDevice:
        """One more, announced to the cloud."""
        device = self.devices[name] = WalkDevice(name)
        await self._found([name])
        self._plug_in(device)
        return device

    def check(self) -> None:
        """Raise what ended a room: none ends by itself."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise AssertionError(f"{task.get_name()} has ended")

    async def stop(self) -> None:
        """In order: first what takes things in, then the rest of the receipts."""
        for device in self.devices.values():
            device.session = None
        assert self._mouth is not None
        self._mouth.cancel()
        await asyncio.wait([self._mouth])
        await self.committer.drain()
        await self._end_tasks()
        await self._rooms.aclose()

    async def close(self) -> None:
        """After the last look: no receipt is waited for. A start or a stop that failed half-way is no matter."""
        await self._end_tasks()
        await self._rooms.aclose()

    async def kill(self) -> None:
        """Nothing is said and nothing written from this moment on: what the files hold now is what is left.

        The files are copied as they are; a transaction on its way ends up whole in the copy, torn, or not at all.
        """
        for device in self.devices.values():
            device.session = None
        for task in self._tasks:
            task.cancel()
        self._starts += 1
        old, self._path = self._path, self._folder / str(self._starts) / "gateway.db"
        self._path.parent.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{old}{suffix}", f"{self._path}{suffix}")
        await self._end_tasks()
        await self._rooms.aclose()
        shutil.rmtree(old.parent)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


class CloudRecord:
    """What the simulated cloud really applied, in the order in which it did so for the first time."""

    def __init__(self, sim: CloudSim) -> None:
        self._sim = sim
        self.first: defaultdict[UUID, list[tuple[str, int]]] = defaultdict(list)
        self._known: set[tuple[UUID, str, int]] = set()
        self.values: dict[tuple[UUID, int, str], Any] = {}
        self.attributes: set[tuple[UUID, int]] = set()
        self.alarms: set[UUID] = set()
        self.contradictions: list[str] = []
        self.repeated = 0
        uplink = sim.uplink
        whole, alarm = uplink._entity_data, uplink._alarm

        def entity_data(data: edge_pb2.EntityDataProto) -> None:
            whole(data)
            self._take(data)

        def alarm_update(msg: edge_pb2.AlarmUpdateMsg) -> None:
            alarm(msg)
            self.alarms.add(uuid_of(msg.idMSB, msg.idLSB))

        uplink._entity_data = entity_data
        own = {"entityData": entity_data, "alarmUpdateMsg": alarm_update}
        uplink._order = [(name, own.get(name, handle)) for name, handle in uplink._order]

    def _take(self, data: edge_pb2.EntityDataProto) -> None:
        if self._sim.world.subject(data.entityIdMSB, data.entityIdLSB, data.entityType) is None:
            return
        id_ = uuid_of(data.entityIdMSB, data.entityIdLSB)
        for item in data.postTelemetryMsg.tsKvList:
            self._arrived(id_, "telemetry", item.ts)
            for kv in item.kv:
                value = kv.string_v or kv.long_v
                if self.values.setdefault((id_, item.ts, kv.key), value) != value:
                    self.contradictions.append(f"{id_} {kv.key} at {item.ts}")
        for kvs in (data.postAttributesMsg.kv, data.attributesUpdatedMsg.kv):
            for kv in kvs:
                if kv.key == "n":
                    self._arrived(id_, "attribute", kv.long_v)
                    self.attributes.add((id_, kv.long_v))

    def _arrived(self, id_: UUID, kind: str, number: int) -> None:
        if (id_, kind, number) in self._known:
            self.repeated += 1
            return
        self._known.add((id_, kind, number))
        self.first[id_].append((kind, number))
