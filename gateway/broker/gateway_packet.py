"""One packet of a gateway, until everything that it says of its devices is durable; and how it is answered then."""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Final, NamedTuple

from gateway.errors import RejectedError
from gateway.ports import Receipt


class Trouble(IntEnum):
    """What went wrong with a packet, the worst last."""

    NOT_MADE = 1  #: a device could not be made
    QUOTA = 2  #: no more devices are allowed
    FAILED = 3  #: what was said could not be kept
    SHAPE = 4  #: nothing usable in it
    INVALID = 5  #: the data of one device cannot be read
    RATE = 6  #: a device, or all of the gateway, has sent too much


class Verdict(NamedTuple):
    """`ack`: reason of the acknowledgement, None for none at all. `ending`: end the connection with this."""

    ack: int | None
    ending: int | None = None


_GOOD: Final = Verdict(0)
# 5.0 hears what went wrong; 3.x has no place for it, so it is acknowledged, and closed where 5.0 is.
_VERDICTS: Final[dict[Trouble, Verdict]] = {
    Trouble.NOT_MADE: Verdict(0x80),
    Trouble.QUOTA: Verdict(0x97),
    Trouble.FAILED: Verdict(0x80, 0x80),
    Trouble.SHAPE: Verdict(0x83, 0x83),
    Trouble.INVALID: Verdict(0x99),
    Trouble.RATE: Verdict(0x97, 0x97),
}


class WaitingPacket:
    """Receipts of the devices in one packet. `failed`: name and error of those that will never be durable."""

    __slots__ = ("_at", "_done", "_parts", "_version", "failed", "worst")

    def __init__(self, version: int) -> None:
        self._version = version
        self._parts: list[tuple[str, Receipt, Trouble]] = []
        self._at = 0
        self._done: Receipt = asyncio.get_running_loop().create_future()
        self.failed: list[tuple[str, RejectedError]] = []
        self.worst: Trouble | None = None

    def add(self, name: str, receipt: Receipt, trouble: Trouble = Trouble.FAILED) -> None:
        """Wait for this one too; `trouble` is what it means when it fails."""
        self._parts.append((name, receipt, trouble))

    def trouble(self, trouble: Trouble) -> None:
        """Something that is wrong at once."""
        self.worst = trouble if self.worst is None else max(self.worst, trouble)

    def settled(self) -> Receipt:
        """Done when all parts are; fails only with what is a bug."""
        self._settle(None)
        return self._done

    def verdict(self, qos: int) -> Verdict:
        """How the packet is answered, when it is settled."""
        if self.worst is None:
            return _GOOD
        verdict = _VERDICTS[self.worst]
        if self.worst is Trouble.RATE and self._version < 5:
            return Verdict(None, verdict.ending)  # an acknowledgement would say that it was taken
        if self.worst is Trouble.INVALID:
            if self._version < 5:
                return Verdict(None, 0x99)
            return verdict if qos else Verdict(None, 0x99)
        return verdict if self._version == 5 else Verdict(0, verdict.ending)

    def _settle(self, _: Receipt | None) -> None:
        # Receipts are done in their order: only the first open one carries a callback, so that a commit that
        # finishes hundreds of them costs one call.
        parts = self._parts
        while self._at < len(parts):
            name, receipt, trouble = parts[self._at]
            if not receipt.done():
                receipt.add_done_callback(self._settle)
                return
            self._at += 1
            if receipt.cancelled():
                self._done.cancel()
                return
            error = receipt.exception()
            if isinstance(error, RejectedError):
                self.failed.append((name, error))
                self.trouble(trouble)
            elif error is not None:
                if not self._done.done():
                    self._done.set_exception(error)
                return
        if not self._done.done():
            self._done.set_result(None)
