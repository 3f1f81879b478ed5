"""The device room on fakes: a committer without a disk, rules that push everything, a channel that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from gateway.devices import Commands, Inlet, Pipeline, RpcDesk, State
from gateway.domain.changes import AppendEvent, SaveDevice
from gateway.domain.cloud_event import CloudEvent
from gateway.domain.entity import Credentials, Device, time_uuid
from gateway.domain.message import Message
from gateway.domain.rpc import RpcRequest, RpcResponse, RpcStrategy
from gateway.errors import TransientError
from gateway.ports import Outcome, RuleCall, Snapshot
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock
from tests.fakes.committer import FakeCommitter


class FakeRules:
    """Sends telemetry to the cloud and RPC to the device; remembers every message."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.routes_rpc = True
        self.resumed: list[RpcResponse] = []

    def process(self, message: Message, chain_id: UUID | None = None) -> Outcome:
        self.seen.append(message)
        outcome = Outcome()
        if message.type == "POST_TELEMETRY_REQUEST" and message.metadata.get("source") != "cloud":
            body = orjson.dumps({"ts": message.data_ts_ms, "data": message.data})
            event = CloudEvent(
                type="DEVICE", action="TIMESERIES_UPDATED", entity_id=message.originator.id, created_ms=0, body=body
            )
            outcome.changes.append(AppendEvent(event))
        if message.type == "RPC_CALL_FROM_SERVER_TO_DEVICE" and self.routes_rpc:
            request = RpcRequest(
                device_id=message.originator.id,
                method=message.data["method"],
                params=orjson.loads(message.data["params"]),
                request_id=message.data["requestId"],
                request_uuid=UUID(message.metadata["requestUUID"]),
                expires_ms=int(message.metadata["expirationTime"]),
                is_oneway=message.metadata["oneway"] == "true",
                is_persisted=message.metadata["persistent"] == "true",
                retries=int(message.metadata.get("retries", 0)),
            )
            outcome.calls.append(RuleCall(request, self._resume))
        return outcome

    def _resume(self, response: RpcResponse) -> Outcome:
        self.resumed.append(response)
        return Outcome()


class FakeChannel:
    def __init__(self) -> None:
        self.attributes: list[Mapping[str, Any]] = []
        self.deleted: list[Sequence[str]] = []
        self.calls: list[tuple[int, RpcRequest]] = []
        self.closed: list[str] = []
        self.answer: RpcResponse | None = None
        self.loses_connection = False

    def send_attributes(self, values: Mapping[str, Any]) -> None:
        self.attributes.append(dict(values))

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        self.deleted.append(list(keys))

    async def send_rpc(self, rpc_id: int, request: RpcRequest) -> RpcResponse | None:
        self.calls.append((rpc_id, request))
        if self.loses_connection:
            raise TransientError("connection lost")
        return self.answer

    def close(self, reason: str) -> None:
        self.closed.append(reason)


class House:
    """Everything wired; `serve()` as a task is up to the test's `async with`."""

    def __init__(self, snapshot: Snapshot | None = None, strategy: RpcStrategy = RpcStrategy.BURST) -> None:
        self.clock = FakeClock()
        self.counters = Counters()
        self.committer = FakeCommitter()
        self.rules = FakeRules()
        self.state = State(snapshot or Snapshot())
        self.pipeline = Pipeline(self.rules, self.committer, self.state, self.counters)
        self.rpc = RpcDesk(self.pipeline, self.state, self.clock, self.counters, strategy)
        self.inlet = Inlet(self.state, self.pipeline, self.committer, self.rpc, self.clock, self.counters)
        self.commands = Commands(self.state, self.pipeline, self.inlet, self.rpc, self.clock)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> House:
        self._task = asyncio.create_task(self.rpc.serve())
        await settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    def add_device(self, name: str = "Boiler", token: str = "token") -> Device:
        device = Device(
            id=time_uuid(),
            name=name,
            type="boiler",
            local_name=name,
            credentials=Credentials(type="ACCESS_TOKEN", credentials_id=token),
        )
        self.state.apply([SaveDevice(device)])
        return device

    def add_attributes(self, device: Device, scope: str, **values: Any) -> None:
        from gateway.domain.changes import SaveAttributes

        self.state.apply([SaveAttributes(device.entity_id, scope, self.clock.now_ms(), values)])

    def call(self, device: Device, **changes: Any) -> RpcRequest:
        request = RpcRequest(
            device_id=device.id,
            method="set",
            params={"on": True},
            request_id=7,
            request_uuid=time_uuid(),
            expires_ms=self.clock.now_ms() + 10_000,
        )
        return replace(request, **changes)

    async def rpc_done(self) -> None:
        """Returns when no call is under way (a driver answers in real time)."""
        async with asyncio.timeout(5):
            while self.rpc.open_calls():
                await asyncio.sleep(0.005)

    def answers(self) -> list[dict[str, Any]]:
        return [orjson.loads(e.body or b"") for e in self.committer.events() if e.action == "RPC_CALL"]


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)
