"""ThingsBoard's HTTP device API: the device's token in the path, 200 when what it posted is on disk.

Every call is one line of `DeviceApi.routes`. Statuses and texts are those of ThingsBoard 4.3: 401 without a body for
an unknown token, 500 with the reason for what cannot be read, 408 for a long poll without news.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.config import HttpConfig
from gateway.domain.doorkeeper import Doorkeeper
from gateway.domain.entity import CredentialsType, Device
from gateway.domain.onboarding import ProvisionStatus, parse_claim, parse_provision, provision_json
from gateway.domain.ota import PackageKind
from gateway.domain.payloads import (
    PayloadError,
    attribute_response_json,
    parse_attributes,
    parse_client_rpc,
    parse_telemetry,
    rpc_answer_text,
)
from gateway.domain.rates import RateLimitedError, Rates, data_points
from gateway.domain.telemetry import TsKv
from gateway.errors import RejectedError
from gateway.ports import Clock, DeviceInlet, Packages, Receipt
from gateway.supervise import Counters
from gateway.web.bodies import Bodies, PeerLeft, TooLarge
from gateway.web.packages import BadRequest, download
from gateway.web.visits import Poll, Visit, Visits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Router

log = logging.getLogger(__name__)

DEFAULT_POLL_MS: Final = 60_000
MAX_POLL_MS: Final = 300_000
ATTRIBUTES_TIMEOUT_S: Final = 60.0
MAX_RPC_BYTES: Final = 65_536
MAX_POSTED_AT_ONCE: Final = 500
"""Time stamps of one body that go through the rules before others have their turn."""

QUIET_S: Final = 60.0
"""Bad bodies of a device are logged once in this time."""

FIRST_CALL_ID: Final = 0x4000_0000
"""A call over HTTP carries no number: ours begin where a device's own, over MQTT, do not come."""

_ID: Final = re.compile("-?[0-9]{1,10}")

Handler = Callable[["Visit", "Request"], Awaitable["Response"]]


