"""Every seam of the house, one small Protocol each. Rooms know these and never one another.

up     broker ────┐                            ┌─▶ RuleProcessor ─▶ changes ─┐
                  ├─ DeviceInlet ─▶ devices ───┘                             └─ Committer ─▶ Store
       fieldbus ──┘                                                       state, cloud_event
          └─ Driver ─▶ drivers/*       cloud ◀─ CloudLink ─ uplink ◀─ CloudEvents ┘

down   broker, fieldbus ◀─ DeviceChannel ─ devices ◀─ DeviceCommands ─ downlink ◀─ DownlinkHandler ─ cloud

Two habits make the path cheap and honest at once. What only decides is an ordinary function and never
awaits; what must reach the disk returns a *receipt*: an `asyncio.Future` that is done when everything
the message caused is durable, and fails when it never will be. There is no queue between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable
from uuid import UUID

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat

from gateway.domain.again import HistoryOrder, ParkedOrder, Slice
from gateway.domain.changes import Change, UnitOfWork
from gateway.domain.cloud_event import EventStatus, Lane, ParkedChoice, ParkedEvent, StoredEvent
from gateway.domain.downlink import Downlink
from gateway.domain.entity import Credentials, Device, DeviceProfile, EdgeIdentity, EntityId, Json
from gateway.domain.message import Message
from gateway.domain.onboarding import CertificateChain, ProvisionAnswer, ProvisionRequest
from gateway.domain.ota import Package, PackageKind
from gateway.domain.rpc import RpcRequest, RpcResponse
from gateway.domain.telemetry import Attribute, Summary, TsKv, Value
from gateway.errors import GatewayError, TransientError

Receipt = asyncio.Future[None]
"""Done when durable. Fails with `RejectedError` (this item never will be) and with nothing else that a
room has to handle: while the disk does not answer, a receipt simply waits."""


class Clock(Protocol):
    """Time, so that tests need not sleep."""

    def now_ms(self) -> int:
        """UTC epoch, milliseconds; may jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        ...


# ───────────────────────────── devices in: broker, fieldbus → devices ─────────────────────────────


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


# ───────────────────────────── drivers ─────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverDevice:
    """A device that a driver serves; the gateway creates it when it does not exist yet."""

    name: str
    profile: str = "default"
    label: str | None = None


class Report(BaseModel):
    """Which readings of a point are worth a message; a driver's configuration may carry it as it is.

    Without `on_change` all of them. What is compared is what was reported last, so that a slow drift is seen; after
    a spell without good values the first one is reported in any case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_change: bool = False
    deadband: NonNegativeFloat = 0.0  # a number has changed when it differs by more
    deadband_percent: NonNegativeFloat = 0.0  # the same, in percent of what was reported last; the larger one counts
    max_silence_s: PositiveFloat | None = None  # with on_change: reported after so long all the same
    min_gap_s: NonNegativeFloat = 0.0  # not more often; what has changed meanwhile is reported then


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPoint:
    """A point that a poll reads, as far as the bus has to know it beforehand."""

    device: str
    key: str
    report: Report | None = None
    every_s: float | None = None  # where it is not read at each turn of its poll


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One request on the wire. `key` is the driver's own; equal polls are equal values.

    `points`: what it reads, where the driver knows; points that turn up in readings alone are shown too, once read.
    """

    key: str
    every_s: float
    unit: str = ""  # polls of one unit (Modbus unit id) share a fate: a dead unit backs off alone
    points: Sequence[PollPoint] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value of one device at one moment."""

    device: str
    key: str
    value: Value
    ts_ms: int
    is_attribute: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A value for one tag of one device, to be read back."""

    device: str
    key: str
    value: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Read one tag of one device now."""

    device: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTogether:
    """Values for several tags of one device, one of the groups of `GroupWriter.together`; to be read back."""

    device: str
    values: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrote:
    """What came of a `WriteTogether`: the values that the device now holds, in order, up to the first failure.

    `notes`: key to what the caller should know of it, as that the device holds another value than was written.
    """

    values: Mapping[str, Value]
    notes: Mapping[str, str] = field(default_factory=dict)
    error: GatewayError | None = None  # why the rest is not written


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRequest:
    """One request in the bytes of the protocol, without the line's framing: for Modbus a PDU, function code first.

    `unit` is that of `Poll.unit`.
    """

    unit: str
    pdu: bytes


class Fault(str):
    """Why a point gives no reading now; `code`: the device's, where it gave one."""

    __slots__ = ("code",)

    def __new__(cls, text: str, code: int | None = None) -> Fault:
        """The text, with the code beside it."""
        fault = super().__new__(cls, text)
        fault.code = code
        return fault

    code: int | None


