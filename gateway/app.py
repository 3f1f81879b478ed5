"""The composition root: the only file that names every concrete class, in the order of the flow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import logging
import os
import signal
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

from gateway import __version__
from gateway.broker import MqttBroker, load_acl
from gateway.broker.mapping import Rules
from gateway.broker.mapping_rules import load_sets
from gateway.broker.profile_topics import check_profiles
from gateway.config import (
    BrokerConfig,
    CloudConfig,
    DeviceConfig,
    ExternalBrokerConfig,
    GatewayConfig,
    HttpConfig,
    PostgresStore,
)
from gateway.devices import (
    Commands,
    Found,
    Inlet,
    Ota,
    OtaFolder,
    Pipeline,
    Refreshing,
    RpcDesk,
    SettledSeries,
    State,
    Ticking,
    found_devices,
    read_manifest,
)
from gateway.devices.founding import basic_credentials, token_credentials
from gateway.devices.history import HistoryDesk
from gateway.devices.latest import Latest
from gateway.devices.parked import ParkedDesk
from gateway.devices.provision_keys import configured_keys
from gateway.devices.slices import Slices
from gateway.devices.state import REMOVED
from gateway.domain.cloud_event import Lane
from gateway.downlink import Dispatcher
from gateway.errors import ConfigError, TransientError
from gateway.fieldbus import Fieldbus, Servers
from gateway.fieldbus.house import Facts, House
from gateway.fieldbus.plugins import Plugins, parse_buses
from gateway.fieldbus.servers import parse_servers
from gateway.health import Forecast, Watchdog, written_bytes
from gateway.health.watchdog import notify
from gateway.ports import Clock, CloudEvents, CloudLink, Snapshot, Store
from gateway.rules import Recorder, RuleDesk, RuleEngine
from gateway.store import GroupCommitter, PackageFiles, open_store
from gateway.supervise import Backoff, Counters, SystemClock, supervise
from gateway.web import DeviceHttp, LocalApi
from gateway.web.orders import Orders
from gateway.web.raw import RawDesk
from gateway.web.rules import RuleRoutes

log = logging.getLogger(__name__)

MAINTENANCE_S = 60.0
STOP_S = 4.0  # longest wait of a stop for the last receipts; what has none was never acknowledged
STORE_ANSWER_S = 5.0  # `status` waits no longer for the store


class Gateway:
    """One running gateway. `ready` is set when devices may connect."""

    def __init__(self, config: GatewayConfig, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.counters = Counters()
        self.ready = asyncio.Event()
        self.started_ms = self.clock.now_ms()
        self.port = 0
        self.reload: Callable[[], None] = lambda: None

    async def run(self, stop: asyncio.Event) -> None:
        """Open the rooms in the order of the flow and serve until `stop`; they close in reverse.

        Raises:
            ConfigError: Something in the configuration cannot be used; nothing was started.
        """
        config, clock, counters = self.config, self.clock, self.counters
        async with AsyncExitStack() as rooms:
            opened = await self._open_store(rooms, stop)
            if opened is None:
                return
            store, snapshot = opened
            committer = GroupCommitter(store, clock, counters, gather_s=config.store.commit_every_s)
            state = State(snapshot)
            rules = RuleEngine(state, config.rules, clock, counters, SettledSeries(store, committer))
            rules.restore(snapshot.local)
            rules.load_files()
            _restore_chains(rules, snapshot)
            rules.settle()
            pipeline = Pipeline(rules, committer, state, counters)
            pipeline.on_settled = rules.settled
            rooms.push_async_callback(rules.close)
            rooms.push_async_callback(pipeline.close)
            recorder: Recorder | None = None
            if config.rules.record is not None:
                place = config.state_dir / "recordings"
                recorder = Recorder(config.rules.record, place, rules.process, state, clock, counters)
                pipeline.intake = recorder.process
            rpc = RpcDesk(pipeline, state, clock, counters, config.rpc.strategy)
            inlet = Inlet(state, pipeline, committer, rpc, clock, counters)
            inlet.sub_devices.max_devices = config.broker.max_devices
            inlet.provisioning.local = configured_keys(config.provisioning)
            inlet.provisioning.max_devices = config.broker.max_devices
            inlet.claims.is_allowed_by_default = config.provisioning.allow_claiming_by_default
            rates = config.rate_limits.rates()
            broker = MqttBroker(config.broker, inlet, clock, counters, committer, snapshot.local, rates)
            inlet.on_changed = broker.device_changed
            broker.keep_only(lambda device_id: state.device(device_id) is not None)
            mapping_sets = load_sets(config.mappings)
            if mapping_sets:
                broker.map_topics(Rules(mapping_sets), config.mappings)
            files = PackageFiles(config.state_dir / "ota", config.ota.max_bytes)
            rooms.push_async_callback(files.close)
            folder = OtaFolder(config.ota.folder, files) if config.ota.folder is not None else None
            ota = broker.packages = Ota(files, folder, state, pipeline, inlet, clock, counters)
            self.reload = broker.reload
            fieldbus = Fieldbus(config.buses, inlet, clock, counters, folder=config.folder)
            wanted = [_found(device) for device in config.devices]
            configured = {found.name for found in wanted}
            wanted += [
                Found(name=device.name, profile=device.profile, label=device.label)
                for device in fieldbus.devices()
                if device.name not in configured
            ]
            servers = Servers(config.servers, fieldbus, clock, counters)
            configured = {found.name for found in wanted}
            wanted += [
                Found(name=device.name, profile=device.profile, label=device.label)
                for device in servers.devices()
                if device.name not in configured
            ]
            if config.external_broker.host is not None:
                wanted += _standing_for(config.external_broker, {found.name for found in wanted})
            changes = found_devices(wanted, state, clock.now_ms())

            devices = Commands(state, pipeline, inlet, rpc, clock, store.events, store.latest)
            devices.as_written = ota.as_written
            devices.alarms = rules.alarms
            downlink = Dispatcher(devices, rules, pipeline.commit, state, clock, counters, ota, rules.alarms)
            status_parts: dict[str, Callable[[], Any]] = {"ota": ota.status}

            committing = asyncio.create_task(committer.serve(), name=committer.name)
            try:
                if changes:
                    await _first(pipeline.commit(changes), committing)
                async with asyncio.TaskGroup() as tasks:

                    def keep(name: str, serve: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
                        return tasks.create_task(supervise(name, serve, Backoff(1.0, 30.0), clock), name=name)

                    tasks.create_task(_watch(committing), name="committer watch")
                    mouths = [keep(rpc.name, rpc.serve)]  # what takes things in: stopped first
                    rpc.recover(snapshot)
                    ticking = Ticking(rules, pipeline, inlet, clock, counters)
                    mouths.append(keep(ticking.name, ticking.serve))
                    keep(ota.name, ota.serve)
                    keep(inlet.connectivity.name, inlet.connectivity.serve)
                    mouths.append(keep(broker.name, broker.serve))
                    await _first(asyncio.ensure_future(broker.ready.wait()), committing, timeout_s=2)
                    if config.http.port is not None or config.http.tls_port is not None:
                        cast = config.broker.json_type_cast
                        http = DeviceHttp(
                            config.http, inlet, clock, counters, json_type_cast=cast, packages=ota, rates=rates
                        )
                        mouths.append(keep(http.name, http.serve))
                        self.reload = _both(broker.reload, http.reload)
                        status_parts["http"] = http.status
                    mouths.append(keep(fieldbus.name, fieldbus.serve))
                    if config.external_broker.host is not None:
                        # Imported when needed: most houses have no other broker.
                        from gateway.broker.external import ExternalBroker

                        outside = config.external_broker
                        external = ExternalBroker(
                            outside, config.broker, config.mappings, mapping_sets, inlet, clock, counters, packages=ota
                        )
                        again = Backoff(outside.reconnect_s, outside.reconnect_max_s)
                        visiting = supervise(external.name, external.serve, again, clock, spells=external.spells)
                        mouths.append(tasks.create_task(visiting, name=external.name))
                        status_parts["external_broker"] = external.status
                    is_connected: Callable[[], bool] | None = None
                    if config.cloud.enabled:
                        # Imported when needed: a gateway without a cloud does not pay for gRPC.
                        from gateway.cloud.link import GrpcLink
                        from gateway.uplink.drain import Uplink
                        from gateway.uplink.statistics import Statistics

                        link = GrpcLink(config.cloud, downlink, state, clock, counters)
                        uplink = Uplink(config.cloud, store.events, link, committer, clock, counters, state)
                        reconnect = Backoff(config.cloud.reconnect_ms / 1000, config.cloud.reconnect_max_ms / 1000)
                        inlet.asking.link, inlet.asking.wait_s = link, config.cloud.attribute_wait_s
                        linking = supervise(link.name, link.serve, reconnect, clock, spells=link.spells)
                        tasks.create_task(linking, name=link.name)
                        keep(uplink.name, uplink.serve)
                        if config.cloud.refresh_attributes:
                            refreshing = Refreshing(link, inlet.questions, pipeline, state, clock, counters)
                            keep(refreshing.name, refreshing.serve)
                        statistics = Statistics(config.cloud, store.events, link, committer, state, clock, counters)
                        keep(statistics.name, statistics.serve)
                        status_parts |= {"cloud": link.status, "uplink": uplink.status}
                        is_connected = _readiness(link)
                    if servers.is_any:
                        facts = Facts(
                            store.events, clock, is_connected, state.device_count, lambda: len(inlet.sessions())
                        )
                        latest = Latest(state, store.latest)
                        if servers.keys():
                            pipeline.on_submit = latest.overhear
                        servers.connect(House(facts, fieldbus.bus_of, inlet, state, latest, clock), latest)
                        mouths.append(keep(servers.name, servers.serve))
                        status_parts["servers"] = servers.status
                    status_parts |= {
                        "buses": fieldbus.status,
                        "rules": lambda: {
                            "chains": rules.chains(),
                            "fields": rules.fields(),
                            "problems": rules.problems(),
                        },
                        "devices": lambda: _devices(state, inlet),
                        "removed_devices": lambda: sorted(state.setting(REMOVED) or ()),
                        "untaken_devices": downlink.sync.untaken,
                        "mqtt": broker.status,
                    }

                    async def status() -> dict[str, Any]:
                        answer = await self._status(store, committer, status_parts)
                        answer["queue"] |= parked_desk.tally(answer["queue"]["parked"])
                        return answer

                    slices = Slices(pipeline, committer)
                    parked_desk = ParkedDesk(store.events, state, slices, counters, lambda: devices.becomes_another)
                    history_desk = HistoryDesk(
                        store,
                        state,
                        slices,
                        clock,
                        counters,
                        config.store.history_days,
                        lambda: devices.becomes_another,
                    )

                    forecast = Forecast(store, clock)
                    keep(forecast.name, forecast.serve)
                    status_parts["forecast"] = forecast.status
                    status_parts["salvage"] = lambda: state.setting("store_salvage")

                    def totals() -> dict[str, int]:
                        return counters.all() | {"storage.written_bytes": written_bytes() or 0}

                    def gauges() -> dict[str, float]:
                        return forecast.gauges() | fieldbus.gauges()

                    api = LocalApi(config.socket_path, status, store.events, totals, gauges)

                    async def sync_status(with_diff: bool) -> dict[str, Any]:
                        queue = await queue_status(store.events, clock.now_ms())
                        return {**downlink.sync.view(with_diff=with_diff), "queue": queue}

                    api.sync = sync_status if config.cloud.enabled else None
                    api.ota = ota.overview
                    api.points = fieldbus.points
                    api.raw = RawDesk(fieldbus.bus, clock)
                    rule_desk = RuleDesk(rules, clock)
                    api.rules = RuleRoutes(rule_desk)
                    keep(rule_desk.name, rule_desk.serve)
                    if recorder is not None:
                        keep(recorder.name, recorder.serve)
                    api.orders = Orders(parked_desk, history_desk, clock)
                    api.claim = inlet.claims.claim
                    keep(api.name, api.serve)
                    keep("maintenance", lambda: self._maintain(store))
                    watchdog = Watchdog(clock, committer.oldest_waiting_s, lambda: _summary(status_parts))
                    keep(watchdog.name, watchdog.serve)

                    self.port = broker.port
                    # What lives from here on is small and short: the collector need not walk the rest again.
                    gc.collect()
                    gc.freeze()
                    gc.set_threshold(50_000, 20, 50)
                    self.ready.set()
                    if not config.broker.enabled:
                        log.info("edge-gateway %s is ready; broker.enabled is false", __version__)
                    elif broker.ready.is_set():
                        log.info("edge-gateway %s is ready: MQTT on port %d", __version__, broker.port)
                    else:
                        log.warning("edge-gateway %s is up, but no MQTT device can connect yet", __version__)
                    await stop.wait()
                    log.info("stopping")
                    for mouth in mouths:
                        mouth.cancel()
                    await asyncio.wait(mouths, timeout=STOP_S / 2)
                    await pipeline.close()
                    inlet.connectivity.stop()
                    await committer.drain(STOP_S / 2)
                    raise _Stop
            except* _Stop:
                pass
            finally:
                committing.cancel()
                await asyncio.wait([committing])

    async def _open_store(self, rooms: AsyncExitStack, stop: asyncio.Event) -> tuple[Store, Snapshot] | None:
        """The store and what it remembers. While its server is away: again and again, until `stop` (then None).

        Who may connect stands in the store, so nothing can be taken in before it is there.
        """
        backoff, said = Backoff(1.0, 30.0), ""
        while not stop.is_set():
            try:
                async with AsyncExitStack() as attempt:
                    store = await attempt.enter_async_context(
                        open_store(self.config.store, self.config.state_dir, self.clock, self.counters)
                    )
                    snapshot = await store.load()
                    for newest, _ in await store.events.find(None, 1):
                        snapshot.newest_ms = newest.created_ms
                    await rooms.enter_async_context(attempt.pop_all())
                    return store, snapshot
            except TransientError as error:
                problem = " ".join(str(error).split())
                if problem != said:
                    log.warning("store: %s; no device can connect before it answers; trying again", problem)
                    said = problem
                # systemd must not take the waiting for a start that hangs.
                notify(f"STATUS=waiting for the store: {problem}\nEXTEND_TIMEOUT_USEC=90000000", os.environ)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_s()):
                    await stop.wait()
        return None

    async def _maintain(self, store: Store) -> None:
        while True:
            await self.clock.sleep(MAINTENANCE_S)
            await store.maintain()

    async def _status(
        self, store: Store, committer: GroupCommitter, parts: dict[str, Callable[[], Any]]
    ) -> dict[str, Any]:
        now_ms = self.clock.now_ms()
        return {
            "version": __version__,
            "uptime_s": (now_ms - self.started_ms) // 1000,
            "queue": await queue_status(store.events, now_ms),
            "store": {
                "kind": self.config.store.kind,
                "commit_every_s": self.config.store.commit_every_s,
                "last_commit_ms": round(committer.last_commit_s * 1000, 3),
                "oldest_waiting_s": round(committer.oldest_waiting_s(), 3),
                "problem": committer.problem,
            },
            **{name: part() for name, part in parts.items()},
            "counters": self.counters.all(),
            "memory_bytes": _resident_bytes(),
        }


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


class _Stop(Exception):
    """Asked to stop."""


def check(config: GatewayConfig) -> list[str]:
    """Everything that can be known without starting: drivers, rule chains, credentials that clash.

    Returns:
        Remarks that are no errors (a rule node that will answer Failure).

    Raises:
        ConfigError: With the path in the file and what would be right.
    """
    state = State(Snapshot())
    counters, clock = Counters(), SystemClock()
    rules = RuleEngine(state, config.rules, clock, counters)
    rules.load_files()
    wanted = [_found(device) for device in config.devices]
    configured = {found.name for found in wanted}
    wanted += [
        Found(name=device.name, profile=device.profile)
        for entry in parse_buses(config.buses, Plugins(), config.folder)
        for device in entry.devices
        if device.name not in configured
    ]
    wanted += [
        Found(name=device.name, profile=device.profile)
        for server in parse_servers(config.servers, Plugins(), parse_buses(config.buses, Plugins(), config.folder))
        for device in server.devices
        if device.name not in {found.name for found in wanted}
    ]
    found_devices(wanted, state, 0)
    load_acl(config.broker)
    check_profiles(config.broker.profiles)
    Rules(load_sets(config.mappings))
    has_local = config.broker.enabled and config.broker.local_topics
    if config.mappings.sets and not has_local and config.external_broker.host is None:
        raise ConfigError("mappings.sets", "nothing can be heard: set broker.local_topics, or external_broker.host")
    _check_files(config.broker, config.http, config.cloud)
    if config.ota.folder is not None:
        read_manifest(config.ota.folder)
    configured_keys(config.provisioning)
    if isinstance(config.store, PostgresStore) and importlib.util.find_spec("psycopg") is None:
        raise ConfigError("store.kind", "postgres needs the extra: pip install 'edge-gateway[postgres]'")
    remarks = [str(problem) for problem in rules.problems()]
    if config.rules.root_chain is not None and config.rules.prefer_cloud and config.cloud.enabled:
        remarks.append(
            "rules.root_chain is used until the cloud sends its root chain, as ThingsBoard does to every edge:"
            " rules.prefer_cloud: false keeps it"
        )
    if config.cloud.enabled and not (
        config.cloud.routing_key.get_secret_value() and config.cloud.routing_secret.get_secret_value()
    ):
        remarks.append(
            "cloud: no routing_key and routing_secret: everything works locally and waits in the queue"
            " (set cloud.enabled: false if that is meant)"
        )
    return remarks


def _check_files(broker: BrokerConfig, http: HttpConfig, cloud: CloudConfig) -> None:
    """Certificates and keys: there, readable, PEM, and fitting together."""
    named = {f"broker.{key}": getattr(broker, key) for key in ("tls_cert", "tls_key", "tls_client_ca")}
    named |= {f"http.{key}": getattr(http, key) for key in ("tls_cert", "tls_key")}
    named |= {f"cloud.{key}": getattr(cloud, key) for key in ("ssl_cert", "ssl_client_cert", "ssl_client_key")}
    for where, path in named.items():
        if path is None:
            continue
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigError(where, f"{path} cannot be read: {error.strerror}") from None
        if b"-----BEGIN " not in text:
            raise ConfigError(where, f"{path} is not PEM: a text with a line '-----BEGIN …'")
    for where, cert, key in (
        ("broker.tls_cert", broker.tls_cert, broker.tls_key),
        ("http.tls_cert", http.tls_cert, http.tls_key),
        ("cloud.ssl_client_cert", cloud.ssl_client_cert, cloud.ssl_client_key),
    ):
        if cert is not None and key is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
            except (ssl.SSLError, OSError) as error:
                reason = getattr(error, "reason", None) or error
                raise ConfigError(where, f"{cert} and the key {key} cannot be used together: {reason}") from None


async def queue_status(events: CloudEvents, now_ms: int) -> dict[str, Any]:
    """The queue for `status`. While the store cannot be read: what is in memory, None for the rest, and why."""
    try:
        async with asyncio.timeout(STORE_ANSWER_S):
            depth = await events.depth()
    except (TransientError, TimeoutError) as error:
        pending = {lane: events.last(lane) - events.cursor(lane) for lane in Lane}
        return {
            "pending": pending[Lane.MAIN],
            "pending_express": pending[Lane.EXPRESS],
            "deployed": None,
            "parked": None,
            "lag_s": None,
            "problem": str(error) or f"no answer within {STORE_ANSWER_S:g} s",
        }
    return {
        "pending": depth.pending[Lane.MAIN],
        "pending_express": depth.pending[Lane.EXPRESS],
        "deployed": depth.deployed[Lane.MAIN] + depth.deployed[Lane.EXPRESS],
        "parked": depth.parked,
        "lag_s": round((now_ms - depth.oldest_ms) / 1000, 3) if depth.oldest_ms else 0.0,
        "problem": None,
    }


async def run_until_signal(config: GatewayConfig) -> None:
    """`edge-gateway run`: SIGTERM and SIGINT end it in order, SIGHUP reads the certificates again."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(config)
    # As a service: read the certificates again. In a terminal: it was closed.
    hung_up = stop.set if os.isatty(0) else lambda: gateway.reload()
    loop.add_signal_handler(signal.SIGHUP, hung_up)
    await gateway.run(stop)


