"""Handing calls to devices: whose turn it is, how long an acknowledgement is waited for, how often it is tried.

Source: ThingsBoard's device API, server-side RPC (ack wait, retries, submit strategies).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from gateway.domain.entity import Json
from gateway.domain.rpc import RpcRequest, RpcState, RpcStrategy
from gateway.errors import TransientError
from gateway.ports import Clock

ACK_WAIT_S: Final = 10.0
"""A device that has not acknowledged a call within it may not have the call; the call's deadline may be earlier."""

RESPONSE_WAIT_S: Final = 30.0
"""Strategy `SEQUENTIAL_ON_RESPONSE_FROM_DEVICE`: without an answer the next call goes out after it."""

MAX_RETRIES: Final = 5
"""A persisted call that was not acknowledged is handed over again so many times, then it has failed. Its caller may
want fewer of them."""


class NotAcknowledgedError(TransientError):
    """The device is connected and has not said that it has the call."""


@dataclass(slots=True)
class Progress:
    """How far a call has come, kept with it: `order` grows with each call that is taken."""

    order: int = 0
    retries: int = 0
    was_sent: bool = False  # in an earlier life: its caller knows that it was taken


def order_of(call: tuple[UUID, UUID, str, int, Json]) -> int:
    """A call of the snapshot, in the order in which they were taken."""
    return int(call[4].get("order", 0))


def most_retries(wanted: int) -> int:
    """Of a call whose caller wants so many; 0: it has not said."""
    return min(wanted, MAX_RETRIES) if wanted > 0 else MAX_RETRIES


def progress_from(kept: Mapping[str, Json], state: str) -> Progress | None:
    """Of a call that was open at the last exit. None: it may have been executed and must not be executed again, or
    it was tried often enough.
    """
    progress = Progress(int(kept.get("order", 0)), int(kept.get("retries", 0)))
    if state == RpcState.QUEUED:
        return progress
    may_repeat = kept["is_persisted"] and "retries" in kept
    if not may_repeat or state not in (RpcState.SENT, RpcState.TIMEOUT):
        return None
    progress.was_sent = True
    if state == RpcState.SENT:
        progress.retries += 1
    return progress if progress.retries <= most_retries(int(kept.get("most_retries", 0))) else None


def state_when_sent(request: RpcRequest, *, confirms: bool) -> RpcState:
    """What is durable before the device gets a call; where nobody acknowledges, it counts as delivered: never again."""
    return RpcState.DELIVERED if request.is_persisted and not confirms else RpcState.SENT


class Turn:
    """A call's place in the line of its device."""

    __slots__ = ("_comes", "_line", "_lines", "device_id")

    def __init__(self, lines: Lines, device_id: UUID, line: dict[Turn, None]) -> None:
        self._lines, self._line, self.device_id = lines, line, device_id
        self._comes = asyncio.Event()

    async def wait(self) -> None:
        """Returns when the calls before this one have passed on their turn."""
        await self._comes.wait()

    @property
    def is_here(self) -> bool:
        """It may be handed over."""
        return self._comes.is_set()

    def come(self) -> None:
        """Its turn is now."""
        self._comes.set()

    def pass_on(self) -> None:
        """The next call of this device may go; safe to call twice, and before the turn has come."""
        if self in self._line:
            del self._line[self]
            self._lines.next(self.device_id)


class Lines:
    """One line a device; with `BURST` everybody's turn comes at once. Bounded by who enters (`rpc.MAX_OPEN`)."""

    def __init__(self, strategy: RpcStrategy) -> None:
        self.strategy = strategy
        self._lines: dict[UUID, dict[Turn, None]] = {}

    @property
    def is_sequential(self) -> bool:
        """One call of a device after the other."""
        return self.strategy is not RpcStrategy.BURST

    @property
    def waits_for_answers(self) -> bool:
        """The next call waits for the answer, not only for the acknowledgement."""
        return self.strategy is RpcStrategy.SEQUENTIAL_ON_RESPONSE_FROM_DEVICE

    def enter(self, device_id: UUID) -> Turn:
        """The last place in the line."""
        if not self.is_sequential:
            turn = Turn(self, device_id, {})
            turn.come()
            return turn
        line = self._lines.setdefault(device_id, {})
        turn = Turn(self, device_id, line)
        line[turn] = None
        self.next(device_id)
        return turn

    def next(self, device_id: UUID) -> None:
        """Tell the first one in the line."""
        first = next(iter(self._lines[device_id]), None)
        if first is None:
            del self._lines[device_id]
        else:
            first.come()


async def one_of(*futures: asyncio.Future[Any]) -> None:
    """Returns when one of them is done; all of them go on."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def one_within(clock: Clock, delay_s: float, *futures: asyncio.Future[Any]) -> bool:
    """False when none of them is done in time; all of them go on."""
    timer = asyncio.ensure_future(clock.sleep(delay_s))
    try:
        await one_of(*futures, timer)
    finally:
        timer.cancel()
    return any(future.done() for future in futures)
