"""What the reconcile report says, on the real device room and dispatcher with fakes below."""

import json
from uuid import UUID

import pytest

from gateway.cli_sync import lines
from gateway.devices.state import REMOVED, State
from gateway.domain.changes import SaveDevice, SaveSetting
from gateway.domain.downlink import CredentialsUpdated, Downlink, EntityUpdated, SyncCompleted, UpdateKind
from gateway.domain.entity import Device, EdgeIdentity, Origin
from gateway.downlink import Dispatcher
from gateway.downlink.sync_log import MOST_LISTED, SYNC_REPORT, SyncLog
from gateway.errors import RejectedError
from gateway.ports import Snapshot
from tests.fakes.house import House

EDGE = EdgeIdentity(edge_id=UUID(int=1), tenant_id=UUID(int=2), name="Cellar")
PROFILE = {"deviceProfileId": {"entityType": "DEVICE_PROFILE", "id": str(UUID(int=50))}}
QUEUE = {"pending": 3, "pending_express": 1, "parked": 0}


class NoChains:
    def put_chain(self, chain_id, chain): ...
    def put_metadata(self, chain_id, metadata): ...
    def remove_chain(self, chain_id): ...


@pytest.fixture
async def house():
    async with House() as house:
        house.dispatcher = Dispatcher(
            house.commands, NoChains(), house.pipeline.commit, house.state, house.clock, house.counters
        )
        yield house


def device(number, name, **more):
    json = {"name": name, "type": "default", **PROFILE, **more}
    return EntityUpdated("DEVICE", UpdateKind.CREATED, UUID(int=number), json)


def completed():
    return Downlink(99, (SyncCompleted(),))


async def test_a_sync_from_its_beginning_to_its_report(house):
    assert house.dispatcher.sync.view(with_diff=True)["last"] is None
    assert await house.dispatcher.connected(EDGE)
    await house.clock.advance(2.5)
    await house.dispatcher.handle(Downlink(1, (device(10, "A"),)))
    running = house.dispatcher.sync.view(with_diff=False)["running"]
    assert (running["kind"], running["messages"]) == ("full", 1)
    await house.dispatcher.handle(completed())
    view = house.dispatcher.sync.view(with_diff=False)
    assert view["running"] is None
    assert (view["last"]["kind"], view["last"]["messages"], view["last"]["duration_ms"]) == ("full", 2, 2500)
    assert "diff" not in view
    assert not await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(completed())
    assert house.dispatcher.sync.view(with_diff=False)["last"]["kind"] == "delta"


async def test_what_a_sync_does_not_name_is_listed_until_the_cloud_names_it(house):
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(Downlink(1, (device(10, "A"), device(11, "B"))))
    await house.dispatcher.handle(completed())
    ours = house.add_device("Ours")
    await house.clock.advance(1)
    new = Device(id=UUID(int=14), name="New", type="default", created_ms=house.clock.now_ms())
    house.state.apply([SaveDevice(new)])  # announced after the sync that comes now
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(Downlink(2, (device(11, "B"),)))
    await house.dispatcher.handle(completed())
    diff = house.dispatcher.sync.view(with_diff=True)["diff"]
    assert {(one["name"], one["note"].split(":")[0].split(";")[0]) for one in diff["only_here"]} == {
        ("A", "the cloud does not name it any more"),
        ("Ours", "made here"),
    }
    again = SyncLog(
        State(Snapshot(devices=list(house.state.devices()), settings=dict(house.state.settings("")))), house.clock
    )  # after a restart
    assert again.view(with_diff=True)["diff"]["only_here"] == diff["only_here"]
    await house.dispatcher.handle(Downlink(3, (device(10, "A"),)))
    gone = EntityUpdated("DEVICE", UpdateKind.DELETED, ours.id, None)
    await house.dispatcher.handle(Downlink(4, (gone,)))
    diff = house.dispatcher.sync.view(with_diff=True)["diff"]
    assert diff["only_here"] == []
    assert [one["name"] for one in diff["removed_by_cloud"]] == ["Ours"]


async def test_a_sync_that_was_cut_off_counts_what_it_had_named(house):
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(Downlink(1, (device(10, "A"),)))
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(completed())
    view = house.dispatcher.sync.view(with_diff=True)
    assert (view["last"]["attempts"], view["diff"]["only_here"]) == (2, [])


async def test_the_end_of_a_sync_that_the_cloud_repeats_is_no_sync_of_its_own(house):
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(Downlink(1, (device(10, "A"),)))
    await house.dispatcher.handle(completed())
    before = house.dispatcher.sync.view(with_diff=True)
    await house.clock.advance(60)
    await house.dispatcher.handle(completed())
    assert house.dispatcher.sync.view(with_diff=True) == before
    assert before["diff"]["only_here"] == []


