"""One look at the cloud from outside, while no gateway runs: connect, hear the verdict, leave.

The same words and the same channel as the link's; no sync is asked for and nothing is sent. A cloud knows one
stream for each edge, so this may only be done while no gateway runs under the same key: it would be evicted.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Final

from gateway.cloud.link import GrpcLink
from gateway.config import CloudConfig
from gateway.domain.downlink import Downlink
from gateway.domain.entity import EdgeIdentity
from gateway.ports import Clock, StateReader
from gateway.supervise import Counters

_GOODBYE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The cloud knows us."""

    identity: EdgeIdentity
    max_message_bytes: int


async def visit(config: CloudConfig, state: StateReader, clock: Clock) -> Verdict:
    """Be accepted once, then leave.

    Raises:
        TransientError: No verdict; the text names the layer.
        RefusedError: Key, secret or edition; never with the secret in it.
    """
    visitor = _Visitor(config, _NoHandler(), state, clock, Counters())
    await visitor.serve()
    assert visitor.identity is not None  # otherwise `serve` has raised
    return Verdict(visitor.identity, visitor.max_message_bytes)


class _NoHandler:
    """Implements `DownlinkHandler` for a conversation that never gets so far."""

    async def handle(self, downlink: Downlink) -> None:
        """Nothing is asked for."""

    async def connected(self, identity: EdgeIdentity) -> bool:
        """Nothing is kept."""
        return False


class _Visitor(GrpcLink):
    """A link that has nothing to say after its introduction."""

    identity: EdgeIdentity | None = None

    async def _converse(self, call: Any, identity: EdgeIdentity) -> None:
        self.identity = identity
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await call.done_writing()
