"""`GrpcLink` against a real server on a real socket."""

import asyncio
import contextlib
import logging
import subprocess

import grpc
import pytest

from gateway.cloud.codec import halves
from gateway.cloud.link import GrpcLink
from gateway.config import CloudConfig
from gateway.domain.downlink import EntityUpdated, SyncCompleted
from gateway.errors import LinkLost, RefusedError, RejectedError, TransientError
from gateway.supervise import Counters, SystemClock
from tests.unit.cloud.build import DEVICE_ID, SECOND_ID, TS, State, event
from tests.unit.cloud.server import serving, until


class Handler:
    """A `DownlinkHandler` that remembers."""

    def __init__(self, *, is_full: bool = True) -> None:
        self.is_full = is_full
        self.identities = []
        self.downlinks = []
        self.refuse = ""
        self.begun = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def connected(self, identity):
        self.identities.append(identity)
        return self.is_full

    async def handle(self, downlink):
        self.begun += 1
        await self.gate.wait()
        self.downlinks.append(downlink)
        if self.refuse:
            raise RejectedError(self.refuse)


def make(port, handler=None, **settings) -> GrpcLink:
    values = {"routing_key": "key-1", "routing_secret": "secret-1", "host": "127.0.0.1", "port": port, **settings}
    return GrpcLink(CloudConfig(**values), handler or Handler(), State(), SystemClock(), Counters())


@contextlib.asynccontextmanager
async def running(link):
    """The link's one connection; yields its task, which must not end by a bug."""
    task = asyncio.create_task(link.serve())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TransientError, RefusedError):
            await task


async def hold(peer):
    """Stay connected and silent."""
    await asyncio.Event().wait()


def edge(id_):
    """What an edge says of itself on the wire."""
    high, low = halves(id_)
    return {"edgeIdMSB": high, "edgeIdLSB": low, "name": "Other", "cloudType": "CE"}


async def ready(peer):
    await peer.accept()
    await peer.sync()


def reading(value=1, seq_id=1):
    return event("TIMESERIES_UPDATED", {"ts": TS, "data": {"t": value}}, seq_id=seq_id)


async def test_connect_sync_ready():
    async def conduct(peer):
        await ready(peer)
        await hold(peer)

    handler = Handler()
    async with serving(conduct) as (server, port):
        link = make(port, handler, max_inbound_bytes=50_000)
        assert not link.is_ready
        assert link.status()["state"] == "closed"
        async with running(link):
            assert await asyncio.wait_for(link.wait_ready(), 5) == 1
            assert link.max_message_bytes == 100_000 - 4096
            await until(lambda: len(server.peers[0].requests) == 3)
            connect, sync, ack = server.peers[0].requests
            assert connect.connectRequestMsg.edgeRoutingKey == "key-1"
            assert connect.connectRequestMsg.edgeSecret == "secret-1"
            assert (connect.connectRequestMsg.edgeVersion, connect.connectRequestMsg.maxInboundMessageSize) == (
                7,
                50_000,
            )
            assert (sync.msgType, sync.syncRequestMsg.fullSync) == (2, True)
            assert (ack.msgType, ack.downlinkResponseMsg.success, ack.downlinkResponseMsg.downlinkMsgId) == (1, True, 1)
            assert handler.identities[0].name == "Cellar edge"
            assert handler.downlinks[0].commands == [SyncCompleted()]
            status = link.status()
            assert (status["state"], status["edge"], status["last_error"]) == ("ready", "Cellar edge", None)
            assert "secret-1" not in repr(status)
            assert "key-1" not in repr(status)
        assert not link.is_ready
        assert link.status()["state"] == "closed"


async def test_the_next_session_has_the_next_number_and_asks_for_a_light_sync():
    async def conduct(peer):
        await ready(peer)
        if len(server.peers) == 2:
            await hold(peer)

    handler = Handler(is_full=False)
    async with serving(conduct) as (server, port):
        link = make(port, handler)
        with pytest.raises(TransientError):
            await asyncio.wait_for(link.serve(), 5)
        async with running(link):
            assert await asyncio.wait_for(link.wait_ready(), 5) == 2
            assert server.peers[1].requests[1].syncRequestMsg.HasField("fullSync")
            assert not server.peers[1].requests[1].syncRequestMsg.fullSync
            assert link.status()["reconnects"] == 1


