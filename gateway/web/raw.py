"""Requests that a person makes by hand, over the local API: one of them for each request, in its turn among the calls
of the bus, so that it never collides with polling.

    POST /buses/raw  {"bus", "unit", "pdu": hexadecimal digits, "who"?}

    POST /buses/trace {"bus", "after"}: what passed on the line behind that number, for who looks on: `{"rows": […]}`

The answer to the first is `{"pdu": digits, "took_ms"}`, or `{"error", "kind", "took_ms"}` when the unit (`silent`) or
the whole bus (`lost`) gave none. What may change something is logged with who asked, as they named themselves.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.domain.entity import Json
from gateway.errors import BusLost, RejectedError, TransientError
from gateway.ports import Clock, RawRequest

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

log = logging.getLogger(__name__)

WITHIN_MS: Final = 20_000
"""The deadline of a request: the command line waits a little longer."""

_MAX_BYTES: Final = 4096
_KEYS: Final = frozenset({"bus", "unit", "pdu", "who"})
_READ_ONLY: Final = frozenset({1, 2, 3, 4, 7, 11, 12, 17, 20, 24, 43})
"""Functions that only read. Source: Modbus Application Protocol V1.1b3 §6."""


class RawCalls(Protocol):
    """One bus, as far as it is needed here."""

    def submit(self, command: RawRequest, expires_ms: int | None = None) -> asyncio.Future[bytes]:
        """Done with the PDU that answers."""
        ...

    def trace(self, after: int) -> Sequence[Mapping[str, Json]]:
        """What passed on the line. Raises `RejectedError`, `TransientError`."""
        ...


class RawDesk:
    """The route. `bus` finds a bus by its name, or raises `RejectedError`."""

    def __init__(self, bus: Callable[[str], RawCalls], clock: Clock) -> None:
        self._bus, self._clock = bus, clock

    def routes(self) -> Iterable[Route]:
        """For the application of the local API."""
        from starlette.routing import Route

        return [
            Route("/buses/raw", self._post, methods=["POST"]),
            Route("/buses/trace", self._trace, methods=["POST"]),
        ]

    async def _post(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        try:
            return JSONResponse(await self._carry_out(_words(await _body(request))))
        except RejectedError as error:
            return JSONResponse({"error": str(error)}, 400)

    async def _trace(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        try:
            words = _object(await _body(request), frozenset({"bus", "after"}))
            after = words.get("after", 0)
            if not isinstance(words.get("bus"), str) or type(after) is not int:
                raise RejectedError("bus: a text; after: a number")
            return JSONResponse({"rows": list(self._bus(words["bus"]).trace(after))})
        except RejectedError as error:
            return JSONResponse({"error": str(error)}, 400)
        except TransientError as error:
            return JSONResponse({"error": str(error)}, 503)

    async def _carry_out(self, words: Mapping[str, Any]) -> dict[str, Any]:
        bus = self._bus(words["bus"])
        command = RawRequest(unit=words["unit"], pdu=bytes.fromhex(words["pdu"]))
        started_s = self._clock.monotonic_s()
        try:
            answer = await bus.submit(command, self._clock.now_ms() + WITHIN_MS)
            said: dict[str, Any] = {"pdu": answer.hex()}
        except TransientError as error:
            said = {"error": str(error), "kind": "lost" if isinstance(error, BusLost) else "silent"}
        if command.pdu[:1] and (command.pdu[0] not in _READ_ONLY or not command.unit):
            where = f"{words['bus']}: unit {command.unit}" if command.unit else words["bus"]
            what = f"{where}: request {command.pdu.hex()}"
            log.info("%s by hand of %s: %s", what, words["who"], said.get("pdu") or said.get("error") or "sent")
        said["took_ms"] = round((self._clock.monotonic_s() - started_s) * 1000)
        return said


async def _body(request: Request) -> bytes:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _MAX_BYTES:
            raise RejectedError(f"a request has at most {_MAX_BYTES} bytes")
    return data


def _object(data: bytes, known: frozenset[str]) -> dict[str, Any]:
    try:
        words = json.loads(data)
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, dict):
        raise RejectedError("a request is a JSON object")
    if unknown := sorted(words.keys() - known):
        raise RejectedError(f"unknown: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return words


def _words(data: bytes) -> Mapping[str, str]:
    words = _object(data, _KEYS)
    words.setdefault("who", "somebody")
    for name in ("bus", "unit", "pdu", "who"):
        if not isinstance(words.get(name), str):
            raise RejectedError(f"{name}: a text")
    try:
        bytes.fromhex(words["pdu"])
    except ValueError:
        raise RejectedError("pdu: hexadecimal digits, two for each byte") from None
    words["who"] = "".join(char for char in words["who"] if char.isprintable())[:64]
    return words
