"""What an edge does wrong by the protocol, though this server takes it: every violation is noted, none is punished.

A real server is lenient where the price is paid later: data that are dropped with an answer of success, packs that
stall for a minute, values under the wrong type. Here each of them has a kind, a count and a few texts.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim.entities import JsonObject
from gateway.cloudsim.values import Report, check_halves
from gateway.cloudsim.world import World
from gateway.domain.entity import NULL_UUID

_TEXTS_OF_A_KIND: Final = 10
_REMEMBERED: Final = 4_096
_REMEMBERED_DOWNLINKS: Final = 20_000
_DELETED: Final = edge_pb2.ENTITY_DELETED_RPC_MESSAGE

DATA_TYPES: Final = frozenset(["DEVICE", "ASSET", "ENTITY_VIEW", "DASHBOARD", "TENANT", "CUSTOMER", "USER", "EDGE"])
"""What telemetry and attributes may be about; other known types are dropped with success."""

_TYPES: Final = {
    "deviceUpdateMsg": "DEVICE",
    "assetUpdateMsg": "ASSET",
    "entityViewUpdateMsg": "ENTITY_VIEW",
    "deviceProfileUpdateMsg": "DEVICE_PROFILE",
    "assetProfileUpdateMsg": "ASSET_PROFILE",
    "dashboardUpdateMsg": "DASHBOARD",
    "alarmUpdateMsg": "ALARM",
    "ruleChainUpdateMsg": "RULE_CHAIN",
    "userUpdateMsg": "USER",
}
_PAIRS: Final = (
    ("idMSB", "idLSB"),
    ("entityIdMSB", "entityIdLSB"),
    ("deviceIdMSB", "deviceIdLSB"),
    ("ruleChainIdMSB", "ruleChainIdLSB"),
    ("userIdMSB", "userIdLSB"),
)


class Violations:
    """All of them, counted by kind; the first few texts of each kind are kept, so the memory is bounded."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._texts: list[str] = []

    def add(self, kind: str, what: str) -> None:
        """Note one."""
        self._counts[kind] += 1
        if self._counts[kind] <= _TEXTS_OF_A_KIND:
            self._texts.append(f"{kind}: {what}")

    @property
    def texts(self) -> list[str]:
        """`kind: what`, in the order they came; at most ten of a kind."""
        return list(self._texts)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return dict(sorted(self._counts.items()))

    @property
    def total(self) -> int:
        """All of them."""
        return self._counts.total()

    def clear(self) -> None:
        """Begin anew."""
        self._counts.clear()
        self._texts.clear()


class StreamCheck:
    """What can only be judged over a whole stream: ids of messages in both directions."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._uplinks: OrderedDict[int, tuple[int, bool]] = OrderedDict()  # content, was it confirmed
        self._downlinks: OrderedDict[int, int] = OrderedDict()  # sent so often and not acknowledged
        self.is_in_sync = False
        """Between the edge's own request for a sync and the `SyncCompleted` that it was sent."""

    def uplink(self, msg: edge_pb2.UplinkMsg) -> None:
        """One came in."""
        id_, content = msg.uplinkMsgId, msg.SerializeToString()
        known = self._uplinks.get(id_)
        fingerprint = hash(content)
        if known is not None and known[0] != fingerprint:
            self._report("uplink_id_reused", f"uplinkMsgId {id_} came again with other content")
        if id_ < 0:
            self._report("uplink_id_reused", f"uplinkMsgId {id_} is negative")
        if self.is_in_sync:
            self._report("during_sync", f"UplinkMsg {id_} before SyncCompleted: {_fields(msg)}")
        self._uplinks[id_] = (fingerprint, False)
        if len(self._uplinks) > _REMEMBERED:
            self._uplinks.popitem(last=False)

    def confirmed(self, uplink_id: int) -> None:
        """It was answered with success."""
        known = self._uplinks.get(uplink_id)
        if known is not None:
            self._uplinks[uplink_id] = (known[0], True)

    def is_confirmed(self, uplink_id: int) -> bool:
        """Was it answered with success, on this stream?"""
        return self._uplinks.get(uplink_id, (0, False))[1]

    def sent(self, downlink_id: int) -> None:
        """One went out; a pack that is sent again allows one more acknowledgement of each."""
        self._downlinks[downlink_id] = self._downlinks.pop(downlink_id, 0) + 1
        if len(self._downlinks) > _REMEMBERED_DOWNLINKS:
            self._downlinks.popitem(last=False)

    def acked(self, downlink_id: int) -> None:
        """An acknowledgement came in."""
        waiting = self._downlinks.get(downlink_id)
        if waiting is None:
            self._report("ack_unknown", f"downlinkMsgId {downlink_id} was not sent on this stream")
        elif waiting == 0:
            self._report("ack_twice", f"downlinkMsgId {downlink_id}")
        else:
            self._downlinks[downlink_id] = waiting - 1


