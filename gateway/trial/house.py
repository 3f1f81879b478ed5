"""The rules with everything that they need, and nothing else: state and store in memory, time that is told.

What a message causes is said as JSON, in the words of `docs/rules-test.md`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

import orjson

from gateway.config import RulesConfig
from gateway.devices import Pipeline, SettledSeries, State
from gateway.domain.changes import (
    AppendEvent,
    Change,
    DeleteAttributes,
    DeleteEntity,
    SaveAttributes,
    SaveDevice,
    SaveEntity,
    SaveProfile,
    SaveSetting,
    SaveTelemetry,
    UnitOfWork,
)
from gateway.domain.entity import Credentials, Device, DeviceProfile, EntityId, Json
from gateway.domain.message import Message
from gateway.domain.rpc import RpcError, RpcResponse
from gateway.errors import RejectedError
from gateway.ports import Receipt, RuleCall, RuleReply, Snapshot
from gateway.rules import RuleEngine
from gateway.rules.watch import Step
from gateway.store.memory import MemoryStore
from gateway.supervise import Counters

START_MS: Final = 1_700_000_000_000
_PATIENCE_S: Final = 0.05  # of real time, then whoever sleeps is woken
_IDS: Final = UUID("3b0a6d0e-4d5e-11ef-8a9b-0c1d2e3f4a5b")

Result = dict[str, Any]
"""What one message, or the time that passed, has caused; empty lists are left out."""


class TrialClock:
    """Stands still until told."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms, self._monotonic_s = now_ms, 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_ms(self) -> int:
        """See `Clock`."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return self._monotonic_s

    async def sleep(self, delay_s: float) -> None:
        """See `Clock`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic_s + max(0.0, delay_s), next(self._order), future))
        await future

    @property
    def next_s(self) -> float | None:
        """When the first who sleeps wakes."""
        return self._sleepers[0][0] if self._sleepers else None

    def advance(self, to_s: float) -> None:
        """Time passes; who sleeps so long wakes."""
        self._now_ms += round((to_s - self._monotonic_s) * 1000)
        self._monotonic_s = to_s
        while self._sleepers and self._sleepers[0][0] <= to_s:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


