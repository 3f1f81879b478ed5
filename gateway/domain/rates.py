"""How much devices may send: limits in ThingsBoard's form, `count:seconds,count:seconds`, and who has used up how much.

Each pair is a bucket that holds `count` and fills evenly within `seconds`; all buckets of a limit must have room, else
nothing is taken of any. A message with data points (telemetry, attributes) counts as one telemetry message and its data
points; everything else as one message.

Source: ThingsBoard 4.3 device API: limits, what is counted, `getSessionLimits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final
from uuid import UUID

from gateway.domain.telemetry import TsKv
from gateway.errors import GatewayError

MAX_SENDERS: Final = 20_000
"""Whose buckets are kept; beyond, those that were used longest ago are full again."""
_MAX_NAME_CHARS: Final = 255

Rate = tuple[tuple[int, float], ...]
"""Count and seconds of each bucket; none: no limit."""


class RateLimitedError(GatewayError):
    """One message too many; the text names the limit. Who holds the message answers it as its protocol does."""


class Sender(StrEnum):
    """Whose messages a limit counts; the words of the configuration."""

    DEVICE = "device"  #: a device's own
    GATEWAY_OWN = "gateway_own"  #: those that a gateway sends of itself
    GATEWAY = "gateway"  #: of all devices behind one gateway, together
    SUB_DEVICE = "sub_device"  #: of one device behind a gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one kind of sender, as they are written; empty: none."""

    messages: str = ""
    telemetry_messages: str = ""
    telemetry_data_points: str = ""

    def is_empty(self) -> bool:
        """Nothing is limited."""
        return not (self.messages or self.telemetry_messages or self.telemetry_data_points)

    def told(self) -> dict[str, str | None]:
        """As `getSessionLimits` names them; None: unlimited."""
        return {
            "messages": self.messages or None,
            "telemetryMessages": self.telemetry_messages or None,
            "telemetryDataPoints": self.telemetry_data_points or None,
        }


def data_points(items: Iterable[TsKv]) -> int:
    """Values of all time stamps."""
    return sum(len(item.values) for item in items)


def parse_rate(text: str) -> Rate:
    """`10:1,300:60`: ten a second, and three hundred a minute. Blank: no limit.

    Raises:
        ValueError: The text says what would be right.
    """
    pairs: list[tuple[int, float]] = []
    for part in text.split(",") if text.strip() else ():
        count, _, seconds = (piece.strip() for piece in part.partition(":"))
        is_number = all(piece.isascii() and piece.isdigit() and len(piece) < 10 for piece in (count, seconds))
        if not is_number or not int(count) or not int(seconds):
            raise ValueError(f"{text!r} is no rate: count:seconds, as in 10:1,300:60; both whole numbers above 0")
        pairs.append((int(count), float(seconds)))
    return tuple(pairs)


class _Bucket:
    """Full at first."""

    __slots__ = ("_filled_s", "_left", "_per_s", "_size")

    def __init__(self, size: int, seconds: float, now_s: float) -> None:
        self._size, self._per_s = size, size / seconds
        self._left, self._filled_s = float(size), now_s

    def has(self, count: int, now_s: float) -> bool:
        """Is there so much in it now?"""
        if now_s > self._filled_s:
            self._left = min(self._size, self._left + (now_s - self._filled_s) * self._per_s)
            self._filled_s = now_s
        return self._left + 1e-9 >= count

    def take(self, count: int) -> None:
        """After `has`."""
        self._left -= count


class _Used:
    """The buckets of one sender."""

    __slots__ = ("messages", "points", "telemetry")

    def __init__(self, rates: tuple[Rate, Rate, Rate], now_s: float) -> None:
        made = [[_Bucket(count, seconds, now_s) for count, seconds in rate] for rate in rates]
        self.messages, self.telemetry, self.points = made


class Rates:
    """Of all senders, whatever way they come. One for the house, so that a new connection begins with what is left."""

    def __init__(self, limits: Mapping[Sender, Limits]) -> None:
        """Raises ValueError for a limit that is none."""
        self._limits = {sender: limits.get(sender, Limits()) for sender in Sender}
        self._rates: dict[Sender, tuple[Rate, Rate, Rate]] = {
            sender: (parse_rate(of.messages), parse_rate(of.telemetry_messages), parse_rate(of.telemetry_data_points))
            for sender, of in self._limits.items()
        }
        self._used: dict[tuple[Sender, UUID | str], _Used] = {}  # used longest ago stands first

    def is_off(self) -> bool:
        """Nobody is limited."""
        return all(of.is_empty() for of in self._limits.values())

    def told(self, sender: Sender) -> dict[str, str | None]:
        """What such a sender may, for `getSessionLimits`."""
        return self._limits[sender].told()

    def take(self, device_id: UUID, points: int, now_s: float, *, is_gateway: bool) -> None:
        """One message of a device's own with so many data points; 0: no telemetry, no attributes.

        Raises:
            RateLimitedError: Too many; nothing was counted.
        """
        self._take(((Sender.GATEWAY_OWN if is_gateway else Sender.DEVICE, device_id),), points, now_s)

    def take_behind(self, gateway_id: UUID, device: str, points: int, now_s: float) -> None:
        """The same for the device of this name behind a gateway."""
        self._take(((Sender.GATEWAY, gateway_id), (Sender.SUB_DEVICE, device[:_MAX_NAME_CHARS])), points, now_s)

    def _take(self, senders: Iterable[tuple[Sender, UUID | str]], points: int, now_s: float) -> None:
        wanted: list[tuple[_Bucket, int]] = []
        for key in senders:
            if self._limits[key[0]].is_empty():
                continue
            used = self._used.pop(key, None) or _Used(self._rates[key[0]], now_s)
            self._used[key] = used
            if len(self._used) > MAX_SENDERS:
                del self._used[next(iter(self._used))]
            if points:
                parts = (("telemetry_messages", used.telemetry, 1), ("telemetry_data_points", used.points, points))
            else:
                parts = (("messages", used.messages, 1), ("messages", [], 0))
            for name, buckets, count in parts:
                for bucket in buckets:
                    if not bucket.has(count, now_s):
                        text = getattr(self._limits[key[0]], name)
                        raise RateLimitedError(f"{count} more is over rate_limits.{key[0]}_{name} {text}")
                    wanted.append((bucket, count))
        for bucket, count in wanted:
            bucket.take(count)


LIMIT_NAMES: Final = tuple(one.name for one in fields(Limits))