async def test_a_wrong_secret_is_named_without_the_secret(caplog):
    async def conduct(peer):
        await peer.read()
        await peer.write(connectResponseMsg={"responseCode": 1, "errorMsg": "bad secret-1", "configuration": {}})
        await peer.context.abort(grpc.StatusCode.UNKNOWN, "no such secret-1")

    caplog.set_level(logging.DEBUG)
    async with serving(conduct) as (_, port):
        link = make(port)
        with pytest.raises(RefusedError, match="routing key") as refusal:
            await asyncio.wait_for(link.serve(), 5)
    chain = refusal.value
    while chain is not None:
        assert "secret-1" not in f"{chain!r} {chain}"
        chain = chain.__cause__ or chain.__context__
    assert "secret-1" not in caplog.text
    assert "secret-1" not in repr(link.status())


async def test_an_abort_does_not_show_the_server_s_words(caplog):
    async def conduct(peer):
        await ready(peer)
        await peer.context.abort(grpc.StatusCode.INTERNAL, "secret-1 failed")

    caplog.set_level(logging.DEBUG, logger="gateway")
    async with serving(conduct) as (_, port):
        with pytest.raises(TransientError, match="INTERNAL") as error:
            await asyncio.wait_for(make(port).serve(), 5)
    assert "secret-1" not in str(error.value)
    assert "secret-1" not in caplog.text


async def test_a_cloud_that_cannot_accept_now_is_an_outage():
    async def conduct(peer):
        await peer.read()
        await peer.write(connectResponseMsg={"responseCode": 2, "errorMsg": "x"})
        await hold(peer)

    async with serving(conduct) as (_, port):
        with pytest.raises(TransientError, match="SERVER_UNAVAILABLE"):
            await asyncio.wait_for(make(port).serve(), 5)


@pytest.mark.parametrize("edition", ["PE", ""])
async def test_another_edition_is_refused(edition):
    async def conduct(peer):
        await peer.accept(cloudType=edition)
        await hold(peer)

    handler = Handler()
    async with serving(conduct) as (_, port):
        with pytest.raises(RefusedError, match="Community Edition"):
            await asyncio.wait_for(make(port, handler).serve(), 5)
    assert handler.identities == []


@pytest.mark.parametrize("missing", ["routing_key", "routing_secret"])
async def test_no_key_or_no_secret_is_refused_without_trying(missing):
    with pytest.raises(RefusedError, match="CLOUD_ROUTING_KEY"):
        await make(1, **{missing: ""}).serve()


async def test_nobody_listens():
    async with serving(hold) as (_, port):
        pass
    link = make(port)
    for _ in range(2):  # nothing of the first outage is remembered: the second is as quick
        with pytest.raises(TransientError, match="connection refused"):
            await asyncio.wait_for(link.serve(), 2)
    assert "connection refused" in link.status()["last_error"]


async def test_no_verdict_in_time():
    async with serving(hold) as (_, port):
        with pytest.raises(TransientError, match="no verdict within 200 ms"):
            await asyncio.wait_for(make(port, timeout_ms=200).serve(), 5)


async def test_uplink_answers_in_any_order():
    async def conduct(peer):
        await ready(peer)
        messages = [(await peer.read()).uplinkMsg for _ in range(3)]
        for message in reversed(messages):
            value = message.entityData[0].postTelemetryMsg.tsKvList[0].kv[0].long_v
            answer = {"uplinkMsgId": message.uplinkMsgId, "success": value != 2, "errorMsg": f"e{value}"}
            await peer.write(uplinkResponseMsg=answer)
        await hold(peer)

    async with serving(conduct) as (server, port):
        link = make(port)
        async with running(link):
            await asyncio.wait_for(link.wait_ready(), 5)
            futures = [link.send([reading(value)]) for value in (1, 2, 3)]
            assert link.status()["in_flight"] == 3
            answers = await asyncio.wait_for(asyncio.gather(*futures), 5)
            assert [(answer.is_success, answer.error) for answer in answers] == [
                (True, "e1"),
                (False, "e2"),
                (True, "e3"),
            ]
            sent = [request.uplinkMsg.uplinkMsgId for request in server.peers[0].requests[3:]]
            assert len(set(sent)) == 3


async def test_sending_needs_a_link():
    with pytest.raises(LinkLost):
        make(1).send([reading()])


