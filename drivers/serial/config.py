"""What a serial line looks like in the configuration file."""

from __future__ import annotations

import re
import struct
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from drivers.serial.checksums import NAMES, SIMPLE
from drivers.serial.notation import Template, to_bytes, to_template
from gateway.config import Settings
from gateway.domain.telemetry import Value
from gateway.ports import Report

MAX_FRAME_BYTES = 65536


def _bytes(text: str) -> str:
    to_bytes(text)
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def _text_keys(values: Any) -> Any:
    """YAML reads `0:` as a number and `on:` as a truth: the frame has texts."""
    if not isinstance(values, dict):
        return values
    if any(isinstance(key, bool) for key in values):
        raise ValueError("write keys such as on, off, yes and no in quotes")
    return {str(key): value for key, value in values.items()}


Bytes = Annotated[str, AfterValidator(_bytes)]
"""Text, or `hex: AA C0`."""
Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_pattern)]
Key = Annotated[str, Field(min_length=1, max_length=255)]
Texts = Annotated[dict[str, Value], BeforeValidator(_text_keys), Field(min_length=1)]


class Rs485(Settings):
    """The kernel switches the direction; for UARTs whose driver can (not for USB adapters, which do it themselves)."""

    rts_on_send: bool = Field(True, description="Level of RTS while sending.")
    delay_before_send_ms: Annotated[int, Field(ge=0, le=1000)] = 0
    delay_after_send_ms: Annotated[int, Field(ge=0, le=1000)] = 0


class Frame(Settings):
    """How one frame ends and the next begins."""

    kind: Literal["delimiter", "length", "fixed", "silence"] = "delimiter"
    start: Bytes = Field("", description="Mark that begins each frame; it belongs to the frame.")
    end: Bytes | None = Field(None, description="Mark that ends each frame; of a `delimiter` frame it is cut off.")
    size: PositiveInt | None = Field(None, description="fixed: bytes of the whole frame.")
    length_at: Annotated[int, Field(ge=0)] | None = Field(None, description="length: where its field lies.")
    length_size: Literal[1, 2, 4] = 1
    length_order: Literal["big", "little"] = "big"
    length_adds: int = Field(0, description="length: bytes of the whole frame that its number leaves out.")
    pause_ms: PositiveInt | None = Field(
        None,
        description="silence: this ends a frame (20). Others: this gives up a frame that was begun (500; text: never).",
    )
    max_bytes: Annotated[int, Field(ge=1, le=MAX_FRAME_BYTES)] = 1024

    @model_validator(mode="after")
    def _fits(self) -> Frame:
        if (self.kind == "fixed") != (self.size is not None):
            raise ValueError("kind fixed and `size` belong together")
        if (self.kind == "length") != (self.length_at is not None):
            raise ValueError("kind length and `length_at` belong together")
        if self.kind == "delimiter" and not self.end_mark:
            raise ValueError('kind delimiter needs an `end`, such as "\\r\\n"')
        if self.size is not None and self.size > self.max_bytes:
            raise ValueError(f"size is {self.size}, more than max_bytes ({self.max_bytes})")
        return self

    @property
    def end_mark(self) -> bytes:
        """A text's frames end with a line feed unless told otherwise."""
        if self.end is None:
            return b"\n" if self.kind == "delimiter" else b""
        return to_bytes(self.end)

    @property
    def pause_s(self) -> float | None:
        """As the reader of frames wants it."""
        if self.pause_ms is not None:
            return self.pause_ms / 1000
        return {"silence": 0.02, "length": 0.5, "fixed": 0.5}.get(self.kind)


