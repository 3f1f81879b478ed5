"""One suite for every store: state and queue as the port promises them."""

import asyncio
import math
from typing import Any
from uuid import uuid4

import pytest

from gateway.domain.changes import (
    AppendEvent,
    DeleteAttributes,
    DeleteDevice,
    DeleteEntity,
    DeleteProfile,
    DropLocal,
    MoveCursor,
    ParkEvent,
    SaveAttributes,
    SaveDevice,
    SaveEntity,
    SaveLocal,
    SaveProfile,
    SaveRpc,
    SaveSetting,
    SaveTelemetry,
)
from gateway.domain.cloud_event import CloudEvent, EventStatus, Lane
from gateway.domain.entity import Credentials, Device, DeviceProfile, EntityId, time_uuid
from gateway.domain.rpc import RpcState
from gateway.domain.telemetry import Attribute, Summary
from gateway.errors import RejectedError

BOILER = EntityId("DEVICE", time_uuid())
NAUGHTY = "a\0b \ue000 \ue0000 ü 漢 🔥 ' \" \\ %s ? \n"


def event(
    number: int = 1, *, lane: Lane = Lane.MAIN, action: str = "TIMESERIES_UPDATED", body: Any = ...
) -> CloudEvent:
    return CloudEvent(
        type="DEVICE",
        action=action,
        entity_id=BOILER.id,
        created_ms=1_700_000_000_000 + number,
        body=b'{"n":%d}' % number if body is ... else body,
        lane=lane,
    )


def numbers(events: Any) -> list[int]:
    return [stored.seq_id for stored in events]


async def test_events_come_out_as_they_went_in(backend):
    sent = [event(1), event(2, body=None), event(3, action="RPC_CALL", lane=Lane.EXPRESS)]
    sent[1].entity_id = None
    async with backend.open() as store:
        await store.commit([[AppendEvent(one)] for one in sent])
        main = await store.events.peek(Lane.MAIN, 0, 10)
        express = await store.events.peek(Lane.EXPRESS, 0, 10)
        assert numbers(main) == [1, 2]
        assert numbers(express) == [1]
        for stored, one in zip([*main, *express], sent, strict=True):
            assert (stored.id, stored.type, stored.action, stored.entity_id, stored.created_ms, stored.body) == (
                one.id, one.type, one.action, one.entity_id, one.created_ms, one.body,
            )  # fmt: skip
        assert [stored.lane for stored in (*main, *express)] == [Lane.MAIN, Lane.MAIN, Lane.EXPRESS]
        assert numbers(await store.events.peek(Lane.MAIN, 1, 10)) == [2]
        assert numbers(await store.events.peek(Lane.MAIN, 0, 1)) == [1]
        assert not await store.events.peek(Lane.MAIN, 2, 10)


async def test_creations_are_found_between_other_events(backend):
    async with backend.open() as store:
        actions = {2: "ADDED", 5: "ADDED", 6: "ADDED"}
        await store.commit([[AppendEvent(event(n, action=actions.get(n, "TIMESERIES_UPDATED")))] for n in range(1, 8)])
        await store.commit([[AppendEvent(event(9, action="ADDED", lane=Lane.EXPRESS))]])
        assert numbers(await store.events.peek_added(Lane.MAIN, 0, 10)) == [2, 5, 6]
        assert numbers(await store.events.peek_added(Lane.MAIN, 2, 1)) == [5]
        assert not await store.events.peek_added(Lane.MAIN, 6, 10)
        assert [stored.id for stored in await store.events.peek_added(Lane.MAIN, 5, 10)] == [
            (await store.events.peek(Lane.MAIN, 5, 1))[0].id
        ]
        await store.commit([[MoveCursor(Lane.MAIN, 7)]])
        await store.events.purge(0)
        assert not await store.events.peek_added(Lane.MAIN, 0, 10)