def _readiness(link: CloudLink) -> Callable[[], bool]:
    return lambda: link.is_ready


def _restore_chains(rules: RuleEngine, snapshot: Snapshot) -> None:
    metadata = {key: json for type_, key, json in snapshot.entities if type_ == "RULE_CHAIN_METADATA"}
    root = snapshot.settings.get("root_chain")
    for type_, key, json in snapshot.entities:
        if type_ == "RULE_CHAIN":
            rules.put_chain(UUID(key), {**json, "root": key == root})
            if key in metadata:
                rules.put_metadata(UUID(key), metadata[key])


def _standing_for(external: ExternalBrokerConfig, known: set[str]) -> list[Found]:
    """The device that the external broker's gateway API and its devices are related to."""
    return [] if external.name in known else [Found(name=external.name, profile="default", is_gateway=True)]


def _found(device: DeviceConfig) -> Found:
    credentials = None
    if device.access_token is not None:
        credentials = token_credentials(device.access_token.get_secret_value())
    elif device.mqtt_basic is not None:
        basic = device.mqtt_basic
        password = basic.password.get_secret_value() if basic.password else None
        credentials = basic_credentials(basic.client_id, basic.user_name, password)
    return Found(
        name=device.name,
        profile=device.profile,
        label=device.label,
        is_gateway=device.gateway,
        credentials=credentials,
    )