class DeviceApi:
    """The calls of all devices. It knows credentials of type ACCESS_TOKEN only."""

    def __init__(
        self,
        config: HttpConfig,
        inlet: DeviceInlet,
        visits: Visits,
        doorkeeper: Doorkeeper,
        clock: Clock,
        counters: Counters,
        *,
        json_type_cast: bool,
        packages: Packages | None = None,
        rates: Rates | None = None,
    ) -> None:
        self._packages, self._rates = packages, rates
        self._config, self._inlet, self._visits, self._doorkeeper = config, inlet, visits, doorkeeper
        self._clock, self._counters, self._cast = clock, counters, json_type_cast
        self._bodies = Bodies()
        self._call_ids = itertools.count()

    def routes(self) -> Router:
        """The ASGI app."""
        from starlette.routing import Route, Router

        device = "/api/v1/{token}"
        return Router(
            [
                Route(f"{device}/telemetry", self._call(self._post_telemetry), methods=["POST"]),
                Route(f"{device}/attributes", self._call(self._post_attributes), methods=["POST"]),
                Route(f"{device}/attributes", self._call(self._get_attributes), methods=["GET"]),
                Route(f"{device}/attributes/updates", self._call(self._poll_attributes), methods=["GET"]),
                Route(f"{device}/rpc", self._call(self._poll_calls), methods=["GET"]),
                Route(f"{device}/rpc", self._call(self._call_server), methods=["POST"]),
                Route(f"{device}/rpc/{{id}}", self._call(self._answer_call), methods=["POST"]),
                Route(f"{device}/claim", self._call(self._claim), methods=["POST"]),
                Route(f"{device}/firmware", self._call(self._firmware), methods=["GET"]),
                Route(f"{device}/software", self._call(self._software), methods=["GET"]),
                Route("/api/v1/provision", self._provision, methods=["POST"]),
            ],
            redirect_slashes=False,
        )

    # ── every call ──

    def _call(self, handle: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Who it is, whether there is room, and what an error means."""

        async def endpoint(request: Request) -> Response:
            device = self._known(request)
            if device is None:
                # Closed, so that each guess costs a connection; those of a blocked address are dropped.
                return _answer(401, headers={"connection": "close"})
            try:
                visit = self._visits.of(device)
            except RejectedError:
                return _answer(401)
            if visit.open_requests >= self._config.max_requests_per_device:
                self._counters.add("http.requests_refused")
                limit = self._config.max_requests_per_device
                return _answer(429, f"{limit} requests of this device are open".encode(), headers={"retry-after": "1"})
            visit.open_requests += 1
            visit.session.touch()
            try:
                return await handle(visit, request)
            except PayloadError as error:
                self._counters.add("http.bad_payloads")
                self._complain(visit, request, str(error))
                return _answer(500, str(error).encode())
            except RateLimitedError as error:
                self._counters.add("http.rate_limited")
                self._complain(visit, request, str(error), "too much")
                # ThingsBoard's 500 for what is posted; what is asked for has its own status.
                return _answer(500 if request.method == "POST" else 429, str(error).encode(), {"retry-after": "1"})
            except RejectedError as error:
                self._counters.add("http.rejected")
                log.warning("device %r: a message over HTTP could not be stored: %s", device.name, error)
                return _answer(500, b"the message could not be stored")
            except TooLarge as error:
                self._counters.add("http.bodies_too_large")
                self._complain(visit, request, str(error))
                return _answer(413, str(error).encode())
            except PeerLeft:
                self._counters.add("http.requests_broken_off")
                return _answer(408)  # for nobody
            except _VisitEnded:
                is_known = self._inlet.find_credentials(request.path_params["token"]) is not None
                return _answer(503 if is_known else 401)
            except (_BadParameter, BadRequest) as error:
                return _answer(400, str(error).encode())
            except _Stopping:
                return _answer(503)
            finally:
                visit.open_requests -= 1

        return endpoint

    def _known(self, request: Request) -> Device | None:
        token: str = request.path_params["token"]
        found = self._inlet.find_credentials(token)
        if (
            found is not None
            and found[0].type == CredentialsType.ACCESS_TOKEN
            and hmac.compare_digest(found[0].credentials_id.encode(), token.encode("utf-8", "surrogateescape"))
        ):
            if request.client is not None:
                self._doorkeeper.accepted(request.client.host)
            return found[1]
        self._counters.add("http.wrong_tokens")
        self._wrong(request.client.host if request.client is not None else "", "tokens")
        return None

    def _wrong(self, address: str, what: str) -> None:
        if self._doorkeeper.refused(address, self._clock.monotonic_s()):
            log.warning(
                "%s is blocked for %g s: %d wrong %s over HTTP",
                address,
                self._config.block_s,
                self._config.wrong_token_limit,
                what,
            )

    def _take(self, visit: Visit, points: int = 0) -> None:
        """One message of the device, see `Rates.take`."""
        if self._rates is not None:
            device = visit.session.device
            self._rates.take(device.id, points, self._clock.monotonic_s(), is_gateway=device.is_gateway)

    def _complain(self, visit: Visit, request: Request, reason: str, what: str = "bad body") -> None:
        """Only the reason and the kind of call are logged: never the body, and never the path with its token."""
        now_s = self._clock.monotonic_s()
        if visit.complained_s is None or now_s - visit.complained_s >= QUIET_S:
            visit.complained_s = now_s
            call = request.scope["path"].split("/")[4]  # (`request.url` begins with what the device calls our host)
            log.warning(
                "device %r: %s of %s /%s: %s; further ones are only counted",
                visit.session.device.name,
                what,
                request.method,
                call,
                reason,
            )

    def _body(self, visit: Visit, request: Request, limit: int) -> Any:
        return self._bodies.read(request.receive, request.headers.get("content-length"), limit, visit.large_body)

    async def _room_on_disk(self, visit: Visit) -> None:
        """Overload is answered by waiting; the device may have been deleted meanwhile."""
        if self._inlet.is_congested:
            await self._inlet.wait_uncongested()
        if not visit.is_open:
            raise _VisitEnded

    # ── telemetry and attributes ──

    async def _post_telemetry(self, visit: Visit, request: Request) -> Response:
        await self._room_on_disk(visit)
        async with self._body(visit, request, self._config.max_body_bytes) as body:
            left_out: list[str] = []
            items = parse_telemetry(body, self._clock.now_ms(), cast=self._cast, left_out=left_out)
            if left_out:
                self._keys_left_out(visit, request, left_out)
            self._take(visit, data_points(items or ()))
            if items:
                await self._post(visit, items)
        return _answer(200)

    async def _post(self, visit: Visit, items: Sequence[TsKv]) -> None:
        """A long body in parts: others have their turn between them; done when all of it is durable."""
        receipts: list[Receipt] = []
        for start in range(0, len(items), MAX_POSTED_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            await self._room_on_disk(visit)
            receipts.append(visit.session.post_telemetry(items[start : start + MAX_POSTED_AT_ONCE]))
        await _all_durable(receipts)

    async def _post_attributes(self, visit: Visit, request: Request) -> Response:
        await self._room_on_disk(visit)
        async with self._body(visit, request, self._config.max_body_bytes) as body:
            left_out: list[str] = []
            values = parse_attributes(body, cast=self._cast, left_out=left_out)
            if left_out:
                self._keys_left_out(visit, request, left_out)
            self._take(visit, len(values))
            if values:
                await self._room_on_disk(visit)
                await _all_durable([visit.session.post_attributes(values)])
        return _answer(200)

    def _keys_left_out(self, visit: Visit, request: Request, reasons: Sequence[str]) -> None:
        self._counters.add("http.keys_left_out", len(reasons))
        self._complain(visit, request, reasons[0])

    async def _get_attributes(self, visit: Visit, request: Request) -> Response:
        client, shared = _keys(request, "clientKeys"), _keys(request, "sharedKeys")
        if client is None and shared is None:
            client = shared = []
        self._take(visit)
        try:
            async with asyncio.timeout(ATTRIBUTES_TIMEOUT_S):
                found = await visit.session.request_attributes(client, shared)
        except TimeoutError:
            return _answer(408)
        return _json(attribute_response_json(*found))

    # ── long polls ──

    async def _poll_attributes(self, visit: Visit, request: Request) -> Response:
        timeout_s = _poll_s(request)
        self._take(visit)
        return await self._poll(visit, request, visit.poll_attributes(), timeout_s)

    async def _poll_calls(self, visit: Visit, request: Request) -> Response:
        timeout_s = _poll_s(request)
        self._take(visit)
        return await self._poll(visit, request, visit.poll_calls(timeout_s), timeout_s)

    async def _poll(self, visit: Visit, request: Request, poll: Poll, timeout_s: float) -> Response:
        from starlette.background import BackgroundTask

        leaving = asyncio.ensure_future(_left(request))
        either: list[asyncio.Future[Any]] = [poll.answer, leaving]
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                visit.give_up(poll)
                poll.was_lost()
                if poll.answer.done():
                    self._counters.add("http.answers_lost")
                raise PeerLeft
        finally:
            leaving.cancel()
        if not poll.answer.done():
            visit.give_up(poll)
            return _answer(408)
        status, body = poll.answer.result()
        if status != 200:
            return _answer(status, body)
        return _json(body, background=BackgroundTask(_sent, poll))

    # ── RPC ──

    async def _answer_call(self, visit: Visit, request: Request) -> Response:
        text: str = request.path_params["id"]
        if _ID.fullmatch(text) is None or not -(2**31) <= int(text) < 2**31:
            raise _BadParameter("the call's id in the path must be a 32-bit integer")
        async with self._body(visit, request, MAX_RPC_BYTES) as body:
            await self._room_on_disk(visit)
            self._take(visit)
            await _all_durable([visit.session.answer_rpc(int(text), rpc_answer_text(body))])
        return _answer(200)

    async def _call_server(self, visit: Visit, request: Request) -> Response:
        async with self._body(visit, request, MAX_RPC_BYTES) as body:
            method, params = parse_client_rpc(body, needs_params=True)
        await self._room_on_disk(visit)
        self._take(visit)
        call_id = FIRST_CALL_ID + next(self._call_ids) % FIRST_CALL_ID
        answer = await visit.session.call_server(call_id, method, params)
        return _json(b'{"error":"timeout"}' if answer is None else answer.encode())

    # ── claiming and provisioning ──

    async def _claim(self, visit: Visit, request: Request) -> Response:
        async with self._body(visit, request, MAX_RPC_BYTES) as body:
            secret_key, duration_ms = parse_claim(body)
        await self._room_on_disk(visit)
        self._take(visit)
        await _all_durable([visit.session.claim(secret_key, duration_ms)])
        return _answer(200)

    async def _provision(self, request: Request) -> Response:
        """200 for every answer; 500 with an object that says what is wrong with the request itself."""
        address = request.client.host if request.client is not None else ""
        declared = request.headers.get("content-length")
        try:
            async with self._bodies.read(request.receive, declared, MAX_RPC_BYTES, asyncio.Lock()) as body:
                wanted = parse_provision(body)
        except TooLarge as error:
            return _answer(413, str(error).encode())
        except PeerLeft:
            return _answer(408)  # for nobody
        except PayloadError as error:
            self._counters.add("http.bad_payloads")
            now_ms = self._clock.now_ms()
            told = {"status": 500, "message": str(error), "errorCode": 2, "timestamp": now_ms}
            return _json(orjson.dumps(told), status=500)
        if self._inlet.is_congested:
            await self._inlet.wait_uncongested()
        answer = await self._inlet.provision(wanted)
        headers = None
        if answer.status is ProvisionStatus.NOT_FOUND:
            headers = {"connection": "close"}  # as with a wrong token: each guess costs a connection
            self._wrong(address, "provision secrets")
        elif answer.status is ProvisionStatus.SUCCESS:
            self._doorkeeper.accepted(address)
        return _json(provision_json(answer), headers=headers)

    # ── what is not served here ──

    async def _firmware(self, visit: Visit, request: Request) -> Response:
        return await download(self._packages, visit.session.device, PackageKind.FIRMWARE, request.query_params)

    async def _software(self, visit: Visit, request: Request) -> Response:
        return await download(self._packages, visit.session.device, PackageKind.SOFTWARE, request.query_params)


class _VisitEnded(Exception):
    """The device was deleted, or has other credentials now."""


class _Stopping(Exception):
    """The gateway ends before this is durable: not acknowledged, so the device sends it again."""


class _BadParameter(Exception):
    """Something in the path or the query; the text says what would be right."""


async def _all_durable(receipts: Sequence[Receipt]) -> None:
    await asyncio.wait(receipts)
    if any(receipt.cancelled() for receipt in receipts):
        raise _Stopping
    for error in [receipt.exception() for receipt in receipts]:
        if error is not None:
            raise error


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _sent(poll: Poll) -> None:
    poll.was_sent()


def _keys(request: Request, name: str) -> list[str] | None:
    text = request.query_params.get(name)
    return text.split(",") if text else None


def _poll_s(request: Request) -> float:
    text = request.query_params.get("timeout") or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _BadParameter("timeout must be a number of milliseconds")
    return min(int(text) or DEFAULT_POLL_MS, MAX_POLL_MS) / 1000


def _answer(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import Response

    return Response(body, status, headers, media_type="text/plain" if body else None)


def _json(body: bytes, background: Any = None, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import Response

    return Response(body, status, headers, media_type="application/json", background=background)
