"""The rules over the local API.

GET  /rules                                    chains with their nodes, counts and times, and problems
GET  /rules/chain?chain=                       one chain as an export; by id or name
GET  /rules/debug?chain=&node=&after=&limit=   debug events, oldest first; `after` is the last number seen
POST /rules/debug  {"chain", "node", "seconds"?}   record all of a node's events for so long
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import RejectedError
from gateway.ports import RuleView

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

MAX_EVENTS: Final = 1000
_MAX_BYTES: Final = 4096
_USUAL_S: Final = 60.0


class RuleRoutes:
    """For the application of the local API."""

    def __init__(self, view: RuleView) -> None:
        self._view = view

    def metrics(self) -> Iterable[str]:
        """See `RuleView`."""
        return self._view.metrics()

    def routes(self) -> Iterable[Route]:
        """The four."""
        from starlette.routing import Route

        async def overview(request: Request) -> Response:
            return _answered(self._view.overview)

        async def chain(request: Request) -> Response:
            return _answered(lambda: self._view.document(_named(request.query_params, "chain")))

        async def events(request: Request) -> Response:
            return _answered(lambda: self._events(request))

        async def debug(request: Request) -> Response:
            body = await request.body()
            return _answered(lambda: self._debug(body))

        return [
            Route("/rules", overview),
            Route("/rules/chain", chain),
            Route("/rules/debug", events, methods=["GET"]),
            Route("/rules/debug", debug, methods=["POST"]),
        ]

    def _events(self, request: Request) -> Any:
        query = request.query_params
        try:
            after, limit = int(query.get("after", "0")), int(query.get("limit", "100"))
        except ValueError:
            raise RejectedError("after and limit are numbers") from None
        limit = max(1, min(MAX_EVENTS, limit))
        return self._view.debug_events(query.get("chain") or None, query.get("node") or None, after, limit)

    def _debug(self, body: bytes) -> Any:
        try:
            words = json.loads(body[:_MAX_BYTES])
        except (ValueError, RecursionError):
            words = None
        if not isinstance(words, dict):
            raise RejectedError('a JSON object with "chain" and "node"')
        seconds = words.get("seconds", _USUAL_S)
        if type(seconds) not in (int, float):
            raise RejectedError("seconds: a number")
        return {"seconds": self._view.debug(_named(words, "chain"), _named(words, "node"), float(seconds))}


def _named(words: Any, name: str) -> str:
    value = words.get(name)
    if not isinstance(value, str) or not value:
        raise RejectedError(f"{name}: a text that is not empty")
    return value


def _answered(answer: Callable[[], Any]) -> Response:
    from starlette.responses import JSONResponse

    try:
        return JSONResponse(answer())
    except RejectedError as error:
        return JSONResponse({"error": str(error)}, 400)
