"""Devices in: broker and field bus → devices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from uuid import UUID

from gateway.domain.entity import Credentials, Device, DeviceProfile, Json
from gateway.domain.onboarding import CertificateChain, ProvisionAnswer, ProvisionRequest
from gateway.domain.ota import Package, PackageKind
from gateway.domain.rpc import RpcRequest, RpcResponse
from gateway.domain.telemetry import TsKv, Value
from gateway.ports.clock import Receipt


class DeviceChannel(Protocol):
    """The way to one connected device: an MQTT connection, or a bus. Implemented by broker and fieldbus.

    Methods are called on the event loop and do not block.
    """

    def send_attributes(self, values: Mapping[str, Value]) -> None:
        """Changed shared attributes. Called only while the session has subscribed to them."""
        ...

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """Deleted shared attributes."""
        ...

    def send_rpc(self, rpc_id: int, request: RpcRequest) -> Awaitable[RpcResponse | None]:
        """Hand a call to the device, under our own small number.

        Returns when the device has it (PUBACK, or sent with QoS 0): None; the answer then comes by
        `DeviceSession.answer_rpc`. A bus returns the answer itself.

        Raises:
            TransientError: The device does not have it (connection lost).
        """
        ...

    def close(self, reason: str) -> None:
        """`taken_over` (0x8E), `not_authorized` (credentials changed, device deleted: 0x98), `shutdown` (0x8B).
        A visit hears `deleted` instead when its device is gone.
        """
        ...


class DeviceSession(Protocol):
    """One live connection of one device; all calls come from the channel that opened it."""

    device: Device

    def post_telemetry(self, items: Sequence[TsKv], metadata: Mapping[str, str] | None = None) -> Receipt:
        """Into the rules, one message for each time stamp; `metadata` is added to what rules are told anyway."""
        ...

    def post_attributes(self, values: Mapping[str, Value], metadata: Mapping[str, str] | None = None) -> Receipt:
        """Client attributes, into the rules; `metadata` as for telemetry."""
        ...

    def request_attributes(
        self, client_keys: Sequence[str] | None, shared_keys: Sequence[str] | None
    ) -> Awaitable[tuple[Mapping[str, Value], Mapping[str, Value]]]:
        """Client and shared attributes that exist among the asked ones; None: nothing of that scope, an
        empty sequence: all of it.

        Answers after everything this session posted before is durable (it reads its own writes).
        """
        ...

    def answer_rpc(self, rpc_id: int, response: str) -> Receipt:
        """The device's answer (JSON text); an unknown or expired id is ignored."""
        ...

    def call_server(self, request_id: int, method: str, params: Json) -> Awaitable[str | None]:
        """Client-side RPC: JSON text of the answer, None when none came in time."""
        ...

    def subscribe_attributes(self, is_on: bool) -> None:
        """Pushes wait for the subscription; then the device is told the newest value of what changed meanwhile."""
        ...

    def owe_attributes(self, keys: Sequence[str]) -> None:
        """These did not reach the device: their newest values are told again at the next `subscribe_attributes`, also
        after a restart.
        """
        ...

    def subscribe_rpc(self, is_on: bool, again_s: float = 0.0, *, confirms: bool = False) -> None:
        """Pending calls are handed over at once. Off with `again_s`: it will ask again within so many seconds, and
        counts as connected until then: a call waits for it.

        `confirms`: `send_rpc` returns when the device acknowledges. A persisted call that it does not acknowledge is
        handed over again, under the same number. Without it a call that was handed over counts as executed.
        """
        ...

    def claim(self, secret_key: str, duration_ms: int) -> Receipt:
        """The device may be claimed by whoever knows the key, for so long; 0 or less: the default.

        Silently nothing when an earlier claim still stands, or when it may not be claimed.
        """
        ...

    def touch(self) -> None:
        """Any packet counts as activity."""
        ...

    def fall_silent(self) -> None:
        """What is behind the channel does not answer: it counts as disconnected until it posts again. For buses,
        whose sessions stay open without a device.
        """
        ...

    def close(self) -> None:
        """The connection is gone; safe to call twice."""
        ...


DeviceChanged = Callable[[UUID, Device | None], None]
"""Hears of a device: as it is now (renamed, with another profile, with another id than this one), None: deleted."""


