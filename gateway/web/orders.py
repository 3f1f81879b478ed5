"""What a person orders over the local API: parked events again or away, history again. One slice for each request.

    POST /events/parked  {"do": "resend" | "discard", "seq"?: [n…], "lane"?, "reason"?, "device"?, "all"?, "place"?}
    POST /history        {"device", "from", "to"?, "keys"?: [text…], "place"?}

The answer is `{"done", "stays", "place", "waits", "note"}`: see `gateway.domain.again.Slice`. Whoever asks goes on with
`place` until it is null, and a little later while `waits` says why.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from gateway.domain.again import MAX_SEQ_IDS, HistoryOrder, ParkedOrder, Slice, moment_ms
from gateway.domain.cloud_event import Lane
from gateway.errors import RejectedError, TransientError
from gateway.ports import Clock, HistoryOrders, ParkedOrders

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

_MAX_BYTES: Final = 256_000
_PARKED_KEYS: Final = frozenset({"do", "seq", "lane", "reason", "device", "all", "place"})
_HISTORY_KEYS: Final = frozenset({"device", "from", "to", "keys", "place"})


class Orders:
    """The routes, and the words of an order."""

    def __init__(self, parked: ParkedOrders, history: HistoryOrders, clock: Clock) -> None:
        self._parked, self._history, self._clock = parked, history, clock

    def routes(self) -> Iterable[Route]:
        """For the application of the local API."""
        from starlette.routing import Route

        async def parked(request: Request) -> Response:
            return await _answered(request, self._decide)

        async def history(request: Request) -> Response:
            return await _answered(request, self._send)

        return [Route("/events/parked", parked, methods=["POST"]), Route("/history", history, methods=["POST"])]

    async def _decide(self, words: Mapping[str, Any]) -> Slice:
        return await self._parked.decide(parked_order(words))

    async def _send(self, words: Mapping[str, Any]) -> Slice:
        return await self._history.send(history_order(words, self._clock.now_ms()))


def parked_order(words: Mapping[str, Any]) -> ParkedOrder:
    """From JSON.

    Raises:
        RejectedError: Says what is wrong, and what would be right.
    """
    _only(words, _PARKED_KEYS)
    if words.get("do") not in ("resend", "discard"):
        raise RejectedError("do: 'resend' or 'discard'")
    numbers, lane = words.get("seq"), words.get("lane")
    if numbers is not None and not (
        isinstance(numbers, list)
        and 0 < len(numbers) <= MAX_SEQ_IDS
        and all(type(one) is int and 0 < one < 1 << 63 for one in numbers)
    ):
        raise RejectedError(f"seq: a list of 1 to {MAX_SEQ_IDS} numbers")
    if lane is not None and str(lane).upper() not in Lane.__members__:
        raise RejectedError("lane: 'main' or 'express'")
    reason, device = _text(words, "reason"), _text(words, "device")
    if numbers is None and reason is None and device is None and words.get("all") is not True:
        raise RejectedError("say which: 'seq', 'reason', 'device', or 'all': true")
    return ParkedOrder(
        discards=words["do"] == "discard",
        seq_ids=None if numbers is None else frozenset(numbers),
        lane=None if lane is None else Lane[str(lane).upper()],
        reason=reason,
        device=device,
        place=_text(words, "place"),
    )


def history_order(words: Mapping[str, Any], now_ms: int) -> HistoryOrder:
    """From JSON; without `to` up to now.

    Raises:
        RejectedError: Says what is wrong, and what would be right.
    """
    _only(words, _HISTORY_KEYS)
    device, keys = _text(words, "device"), words.get("keys") or ()
    if device is None:
        raise RejectedError("device: its name")
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        raise RejectedError("keys: a list of texts")
    if words.get("from") is None:
        raise RejectedError("from: the first moment, ISO 8601 or milliseconds since 1970")
    first_ms = moment_ms(str(words["from"]), "from")
    to_ms = now_ms if words.get("to") is None else moment_ms(str(words["to"]), "to")
    return HistoryOrder(device=device, from_ms=first_ms, to_ms=to_ms, keys=tuple(keys), place=_text(words, "place"))


def _only(words: Mapping[str, Any], known: frozenset[str]) -> None:
    """An order that is misspelt must not mean more than was meant."""
    if unknown := sorted(words.keys() - known):
        raise RejectedError(f"unknown: {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _text(words: Mapping[str, Any], name: str) -> str | None:
    value = words.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise RejectedError(f"{name}: a text that is not empty")
    return value


async def _answered(request: Request, carry_out: Callable[[Mapping[str, Any]], Awaitable[Slice]]) -> Response:
    from starlette.responses import JSONResponse

    try:
        done = await carry_out(await _words(request))
    except RejectedError as error:
        return JSONResponse({"error": str(error)}, 400)
    except TransientError as error:
        return JSONResponse({"error": f"the store cannot be read: {error}"}, 503)
    return JSONResponse(dataclasses.asdict(done))


async def _words(request: Request) -> Mapping[str, Any]:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _MAX_BYTES:
            raise RejectedError(f"an order has at most {_MAX_BYTES} bytes")
    try:
        words = json.loads(data)
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, dict):
        raise RejectedError("an order is a JSON object")
    return words