class _Committer:
    """Port `Committer`: durable is what the store in memory has."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.units: list[UnitOfWork] = []

    def submit(self, unit: UnitOfWork) -> Receipt:
        receipt: Receipt = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self._store.commit([unit]))
        task.add_done_callback(lambda _: self._done(unit, task, receipt))
        return receipt

    def _done(self, unit: UnitOfWork, task: asyncio.Task[None], receipt: Receipt) -> None:
        error = task.exception()
        if error is not None:
            receipt.set_exception(error)
            return
        self.units.append(unit)
        receipt.set_result(None)

    @property
    def is_congested(self) -> bool:
        return False

    async def wait_uncongested(self) -> None:
        return

    def oldest_waiting_s(self) -> float:
        return 0.0


class Trial:
    """One chain document at work. `async with` it; then send messages, let time pass, look at what was caused."""

    def __init__(self, config: RulesConfig, now_ms: int | None = None) -> None:
        self.clock = TrialClock() if now_ms is None else TrialClock(now_ms)
        self._config = config
        self._counters = Counters()
        self.store = MemoryStore()
        self.state = State(Snapshot())
        self._committer = _Committer(self.store)
        self._steps: list[Step] = []
        self._errors: list[str] = []
        self._calls: list[RuleCall] = []
        self._replies: list[RuleReply] = []
        self._asked: list[RuleCall] = []  # calls whose device has not answered yet
        self.engine: RuleEngine
        self.pipeline: Pipeline

    async def __aenter__(self) -> Trial:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pipeline.close()
        await self.engine.close()

    async def _start(self) -> None:
        snapshot = await self.store.load()
        self.state = State(snapshot)
        series = SettledSeries(self.store, self._committer)
        self.engine = RuleEngine(self.state, self._config, self.clock, self._counters, series)
        self.engine.restore(snapshot.local)
        self.engine.load_files()
        self.engine.settle()
        self.engine.watch(self._steps.append)
        self.pipeline = Pipeline(self.engine, self._committer, self.state, self._counters)
        self.pipeline.on_settled = self.engine.settled
        self.pipeline.on_error = self._errors.append
        self.pipeline.on_call = self._calls.append
        self.pipeline.on_reply = self._replies.append

    # ── what there is ──

    async def put(self, changes: Sequence[Change]) -> None:
        """State from before the first message."""
        await self.pipeline.commit(changes)
        self._committer.units.clear()

    async def set_up(self, thing: Json) -> None:
        """A line of `setup.jsonl`.

        Raises:
            RejectedError: It names nothing that can be set up.
        """
        if "device" in thing:
            name, profile = thing["device"], thing.get("profile", "default")
            await self.put(
                [
                    SaveProfile(DeviceProfile(id=_id("profile", profile), name=profile, json=thing.get("profileJson"))),
                    SaveDevice(
                        Device(
                            id=_id("DEVICE", name),
                            name=name,
                            type=profile,
                            local_name=name,
                            label=thing.get("label"),
                            profile_id=_id("profile", profile),
                            created_ms=self.clock.now_ms(),
                            credentials=_credentials(thing.get("credentials")),
                            json=_belonging(thing) or None,
                        )
                    ),
                ]
            )
            entity = EntityId("DEVICE", _id("DEVICE", name))
        elif "entity" in thing:
            kind, name = thing["entity"], thing["name"]
            id_ = _id(kind, name)
            json = {
                "id": {"entityType": kind, "id": str(id_)},
                "name": name,
                **_belonging(thing),
                **thing.get("json", {}),
            }
            await self.put([SaveEntity(kind, str(id_), json)])
            entity = EntityId(kind, id_)
        elif "relation" in thing:
            ends = {end: self.entity(thing["relation"][end]) for end in ("from", "to")}
            json = {
                **{end: {"entityType": of.type, "id": str(of.id)} for end, of in ends.items()},
                "type": thing.get("type", "Contains"),
                "typeGroup": "COMMON",
            }
            key = "{0.type}:{0.id}>COMMON/{2}>{1.type}:{1.id}".format(ends["from"], ends["to"], json["type"])
            await self.put([SaveEntity("RELATION", key, json)])
            return
        elif "field" in thing:
            await self.put([self._field(thing)])
            return
        elif "setting" in thing:
            await self.put([SaveSetting(thing["setting"], thing["value"])])
            return
        else:
            raise RejectedError("a line of the set-up needs 'device', 'entity', 'relation', 'field' or 'setting'")
        for scope, values in thing.get("attributes", {}).items():
            await self.put([SaveAttributes(entity, scope, self.clock.now_ms(), values)])
        for ts_ms, values in thing.get("telemetry", {}).items():
            await self.put([SaveTelemetry(entity, self._time(ts_ms), values)])

    def _field(self, thing: Json) -> SaveEntity:
        """`of` is a device's name, or `["DEVICE_PROFILE", name]`; the rest as the cloud says it."""
        kind, name = thing["of"] if isinstance(thing["of"], list) else ("DEVICE", thing["of"])
        owner = _id("profile" if kind == "DEVICE_PROFILE" else kind, name)
        id_ = _id("CALCULATED_FIELD", thing["field"])
        json = {"name": thing["field"], "type": thing["type"], "configuration": thing["configuration"]}
        json["entityId"] = {"entityType": kind, "id": str(owner)}
        return SaveEntity("CALCULATED_FIELD", str(id_), json)

    def entity(self, name: Json) -> EntityId:
        """`Boiler` is a device, `["ASSET", "Hall"]` something else, `["DEVICE", "<uuid>"]` by its id."""
        kind, text = name if isinstance(name, list) else ("DEVICE", name)
        try:
            return EntityId(kind, UUID(text))
        except ValueError:
            return EntityId(kind, _id(kind, text))

    def _time(self, text: str | int) -> int:
        """Milliseconds; below a year's worth of them they count from the start of the trial, and may be negative."""
        ms = int(text)
        return START_MS + ms if abs(ms) < 31_536_000_000 else ms

    # ── what happens ──

    async def send(self, line: Json) -> Result:
        """A line of `messages.jsonl`: `{"msg": …}`, `{"wait_s": n}`, `{"reply": …}` or `{"restart": true}`."""
        if "wait_s" in line:
            await self._wait(float(line["wait_s"]))
        elif "reply" in line or "reply_error" in line:
            if not self._asked:
                raise RejectedError("there is no call that could be answered")
            call, self._asked = self._asked[0], self._asked[1:]
            error = RpcError(line["reply_error"]) if "reply_error" in line else None
            text = None if error else orjson.dumps(line["reply"]).decode()
            await self._settled(self.pipeline.resume(call.resume(RpcResponse(response=text, error=error))))
        elif line.get("restart"):
            await self.pipeline.close()
            await self.engine.close()
            await self._start()
        elif "msg" in line:
            await self._know(line.get("device"))
            await self._settled(self.pipeline.run([self.message(line)]))
        else:
            raise RejectedError("a line needs 'msg', 'wait_s', 'reply', 'reply_error' or 'restart'")
        return self._result()

    async def _know(self, device: Json) -> None:
        """A recorded line names its device."""
        if isinstance(device, dict) and self.state.device_named(device["name"]) is None:
            await self.set_up({"device": device["name"], "profile": device.get("profile", "default")})

    def message(self, line: Json) -> Message:
        """`msg` with `type`, `originator`, `metadata` and `ts`; what is not given is what a device would send."""
        originator = self.entity(line.get("originator", "Device"))
        device = self.state.device(originator.id)
        ts_ms = self._time(line["ts"]) if "ts" in line else self.clock.now_ms()
        metadata = {"ts": str(ts_ms)}
        if device is not None:
            metadata |= {"deviceName": device.name, "deviceType": device.type}
        if "metadata" in line:
            metadata = line["metadata"] if line.get("bare") else metadata | line["metadata"]
        return Message(
            type=line.get("type", "POST_TELEMETRY_REQUEST"),
            originator=originator,
            data=line["msg"],
            metadata=metadata,
            ts_ms=self.clock.now_ms(),
        )

    async def _wait(self, seconds: float) -> None:
        end_s = self.clock.monotonic_s() + seconds
        while self.engine.due_s <= end_s:
            self.clock.advance(max(self.clock.monotonic_s(), self.engine.due_s))
            while (outcome := self.engine.fire()) is not None:
                await self._settled(self.pipeline.resume(outcome))
        self.clock.advance(end_s)
        await asyncio.sleep(0)

    async def _settled(self, receipt: Receipt) -> None:
        while not (await asyncio.wait([receipt], timeout=_PATIENCE_S))[0]:
            if (wakes_s := self.clock.next_s) is not None:  # a node that waits for its next try
                self.clock.advance(wakes_s)
        if (error := receipt.exception()) is not None:
            self._errors.append(f"not stored: {error}")

    # ── what was caused ──

    def _result(self) -> Result:
        result: Result = {
            "path": [self._said(step) for step in self._steps],
            "saved": [],
            "attributes": [],
            "deleted": [],
            "pushed": [],
            "entities": [],
            "calls": [{"method": call.request.method, "params": call.request.params} for call in self._calls],
            "replies": [_parsed(reply.response) for reply in self._replies],
            "errors": list(self._errors),
        }
        for change in itertools.chain.from_iterable(self._committer.units):
            self._tell(change, result)
        self._asked += self._calls
        for done in (self._steps, self._errors, self._calls, self._replies, self._committer.units):
            done.clear()
        return {key: value for key, value in result.items() if value}

    def _said(self, step: Step) -> str:
        labels = ", ".join(step.labels) or "ends here"
        return f"{step.node} → {labels}" + (f": {step.error}" if step.error else "")

    def _tell(self, change: Change, result: Result) -> None:
        match change:
            case SaveTelemetry(entity, ts_ms, values):
                result["saved"].append({"of": self._name(entity), "ts": self._ago(ts_ms), "values": dict(values)})
            case SaveAttributes(entity, scope, _, values):
                result["attributes"].append({"of": self._name(entity), "scope": scope, "values": dict(values)})
            case DeleteAttributes(entity, scope, keys):
                result["deleted"].append({"of": self._name(entity), "scope": scope, "keys": list(keys)})
            case AppendEvent(event):
                body = _parsed(event.body)
                if isinstance(body, dict) and isinstance(body.get("ts"), int):
                    body["ts"] = self._ago(body["ts"])
                of = "" if event.entity_id is None else self._name(EntityId(str(event.type), event.entity_id))
                pushed = {"of": of, "action": str(event.action)}
                result["pushed"].append(pushed if body is None else pushed | {"body": body})
            case SaveEntity(kind, _, json):
                result["entities"].append({"kind": kind, "json": json})
            case DeleteEntity(kind, key):
                result["entities"].append({"kind": kind, "deleted": key})
            case _:
                pass

    def _name(self, entity: EntityId) -> str:
        device = self.state.device(entity.id)
        if device is not None:
            return device.name
        json = self.state.entity_json(entity.type, str(entity.id))
        return str(json["name"]) if isinstance(json, dict) and "name" in json else f"{entity.type} {entity.id}"

    def _ago(self, ts_ms: int) -> int:
        """As it may be written in a line: counted from the start of the trial when it is near."""
        return ts_ms - START_MS if abs(ts_ms - START_MS) < 31_536_000_000 else ts_ms


def _id(kind: str, name: str) -> UUID:
    return uuid5(_IDS, f"{kind}/{name}")


def _belonging(thing: Json) -> dict[str, Json]:
    """Whose an entity is, and of which profile, as the cloud would say it."""
    of: dict[str, Json] = {}
    if "customer" in thing:
        of["customerId"] = {"entityType": "CUSTOMER", "id": str(_id("CUSTOMER", thing["customer"]))}
    if thing.get("entity") == "ASSET" and "profile" in thing:
        profile_id = _id("ASSET_PROFILE", thing["profile"])
        of |= {"type": thing["profile"], "assetProfileId": {"entityType": "ASSET_PROFILE", "id": str(profile_id)}}
    return of


def _credentials(given: Json) -> Credentials | None:
    return Credentials(type=given["type"], credentials_id=given["id"], value=given.get("value")) if given else None


def _parsed(text: str | bytes | None) -> Json:
    if not text:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text if isinstance(text, str) else text.decode(errors="replace")


async def lines(trial: Trial, messages: Iterable[Json]) -> list[Result]:
    """Send them all."""
    return [await trial.send(line) for line in messages]