async def test_unconfirmed_events_come_again_after_a_restart(durable):
    async with durable.open() as store:
        await store.commit([[AppendEvent(event(n))] for n in (1, 2, 3)])
        await store.commit([[MoveCursor(Lane.MAIN, 1)]])
    async with durable.open() as store:
        assert (store.events.cursor(Lane.MAIN), store.events.last(Lane.MAIN)) == (1, 3)
        assert numbers(await store.events.peek(Lane.MAIN, store.events.cursor(Lane.MAIN), 10)) == [2, 3]
        await store.commit([[AppendEvent(event(4))]])
        assert store.events.last(Lane.MAIN) == 4


async def test_numbers_are_never_given_twice_even_when_all_is_purged(durable):
    async with durable.open() as store:
        await store.commit([[AppendEvent(event(n))] for n in range(5)])
        await store.commit([[MoveCursor(Lane.MAIN, 5)]])
        assert await store.events.purge(0) == 5
    async with durable.open() as store:
        await store.commit([[AppendEvent(event(6))]])
        assert numbers(await store.events.peek(Lane.MAIN, 0, 10)) == [6]
        depth = await store.events.depth()
        assert (depth.pending[Lane.MAIN], depth.deployed[Lane.MAIN]) == (1, 0)


async def test_cursor_never_moves_back_and_not_beyond_the_last_event(backend):
    async with backend.open() as store:
        await store.commit([[AppendEvent(event(n))] for n in range(3)])
        await store.commit([[MoveCursor(Lane.MAIN, 2)], [MoveCursor(Lane.MAIN, 1)]])
        assert store.events.cursor(Lane.MAIN) == 2
        await store.commit([[MoveCursor(Lane.MAIN, 99)]])
        assert store.events.cursor(Lane.MAIN) == 3
        assert store.events.cursor(Lane.EXPRESS) == 0


async def test_depth_counts_lanes_and_knows_the_oldest(backend):
    async with backend.open() as store:
        assert (await store.events.depth()).oldest_ms is None
        await store.commit([[AppendEvent(event(n))] for n in (1, 2, 3)])
        await store.commit([[AppendEvent(event(9, lane=Lane.EXPRESS))], [MoveCursor(Lane.MAIN, 2)]])
        depth = await store.events.depth()
        assert depth.pending == {Lane.MAIN: 1, Lane.EXPRESS: 1}
        assert depth.deployed == {Lane.MAIN: 2, Lane.EXPRESS: 0}
        assert (depth.parked, depth.oldest_ms) == (0, 1_700_000_000_003)


async def test_wait_beyond_is_woken_by_the_commit(backend):
    async with backend.open() as store:
        waiting = asyncio.create_task(store.events.wait_beyond(Lane.EXPRESS, 0))
        await store.commit([[AppendEvent(event())]])
        await asyncio.sleep(0)
        assert not waiting.done()
        await store.commit([[AppendEvent(event(lane=Lane.EXPRESS))]])
        await asyncio.wait_for(waiting, 2)
        await asyncio.wait_for(store.events.wait_beyond(Lane.MAIN, 0), 2)


async def test_purge_keeps_the_newest_confirmed_and_every_pending(backend):
    async with backend.open() as store:
        await store.commit([[AppendEvent(event(n))] for n in range(1, 11)])
        await store.commit([[MoveCursor(Lane.MAIN, 8)]])
        assert await store.events.purge(3) == 5
        assert numbers(await store.events.peek(Lane.MAIN, 0, 20)) == [6, 7, 8, 9, 10]
        assert await store.events.purge(3) == 0
        assert (await store.events.depth()).deployed[Lane.MAIN] == 3


async def test_parked_events_are_listed_with_their_reason(backend):
    async with backend.open() as store:
        await store.commit([[AppendEvent(event(n))] for n in (1, 2, 3)])
        second = (await store.events.peek(Lane.MAIN, 1, 1))[0]
        park = ParkEvent(second, f"refused {NAUGHTY}", 10, 5)
        await store.commit([[park, MoveCursor(Lane.MAIN, 2)]])
        await store.commit([[park]])  # said twice, kept once
        (parked,) = await store.events.parked(10)
        assert (parked.event, parked.reason, parked.tries, parked.parked_ms) == (second, f"refused {NAUGHTY}", 10, 5)
        assert (await store.events.depth()).parked == 1
        assert [(e.seq_id, s) for e, s in await store.events.find(EventStatus.PARKED, 9)] == [(2, EventStatus.PARKED)]
        assert [(e.seq_id, s) for e, s in await store.events.find(None, 9)] == [
            (3, EventStatus.PENDING),
            (2, EventStatus.PARKED),
            (1, EventStatus.DEPLOYED),
        ]
        assert numbers(e for e, _ in await store.events.find(EventStatus.DEPLOYED, 9)) == [1]
        assert numbers(e for e, _ in await store.events.find(EventStatus.PENDING, 9)) == [3]
        assert numbers(e for e, _ in await store.events.find(None, 9, before_seq=3)) == [2, 1]
        assert numbers(e for e, _ in await store.events.find(None, 1)) == [3]


