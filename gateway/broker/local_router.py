"""What local publish/subscribe stands on: the router between connections, and a committer where nothing lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.broker.packets import Publish
from gateway.domain.changes import UnitOfWork
from gateway.ports import Receipt


class RouterSession(Protocol):
    """One connection's share in the router."""

    @property
    def is_congested(self) -> bool:
        """True while the router is behind: read no more from this device."""
        ...

    def publish(self, packet: Publish, origin: int) -> None:
        """To every session that has subscribed there; `origin` is the number of the connection that it comes from."""
        ...

    def subscribe(self, filters: list[str], answer: Callable[[list[int]], None]) -> None:
        """`answer` gets 0x80 for each filter that it does not take."""
        ...

    def unsubscribe(self, filters: list[str]) -> None:
        """Unknown filters are no error."""
        ...

    def close(self) -> None:
        """The device is gone."""
        ...


class Router(Protocol):
    """Publish/subscribe between sessions that end with their connection, whoever does it."""

    def attach(
        self, deliver: Callable[[Publish, int], None], relieved: Callable[[], None], gone: Callable[[], None]
    ) -> RouterSession:
        """A new member. `deliver` gets messages as their publisher sent them, and their origin. `relieved`:
        congestion is over. `gone`: the session ended from the other side.
        """
        ...


class Unkept:
    """A committer for a broker that stands alone: nothing lasts."""

    is_congested = False

    def submit(self, unit: UnitOfWork) -> Receipt:
        """Done on the next turn of the loop."""
        loop = asyncio.get_running_loop()
        receipt: Receipt = loop.create_future()
        loop.call_soon(_finish, receipt)
        return receipt

    async def wait_uncongested(self) -> None:
        """At once."""


def _finish(receipt: Receipt) -> None:
    if not receipt.done():
        receipt.set_result(None)
