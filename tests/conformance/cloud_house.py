"""A gateway without its mouths beside a strict cloud, in one process: real store, rules, devices, sender, gRPC link.

What a device says goes in through its session; what the cloud says comes over a real connection.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from gateway.cloud.link import GrpcLink
from gateway.cloud.pb import edge_pb2
from gateway.cloudsim import CloudSim, CloudSimOptions
from gateway.cloudsim.events import EdgeEvent
from gateway.config import CloudConfig, RulesConfig, SqliteStore
from gateway.devices import Commands, Found, Inlet, Pipeline, RpcDesk, State, found_devices
from gateway.devices.founding import token_credentials
from gateway.devices.inlet import Session
from gateway.domain.changes import AppendEvent
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.domain.entity import Device
from gateway.domain.telemetry import TsKv
from gateway.downlink import Dispatcher
from gateway.ports import Receipt
from gateway.rules import RuleEngine
from gateway.store import GroupCommitter, open_store
from gateway.supervise import Backoff, Counters, SystemClock, supervise
from gateway.uplink import drain
from tests.fakes.house import FakeChannel

DEADLINE_S = 15.0
QUICK: dict[str, Any] = {
    "routing_key": "demo-edge",
    "routing_secret": "demo-secret",
    "host": "127.0.0.1",
    "timeout_ms": 3000,
    "answer_timeout_s": 1.0,
    "sync_timeout_s": 1.0,
    "reconnect_ms": 30,
    "reconnect_max_ms": 100,
    "retry_interval_ms": 30,
    "max_retries": 3,
    "batch_timeout_ms": 20,
    "stats_interval_s": 0,
}


async def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll with a deadline."""
    end = asyncio.get_running_loop().time() + deadline_s
    while not (value := condition()):
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"after {deadline_s:g} s: {what}")
        await asyncio.sleep(0.005)
    return value