async def test_status_can_be_seen_with_sql(durable):
    identity = {"tenant_id": str(uuid4()), "edge_id": str(uuid4())}
    async with durable.open() as store:
        await store.commit([[SaveSetting("edge_identity", identity)], *([AppendEvent(event(n))] for n in (1, 2, 3))])
        second = (await store.events.peek(Lane.MAIN, 1, 1))[0]
        await store.commit([[ParkEvent(second, "no", 1, 1), MoveCursor(Lane.MAIN, 2)]])
        rows = durable.sql(
            "SELECT seq_id, status, entity_type, ts, tenant_id, edge_id, lane FROM cloud_event_status ORDER BY seq_id"
        )
    assert [row[:4] for row in rows] == [
        (1, "DEPLOYED", "DEVICE", 1_700_000_000_001),
        (2, "PARKED", "DEVICE", 1_700_000_000_002),
        (3, "PENDING", "DEVICE", 1_700_000_000_003),
    ]
    assert {(str(row[4]).replace("-", ""), str(row[5]).replace("-", ""), row[6]) for row in rows} == {
        (identity["tenant_id"].replace("-", ""), identity["edge_id"].replace("-", ""), "MAIN")
    }


VALUES: dict[str, Any] = {
    "true": True, "false": False, "one": 1, "big": 2**63 - 1, "small": -(2**63), "whole": 1.0, "tiny": 5e-324,
    "inf": math.inf, "text": "1", "empty": "", "naughty": NAUGHTY, "dict": {"a": [1, 2.0, None, {"b": "\0"}]},
    "list": [], NAUGHTY: "key",
}  # fmt: skip


async def test_every_kind_of_value_keeps_its_type(backend):
    async with backend.open() as store:
        await store.commit([[SaveTelemetry(BOILER, 5, VALUES), SaveAttributes(BOILER, "CLIENT_SCOPE", 6, VALUES)]])
        latest = await store.latest(BOILER)
        attributes = {key: a for _, _, key, a in (await store.load()).attributes}
        for key, value in VALUES.items():
            assert latest[key] == (5, value)
            assert type(latest[key][1]) is type(value)
            assert attributes[key] == Attribute(6, value)
            assert type(attributes[key].value) is type(value)
            assert await store.history(BOILER, key, 0, 10, 10) == [(5, value)]
        await store.commit([[SaveTelemetry(BOILER, 7, {"nan": math.nan})]])
        ts_ms, value = (await store.latest(BOILER))["nan"]
        assert ts_ms == 7
        assert isinstance(value, float)
        assert math.isnan(value)


async def test_history_oldest_or_newest_first(backend):
    minute = 60_000
    async with backend.open() as store:
        times = [1, 2, minute - 1, minute, 5 * minute, 5 * minute + 7]
        await store.commit([[SaveTelemetry(BOILER, ts, {"t": n, "other": 0})] for n, ts in enumerate(times)])
        whole = [(ts, n) for n, ts in enumerate(times)]
        assert await store.history(BOILER, "t", 0, 6 * minute, 10) == whole
        assert await store.history(BOILER, "t", 0, 6 * minute, 10, newest_first=True) == whole[::-1]
        assert await store.history(BOILER, "t", 2, 5 * minute, 2) == whole[1:3]
        assert await store.history(BOILER, "t", 2, 5 * minute, 2, newest_first=True) == [whole[3], whole[2]]
        assert await store.history(BOILER, "t", 6 * minute, 7 * minute, 9, newest_first=True) == []
        assert await store.history(BOILER, "no", 0, minute, 9, newest_first=True) == []


