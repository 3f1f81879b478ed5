"""What went wrong, cut by what happens next.

GatewayError
├── ConfigError      printed with path and remedy, exit 78; the unit does not restart on 78
├── TransientError   the same work again after backoff, by the owner of the wire; nothing is lost
│   ├── LinkLost         the cloud's stream ended; what was in flight is sent again
│   └── BusLost          a whole bus is out of reach; all its devices wait together
├── RejectedError    this item ends with an answer (Failure, NACK, counter); its neighbours go on
├── RefusedError     slow retry and a visible alarm: a person must act
└── FullError        what `when_full` says

Anything else is a bug: it passes through `supervise`, the process exits, systemd starts it afresh.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Root of all errors that the gateway raises on purpose."""


class ConfigError(GatewayError):
    """The configuration cannot be used. `where` is a path in the file, the text says what would be right."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where, self.problem = where, problem


class TransientError(GatewayError):
    """The world did not answer as it should; the same work again, later."""


class LinkLost(TransientError):
    """The stream to the cloud has ended; every message without an answer is to be sent again."""


class BusLost(TransientError):
    """Nobody on this bus can be reached (no connection); its devices wait together and are tried together.

    `again_s`: the longest wait that makes sense, for a line that costs nothing to try.
    """

    def __init__(self, text: str, *, again_s: float | None = None) -> None:
        super().__init__(text)
        self.again_s = again_s


class RejectedError(GatewayError):
    """One item is wrong and stays wrong; its neighbours go on."""


class RefusedError(GatewayError):
    """The other side does not want us (wrong key, wrong edition): a person must act."""


class FullError(GatewayError):
    """A bounded buffer is full."""
