"""The link on a line that goes wrong: silent, reset, closed, slow; and a second gateway with the same key."""

import asyncio
import itertools
import logging
import time

import grpc
import pytest

from gateway.cloud.pb import edge_pb2_grpc
from gateway.errors import LinkLost, RefusedError, TransientError
from gateway.supervise import Backoff, supervise
from tests.fakes.clock import FakeClock
from tests.fakes.tcp_proxy import TcpProxy
from tests.unit.cloud.line import Handler, make, reading, ready, running, stay
from tests.unit.cloud.server import Server, serving, until

QUICK_PINGS = {"keepalive_s": 1, "keepalive_timeout_s": 0.5}


async def until_ready(link):
    return await asyncio.wait_for(link.wait_ready(), 5)


@pytest.mark.parametrize("direction", ["up", "down", "both"])
async def test_an_idle_line_that_falls_silent_is_noticed_by_pings(direction):
    async with serving(stay) as (_, port), TcpProxy(port).listening() as line:
        link = make(line.port, **QUICK_PINGS)
        async with running(link) as task:
            await until_ready(link)
            line.is_up_silent = direction != "down"
            line.is_down_silent = direction != "up"
            with pytest.raises(TransientError, match=r"UNAVAILABLE|HTTP/2|TCP"):
                await asyncio.wait_for(task, 6)
            assert not link.is_ready


@pytest.mark.parametrize("direction", ["up", "down", "both"])
async def test_a_busy_line_that_falls_silent_is_noticed_by_its_oldest_message_and_rebuilt(direction):
    async with serving(stay) as (server, port), TcpProxy(port).listening() as line:
        link = make(line.port, answer_timeout_s=0.3)  # pings far slower: 30 s
        async with running(link) as task:
            assert await until_ready(link) == 1
            assert (await asyncio.wait_for(link.send([reading()]), 5)).is_success
            line.is_up_silent = direction != "down"
            line.is_down_silent = direction != "up"
            future = link.send([reading(2)])
            with pytest.raises(LinkLost, match=r"has not answered for 0\.3 s"):
                await asyncio.wait_for(future, 3)
            with pytest.raises(TransientError, match="has not answered"):
                await asyncio.wait_for(task, 3)
        line.is_up_silent = line.is_down_silent = False
        async with running(link):
            assert await until_ready(link) == 2
            assert (await asyncio.wait_for(link.send([reading(2)]), 5)).is_success
        assert line.connections == 2
        assert len(server.peers) == 2


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_line_that_is_cut_ends_the_session_at_once(how):
    async with serving(stay) as (_, port), TcpProxy(port).listening() as line:
        link = make(line.port)
        async with running(link) as task:
            await until_ready(link)
            getattr(line, how)()
            with pytest.raises(TransientError, match="TCP"):
                await asyncio.wait_for(task, 3)
        async with running(link):
            assert await until_ready(link) == 2


