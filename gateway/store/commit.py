"""The committer: units of work in groups, one transaction, their receipts.

While one group is on its way to the disk, the next one collects. No timers: an idle gateway commits at once,
a busy one in groups of hundreds, and the price of an fsync is shared.

Calls have a lane of their own: what belongs to nothing but a call is written before the data of devices that wait,
in a group that is small and soon on the disk. A call on its way from the cloud to a machine needs two commits.
While calls come, groups of other data are short (`spell`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from gateway.domain.changes import (
    RULE_ITEM,
    AppendEvent,
    DropLocal,
    MoveCursor,
    SaveAttributes,
    SaveLocal,
    SaveRpc,
    SaveTelemetry,
    UnitOfWork,
)
from gateway.errors import RejectedError, TransientError
from gateway.ports import Clock, Receipt, Store
from gateway.store.full import BULK_ACTIONS, StoreFullError, must_wait
from gateway.store.spell import Spell
from gateway.supervise import STEADY_S, Backoff, Counters

log = logging.getLogger(__name__)

GROUP_UNITS: Final = 2_000
GROUP_BYTES: Final = 8 << 20
UNIT_BYTES: Final = 200  # what a unit weighs beside the bodies in it
_PATIENT: Final = (SaveTelemetry, SaveAttributes, MoveCursor)
CALL_GROUPS_IN_A_ROW: Final = 4  # then the data of devices have their turn, and what waits of calls goes along
_CALL_TURNS: Final = 6  # of the loop, from the receipt of a call to its next commit
_REASONS: Final = 20  # remembered in one outage
FIRST_RETRY_S, LONGEST_RETRY_S, LONGEST_FULL_RETRY_S = 0.1, 5.0, 1.0

_Item = tuple[UnitOfWork, Receipt, int]
"""With what the unit weighs while it waits, see `_size`."""


class GroupCommitter:
    """Port `Committer`. Receipts are done in the order of `submit`, with two exceptions. Units of calls alone (states
    of calls, events of the express lane) pass all others, and keep their order among themselves. While the store is
    full device data waits, and what is not device data (cursor moves, state, RPC) passes it. An empty unit is never
    done before what was submitted before it.
    """

    name = "committer"

    # With `gather_s` (for storage that wears out) data of devices waits that long for its group; whatever
    # somebody waits for ends the waiting, and takes everything along: calls have no lane of their own then.

    def __init__(
        self,
        store: Store,
        clock: Clock,
        counters: Counters,
        *,
        max_waiting: int = 20_000,
        max_waiting_bytes: int = 32 << 20,
        gather_s: float = 0.0,
    ) -> None:
        self._gather_s, self._is_urgent = gather_s, False
        self._store, self._clock, self._counters = store, clock, counters
        self._max_waiting, self._max_bytes = max_waiting, max_waiting_bytes
        self._bytes = 0  # of the bodies of events that have no receipt yet
        self._waiting: deque[_Item] = deque()
        self._calls: deque[_Item] = deque()
        self._call_groups = 0  # in a row
        self._spell = Spell()
        self._weight_bytes = 0  # of the group
        self._spent_s = 0.0  # in its commits
        self._held: deque[_Item] = deque()  # device data that a full store does not take, older than _waiting
        self._group: list[_Item] = []
        self._sleeper: asyncio.Future[None] | None = None
        self._uncongested: list[asyncio.Future[None]] = []
        self._is_congested = False
        self._since_s = self._taken_s = self._retry_s = 0.0
        self._outage = ""
        self._told: set[str] = set()  # reasons of this outage; it lasts until all has been well for `STEADY_S`
        self._telling: asyncio.Task[None] | None = None
        self._full_backoff = Backoff(FIRST_RETRY_S, LONGEST_FULL_RETRY_S)
        self.last_commit_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    # ── in ──

    def submit(self, unit: UnitOfWork) -> Receipt:
        """An empty unit is done when everything submitted before it is."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        receipt: Receipt = loop.create_future()
        waiting = self._waiting
        if not waiting:
            if not self._held and not self._group and not self._calls:
                self._since_s = self._clock.monotonic_s()
            if self._sleeper is not None:
                self._wake()
        if self._is_call(unit):
            waiting = self._calls
            if self._sleeper is not None:
                self._wake()
        size_bytes = _size(unit)
        waiting.append((unit, receipt, size_bytes))
        self._bytes += size_bytes
        if len(waiting) > self._max_waiting or self._bytes > self._max_bytes:
            self._is_congested = True
        if self._gather_s and not self._is_urgent and (self._is_congested or not _is_patient(unit)):
            self._is_urgent = True
            self._wake()
        return receipt

    @property
    def is_congested(self) -> bool:
        """True from `max_waiting` waiting units or `max_waiting_bytes` of events on, until it is half as much."""
        return self._is_congested

    async def wait_uncongested(self) -> None:
        """Returns when `is_congested` is False."""
        while self._is_congested:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._uncongested.append(waiter)
            try:
                await waiter
            finally:
                self._uncongested.remove(waiter)

    @property
    def problem(self) -> str | None:
        """Why nothing, or no data of devices, is written now; None while all is well."""
        return self._outage or None

    def oldest_waiting_s(self) -> float:
        """How long the oldest unit that has no receipt yet has waited, at most; 0 when there is none."""
        if self._waiting or self._held or self._group or self._calls:
            return self._clock.monotonic_s() - self._since_s
        return 0.0

    async def drain(self, timeout_s: float = 10.0) -> None:
        """Returns when everything submitted so far is durable; `serve` must be running.

        After `timeout_s` (the disk does not answer) it gives up: what has no receipt was never acknowledged.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.submit(())
        except TimeoutError:
            count = len(self._waiting) + len(self._held) + len(self._group) + len(self._calls)
            log.warning("committer: %d units not written at shutdown; none of them was acknowledged", count)

    def close(self) -> None:
        """Cancel every receipt that is still open; whoever awaits it goes on."""
        for _, receipt, _ in (*self._group, *self._calls, *self._held, *self._waiting):
            receipt.cancel()
        self._group.clear()
        self._held.clear()
        self._waiting.clear()
        self._calls.clear()
        self._bytes = 0
        self._relieve()

    # ── out ──

    async def serve(self) -> None:
        """Commit what waits, for ever. When it is cancelled, a group on its way stays first in line."""
        if self._group:
            self._back(self._group)
        try:
            await self._serve()
        finally:
            if self._telling is not None:
                self._telling.cancel()
                self._telling = None

    async def _serve(self) -> None:
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            if not self._waiting and not self._held and not self._calls:
                self._sleeper = asyncio.get_running_loop().create_future()
                try:
                    await self._sleeper
                finally:
                    self._sleeper = None
            if self._gather_s and not self._is_urgent and not self._held:
                await self._pause(self._gather_s)
            self._is_urgent = False
            try:
                await self._turn()
            except TransientError as error:
                self._begin(error)
                await self._clock.sleep(backoff.next_s())
            else:
                backoff.reset()

    async def _turn(self) -> None:
        """One group; or, while the store is full, what passes it, and now and then what does not."""
        if self._held:
            await self._turn_while_full()
            return
        is_of_calls = bool(self._calls) and self._call_groups < CALL_GROUPS_IN_A_ROW
        self._call_groups = self._call_groups + 1 if is_of_calls else 0
        self._take(*([self._calls] if is_of_calls else [self._calls, self._waiting]))
        weight_bytes, self._spent_s = self._weight_bytes, 0.0
        try:
            await self._write()
            if is_of_calls:
                self._spell.calls(self._clock.monotonic_s(), self._spent_s)
                await self._next_of_calls()
            else:
                self._spell.others(weight_bytes, self._spent_s)
        except StoreFullError as error:
            self._begin(error)
            self._full_backoff.reset()
            self._retry_s = self._clock.monotonic_s() + self._full_backoff.next_s()
            self._hold(error.is_hard)

    async def _next_of_calls(self) -> None:
        """A call that was QUEUED is SENT a few turns of the loop later: a large group must not come between."""
        for _ in range(_CALL_TURNS):
            if self._calls or not self._waiting:
                return
            await asyncio.sleep(0)

    async def _turn_while_full(self) -> None:
        self._call_groups = 0
        self._hold(is_hard=False)
        if self._waiting or self._calls:
            self._take(self._calls, self._waiting)
            try:
                await self._write()
            except StoreFullError as error:
                self._hold(error.is_hard)
        early_s = self._retry_s - self._clock.monotonic_s()
        if early_s > 0:
            if not self._waiting and not self._calls:
                await self._pause(early_s)
            return
        self._take(self._held)
        try:
            await self._write(self._held)
        except StoreFullError:
            self._retry_s = self._clock.monotonic_s() + self._full_backoff.next_s()

    def _hold(self, is_hard: bool) -> None:
        """Put aside what a full store does not take, and barriers, which wait for everything before them."""
        calls, self._calls = self._calls, deque()
        waiting, self._waiting = self._waiting, deque()
        for items, home in ((calls, self._calls), (waiting, self._waiting)):
            for item in items:
                unit = item[0]
                (self._held if not unit or must_wait(unit, is_hard) else home).append(item)

    async def _write(self, home: deque[_Item] | None = None) -> None:
        """Commit the group; halves it until a bad unit is alone. What is not written goes back `home`."""
        parts = deque([self._group])
        try:
            while parts:
                part = parts[0]
                try:
                    await self._commit(part)
                except RejectedError as error:
                    parts.popleft()
                    if len(part) == 1:
                        self._counters.add("committer.rejected")
                        self._bytes -= part[0][2]
                        _fail(part[0][1], error)
                    else:
                        middle = len(part) // 2
                        parts.extendleft((part[middle:], part[:middle]))
                else:
                    parts.popleft()
                    self._end()
                    for _, receipt, size_bytes in part:
                        self._bytes -= size_bytes
                        if not receipt.done():
                            receipt.set_result(None)
        except TransientError:
            self._back([item for part in parts for item in part], home)
            raise
        except asyncio.CancelledError:
            self._group = [item for part in parts for item in part]
            raise
        self._group = []
        if not self._held and not self._call_groups:
            self._since_s = self._taken_s  # what waits now came after this group was taken
        self._relieve()

    async def _commit(self, part: list[_Item]) -> None:
        units = [unit for unit, _, _ in part if unit]
        if not units:
            return
        started_s = self._clock.monotonic_s()
        await self._store.commit(units)
        self.last_commit_s = self._clock.monotonic_s() - started_s
        self._spent_s += self.last_commit_s
        self._counters.add("committer.units", len(units))
        self._counters.add("committer.groups")

    def _take(self, *sources: deque[_Item]) -> None:
        """Move a bounded group out of the sources; nothing out of one while there is something in those before it."""
        group: list[_Item] = []
        self._group = group
        self._taken_s = self._clock.monotonic_s()
        size_bytes, most_bytes = 0, self._spell.most_bytes(self._taken_s, GROUP_BYTES)
        for source in sources:
            while source and len(group) < GROUP_UNITS and (size_bytes < most_bytes or not group):
                item = source.popleft()
                group.append(item)
                size_bytes += item[2] + UNIT_BYTES
        self._weight_bytes = size_bytes

    def _back(self, items: list[_Item], home: deque[_Item] | None = None) -> None:
        for item in reversed(items):
            (home if home is not None else self._calls if self._is_call(item[0]) else self._waiting).appendleft(item)
        self._group = []

    def _is_call(self, unit: UnitOfWork) -> bool:
        """States of calls and events of the express lane alone: they belong to no order but their own."""
        if not unit or self._gather_s:
            return False
        for change in unit:
            kind = type(change)
            if kind is AppendEvent:
                if not change.event.lane:  # type: ignore[union-attr]
                    return False
            elif kind is not SaveRpc:
                return False
        return True

    async def _pause(self, delay_s: float) -> None:
        """Wait until the delay is over, or something was submitted."""
        self._sleeper = asyncio.get_running_loop().create_future()
        timer = asyncio.ensure_future(self._clock.sleep(delay_s))
        try:
            await asyncio.wait([timer, self._sleeper], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sleeper = None
            timer.cancel()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _relieve(self) -> None:
        is_short = len(self._waiting) + len(self._held) <= self._max_waiting // 2
        if self._is_congested and is_short and self._bytes <= self._max_bytes // 2:
            self._is_congested = False
            for waiter in self._uncongested:
                if not waiter.done():
                    waiter.set_result(None)

    def _begin(self, error: TransientError) -> None:
        if not self._outage:
            self._outage = str(error)
            self._counters.add("committer.outages")
            if self._telling is not None:
                self._telling.cancel()
                self._telling = None
            if self._outage not in self._told:
                if len(self._told) >= _REASONS:
                    self._told.clear()
                self._told.add(self._outage)
                log.warning("committer: %s; receipts wait", error)

    def _end(self) -> None:
        if self._outage and not self._held:
            self._outage = ""
            self._telling = asyncio.create_task(self._tell_when_steady(), name="committer.steady")

    async def _tell_when_steady(self) -> None:
        """An outage has two lines in the log, however often the store comes and goes."""
        await self._clock.sleep(STEADY_S)
        self._told.clear()
        self._telling = None
        log.info("committer: writing again")


def _is_patient(unit: UnitOfWork) -> bool:
    """Data of devices, and the place of the queue: nobody waits for it but the receipt itself."""
    for change in unit:
        kind = type(change)
        if kind is AppendEvent:
            if change.event.action not in BULK_ACTIONS or change.event.lane:  # type: ignore[union-attr]
                return False
        elif kind is SaveLocal or kind is DropLocal:
            if change.kind != RULE_ITEM:  # type: ignore[union-attr]
                return False
        elif kind not in _PATIENT:
            return False
    return bool(unit)


def _fail(receipt: Receipt, error: RejectedError) -> None:
    if not receipt.done():
        receipt.set_exception(error)


def _size(unit: UnitOfWork) -> int:
    """Bytes of the events and local messages in a unit: what a big payload weighs while it waits."""
    size = 0
    for change in unit:
        kind = type(change)
        if kind is AppendEvent:
            body = change.event.body  # type: ignore[union-attr]
            if body is not None:
                size += len(body)
        elif kind is SaveLocal:
            size += len(change.body)  # type: ignore[union-attr]
    return size
