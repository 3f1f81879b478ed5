"""Connections that end soon: a mute stream, a line that comes and goes, another edition."""

import asyncio
import logging

import grpc
import pytest

from gateway.cloud.endings import HELD_S
from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.server import CloudSim
from gateway.errors import RefusedError, TransientError
from gateway.supervise import Backoff, supervise
from tests.fakes.clock import FakeClock
from tests.unit.cloud.line import Handler, make, ready, running
from tests.unit.cloud.server import serving, until

PE = {"edgeIdMSB": 1, "edgeIdLSB": 2, "name": "n", "cloudType": "PE"}
KEY = {"routing_key": "demo-edge", "routing_secret": "demo-secret"}


async def test_a_mute_stream_is_noticed_without_any_traffic_and_the_third_one_says_why():
    """Servers before 4.0.2 leave the stream of a gateway open when another one takes its place."""
    async with CloudSim(CloudSimOptions(version="3.7", http_port=None, devices=())) as sim:
        quick = {"probe_s": 0.3, "answer_timeout_s": 0.4, "reconnect_ms": 10, "reconnect_max_ms": 500}
        link = make(sim.grpc_port, **KEY, **quick)
        for number, text in ((1, "has not answered"), (2, "has not answered"), (3, "falls silent soon after")):
            async with running(link) as task:
                assert await asyncio.wait_for(link.wait_ready(), 5) == number
                await sim.takeover()
                with pytest.raises(RefusedError if number == 3 else TransientError, match=text):
                    await asyncio.wait_for(task, 5)
        assert "same routing key" in link.status()["last_error"]
        assert sim.count("connects") == 3


async def test_an_idle_link_is_asked_now_and_then_and_stays():
    async with CloudSim(CloudSimOptions(version="3.7", http_port=None, devices=())) as sim:
        link = make(sim.grpc_port, **KEY, probe_s=0.1, answer_timeout_s=1.0)
        async with running(link) as task:
            await asyncio.wait_for(link.wait_ready(), 5)
            await until(lambda: link._counters.get("cloud.probes") >= 2)
            await until(lambda: link.status()["in_flight"] == 0)
            assert not task.done()
            assert not link._counters.get("cloud.answers_unknown")


@pytest.mark.parametrize(
    "message",
    [{"edgeUpdateMsg": {"configuration": PE}}, {"downlinkMsg": {"downlinkMsgId": 9, "edgeConfiguration": PE}}],
    ids=["EdgeUpdateMsg", "edgeConfiguration"],
)
async def test_another_edition_is_refused_whenever_it_shows(message):
    async def conduct(peer):
        await ready(peer)
        await peer.write(**message)
        await asyncio.Event().wait()

    handler = Handler()
    async with serving(conduct) as (server, port):
        link = make(port, handler)
        with pytest.raises(RefusedError, match="PE edition; only the Community Edition"):
            await asyncio.wait_for(link.serve(), 5)
        assert "PE edition" in link.status()["last_error"]
    assert len(handler.identities) == len(handler.downlinks) == 1  # nothing of it was applied
    assert len(server.peers[0].requests) == 3  # or acknowledged


async def test_a_line_that_comes_and_goes_is_told_as_one_outage_until_it_holds(caplog):
    holds = False

    async def conduct(peer):
        await ready(peer)
        if holds:
            await asyncio.Event().wait()
        await peer.context.abort(grpc.StatusCode.INTERNAL, "gone")

    class Clock(FakeClock):
        async def sleep(self, delay_s):
            if delay_s < 0.4:  # the pause between two tries
                await asyncio.sleep(0)
            else:
                await super().sleep(delay_s)

    caplog.set_level(logging.INFO, logger="gateway")
    clock = Clock()
    async with serving(conduct) as (_, port):
        link = make(port, clock=clock, probe_s=0)
        task = asyncio.create_task(supervise("cloud", link.serve, Backoff(0.01, 0.02), clock, spells=link.spells))
        try:
            await until(lambda: link._counters.get("cloud.flaps") >= 6)
            told = len(caplog.records)
            assert told <= 6  # three outages of two lines, the last without its end
            assert caplog.records[-1].levelno == logging.WARNING
            holds = True
            async with asyncio.timeout(5):
                while len(caplog.records) == told:
                    await clock.advance(1)
                    await asyncio.sleep(0.005)
            assert clock.monotonic_s() >= HELD_S
            (record,) = caplog.records[told:]
            assert "connected to" in record.getMessage()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