class LeapClock(SystemClock):
    """The real one, which can leap: a pause of a minute is over when the test says so."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._leapt = asyncio.Event()

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self._ahead_s

    async def sleep(self, delay_s: float) -> None:
        due_s = self.monotonic_s() + delay_s
        while (left_s := due_s - self.monotonic_s()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._leapt.wait()

    def leap(self, seconds: float) -> None:
        self._ahead_s += seconds
        self._leapt.set()
        self._leapt = asyncio.Event()


class TappedSim(CloudSim):
    """Keeps what it was sent, message by message."""

    def __init__(self, options: CloudSimOptions) -> None:
        super().__init__(options)
        self.heard: list[edge_pb2.RequestMsg] = []
        self._raw: list[edge_pb2.DownlinkMsg] = []
        plain = self.converter.convert
        self.converter.convert = lambda event: self._raw[event.body] if event.type == "RAW" else plain(event)  # type: ignore[method-assign]

    def _parse(self, data: bytes) -> edge_pb2.RequestMsg | int:
        request = super()._parse(data)
        if not isinstance(request, int):
            self.heard.append(request)
        return request

    def push_raw(self, msg: edge_pb2.DownlinkMsg) -> None:
        """This very message, as an ordinary downlink."""
        self._raw.append(msg)
        self.push(EdgeEvent("RAW", "RAW", None, len(self._raw) - 1))

    def acknowledgements(self) -> list[edge_pb2.RequestMsg]:
        """Every answer to a downlink."""
        return [one for one in self.heard if one.HasField("downlinkResponseMsg")]

    def syncs_asked(self) -> list[bool]:
        """`fullSync` of every request, in order."""
        return [one.syncRequestMsg.fullSync for one in self.heard if one.msgType == edge_pb2.SYNC_REQUEST_RPC_MESSAGE]


def strict_sim(**options: Any) -> TappedSim:
    return TappedSim(CloudSimOptions(**{"http_port": None, "poll_s": 0.01, "resend_interval_s": 2.0, **options}))


class CloudHouse:
    """One gateway; leaving the block is its exit, entering a new one with the same folder its restart."""

    def __init__(
        self, folder: Path, sim: CloudSim, devices: Sequence[str] = ("Boiler",), profile: str = "default", **cloud: Any
    ) -> None:
        self.folder, self.sim, self.clock, self.counters = folder, sim, LeapClock(), Counters()
        self.config = CloudConfig(**{**QUICK, "port": sim.grpc_port, **cloud})
        self._wanted = [Found(name=name, profile=profile, credentials=token_credentials(name)) for name in devices]
        self._sessions: dict[str, Session] = {}
        self.channels: dict[str, FakeChannel] = {}
        self._sequence: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self._rooms = AsyncExitStack()
        clock, counters = self.clock, self.counters
        store_config = SqliteStore(synchronous="normal")
        self.store = await self._rooms.enter_async_context(open_store(store_config, self.folder, clock, counters))
        snapshot = await self.store.load()
        self.committer = GroupCommitter(self.store, clock, counters)
        self.state = State(snapshot)
        self.rules = RuleEngine(self.state, RulesConfig(), clock, counters)
        self.rules.load_files()
        self.pipeline = Pipeline(self.rules, self.committer, self.state, counters)
        self.rpc = RpcDesk(self.pipeline, self.state, clock, counters)
        self.inlet = Inlet(self.state, self.pipeline, self.committer, self.rpc, clock, counters)
        self.commands = Commands(self.state, self.pipeline, self.inlet, self.rpc, clock, self.store.events)
        self.downlink = Dispatcher(self.commands, self.rules, self.pipeline.commit, self.state, clock, counters)
        self._tasks = [asyncio.create_task(self.committer.serve()), asyncio.create_task(self.rpc.serve())]
        changes = found_devices(self._wanted, self.state, clock.now_ms())
        if changes:
            await self.pipeline.commit(changes)
        self.rpc.recover(snapshot)
        self.link = GrpcLink(self.config, self.downlink, self.state, clock, counters)
        self.uplink = drain.Uplink(
            self.config, self.store.events, self.link, self.committer, clock, counters, self.state
        )
        return self

    def connect(self) -> None:
        """From now on it looks for its cloud."""
        reconnect = Backoff(self.config.reconnect_ms / 1000, self.config.reconnect_max_ms / 1000)
        self._keep(supervise("cloud", self.link.serve, reconnect, self.clock, spells=self.link.spells))
        self._keep(supervise("uplink", self.uplink.serve, Backoff(0.05, 0.1), self.clock))

    def _keep(self, running: Any) -> None:
        self._tasks.append(asyncio.create_task(running))

    async def __aexit__(self, *_: object) -> None:
        bugs = [task.exception() for task in self._tasks if task.done()]
        for task in reversed(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rooms.aclose()
        assert bugs == []

    async def ready(self, connects: int = 1) -> None:
        """Connected (so many times), and synchronised."""
        await until(lambda: self.link.is_ready and self.link.status()["session"] >= connects, "the link is not ready")

    async def settled(self) -> None:
        """Everything in the queue was confirmed or parked, and the cloud has nothing more to say."""
        events = self.store.events
        await until(lambda: all(events.last(lane) == events.cursor(lane) for lane in Lane), "the queue is not empty")

    async def heard(self) -> None:
        """Every downlink was acknowledged, and what the gateway asked for in answer has come."""
        events, sim = self.store.events, self.sim
        await until(
            lambda: (
                not len(sim.events)
                and all(events.last(lane) == events.cursor(lane) for lane in Lane)
                and sim.session is not None
                and not sim.session._pending
            ),
            "downlinks are waiting",
        )

    # ── devices ──

    def device(self, name: str) -> Device:
        device = next((one for one in self.state.devices() if name in (one.name, one.local_name)), None)
        assert device is not None, name
        return device

    def session(self, name: str) -> Session:
        """Connected, and it listens to everything."""
        session = self._sessions.get(name)
        if session is None or not session.is_open:
            channel = self.channels[name] = FakeChannel()
            session = self._sessions[name] = self.inlet.open_session(self.device(name), channel)
            session.subscribe_attributes(True)
            session.subscribe_rpc(True)
        return session

    def post(self, name: str, count: int, **values: Any) -> Awaitable[Any]:
        """Numbered telemetry, one publish each; awaiting it is waiting for the acknowledgements."""
        receipts: list[Receipt] = []
        now_ms = self.clock.now_ms()
        for _ in range(count):
            number = self._sequence[name] = self._sequence.get(name, 0) + 1
            receipts.append(self.session(name).post_telemetry([TsKv(now_ms, {"seq": number, **values})]))
        return asyncio.gather(*receipts)

    async def event(self, type_: str, action: str, entity_id: UUID | None, body: bytes | None = None) -> None:
        """Straight into the queue, as no rule would make it."""
        made = CloudEvent(type=type_, action=action, entity_id=entity_id, created_ms=self.clock.now_ms(), body=body)
        await self.pipeline.commit([AppendEvent(made)])

    def arrived(self, name: str) -> None:
        """All that was acknowledged to this device is in the cloud, in order."""
        seen = self.sim.device_state(self.device(name).name)
        assert (seen["seq_high"], seen["missing"], seen["out_of_order"]) == (self._sequence[name], 0, 0), seen

    def unblemished(self) -> None:
        """The strict peer has nothing to complain of."""
        assert self.sim.state()["violations"] == []


@contextlib.asynccontextmanager
async def connected(folder: Path, devices: Sequence[str] = ("Boiler",), **options: Any):
    """A cloud and a gateway that is ready; options of `CloudSimOptions`, and `cloud=` those of `CloudConfig`."""
    cloud = options.pop("cloud", {})
    async with strict_sim(**options) as sim, CloudHouse(folder, sim, devices, **cloud) as house:
        house.connect()
        await house.ready()
        await house.heard()
        yield sim, house