async def test_summary_of_an_interval(backend):
    big = 2**63 - 1
    rows = {1: big, 2: big, 60_000: -(2**63), 120_000: -7, 120_001: "text", 120_002: True, 130_000: math.nan}
    async with backend.open() as store:
        await store.commit([[SaveTelemetry(BOILER, ts, {"t": value})] for ts, value in rows.items()])
        assert await store.summary(BOILER, "t", 0, 200_000) == Summary(7, 4, 2 * big - 2**63 - 7, -(2**63), big)
        assert await store.summary(BOILER, "t", 2, 60_000) == Summary(1, 1, big, big, big)
        assert await store.summary(BOILER, "t", 120_001, 200_000) == Summary(3)
        assert await store.summary(BOILER, "no", 0, 200_000) == Summary()
        assert await store.summary(BOILER, "t", 500_000, 600_000) == Summary()
        await store.commit([[SaveTelemetry(BOILER, 60_000, {"t": 0.5}), SaveTelemetry(BOILER, 60_001, {"t": -1})]])
        mixed = await store.summary(BOILER, "t", 60_000, 70_000)
        assert mixed == Summary(2, 2, -0.5, -1, 0.5)
        assert type(mixed.total) is float
        assert type((await store.summary(BOILER, "t", 0, 2)).total) is int


async def test_snapshot_has_all_that_was_saved(durable):
    device = Device(
        id=time_uuid(), name=NAUGHTY, type="boiler", profile_id=time_uuid(), label="in the cellar", created_ms=7,
        local_name="b1", is_gateway=True, origin="CLOUD", json={"name": "x", "additionalInfo": {"a": None}},
        credentials=Credentials(type="MQTT_BASIC", credentials_id="id", value='{"userName":"u"}'),
    )  # fmt: skip
    bare = Device(id=time_uuid(), name="bare", type="default")
    profile = DeviceProfile(id=time_uuid(), name="boiler", is_default=True, default_rule_chain_id=time_uuid(), json={})
    call = (time_uuid(), device.id, RpcState.SENT, 99, {"method": NAUGHTY})
    done = [time_uuid(), time_uuid()]
    async with durable.open() as store:
        await store.commit(
            [
                [SaveDevice(device), SaveDevice(bare), SaveProfile(profile), SaveEntity("ASSET", NAUGHTY, {"x": [1]})],
                [SaveAttributes(device.entity_id, "SHARED_SCOPE", 3, {"k": 1}), SaveSetting(NAUGHTY, [1, "a"])],
                [SaveRpc(*call), SaveRpc(done[1], device.id, RpcState.DONE, 99, {})],
                [SaveRpc(done[0], device.id, RpcState.DONE, 100, {})],
            ]
        )
    async with durable.open() as store:
        found = await store.load()
    assert sorted(found.devices, key=lambda one: one.id) == [device, bare]
    assert found.profiles == [profile]
    assert found.attributes == [(device.entity_id, "SHARED_SCOPE", "k", Attribute(3, 1))]
    assert found.entities == [("ASSET", NAUGHTY, {"x": [1]})]
    assert found.settings == {NAUGHTY: [1, "a"]}
    assert found.open_rpcs == [call]
    assert found.finished_rpcs == done