async def test_a_server_that_says_goaway_is_left_and_found_again():
    async with serving(stay) as (_, port):
        pass  # a port that is free again
    handler = Handler()

    async def one_life(link):
        async with running(link) as task:
            await until_ready(link)
            await server.stop(0.05)  # GOAWAY, then the streams are cancelled
            with pytest.raises(TransientError, match="HTTP/2: the server ends the connection; it stops or restarts"):
                await asyncio.wait_for(task, 3)

    link = None
    for _ in range(2):
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        edge_pb2_grpc.add_EdgeRpcServiceServicer_to_server(Server(stay), server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        link = link or make(port, handler)
        await one_life(link)
    assert link.status()["session"] == 2
    assert len(handler.identities) == 2


async def test_a_round_trip_of_200_ms_only_delays():
    async with serving(stay) as (_, port), TcpProxy(port).listening() as line:
        line.delay_s = 0.1
        link = make(line.port)
        async with running(link):
            await until_ready(link)
            started_s = time.monotonic()
            answers = await asyncio.wait_for(asyncio.gather(*(link.send([reading(n)]) for n in range(10))), 5)
            assert all(answer.is_success for answer in answers)
            assert 0.2 <= time.monotonic() - started_s < 1.5  # together, not one after the other


async def test_gzip_makes_the_bytes_on_the_line_fewer():
    sent = {}
    async with serving(stay) as (server, port):
        for is_on in (True, False):
            async with TcpProxy(port).listening() as line:
                link = make(line.port, gzip=is_on)
                async with running(link):
                    await until_ready(link)
                    assert (await asyncio.wait_for(link.send([reading("x" * 50_000)]), 5)).is_success
                    sent[is_on] = line.bytes_up
        values = [peer.requests[3].uplinkMsg.entityData[0] for peer in server.peers]
    assert values[0] == values[1]
    assert sent[True] < 5_000
    assert sent[False] > 50_000


# ── two gateways with one key ────────────────────────────────────────────────────────────────


class Evicting:
    """A cloud as ThingsBoard since 4.0.2: the new stream wins, the old one is completed with OK."""

    def __init__(self):
        self.last = None

    async def __call__(self, peer):
        gone = asyncio.Event()
        await peer.accept()
        if self.last:
            self.last.set()
        self.last = gone
        await peer.sync()
        await gone.wait()


async def test_two_gateways_with_one_key_back_off_and_say_so(caplog):
    caplog.set_level(logging.WARNING)
    async with serving(Evicting()) as (_, port):
        mine, other = make(port, reconnect_ms=20, reconnect_max_ms=30_000), make(port)
        delays = []

        class Clock(FakeClock):
            async def sleep(self, delay_s):
                delays.append(delay_s)
                await asyncio.sleep(0)

        backoff = Backoff(0.02, 30.0)
        task = asyncio.create_task(supervise("cloud", mine.serve, backoff, Clock(), spells=mine.spells))
        try:
            for number in range(1, 4):  # the other one comes back each time and takes over
                await asyncio.wait_for(until_session(mine, number), 5)
                async with running(other):
                    await until(lambda number=number: len(delays) == number)
                    if number == 3:
                        break
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert max(delays[:2]) < 0.1
    assert delays[2] >= 15  # half of the longest at least
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("another gateway uses the same routing key" in text for text in warnings) == 1


async def until_session(link, number):
    while await link.wait_ready() != number:
        await asyncio.sleep(0.005)


async def test_a_long_session_that_the_cloud_completes_is_no_eviction():
    async def conduct(peer):
        await ready(peer)
        await peer.read()

    class Slow(FakeClock):
        """Every look at it costs a minute."""

        def monotonic_s(self):
            self._monotonic_s += 60
            return self._monotonic_s

    async with serving(conduct) as (_, port):
        link = make(port, clock=Slow(), reconnect_max_ms=10_000)
        for _ in range(4):
            async with running(link) as task:
                await until_ready(link)
                link.send([reading()]).cancel()
                with pytest.raises(TransientError, match="closed the stream"):
                    await asyncio.wait_for(task, 3)


async def test_another_end_in_between_is_no_eviction():
    async def conduct(peer):
        await ready(peer)
        if len(server.peers) == 3:
            await peer.context.abort(grpc.StatusCode.INTERNAL, "")

    async with serving(conduct) as (server, port):
        link = make(port)
        for number in range(1, 6):
            with pytest.raises(TransientError) as error:
                await asyncio.wait_for(link.serve(), 5)
            assert not isinstance(error.value, RefusedError), number
        with pytest.raises(RefusedError, match="routing key"):
            await asyncio.wait_for(link.serve(), 5)


# ── what the log says ────────────────────────────────────────────────────────────────────────


async def test_an_outage_has_two_lines_however_many_attempts_it_takes(caplog):
    caplog.set_level(logging.INFO, logger="gateway")
    attempts = []

    class Clock(FakeClock):
        async def sleep(self, delay_s):
            if delay_s < 1:
                await asyncio.sleep(delay_s)  # the link's own watch
            else:
                attempts.append(delay_s)

    async with serving(stay) as (_, port), TcpProxy(port).listening() as line:
        link = make(line.port)
        task = asyncio.create_task(supervise("cloud", link.serve, Backoff(10, 20), Clock(), spells=link.spells))
        try:
            for outage in (1, 2):
                await asyncio.wait_for(until_session(link, outage), 5)
                attempts.clear()
                line.target, kept = 1, line.target  # nobody there
                line.reset()
                await until(lambda: len(attempts) > 5)
                line.target = kept
            await asyncio.wait_for(until_session(link, 3), 5)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    texts = [record.getMessage() for record in caplog.records]
    assert sum("connected to" in text for text in texts) == 3
    borders = [number for number, text in enumerate(texts) if "connected to" in text]
    for begin, end in itertools.pairwise(borders):
        warnings = [text for text in texts[begin:end] if "trying again" in text]
        assert warnings[0].startswith("cloud: 127.0.0.1:")
        assert len(warnings) == len(set(warnings))  # each reason once
        assert len(warnings) <= 3  # the line broke (reset, or closed in the middle of an attempt); what the probe finds


# ── syncs that nobody asked for ──────────────────────────────────────────────────────────────


async def test_a_sync_started_in_the_cloud_s_page_does_not_stop_the_uplink():
    async def conduct(peer):
        await ready(peer)
        for id_ in range(10, 13):
            device = {"idMSB": 1, "idLSB": id_, "entity": '{"name": "d"}'}
            await peer.write(downlinkMsg={"downlinkMsgId": id_, "deviceUpdateMsg": [device]})
        uplinks = acks = 0
        while uplinks < 2 or acks < 4:
            request = await peer.read()
            if request.HasField("uplinkMsg"):
                uplinks += 1
                await peer.write(uplinkResponseMsg={"uplinkMsgId": request.uplinkMsg.uplinkMsgId, "success": True})
                if uplinks == 1:
                    await peer.write(downlinkMsg={"downlinkMsgId": 13, "syncCompletedMsg": {}})
            else:
                acks += 1
        await peer.read()

    handler = Handler()
    async with serving(conduct) as (_, port):
        link = make(port, handler)
        async with running(link):
            assert await until_ready(link) == 1
            assert (await asyncio.wait_for(link.send([reading(1)]), 5)).is_success
            await until(lambda: len(handler.downlinks) == 5)  # the first sync's end, three devices, the second's end
            assert link.is_ready
            assert (await asyncio.wait_for(link.send([reading(2)]), 5)).is_success
            assert (link.status()["state"], link.status()["session"]) == ("ready", 1)


async def test_every_reconnect_asks_for_a_light_sync():
    async def conduct(peer):
        await ready(peer)

    handler = Handler(is_full=True)
    async with serving(conduct) as (server, port):
        link = make(port, handler)
        for _ in range(2):
            with pytest.raises(TransientError):
                await asyncio.wait_for(link.serve(), 5)
            handler.is_full = False
        syncs = [peer.requests[1].syncRequestMsg for peer in server.peers]
        assert [(sync.HasField("fullSync"), sync.fullSync) for sync in syncs] == [(True, True), (True, False)]