class Checksum(Settings):
    """What proves a frame, and where it stands."""

    kind: str
    poly: Annotated[int, Field(ge=1, le=0xFFFFFFFF)] | None = Field(None, description="crc8, crc16, crc32 of your own.")
    init: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    refin: bool = False
    refout: bool = False
    xorout: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    begin: Annotated[int, Field(ge=0)] = Field(0, description="First byte of the frame that it covers.")
    at: int | None = Field(
        None,
        description="Where it stands; negative: from the end (default: at the end). It covers up to there.",
    )
    after: Bytes | None = Field(None, description="Mark before it, instead of `at`; neither covers the mark.")
    form: Literal["bytes", "hex"] = Field("bytes", description="hex: written as hexadecimal digits.")
    order: Literal["big", "little"] = "big"

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in NAMES and kind not in ("crc8", "crc16", "crc32"):
            raise ValueError(f"unknown; one of {', '.join(NAMES)}, or crc8, crc16, crc32 with `poly`")
        return kind

    @model_validator(mode="after")
    def _fits(self) -> Checksum:
        if self.poly is None and self.kind not in NAMES:
            raise ValueError(f"{self.kind} needs `poly`; or name one, such as {self.kind}/modbus")
        if self.poly is not None and self.kind not in ("crc8", "crc16", "crc32"):
            raise ValueError(f"{self.kind} has its own polynomial; with `poly` say crc8, crc16 or crc32")
        if self.poly is not None and max(self.poly, self.init, self.xorout) >> self.size * 8:
            raise ValueError(f"poly, init and xorout of {self.kind} have {self.size * 8} bits")
        if self.at is not None and self.after is not None:
            raise ValueError("`at` and `after` exclude one another")
        return self

    @property
    def size(self) -> int:
        """Bytes of its value."""
        if self.kind in SIMPLE:
            return SIMPLE[self.kind][0]
        return {"crc8": 1, "crc16": 2, "crc32": 4}[self.kind.partition("/")[0]]

    @property
    def width(self) -> int:
        """Bytes that it takes in a frame."""
        return self.size * (2 if self.form == "hex" else 1)


class SerialField(Settings):
    """One value of a frame."""

    key: Key
    at: str | Annotated[int, Field(ge=0)] | None = Field(
        None, description="Group of the regular expression, column or item (from 0), path in JSON. Default: the key."
    )
    type: Literal["auto", "number", "integer", "text", "bool", "hex", "degrees"] = "auto"
    scale: float = Field(1.0, allow_inf_nan=False, description="Value = number * scale + offset.")
    offset: float = Field(0.0, allow_inf_nan=False)
    round: Annotated[int, Field(ge=0, le=15)] | None = None
    sign_at: str | Annotated[int, Field(ge=0)] | None = Field(None, description="There -, S or W make it negative.")
    decimal_comma: bool = False
    report: Report | None = Field(None, description="Which readings are worth a message; instead of the device's.")
    values: Texts | None = Field(None, description="What texts of the frame mean, instead of a number.")