async def test_the_last_change_of_a_unit_wins(backend):
    device = Device(id=BOILER.id, name="old", type="t")
    profile = DeviceProfile(id=time_uuid(), name="p")
    async with backend.open() as store:
        await store.commit(
            [
                [
                    SaveDevice(device),
                    SaveTelemetry(BOILER, 1, {"gone": 1}),
                    SaveAttributes(BOILER, "CLIENT_SCOPE", 1, {"gone": 1}),
                    DeleteDevice(BOILER.id),
                    SaveAttributes(BOILER, "CLIENT_SCOPE", 2, {"a": 1, "b": 1}),
                    DeleteAttributes(BOILER, "CLIENT_SCOPE", ["a", "unknown"]),
                    SaveAttributes(BOILER, "CLIENT_SCOPE", 3, {"b": 2}),
                    SaveTelemetry(BOILER, 2, {"kept": 2}),
                    SaveEntity("ASSET", "k", 1),
                    DeleteEntity("ASSET", "k"),
                    SaveEntity("ASSET", "k", 2),
                    SaveProfile(profile),
                    DeleteProfile(profile.id),
                    SaveSetting("s", 1),
                    SaveSetting("s", None),
                ]
            ]
        )
        found = await store.load()
        assert (found.devices, found.profiles, found.settings) == ([], [], {})
        assert found.attributes == [(BOILER, "CLIENT_SCOPE", "b", Attribute(3, 2))]
        assert found.entities == [("ASSET", "k", 2)]
        assert await store.latest(BOILER) == {"kept": (2, 2)}
        assert await store.history(BOILER, "gone", 0, 10, 10) == []


async def test_a_deleted_device_takes_its_data_along_and_its_events_stay(durable):
    other = EntityId("DEVICE", time_uuid())
    async with durable.open() as store:
        for entity in (BOILER, other):
            await store.commit([[SaveDevice(Device(id=entity.id, name=str(entity.id), type="t"))]])
            await store.commit(
                [[SaveTelemetry(entity, 1, {"t": 1}), SaveAttributes(entity, "CLIENT_SCOPE", 1, {"a": 1})]]
            )
        await store.commit([[AppendEvent(event())]])
        await store.commit([[DeleteDevice(BOILER.id)]])
    async with durable.open() as store:
        await store.commit([[SaveTelemetry(EntityId("DEVICE", time_uuid()), 1, {"new": 9})]])
        assert await store.latest(BOILER) == {}
        assert await store.history(BOILER, "t", 0, 10, 10) == []
        assert await store.latest(other) == {"t": (1, 1)}
        found = await store.load()
        assert [device.id for device in found.devices] == [other.id]
        assert [entity for entity, *_ in found.attributes] == [other]
        assert numbers(await store.events.peek(Lane.MAIN, 0, 9)) == [1]


async def test_an_older_value_is_history_and_not_the_latest(backend):
    async with backend.open() as store:
        await store.commit([[SaveTelemetry(BOILER, 20, {"t": "new"})], [SaveTelemetry(BOILER, 10, {"t": "late"})]])
        await store.commit([[SaveTelemetry(BOILER, 15, {"t": "later"})], [SaveTelemetry(BOILER, 20, {"t": "same"})]])
        assert await store.latest(BOILER) == {"t": (20, "same")}
        assert await store.history(BOILER, "t", 0, 99, 9) == [(10, "late"), (15, "later"), (20, "same")]
        await store.commit([[SaveTelemetry(BOILER, 30, {"t": 1}, keep_history=False)]])
        assert await store.latest(BOILER) == {"t": (30, 1)}
        assert len(await store.history(BOILER, "t", 0, 99, 9)) == 3


async def test_history_is_read_across_slots_within_its_bounds(backend):
    minute = 60_000
    async with backend.open() as store:
        await store.commit([[SaveTelemetry(BOILER, n * minute * 7, {"t": n, "other": 0})] for n in range(40)])
        first, last = 5 * minute * 7, 20 * minute * 7
        assert [v for _, v in await store.history(BOILER, "t", first, last, 99)] == list(range(5, 20))
        assert [v for _, v in await store.history(BOILER, "t", first, last, 3)] == [5, 6, 7]
        assert await store.history(BOILER, "nobody", 0, last, 3) == []


