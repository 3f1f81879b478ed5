"""Broken set-ups on real sockets: each names its layer and what would be right. One row, one set-up."""

import asyncio
import contextlib
import re

import grpc
import pytest

from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.server import CloudSim
from gateway.demo.processes import free_port
from gateway.doctor.cloud import findings
from gateway.doctor.findings import Level
from gateway.supervise import SystemClock
from tests.unit.cloud.line import Authority, settings, stay
from tests.unit.cloud.server import serving, until
from tests.unit.cloud.test_diagnosis import HttpProxy, listening, mute, trusting, web


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


def here(port, **changes):
    return settings(port, **{"timeout_ms": 1500, **changes})


@contextlib.asynccontextmanager
async def refused(ca, folder):
    yield here(free_port())


@contextlib.asynccontextmanager
async def silent(ca, folder):
    async with listening(mute) as port:
        yield here(port)


@contextlib.asynccontextmanager
async def web_server(ca, folder):
    async with listening(web) as port:
        yield here(port)


@contextlib.asynccontextmanager
async def tls_to_plain(ca, folder):
    async with serving(stay) as (_, port):
        yield here(port, **trusting(ca))


@contextlib.asynccontextmanager
async def plain_to_tls(ca, folder):
    async with serving(stay, ca.server()) as (_, port):
        yield here(port)


@contextlib.asynccontextmanager
async def expired(ca, folder):
    validity = {"start": "20190101000000Z", "end": "20200229120000Z"}
    async with serving(stay, ca.server("old", **validity)) as (_, port):
        yield here(port, **trusting(ca))


@contextlib.asynccontextmanager
async def other_name(ca, folder):
    async with serving(stay, ca.server("other", host="other.test")) as (_, port):
        yield here(port, **trusting(ca))


@contextlib.asynccontextmanager
async def unknown_ca(ca, folder):
    async with serving(stay, ca.server()) as (_, port):
        yield here(port, **trusting(ca, ssl_cert=Authority(folder).folder / "ca.pem"))


@contextlib.asynccontextmanager
async def other_service(ca, folder):
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield here(port)
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def proxy_refuses(ca, folder):
    async with listening(HttpProxy(b"403 Forbidden")) as port:
        yield here(7070, proxy_host="127.0.0.1", proxy_port=port)


def simulated(key="demo-edge", secret="demo-secret", **options):
    @contextlib.asynccontextmanager
    async def cloud(ca, folder):
        async with CloudSim(CloudSimOptions(http_port=None, **options)) as sim:
            yield here(sim.grpc_port, routing_key=key, routing_secret=secret)

    return cloud


@pytest.mark.parametrize(
    ("broken", "where", "text", "remedy"),
    [
        (refused, "cloud TCP", "connection refused", "nobody listens there: host, port, is the server up?"),
        (silent, "cloud HTTP/2", "connected, but nobody answers", "an edge port of ThingsBoard is 7070 by default"),
        (web_server, "cloud HTTP/2", r"a web server \(HTTP/1\) answers here", "7070 by default; 8080 is its page"),
        (tls_to_plain, "cloud TLS", "speaks no TLS|hung up|no answer to|refuses", "ssl_enabled"),
        (plain_to_tls, "cloud TLS", "the server speaks TLS", "set cloud.ssl_enabled: true"),
        (expired, "cloud TLS", r"expired on 2020-02-29 \(this machine's clock says", "renew it on the server"),
        (other_name, "cloud TLS", "another name than 'cloud.test'", "or set cloud.ssl_server_name"),
        (unknown_ca, "cloud TLS", r"not trusted \(unknown CA\)", "is cloud.ssl_cert its CA?"),
        (other_service, "cloud service", "no edge port .UNIMPLEMENTED.", "set cloud.port to the server's edge port"),
        (proxy_refuses, "cloud proxy", r"it refuses a connection to 127.0.0.1:7070 \(403\)", "allow CONNECT"),
        (simulated(key="mistyped"), "cloud credentials", "does not know this routing key", "copy key and secret"),
        (simulated(secret="not-it"), "cloud credentials", "its secret is another one", "copy key and secret"),
        (simulated(cloud_type="PE"), "cloud credentials", "a PE edition", "Community Edition"),
    ],
)
async def test_a_broken_set_up_is_named_with_its_remedy(ca, tmp_path, broken, where, text, remedy):
    async with broken(ca, tmp_path) as config:
        async with asyncio.timeout(15):
            found = await findings(config, None, SystemClock(), may_connect=True)
        problems = [one for one in found if one.level is Level.PROBLEM]
        assert problems[-1].where == where
        assert re.search(text, problems[-1].text)
        assert remedy in f"{problems[-1].text} {problems[-1].remedy}"
        assert problems[-1].remedy
        assert found[-1] is problems[-1]  # nothing is said of what lies behind it
        assert config.routing_secret.get_secret_value() not in "".join(one.line() for one in found)


async def test_which_certificate_who_issued_it_and_when_it_ends(ca):
    async with serving(stay, ca.server("old", start="20190101000000Z", end="20200229120000Z")) as (_, port):
        found = await findings(here(port, **trusting(ca)), None, SystemClock(), may_connect=True)
    (certificate,) = [one for one in found if one.where == "cloud certificate"]
    assert certificate.text == "'old', issued by 'ca', expired on 2020-02-29"
    assert certificate.level is Level.PROBLEM


async def test_when_all_is_well_it_was_accepted_once_left_and_asked_for_nothing():
    options = CloudSimOptions(http_port=None)
    async with CloudSim(options) as sim:
        config = here(sim.grpc_port, routing_key="demo-edge", routing_secret="demo-secret")
        found = await findings(config, None, SystemClock(), may_connect=True)
        assert [one.where for one in found] == [
            "cloud DNS",
            "cloud TCP",
            "cloud HTTP/2",
            "cloud credentials",
            "cloud release",
        ]
        assert {one.level for one in found} == {Level.OK}
        await until(lambda: sim.session is None)
        state = sim.state()
        assert (state["connects"], state["syncs"], state["uplink_msgs"], state["violations"]) == (1, 0, 0, [])


async def test_where_a_gateway_may_be_connected_the_key_is_not_shown():
    async with CloudSim(CloudSimOptions(http_port=None)) as sim:
        config = here(sim.grpc_port, routing_key="demo-edge", routing_secret="demo-secret")
        found = await findings(config, None, SystemClock(), may_connect=False)
        assert found[-1].level is Level.WARNING
        assert "would be evicted" in found[-1].text
        assert sim.state()["connects"] == 0


async def test_no_credentials():
    async with CloudSim(CloudSimOptions(http_port=None)) as sim:
        found = await findings(here(sim.grpc_port, routing_secret=""), None, SystemClock(), may_connect=True)
    assert (found[-1].level, found[-1].text) == (Level.PROBLEM, "there are none")
    assert "cloud.routing_secret" in found[-1].remedy
