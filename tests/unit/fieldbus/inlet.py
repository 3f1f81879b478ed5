"""A house with an open door: keeps what sessions post; receipts are done at once, or when the test says so."""

import asyncio
from collections.abc import Mapping, Sequence
from uuid import uuid4

from gateway.domain.entity import Device
from gateway.domain.telemetry import TsKv, Value
from gateway.errors import RejectedError
from gateway.ports import DeviceChannel, Receipt


class FakeSession:
    def __init__(self, house: "FakeHouse", device: Device, channel: DeviceChannel) -> None:
        self.house, self.device, self.channel = house, device, channel
        self.telemetry: list[TsKv] = []
        self.attributes: list[Mapping[str, Value]] = []
        self.hears: set[str] = set()
        self.silences = 0
        self.touches = 0
        self.is_open = True

    def post_telemetry(self, items: Sequence[TsKv], metadata: Mapping[str, str] | None = None) -> Receipt:
        self.telemetry += items
        return self.house.receipt()

    def post_attributes(self, values: Mapping[str, Value], metadata: Mapping[str, str] | None = None) -> Receipt:
        self.attributes.append(values)
        return self.house.receipt()

    def subscribe_attributes(self, is_on: bool) -> None:
        self.hears.add("attributes")

    def owe_attributes(self, keys) -> None:
        self.owed = [*getattr(self, "owed", ()), *keys]

    def subscribe_rpc(self, is_on: bool, again_s: float = 0.0, *, confirms: bool = False) -> None:
        self.hears.add("rpc")

    def touch(self) -> None:
        self.touches += 1

    def fall_silent(self) -> None:
        self.silences += 1

    def close(self) -> None:
        self.is_open = False


class FakeHouse:
    """Implements `DeviceInlet` as far as a bus uses it."""

    def __init__(self, *names: str) -> None:
        self.known = {name: Device(id=uuid4(), name=name, type="default") for name in names}
        self.sessions: list[FakeSession] = []
        self.open_receipts: list[Receipt] = []
        self.is_slow = False
        self.is_rejecting = False
        self.is_congested = False
        self._uncongested = asyncio.Event()

    def find_device(self, local_name: str) -> Device | None:
        return self.known.get(local_name)

    def open_session(self, device: Device, channel: DeviceChannel) -> FakeSession:
        session = FakeSession(self, device, channel)
        self.sessions.append(session)
        return session

    async def wait_uncongested(self) -> None:
        await self._uncongested.wait()

    def congest(self) -> None:
        self.is_congested = True
        self._uncongested.clear()

    def relax(self) -> None:
        self.is_congested = False
        self._uncongested.set()

    def session(self, name: str) -> FakeSession:
        """The newest session of a device."""
        return [session for session in self.sessions if session.device.name == name][-1]

    def receipt(self) -> Receipt:
        receipt: Receipt = asyncio.get_running_loop().create_future()
        if self.is_rejecting:
            receipt.set_exception(RejectedError("no"))
        elif self.is_slow:
            self.open_receipts.append(receipt)
        else:
            receipt.set_result(None)
        return receipt

    def answer_receipts(self) -> None:
        for receipt in self.open_receipts:
            receipt.set_result(None)
        self.open_receipts.clear()
