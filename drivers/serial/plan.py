"""The configuration of one line, ready for use: kinds of frames, questions, commands, and their points. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drivers.serial.config import Command, Message, Request, SerialConfig, SerialDevice
from drivers.serial.messages import Kind, kind_of
from drivers.serial.notation import Template, shown
from gateway.ports import Poll, PollPoint


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    kind: Kind
    sent: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Ordered:
    """A command; `kind` of the frame that confirms it, None: sending is all."""

    command: Command
    template: Template
    kind: Kind | None


class Plan:
    """`checksum`: of what is sent.

    `kinds`: what is said unasked. `asked`: each poll's question. `fields`: by device and key the poll that reads it,
    None: it comes unasked. `unasked`: unit and point of those. `silent_after_s`: by device that speaks unasked.
    """

    def __init__(self, config: SerialConfig, checksum: Callable[[bytes], bytes]) -> None:
        self._config, self._checksum = config, checksum
        self.kinds: list[Kind] = []
        self.asked: dict[Poll, Asked] = {}
        self.fields: dict[tuple[str, str], Poll | None] = {}
        self.commands: dict[tuple[str, str], Ordered] = {}
        self.silent_after_s: dict[str, float] = {}
        for device in config.devices:
            self._listen_to(device)
            for index, request in enumerate(device.requests):
                self._ask(device, f"{device.name}/{index}", request)
            for command in device.commands:
                kind = None if command.answer is None else kind_of(device.name, command.answer, config.encoding)
                self.commands[device.name, command.key] = Ordered(command, config.template(command.send), kind)
        self.unasked: Sequence[tuple[str, PollPoint]] = [
            (device.name, point)
            for device in config.devices
            for message in device.messages
            for point in _points(device, message)
            if self.fields[device.name, point.key] is None
        ]

    def _listen_to(self, device: SerialDevice) -> None:
        for message in device.messages:
            kind = kind_of(device.name, message, self._config.encoding)
            self.kinds.append(kind)
            self.silent_after_s[device.name] = device.silent_after_s
            self.fields.update({(device.name, field.key): None for field in kind.fields})

    def _ask(self, device: SerialDevice, key: str, request: Request) -> None:
        kind = kind_of(device.name, request, self._config.encoding)
        sent = self._config.template(request.send).render(checksum=self._checksum)
        every_s = (request.every_ms or device.every_ms) / 1000
        poll = Poll(key=key, every_s=every_s, unit=device.name, points=_points(device, request))
        self.asked[poll] = Asked(kind, sent, shown(sent))
        self.fields.update({(device.name, field.key): poll for field in kind.fields})


def _points(device: SerialDevice, message: Message) -> list[PollPoint]:
    return [
        PollPoint(device=device.name, key=field.key, report=field.report or device.report) for field in message.fields
    ]