async def test_a_full_sync_from_the_cloud_s_page_begins_with_the_tenant(house):
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(Downlink(1, (device(10, "A"),)))
    await house.dispatcher.handle(completed())
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(completed())
    await house.clock.advance(100)
    tenant = EntityUpdated("TENANT", UpdateKind.UPDATED, EDGE.tenant_id, {"title": "T"})
    await house.dispatcher.handle(Downlink(2, (tenant,)))
    await house.dispatcher.handle(completed())
    view = house.dispatcher.sync.view(with_diff=True)
    assert (view["last"]["kind"], view["last"]["messages"]) == ("full", 2)
    assert [one["name"] for one in view["diff"]["only_here"]] == ["A"]


async def test_fields_aliases_conflicts_and_credentials_without_their_values(house):
    await house.dispatcher.connected(EDGE)
    secret = {"credentialsType": "ACCESS_TOKEN", "credentialsId": "hunter2-cloud"}
    await house.dispatcher.handle(
        Downlink(1, (device(10, "A", label="cloud's"), CredentialsUpdated(UUID(int=10), secret)))
    )
    await house.dispatcher.handle(completed())
    held = house.state.device(UUID(int=10))
    house.state.apply(
        [
            SaveDevice(
                Device(
                    id=held.id,
                    name="A",
                    local_name="Alt",
                    type="default",
                    label="ours",
                    origin=Origin.CLOUD,
                    credentials=held.credentials,
                    json=held.json,
                )
            ),
            SaveDevice(Device(id=UUID(int=12), name="Alt", type="default")),
        ]
    )
    house.dispatcher.sync.credentials(held.id, {**secret, "credentialsId": "hunter2-other"})
    view = house.dispatcher.sync.view(with_diff=True)
    assert {(one["field"], one["cloud"], one["here"]) for one in view["diff"]["differing"]} == {
        ("label", "cloud's", "ours"),
        ("credentials", "ACCESS_TOKEN (another value)", "ACCESS_TOKEN"),
    }
    assert [(one["local_name"], one["name"]) for one in view["diff"]["aliases"]] == [("Alt", "A")]
    assert [(one["name"], len(one["ids"])) for one in view["diff"]["name_conflicts"]] == [("Alt", 2)]
    assert "hunter2" not in json.dumps(view)
    text = "\n".join(lines({**view, "queue": QUEUE}))
    assert "owed to the cloud: 4 events wait, 0 parked" in text
    assert "differs: DEVICE 'A' label: cloud \"cloud's\", here 'ours'" in text
    assert "conflict: 2 devices are known as 'Alt'" in text
    house.dispatcher.sync.credentials(held.id, secret)
    assert [one["field"] for one in house.dispatcher.sync.view(with_diff=True)["diff"]["differing"]] == ["label"]


async def test_what_could_not_be_applied_is_in_the_report(house):
    await house.dispatcher.connected(EDGE)
    nameless = EntityUpdated("DEVICE", UpdateKind.CREATED, UUID(int=13), {"type": "default", **PROFILE})
    with pytest.raises(RejectedError):
        await house.dispatcher.handle(Downlink(1, (nameless,)))
    await house.dispatcher.handle(completed())
    view = house.dispatcher.sync.view(with_diff=True)
    assert view["last"]["result"] == "1 parts refused here"
    (refused,) = view["diff"]["refused"]
    assert refused["what"] == f"DEVICE {UUID(int=13)}"
    assert "'name' is missing" in refused["reason"]


async def test_the_report_of_another_edge_says_nothing_of_this_one(house):
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(completed())
    other = EdgeIdentity(edge_id=UUID(int=7), tenant_id=UUID(int=2), name="Other")
    house.state.apply([SaveSetting("edge_identity", other.to_json())])
    assert house.dispatcher.sync.view(with_diff=True)["last"] is None


async def test_it_is_bounded(house):
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(completed())
    many = [Device(id=UUID(int=1000 + n), name=f"D{n}", type="default") for n in range(MOST_LISTED + 7)]
    house.state.apply([SaveDevice(one) for one in many])
    await house.dispatcher.connected(EDGE)
    await house.dispatcher.handle(completed())
    assert len(house.state.setting(SYNC_REPORT)["unnamed"]) == MOST_LISTED
    diff = house.dispatcher.sync.view(with_diff=True)["diff"]
    assert (len(diff["only_here"]), diff["not_listed"]) == (MOST_LISTED, 7)
    house.state.apply([SaveSetting(REMOVED, {f"R{n}": {"id": "x", "at_ms": 1} for n in range(MOST_LISTED + 1)})])
    assert house.dispatcher.sync.view(with_diff=True)["diff"]["not_listed"] == 8
