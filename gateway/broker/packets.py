"""MQTT control packets as values, and what goes wrong on the wire.

Names are those of the OASIS specifications; one class serves 3.1, 3.1.1 and 5.0. Of the 5.0 properties
only those survive that this gateway acts on or passes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.errors import RejectedError


class ProtocolError(RejectedError):
    """The peer broke the protocol: the connection ends. `reason_code` is for a 5.0 DISCONNECT."""

    def __init__(self, problem: str, reason_code: int = 0x81) -> None:
        super().__init__(problem)
        self.reason_code = reason_code


class PacketTooLarge(ProtocolError):
    """The remaining length is over the limit; nothing of the packet has been kept."""


@dataclass(slots=True)
class Properties:
    """What a PUBLISH or a will of 5.0 says beside its payload. Also what is made of the message's life here.

    `passed` is what every subscriber gets unaltered, encoded (payload format, content type, response topic,
    correlation data, user properties in their order). `identifiers` are for a subscriber; a client sends none.
    """

    passed: bytes = b""
    expiry_s: int | None = None  # as it was received
    identifiers: tuple[int, ...] = ()
    until_ms: int | None = None  # set where the message is taken


@dataclass(slots=True)
class Publish:
    """`packet_id` is 0 with QoS 0. Not frozen: one for every message."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    is_retained: bool = False
    is_dup: bool = False
    more: Properties | None = None


@dataclass(slots=True, kw_only=True)
class Connect:
    """`version`: 3 (MQTT 3.1), 4 (3.1.1) or 5. Limits are those that a 5.0 client announced for itself."""

    version: int
    client_id: str = ""
    is_clean: bool = True
    keepalive_s: int = 0
    user_name: str | None = field(default=None, repr=False)
    password: bytes | None = field(default=None, repr=False)
    will: Publish | None = None
    will_delay_s: int = 0  # 5.0 only
    receive_maximum: int = 65_535
    max_packet_bytes: int | None = None
    session_expiry_s: int = 0  # 5.0 only


@dataclass(slots=True)
class Connack:
    """`code`: return code (3.x) or reason code (5.0). `properties`: the integers among those of 5.0."""

    is_session_present: bool
    code: int
    properties: dict[int, int] = field(default_factory=dict, compare=False)


@dataclass(slots=True)
class Ack:
    """PUBACK (4), PUBREC (5), PUBREL (6) or PUBCOMP (7)."""

    kind: int
    packet_id: int
    reason: int = 0


@dataclass(slots=True)
class Subscribe:
    """Filters with their options: QoS in the lowest two bits, above them what 5.0 adds. `identifier` 0: none."""

    packet_id: int
    filters: list[tuple[str, int]]
    identifier: int = 0


@dataclass(slots=True)
class Suback:
    """One code for each filter."""

    packet_id: int
    codes: list[int]


@dataclass(slots=True)
class Unsubscribe:
    """Filters in their order."""

    packet_id: int
    filters: list[str]


@dataclass(slots=True)
class Unsuback:
    """One code for each filter in 5.0, none before."""

    packet_id: int
    codes: list[int]


@dataclass(slots=True)
class Pingreq:
    """Alive."""


@dataclass(slots=True)
class Pingresp:
    """Alive, too."""


@dataclass(slots=True)
class Disconnect:
    """`reason` 0x04 (5.0): with the will. `session_expiry_s` None: as CONNECT said."""

    reason: int = 0
    session_expiry_s: int | None = None


@dataclass(slots=True)
class Auth:
    """Extended authentication (5.0), which this gateway does not do."""

    reason: int = 0


Packet = (
    Publish
    | Connect
    | Connack
    | Ack
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)

PUBACK, PUBREC, PUBREL, PUBCOMP = 4, 5, 6, 7
NO_LOCAL, AS_PUBLISHED = 0x04, 0x08
"""Subscription options of 5.0; bits 4 and 5 are the retain handling."""
