"""The local API behind `edge-gateway status` and `events`: JSON over HTTP on a unix socket.

The socket's mode (0660, in a directory of mode 0750) is the credential: the service's user and group.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.domain.cloud_event import EventStatus, StoredEvent
from gateway.domain.onboarding import ClaimStatus
from gateway.domain.payloads import parse_object
from gateway.errors import RejectedError, TransientError
from gateway.ports import CloudEvents

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.web.orders import Orders
    from gateway.web.raw import RawDesk
    from gateway.web.rules import RuleRoutes

MAX_ROWS = 10_000
MAX_BODY_BYTES = 65_536


class LocalApi:
    """GET /status, GET /events?status=&limit=&before=, GET /sync?diff=, GET /metrics, POST /claim,
    GET /points?bus=&device=&quality=&limit=.

    `sync` is what answers `/sync`; True: with everything that differs. `ota` answers `/ota`, `points` `/points`.
    """

    name = "api"
    orders: Orders | None = None
    raw: RawDesk | None = None
    rules: RuleRoutes | None = None
    claim: Callable[[str, str], Awaitable[ClaimStatus]] | None = None
    sync: Callable[[bool], Awaitable[dict[str, Any]]] | None = None
    ota: Callable[[], dict[str, Any]] | None = None
    points: Callable[[str | None, str | None, str | None, int], dict[str, Any]] | None = None

    def __init__(
        self,
        socket_path: Path,
        status: Callable[[], Awaitable[dict[str, Any]]],
        events: CloudEvents,
        counters: Callable[[], dict[str, int]],
        gauges: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._gauges = gauges
        self._path, self._status, self._events, self._counters = socket_path, status, events, counters

    async def serve(self) -> None:
        """Until cancelled. Imported late: an idle gateway has started before the web libraries are read."""
        import uvicorn
        from starlette.applications import Starlette
        from starlette.routing import Route

        app = Starlette(
            routes=[
                Route("/status", self._get_status),
                Route("/events", self._get_events),
                Route("/sync", self._get_sync),
                Route("/ota", self._get_ota),
                Route("/points", self._get_points),
                Route("/claim", self._post_claim, methods=["POST"]),
                Route("/metrics", self._get_metrics),
                *(self.orders.routes() if self.orders else ()),
                *(self.raw.routes() if self.raw else ()),
                *(self.rules.routes() if self.rules else ()),
            ]
        )

        class Server(uvicorn.Server):
            """Signals belong to the gateway."""

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        with self._listen() as listener:
            server = Server(uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, ws="none"))
            try:
                await server.serve(sockets=[listener])
            finally:
                self._path.unlink(missing_ok=True)
                # Cancelled, uvicorn leaves everything open; the number of our socket soon is somebody else's.
                for listening in getattr(server, "servers", ()):
                    listening.close()
                for connection in list(server.server_state.connections):
                    connection.shutdown()
                for answering in list(server.server_state.tasks):
                    answering.cancel()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            os.chmod(self._path, 0o660)
        except OSError as error:
            listener.close()
            raise TransientError(f"api: cannot listen on {self._path}: {error.strerror or error}") from error
        return listener

    async def _get_status(self, request: Request) -> Response:
        return _json(await self._status())

    async def _post_claim(self, request: Request) -> Response:
        """`{"device", "secretKey"}`; the answer is `{"status"}`. Nothing of it is logged."""
        body = await request.body()
        try:
            tree = parse_object(body[:MAX_BODY_BYTES], "a claim")
        except RejectedError as error:
            return _json({"error": str(error)}, 400)
        name, key = tree.get("device"), tree.get("secretKey", "")
        if self.claim is None or not isinstance(name, str) or not isinstance(key, str):
            return _json({"error": '"device" and "secretKey" must be texts'}, 400)
        try:
            return _json({"status": (await self.claim(name, key)).value})
        except RejectedError as error:
            return _json({"error": f"it could not be stored: {error}"}, 500)

    async def _get_events(self, request: Request) -> Response:
        query = request.query_params
        try:
            status = EventStatus(query["status"].upper()) if query.get("status") else None
            limit = max(1, min(MAX_ROWS, int(query.get("limit", "50"))))
            before = int(query["before"]) if query.get("before") else None
        except ValueError as error:
            names = ", ".join(EventStatus)
            return _json({"error": f"{error}; status is one of {names}, limit and before are numbers"}, 400)
        try:
            return _json(await self._rows(status, limit, before))
        except TransientError as error:
            return _json({"error": f"the store cannot be read: {error}"}, 503)

    async def _rows(self, status: EventStatus | None, limit: int, before: int | None) -> list[dict[str, Any]]:
        if status is EventStatus.PARKED:
            parked = await self._events.parked(limit)
            return [
                {
                    **_row(item.event, status),
                    "reason": item.reason,
                    "tries": item.tries,
                    "parkedTime": item.parked_ms,
                }
                for item in parked
            ]
        return [_row(event, state) for event, state in await self._events.find(status, limit, before)]

    async def _get_sync(self, request: Request) -> Response:
        if self.sync is None:
            return _json({"error": "this gateway has no cloud"}, 404)
        return _json(await self.sync(request.query_params.get("diff", "") not in ("", "0")))

    async def _get_ota(self, request: Request) -> Response:
        return _json({} if self.ota is None else self.ota())

    async def _get_points(self, request: Request) -> Response:
        """Points of the field buses: those of a bus, a device, a quality."""
        query = request.query_params
        quality = query.get("quality") or None
        try:
            limit = max(1, min(MAX_ROWS, int(query.get("limit", "1000"))))
        except ValueError as error:
            return _json({"error": f"{error}; limit is a number"}, 400)
        if quality not in (None, "good", "stale", "bad"):
            return _json({"error": f"quality {quality!r} does not exist; it is one of good, stale, bad"}, 400)
        if self.points is None:
            return _json({"points": [], "more": False})
        return _json(self.points(query.get("bus") or None, query.get("device") or None, quality, limit))

    async def _get_metrics(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        lines = [f"edge_gateway_{name.replace('.', '_')}_total {count}\n" for name, count in self._counters().items()]
        lines += [f"edge_gateway_{name.replace('.', '_')} {value}\n" for name, value in self._gauges().items()]
        lines += self.rules.metrics() if self.rules else ()
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")


def _row(event: StoredEvent, status: EventStatus) -> dict[str, Any]:
    body = event.body.decode("utf-8", "replace") if event.body is not None else None
    return {
        "seqId": event.seq_id,
        "lane": event.lane.name,
        "id": str(event.id),
        "createdTime": event.created_ms,
        "type": event.type,
        "action": event.action,
        "entityId": str(event.entity_id) if event.entity_id else None,
        "entityBody": body if body is None or len(body) <= 2000 else body[:2000] + "…",
        "status": status.value,
    }


def _json(content: Any, status_code: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status_code)