async def test_what_cannot_be_sent_is_said_at_once():
    async def conduct(peer):
        await ready(peer)
        await hold(peer)

    async with serving(conduct) as (_, port):
        link = make(port)
        async with running(link):
            await asyncio.wait_for(link.wait_ready(), 5)
            assert (await link.send([event("TIMESERIES_UPDATED", {"data": {}})])).is_success
            with pytest.raises(RejectedError, match="cannot be encoded"):
                await link.send([event("TIMESERIES_UPDATED", b"{")])
            with pytest.raises(RejectedError, match="the cloud takes 95904"):
                await link.send([reading("x" * 100_000)])
            assert link.size_bytes([reading("x" * 1000)]) == pytest.approx(1000, abs=100)
            assert link.size_bytes([event("TIMESERIES_UPDATED", {"data": {}})]) == 0
            assert link.status()["in_flight"] == 0


async def test_a_completed_stream_is_a_loss():
    async def conduct(peer):
        await ready(peer)
        await peer.read()

    async with serving(conduct) as (_, port):
        link = make(port)
        async with running(link) as task:
            await asyncio.wait_for(link.wait_ready(), 5)
            future = link.send([reading()])
            with pytest.raises(LinkLost, match="another gateway uses the same key"):
                await asyncio.wait_for(future, 5)
            with pytest.raises(TransientError, match="another gateway"):
                await task
            assert not link.is_ready


async def test_a_silent_cloud_is_given_up():
    async def conduct(peer):
        await ready(peer)
        await hold(peer)

    async with serving(conduct) as (_, port):
        link = make(port, answer_timeout_s=0.2)
        async with running(link) as task:
            await asyncio.wait_for(link.wait_ready(), 5)
            future = link.send([reading()])
            with pytest.raises(LinkLost, match="has not answered"):
                await asyncio.wait_for(future, 5)
            with pytest.raises(TransientError, match="has not answered"):
                await task


async def test_a_sync_that_never_ends_is_given_up():
    async def conduct(peer):
        await peer.accept()
        await hold(peer)

    async with serving(conduct) as (_, port):
        link = make(port, sync_timeout_s=0.2)
        with pytest.raises(TransientError, match="sync stands still"):
            await asyncio.wait_for(link.serve(), 5)


async def test_a_downlink_is_acknowledged_when_it_is_durable():
    acks = []

    async def conduct(peer):
        await ready(peer)
        acks.append(await peer.downlink(downlinkMsgId=7, deviceUpdateMsg=[{"idMSB": 1, "idLSB": 2, "entity": "{}"}]))
        await hold(peer)

    handler = Handler()
    async with serving(conduct) as (_, port):
        link = make(port, handler)
        async with running(link):
            await asyncio.wait_for(link.wait_ready(), 5)
            handler.gate.clear()
            await until(lambda: handler.begun == 2)
            assert acks == []
            handler.gate.set()
            await until(lambda: acks)
            assert (acks[0].success, acks[0].downlinkMsgId) == (True, 7)
            assert isinstance(handler.downlinks[1].commands[0], EntityUpdated)


async def test_many_are_applied_at_once_and_acknowledged_in_order():
    async def conduct(peer):
        await peer.accept()
        await peer.read()
        for number in range(1, 81):
            await peer.write(downlinkMsg={"downlinkMsgId": number})
        await peer.write(downlinkMsg={"downlinkMsgId": 81, "syncCompletedMsg": {}})
        while True:
            await peer.read()

    class Unequal(Handler):
        async def handle(self, downlink):
            self.begun += 1
            if downlink.id == 1:
                await self.gate.wait()
            self.downlinks.append(downlink)

    handler = Unequal()
    handler.gate.clear()
    async with serving(conduct) as (server, port):
        link = make(port, handler)
        async with running(link):
            await until(lambda: handler.begun >= 50 and len(handler.downlinks) == handler.begun - 1)
            assert handler.begun < 60  # the others wait: memory is bounded
            assert len(server.peers[0].requests) == 2
            assert not link.is_ready
            handler.gate.set()
            await asyncio.wait_for(link.wait_ready(), 5)
            await until(lambda: len(server.peers[0].requests) == 2 + 81)
            acks = [request.downlinkResponseMsg for request in server.peers[0].requests[2:]]
            assert [ack.downlinkMsgId for ack in acks] == [*range(1, 82)]