class Driver(Protocol):
    """One bus. Called by one task at a time, unless it is `Pipelined`; raises only `GatewayError`."""

    def devices(self) -> Sequence[DriverDevice]:
        """Who is on this bus."""
        ...

    def polls(self) -> Sequence[Poll]:
        """What to read, and how often."""
        ...

    async def read(self, poll: Poll) -> Sequence[Reading]:
        """One request on the wire.

        TransientError: silent device; its `BusLost`: nobody on this bus can be reached; RejectedError: the
        device refused this request.
        """
        ...

    async def write(self, command: Write) -> Value:
        """Returns the value read back after the device has confirmed. RejectedError: no such tag, bad value."""
        ...

    async def query(self, query: Query) -> Value:
        """One tag, now. RejectedError: no such tag."""
        ...

    def is_writable(self, device: str, key: str) -> bool | None:
        """None: no such tag."""
        ...

    def faults(self) -> Mapping[str, str]:
        """Tags that give no reading now, though their device answers: `device.key` to the reason, a `Fault` where the
        device gave a code. For a person.
        """
        ...


@runtime_checkable
class Pipelined(Protocol):
    """What a driver has besides `Driver` when its line carries several questions at a time.

    Different polls may be read at the same time, never one of them twice. What may change a unit (`write`, `raw`) is
    called while nothing else is asked of that unit.
    """

    @property
    def in_flight(self) -> int:
        """So many calls of `Driver` may be open at a time."""
        ...


@runtime_checkable
class GroupWriter(Protocol):
    """What a driver has besides `Driver` when one request can write several tags."""

    def together(self, device: str, keys: Sequence[str]) -> Sequence[Sequence[str]]:
        """The same keys in the same order, cut so that each group is one request; unknown ones stand alone."""
        ...

    async def write_together(self, command: WriteTogether) -> Wrote:
        """One of these groups. Raises as `Driver.write` when nothing of it was written."""
        ...


@runtime_checkable
class WatchesLine(Protocol):
    """What a driver has besides `Driver` when it learns something of its line."""

    def line(self) -> Mapping[str, Json]:
        """What has been seen, for a person."""
        ...


@runtime_checkable
class RawLine(Protocol):
    """What a driver has besides `Driver` when requests of others can travel on its line."""

    async def raw(self, request: RawRequest) -> bytes:
        """The PDU of the answer, which may be an exception answer; b"" when it went to all units, who do not answer.
        On a line without units and PDUs: bytes out, bytes in, of `unit` "".

        TransientError: no answer; BusLost: nobody can be reached; RejectedError: it cannot travel on this line.
        A request that writes is sent once, and may have arrived when no answer came.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What came from one unit unasked, or why nothing comes.

    `error`: the unit is silent, or with `BusLost` the line.
    """

    unit: str
    readings: Sequence[Reading] = ()
    error: TransientError | None = None
    bad_frames: int = 0  # since the one before
    lost_readings: int = 0  # good ones that there was no room for since the one before


@runtime_checkable
class Listener(Protocol):
    """What a driver has besides `Driver` when devices speak unasked."""

    def listen(self) -> AsyncIterator[Heard]:
        """For ever, in one task beside the one that calls the rest. The next is asked for when the one before is
        durable: the driver keeps so much meanwhile, and counts the rest. Raises nothing: outages are in what it yields.
        """
        ...

    def line(self) -> Mapping[str, Json]:
        """What has been seen on the line, for a person."""
        ...


@runtime_checkable
class ToldBeforehand(Protocol):
    """What a `Listener` has besides when it knows what will be said."""

    def unasked(self) -> Sequence[tuple[str, PollPoint]]:
        """Unit and point of all that no poll reads."""
        ...


