"""Time, and the receipt of whatever becomes durable."""

from __future__ import annotations

import asyncio
from typing import Protocol

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
