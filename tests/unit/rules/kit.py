"""Chains in a few words, and a state that answers from dictionaries."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from gateway.config import RulesConfig
from gateway.domain.changes import AppendEvent, DropLocal, SaveLocal
from gateway.domain.entity import Device, DeviceProfile, EntityId
from gateway.domain.message import Message
from gateway.domain.telemetry import Attribute, attribute_bytes
from gateway.ports import Outcome
from gateway.rules import RuleEngine
from gateway.supervise import Counters
from tests.fakes.clock import FakeClock

DEVICE_ID = UUID("0a1b2c30-4d5e-11ef-8a9b-0c1d2e3f4a5b")
PROFILE_ID = UUID("6c7d8e90-4d5e-11ef-8a9b-0c1d2e3f4a5b")
CHAIN_ID = UUID("11111111-4d5e-11ef-8a9b-0c1d2e3f4a5b")
DEVICE = EntityId("DEVICE", DEVICE_ID)
P = "org.thingsboard.rule.engine."

PUSH = ("edge.TbMsgPushToCloudNode", "up", {})
SAVE = ("telemetry.TbMsgTimeseriesNode", "save", {"processingSettings": {"type": "ON_EVERY_MESSAGE"}})
SWITCH = ("filter.TbMsgTypeSwitchNode", "types", {})
PASS = ("transaction.TbSynchronizationBeginNode", "pass", {})


def js(name: str, body: str, kind: str = "filter.TbJsFilterNode") -> tuple[str, str, dict[str, Any]]:
    return (kind, name, {"scriptLang": "JS", "jsScript": body, "tbelScript": "leftover ("})


class Entities(dict[tuple[str, str], Any]):
    """By type and key; called with a type, those of it by key."""

    def __call__(self, type_: str) -> dict[str, Any]:
        return {key: json for (kind, key), json in self.items() if kind == type_}


class FakeState:
    """Implements `StateReader`."""

    def __init__(self) -> None:
        self.devices: dict[UUID, Device] = {}
        self.profiles: dict[UUID, DeviceProfile] = {}
        self.attributes: dict[tuple[EntityId, str, str], Attribute] = {}
        self.entities = Entities()
        self.add_device()

    def add_device(self, chain_id: UUID | None = None, profile_json: Any = None) -> None:
        self.devices[DEVICE_ID] = Device(
            id=DEVICE_ID, name="Press 1", type="press", label="Hall 2", profile_id=PROFILE_ID, created_ms=5
        )
        self.profiles[PROFILE_ID] = DeviceProfile(
            id=PROFILE_ID, name="Press", default_rule_chain_id=chain_id, json=profile_json
        )

    def device(self, device_id: UUID) -> Device | None:
        return self.devices.get(device_id)

    def profile(self, profile_id: UUID) -> DeviceProfile | None:
        return self.profiles.get(profile_id)

    def profile_named(self, name: str) -> DeviceProfile | None:
        return next((profile for profile in self.profiles.values() if profile.name == name), None)

    def device_named(self, name: str) -> Device | None:
        return next((device for device in self.devices.values() if device.name == name), None)

    def attribute(self, entity: EntityId, scope: str, key: str) -> Attribute | None:
        return self.attributes.get((entity, scope, key))

    def attributes_bytes(self) -> int:
        return sum(attribute_bytes(key, held.value) for (_, _, key), held in self.attributes.items())

    def open_alarm(self, originator: EntityId, alarm_type: str) -> tuple[str, Any] | None:
        for (kind, key), json in self.entities.items():
            is_his = kind == "ALARM" and json["originator"]["id"] == str(originator.id)
            if is_his and json["type"] == alarm_type and not json["cleared"]:
                return key, json
        return None

    def newest_attribute_ms(self, entity: EntityId, scope: str) -> int:
        return max((held.ts_ms for place, held in self.attributes.items() if place[:2] == (entity, scope)), default=0)

    def identity(self) -> None:
        return None

    def entity_json(self, type_: str, key: str) -> Any:
        return self.entities.get((type_, key))

    def entity_keys(self, type_: str) -> list[str]:
        return [key for kind, key in self.entities if kind == type_]

    def belongings(self, entity: EntityId) -> list[tuple[str, str]]:
        return []

    def setting(self, name: str) -> None:
        return None


def metadata(nodes: list[tuple[Any, ...]], *connections: tuple[int, int, str], first: int | None = 0) -> dict[str, Any]:
    """Nodes are (class, name, configuration[, version]); the version is the newest unless given."""
    return {
        "firstNodeIndex": first,
        "nodes": [
            {
                "type": kind if kind.startswith(("org.", "com.", "edge.gateway.")) else P + kind,
                "name": name,
                "configuration": config,
                "configurationVersion": version[0] if version else 9,
            }
            for kind, name, config, *version in nodes
        ],
        "connections": [{"fromIndex": a, "toIndex": b, "type": label} for a, b, label in connections],
        "ruleChainConnections": None,
    }


class Rules:
    """An engine whose root chain came from the cloud."""

    def __init__(self, nodes: list[tuple[Any, ...]] | None = None, *connections: tuple[int, int, str], **config: Any):
        self.state, self.clock, self.counters = FakeState(), FakeClock(), Counters()
        self.config = RulesConfig(**config)
        self.series: Any = None
        self.local: dict[tuple[str, str], bytes] = {}  # what is durable of what nodes keep
        self._sent: list[tuple[UUID, str, Any, bool]] = []
        self._start()
        if nodes is not None:
            self.put(CHAIN_ID, "Root", metadata(nodes, *connections), is_root=True)

    def _start(self) -> None:
        self.engine = RuleEngine(self.state, self.config, self.clock, self.counters, self.series)
        self.engine.restore([(*place, body) for place, body in self.local.items()])
        self.engine.load_files()

    def commit(self, outcome: Outcome) -> Outcome:
        """What it keeps becomes durable."""
        for change in outcome.changes:
            if isinstance(change, SaveLocal):
                self.local[change.kind, change.key] = change.body
            elif isinstance(change, DropLocal):
                self.local.pop((change.kind, change.key), None)
        return outcome

    def restart(self) -> None:
        """Another process with what was committed; the same chains are there again."""
        self._start()
        sent, self._sent = self._sent, []
        for chain in sent:
            self.put(*chain)
        self.engine.settle()

    async def wait(self, seconds: float) -> list[Outcome]:
        """Let time pass; what the timers caused, committed."""
        end_s, outcomes = self.clock.monotonic_s() + seconds, []
        while self.engine.due_s <= end_s:
            await self.clock.advance(max(0.0, self.engine.due_s - self.clock.monotonic_s()))
            while (outcome := self.engine.fire()) is not None:
                outcomes.append(self.commit(outcome))
        await self.clock.advance(end_s - self.clock.monotonic_s())
        return outcomes

    def put(self, chain_id: UUID, name: str, content: Any, is_root: bool = False) -> None:
        self._sent.append((chain_id, name, content, is_root))
        self.engine.put_chain(chain_id, {"name": name, "root": is_root})
        self.engine.put_metadata(chain_id, content)

    def run(self, data: Any = None, type_: str = "POST_TELEMETRY_REQUEST", **more: Any) -> Outcome:
        return self.commit(self.engine.process(message(data, type_, **more)))

    def passed(self, name: str) -> int:
        """How many messages a node has had."""
        return sum(n["messages"] for chain in self.engine.chains() for n in chain["nodes"] if n["name"] == name)

    def texts(self) -> list[str]:
        return [problem.text for problem in self.engine.problems()]


def message(
    data: Any = None,
    type_: str = "POST_TELEMETRY_REQUEST",
    metadata: dict[str, str] | None = None,
    originator: EntityId = DEVICE,
) -> Message:
    return Message(
        type=type_,
        originator=originator,
        data={"temperature": 21.5} if data is None else data,
        metadata={"deviceName": "Press 1", "ts": "1000"} if metadata is None else metadata,
        ts_ms=2000,
    )


def bodies(outcome: Outcome) -> list[Any]:
    """The bodies of the cloud events, in order."""
    return [orjson.loads(c.event.body) for c in outcome.changes if isinstance(c, AppendEvent) and c.event.body]