@runtime_checkable
class TracesLine(Protocol):
    """What a driver has besides `Driver` when a person can look on."""

    def trace(self, after: int) -> Sequence[Mapping[str, Json]]:
        """What passed on the line behind this number, in rows of `n`, `ts_ms`, `what` (`sent`, `came`, `read`, `bad`,
        `unknown`), `data` (hexadecimal) and `text`. Bounded; kept while somebody asks again and again.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTemplate:
    """A ready description of a kind of device, for a person. `points`: each key, and what is known of it."""

    name: str
    description: str
    source: str
    place: str
    notes: str = ""
    line: str = ""
    points: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Registers:
    """A place in the memory of a unit, and what its content means, as a person types it.

    `count`: values; of a text its registers. `type` "": the table's own. `function`: to write with; 0: the usual one.
    """

    table: str
    address: int
    count: int = 1
    type: str = ""
    byte_order: str = "big"
    word_order: str = "big"
    function: int = 0


class RegisterTool(Protocol):
    """What a driver lends to a person who asks by hand: values ⇄ requests of `RawLine`. Pure; raises `RejectedError`
    with what would be right.
    """

    tables: Sequence[str]

    def read(self, place: Registers) -> Sequence[bytes]:
        """The requests that read it."""
        ...

    def values(self, place: Registers, answers: Sequence[bytes]) -> Sequence[Value]:
        """What the answers to all of these requests hold; none of them is a refusal."""
        ...

    def write(self, place: Registers, texts: Sequence[str]) -> bytes:
        """The one request that writes these values."""
        ...

    def as_read(self, place: Registers, pdu: bytes) -> Sequence[bytes]:
        """The answers to `read` from a unit that has taken all of this write."""
        ...

    def width(self, place: Registers) -> int:
        """Addresses that one value takes."""
        ...

    def refusal(self, pdu: bytes) -> str | None:
        """Why the unit refused, and what to try; None: it did not."""
        ...

    def may_write(self, pdu: bytes) -> bool:
        """True for a request that is known to change something."""
        ...


@dataclass(frozen=True, slots=True)
class DriverPlugin:
    """The whole declaration of a driver, found by entry point group `gateway.drivers`."""

    kind: str
    config: type[BaseModel]
    open: Callable[[Any, Clock], AbstractAsyncContextManager[Driver]]
    devices: Callable[[Any], Sequence[DriverDevice]] = lambda config: ()
    """Those that are known from the configuration alone, so that they exist before anything is opened."""
    templates: Callable[[Path | None], Sequence[DeviceTemplate]] = lambda folder: ()
    """The device templates that there are; the folder is that of the configuration file. Raises `ConfigError`."""
    line: Callable[[Any], str | None] | None = None
    """The physical line that it will own: `host:port`, or the path of a device file. None: the bus looks for `host`
    and `port`, or for `device`, in the configuration and in its `line`."""
    tool: Callable[[], RegisterTool] | None = None
    """For `edge-gateway <kind> read` and its like."""
    server: ServerPlugin | None = None
    """Foreign masters that ask the gateway itself, where the protocol has such (`servers` in the configuration)."""
    share: Callable[[Any, RawLine, Clock, Tally], Server | None] | None = None
    """Foreign masters on the line of a bus: from its configuration. None: this bus is not shared."""


# ───────────────────────────── foreign masters in: fieldbus → drivers ─────────────────────────────

Tally = Callable[[str], None]
"""Counts one of what the text names; names are fixed in the code."""


class Server(Protocol):
    """A place where foreign masters come in. Made by a driver, kept going by fieldbus."""

    async def serve(self) -> None:
        """Take in masters until cancelled. TransientError: the place cannot be opened now; RefusedError: a person must
        act.
        """
        ...

    def status(self) -> Mapping[str, Json]:
        """For a person: `is_open`, and `listen` or `device`, which is the place; more as the driver likes."""
        ...


@dataclass(frozen=True, slots=True)
class LastValue:
    """What is known of one value: how old it is, and why it is not good (None: it is); then it may be anything."""

    value: Value
    age_s: float
    problem: str | None = None


class Served(Protocol):
    """What a server may ask of the house. Implemented by fieldbus; answers from memory."""

    def gateway(self, name: str) -> Value | None:
        """A value of the gateway itself (`GATEWAY_VALUES`); None: not known now."""
        ...

    def telemetry(self, device: str, key: str) -> LastValue | None:
        """The last one of a device: of a bus as it was read, else as the store has it. None: there is none."""
        ...

    def attribute(self, device: str, scope: str, key: str) -> LastValue | None:
        """None: there is none."""
        ...

    async def post(self, device: str, telemetry: Mapping[str, Value], attributes: Mapping[str, Value]) -> None:
        """Into the rules, as if the device had sent it; returns when it is durable.

        Raises:
            RejectedError: No such device, or it can never be durable.
        """
        ...

    async def write(self, device: str, key: str, value: Value, timeout_s: float) -> None:
        """To a tag of a bus; returns when the device has confirmed.

        Raises:
            RejectedError: No such tag, or the device refused; FullError: too many calls wait for its bus;
                TransientError: no answer, the value may have arrived; BusLost: nobody on the bus can be reached.
        """
        ...


GATEWAY_VALUES: Final = (
    "uptime_s",
    "heartbeat",
    "time_s",
    "cloud_state",
    "cloud_connected",
    "pending",
    "pending_express",
    "parked",
    "devices",
    "connected_devices",
)
"""What a server can show of the gateway itself. `heartbeat` counts seconds, modulo 65536; `cloud_state`: 0 off, 1 not
connected, 2 connected."""


@dataclass(frozen=True, slots=True)
class ServerPlugin:
    """How a driver takes in masters that ask the gateway itself."""

    config: type[BaseModel]
    open: Callable[[Any, Served, Clock, Tally], Server]
    devices: Callable[[Any], Sequence[DriverDevice]]
    """Those that masters speak for; the gateway creates them when they do not exist yet."""
    keys: Callable[[Any], Iterable[tuple[str, str]]]
    """Device and key of all telemetry that it shows, so that it is held ready."""
    tags: Callable[[Any], Iterable[tuple[str, str]]]
    """Device and key of all tags of buses that it writes."""
    line: Callable[[Any], str | None]
    """The physical line that it owns, as in `DriverPlugin`; None: it only listens."""


class LatestValues(Protocol):
    """The latest telemetry of chosen devices, held ready. Implemented by devices."""

    def want(self, keys: Iterable[tuple[str, str]]) -> None:
        """Device and key of what is to be held ready."""
        ...

    def value(self, device: str, key: str) -> tuple[int, Value] | None:
        """Time (UTC epoch, milliseconds) and value, once durable; None: there is none, or nobody wanted it."""
        ...

    async def refresh(self) -> None:
        """Now and then: devices that exist since now. TransientError: the store cannot be read."""
        ...


# ───────────────────────────── rules ─────────────────────────────


@dataclass(slots=True)
class Outcome:
    """What a rule chain made of one message. Nothing has happened yet.

    `error` is set when the message failed without a `Failure` connection to take it (it is then logged
    and counted; a telemetry message is acknowledged all the same, as the cloud's SKIP_ALL_FAILURES does).
    """

    changes: list[Change] = field(default_factory=list)
    calls: list[RuleCall] = field(default_factory=list)
    replies: list[RuleReply] = field(default_factory=list)
    notices: list[AttributeNotice | StateNotice] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    emitted: list[Message] = field(default_factory=list)
    waits: list[Callable[[], Awaitable[Outcome]]] = field(default_factory=list)
    """Nodes that ask somebody (the store, another server) before they answer. What each gives belongs to the same
    unit of work: the receipt waits for it, and so do later messages of the originator. None of them raises."""


@dataclass(slots=True)
class RuleCall:
    """`rpc call request`: call the device after the commit, then go on behind the node with the reply."""

    request: RpcRequest
    resume: Callable[[RpcResponse], Outcome]


@dataclass(slots=True)
class RuleReply:
    """`rpc call reply`: answer a call that the device made."""

    device_id: UUID
    session_id: str
    request_id: int
    response: str


@dataclass(slots=True)
class AttributeNotice:
    """Shared attributes changed by a node: tell the device after the commit."""

    entity: EntityId
    values: Mapping[str, Value] | None
    deleted: Sequence[str] = ()


@dataclass(slots=True)
class StateNotice:
    """A chain reports that a device connected, was active, fell silent …: `event` is the type of the message about it.
    Known to connectivity after the commit; `ts_ms` is when that was.
    """

    device_id: UUID
    event: str
    ts_ms: int


def attributes_mark(entity: EntityId, scope: str) -> str:
    """Name of the setting with the time of the newest attribute event, where that is ahead of the clock."""
    return f"attributes_ms:{entity.type}:{entity.id}:{scope}"


class StateReader(Protocol):
    """What rule nodes and the codec may ask of the present state; answers from memory, never blocks."""

    def device(self, device_id: UUID) -> Device | None:
        """By id."""
        ...

    def device_named(self, name: str) -> Device | None:
        """By the name in the configuration, else by the cloud's."""
        ...

    def profile(self, profile_id: UUID) -> DeviceProfile | None:
        """By id."""
        ...

    def profile_named(self, name: str) -> DeviceProfile | None:
        """By name."""
        ...

    def devices(self) -> Iterator[Device]:
        """All."""
        ...

    def profiles(self) -> Iterator[DeviceProfile]:
        """All."""
        ...

    def attribute(self, entity: EntityId, scope: str, key: str) -> Attribute | None:
        """Latest durable value."""
        ...

    def attributes_bytes(self) -> int:
        """What the attributes of all entities weigh in memory, about; those of devices up to `MAX_ATTRIBUTES_BYTES`."""
        ...

    def newest_attribute_ms(self, entity: EntityId, scope: str) -> int:
        """What an attribute event of this scope has to be later than: the newest durable attribute (each is looked
        at), the `attributes_mark`, and all that was sent before this start.
        """
        ...

    def identity(self) -> EdgeIdentity | None:
        """Who the cloud says we are; None before the first connect."""
        ...

    def entity_json(self, type_: str, key: str) -> Json | None:
        """An opaque entity kept by `SaveEntity`."""
        ...

    def entities(self, type_: str) -> Mapping[str, Json]:
        """All opaque entities of a type that is kept in memory, by key, oldest first."""
        ...

    def entity_keys(self, type_: str) -> Collection[str]:
        """Keys of all opaque entities of a type, those that are only in the store included."""
        ...

    def open_alarm(self, originator: EntityId, alarm_type: str) -> tuple[str, Json] | None:
        """Key and JSON of the alarm of this originator and type that is not cleared."""
        ...

    def belongings(self, entity: EntityId) -> Sequence[tuple[str, str]]:
        """Type and key of the relations and alarms that go when this entity goes."""
        ...

    def documents_bytes(self) -> int:
        """What the kept documents (`DOCUMENT_TYPES`) weigh, about."""
        ...

    def setting(self, name: str) -> Json | None:
        """A small named value of the gateway itself (`SaveSetting`)."""
        ...

    def settings(self, prefix: str) -> Mapping[str, Json]:
        """Those whose name begins so; walks through all of them: for a person."""
        ...


class SeriesReader(Protocol):
    """The telemetry that is kept here, for nodes that ask for it (`Outcome.waits`). A `Store` is one."""

    async def latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        """Newest time and value of every key. TransientError: the store cannot be read now."""
        ...

    async def history(
        self, entity: EntityId, key: str, from_ms: int, to_ms: int, limit: int, *, newest_first: bool = False
    ) -> Sequence[tuple[int, Value]]:
        """`from_ms` ≤ time < `to_ms`, oldest first unless `newest_first`, at most `limit`."""
        ...

    async def summary(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> Summary:
        """Of `from_ms` ≤ time < `to_ms`, in one pass: nothing of it is held in memory."""
        ...


class AlarmBook(Protocol):
    """Alarms as they will be when everything under way is durable. Implemented by the rules.

    Who writes an alarm asks here what it is now, and tells of the changes before anything else runs.
    """

    def alarm(self, key: str) -> Json | None:
        """By its id as text; None when there is none."""
        ...

    def open_alarm(self, originator: EntityId, alarm_type: str) -> tuple[str, Json] | None:
        """Id and JSON of the alarm of this originator and type that is not cleared."""
        ...

    def note(self, changes: Iterable[Change]) -> None:
        """These are on their way to the disk, those of alarms among them."""
        ...


class RuleProcessor(Protocol):
    """The rule engine: synchronous, no I/O."""

    def process(self, message: Message, chain_id: UUID | None = None) -> Outcome:
        """Walk one message through the given chain, or the root chain; never raises."""
        ...


class RuleTimers(Protocol):
    """What nodes do by themselves: windows that end, delays, generators. Implemented by the engine."""

    on_earlier: Callable[[], None]
    """Called when `due_s` has come nearer."""

    @property
    def due_s(self) -> float:
        """When the next one is due, on the monotonic clock; infinite when there is none."""
        ...

    def fire(self) -> Outcome | None:
        """The next one that is due now: what it caused, like that of a message; None: nothing is due."""
        ...


class RuleView(Protocol):
    """What a person and the monitoring may ask of the rules. Methods raise `RejectedError` with a text for a person."""

    def overview(self) -> dict[str, Any]:
        """Chains with their nodes, counts and times; problems."""
        ...

    def document(self, chain: str) -> dict[str, Any]:
        """One chain, by id or name, in ThingsBoard's export form; credentials hidden."""
        ...

    def debug_events(self, chain: str | None, node: str | None, after: int, limit: int) -> list[Json]:
        """The newest `limit` debug events numbered above `after`, oldest first."""
        ...

    def debug(self, chain: str, node: str, seconds: float) -> float:
        """Record all events of this node for so long; the seconds granted."""
        ...

    def metrics(self) -> Iterable[str]:
        """Lines in the format of Prometheus."""
        ...


class RuleChains(Protocol):
    """The chains of the engine, as the downlink changes them (after they are durable)."""

    def put_chain(self, chain_id: UUID, chain: Json) -> None:
        """RuleChain JSON; `root` true makes it the root chain."""
        ...

    def put_metadata(self, chain_id: UUID, metadata: Json) -> None:
        """RuleChainMetaData JSON; empty `nodes` is ignored. A bad node answers Failure, the chain loads."""
        ...

    def remove_chain(self, chain_id: UUID) -> None:
        """Unknown id is no error."""
        ...


# ───────────────────────────── durable ─────────────────────────────


class Committer(Protocol):
    """Units of work in, receipts out; many units share one transaction and one fsync."""

    def submit(self, unit: UnitOfWork) -> Receipt:
        """An empty unit is done when everything submitted before it is. The receipt is never done yet when it
        is returned: callbacks added at once run before whoever awaits it goes on.
        """
        ...

    @property
    def is_congested(self) -> bool:
        """True while the waiting units exceed the configured bound."""
        ...

    async def wait_uncongested(self) -> None:
        """Returns when `is_congested` is False."""
        ...


FINISHED_RPCS: Final = 10_000
"""So many finished calls are recognised when the cloud repeats them, across restarts too."""


@dataclass(slots=True)
class Snapshot:
    """Everything that is kept in memory while the gateway runs, as the store had it at start."""

    devices: list[Device] = field(default_factory=list)
    profiles: list[DeviceProfile] = field(default_factory=list)
    attributes: list[tuple[EntityId, str, str, Attribute]] = field(default_factory=list)  # entity, scope, key
    entities: list[tuple[str, str, Json]] = field(default_factory=list)
    """type, key, json; without documents (`DOCUMENT_TYPES`)"""
    documents: list[tuple[str, str, int]] = field(default_factory=list)  # type, key, characters
    settings: dict[str, Json] = field(default_factory=dict)
    local: list[tuple[str, str, bytes]] = field(default_factory=list)
    """kind, key, body of what local publish/subscribe keeps (`SaveLocal`), in no order"""
    open_rpcs: list[tuple[UUID, UUID, str, int, Json]] = field(default_factory=list)
    """request uuid, device id, state, expires_ms, request: calls not in state DONE"""
    finished_rpcs: list[UUID] = field(default_factory=list)
    """Calls in state DONE, those that expire last first: at most `FINISHED_RPCS`"""
    newest_ms: int = 0
    """When the newest event that is still kept was made; filled in by who opens the store"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """How much waits. `oldest_ms` is the creation time of the oldest pending event, None when there is none."""

    pending: Mapping[Lane, int]
    deployed: Mapping[Lane, int]
    parked: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUse:
    """What is kept, and from when on `when_full` applies; PostgreSQL: about."""

    used_bytes: int
    limit_bytes: int


class Store(Protocol):
    """State and cloud_event behind one writer. Errors: `TransientError` (disk full, server away: the
    committer tries again), `RejectedError` (this unit can never be written).
    """

    async def load(self) -> Snapshot:
        """Once, at start."""
        ...

    async def commit(self, units: Sequence[UnitOfWork]) -> None:
        """All units in one durable transaction, in order; on an error none of them is written."""
        ...

    async def latest(self, entity: EntityId) -> Mapping[str, tuple[int, Value]]:
        """Latest telemetry of one entity: key to (ts_ms, value)."""
        ...

    async def history(
        self, entity: EntityId, key: str, from_ms: int, to_ms: int, limit: int, *, newest_first: bool = False
    ) -> Sequence[tuple[int, Value]]:
        """(ts_ms, value), oldest first unless `newest_first`, `from_ms` ≤ ts < `to_ms`."""
        ...

    async def summary(self, entity: EntityId, key: str, from_ms: int, to_ms: int) -> Summary:
        """Of the history with `from_ms` ≤ ts < `to_ms`."""
        ...

    @property
    def events(self) -> CloudEvents:
        """The queue's reading side."""
        ...

    async def use(self) -> StoreUse:
        """Cheap: its cost does not grow with what is kept."""
        ...

    async def maintain(self) -> None:
        """Once a minute: old history and old confirmed events go, the file gives space back."""
        ...


class CloudEvents(Protocol):
    """The reading side of the queue; it is written by changes only (`AppendEvent`, `MoveCursor`, `ParkEvent`)."""

    async def peek(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """Events with `seq_id` > `after_seq`, in order, at most `limit`; nothing is removed."""
        ...

    async def peek_added(self, lane: Lane, after_seq: int, limit: int) -> Sequence[StoredEvent]:
        """The same of `Action.ADDED` alone; its cost does not grow with what lies between them."""
        ...

    def cursor(self, lane: Lane) -> int:
        """Highest confirmed `seq_id`; 0 at first. From memory."""
        ...

    def last(self, lane: Lane) -> int:
        """Highest stored `seq_id`; 0 at first. From memory: `last - cursor` is the depth."""
        ...

    async def wait_beyond(self, lane: Lane, seq_id: int) -> None:
        """Returns when `last(lane)` > `seq_id`."""
        ...

    async def depth(self) -> QueueDepth:
        """Cheap: its cost does not grow with the backlog."""
        ...

    async def find(
        self, status: EventStatus | None, limit: int, before_seq: int | None = None
    ) -> Sequence[tuple[StoredEvent, EventStatus]]:
        """Newest first, for a person; both lanes."""
        ...

    async def parked(self, limit: int) -> Sequence[ParkedEvent]:
        """Newest first."""
        ...

    async def choose_parked(
        self, lane: Lane, after_seq: int, limit: int, choice: ParkedChoice
    ) -> Sequence[ParkedEvent]:
        """Parked events with `seq_id` > `after_seq` that fit, in order, at most `limit`."""
        ...

    async def purge(self, keep: int) -> int:
        """Delete confirmed events beyond the newest `keep` of each lane, in ranges; how many went."""
        ...


class ParkedOrders(Protocol):
    """What a person has decided about parked events. Implemented by devices."""

    async def decide(self, order: ParkedOrder) -> Slice:
        """One slice of an order, durable when it is counted.

        Raises:
            RejectedError: The order is wrong; TransientError: the store cannot be read now.
        """
        ...


class HistoryOrders(Protocol):
    """Telemetry that is kept here, up to the cloud again. Implemented by devices."""

    async def send(self, order: HistoryOrder) -> Slice:
        """One slice of an order, in the queue when it is counted.

        Raises:
            RejectedError: The order is wrong; TransientError: the store cannot be read now.
        """
        ...


# ───────────────────────────── cloud ─────────────────────────────


@dataclass(frozen=True, slots=True)
class UplinkAnswer:
    """What the cloud said of one uplink message."""

    is_success: bool
    error: str = ""


class CloudLink(Protocol):
    """The conversation with the cloud, as the sender sees it."""

    @property
    def is_ready(self) -> bool:
        """Uplink is allowed: accepted, and no sync in progress."""
        ...

    async def wait_ready(self) -> int:
        """Returns when uplink is allowed: the number of the session (it grows with each connect)."""
        ...

    async def wait_lost(self) -> None:
        """Returns when uplink is not allowed: at once, or when the session ends."""
        ...

    def size_bytes(self, events: Sequence[StoredEvent]) -> int:
        """What these events would weigh as one message; 0 when nothing would be sent (entity gone, empty data)."""
        ...

    def send(self, events: Sequence[StoredEvent]) -> asyncio.Future[UplinkAnswer]:
        """One uplink message with these events, sent in the order of the calls. The same events, sent again in
        one session after a refusal, keep the number of their message.

        Entities are serialised as they are now. Events of which nothing is left to send count as
        success. The future fails with `LinkLost` when the stream ends before the answer, and with
        `RejectedError` when an event cannot be encoded or is larger than the cloud's limit.

        Raises:
            LinkLost: The link is not ready.
        """
        ...

    @property
    def max_message_bytes(self) -> int:
        """What the cloud announced, less what the envelope needs."""
        ...


class DownlinkHandler(Protocol):
    """Applies what the cloud asks. Implemented by downlink."""

    async def handle(self, downlink: Downlink) -> None:
        """Returns when everything is durable: then it is acknowledged. May be called again before that: the
        order of the calls is kept between downlinks about the same thing.

        Raises:
            RejectedError: It can never be applied: acknowledged all the same, counted and shown with the text; a
                refusal would hold up the cloud's queue. What came before it stays applied.
        """
        ...

    async def connected(self, identity: EdgeIdentity) -> bool:
        """Accepted by the cloud, or the EDGE entity changed. True: a full sync is needed (new identity, or
        no sync has ever completed).
        """
        ...


class PackageKeeper(Protocol):
    """OTA packages of the cloud. Implemented by devices."""

    async def put_package(self, package_id: UUID, json: Mapping[str, Json]) -> bool:
        """Durable when it returns, the binary as a file; False: nothing was new. One that must not be served (wrong
        checksum, no room) is kept by name, with the reason: refusing the message would only bring it again.

        Raises:
            RejectedError: This is no package.
        """
        ...

    async def delete_package(self, package_id: UUID) -> None:
        """Unknown id is no error."""
        ...


class DeviceCommands(Protocol):
    """What the downlink asks of the device room. Every method returns when it is durable."""

    async def change_identity(self, identity: EdgeIdentity) -> None:
        """Another edge id: the old tenant's entities go, our own devices are announced anew."""
        ...

    async def put_device(
        self, device_id: UUID, json: Mapping[str, Json], credentials: Mapping[str, Json] | None = None
    ) -> None:
        """Create or replace; the cloud's name wins, the local one stays as an alias. Nothing is written when
        nothing changes.

        `credentials` are those that `put_credentials` will be called with next: they are saved with the device
        when nothing speaks against it, and are left to that call otherwise.
        """
        ...

    async def delete_device(self, device_id: UUID) -> None:
        """Closes its session; unknown id is no error."""
        ...

    async def put_credentials(self, device_id: UUID, json: Mapping[str, Json]) -> None:
        """Unknown device is no error. A session under other credentials is closed."""
        ...

    async def put_profile(self, profile_id: UUID, json: Mapping[str, Json]) -> None:
        """A local profile of the same name and another id is replaced and its devices moved."""
        ...

    async def delete_profile(self, profile_id: UUID) -> None:
        """Unknown id is no error."""
        ...

    async def update_attributes(
        self, entity: EntityId, scope: str, values: Mapping[str, Value], ts_ms: int | None
    ) -> None:
        """Store, run ATTRIBUTES_UPDATED through the rules (source=cloud), tell the device (SHARED_SCOPE).
        Keys not newer than stored are dropped; unknown entity is no error.
        """
        ...

    async def delete_attributes(self, entity: EntityId, scope: str, keys: Sequence[str]) -> None:
        """Delete, tell the device."""
        ...

    async def post_from_cloud(self, message: Message, first: Sequence[Change] = ()) -> None:
        """Telemetry or attributes from the cloud, or what it did to an alarm, into the rules; `first` becomes durable
        with what they make of it, in any case.
        """
        ...

    async def call_device(self, request: RpcRequest) -> None:
        """Durable when it returns; the answer travels as a cloud event later. A repeated `request_uuid` is ignored."""
        ...

    async def answer_device(self, device_id: UUID, request_id: int, session_id: str | None, response: str) -> None:
        """The cloud's answer to a call that a device made."""
        ...

    async def announce_again(self, announced_ms: Mapping[UUID, int], among: Container[UUID]) -> Sequence[UUID]:
        """Devices made here that a completed sync did not bring, and when each was announced last; returns those whose
        announcement is confirmed. Of these, `among` are announced once more, ahead of what waits.
        """
        ...

    async def append_event(self, type_: str, action: str, entity_id: UUID | None, body: Json | None = None) -> None:
        """Queue one event (requests for attributes, relations, credentials …)."""
        ...