class DeviceInlet(Protocol):
    """What broker and fieldbus know of the rest of the house."""

    def find_credentials(self, credentials_id: str) -> tuple[Credentials, Device] | None:
        """By unique credentials id (access token, MQTT_BASIC hash or user name, certificate hash)."""
        ...

    def find_device(self, local_name: str) -> Device | None:
        """By the name in the configuration."""
        ...

    def open_session(self, device: Device, channel: DeviceChannel) -> DeviceSession:
        """An older session of the same device is closed (`taken_over`) first."""
        ...

    def profile_of(self, device: Device) -> DeviceProfile | None:
        """None: the cloud has not told us of it."""
        ...

    def provision(self, request: ProvisionRequest) -> Awaitable[ProvisionAnswer]:
        """A device asks for credentials; what it is answered with is durable."""
        ...

    def admit_by_certificate(self, chain: CertificateChain) -> Awaitable[Device | None]:
        """The device of a certificate; it is created, or gets this certificate, where its profile says so. Durable."""
        ...

    def open_visit(self, device: Device, channel: DeviceChannel) -> DeviceSession:
        """A session beside the device's own, for one that asks instead of listening (HTTP): neither closes the
        other; an older visit of the same device is closed.

        It hears of changes and calls only while it is subscribed; its channel may end the subscription within
        `send_…`, and what did not fit into that one answer is told at the next subscription. A call goes to
        the device's own session when that one hears calls.

        Raises:
            RejectedError: The device was deleted meanwhile.
        """
        ...

    def sub_device(self, gateway: Device | None, name: str, profile: str) -> tuple[Device, Receipt | None]:
        """The device of this name behind a gateway; made, with its profile, when there is none.

        The receipt is that of a device being made: before it is done no session can be opened. `profile` is
        used for a new device only. The cloud learns which gateway it was seen behind last; None: behind nobody.

        Raises:
            FullError: The gateway's house has as many devices as it may have.
            RejectedError: The name cannot be used; the text says why.
        """
        ...

    def open_sub_session(self, device: Device, channel: DeviceChannel) -> DeviceSession:
        """A session through a gateway, beside the device's own. An older one through any gateway is closed
        (`taken_over`). New credentials of the device do not end it: it has not shown any.

        Raises:
            RejectedError: The device was deleted meanwhile.
        """
        ...

    @property
    def is_congested(self) -> bool:
        """True while too much waits for the disk: stop reading from wires."""
        ...

    async def wait_uncongested(self) -> None:
        """Returns when reading may go on."""
        ...


class PackageFile(Protocol):
    """An OTA package's file, open for one reader; what takes its place meanwhile changes nothing for him."""

    @property
    def size_bytes(self) -> int:
        """The whole file."""
        ...

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """So many bytes, fewer at the end, none behind it. RejectedError: cannot be read, or was changed."""
        ...

    def release(self) -> None:
        """Not needed any more; call once."""
        ...


class Packages(Protocol):
    """What devices may download. Implemented by devices, used by broker and web."""

    def assigned(self, device: Device, kind: PackageKind) -> Package | None:
        """The device's package: its own wins over its profile's, one of the cloud over one of the local folder."""
        ...

    async def open(self, device: Device, kind: PackageKind) -> tuple[Package, PackageFile]:
        """The assigned package, to be read.

        Raises:
            PackageUnavailable: None is assigned, it is only a URL, or it must not be served.
        """
        ...


class PackageFolder(Protocol):
    """Where the files are. Implemented by store. Every method raises `RejectedError` with a text for a person."""

    max_bytes: int

    @property
    def used_bytes(self) -> int:
        """By packages of the cloud."""
        ...

    def path_of(self, key: str) -> Path:
        """Where the package of the cloud with this key is, or would be."""
        ...

    async def save(self, key: str, base64_text: str, algorithm: str, checksum: str, size_bytes: int) -> None:
        """Verified and durable when it returns."""
        ...

    async def open(self, path: Path, algorithm: str, checksum: str) -> PackageFile:
        """To read from; never when its content is not what the checksum says."""
        ...

    async def measure(self, path: Path, algorithm: str) -> tuple[int, str]:
        """Size and checksum of a file."""
        ...

    async def delete(self, key: str) -> None:
        """Unknown is no error."""
        ...

    async def keep_only(self, keys: Collection[str]) -> None:
        """Everything else goes."""
        ...
