"""The HTTP API of the simulator: JSON in, JSON out, no login. For people at a desk, and for tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.cloudsim.options import CustomerKind, Flavour
from gateway.cloudsim.ota import OtaPackages
from gateway.domain.ota import PackageKind
from gateway.errors import RejectedError, TransientError

if TYPE_CHECKING:
    from gateway.cloudsim.server import CloudSim

T = TypeVar("T")


class HttpServer:
    """Serves the API until stopped."""

    def __init__(self, sim: CloudSim, host: str, port: int) -> None:
        config = uvicorn.Config(make_app(sim), lifespan="off", ws="none", log_level="warning", access_log=False)
        self._server = _QuietServer(config)
        self._place = (host, port)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Returns the port.

        Raises:
            TransientError: The port is taken.
        """
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(self._place)
        except OSError as error:
            listener.close()
            raise TransientError(f"{self._place[0]}:{self._place[1]}: {error.strerror}") from error
        listener.listen(128)
        listener.setblocking(False)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="cloud-sim http")
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Ends open requests."""
        self._server.should_exit = True
        self._server.force_exit = True
        if self._task is not None:
            await self._task


class _QuietServer(uvicorn.Server):
    """Signals belong to the process, not to this server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_app(sim: CloudSim) -> Starlette:
    """The routes."""
    api = _Api(sim)
    wrap = _answering
    return Starlette(
        routes=[
            Route("/api/state", wrap(api.state), methods=["GET"]),
            Route("/api/devices", wrap(api.devices), methods=["GET"]),
            Route("/api/devices", wrap(api.create_device), methods=["POST"]),
            Route("/api/devices/{name}", wrap(api.device), methods=["GET"]),
            Route("/api/devices/{name}", wrap(api.update_device), methods=["PATCH"]),
            Route("/api/devices/{name}", wrap(api.delete_device), methods=["DELETE"]),
            Route("/api/devices/{name}/telemetry", wrap(api.telemetry), methods=["GET"]),
            Route("/api/devices/{name}/attributes/{scope}", wrap(api.set_attributes), methods=["POST"]),
            Route("/api/devices/{name}/attributes/{scope}", wrap(api.delete_attributes), methods=["DELETE"]),
            Route("/api/devices/{name}/rpc", wrap(api.rpc), methods=["POST"]),
            Route("/api/devices/{name}/ota", wrap(api.assign_package), methods=["POST"]),
            Route("/api/profiles/{name}/ota", wrap(api.assign_package_to_profile), methods=["POST"]),
            Route("/api/ota", wrap(api.create_package), methods=["POST"]),
            Route("/api/ota/{id}", wrap(api.delete_package), methods=["DELETE"]),
            Route("/api/alarms", wrap(api.alarms), methods=["GET"]),
            Route("/api/rule-chains", wrap(api.rule_chain), methods=["POST"]),
            Route("/api/calculated-fields", wrap(api.calculated_field), methods=["POST"]),
            Route("/api/edge", wrap(api.edge), methods=["POST"]),
            Route("/api/end-session", wrap(api.end_session), methods=["POST"]),
            Route("/api/offline", wrap(api.offline), methods=["POST"]),
            Route("/api/cloud", wrap(api.cloud), methods=["POST"]),
            Route("/api/everything", wrap(api.everything), methods=["POST"]),
            Route("/api/takeover", wrap(api.takeover), methods=["POST"]),
            Route("/api/goaway", wrap(api.goaway), methods=["POST"]),
            Route("/api/reset-connections", wrap(api.reset_connections), methods=["POST"]),
            Route("/api/sync", wrap(api.sync), methods=["POST"]),
            Route("/api/faults", wrap(api.faults), methods=["GET", "POST"]),
            Route("/api/reset-counters", wrap(api.reset_counters), methods=["POST"]),
        ]
    )


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _answering(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except RejectedError as error:
            status = 404 if str(error).startswith("no device") else 400
            return _json({"error": str(error)}, status)

    return answer


class _Api:
    def __init__(self, sim: CloudSim) -> None:
        self._sim, self._packages = sim, OtaPackages(sim)

    async def state(self, request: Request) -> Response:
        return _json(self._sim.state() | {"listening": self._sim.is_listening})

    async def devices(self, request: Request) -> Response:
        return _json(self._sim.devices_state())

    async def create_device(self, request: Request) -> Response:
        body = await _body(request)
        name = _field(body, "name", str)
        profile = _field(body, "profile", str, "default")
        token = await self._sim.create_device(name, profile, _field(body, "token", str, "") or None)
        return _json(self._sim.device_state(name) | {"token": token}, 201)

    async def device(self, request: Request) -> Response:
        return _json(self._sim.device_state(request.path_params["name"]))

    async def update_device(self, request: Request) -> Response:
        name, body = request.path_params["name"], await _body(request)
        if token := _field(body, "token", str, ""):
            await self._sim.set_token(name, token)
        if new_name := _field(body, "name", str, ""):
            await self._sim.rename_device(name, new_name)
        if "assigned" in body:
            assign = self._sim.assign_device if _field(body, "assigned", bool) else self._sim.unassign_device
            await assign(new_name or name)
        return _json(self._sim.device_state(new_name or name))

    async def delete_device(self, request: Request) -> Response:
        await self._sim.delete_device(request.path_params["name"])
        return _json({})

    async def telemetry(self, request: Request) -> Response:
        device = self._sim.world.device_named(request.path_params["name"])
        key = request.query_params.get("key")
        if not key:
            raise RejectedError("?key= is missing")
        values = device.telemetry_values(key, int(_number(request, "limit", 100)))
        return _json([{"ts": ts, "value": value} for ts, value in values])

    async def set_attributes(self, request: Request) -> Response:
        name, scope = request.path_params["name"], request.path_params["scope"]
        is_stored = await self._sim.set_attributes(name, scope, await _body(request))
        return _json({"queued": is_stored})

    async def delete_attributes(self, request: Request) -> Response:
        keys = [key for key in request.query_params.get("keys", "").split(",") if key]
        if not keys:
            raise RejectedError("?keys=a,b is missing")
        name, scope = request.path_params["name"], request.path_params["scope"]
        return _json({"queued": await self._sim.delete_attributes(name, scope, keys)})

    async def rpc(self, request: Request) -> Response:
        body = await _body(request)
        timeout_ms = _field(body, "timeout_ms", int, 0) or _field(body, "timeout", int, 10_000)
        if timeout_ms <= 0:
            raise RejectedError("timeout_ms must be above 0")
        result = await self._sim.rpc(
            request.path_params["name"],
            _field(body, "method", str),
            body.get("params"),
            timeout_ms=timeout_ms,
            oneway=_field(body, "oneway", bool, False),
            persisted=_field(body, "persisted", bool, False),
        )
        status = result.short_status if request.query_params.get("form") == "short" else result.status
        if result.error is not None:
            return _json({"error": result.error}, status)
        if status != 200:
            return _json({"error": "the answer is not JSON"}, status)
        return Response(result.response or b"", status, media_type="application/json")

    async def create_package(self, request: Request) -> Response:
        body = await _body(request)
        url = _field(body, "url", str, "")
        id_ = self._packages.add(
            _field(body, "title", str),
            _field(body, "version", str),
            _package_kind(body),
            _field(body, "data", str, "") if url else _field(body, "data", str),
            algorithm=_field(body, "algorithm", str, "SHA256"),
            url=url,
        )
        return _json({"id": str(id_)}, 201)

    async def delete_package(self, request: Request) -> Response:
        await self._packages.delete(_uuid(request.path_params["id"]))
        return _json({})

    async def assign_package(self, request: Request) -> Response:
        body = await _body(request)
        await self._packages.assign(request.path_params["name"], _package_kind(body), _package_id(body))
        return _json(self._sim.device_state(request.path_params["name"]))

    async def assign_package_to_profile(self, request: Request) -> Response:
        body = await _body(request)
        await self._packages.assign_profile(request.path_params["name"], _package_kind(body), _package_id(body))
        return _json({})

    async def alarms(self, request: Request) -> Response:
        return _json([alarm.json for alarm in self._sim.world.of_type("ALARM")])

    async def rule_chain(self, request: Request) -> Response:
        is_root = request.query_params.get("root", "true").lower() in ("true", "1", "yes")
        return _json({"id": str(await self._sim.push_rule_chain(await _body(request), is_root=is_root))}, 201)

    async def calculated_field(self, request: Request) -> Response:
        return _json({"id": str(await self._sim.push_calculated_field(await _body(request)))}, 201)

    async def edge(self, request: Request) -> Response:
        body = await _body(request)
        wanted, identity = _field(body, "customer", str, ""), _field(body, "identity", str, "")
        name = _field(body, "name", str, "")
        if unknown := body.keys() - {"customer", "identity", "name"} or not body:
            raise RejectedError(f"give customer, identity or name, not {unknown if body else 'nothing'}")
        if wanted and wanted not in list(CustomerKind):
            raise RejectedError(f"customer must be one of {', '.join(CustomerKind)}")
        if identity not in ("", "new"):
            raise RejectedError("identity can only be 'new'")
        if identity:
            await self._sim.new_identity()
        if name:
            await self._sim.rename_edge(name)
        if wanted:
            await self._sim.set_customer(CustomerKind(wanted))
        return _json({"id": str(self._sim.world.edge_id), "tenant": str(self._sim.world.tenant_id)})

    async def cloud(self, request: Request) -> Response:
        body = await _body(request)
        if body.keys() - {"version", "flavour", "cloud_type"} or not body:
            raise RejectedError("give version, flavour or cloud_type")
        flavour = _field(body, "flavour", str, "") or None
        if flavour is not None and flavour not in list(Flavour):
            raise RejectedError(f"flavour must be one of {', '.join(Flavour)}")
        await self._sim.upgrade(
            version=_field(body, "version", str, "") or None,
            flavour=Flavour(flavour) if flavour else None,
            cloud_type=_field(body, "cloud_type", str) if "cloud_type" in body else None,
        )
        return _json(self._sim.state() | {"listening": self._sim.is_listening})

    async def everything(self, request: Request) -> Response:
        return _json({"queued": await self._sim.push_everything()})

    async def takeover(self, request: Request) -> Response:
        await self._sim.takeover()
        return _json({})

    async def goaway(self, request: Request) -> Response:
        grace_s = _number(request, "grace_s", 1)
        await self._sim.goaway(grace_s)
        return _json({"grace_s": grace_s})

    async def reset_connections(self, request: Request) -> Response:
        return _json({"reset": await self._sim.reset()})

    async def end_session(self, request: Request) -> Response:
        await self._sim.end_session()
        return _json({})

    async def offline(self, request: Request) -> Response:
        seconds = _number(request, "seconds", 10)
        await self._sim.offline(seconds)
        return _json({"seconds": seconds})

    async def sync(self, request: Request) -> Response:
        await self._sim.sync()
        return _json({})

    async def faults(self, request: Request) -> Response:
        if request.method == "POST":
            self._sim.faults.update(await _body(request))
        return _json(asdict(self._sim.faults.settings))

    async def reset_counters(self, request: Request) -> Response:
        self._sim.reset_counters()
        return _json({})


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.body() or b"{}")
    except orjson.JSONDecodeError as error:
        raise RejectedError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RejectedError("the body must be a JSON object")
    return body


def _field(body: dict[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    value = body.get(key, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RejectedError(f"{key!r} must be given as {kind.__name__}")
    return value


def _package_kind(body: dict[str, Any]) -> PackageKind:
    name = _field(body, "type", str, "FIRMWARE")
    if name not in PackageKind.__members__:
        raise RejectedError(f"type must be one of {', '.join(PackageKind.__members__)}")
    return PackageKind[name]


def _package_id(body: dict[str, Any]) -> UUID | None:
    if "package" not in body:
        raise RejectedError("'package' must be given: the id of one, or null")
    return None if body["package"] is None else _uuid(body["package"])


def _uuid(text: Any) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise RejectedError(f"{text!r} is no id of a package") from None


def _number(request: Request, key: str, default: float) -> float:
    text = request.query_params.get(key)
    try:
        value = default if text is None else float(text)
    except ValueError:
        raise RejectedError(f"{key} must be a number") from None
    if not 0 <= value < 1e9:
        raise RejectedError(f"{key} must be a number from 0 up")
    return value
