"""A random walk of one gateway and one cloud: everything that can go wrong between them, in any order.

A walk is its seed and its number of steps: the same steps are taken in the same order each time, only their
moments differ. What must hold is looked at after each step, and once more when everything has been mended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.cloudsim.entities import alarm, reference
from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.server import CloudSim
from gateway.config import CloudConfig
from gateway.domain.changes import AppendEvent
from gateway.domain.cloud_event import CloudEvent, Lane, StoredEvent
from gateway.domain.entity import time_uuid
from gateway.domain.telemetry import TsKv
from gateway.errors import RejectedError
from gateway.ports import Receipt
from tests.fakes.tcp_proxy import TcpProxy
from tests.property.walk_house import CloudRecord, WalkDevice, WalkHouse

MAX_INBOUND: Final = 40_000
FIRST_TS_MS: Final = 1_700_000_000_000
POISON: Final = "poison"  # a key that the cloud refuses for ever
HEALED_S: Final = 30.0

NO_FAULTS: Final = {
    "fail_once": None,
    "never_answer": None,
    "rate_limit": None,
    "slow_ms": 0,
    "sync_never_completes": False,
    "sync_fails_after": None,
    "silent": False,
    "unavailable": False,
    "shuffle_answers": False,
    "rtt_ms": 0,
}
FAULTS: Final = (
    {"fail_once": "*"},
    {"fail_once": "*", "shuffle_answers": True},
    {"never_answer": "*"},
    {"rate_limit": 0},
    {"rate_limit": 20},
    {"slow_ms": 15},
    {"silent": True},
    {"unavailable": True},
    {"shuffle_answers": True},
    {"shuffle_answers": True, "rtt_ms": 40},
    {"sync_never_completes": True},
    {"sync_fails_after": 1},
)


class Walk:
    """One walk; `take` goes so many steps, `finish` mends everything and looks whether all has arrived."""

    def __init__(self, folder: Path, seed: int, **cloud: Any) -> None:
        self._rng = random.Random(seed)
        self._is_ordered = cloud.get("drain", "oldest_first") == "oldest_first"
        self.sim = CloudSim(
            CloudSimOptions(
                http_port=None,
                devices=(),
                widgets=0,
                keep_values=0,
                poll_s=0.05,
                resend_interval_s=3.0,
                max_inbound=MAX_INBOUND,
            )
        )
        self.sim.faults.update({"fail_always": POISON})
        self.record = CloudRecord(self.sim)
        self.line = TcpProxy(0)
        self._folder, self._cloud = folder, cloud
        self._ts: dict[str, int] = {}
        self._numbers = iter(range(1, 1_000_000))
        self._waiting: list[tuple[Receipt, str, TsKv]] = []
        self.accepted: set[tuple[UUID, int]] = set()  # device and time stamp of acknowledged telemetry
        self._accepted_attributes: dict[str, int] = {}
        self._attribute_receipts: list[tuple[Receipt, str, int]] = []
        self._rows: dict[Lane, dict[int, StoredEvent]] = {lane: {} for lane in Lane}
        self._confirmed = dict.fromkeys(Lane, 0)
        self._shared: dict[str, list[int]] = {}  # device: values that the cloud stored for it
        self._calls: set[asyncio.Task[Any]] = set()
        self._asked = 0
        self.steps: list[str] = []
        self.kills = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Walk]:
        """Cloud, line and gateway; everything is ended with the block."""
        async with self.sim, self.line.listening():
            self.line.target = self.sim.grpc_port
            config = CloudConfig(
                routing_key="demo-edge",
                routing_secret="demo-secret",
                host="127.0.0.1",
                port=self.line.port,
                edge_version="4.3.0",
                timeout_ms=1000,
                keepalive_s=1.0,
                keepalive_timeout_s=0.5,
                answer_timeout_s=0.5,
                sync_timeout_s=0.8,
                reconnect_ms=10,
                reconnect_max_ms=80,
                batch_size=8,
                window=4,
                batch_timeout_ms=5,
                retry_interval_ms=15,
                max_retries=3,
                rate_limit_pause_s=0.3,
                **self._cloud,
            )
            self.house = WalkHouse(self._folder, config)
            await self.house.start()
            for number in range(4):
                await self.add_device(f"D{number}")
            try:
                yield self
            finally:
                for task in self._calls:
                    task.cancel()
                await asyncio.gather(*self._calls, return_exceptions=True)
                await self.house.close()

    # ── steps ────────────────────────────────────────────────────────────────────────────────

    async def take(self, steps: int) -> None:
        """So many steps, each followed by a look."""
        rng = self._rng
        names, weights = zip(*STEPS.items(), strict=True)
        for _ in range(steps):
            name = rng.choices(names, weights)[0]
            self.steps.append(name)
            await getattr(self, name)()
            if rng.random() < 0.4:
                await asyncio.sleep(rng.random() * 0.15)  # a random moment for what comes next, no wait for anything
            await self.look()

    async def publish(self) -> None:
        rng = self._rng
        for _ in range(rng.randrange(1, 60)):
            name = rng.choice(list(self.house.devices))
            self._post(name, {"seq": next(self._numbers)})
        if rng.random() < 0.7:
            await self._receipts()

    async def publish_bad(self) -> None:
        """Too large for the cloud and to be cut; too large and not to be cut; refused for ever; not to be encoded."""
        name = self._rng.choice(list(self.house.devices))
        match self._rng.randrange(4):
            case 0:
                self._post(name, {f"k{n}": "x" * 900 for n in range(90)})
            case 1:
                self._post(name, {"one": "x" * (MAX_INBOUND + 1), "seq": next(self._numbers)})
            case 2:
                self._post(name, {POISON: next(self._numbers)})
            case 3:
                event = self._event("DEVICE", "TIMESERIES_UPDATED", self._id(name), b"{not JSON")
                await self._kept(self.house.pipeline.commit([AppendEvent(event)]))
        await self._receipts()

    async def attributes(self) -> None:
        for _ in range(self._rng.randrange(1, 4)):
            name, number = self._rng.choice(list(self.house.devices)), next(self._numbers)
            session = self._session(name)
            self._attribute_receipts.append((session.post_attributes({"n": number}), name, number))

    async def raise_alarm(self) -> None:
        name, identity = self._rng.choice(list(self.house.devices)), self.house.state.identity()
        if identity is None:
            return
        id_ = time_uuid()
        origin = reference("DEVICE", self._id(name))
        body = alarm(id_, self.sim.now_ms(), identity.tenant_id, origin, f"alarm {next(self._numbers)}")
        event = self._event("ALARM", "ADDED", id_, orjson.dumps(body))
        await self._kept(self.house.pipeline.commit([AppendEvent(event)]))

    async def add_device(self, name: str = "") -> None:
        if len(self.house.devices) < 12:
            name = name or f"D{len(self.house.devices)}"
            await self.house.add_device(name)
            self._post(name, {"seq": next(self._numbers)})

    async def cut(self) -> None:
        getattr(self.line, self._rng.choice(("reset", "close")))()

    async def cut_at_the_cloud(self) -> None:
        match self._rng.randrange(4):
            case 0:
                await self.sim.reset()
            case 1:
                await self._unless_refused(self.sim.goaway(0.05))
            case 2:
                await self.sim.end_session()
            case 3:
                await self.sim.offline(self._rng.random() * 0.3)

    async def takeover(self) -> None:
        await self._unless_refused(self.sim.takeover())

    async def silence(self) -> None:
        self.line.is_up_silent, self.line.is_down_silent = self._rng.choice(((1, 0), (0, 1), (1, 1)))

    async def hold(self) -> None:
        self.line.is_held = True

    async def slow_line(self) -> None:
        self.line.delay_s = self._rng.random() * 0.1

    async def fault(self) -> None:
        self.sim.faults.update(dict(self._rng.choice(FAULTS)))

    async def heal(self) -> None:
        self.line.heal()
        self.sim.faults.update(dict(NO_FAULTS))

    async def sync(self) -> None:
        await self._unless_refused(self.sim.sync(is_full=self._rng.random() < 0.5))

    async def tell_device(self) -> None:
        name, number = self._rng.choice(list(self.house.devices)), next(self._numbers)
        if self.sim.world.named("DEVICE", name) is not None:
            await asyncio.sleep(0.002)  # the cloud tells its values apart by the millisecond
            is_stored = await self.sim.set_attributes(name, "SHARED_SCOPE", {"wish": number})
            if is_stored:
                self._shared.setdefault(name, []).append(number)

    async def call_device(self) -> None:
        name = self._rng.choice(list(self.house.devices))
        if self.sim.world.named("DEVICE", name) is not None:
            self._asked += 1
            call = self.sim.rpc(name, "set", {"n": self._asked}, timeout_ms=self._rng.choice((300, 3000)))
            task = asyncio.create_task(call)
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def restart(self) -> None:
        await self.house.stop()
        self._sort_receipts()
        await self.house.start()
        self._send_again()

    async def kill(self) -> None:
        self.kills += 1
        self.line.reset()
        await self.house.kill()
        self._sort_receipts()
        await self.house.start()
        self._send_again()

    # ── what steps are made of ───────────────────────────────────────────────────────────────

    def _id(self, name: str) -> UUID:
        device = self.house.state.device_named(name)
        assert device is not None
        return device.id

    def _session(self, name: str) -> Any:
        session = self.house.devices[name].session
        assert session is not None, name
        return session

    def _post(self, name: str, values: dict[str, Any]) -> None:
        ts = self._ts[name] = self._ts.get(name, FIRST_TS_MS) + 1
        item = TsKv(ts, values)
        self._waiting.append((self._session(name).post_telemetry([item]), name, item))

    def _event(self, type_: str, action: str, id_: UUID, body: bytes) -> CloudEvent:
        return CloudEvent(type=type_, action=action, entity_id=id_, created_ms=self.sim.now_ms(), body=body)

    async def _kept(self, receipt: Receipt) -> None:
        async with asyncio.timeout(10):
            await receipt

    async def _unless_refused(self, asked: Coroutine[Any, Any, Any]) -> None:
        with contextlib.suppress(RejectedError):
            await asked

    async def _receipts(self) -> None:
        for receipt, _, _ in self._waiting:
            await self._kept(receipt)
        self._sort_receipts()

    def _sort_receipts(self) -> None:
        for receipt, name, item in self._waiting:
            if receipt.done():
                receipt.result()
                self.accepted.add((self._id(name), item.ts_ms))
        self._waiting = [one for one in self._waiting if not one[0].done()]
        for receipt, name, number in self._attribute_receipts:
            if receipt.done():
                self._accepted_attributes[name] = number
        self._attribute_receipts = [one for one in self._attribute_receipts if not one[0].done()]

    def _send_again(self) -> None:
        """As a device does with what was not acknowledged; an attribute is forgotten."""
        waiting, self._waiting = self._waiting, []
        self._attribute_receipts.clear()
        for _, name, item in waiting:
            self._waiting.append((self._session(name).post_telemetry([item]), name, item))

    # ── what must hold ───────────────────────────────────────────────────────────────────────

    async def look(self) -> None:
        """Without waiting for anything: nothing that is confirmed is missing, nothing acknowledged is gone."""
        self.house.check()
        self._sort_receipts()
        accepted = set(self.accepted)
        events = self.house.store.events
        for lane in Lane:
            cursor = events.cursor(lane)
            assert cursor >= self._confirmed[lane], f"the cursor of {lane.name} went back"
            await self._read_rows(lane)
            parked = {one.event.seq_id: one.event for one in await events.parked(100_000) if one.event.lane is lane}
            for seq_id in range(self._confirmed[lane] + 1, cursor + 1):
                self._has_arrived(self._rows[lane][seq_id], parked.get(seq_id))
            self._confirmed[lane] = cursor
        kept = {(row.entity_id, _ts(row)) for row in self._rows[Lane.MAIN].values()}
        assert accepted <= kept, f"acknowledged and not in the queue: {accepted - kept}"
        assert not self.record.contradictions

    async def _read_rows(self, lane: Lane) -> None:
        """What is new in the queue; after a restart all of it, and it must be what it was as far as it was confirmed."""
        events, rows = self.house.store.events, self._rows[lane]
        after = max(rows, default=0) if self.steps[-1:] not in (["kill"], ["restart"]) else 0
        while page := await events.peek(lane, after, 1000):
            for row in page:
                assert rows.setdefault(row.seq_id, row).id == row.id, f"{lane.name} {row.seq_id} is another event now"
            after = page[-1].seq_id

    def _has_arrived(self, row: StoredEvent, copy: StoredEvent | None) -> None:
        assert self._is_there(row, copy), f"confirmed, and neither in the cloud nor parked: {row}"

    def _is_there(self, row: StoredEvent, copy: StoredEvent | None) -> bool:
        if row.entity_id is None or (copy is not None and copy.body == row.body):
            return True
        match row.type, row.action:
            case "DEVICE", "TIMESERIES_UPDATED":
                ts, parked = _ts(row), set(_data(copy)) if copy is not None else set()
                return all(key in parked or (row.entity_id, ts, key) in self.record.values for key in _data(row))
            case "DEVICE", "POST_ATTRIBUTES":
                return (row.entity_id, orjson.loads(row.body or b"")["kv"]["n"]) in self.record.attributes
            case "DEVICE", "ADDED":
                return self.sim.world.get("DEVICE", row.entity_id) is not None
            case "ALARM", "ADDED":
                return row.entity_id in self.record.alarms
        return True

    async def finish(self) -> None:
        """Mend everything: then all that was acknowledged is in the cloud or parked, in order, and once in effect."""
        await self.heal()
        await self.sim.wait_online()
        self.steps.append("finish")
        await self._receipts()
        for receipt, _, _ in self._attribute_receipts:
            await self._kept(receipt)
        events = self.house.store.events
        await self._until(
            lambda: all(events.last(lane) == events.cursor(lane) for lane in Lane), "the queue is not empty"
        )
        if self._calls:
            await asyncio.wait(list(self._calls), timeout=5)
        await self._until(lambda: self.house.link.is_ready, "the link is not ready")
        await self._until(lambda: all(events.last(lane) == events.cursor(lane) for lane in Lane), "answers wait")
        await self.look()
        parked = {one.event.seq_id for one in await events.parked(100_000) if one.event.lane is Lane.MAIN}
        self._check_parked(parked)
        if self._is_ordered:
            self._check_order(parked)
        self._check_newest()
        await self._check_downlinks()

    def _check_parked(self, parked: set[int]) -> None:
        """Only what is bad."""
        for seq_id in parked:
            row = self._rows[Lane.MAIN][seq_id]
            body = row.body or b""
            assert row.action == "TIMESERIES_UPDATED", row
            assert b"not JSON" in body or len(body) > MAX_INBOUND or f'"{POISON}"'.encode() in body, row

    def _check_order(self, parked: set[int]) -> None:
        """Each entity's events arrived for the first time in the order of the queue."""
        queued: dict[UUID, dict[tuple[str, int], None]] = {}
        out: set[tuple[UUID, tuple[str, int]]] = set()
        for seq_id, row in sorted(self._rows[Lane.MAIN].items()):
            mark = _mark(row)
            if mark is not None and row.entity_id is not None:
                queued.setdefault(row.entity_id, {})[mark] = None
                if seq_id in parked:
                    out.add((row.entity_id, mark))
        for id_, marks in queued.items():
            expected = [mark for mark in marks if (id_, mark) not in out]
            arrived = [mark for mark in self.record.first[id_] if mark in marks and (id_, mark) not in out]
            assert arrived == expected, f"the order of {id_}"

    def _check_newest(self) -> None:
        for name in self.house.devices:
            id_ = self._id(name)
            entity = self.sim.world.get("DEVICE", id_)
            assert entity is not None, name
            for key, (ts, _) in entity.series.latest.items():
                assert ts == max(ts for owner, ts, other in self.record.values if (owner, other) == (id_, key))
            if name in self._accepted_attributes:
                held = entity.attributes["CLIENT_SCOPE"]["n"].value
                assert held >= self._accepted_attributes[name], f"{name}: an older attribute is the cloud's newest"

    async def _check_downlinks(self) -> None:
        for device in self.house.devices.values():
            twice = {number: times for number, times in device.calls.items() if times > 1}
            assert not twice, f"calls that reached {device.name} more than once: {twice}"
        for name, numbers in self._shared.items():
            if self.sim.count("downlink_dropped"):
                continue  # given up by the cloud itself
            device = self.house.devices[name]

            def is_told(device: WalkDevice = device, newest: int = numbers[-1]) -> bool:
                return device.heard.get("wish", 0) >= newest

            await self._until(is_told, f"{name} does not know {numbers[-1]}")

    def check_peer(self, *provoked: str) -> None:
        """The strict cloud has nothing to complain of, but what a fault provokes."""
        bad = {kind: count for kind, count in self.sim.violations.counts.items() if kind not in provoked}
        assert not bad, [text for text in self.sim.violations.texts if text.partition(":")[0] in bad]

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(HEALED_S):
                while not condition():
                    self.house.check()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            state = {"link": self.house.link.status(), "uplink": self.house.uplink.status()}
            raise AssertionError(f"{what}; {state}") from None