class PartCheck:
    """One part of an UplinkMsg other than `entityData`: its ids and the mandatory keys of its JSON."""

    def __init__(self, world: World, report: Report) -> None:
        self._world, self._report = world, report
        self.brand = "org.thingsboard."
        """What the rule node types of this server begin with."""

    def check(self, name: str, part: Any) -> None:
        """Before it is applied."""
        for high, low in _PAIRS:
            if hasattr(part, high):
                check_halves(self._report, name, getattr(part, high), getattr(part, low))
        text = getattr(part, "entity", "")
        if not text:
            return
        try:
            json = orjson.loads(text)
        except orjson.JSONDecodeError:
            json = None
        if not isinstance(json, dict):
            self._report("entity_json", f"{name}: not a JSON object")
            return
        if name in _TYPES:
            if getattr(part, "msgType", 0) != _DELETED or name == "alarmUpdateMsg":
                self._entity(name, part, json)
        elif name == "deviceCredentialsUpdateMsg":
            self._need_id(name, json, "deviceId", "DEVICE")
            if not _is_uuid(json.get("id")):
                self._report("entity_json", f"{name}: id is missing or not an id")
        elif name == "relationUpdateMsg":
            for end in ("from", "to"):
                self._need_id(name, json, end, None)
            if json.get("typeGroup") != "COMMON":
                self._report("entity_json", f"{name}: typeGroup {json.get('typeGroup')!r} is not exchanged")
        elif name == "ruleChainMetadataUpdateMsg":
            self._metadata(name, json)

    def _entity(self, name: str, part: Any, json: JsonObject) -> None:
        type_ = _TYPES[name]
        if self._need_id(name, json, "id", type_):
            held = UUID(json["id"]["id"]).int
            if (held >> 64) != part.idMSB & _MASK or (held & _MASK) != part.idLSB & _MASK:
                self._report("entity_json", f"{name}: the id in the JSON is not that of the message")
        created_ms = json.get("createdTime")
        if not isinstance(created_ms, int) or isinstance(created_ms, bool) or created_ms <= 0:
            self._report("entity_json", f"{name}: createdTime is missing")
        is_tenants = self._need_id(name, json, "tenantId", "TENANT")
        if is_tenants and UUID(json["tenantId"]["id"]) != self._world.tenant_id:
            self._report("entity_json", f"{name}: tenantId is not that of the edge's tenant")
        customer = json.get("customerId")
        if customer is not None and self._need_id(name, json, "customerId", "CUSTOMER"):
            id_ = UUID(customer["id"])
            if id_ != NULL_UUID and self._world.get("CUSTOMER", id_) is None:
                self._report("customer_unknown", f"{name}: {id_}")
            if id_ == NULL_UUID and self._has_customer(type_, json):
                self._report(
                    "customer_lost", f"{name}: {json.get('name')!r} has one; null keeps it, the empty id does not"
                )
        if type_ == "ALARM":
            self._need_id(name, json, "originator", None)
        if type_ in ("DEVICE_PROFILE", "ASSET_PROFILE"):
            self._echo(name, type_, json)

    def _has_customer(self, type_: str, json: JsonObject) -> bool:
        known = self._world.get(type_, UUID(json["id"]["id"])) if _is_uuid(json.get("id")) else None
        customer = known.json.get("customerId") if known is not None else None
        return customer is not None and customer["id"] != str(NULL_UUID)

    def _echo(self, name: str, type_: str, json: JsonObject) -> None:
        if not _is_uuid(json.get("id")):
            return
        known = self._world.get(type_, UUID(json["id"]["id"]))
        if known is None or known.is_of_edge:
            return
        keys = (known.json.keys() | json.keys()) - {"version"}
        if all(known.json.get(key) == json.get(key) for key in keys):
            self._report("profile_echo", f"{name}: {known.name!r} came back as the cloud had sent it")

    def _metadata(self, name: str, json: JsonObject) -> None:
        self._need_id(name, json, "ruleChainId", "RULE_CHAIN")
        for node in json.get("nodes") or ():
            type_ = str(node.get("type"))
            if type_.startswith(("org.thingsboard.", "org.winstarcloud.")) and not type_.startswith(self.brand):
                self._report("rule_node_brand", f"{name}: {type_}; types of this server begin with {self.brand}")

    def _need_id(self, name: str, json: JsonObject, key: str, type_: str | None) -> bool:
        value = json.get(key)
        if not _is_uuid(value) or not isinstance(value, dict):
            self._report("entity_json", f"{name}: {key} is missing or not an id")
            return False
        given = value.get("entityType")
        if not isinstance(given, str) or (type_ is not None and given != type_):
            self._report("entity_json", f"{name}: {key}.entityType is {given!r}, not {type_ or 'the name of a type'}")
        return True


_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


def _is_uuid(value: Any) -> bool:
    try:
        UUID(value["id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return True


def _fields(msg: edge_pb2.UplinkMsg) -> str:
    return ", ".join(field.name for field, _ in msg.ListFields() if field.name != "uplinkMsgId") or "nothing"
