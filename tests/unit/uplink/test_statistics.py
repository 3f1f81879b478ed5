"""What is reported of the way up, and when."""

import asyncio
import contextlib

import orjson
import pytest

from gateway.config import CloudConfig
from gateway.domain.entity import EdgeIdentity
from gateway.supervise import Counters
from gateway.uplink.statistics import Statistics
from tests.fakes.clock import FakeClock
from tests.fakes.committer import FakeCommitter
from tests.fakes.link import FakeLink
from tests.unit.uplink.build import ListEvents, entity


class Known:
    def __init__(self) -> None:
        self.edge = EdgeIdentity(edge_id=entity(9), tenant_id=entity(8))

    def identity(self):
        return self.edge


class Setup:
    def __init__(self, interval_s=60) -> None:
        self.clock, self.link, self.committer = FakeClock(1_700_000_000_000), FakeLink(), FakeCommitter()
        self.state, self.counters, self.events = Known(), Counters(), ListEvents()
        config = CloudConfig(stats_interval_s=interval_s)
        self.room = Statistics(config, self.events, self.link, self.committer, self.state, self.clock, self.counters)

    @property
    def reports(self):
        return [orjson.loads(event.body) for event in self.committer.events()]


@pytest.fixture
async def setup():
    made = Setup()
    task = asyncio.create_task(made.room.serve())
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_report_has_the_vendor_s_keys_and_the_interval_s_time(setup):
    for _ in range(5):
        setup.events.append(1)
    setup.counters.add("uplink.acked", 3)
    setup.counters.add("uplink.parked")
    setup.counters.add("uplink.resent", 2)
    setup.events.cursors[0] = 4
    await setup.clock.advance(41)
    [event] = setup.committer.events()
    assert (event.type, event.action, event.entity_id) == ("EDGE", "TIMESERIES_UPDATED", entity(9))
    assert setup.reports == [
        {
            "ts": 1_700_000_040_000,
            "data": {
                "uplinkMsgsAdded": 5,
                "uplinkMsgsPushed": 3,
                "uplinkMsgsPermanentlyFailed": 1,
                "uplinkMsgsTmpFailed": 2,
                "uplinkMsgsLag": 1,
            },
        }
    ]


async def test_counters_begin_again_with_each_report(setup):
    setup.counters.add("uplink.acked", 3)
    await setup.clock.advance(41)
    setup.counters.add("uplink.acked", 4)
    await setup.clock.advance(60)
    assert [report["data"]["uplinkMsgsPushed"] for report in setup.reports] == [3, 4]
    assert [report["ts"] % 60_000 for report in setup.reports] == [0, 0]


async def test_an_outage_makes_one_report_and_loses_nothing(setup):
    setup.link.lose()
    setup.counters.add("uplink.resent", 3)
    for _ in range(100):
        await setup.clock.advance(60)
    assert setup.reports == []
    setup.link.connect()
    await setup.clock.advance(60)
    assert [report["data"]["uplinkMsgsTmpFailed"] for report in setup.reports] == [3]


async def test_nothing_before_we_know_who_we_are(setup):
    known, setup.state.edge = setup.state.edge, None
    await setup.clock.advance(200)
    assert setup.reports == []
    setup.state.edge = known
    await setup.clock.advance(60)
    assert len(setup.reports) == 1


async def test_an_interval_of_zero_reports_never():
    made = Setup(interval_s=0)
    await asyncio.wait_for(made.room.serve(), 1)
    assert made.reports == []
