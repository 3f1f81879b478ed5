"""Every way in which the simulated cloud can misbehave, and what the user of a gateway wants of each.

Everything accepted arrives or is parked, in order within its device; the link comes back within a bound; and the
strict peer has nothing to complain of.
"""

import asyncio
import re
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.cloud.pb import edge_pb2
from gateway.cloudsim import Flavour
from gateway.cloudsim.faults import FaultSettings
from gateway.cloudsim.options import CustomerKind
from gateway.domain.downlink import SYNC_MS
from gateway.domain.rpc import RpcResponse
from gateway.domain.telemetry import TsKv
from tests.conformance.cloud_house import CloudHouse, connected, strict_sim, until

TWO = ("Boiler", "Mixer")


def test_the_table_of_faults_in_the_docs_is_that_of_the_code():
    page = (Path(__file__).parents[2] / "docs" / "cloud-sim.md").read_text()
    table = page.partition("## Faults")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {field.name for field in fields(FaultSettings)}


# ── answers ──


@pytest.mark.parametrize("matching", ["*", "Boiler", "seq"])
async def test_what_fails_once_arrives_in_order(tmp_path, matching):
    async with connected(tmp_path, TWO) as (sim, house):
        sim.faults.update({"fail_once": matching})
        await asyncio.gather(*(house.post(name, 50) for name in TWO))
        await house.settled()
        assert sim.faults.settings.fail_once is None  # it was met
        for name in TWO:
            house.arrived(name)
        assert await house.store.events.parked(10) == []
        house.unblemished()


async def test_one_value_that_always_fails_is_parked_and_its_neighbours_arrive(tmp_path):
    async with connected(tmp_path, TWO) as (sim, house):
        sim.faults.update({"fail_always": "poison"})
        before = house.post("Boiler", 20)
        bad = house.session("Boiler").post_telemetry([TsKv(house.clock.now_ms(), {"poison": 1})])
        await asyncio.gather(before, bad, house.post("Boiler", 20), house.post("Mixer", 40))
        await house.settled()
        (parked,) = await house.store.events.parked(10)
        assert b"poison" in (parked.event.body or b"")
        assert (parked.reason, parked.tries) == ("fault: fails always", 3)
        for name in TWO:
            house.arrived(name)
        assert "poison" not in sim.device_state("Boiler")["telemetry"]
        house.unblemished()


async def test_one_device_that_always_fails_does_not_stop_the_other(tmp_path):
    async with connected(tmp_path, TWO) as (sim, house):
        await house.post("Boiler", 2)
        await house.settled()
        sim.faults.update({"fail_always": str(house.device("Boiler").id)})
        await asyncio.gather(house.post("Boiler", 5), house.post("Mixer", 100))
        await house.settled()
        parked = await house.store.events.parked(100)
        assert len(parked) == 5
        assert {one.event.entity_id for one in parked} == {house.device("Boiler").id}
        house.arrived("Mixer")
        sim.faults.update({"fail_always": None})
        await house.post("Boiler", 5)
        await house.settled()
        held = sim.device_state("Boiler")
        assert (held["seq_high"], held["missing"]) == (12, 5)  # what is parked is missing, and nothing else
        house.unblemished()


async def test_a_message_that_is_never_answered_is_sent_again_on_a_new_stream(tmp_path):
    async with connected(tmp_path, TWO, cloud={"answer_timeout_s": 0.6}) as (sim, house):
        sim.faults.update({"never_answer": "Boiler"})
        await asyncio.gather(house.post("Boiler", 10), house.post("Mixer", 10))
        await house.ready(2)
        sim.faults.update({"never_answer": None})
        await house.settled()
        assert sim.state()["uplink_unanswered"] >= 1
        for name in TWO:
            house.arrived(name)
        house.unblemished()


