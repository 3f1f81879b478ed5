"""A device room in memory: devices, sessions, and receipts that are done when the test says so."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from gateway.domain.entity import Credentials, Device, DeviceProfile, time_uuid
from gateway.domain.onboarding import CertificateChain, ProvisionAnswer, ProvisionRequest, ProvisionStatus
from gateway.domain.telemetry import TsKv, Value
from gateway.errors import GatewayError
from gateway.ports import DeviceChannel, Receipt


class FakeSession:
    """One session. `posted` holds everything in the order of its arrival."""

    def __init__(self, inlet: "FakeInlet", device: Device, channel: DeviceChannel) -> None:
        self.inlet, self.device, self.channel = inlet, device, channel
        self.posted: list[Any] = []
        self.told: list[Mapping[str, str] | None] = []  # metadata of telemetry and attributes
        self.answers: list[tuple[int, str]] = []
        self.calls: list[tuple[int, str, Any]] = []
        self.is_open = True
        self.has_attributes = self.has_rpc = self.confirms_rpc = False
        self.touches = 0
        self.attributes = inlet.attributes
        self.silences = 0
        self.asked: list[tuple[Sequence[str] | None, Sequence[str] | None]] = []
        self.server_answer: str | None = None

    def post_telemetry(self, items: Sequence[TsKv], metadata: Mapping[str, str] | None = None) -> Receipt:
        self.posted.append(items)
        self.told.append(metadata)
        return self.inlet.receipt()

    def post_attributes(self, values: Mapping[str, Value], metadata: Mapping[str, str] | None = None) -> Receipt:
        self.posted.append(values)
        self.told.append(metadata)
        return self.inlet.receipt()

    async def request_attributes(
        self, client_keys: Sequence[str] | None, shared_keys: Sequence[str] | None
    ) -> tuple[Mapping[str, Value], Mapping[str, Value]]:
        self.asked.append((client_keys, shared_keys))
        return self.attributes

    def answer_rpc(self, rpc_id: int, response: str) -> Receipt:
        self.answers.append((rpc_id, response))
        return self.inlet.receipt()

    async def call_server(self, request_id: int, method: str, params: Any) -> str | None:
        self.calls.append((request_id, method, params))
        return self.server_answer

    def claim(self, secret_key: str, duration_ms: int) -> Receipt:
        self.posted.append(("claim", secret_key, duration_ms))
        return self.inlet.receipt()

    def subscribe_attributes(self, is_on: bool) -> None:
        self.has_attributes = is_on

    def owe_attributes(self, keys) -> None:
        self.owed = [*getattr(self, "owed", ()), *keys]

    def subscribe_rpc(self, is_on: bool, again_s: float = 0.0, *, confirms: bool = False) -> None:
        self.has_rpc, self.confirms_rpc = is_on, confirms

    def touch(self) -> None:
        self.touches += 1

    def fall_silent(self) -> None:
        self.silences += 1

    def close(self) -> None:
        self.is_open = False
        if self.inlet.sessions.get(self.device.id) is self:
            del self.inlet.sessions[self.device.id]


class FakeInlet:
    """`receipts`: "at_once", "next_turn", or "held" until `release`."""

    def __init__(self, receipts: str = "at_once") -> None:
        self.receipts = receipts
        self.attributes: tuple[Mapping[str, Value], Mapping[str, Value]] = ({}, {})  # of sessions to come
        self.held: list[Receipt] = []
        self.devices: dict[str, tuple[Credentials, Device]] = {}
        self.sessions: dict[UUID, FakeSession] = {}
        self.visits: dict[UUID, FakeSession] = {}
        self.opened: list[FakeSession] = []
        self.behind: dict[str, Device] = {}
        self.sub_sessions: dict[UUID, FakeSession] = {}
        self.refusal: GatewayError | None = None  # of a new device behind a gateway
        self.profiles: dict[str, DeviceProfile] = {}
        self.provisionings: list[ProvisionRequest] = []
        self.provision_answer = ProvisionAnswer(ProvisionStatus.NOT_FOUND)
        self.chains: list[CertificateChain] = []
        self.calm = asyncio.Event()
        self.calm.set()
        self._turn: list[Receipt] = []

    def add_device(self, name: str, token: str, *, is_gateway: bool = False) -> Device:
        return self._add(name, Credentials(type="ACCESS_TOKEN", credentials_id=token), is_gateway)

    def add_basic_device(self, name: str, client_id: str, user_name: str, password: str | None) -> Device:
        if client_id and user_name:
            key = hashlib.sha3_256(f"{client_id}|{user_name}".encode()).hexdigest()
        else:
            key = user_name or hashlib.sha3_256(client_id.encode()).hexdigest()
        fields = {"clientId": client_id, "userName": user_name, "password": password}
        value = orjson.dumps({k: v for k, v in fields.items() if v}).decode()
        return self._add(name, Credentials(type="MQTT_BASIC", credentials_id=key, value=value), False)

    def _add(self, name: str, credentials: Credentials, is_gateway: bool) -> Device:
        device = Device(
            id=time_uuid(), name=name, local_name=name, type="default", credentials=credentials, is_gateway=is_gateway
        )
        self.devices[credentials.credentials_id] = (credentials, device)
        return device

    def find_credentials(self, credentials_id: str) -> tuple[Credentials, Device] | None:
        return self.devices.get(credentials_id)

    def profile_of(self, device: Device) -> DeviceProfile | None:
        return self.profiles.get(device.type)

    async def provision(self, request: ProvisionRequest) -> ProvisionAnswer:
        self.provisionings.append(request)
        return self.provision_answer

    async def admit_by_certificate(self, chain: CertificateChain) -> Device | None:
        self.chains.append(chain)
        found = self.find_credentials(chain.leaf_hash)
        return None if found is None else found[1]

    def find_device(self, local_name: str) -> Device | None:
        return next((device for _, device in self.devices.values() if device.local_name == local_name), None)

    def open_session(self, device: Device, channel: DeviceChannel) -> FakeSession:
        older = self.sessions.get(device.id)
        if older is not None:
            older.channel.close("taken_over")
        session = self.sessions[device.id] = FakeSession(self, device, channel)
        self.opened.append(session)
        return session

    def open_visit(self, device: Device, channel: DeviceChannel) -> FakeSession:
        session = FakeSession(self, device, channel)
        self.visits[device.id] = session
        return session

    def sub_device(self, gateway: Device, name: str, profile: str) -> tuple[Device, Receipt | None]:
        """Known ones at once; new ones when `making` says so: an error, or a receipt."""
        known = self.behind.get(name)
        if known is not None:
            return known, None
        if isinstance(self.refusal, GatewayError):
            raise self.refusal
        made = Device(id=time_uuid(), name=name, type=profile or "default")
        receipt = self.receipt()
        receipt.add_done_callback(lambda done: self.behind.update({name: made}) if not done.exception() else None)
        return made, receipt

    def open_sub_session(self, device: Device, channel: DeviceChannel) -> FakeSession:
        older = self.sub_sessions.get(device.id)
        if older is not None:
            older.is_open = False
            older.channel.close("taken_over")
        session = self.sub_sessions[device.id] = FakeSession(self, device, channel)
        return session

    def sub(self, name: str) -> FakeSession:
        """The session of a device behind a gateway."""
        return next(session for session in self.sub_sessions.values() if session.device.name == name)

    def receipt(self) -> Receipt:
        loop = asyncio.get_running_loop()
        receipt: Receipt = loop.create_future()
        if self.receipts == "at_once":
            receipt.set_result(None)
        elif self.receipts == "held":
            self.held.append(receipt)
        else:
            if not self._turn:
                loop.call_soon(self._finish_turn)
            self._turn.append(receipt)
        return receipt

    def _finish_turn(self) -> None:
        for receipt in self._turn:
            if not receipt.done():
                receipt.set_result(None)
        self._turn.clear()

    def release(self, count: int | None = None, error: BaseException | None = None) -> None:
        """Finish the oldest held receipts, or fail them."""
        for receipt in self.held[:count]:
            if error is None:
                receipt.set_result(None)
            else:
                receipt.set_exception(error)
        del self.held[:count]

    @property
    def is_congested(self) -> bool:
        return not self.calm.is_set()

    async def wait_uncongested(self) -> None:
        await self.calm.wait()