STEPS: Final = {
    "publish": 24,
    "publish_bad": 4,
    "attributes": 5,
    "raise_alarm": 3,
    "add_device": 2,
    "cut": 5,
    "cut_at_the_cloud": 5,
    "takeover": 2,
    "silence": 3,
    "hold": 3,
    "slow_line": 2,
    "fault": 8,
    "heal": 14,
    "sync": 3,
    "tell_device": 6,
    "call_device": 6,
    "restart": 2,
    "kill": 4,
}
"""Steps with their weights."""


def _data(row: StoredEvent) -> dict[str, Any]:
    try:
        return dict(orjson.loads(row.body or b"{}").get("data", {}))
    except orjson.JSONDecodeError:
        return {}


def _ts(row: StoredEvent) -> int:
    if row.action != "TIMESERIES_UPDATED":
        return 0
    try:
        return int(orjson.loads(row.body or b"{}")["ts"])
    except orjson.JSONDecodeError:
        return 0


def _mark(row: StoredEvent) -> tuple[str, int] | None:
    """As `CloudRecord` names an arrival; None: it names none."""
    if row.type == "DEVICE" and row.action == "TIMESERIES_UPDATED":
        return ("telemetry", _ts(row))
    if row.type == "DEVICE" and row.action == "POST_ATTRIBUTES":
        return ("attribute", orjson.loads(row.body or b"")["kv"]["n"])
    return None


@contextlib.contextmanager
def telling(seed: int, steps: int, walk: Callable[[], Walk | None]) -> Iterator[None]:
    """A failure says how to see it again."""
    try:
        yield
    except BaseException as error:
        taken = walk()
        path = " ".join(taken.steps) if taken else ""
        error.add_note(f"EDGE_GATEWAY_WALK_SEED={seed} EDGE_GATEWAY_WALK_STEPS={steps}; taken: {path}")
        raise
