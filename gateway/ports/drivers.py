"""What a driver is: the whole contract of a third party."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat

from gateway.domain.entity import Json
from gateway.domain.telemetry import Value
from gateway.errors import GatewayError, TransientError
from gateway.ports.clock import Clock

if TYPE_CHECKING:
    from gateway.ports.servers import Server, ServerPlugin, Tally


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