async def test_a_rate_limit_is_waited_out_and_is_no_try(tmp_path):
    async with connected(tmp_path, TWO) as (sim, house):
        for _ in range(4):  # more often than an event may be refused
            limited = house.counters.get("uplink.rate_limited")
            sim.faults.update({"rate_limit": 0})
            await asyncio.gather(*(house.post(name, 10) for name in TWO))
            await until(
                lambda limited=limited: house.counters.get("uplink.rate_limited") > limited, "the limit was not met"
            )
            sent = sim.state()["uplink_msgs"]
            sim.faults.update({"rate_limit": None})
            await asyncio.gather(*(house.post(name, 1) for name in TWO))
            assert house.uplink.status()["main"]["is_paused"]
            assert sim.state()["uplink_msgs"] <= sent + house.config.window  # those that were on their way
            house.clock.leap(61)
            await house.settled()
        for name in TWO:
            house.arrived(name)
        assert await house.store.events.parked(10) == []
        house.unblemished()


async def test_a_slow_cloud_is_waited_for(tmp_path):
    async with connected(tmp_path, cloud={"batch_size": 1, "answer_timeout_s": 0.6}) as (sim, house):
        sim.faults.update({"slow_ms": 15})
        await house.post("Boiler", 80)  # takes 1.2 s in all: longer than one answer may be late
        await house.settled()
        house.arrived("Boiler")
        assert (sim.state()["connects"], sim.state()["duplicates"]) == (1, 0)
        house.unblemished()


async def test_answers_that_overtake_one_another_move_the_cursor_only_over_what_is_confirmed(tmp_path):
    async with connected(tmp_path, TWO, cloud={"batch_size": 5}) as (sim, house):
        sim.faults.update({"shuffle_answers": True, "rtt_ms": 5, "fail_once": "Mixer"})
        await asyncio.gather(*(house.post(name, 200) for name in TWO))
        await house.settled()
        for name in TWO:
            house.arrived(name)
        assert (sim.state()["connects"], sim.state()["duplicates"]) == (1, 0)
        house.unblemished()


# ── the stream ──


async def test_a_silent_cloud_is_given_up_and_found_again(tmp_path):
    async with connected(tmp_path, TWO, cloud={"answer_timeout_s": 0.6, "timeout_ms": 500}) as (sim, house):
        await house.post("Boiler", 5)
        sim.faults.update({"silent": True})
        await house.post("Boiler", 5)
        await until(lambda: not house.link.is_ready, "the silence was not noticed", 5)
        await house.post("Mixer", 5)
        sim.faults.update({"silent": False})
        await house.ready(2)
        await house.settled()
        for name in TWO:
            house.arrived(name)
        house.unblemished()


@pytest.mark.parametrize("ending", ["offline", "end_session", "reset", "goaway", "takeover"])
async def test_whatever_ends_the_stream_nothing_is_lost(tmp_path, ending):
    async with connected(tmp_path, TWO) as (sim, house):
        sim.faults.update({"rtt_ms": 20})  # so that something is on its way

        async def publish() -> None:
            for _ in range(10):
                await asyncio.gather(*(house.post(name, 10) for name in TWO))
                await asyncio.sleep(0.01)

        publishing = asyncio.create_task(publish())
        await until(lambda: sim.state()["events_received"] > 20, "no telemetry")
        match ending:
            case "offline":
                await sim.offline(0.3)
            case "goaway":
                await sim.goaway(0.05)
            case _:
                await getattr(sim, ending)()
        await publishing
        await house.ready(2)
        await house.settled()
        for name in TWO:
            house.arrived(name)
        house.unblemished()


async def test_before_4_0_a_takeover_leaves_the_stream_open_and_mute(tmp_path):
    async with connected(tmp_path, version="3.7", cloud={"answer_timeout_s": 0.6}) as (sim, house):
        await sim.takeover()
        await house.post("Boiler", 10)  # unanswered: this is how it is noticed
        await house.ready(2)
        await house.settled()
        house.arrived("Boiler")
        house.unblemished()


@pytest.mark.parametrize("fault", ["unavailable", "edge_deleted"])
async def test_a_refusal_is_told_and_tried_again(tmp_path, fault):
    async with connected(tmp_path) as (sim, house):
        sim.faults.update({fault: True})
        await sim.end_session()
        await house.post("Boiler", 10)
        await until(lambda: sim.state()["refused"] >= 2, "it does not try again")
        error = house.link.status()["last_error"]
        assert ("SERVER_UNAVAILABLE" if fault == "unavailable" else "routing key") in error
        sim.faults.update({fault: False})
        await house.ready(2)
        await house.settled()
        house.arrived("Boiler")
        house.unblemished()