async def _first(wanted: asyncio.Future[Any], committing: asyncio.Task[None], timeout_s: float | None = None) -> None:
    """Wait for `wanted`, unless the committer dies of a bug meanwhile; a timeout only ends the waiting."""
    await asyncio.wait([wanted, committing], return_when=asyncio.FIRST_COMPLETED, timeout=timeout_s)
    if committing.done():
        committing.result()
    if wanted.done():
        wanted.result()
    else:
        wanted.cancel()


async def _watch(committing: asyncio.Task[None]) -> None:
    """A bug in the committer ends the process."""
    await asyncio.wait([committing])
    committing.result()


def _devices(state: State, inlet: Inlet) -> list[dict[str, Any]]:
    sessions = inlet.sessions()
    return [
        {
            "name": device.local_name or device.name,
            "profile": device.type,
            "origin": device.origin,
            "is_online": device.id in sessions and sessions[device.id].is_heard,
            "is_active": inlet.connectivity.is_active(device.id),
            "readings": sessions[device.id].readings if device.id in sessions else 0,
            "last_activity_ms": (sessions[device.id].last_activity_ms or None) if device.id in sessions else None,
        }
        for device in state.devices()
    ]


def _summary(parts: dict[str, Callable[[], Any]]) -> str:
    cloud = parts["cloud"]()["state"] if "cloud" in parts else "off"
    return f"cloud {cloud}, {parts['mqtt']()['connections']} MQTT connections"


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