class Message(Settings):
    """One kind of frame, and what it says."""

    starts_with: Bytes = ""
    match: Pattern | None = Field(None, description="Regular expression that a frame of this kind contains.")
    regex: Pattern | None = None
    csv: Annotated[str, Field(min_length=1, max_length=8)] | None = Field(None, description="The separator.")
    json_: bool = Field(False, alias="json")
    struct: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    telemetry: tuple[SerialField, ...] = ()
    attributes: tuple[SerialField, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Message:
        ways = sum((self.regex is not None, self.csv is not None, self.json_, self.struct is not None))
        if ways > 1:
            raise ValueError("regex, csv, json and struct exclude one another")
        if ways == 0 and self.fields:
            raise ValueError("needs one of regex, csv, json, struct: how its fields are found")
        for field in self.fields:
            at = field.key if field.at is None else field.at
            self._check_at(field.key, at)
            if field.sign_at is not None:
                self._check_at(field.key, field.sign_at)
        return self

    def _check_at(self, key: str, at: str | int) -> None:
        if self.regex is not None:
            pattern = re.compile(self.regex)
            if at not in (*pattern.groupindex, *range(pattern.groups + 1)):
                raise ValueError(f"{key!r}: the regular expression has no group {at!r}; (?P<{key}>…) makes one")
        elif self.csv is not None and not isinstance(at, int):
            raise ValueError(f"{key!r}: `at` is a number of a column, from 0")
        elif self.struct is not None:
            try:
                items = len(struct.unpack(self.struct, bytes(struct.calcsize(self.struct))))
            except struct.error as error:
                raise ValueError(f"struct {self.struct!r}: {error}") from None
            if not isinstance(at, int) or at >= items:
                raise ValueError(f"{key!r}: `at` is a number of an item, 0..{items - 1}")

    @property
    def fields(self) -> tuple[SerialField, ...]:
        """All of them."""
        return (*self.telemetry, *self.attributes)


class Request(Message):
    """A question that is asked again and again, and its answer."""

    send: Annotated[str, Field(min_length=1)]
    every_ms: PositiveInt | None = Field(None, description="Instead of the device's.")


class Command(Settings):
    """Something that RPC calls and shared attributes may do."""

    key: Key
    send: Annotated[str, Field(min_length=1)]
    values: dict[str, Value] | None = Field(None, description="What texts of a caller mean; others are refused.")
    min: float | None = None
    max: float | None = None
    answer: Message | None = Field(None, description="The frame that confirms it; without, sending is all.")
    refused: Pattern | None = Field(None, description="A frame that contains this says no.")

    @field_validator("values", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        return _text_keys(values)


class SerialDevice(Settings):
    """One logical device on the line."""

    name: Key
    profile: Annotated[str, Field(min_length=1)] = "default"
    label: str | None = None
    every_ms: PositiveInt = 1000
    report: Report | None = Field(None, description="Which readings are worth a message. Default: every one.")
    silent_after_s: PositiveFloat = Field(30.0, description="Without a good message for so long it counts as silent.")
    messages: tuple[Message, ...] = Field((), description="What it says unasked.")
    requests: tuple[Request, ...] = Field((), description="What it is asked for.")
    commands: tuple[Command, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> SerialDevice:
        if not (self.messages or self.requests or self.commands):
            raise ValueError(f"{self.name!r} has nothing to say; give it messages, requests or commands")
        commands = [command.key for command in self.commands]
        if len(set(commands)) != len(commands):
            raise ValueError(f"{self.name!r} has two commands with one key; keys are unique in a device")
        for message in (*self.messages, *self.requests):
            if not message.fields:
                raise ValueError(f"{self.name!r} has a message without fields; give it telemetry or attributes")
        return self


class SerialConfig(Settings):
    """One serial line and the devices on it."""

    kind: Literal["serial"] = "serial"
    name: Annotated[str, Field(min_length=1, max_length=64)] = "serial"
    port: Annotated[str, Field(min_length=1, description="/dev/serial/by-id/… stays the same when adapters change.")]
    baudrate: Annotated[int, Field(ge=50, le=4_000_000)] = 9600
    bytesize: Literal[5, 6, 7, 8] = 8
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    stopbits: Literal[1, 2] = 1
    flow: Literal["none", "rtscts", "xonxoff", "dsrdtr"] = "none"
    rs485: Rs485 | None = None
    echo: bool = Field(False, description="The adapter hears what it sends (two wires, receiver always on).")
    timeout_s: PositiveFloat = Field(1.0, description="For each answer, and for what is sent to leave.")
    gap_ms: Annotated[int, Field(ge=0, le=10_000)] = Field(0, description="Quiet before each question.")
    encoding: Literal["ascii", "utf-8", "latin-1", "cp1252"] = "utf-8"
    frame: Frame = Field(default_factory=lambda: Frame(end="\n"))
    checksum: Checksum | None = None
    devices: Annotated[tuple[SerialDevice, ...], Field(min_length=1)]

    @field_validator("devices")
    @classmethod
    def _unique_names(cls, devices: tuple[SerialDevice, ...]) -> tuple[SerialDevice, ...]:
        names = [device.name for device in devices]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two devices are named {name!r}; names are unique on a gateway")
        return devices

    @model_validator(mode="after")
    def _templates(self) -> SerialConfig:
        for device in self.devices:
            asked: tuple[Request | Command, ...] = (*device.requests, *device.commands)
            for sent in asked:
                template = self.template(sent.send)
                if template.takes_checksum and self.checksum is None:
                    raise ValueError(
                        f"{device.name!r}: {sent.send!r} has a {{checksum}}, and the line has no `checksum`"
                    )
                if isinstance(sent, Request) and template.takes_value:
                    raise ValueError(f"{device.name!r}: {sent.send!r}: only a command has a {{value}}")
        return self

    def template(self, text: str) -> Template:
        """What is sent, in this line's encoding."""
        return to_template(text, self.encoding)

    @property
    def settings_text(self) -> str:
        """`9600 8N1`, as manuals write it."""
        return f"{self.baudrate} {self.bytesize}{self.parity[0].upper()}{self.stopbits}"
