"""Names of devices: which ones can be used, and which are on their way to the disk.

Devices are made by gateways, by provisioning, by mappings and by the cloud. Until one is durable nobody finds it in the
state: whoever wants the same name meanwhile gets that very device, or waits for it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.domain.entity import Device
from gateway.errors import RejectedError
from gateway.ports import Receipt

MAX_NAME_CHARS: Final = 255


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