async def test_answers_are_read_while_a_downlink_waits_for_the_disk():
    async def conduct(peer):
        await ready(peer)
        await peer.write(downlinkMsg={"downlinkMsgId": 7})
        uplink = (await peer.read()).uplinkMsg
        await peer.write(uplinkResponseMsg={"uplinkMsgId": uplink.uplinkMsgId, "success": True})
        await hold(peer)

    handler = Handler()
    async with serving(conduct) as (_, port):
        link = make(port, handler)
        async with running(link):
            await asyncio.wait_for(link.wait_ready(), 5)
            handler.gate.clear()
            await until(lambda: handler.begun == 2)
            assert (await asyncio.wait_for(link.send([reading()]), 5)).is_success
            assert len(handler.downlinks) == 1


async def test_what_cannot_be_applied_is_acknowledged_and_listed_with_its_reason():
    acks = []

    async def conduct(peer):
        await ready(peer)
        bad = {"deviceUpdateMsg": [{"idMSB": 1, "idLSB": 2, "entity": "{"}]}
        acks.append(await peer.downlink(downlinkMsgId=1, **bad))
        handler.refuse = "no such thing"
        acks.append(await peer.downlink(downlinkMsgId=2))
        data = {"entityIdMSB": 1, "entityIdLSB": 2, "entityType": "DEVICE"}
        acks.append(await peer.downlink(downlinkMsgId=3, entityData=[data]))
        handler.refuse = ""
        acks.append(await peer.downlink(downlinkMsgId=4))
        await hold(peer)

    handler = Handler()
    async with serving(conduct) as (_, port), running(link := make(port, handler)):
        await until(lambda: len(acks) == 4)
        refused = link.status()["refused_downlinks"]
    assert [ack.success for ack in acks] == [True] * 4  # a refusal would be repeated for two minutes
    assert refused["count"] == 3
    reasons = [one["reason"] for one in refused["last"]]
    assert reasons == ["deviceUpdateMsg: the entity is not JSON", "no such thing", "no such thing"]


async def test_a_change_of_the_edge_is_told_and_not_acknowledged():
    async def conduct(peer):
        await ready(peer)
        await peer.write(edgeUpdateMsg={"configuration": {**edge(SECOND_ID), "name": "renamed"}})
        await hold(peer)

    handler = Handler()
    async with serving(conduct) as (server, port):
        link = make(port, handler)
        async with running(link):
            await until(lambda: len(handler.identities) == 2)
            assert handler.identities[1].name == "renamed"
            await until(lambda: link.status()["edge"] == "renamed")
            assert link.is_ready
            assert len(server.peers[0].requests) == 3


@pytest.mark.parametrize("is_downlink", [False, True])
async def test_another_edge_in_the_middle_of_a_session_ends_it_and_nothing_more_goes_up(is_downlink):
    turn = asyncio.Event()

    async def conduct(peer):
        await ready(peer)
        await peer.read()
        await turn.wait()
        other = {"configuration": edge(DEVICE_ID)}
        if is_downlink:
            await peer.write(downlinkMsg={"downlinkMsgId": 7, "edgeConfiguration": other["configuration"]})
        else:
            await peer.write(edgeUpdateMsg=other)
        with contextlib.suppress(StopAsyncIteration, asyncio.CancelledError):
            while True:
                await peer.read()

    handler = Handler()
    async with serving(conduct) as (server, port):
        link = make(port, handler)
        serving_link = asyncio.create_task(link.serve())
        await asyncio.wait_for(link.wait_ready(), 5)
        sent = link.send([reading()])
        await until(lambda: len(server.peers[0].requests) == 4)
        turn.set()
        with pytest.raises(TransientError, match=f"now is the edge 'Other' \\({DEVICE_ID}\\): connecting anew"):
            await asyncio.wait_for(serving_link, 5)
        with pytest.raises(LinkLost):
            sent.result()
        with pytest.raises(LinkLost):
            link.send([reading(2, 2)])
        assert len(handler.identities) == 1
        assert len(handler.downlinks) == 1  # the sync; the change is applied by the next connect
        assert len(server.peers[0].requests) == 4


