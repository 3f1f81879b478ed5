"""The cloud itself: its world, its queues, its one edge, and what a person can do with them. No sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim import entities
from gateway.cloudsim.apply import ReplyMaker, Uplink
from gateway.cloudsim.arrivals import Arrivals
from gateway.cloudsim.downlinks import Converter, edge_configuration
from gateway.cloudsim.entities import JsonObject
from gateway.cloudsim.events import EdgeEvent, EventQueue
from gateway.cloudsim.everything import every_field
from gateway.cloudsim.faults import Faults, FaultSettings
from gateway.cloudsim.options import CloudSimOptions, CustomerKind, Flavour
from gateway.cloudsim.rpc import RpcCalls, RpcRecord, RpcResult
from gateway.cloudsim.session import Session
from gateway.cloudsim.strict import Violations
from gateway.cloudsim.world import SCOPES, Entity, World
from gateway.domain.entity import Json, time_uuid
from gateway.domain.rpc import RpcError
from gateway.errors import ConfigError, RejectedError
from gateway.supervise import Counters

_COUNTED: Final = (
    "connects",
    "takeovers",
    "refused",
    "uplink_msgs",
    "uplink_failures",
    "uplink_unanswered",
    "dropped_unknown",
    "empty_telemetry",
    "attributes",
    "stale_attributes",
    "renamed",
    "quota_reached",
    "unassigned",
    "device_rpc_calls",
    "downlink_sent",
    "downlink_resent",
    "downlink_acked",
    "downlink_failed_acks",
    "downlink_dropped",
    "downlink_too_big",
    "syncs",
    "syncs_completed",
)


class Cloud:
    """One tenant, one edge. Methods that a person calls raise `RejectedError` with what would be right."""

    def __init__(self, options: CloudSimOptions) -> None:
        self.options = options
        self.counters = Counters()
        self._counted_before: dict[str, int] = {}
        self.faults = Faults(FaultSettings(rtt_ms=options.rtt_ms, shuffle_answers=options.shuffle_answers))
        try:
            self.faults.update(dict(options.faults))
        except RejectedError as error:
            raise ConfigError("faults", str(error)) from None
        self.violations = Violations()
        self.rpc_calls = RpcCalls(self.violations.add)
        self.arrivals = Arrivals(options.keep_values, self.violations.add)
        self.world = World(options, self.now_ms())
        self.events = EventQueue(options.release)
        self.converter = Converter(self.world, options.release, self.now_ms)
        self.session: Session | None = None
        self._was_connected = False
        self.uplink = Uplink(
            self.world,
            options.release,
            self.arrivals,
            self.faults,
            self.rpc_calls,
            self.counters,
            self._push_quietly,
            self._push_priority,
            self.now_ms,
            self.violations.add,
        )
        self._become(options)
        self.uplink.replies["getTime"] = lambda params: {"time": self.now_ms()}
        self.uplink.replies["echo"] = lambda params: params

    def _become(self, options: CloudSimOptions) -> None:
        self.options = options
        for part in (self.events, self.converter, self.uplink, self.uplink.provisioning):
            part.release = options.release
        self.converter.brand = self.uplink.parts.brand = options.flavour.brand
        chain_id = self.world.default_chain_id
        if chain_id in self.world.metadata:
            self.world.metadata[chain_id] = entities.root_chain_metadata(chain_id, options.release)

    async def upgrade(
        self, *, version: str | None = None, flavour: Flavour | None = None, cloud_type: str | None = None
    ) -> None:
        """Become another release, flavour or edition; the stream is cut as by a restart.

        Raises:
            RejectedError: There is no such release, or not of this flavour.
        """
        changes: dict[str, Any] = {"version": version, "flavour": flavour, "cloud_type": cloud_type}
        given = {name: value for name, value in changes.items() if value is not None}
        if flavour is Flavour.WINSTAR and version is None:
            given["version"] = "3.7"
        try:
            options = dataclasses.replace(self.options, **given)
        except ConfigError as error:
            raise RejectedError(str(error)) from None
        self._become(options)
        self._evict()

    async def new_identity(self) -> None:
        """The edge is deleted and made anew, of another tenant, under the same routing key: all ids change."""
        self._evict()
        self.events.clear()
        self.world.renew(self.options, self.now_ms())
        self._was_connected = False

    async def takeover(self) -> None:
        """As if another gateway had connected with the same key: it wins, and is gone at once.

        From 4.0 on the stream of this one is completed with OK; before, it stays open and mute.

        Raises:
            RejectedError: Nobody is connected.
        """
        if self.session is None:
            raise RejectedError("the edge is not connected")
        self.counters.add("takeovers")
        if self.options.release >= (4, 0):
            self._evict()
            return
        self.session.is_muted = True
        self.leave(self.session)

    def _evict(self) -> None:
        if self.session is not None:
            self.session.is_muted = True
            self.session.end()
            self.leave(self.session)

    def now_ms(self) -> int:
        """UTC epoch, milliseconds."""
        return time.time_ns() // 1_000_000

    # ── the edge ──

    @property
    def is_edge_active(self) -> bool:
        """Is there an accepted stream?"""
        return self.session is not None

    def join(self, session: Session) -> None:
        """A stream was accepted; an older one ends (before 4.0: is forgotten)."""
        older = self.session
        self.session = session
        if older is not None:
            self.counters.add("takeovers")
            older.is_muted = True
            if self.options.release >= (4, 0):
                older.end()
        self.counters.add("connects")
        self._was_connected = True
        self.converter.announced = session.announced
        self._state_changed(session.announced)

    def leave(self, session: Session) -> None:
        """A stream has ended; calls that waited for it are gone with it."""
        if self.session is session:
            self.session = None
            if self.options.release >= (3, 8):
                self.events.take_priority()
            self._state_changed(None)

    def _state_changed(self, announced: int | None) -> None:
        edge = self.world.get("EDGE", self.world.edge_id)
        assert edge is not None
        now_ms = self.now_ms()
        if announced is None:
            edge.write_attributes("SERVER_SCOPE", {"active": False, "lastDisconnectTime": now_ms}, now_ms)
            return
        known = edge_pb2.EdgeVersion.values()
        name = edge_pb2.EdgeVersion.Name(announced) if announced in known else "UNRECOGNIZED"
        state: dict[str, Any] = {"active": True, "lastConnectTime": now_ms, "edgeVersion": name}
        edge.write_attributes("SERVER_SCOPE", state, now_ms)

    def configuration(self) -> edge_pb2.EdgeConfiguration:
        """What the edge is told about itself."""
        return edge_configuration(
            self.world, self.options.routing_key, self.options.routing_secret, self.options.cloud_type
        )

    def push(self, event: EdgeEvent) -> bool:
        """Queue something for the edge, if the server's rules store it now."""
        if not self._is_assigned(event):
            return False
        is_stored = self.events.push(event, is_active=self.is_edge_active, was_connected=self._was_connected)
        if is_stored and self.session is not None:
            self.session.wake()
        return is_stored

    def _is_assigned(self, event: EdgeEvent) -> bool:
        if event.entity_id is None:
            return True
        entity = self.world.get(event.type, event.entity_id)
        return entity is None or entity.is_assigned

    def _push_quietly(self, event: EdgeEvent) -> None:
        self.push(event)

    def _push_priority(self, event: EdgeEvent) -> None:
        if self.options.release < (3, 8):
            self.push(event)
        elif not self._is_assigned(event):
            return
        elif self.session is not None:
            self.events.push_priority(event)
            self.session.wake()

    async def sync(self, *, is_full: bool = True) -> None:
        """As the button in the cloud's page does it: nothing announces it to the edge.

        Raises:
            RejectedError: Not connected, or a sync is running.
        """
        if self.session is None:
            raise RejectedError("the edge is not connected")
        if not self.session.start_sync(is_full=is_full):
            raise RejectedError("a sync is running already")

    async def end_session(self) -> None:
        """Complete the stream with OK, as when the edge is deleted or connects anew."""
        if self.session is not None:
            self.session.end()

    async def push_everything(self) -> int:
        """Queue one downlink for every field of `DownlinkMsg`; how many.

        Raises:
            RejectedError: Not connected (most would be lost), or something to send is missing.
        """
        if self.session is None:
            raise RejectedError("the edge is not connected")
        now_ms = self.now_ms()
        devices = self.world.of_type("DEVICE")
        if not devices:
            raise RejectedError("there is no DEVICE to send")
        number, call, _ = self.rpc_calls.open(
            devices[0].id, "everything", {}, expires_ms=now_ms + 10_000, oneway=False, persisted=False
        )
        self.rpc_calls.close(number)
        events = list(every_field(self.world, self.options, call.body, now_ms))
        for event in events:
            self.push(event)
        return len(events)

    async def rename_edge(self, name: str) -> None:
        """The EDGE entity is saved under another name; the edge is told."""
        if not name.strip():
            raise RejectedError("an edge needs a name")
        edge = self.world.get("EDGE", self.world.edge_id)
        assert edge is not None
        self.world.add("EDGE", edge.id, {**edge.json, "name": name})
        await self.push_edge_update()

    async def set_customer(self, kind: CustomerKind) -> None:
        """Assign the edge to a customer, or to none: the edge is told in both ways."""
        self.world.customer = kind
        body = {"configuration": self.configuration().SerializeToString().hex()}
        self.push(EdgeEvent("EDGE", "ASSIGNED_TO_CUSTOMER", self.world.edge_id, body))
        await self.push_edge_update()

    async def push_edge_update(self) -> None:
        """`edgeUpdateMsg`, sent whenever the EDGE entity is saved; it is not acknowledged."""
        if self.session is not None:
            update = edge_pb2.EdgeUpdateMsg(configuration=self.configuration())
            self.session.send_now(edge_pb2.ResponseMsg(edgeUpdateMsg=update))

    # ── devices ──

    async def create_device(self, name: str, profile: str = "default", token: str | None = None) -> str:
        """Make a device and assign it to the edge; returns its access token."""
        device = self.world.create_device(name, profile, token, self.now_ms())
        self.push(EdgeEvent("DEVICE", "ASSIGNED_TO_EDGE", device.id))
        return str(self.world.credentials[device.id]["credentialsId"])

    async def delete_device(self, name: str) -> None:
        """With all its data, here and on the edge."""
        device = self.world.device_named(name)
        self.world.remove("DEVICE", device.id)
        self.push(EdgeEvent("DEVICE", "DELETED", device.id))

    async def unassign_device(self, name: str) -> None:
        """The edge loses it, the cloud keeps it."""
        device = self.world.device_named(name)
        self.push(EdgeEvent("DEVICE", "UNASSIGNED_FROM_EDGE", device.id))
        device.is_assigned = False

    async def assign_device(self, name: str) -> None:
        """The edge gets it (again)."""
        device = self.world.device_named(name)
        device.is_assigned = True
        self.push(EdgeEvent("DEVICE", "ASSIGNED_TO_EDGE", device.id))

    async def rename_device(self, name: str, new_name: str) -> None:
        """The edge hears of it."""
        device = self.world.device_named(name)
        if not new_name.strip() or self.world.named("DEVICE", new_name) is not None:
            raise RejectedError(f"the name {new_name!r} is blank or taken")
        self.world.add("DEVICE", device.id, {**device.json, "name": new_name})
        self.push(EdgeEvent("DEVICE", "UPDATED", device.id))

    async def set_token(self, name: str, token: str) -> None:
        """New credentials for a device; the edge hears of it."""
        device = self.world.device_named(name)
        if not token or self.world.owner_of(token) not in (None, device.id):
            raise RejectedError("the token is empty or belongs to another device")
        held = self.world.credentials.get(device.id)
        id_ = UUID(held["id"]["id"]) if held else time_uuid()
        made = entities.credentials(id_, self.now_ms(), device.id, "ACCESS_TOKEN", token, None)
        self.world.set_credentials(device.id, made)
        self.push(EdgeEvent("DEVICE", "CREDENTIALS_UPDATED", device.id))

    async def set_attributes(self, name: str, scope: str, values: Mapping[str, Json]) -> bool:
        """Write attributes of a device; was the downlink stored (it is lost while the edge is away)?"""
        device = self._with_scope(name, scope)
        now_ms = self.now_ms()
        device.write_attributes(scope, {key: value for key, value in values.items() if value is not None}, now_ms)
        body = {"kv": dict(values), "scope": scope, "ts": now_ms}
        return self.push(EdgeEvent("DEVICE", "ATTRIBUTES_UPDATED", device.id, body, now_ms))

    async def delete_attributes(self, name: str, scope: str, keys: Sequence[str]) -> bool:
        """Delete attributes of a device; was the downlink stored?"""
        device = self._with_scope(name, scope)
        for key in keys:
            device.attributes[scope].pop(key, None)
        body = {"keys": list(keys), "scope": scope}
        return self.push(EdgeEvent("DEVICE", "ATTRIBUTES_DELETED", device.id, body, self.now_ms()))

    def _with_scope(self, name: str, scope: str) -> Entity:
        if scope not in SCOPES:
            raise RejectedError(f"{scope!r} is no scope; use one of {', '.join(SCOPES)}")
        return self.world.device_named(name)

    async def rpc(
        self,
        name: str,
        method: str,
        params: Json = None,
        *,
        timeout_ms: int = 10_000,
        oneway: bool = False,
        persisted: bool = False,
    ) -> RpcResult:
        """Call a device and wait for the edge's answer. Unlike the server, any timeout is allowed.

        Raises:
            RejectedError: There is no such device.
        """
        device = self.world.device_named(name)
        request_id, event, answer = self.rpc_calls.open(
            device.id, method, params, expires_ms=self.now_ms() + timeout_ms, oneway=oneway, persisted=persisted
        )
        stream = self._settled_session()
        try:
            self._push_priority(event)
            done, _ = await asyncio.wait([answer], timeout=timeout_ms / 1000)
            result = answer.result() if done else RpcResult(error=RpcError.TIMEOUT)
        finally:
            self.rpc_calls.close(request_id, was_reachable=stream is not None and stream is self._settled_session())
        self.rpc_calls.recent.append(RpcRecord(name, method, result.error or result.response or ""))
        return result

    def _settled_session(self) -> Session | None:
        return None if self.session is None or self.session.is_syncing else self.session

    def reply_to(self, method: str, reply: ReplyMaker) -> None:
        """From now on a rule answers this method when a device calls it: parameters in, response out."""
        self.uplink.replies[method] = reply

    async def push_rule_chain(self, export: Json, *, is_root: bool) -> UUID:
        """A chain in the form of ThingsBoard's export file (`ruleChain`, `metadata`), down to the edge. One with the id
        of a chain that is here is the next version of that.

        Raises:
            RejectedError: Not in that form.
        """
        if not isinstance(export, dict) or not isinstance(export.get("metadata"), dict):
            raise RejectedError("a rule chain export has the keys 'ruleChain' and 'metadata'")
        if not isinstance(export["metadata"].get("nodes"), list):
            raise RejectedError("metadata.nodes must be a list")
        given = export.get("ruleChain") or {}
        known = next((one for one in self.world.of_type("RULE_CHAIN") if one.json["id"] == given.get("id")), None)
        id_ = time_uuid() if known is None else known.id
        made = entities.rule_chain(id_, self.now_ms(), self.world.tenant_id, str(given.get("name") or "Rule chain"))
        self.world.add("RULE_CHAIN", id_, made)
        self.world.metadata[id_] = {**export["metadata"], "ruleChainId": entities.reference("RULE_CHAIN", id_)}
        if is_root:
            self.world.root_chain_id = id_
        self.push(EdgeEvent("RULE_CHAIN", "ADDED" if known is None else "UPDATED", id_))
        return id_

    async def push_calculated_field(self, given: JsonObject) -> UUID:
        """A calculated field down to the edge: `name`, `type`, `configuration`, and `device` or `profile` by name. One
        of the same name is the next version of that.

        Raises:
            RejectedError: A key is missing or unknown, or there is no such device or profile.
        """
        if given.keys() - {"device", "profile"} != {"name", "type", "configuration"} or len(given) != 4:
            raise RejectedError("a calculated field has name, type, configuration, and device or profile")
        if "device" in given:
            owner = self.world.device_named(str(given["device"]))
        else:
            owner = self.world.profile_named("DEVICE_PROFILE", str(given["profile"]), self.now_ms())
        known = self.world.named("CALCULATED_FIELD", str(given["name"]))
        id_ = time_uuid() if known is None else known.id
        keys = {key: given[key] for key in ("name", "type", "configuration")} | {"entityId": owner.json["id"]}
        json = entities.other("CALCULATED_FIELD", id_, self.now_ms(), self.world.tenant_id, **keys)
        self.world.add("CALCULATED_FIELD", id_, json)
        self.push(EdgeEvent("CALCULATED_FIELD", "ADDED" if known is None else "UPDATED", id_))
        return id_

    # ── looking ──

    def reset_counters(self) -> None:
        """Count from zero; sequences begin anew. What devices hold stays."""
        self._counted_before = self.counters.all()
        self.arrivals.forget_counts()
        self.rpc_calls.forget_counts()
        self.violations.clear()
        self.events.lost = 0
        for entity in self.world.all():
            entity.series.forget_counts()

    def count(self, name: str) -> int:
        """How often since the last reset."""
        return self.counters.get(name) - self._counted_before.get(name, 0)

    def state(self) -> JsonObject:
        """The edge and all counts."""
        series = [entity.series for entity in self.world.all()]
        edge = self.world.get("EDGE", self.world.edge_id)
        assert edge is not None
        state = {key: attribute.value for key, attribute in edge.attributes["SERVER_SCOPE"].items()}
        return {
            "version": self.options.version,
            "flavour": self.options.flavour,
            "cloud_type": self.options.cloud_type,
            "edge": {"id": str(edge.id), "name": edge.name, "active": self.is_edge_active, "attributes": state},
            "session": None if self.session is None else {"is_syncing": self.session.is_syncing},
            "devices": len(self.world.of_type("DEVICE")),
            "alarms": len(self.world.of_type("ALARM")),
            "events_received": self.arrivals.events,
            "points_received": self.arrivals.points,
            "duplicates": self.arrivals.duplicates,
            "out_of_order": self.arrivals.out_of_order,
            "missing": sum(one.sequence.missing for one in series if one.sequence is not None),
            "last_ts_ms": self.arrivals.last_ts_ms,
            "latency_ms": {"p50": self.arrivals.latency_ms(50), "p99": self.arrivals.latency_ms(99)},
            "rpc_answered": self.rpc_calls.answered,
            "rpc_stale": self.rpc_calls.stale,
            "rpc_oneway_unanswered": self.rpc_calls.oneway_unanswered,
            "queued_downlinks": len(self.events),
            "lost_downlinks": self.events.lost,
            "violations": self.violations.texts,
            "violation_counts": self.violations.counts,
            **{name: self.count(name) for name in _COUNTED},
        }

    def device_state(self, name: str) -> JsonObject:
        """One device, with the type of its credentials and not their content."""
        device = self.world.device_named(name)
        held = self.world.credentials.get(device.id)
        series = device.series
        sequence = series.sequence
        return {
            "id": str(device.id),
            "name": device.name,
            "type": device.json.get("type"),
            "label": device.json.get("label"),
            "credentials_type": held["credentialsType"] if held else None,
            "assigned": device.is_assigned,
            "last_activity_ms": device.last_activity_ms,
            "telemetry": {key: {"ts": ts, "value": value} for key, (ts, value) in series.latest.items()},
            "attributes": {
                scope: {key: attribute.value for key, attribute in held_.items()}
                for scope, held_ in device.attributes.items()
            },
            "events": series.events,
            "points": series.points,
            "duplicates": series.duplicates,
            "out_of_order": series.out_of_order,
            "seq_high": sequence.high if sequence else None,
            "seq_contiguous": sequence.contiguous if sequence else None,
            "missing": sequence.missing if sequence else 0,
            "missing_ranges": sequence.first_missing(20) if sequence else [],
        }

    def devices_state(self) -> list[JsonObject]:
        """All devices, short."""
        return [
            {
                "id": str(device.id),
                "name": device.name,
                "type": device.json.get("type"),
                "events": device.series.events,
                "points": device.series.points,
                "last_activity_ms": device.last_activity_ms,
            }
            for device in self.world.of_type("DEVICE")
        ]
