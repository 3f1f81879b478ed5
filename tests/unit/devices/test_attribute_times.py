"""The time of a device's attributes only grows: through sessions, restarts, and a clock that is set back."""

from __future__ import annotations

import pytest

from gateway.domain.changes import SaveAttributes, SaveDevice, SaveSetting
from gateway.domain.telemetry import Attribute
from gateway.ports import Snapshot, attributes_mark
from tests.fakes.house import FakeChannel, House

SCOPE = "CLIENT_SCOPE"


def posted(house: House) -> list[int]:
    return [m.ts_ms for m in house.rules.seen if m.type == "POST_ATTRIBUTES_REQUEST"]


async def test_another_session_goes_on_where_the_one_before_was():
    async with House() as house:
        device = house.add_device()
        now_ms = house.clock.now_ms()
        for opened in (house.inlet.open_session, house.inlet.open_session, house.inlet.open_visit):
            opened(device, FakeChannel()).post_attributes({"n": 1})  # nothing is durable yet
        assert posted(house) == [now_ms, now_ms + 1, now_ms + 2]


@pytest.mark.parametrize("known_by", ["a stored attribute", "a mark", "the newest event"])
async def test_after_a_restart_with_the_clock_set_back_attributes_are_later_than_what_the_cloud_holds(known_by):
    async with House() as before:
        device, later_ms = before.add_device(), before.clock.now_ms() + 3_600_000
    snapshot = Snapshot(devices=[device])
    match known_by:
        case "a stored attribute":
            snapshot.attributes = [(device.entity_id, SCOPE, "fw", Attribute(later_ms, "1"))]
        case "a mark":
            snapshot.settings[attributes_mark(device.entity_id, SCOPE)] = later_ms
        case "the newest event":
            snapshot.newest_ms = later_ms
    async with House(snapshot) as house:
        session = house.inlet.open_session(device, FakeChannel())
        session.post_attributes({"n": 1})
        session.post_attributes({"n": 2})
        assert posted(house) == [later_ms + 1, later_ms + 2]


async def test_a_device_that_comes_back_after_its_deletion_begins_anew():
    async with House() as house:
        device, later_ms = house.add_device(), house.clock.now_ms() + 3_600_000
        mark = attributes_mark(device.entity_id, SCOPE)
        house.state.apply([SaveAttributes(device.entity_id, SCOPE, later_ms, {"fw": "1"}), SaveSetting(mark, later_ms)])
        house.inlet.open_session(device, FakeChannel()).post_attributes({"n": 1})
        await house.commands.delete_device(device.id)
        assert house.state.setting(mark) is None
        house.state.apply([SaveDevice(device)])
        house.inlet.open_session(device, FakeChannel()).post_attributes({"n": 2})
        assert posted(house) == [later_ms + 1, house.clock.now_ms()]