async def test_an_answer_out_of_place_ends_the_connection():
    async def conduct(peer):
        await peer.accept()
        await peer.write(uplinkResponseMsg={"uplinkMsgId": 1})
        await hold(peer)

    async with serving(conduct) as (_, port):
        with pytest.raises(TransientError, match="UplinkAnswered while syncing"):
            await asyncio.wait_for(make(port).serve(), 5)


async def test_a_message_over_our_own_limit_ends_the_connection():
    async def conduct(peer):
        await ready(peer)
        await peer.write(downlinkMsg={"dashboardUpdateMsg": [{"entity": "x" * 200_000}]})
        await hold(peer)

    async with serving(conduct) as (_, port):
        with pytest.raises(TransientError, match="RESOURCE_EXHAUSTED"):
            await asyncio.wait_for(make(port, max_inbound_bytes=50_000).serve(), 5)


async def test_a_bug_in_the_handler_goes_through():
    async def conduct(peer):
        await ready(peer)
        await hold(peer)

    handler = Handler()

    async def handle(downlink):
        raise KeyError("bug")

    handler.handle = handle
    async with serving(conduct) as (_, port):
        with pytest.raises(ExceptionGroup) as group:
            await asyncio.wait_for(make(port, handler).serve(), 5)
    assert group.value.subgroup(KeyError) is not None


async def test_gzip_is_understood():
    async def conduct(peer):
        await ready(peer)
        await hold(peer)

    async with serving(conduct) as (_, port):
        link = make(port, gzip=True)
        async with running(link):
            assert await asyncio.wait_for(link.wait_ready(), 5) == 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA of our own, a server certificate for `cloud.test` signed by it, and another CA."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=cloud.test", "-keyout", "s.key", "-out", "s.csr")
    (folder / "names").write_text("subjectAltName=DNS:cloud.test")
    openssl("x509", "-req", "-in", "s.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "s.pem")  # fmt: skip
    return folder


def server_credentials(folder):
    return grpc.ssl_server_credentials([((folder / "s.key").read_bytes(), (folder / "s.pem").read_bytes())])


@pytest.mark.parametrize("trusted", ["ca.pem", "s.pem"])
async def test_tls_with_the_ca_or_the_server_s_own_certificate(certificates, trusted):
    async def conduct(peer):
        await ready(peer)
        await hold(peer)

    async with serving(conduct, server_credentials(certificates)) as (_, port):
        link = make(port, ssl_enabled=True, ssl_cert=certificates / trusted, ssl_server_name="cloud.test")
        async with running(link):
            assert await asyncio.wait_for(link.wait_ready(), 5) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"ssl_cert": "other.pem", "ssl_server_name": "cloud.test"},
        {"ssl_cert": "ca.pem"},  # the certificate is not for 127.0.0.1
        {},  # the system does not know our CA
    ],
    ids=["another CA", "another name", "system store"],
)
async def test_tls_that_does_not_fit_is_an_outage_named_tls(certificates, settings):
    if "ssl_cert" in settings:
        settings = {**settings, "ssl_cert": certificates / settings["ssl_cert"]}
    async with serving(hold, server_credentials(certificates)) as (_, port):
        with pytest.raises(TransientError, match="TLS"):
            await asyncio.wait_for(make(port, ssl_enabled=True, **settings).serve(), 10)


async def test_a_certificate_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="ssl_cert"):
        await make(1, ssl_enabled=True, ssl_cert=tmp_path / "none.pem").serve()


async def test_an_idle_line_that_died_without_being_closed_is_noticed_by_its_pings():
    async def conduct(peer):
        await ready(peer)
        await hold(peer)

    is_dead = False

    async def pump(reader, writer):
        while data := await reader.read(65_536):
            if not is_dead:
                writer.write(data)
        writer.close()

    async with serving(conduct) as (_, port), asyncio.TaskGroup() as tasks:

        async def on_client(reader, writer):
            there, back = await asyncio.open_connection("127.0.0.1", port)
            tasks.create_task(pump(reader, back))
            tasks.create_task(pump(there, writer))

        line = await asyncio.start_server(on_client, "127.0.0.1", 0)
        async with line:
            link = make(line.sockets[0].getsockname()[1], keepalive_s=1, keepalive_timeout_s=0.5)
            async with running(link) as task:
                await asyncio.wait_for(link.wait_ready(), 5)
                is_dead = True
                with pytest.raises(TransientError):
                    await asyncio.wait_for(task, 6)