@pytest.mark.parametrize(
    "bad",
    [
        SaveTelemetry(BOILER, 1, {"k": "\ud800"}),
        SaveTelemetry(BOILER, 1, {"k": 2**63}),
        SaveTelemetry(BOILER, 2**64, {"k": 1}),
        SaveTelemetry(BOILER, 1, {"k": object()}),  # type: ignore[dict-item]
        SaveSetting("s", {"k": "\ud800"}),
        SaveAttributes(BOILER, "CLIENT_SCOPE", 1, {"\ud800": 1}),
        AppendEvent(event(body=b"\xff\xfe")),
        AppendEvent(event(body="text")),
        SaveDevice(Device(id=time_uuid(), name="n", type="t", label={"a": 1})),  # type: ignore[arg-type]
        SaveDevice(Device(id=time_uuid(), name="n", type="t", created_ms=2**64)),
    ],
    ids=["surrogate", "65 bits", "late", "object", "setting", "key", "not UTF-8", "text", "label", "created"],
)
async def test_what_cannot_be_kept_is_rejected_and_nothing_is_written(durable, bad):
    async with durable.open() as store:
        with pytest.raises(RejectedError):
            await store.commit([[AppendEvent(event())], [SaveSetting("good", 1), bad]])
        assert store.events.last(Lane.MAIN) == 0
        assert (await store.load()).settings == {}
        await store.commit([[AppendEvent(event())]])
        assert numbers(await store.events.peek(Lane.MAIN, 0, 9)) == [1]


async def test_large_bodies_are_given_out_in_portions(backend):
    body = b'{"x":"%s"}' % (b"\xc3\xa9" * (5 << 20))
    async with backend.open() as store:
        for number in range(3):
            await store.commit([[AppendEvent(event(number, body=body))]])
        await store.commit([[AppendEvent(event(4))]])
        seen = 0
        while portion := await store.events.peek(Lane.MAIN, seen, 100):
            if backend.is_durable:
                assert sum(len(one.body or b"") for one in portion) < 12 << 20
            assert all(one.body == body for one in portion if one.seq_id < 4)
            seen = portion[-1].seq_id
        assert seen == 4


async def test_fifty_thousand_events_drain_in_order(durable):
    async with durable.open() as store:
        for start in range(0, 50_000, 5_000):
            await store.commit([[AppendEvent(event(n))] for n in range(start, start + 5_000)])
        seen: list[int] = []
        while portion := await store.events.peek(Lane.MAIN, store.events.cursor(Lane.MAIN), 1_000):
            seen += [int((one.body or b"")[5:-1]) for one in portion]
            await store.commit([[MoveCursor(Lane.MAIN, portion[-1].seq_id)]])
        assert seen == list(range(50_000))
        assert (await store.events.depth()).pending[Lane.MAIN] == 0


async def test_maintenance_deletes_by_age_and_number(durable):
    now = durable.clock.now_ms()
    async with durable.open(keep_deployed=2, history_days=1) as store:
        await store.commit(
            [[SaveTelemetry(BOILER, now - 3 * 86_400_000, {"t": 1}), SaveTelemetry(BOILER, now, {"t": 2})]]
        )
        await store.commit([[AppendEvent(event(n))] for n in range(5)])
        await store.commit(
            [
                [
                    MoveCursor(Lane.MAIN, 4),
                    SaveRpc(time_uuid(), BOILER.id, RpcState.DONE, now - 2 * 86_400_000, {}),
                    SaveRpc(time_uuid(), BOILER.id, RpcState.DONE, now, {}),
                ]
            ]
        )
        await store.maintain()
        assert await store.history(BOILER, "t", 0, now + 1, 9) == [(now, 2)]
        assert numbers(await store.events.peek(Lane.MAIN, 0, 9)) == [3, 4, 5]
        assert durable.sql("SELECT count(*) FROM rpc") == [(1,)]


async def test_what_local_publish_subscribe_keeps_comes_back_byte_for_byte(backend):
    everything = bytes(range(256))
    async with backend.open() as store:
        await store.commit([[SaveLocal("retained", NAUGHTY, everything), SaveLocal("retained", "b", b"old")]])
        await store.commit([[SaveLocal("retained", "b", b"new"), SaveLocal("queued", "b", b"")]])
        await store.commit([[SaveLocal("will", "gone", b"x")], [DropLocal("will", "gone"), DropLocal("will", "never")]])
        kept = [("queued", "b", b""), ("retained", NAUGHTY, everything), ("retained", "b", b"new")]
        assert sorted((await store.load()).local) == kept
    if backend.is_durable:
        async with backend.open() as store:
            assert sorted((await store.load()).local) == kept
