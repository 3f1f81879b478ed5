"""Names of devices: which ones can be used, and which are on their way to the disk.

Devices are made by gateways, by provisioning, by mappings and by the cloud. Until one is durable nobody finds it in the
state: whoever wants the same name meanwhile gets that very device, or waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from gateway.domain.changes import Change, SaveDevice, SaveSetting
from gateway.domain.entity import Device
from gateway.errors import RejectedError
from gateway.ports import Receipt

if TYPE_CHECKING:
    from gateway.devices.state import State

MAX_NAME_CHARS: Final = 255
ALIAS: Final = "alias:"
"""Setting, with the device's id: its local name was kept to tell two devices apart, and is not that of a configuration.
The value is what its gateway calls it."""


class Names:
    """Those on their way, whoever makes them. `new` is the number of devices that do not exist yet."""

    def __init__(self) -> None:
        self._coming: dict[str, tuple[Device, Receipt]] = {}
        self.new = 0

    def coming(self, name: str) -> tuple[Device, Receipt] | None:
        """The device of this name that is on its way, and when it is durable."""
        return self._coming.get(name)

    def hold(self, name: str, device: Device, receipt: Receipt, *, is_new: bool) -> None:
        """The name is taken until the receipt is done: by this device if that was a success, else by nobody."""
        entry = self._coming[name] = device, receipt
        self.new += is_new

        def done(_: Receipt) -> None:
            self.new -= is_new
            if self._coming.get(name) is entry:
                del self._coming[name]

        receipt.add_done_callback(done)

    async def turn_of(self, name: str) -> None:
        """Returns when nothing of this name is on its way; what the caller does before its next await is alone."""
        while (entry := self._coming.get(name)) is not None:
            await asyncio.wait([entry[1]])


def namesake(state: State, device: Device, name: str) -> Device | None:
    """The other device that has this name here, made here and never named by the cloud: there it gets another one."""
    other = state.device_named(name)
    return None if other is None or other.id == device.id or other.json is not None else other


def kept_apart(*devices: Device) -> Sequence[Change]:
    """Each keeps the name that it has here as its local one, so that whoever speaks of it goes on meaning it."""
    changes: list[Change] = []
    for device in devices:
        if device.local_name is None:
            changes += [
                SaveDevice(replace(device, local_name=device.name)),
                SaveSetting(_alias(device.id), device.name),
            ]
    return changes


def called(state: State, device: Device) -> str:
    """By its gateway."""
    name: str | None = state.setting(_alias(device.id))
    return name or device.name


def is_alias(state: State, device_id: UUID) -> bool:
    """Its local name is nobody's configuration."""
    return state.setting(_alias(device_id)) is not None


def call_it(state: State, device_id: UUID, name: str | None) -> Sequence[Change]:
    """Its gateway is told a new name; None: the device is gone."""
    return [SaveSetting(_alias(device_id), name)] if is_alias(state, device_id) else ()


def _alias(device_id: UUID) -> str:
    return f"{ALIAS}{device_id}"


def check_name(what: str, name: str) -> None:
    """Raises RejectedError: a server would not store it, or nobody could type it."""
    if not 0 < len(name) <= MAX_NAME_CHARS or name.isspace():
        raise RejectedError(
            f"the {what}'s name has {len(name)} characters; 1 to {MAX_NAME_CHARS} are possible, not all blanks"
        )
    check_printable(f"the {what}'s name", name)


def check_printable(what: str, text: str) -> None:
    """Raises RejectedError: a control character in it, which no database of a server takes, or nobody can type."""
    at = next((at for at, char in enumerate(text) if char < " " or "\x7f" <= char <= "\x9f"), None)
    if at is not None:
        raise RejectedError(f"{what} has a control character at {at}; use printable ones")
