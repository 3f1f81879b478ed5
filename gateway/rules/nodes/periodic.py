"""Nodes that act by the clock: generator and message count. Source: reference rule-engine §3.6, §4.4, §8.4."""

from __future__ import annotations

import hashlib
from typing import Any, Final
from uuid import uuid5

from pydantic import Field

from gateway.domain.entity import EntityId, Json
from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.ports import Outcome, StateReader
from gateway.rules.chain import entity_uuid
from gateway.rules.entities import is_known, tenant_of
from gateway.rules.node import FAILURE, SUCCESS, Answer, NodeConfig, NodeEnv, Routed, Run, node
from gateway.rules.nodes.filter import ScriptConfig
from gateway.rules.script import Script
from gateway.rules.timers import Timer

SERVICE_ID: Final = "edge-gateway"
"""What this gateway is called where ThingsBoard names one of its services."""

_ORIGINATORS: Final = ("DEVICE", "ASSET", "ENTITY_VIEW", "CUSTOMER", "USER", "DASHBOARD", "EDGE")


class Rhythm:
    """A turn each `period_s`, without drift. Turns that were missed altogether are not made up for."""

    def __init__(self, env: NodeEnv, timer: Timer, period_s: float) -> None:
        self._env, self._timer, self._period_s = env, timer, period_s
        self._due_s = env.clock.monotonic_s() + period_s
        timer.arm(self._due_s)

    def next(self) -> None:
        """After a turn."""
        missed = int((self._env.clock.monotonic_s() - self._due_s) / self._period_s)
        self._due_s += self._period_s * (1 + max(0, missed))
        self._timer.arm(self._due_s)


class GeneratorConfig(ScriptConfig):
    """Who the messages are of, how many there are, and how often one comes."""

    msg_count: int = Field(0, ge=0, description="So many, then silence; 0: without end.")
    period_in_seconds: int = Field(1, ge=1)
    originator_type: str = Field(
        "RULE_NODE", description="`RULE_NODE` (this node), `TENANT`, or a type that `originatorId` belongs to."
    )
    originator_id: Any = Field(None, description="Id of the originator; needed unless it is the node or the tenant.")


@node("debug.TbMsgGeneratorNode", "generator", GeneratorConfig)
def generator(config: GeneratorConfig, env: NodeEnv) -> Run:
    """A message of the script each period. How many there were survives a restart, the previous message does not."""
    return _Generator(config, env).run


class _Generator:
    def __init__(self, config: GeneratorConfig, env: NodeEnv) -> None:
        self._config, self._env = config, env
        if not config.body:
            raise RejectedError("it has no script")
        self._script = Script("generator", config.body, config.is_tbel, env.shared)
        self._id = entity_uuid(config.originator_id)
        if config.originator_type in _ORIGINATORS and self._id is None:
            raise RejectedError(f"originatorId is missing: which {config.originator_type.lower()}?")
        if config.originator_type not in (*_ORIGINATORS, "RULE_NODE", "TENANT"):
            raise RejectedError(f"originatorType {config.originator_type!r} cannot be; {', '.join(_ORIGINATORS)} can")
        # Another configuration counts from the beginning, the same one goes on after a restart.
        self._mark = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
        held: Json = env.kept.get("sent")
        self._sent: int = held["count"] if isinstance(held, dict) and held.get("of") == self._mark else 0
        self._previous: Message | None = None
        if not self._is_done:
            self._rhythm = Rhythm(env, env.timer(self._tick), float(config.period_in_seconds))

    @property
    def _is_done(self) -> bool:
        return 0 < self._config.msg_count <= self._sent

    def run(self, msg: Message, out: Outcome) -> Answer:
        """Nothing is expected to come in: it ends here."""
        return None

    def _tick(self, out: Outcome) -> Routed:
        if self._config.msg_count:
            self._sent += 1
            self._env.kept.put(out, "sent", {"count": self._sent, "of": self._mark})
        if not self._is_done:
            self._rhythm.next()
        now_ms = self._env.clock.now_ms()
        own = EntityId("RULE_NODE", uuid5(self._env.chain_id, f"generator/{self._env.name}"))
        empty = Message(type="GENERATOR_NODE_SELF_MSG", originator=own, data={}, metadata={}, ts_ms=now_ms)
        try:
            originator = self._originator(own)
            before = self._previous
            given = Message(
                type=before.type if before else "",
                originator=originator,
                data=before.data if before else {},
                metadata=before.metadata if before else {},
                ts_ms=now_ms,
            )
            made = self._script.transformed(given)
            if len(made) != 1:
                raise RejectedError(f"the script gave {len(made)} messages, not one")
        except RejectedError as error:
            return Routed((FAILURE,), (empty,), str(error))
        self._previous = made[0]
        return Routed((SUCCESS,), made)

    def _originator(self, own: EntityId) -> EntityId:
        kind, state = self._config.originator_type, self._env.state
        if kind == "RULE_NODE":
            return own
        if kind == "TENANT":
            return tenant(state)
        assert self._id is not None
        entity = EntityId(kind, self._id)
        if not is_known(state, entity):
            raise RejectedError(f"its originator, the {kind.lower()} {self._id}, is not known here")
        return entity


def tenant(state: StateReader) -> EntityId:
    """RejectedError: there was no connection to the cloud yet, so that nobody knows."""
    found = tenant_of(state)
    if found is None:
        raise RejectedError("the tenant is not known before the first connection to the cloud")
    return found


class CountConfig(NodeConfig):
    """How often the count is told, and under which key."""

    interval: int = Field(1, ge=1, description="Seconds.")
    telemetry_prefix: str = Field(
        "messageCount", min_length=1, max_length=200, description=f"The key is this and `_{SERVICE_ID}`."
    )


@node("action.TbMsgCountNode", "message count", CountConfig)
def message_count(config: CountConfig, env: NodeEnv) -> Run:
    """Takes every message and tells how many there were. What was counted is durable with the message."""
    return _Count(config, env).run


class _Count:
    def __init__(self, config: CountConfig, env: NodeEnv) -> None:
        self._env, self._key = env, f"{config.telemetry_prefix}_{SERVICE_ID}"
        self._count: int = env.kept.get("count") or 0
        self._since_s = env.clock.monotonic_s()
        self._rhythm = Rhythm(env, env.timer(self._tick), float(config.interval))

    def run(self, msg: Message, out: Outcome) -> Answer:
        """It ends here, counted."""
        self._count += 1
        self._env.kept.put(out, "count", self._count)
        return None

    def _tick(self, out: Outcome) -> Routed | None:
        self._rhythm.next()
        try:
            originator = tenant(self._env.state)
        except RejectedError:
            return None  # what is counted is told as soon as it is known whose it is
        now_s, now_ms = self._env.clock.monotonic_s(), self._env.clock.now_ms()
        told = Message(
            type="POST_TELEMETRY_REQUEST",
            originator=originator,
            data={self._key: self._count},
            metadata={"delta": str(round((now_s - self._since_s) * 1000))},
            ts_ms=now_ms,
        )
        self._since_s = now_s
        if self._count:
            self._count = 0
            self._env.kept.drop(out, "count")
        return Routed((SUCCESS,), (told,))
