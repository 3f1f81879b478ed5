"""Mapped devices at work: what is heard goes to their sessions, what comes down becomes a publish.

The receipt of a message is done when everything that it says is durable. A message that does not fit is counted and
shown, and acknowledged: it would never fit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import orjson

from gateway.broker.fleet import Act, Fleet, Member
from gateway.broker.gateway_packet import WaitingPacket
from gateway.broker.mapping import Heard, MisfitError, Question, Rules, answer_of, publish_of, topic_of
from gateway.broker.mapping_rules import Answer, DownRule, RuleSet
from gateway.config import MappingsConfig
from gateway.domain.entity import Device, Json
from gateway.domain.rpc import RpcError, RpcRequest, RpcResponse
from gateway.domain.telemetry import Value
from gateway.errors import FullError, RejectedError, TransientError
from gateway.ports import Clock, DeviceInlet, DeviceSession, Receipt
from gateway.supervise import Counters

log = logging.getLogger(__name__)

Send = Callable[[str, bytes, int, bool], Awaitable[None] | None]
"""Topic, payload, QoS, retained. What it returns is done when the broker has it; it may raise `TransientError`."""

PROBLEMS_KEPT: Final = 20
QUIET_S: Final = 60.0
_MAX_CALLS: Final = 1_000
_TIDY_S: Final = 5.0
SENT: Final = '{"sent":true}'
"""Answer to a two-way call of a rule without an answer topic."""


class Call(NamedTuple):
    """A call whose answer comes on a topic."""

    channel: MappedDevice
    rpc_id: int
    answer: Answer
    until_s: float


class MappedDevice:
    """`DeviceChannel` of one device: its downlinks are written by the rules of the set it was heard by last."""

    __slots__ = ("_mapped", "heard_s", "is_announced", "member", "name", "parts", "set")

    def __init__(self, mapped: Mapped, name: str, set_: RuleSet) -> None:
        self._mapped, self.name, self.set = mapped, name, set_
        self.parts: dict[str, str] = {}
        self.heard_s = 0.0
        self.is_announced = False  # it has said that it is online, so it will be told when it is not
        self.member: Member[MappedDevice] | None = None

    def names(self, **more: Json) -> dict[str, Json]:
        """What a template may name."""
        return {"device": self.name, **self.parts, **more}

    def send_attributes(self, values: Mapping[str, Value]) -> None:
        """Changed shared attributes: one publish for each key, or one for all where the payload names {values}."""
        for rule in self.set.rules.down:
            if rule.attributes is None:
                continue
            fitting = {key: value for key, value in values.items() if fnmatchcase(key, rule.attributes)}
            if fitting and "{values}" in str(rule.payload):
                self._mapped.send(self, rule, self.names(values=fitting))
            else:
                for key, value in fitting.items():
                    self._mapped.send(self, rule, self.names(key=key, value=value))

    def send_attributes_deleted(self, keys: Sequence[str]) -> None:
        """Deleted shared attributes, all in one publish."""
        for rule in self.set.rules.down:
            if rule.attributes_deleted is not None:
                fitting = [key for key in keys if fnmatchcase(key, rule.attributes_deleted)]
                if fitting:
                    self._mapped.send(self, rule, self.names(keys=fitting))

    async def send_rpc(self, rpc_id: int, request: RpcRequest) -> RpcResponse | None:
        """A call. None: the answer comes on its topic."""
        rule = next((rule for rule in self.set.rules.down if fnmatchcase(request.method, rule.rpc or "")), None)
        if rule is None:
            return RpcResponse(error=RpcError.NOT_FOUND)
        return await self._mapped.call(self, rule, rpc_id, request)

    def close(self, reason: str) -> None:
        """Deleted, or spoken for by somebody else now: the next data opens it again."""
        if self.member is not None:
            self._mapped.fleet.dropped(self.member)


class Mapped:
    """One for each broker that foreign messages come through."""

    def __init__(
        self,
        rules: Rules,
        config: MappingsConfig,
        inlet: DeviceInlet,
        clock: Clock,
        counters: Counters,
        send: Send,
        *,
        creator: Callable[[], Device | None] = lambda: None,
        spawn: Callable[[Coroutine[Any, Any, None], str], None] | None = None,
        cast: bool = True,
        is_ours: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """`spawn` owns the task that answers a question; without it there are no questions. A device that is not
        ours is somebody else's to speak for: what is said of it is passed over.
        """
        self.is_ours = is_ours
        self._rules, self._config, self._clock, self._counters = rules, config, clock, counters
        self._send, self._spawn, self._cast = send, spawn, cast
        self.fleet: Fleet[MappedDevice] = Fleet(inlet, creator, config.max_devices)
        self._calls: dict[str, list[Call]] = {}
        self._is_sending = False
        self._tidied_s = clock.monotonic_s()
        self._said_s: dict[str, float] = {}
        self.problems: deque[dict[str, Any]] = deque(maxlen=PROBLEMS_KEPT)

    # ── up ──

    def heard(self, topic: str, payload: bytes) -> Receipt | None:
        """One message; None: nothing of it has to be durable."""
        if self._is_sending:  # our own word, on its way to the device
            return None
        waiting: WaitingPacket | None = None
        if topic in self._calls:
            waiting = WaitingPacket(4)
            self._answered(topic, payload, waiting)
        try:
            heard = self._rules.read(topic, payload, self._clock.now_ms(), cast=self._cast)
        except MisfitError as error:
            self.problem("mapping.misfits", topic, str(error))
            heard = None
        if heard is not None:
            waiting = waiting or WaitingPacket(4)
            self._take(heard, topic, waiting)
        if waiting is None:
            return None
        packet = waiting
        receipt = packet.settled()
        receipt.add_done_callback(lambda _: self._look_at(topic, packet))
        return receipt

    def awaits(self, topic: str) -> bool:
        """The answer to a call may come here."""
        return topic in self._calls

    def do(self, name: str, set_: RuleSet, topic: str, act: Act) -> Receipt:
        """Something of this device that is no rule's; `act` gets its session, and raises nothing."""
        waiting = WaitingPacket(4)
        try:
            member = self.fleet.open(name, set_.rules.profile, lambda name: MappedDevice(self, name, set_))
            channel = member.channel
            channel.member, channel.set, channel.heard_s = member, set_, self._clock.monotonic_s()
            self.fleet.act(member, act, waiting)
            self._counters.add("mapping.messages")
        except (FullError, RejectedError) as error:
            self.problem("mapping.devices_refused", topic, str(error))
        receipt = waiting.settled()
        receipt.add_done_callback(lambda _: self._look_at(topic, waiting))
        return receipt

    def _take(self, heard: Heard, topic: str, waiting: WaitingPacket) -> None:
        if not self.is_ours(heard.device):
            return
        if heard.left_out:
            self.problem("mapping.keys_left_out", topic, heard.left_out[0], len(heard.left_out))
        if heard.is_online is False and not heard.telemetry and not heard.attributes:
            member = self.fleet.get(heard.device)
            if member is not None:
                self._offline(member, waiting)
            return
        try:
            member = self.fleet.open(heard.device, heard.profile, lambda name: MappedDevice(self, name, heard.set))
            channel = member.channel
            channel.member, channel.set, channel.heard_s = member, heard.set, self._clock.monotonic_s()
            channel.parts.update(heard.parts)
            channel.is_announced = channel.is_announced or heard.is_online is True
            for act in self._acts(heard, channel):
                self.fleet.act(member, act, waiting)
        except (FullError, RejectedError) as error:
            self.problem("mapping.devices_refused", topic, str(error))
            return
        self._counters.add("mapping.messages")
        if heard.is_online is False:
            self._offline(member, waiting)

    def _acts(self, heard: Heard, channel: MappedDevice) -> list[Act]:
        acts: list[Act] = []
        items, values, question = heard.telemetry, heard.attributes, heard.question
        if items:
            acts.append(lambda session: session.post_telemetry(items))
        if values:
            acts.append(lambda session: session.post_attributes(values))
        if question is not None:
            acts.append(lambda session: self._ask(session, channel, question))
        return acts or [_touch]

    def _offline(self, member: Member[MappedDevice], waiting: WaitingPacket) -> None:
        if member.session is not None:
            self.fleet.end(member)
        else:  # being made: it ends when what was said before is done
            self.fleet.act(member, lambda session: self.fleet.end(member), waiting)

    def _answered(self, topic: str, payload: bytes, waiting: WaitingPacket) -> None:
        calls = self._calls[topic]
        now_s = self._clock.monotonic_s()
        for index, call in enumerate(calls):
            if call.until_s < now_s:
                continue
            text = answer_of(call.answer, payload, call.rpc_id)
            session = None if call.channel.member is None else call.channel.member.session
            if text is not None:
                del calls[index]
                if not calls:
                    del self._calls[topic]
                if session is not None:
                    waiting.add(call.channel.name, session.answer_rpc(call.rpc_id, text))
                return

    def _ask(self, session: DeviceSession, channel: MappedDevice, question: Question) -> None:
        if self._spawn is not None:
            self._spawn(self._tell(session, channel, question), f"answer to {session.device.id}")

    async def _tell(self, session: DeviceSession, channel: MappedDevice, question: Question) -> None:
        client, shared = await session.request_attributes(question.client, question.shared)
        rule = next((rule for rule in channel.set.rules.down if rule.attribute_answer), None)
        if rule is not None:
            found = {scope: values for scope, values in (("client", client), ("shared", shared)) if values}
            self.send(channel, rule, channel.names(id=question.id, values=found))

    # ── down ──

    def send(self, channel: MappedDevice, rule: DownRule, names: Mapping[str, Json]) -> None:
        """Attributes; what cannot be written is counted and shown."""
        try:
            topic, payload = publish_of(rule, names)
            self._publish(topic, payload, rule)
        except (RejectedError, TransientError, FullError) as error:
            self.problem("mapping.downlinks_failed", f"{channel.set.name}: {rule.topic}", str(error))

    async def call(self, channel: MappedDevice, rule: DownRule, rpc_id: int, request: RpcRequest) -> RpcResponse | None:
        """TransientError: the broker does not have it."""
        names = channel.names(method=request.method, params=request.params, rpc_id=rpc_id)
        call: Call | None = None
        where = ""
        try:
            topic, payload = publish_of(rule, names)
            if rule.answer is not None and not request.is_oneway:
                where = topic_of(rule.answer.topic, names)
                left_s = (request.expires_ms - self._clock.now_ms()) / 1000
                until_s = self._clock.monotonic_s() + min(rule.answer.timeout_s, left_s)
                call = Call(channel, rpc_id, rule.answer, until_s)
                if sum(map(len, self._calls.values())) >= _MAX_CALLS:
                    raise RejectedError(f"{_MAX_CALLS} calls wait for an answer")
                self._calls.setdefault(where, []).append(call)
        except RejectedError as error:
            self.problem("mapping.downlinks_failed", f"{channel.set.name}: {rule.topic}", str(error))
            return RpcResponse(error=RpcError.INTERNAL)
        try:
            if (done := self._publish(topic, payload, rule)) is not None:
                await done
        except (RejectedError, FullError) as error:
            self._forget(where, call)
            self.problem("mapping.downlinks_failed", topic, str(error))
            return RpcResponse(error=RpcError.INTERNAL)
        except BaseException:
            self._forget(where, call)
            raise
        return None if call is not None or request.is_oneway else RpcResponse(response=SENT)

    def _publish(self, topic: str, payload: bytes, rule: DownRule) -> Awaitable[None] | None:
        self._is_sending = True
        try:
            return self._send(topic, payload, rule.qos, rule.retain)
        finally:
            self._is_sending = False

    def _forget(self, topic: str, call: Call | None) -> None:
        calls = self._calls.get(topic, [])
        if call in calls:
            calls.remove(call)
        if not calls:
            self._calls.pop(topic, None)

    # ── time, and a person ──

    def look_around(self) -> None:
        """Now and then: calls without an answer, devices that have fallen silent without having a last will."""
        now_s = self._clock.monotonic_s()
        if now_s - self._tidied_s < _TIDY_S:
            return
        self._tidied_s = now_s
        self._calls = {
            topic: left for topic, calls in self._calls.items() if (left := [c for c in calls if c.until_s >= now_s])
        }
        for member in self.fleet.members():
            channel = member.channel
            is_idle = not channel.is_announced and now_s - channel.heard_s > self._config.idle_s
            if is_idle and member.session is not None:
                self.fleet.end(member)

    def close(self) -> None:
        """Nobody is heard any more."""
        self._calls.clear()
        self.fleet.close()

    def status(self) -> dict[str, Any]:
        """How many devices are open, and the newest messages that did not fit: topic and reason, never a payload."""
        return {"devices": len(self.fleet), "problems": list(self.problems)}

    def _look_at(self, topic: str, waiting: WaitingPacket) -> None:
        for _, error in waiting.failed:
            self.problem("mapping.data_refused", topic, str(error))

    def problem(self, counter: str, topic: str, reason: str, count: int = 1) -> None:
        """Counted, shown, and logged now and then."""
        self._counters.add(counter, count)
        self.problems.append({"topic": topic[:200], "reason": reason[:500], "ts": self._clock.now_ms()})
        now_s = self._clock.monotonic_s()
        if now_s - self._said_s.get(counter, -QUIET_S) >= QUIET_S:
            self._said_s[counter] = now_s
            log.warning("mapping: %r: %s; further ones are only counted (%s)", topic[:200], reason[:500], counter)


def both(first: Receipt | None, second: Receipt | None) -> Receipt | None:
    """Done when both are; fails as the second does (the first one fails with bugs only)."""
    if first is None or second is None:
        return first or second
    one, two = first, second
    whole: Receipt = one.get_loop().create_future()

    def settle(_: Receipt) -> None:
        if whole.done() or not (one.done() and two.done()):
            return
        for part in (one, two):
            if part.cancelled():
                whole.cancel()
                return
            if (error := part.exception()) is not None:
                whole.set_exception(error)
                return
        whole.set_result(None)

    one.add_done_callback(settle)
    two.add_done_callback(settle)
    return whole


def _touch(session: DeviceSession) -> None:
    session.touch()


def to_json(heard: Heard | None) -> bytes:
    """For a person: what a message would become."""
    if heard is None:
        return b"null"
    return orjson.dumps(
        {
            "rule": f"{heard.set.name}: up[{heard.rule - 1}]",
            "device": heard.device,
            "profile": heard.profile,
            "telemetry": [{"ts": item.ts_ms, "values": item.values} for item in heard.telemetry],
            "attributes": heard.attributes,
            "online": heard.is_online,
            "left_out": list(heard.left_out),
        },
        option=orjson.OPT_INDENT_2,
    )
