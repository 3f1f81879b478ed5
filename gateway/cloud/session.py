"""The conversation with the cloud as a table. No socket, no clock, no protobuf.

What the cloud says has been translated to one of the events below; `Session.on` answers with the state
that follows. An event that is missing from its row is the peer's fault: the connection is given up and
made anew.

Source: ThingsBoard's edge session (connect, sync, then uplink); a stream completed with OK is a loss.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

from gateway.domain.downlink import Downlink
from gateway.domain.entity import EdgeIdentity
from gateway.errors import TransientError
from gateway.ports import UplinkAnswer


class State(StrEnum):
    """Where one connection stands."""

    CONNECTING = auto()  #: the connect request is on its way, no verdict yet
    SYNCING = auto()  #: accepted; the cloud is sending its configuration
    READY = auto()  #: uplink allowed
    CLOSED = auto()  #: this connection is over; a new one starts from the beginning


class Refusal(StrEnum):
    """Why the cloud did not accept us. The server's own text is never kept: it repeats the secret."""

    UNKNOWN_KEY = auto()
    WRONG_SECRET = auto()
    BAD_CREDENTIALS = auto()  #: one of the two
    UNAVAILABLE = auto()


@dataclass(frozen=True, slots=True)
class Accepted:
    """We are known. `max_message_bytes` is what the cloud takes in one message."""

    identity: EdgeIdentity
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """We are not wanted, or not now."""

    reason: Refusal


@dataclass(frozen=True, slots=True)
class EdgeChanged:
    """The EDGE entity changed in the cloud (name, customer, root chain). Not acknowledged."""

    identity: EdgeIdentity


@dataclass(frozen=True, slots=True)
class DownlinkReceived:
    """Something to apply and to acknowledge.

    `broken` names the parts that could not be read, empty when all could.
    """

    downlink: Downlink
    broken: str = ""


@dataclass(frozen=True, slots=True)
class SyncApplied:
    """A downlink with `SyncCompleted` has been applied and acknowledged."""


@dataclass(frozen=True, slots=True)
class UplinkAnswered:
    """The verdict on one of our messages; verdicts may overtake each other."""

    id: int
    answer: UplinkAnswer


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a kind that later servers may have; nothing to do."""


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """For whatever reason, an error or the cloud's own wish."""


LinkEvent = Accepted | Refused | EdgeChanged | DownlinkReceived | SyncApplied | UplinkAnswered | Unknown | StreamEnded

TRANSITIONS: Final[Mapping[State, Mapping[type[LinkEvent], State]]] = {
    State.CONNECTING: {
        Accepted: State.SYNCING,
        Refused: State.CLOSED,
        Unknown: State.CONNECTING,
        StreamEnded: State.CLOSED,
    },
    State.SYNCING: {
        EdgeChanged: State.SYNCING,
        DownlinkReceived: State.SYNCING,
        SyncApplied: State.READY,
        Unknown: State.SYNCING,
        StreamEnded: State.CLOSED,
    },
    State.READY: {
        EdgeChanged: State.READY,
        DownlinkReceived: State.READY,
        SyncApplied: State.READY,  # a sync started in the cloud's page; our uplink goes on meanwhile
        UplinkAnswered: State.READY,
        Unknown: State.READY,
        StreamEnded: State.CLOSED,
    },
    State.CLOSED: {StreamEnded: State.CLOSED},
}


class Session:
    """One connection, from the connect request to its end."""

    def __init__(self) -> None:
        self.state = State.CONNECTING

    def on(self, event: LinkEvent) -> State:
        """The state after `event`.

        Raises:
            TransientError: The cloud may not say this now; the session is CLOSED.
        """
        before = self.state
        after = TRANSITIONS[before].get(type(event))
        if after is None:
            self.state = State.CLOSED
            raise TransientError(f"the cloud sent {type(event).__name__} while {before.value}")
        self.state = after
        return after


def states_page() -> str:
    """`docs/cloud-states.md`: the table above as a Mermaid diagram, made by `python -m gateway.cloud.session`."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.CONNECTING.name}"]
    for before, row in TRANSITIONS.items():
        for after in State:
            names = [event.__name__ for event, target in row.items() if target is after]
            if names and before is not State.CLOSED:
                lines.append(f"    {before.name} --> {after.name}: {', '.join(names)}")
    lines.append(f"    {State.CLOSED.name} --> [*]")
    diagram = "\n".join(lines)
    return (
        "# The states of the cloud link\n\n"
        "Generated from the table in `gateway/cloud/session.py`:"
        " `python -m gateway.cloud.session > docs/cloud-states.md`.\n\n"
        f"```mermaid\n{diagram}\n```\n\n"
        "An event that has no arrow from the present state is the cloud's fault: the connection is given up and made\n"
        "anew. What each state means to a person stands in [cloud.md](cloud.md#what-the-states-mean).\n"
    )


if __name__ == "__main__":
    sys.stdout.write(states_page())