async def test_two_gateways_with_one_key_are_told_so(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with connected(tmp_path / "one") as (sim, one):
        async with CloudHouse(tmp_path / "two", sim, ("Mixer",)) as two:
            two.connect()
            await until(
                lambda: any("same routing key" in str(house.link.status()["last_error"]) for house in (one, two)),
                "nobody is told",
            )
            await one.post("Boiler", 10)
        await until(lambda: one.link.is_ready and sim.is_edge_active, "the one that is left does not come back")
        await one.settled()
        one.arrived("Boiler")
        one.unblemished()


# ── the sync ──


@pytest.mark.parametrize("fault", [{"sync_never_completes": True}, {"sync_fails_after": 0}, {"sync_fails_after": 3}])
async def test_a_sync_that_never_ends_is_begun_anew(tmp_path, fault):
    async with strict_sim() as sim, CloudHouse(tmp_path, sim, sync_timeout_s=0.4) as house:
        sim.faults.update(fault)
        house.connect()
        await house.post("Boiler", 10)
        await until(lambda: sim.state()["connects"] >= 2, "the link waits for ever")
        assert sim.state()["uplink_msgs"] == 0
        sim.faults.update({"sync_never_completes": False, "sync_fails_after": None})
        await house.ready(2)
        await house.settled()
        house.arrived("Boiler")
        assert sim.syncs_asked()[-1] is True  # none has completed before: all of it is needed
        house.unblemished()


async def test_packs_that_come_three_times_are_applied_once(tmp_path):
    async with connected(tmp_path, resend_interval_s=0.05) as (sim, house):
        house.session("Boiler")
        house.channels["Boiler"].answer = RpcResponse(response='{"ok":1}')
        sim.faults.update({"rtt_ms": 150})  # no acknowledgement can be there in time
        await sim.set_attributes("Boiler", "SHARED_SCOPE", {"target": 1})
        await sim.create_device("Fan", token="fan-token")
        result = await sim.rpc("Boiler", "count", {"by": 1})
        assert result.response == '{"ok":1}'
        sim.faults.update({"rtt_ms": 0})
        await house.heard()
        assert sim.state()["downlink_resent"] >= 3
        assert len(house.channels["Boiler"].calls) == 1
        assert house.channels["Boiler"].attributes == [{"target": 1}]
        assert sum(device.name == "Fan" for device in house.state.devices()) == 1
        house.unblemished()


async def test_a_sync_from_the_clouds_page_goes_beside_the_telemetry(tmp_path):
    async with connected(tmp_path, TWO) as (sim, house):
        for _ in range(3):
            await sim.sync(is_full=True)
            await asyncio.gather(*(house.post(name, 30) for name in TWO))
            await house.settled()
            await until(lambda: sim.session and not sim.session.is_syncing, "the sync does not end")
        assert (sim.state()["syncs_completed"], sim.state()["connects"]) == (4, 1)
        for name in TWO:
            house.arrived(name)
        house.unblemished()


@pytest.mark.parametrize("version", ["3.7", "4.3"])
async def test_a_downlink_that_makes_no_sense_holds_up_nothing_and_is_listed(tmp_path, version):
    async with connected(tmp_path, version=version, resend_interval_s=60) as (sim, house):
        house.session("Boiler")
        sim.push_raw(edge_pb2.DownlinkMsg(downlinkMsgId=5, deviceUpdateMsg=[{"idMSB": 1, "idLSB": 2, "entity": "{"}]))
        await house.heard()
        await sim.set_attributes("Boiler", "SHARED_SCOPE", {"good": 1})
        await until(lambda: house.channels["Boiler"].attributes, "what came behind it is stuck")
        assert sim.state()["downlink_failed_acks"] == sim.state()["downlink_dropped"] == 0
        refused = house.link.status()["refused_downlinks"]
        assert (refused["count"], [one["reason"] for one in refused["last"]]) == (
            1,
            ["deviceUpdateMsg: the entity is not JSON"],
        )
        house.unblemished()


# ── entities ──


async def test_names_that_clash_are_renamed_and_nothing_goes_astray(tmp_path):
    names = [f"Pump {number}" for number in range(5)]
    async with strict_sim() as sim:
        for name in names:
            await sim.create_device(name)
            await sim.unassign_device(name)
        async with CloudHouse(tmp_path, sim, names) as house:
            await asyncio.gather(*(house.post(name, 10) for name in names))
            house.connect()
            await house.ready()
            await until(lambda: sim.state()["renamed"] == 5, "no clash")
            await house.heard()
            await asyncio.gather(*(house.post(name, 10) for name in names))
            await house.settled()
            for name in names:
                assert re.fullmatch(name + "_[A-Za-z]{15}", house.device(name).name)
                house.arrived(name)
            house.unblemished()


async def test_credentials_that_another_device_has_are_parked_and_the_data_arrive(tmp_path):
    async with strict_sim() as sim:
        await sim.create_device("Stranger", token="Boiler")
        await sim.unassign_device("Stranger")
        async with CloudHouse(tmp_path, sim) as house:
            house.connect()
            await house.ready()
            await house.post("Boiler", 10)
            await house.settled()
            house.arrived("Boiler")
            (parked,) = await house.store.events.parked(10)
            assert "already assigned" in parked.reason
            house.unblemished()


async def test_a_device_beyond_the_quota_does_not_stop_the_others(tmp_path):
    async with strict_sim() as sim:
        sim.faults.update({"device_quota": 3})  # two are the cloud's own
        async with CloudHouse(tmp_path, sim, TWO) as house:
            house.connect()
            await house.ready()
            await asyncio.gather(*(house.post(name, 20) for name in TWO))
            await house.settled()
            assert sim.state()["quota_reached"] >= 1
            (taken,) = [name for name in TWO if sim.world.named("DEVICE", name)]
            house.arrived(taken)
            assert sim.state()["connects"] == 1
            house.unblemished()


async def test_a_device_beyond_the_quota_is_noticed_and_announced_again_with_each_sync_until_the_cloud_takes_it(
    tmp_path,
):
    async with strict_sim() as sim:
        sim.faults.update({"device_quota": 3})  # two are the cloud's own
        async with CloudHouse(tmp_path, sim, TWO) as house:
            house.connect()
            await house.ready()
            await asyncio.gather(*(house.post(name, 5) for name in TWO))
            await house.settled()
            (missing,) = [name for name in TWO if sim.world.named("DEVICE", name) is None]
            await _synced_again(sim, house)  # once not named: it may have been deleted there, which is told after it
            await house.settled()
            assert house.downlink.sync.untaken() == []
            assert sim.state()["quota_reached"] == 1
            for syncs in (1, 2):  # the quota is still used up
                await _synced_again(sim, house)
                assert house.downlink.sync.untaken() == [missing]
                await until(lambda times=syncs: sim.state()["quota_reached"] == 1 + times, "announced again")
                await house.settled()
                assert house.counters.get("devices.announced_again") == syncs
            sim.faults.update({"device_quota": None})
            await _synced_again(sim, house)
            await until(lambda: sim.world.named("DEVICE", missing), "taken at last")
            before = sim.device_state(missing)["events"]
            await house.post(missing, 5)
            await house.settled()
            assert sim.device_state(missing)["events"] == before + 5
            assert sim.device_state(missing)["credentials_type"] == "ACCESS_TOKEN"
            await _synced_again(sim, house)
            assert house.downlink.sync.untaken() == []
            assert house.counters.get("devices.announced_again") == 3
            house.unblemished()


async def _synced_again(sim, house):
    before, connects = house.state.setting(SYNC_MS), sim.state()["connects"]
    await asyncio.sleep(0.002)  # the reports are told apart by the millisecond
    await sim.reset()
    await until(lambda: sim.state()["connects"] > connects and house.state.setting(SYNC_MS) != before, "synced again")
    await house.ready()


async def test_another_identity_gets_our_devices_anew(tmp_path):
    async with connected(tmp_path, TWO) as (sim, house):
        await asyncio.gather(*(house.post(name, 10) for name in TWO))
        await house.settled()
        old = {house.device(name).id for name in TWO}
        await sim.new_identity()
        await house.ready(2)
        await house.heard()
        assert sim.syncs_asked() == [True, True]
        assert not old & {house.device(name).id for name in TWO}
        await asyncio.gather(*(house.post(name, 10) for name in TWO))
        await house.settled()
        for name in TWO:
            held = sim.device_state(name)
            assert (held["seq_high"], held["events"], held["out_of_order"]) == (20, 10, 0)
        house.unblemished()


@pytest.mark.parametrize("kind", CustomerKind)
async def test_the_edges_customer_comes_in_three_ways_and_two_of_them_mean_none(tmp_path, kind):
    async with connected(tmp_path, customer=kind) as (sim, house):
        identity = house.state.identity()
        assert identity is not None
        assert identity.customer_id == (sim.world.customer_id if kind is CustomerKind.REAL else None)
        house.unblemished()


async def test_a_change_of_the_edge_is_taken_over_without_a_new_connection(tmp_path):
    async with connected(tmp_path) as (sim, house):
        await sim.rename_edge("Plant 2")
        await until(lambda: house.link.status()["edge"] == "Plant 2", "the name did not arrive")
        await sim.set_customer(CustomerKind.REAL)
        await until(
            lambda: (identity := house.state.identity()) and identity.customer_id == sim.world.customer_id,
            "the customer did not arrive",
        )
        await house.post("Boiler", 5)
        await house.settled()
        house.arrived("Boiler")
        assert sim.state()["connects"] == 1
        house.unblemished()


# ── releases ──


@pytest.mark.parametrize(
    ("version", "flavour"),
    [
        ("3.7", Flavour.THINGSBOARD),
        ("3.7", Flavour.WINSTAR),
        ("4.0", Flavour.THINGSBOARD),
        ("4.2", Flavour.THINGSBOARD),
        ("4.3", Flavour.THINGSBOARD),
    ],
)
async def test_every_release_is_served_in_full(tmp_path, version, flavour):
    async with connected(tmp_path, version=version, flavour=flavour) as (sim, house):
        session = house.session("Boiler")
        house.channels["Boiler"].answer = RpcResponse(response='{"ok":1}')
        await house.post("Boiler", 20)
        await session.post_attributes({"firmware": "a1"})
        await house.settled()
        house.arrived("Boiler")
        assert sim.device_state("Boiler")["attributes"]["CLIENT_SCOPE"] == {"firmware": "a1"}
        assert (await sim.rpc("Boiler", "set", {"x": 1})).response == '{"ok":1}'
        await sim.set_attributes("Boiler", "SHARED_SCOPE", {"target": 1})
        await until(lambda: {"target": 1} in house.channels["Boiler"].attributes, "no push")
        await sim.create_device("Fan", token="fan-token")
        # before 3.8 a device comes without its credentials: they have to be asked for
        await until(lambda: house.inlet.find_credentials("fan-token"), "the new device cannot log in")
        assert sim.device_state("Boiler")["credentials_type"] == "ACCESS_TOKEN"
        root_id = sim.world.root_chain_id
        assert house.state.setting("root_chain") == str(root_id)
        loaded = {chain["id"]: chain for chain in house.rules.chains()}
        assert len(loaded[str(root_id)]["nodes"]) == len(sim.world.metadata[root_id]["nodes"])  # before 3.8 on request
        await sim.delete_device("Fan")
        await until(lambda: house.inlet.find_credentials("fan-token") is None, "the deleted device can log in")
        await house.heard()
        assert await house.store.events.parked(10) == []
        house.unblemished()


async def test_another_edition_is_refused_and_nothing_is_sent_to_it(tmp_path):
    async with strict_sim(cloud_type="PE") as sim, CloudHouse(tmp_path, sim) as house:
        house.connect()
        await house.post("Boiler", 5)
        await until(lambda: "PE edition" in str(house.link.status()["last_error"]), "the person is not told")
        assert {one.msgType for one in sim.heard} == {edge_pb2.CONNECT_RPC_MESSAGE}
        await sim.upgrade(cloud_type="CE")
        await house.ready()
        await house.settled()
        house.arrived("Boiler")
        house.unblemished()
