"""What the cloud asks for, handed over and acknowledged: the half of the conversation that nothing else waits for.

Up to `_AT_ONCE` messages are applied at once, handed over in their order; they are acknowledged in their order, when
durable. One that can never be applied is acknowledged all the same, and listed for the status.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from gateway.cloud.session import DownlinkReceived, EdgeChanged
from gateway.domain.downlink import EntityUpdated, SyncCompleted
from gateway.errors import RejectedError
from gateway.ports import Clock, DownlinkHandler
from gateway.supervise import Counters, FewLines

log = logging.getLogger(__name__)

_INBOX: Final = 1000  # the cloud sends 50 and waits for their acknowledgement; then the reader waits
_AT_ONCE: Final = 50  # downlinks that are being applied: so many share a commit
_REFUSED: Final = 50  # downlinks that are listed in the status
_REASON_CHARS: Final = 500


class Applier:
    """One for all connections; what waits belongs to one of them, what was refused is remembered."""

    def __init__(
        self,
        handler: DownlinkHandler,
        clock: Clock,
        counters: Counters,
        acknowledge: Callable[[int], None],
        synced: Callable[[], None],
    ) -> None:
        """`acknowledge` gets the id of a message whose changes are on the disk, `synced` is called behind the last one
        of a sync.
        """
        self._handler, self._clock, self._counters = handler, clock, counters
        self._acknowledge, self._synced = acknowledge, synced
        self._refused: deque[dict[str, Any]] = deque(maxlen=_REFUSED)
        self._log = FewLines(log, clock)
        self.edge_name = ""
        self.begin()

    def begin(self) -> None:
        """Another connection: what waited is forgotten, the cloud sends it again."""
        self._inbox: asyncio.Queue[DownlinkReceived | EdgeChanged] = asyncio.Queue(_INBOX)

    async def put(self, event: DownlinkReceived | EdgeChanged) -> None:
        """Returns when there is room for it."""
        await self._inbox.put(event)

    def refused(self) -> dict[str, Any]:
        """How many could not be applied, and the last of them."""
        return {"count": self._counters.get("cloud.downlinks_rejected"), "last": list(self._refused)}

    async def serve(self) -> None:
        """Until cancelled. Acknowledgements stay in order, whoever is done first; a bug in one ends the connection."""
        applying: asyncio.Queue[tuple[DownlinkReceived, asyncio.Task[str]]] = asyncio.Queue(_AT_ONCE - 1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._acknowledge_all(applying), name="cloud.acknowledge")
            while True:
                event = await self._inbox.get()
                if isinstance(event, EdgeChanged):
                    await applying.join()
                    self.edge_name = event.identity.name
                    await self._handler.connected(event.identity)
                    continue
                task = tasks.create_task(self._applied(event), name="cloud.downlink")
                await applying.put((event, task))

    async def _applied(self, event: DownlinkReceived) -> str:
        """Why it could not be applied; empty when it is durable."""
        try:
            await self._handler.handle(event.downlink)
        except RejectedError as refusal:
            return f"{refusal}; {event.broken}" if event.broken else str(refusal)
        return event.broken

    async def _acknowledge_all(self, applying: asyncio.Queue[tuple[DownlinkReceived, asyncio.Task[str]]]) -> None:
        while True:
            event, task = await applying.get()
            error = await task
            self._counters.add("cloud.downlinks")
            if error:  # final: what may succeed later has no answer yet
                self._counters.add("cloud.downlinks_rejected")
                self._log.warning("a message from the cloud could not be applied: %s", error)
                self._refused.append(
                    {"at_ms": self._clock.now_ms(), "what": _contents(event), "reason": error[:_REASON_CHARS]}
                )
            self._acknowledge(event.downlink.id)
            if any(isinstance(command, SyncCompleted) for command in event.downlink.commands):
                self._synced()
            applying.task_done()


def _contents(event: DownlinkReceived) -> str:
    """What a message is about, for a person: kinds and ids, no values."""
    parts = [
        f"{command.type} {command.id or ''}".strip() if isinstance(command, EntityUpdated) else type(command).__name__
        for command in event.downlink.commands
    ]
    return ", ".join(parts[:5]) + (f" and {len(parts) - 5} more" if len(parts) > 5 else "")
