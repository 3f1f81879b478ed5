"""Broken set-ups on real sockets, and the words that a person reads. One row, one set-up."""

import asyncio
import base64
import contextlib
import re
import ssl

import grpc
import pytest

from gateway.cloud.diagnosis import diagnose, layer_of, server_certificate
from gateway.cloud.tls import not_after_ms
from gateway.demo.processes import free_port
from gateway.errors import RefusedError, TransientError
from tests.unit.cloud.line import Authority, make, running, settings, stay
from tests.unit.cloud.server import serving


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@contextlib.asynccontextmanager
async def listening(conduct, context=None):
    """A plain server; its port."""

    tasks = set()

    async def serve(reader, writer):
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                await conduct(reader, writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    def on_connect(reader, writer):
        tasks.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    server = await asyncio.start_server(on_connect, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # what was aborted is closed in the next turn of the loop


async def mute(reader, writer):
    await reader.read()


async def web(reader, writer):
    await reader.readline()
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def greet(reader, writer):
    writer.write(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    await reader.read()


async def hang_up(reader, writer):
    """An MQTT broker does so when the first packet is no CONNECT."""
    await reader.read(1)


def tls(ca, name, **validity):
    certificate, key = ca.issue(name, **validity)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context


async def last_error(port, **changes):
    """What a person reads after one attempt."""
    link = make(port, timeout_ms=1500, **changes)
    with pytest.raises((TransientError, RefusedError)) as error:
        await asyncio.wait_for(link.serve(), 12)
    assert link.status()["last_error"] == str(error.value)
    assert "secret-1" not in str(error.value)
    return str(error.value)


def trusting(ca, **more):
    return {"ssl_enabled": True, "ssl_cert": ca.folder / "ca.pem", "ssl_server_name": "cloud.test", **more}


# ── DNS, TCP ─────────────────────────────────────────────────────────────────────────────────


async def test_a_name_that_does_not_resolve():
    text = await last_error(7070, host="cloud.invalid")
    assert re.fullmatch(r"cloud\.invalid:7070: DNS: the name 'cloud.invalid' does not resolve; check .*", text)


async def test_a_host_name_that_is_none():
    assert "DNS: the name" in (await diagnose(settings(7070, host="a" * 70 + ".example")) or "")


async def test_nobody_listens():
    port = free_port()
    text = await last_error(port)
    assert text.startswith(f"127.0.0.1:{port}: TCP: connection refused; nobody listens there")


async def test_no_route():
    text = await diagnose(settings(7070, host="255.255.255.255"), 1.0)
    assert text is not None
    assert text.startswith("TCP: ")


async def test_packets_that_vanish():
    """A listener whose queue is full does not answer, as behind a firewall that drops."""
    import socket

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        held = []
        try:
            for _ in range(3):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
                held.append(one)
            text = await diagnose(settings(port), 0.3)
        finally:
            for one in held:
                one.close()
    assert text == f"TCP: 127.0.0.1:{port} does not answer; a firewall, or the wrong address"


# ── something else answers ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("conduct", "expected"),
    [
        (web, "HTTP/2: a web server (HTTP/1) answers here; an edge port of ThingsBoard is 7070 by default"),
        (greet, "HTTP/2: something else than an edge port answers here"),
        (hang_up, "HTTP/2: the connection is accepted and closed: nothing behind a load balancer, or no edge port"),
        (mute, "HTTP/2: connected, but nobody answers"),
    ],
    ids=["web server", "ssh server", "mqtt broker", "mute"],
)
async def test_something_else_answers(conduct, expected):
    async with listening(conduct) as port:
        assert expected in await last_error(port)


async def test_another_grpc_service():
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        text = await last_error(port)
    finally:
        await server.stop(None)
    assert text == (
        f"127.0.0.1:{port}: wrong service: gRPC answers here, but it is no edge port (UNIMPLEMENTED);"
        " ThingsBoard's is 7070 by default"
    )


async def test_a_server_that_accepts_but_gives_no_verdict_is_not_blamed_on_a_layer():
    async def conduct(peer):
        await asyncio.Event().wait()

    async with serving(conduct) as (_, port):
        text = await last_error(port)
        assert await diagnose(settings(port)) is None
    assert text == f"127.0.0.1:{port}: no verdict within 1500 ms"


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("validity", "expected"),
    [
        (
            {"start": "20190101000000Z", "end": "20200229120000Z"},
            r"TLS: the server's certificate expired on 2020-02-29 \(this machine's clock says \d{4}-\d\d-\d\d\)",
        ),
        (
            {"start": "20590101000000Z", "end": "20600101000000Z"},
            r"TLS: the server's certificate is not yet valid; this machine's clock says .*: is that right\?",
        ),
        ({"host": "other.test"}, "TLS: the certificate has another name than 'cloud.test'; connect by its name.*"),
    ],
    ids=["expired", "not yet valid", "another name"],
)
async def test_a_certificate_that_does_not_fit(ca, validity, expected):
    async with serving(stay, ca.server("bad", **validity)) as (_, port):
        assert re.fullmatch(rf"127\.0\.0\.1:{port}: {expected}", await last_error(port, **trusting(ca)))


@pytest.mark.parametrize("is_named", [True, False])
async def test_an_unknown_authority(ca, tmp_path, is_named):
    other = Authority(tmp_path)
    cert = other.folder / "ca.pem" if is_named else None
    async with serving(stay, ca.server()) as (_, port):
        text = await last_error(port, **trusting(ca, ssl_cert=cert))
    assert "TLS: the server's certificate is not trusted (unknown CA)" in text
    assert ("is cloud.ssl_cert its CA?" if is_named else "name its CA in cloud.ssl_cert") in text


async def test_we_speak_tls_and_the_server_does_not(ca):
    async with serving(stay) as (_, port):
        text = await last_error(port, **trusting(ca))
    assert re.search(r"TLS: the server (speaks|hung up|refuses).*ssl_enabled|TLS: no answer .*ssl_enabled", text), text


@pytest.mark.parametrize("kind", ["grpc", "openssl"])
async def test_the_server_speaks_tls_and_we_do_not(ca, kind):
    async with serving(stay, ca.server()) if kind == "grpc" else listening(mute, tls(ca, "plain")) as where:
        port = where[1] if isinstance(where, tuple) else where
        assert await last_error(port) == f"127.0.0.1:{port}: TLS: the server speaks TLS; set cloud.ssl_enabled: true"


async def test_a_server_that_asks_for_our_certificate(ca, tmp_path):
    certificate, key = ca.issue("client")
    stranger = Authority(tmp_path).issue("stranger")
    async with serving(stay, ca.server("asks", wants_client=True)) as (_, port):
        text = await last_error(port, **trusting(ca))
        assert text.endswith(
            "TLS: client certificate: the server hung up after the handshake; probably it asks for one"
        )
        text = await last_error(port, **trusting(ca, ssl_client_cert=stranger[0], ssl_client_key=stranger[1]))
        assert text.endswith("probably it does not accept cloud.ssl_client_cert")
        link = make(port, **trusting(ca, ssl_client_cert=certificate, ssl_client_key=key))
        async with running(link):
            assert await asyncio.wait_for(link.wait_ready(), 5) == 1


async def test_the_certificate_of_the_server_is_seen_even_when_it_is_not_trusted(ca):
    async with serving(stay, ca.server("seen", end="20300102030405Z")) as (_, port):
        der = await server_certificate(settings(port, ssl_enabled=True))
        assert der is not None
        assert not_after_ms(der) == 1893553445000
    assert await server_certificate(settings(port, ssl_enabled=True)) is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "has no certificate"), ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "TLS|ssl_cert")],
)
async def test_a_ca_file_with_something_else_in_it(ca, tmp_path, content, expected):
    path = tmp_path / "ca.pem"
    path.write_text(content)
    async with serving(stay, ca.server()) as (_, port):
        assert re.search(expected, await last_error(port, **trusting(ca, ssl_cert=path)))


async def test_a_client_certificate_with_another_s_key(ca):
    (certificate, _), (_, key) = ca.issue("one"), ca.issue("two")
    text = await last_error(free_port(), **trusting(ca, ssl_client_cert=certificate, ssl_client_key=key))
    assert "cloud.ssl_client_cert and ssl_client_key" in text
    assert "are not a certificate and its key" in text


# ── proxy ────────────────────────────────────────────────────────────────────────────────────


class HttpProxy:
    """An HTTP CONNECT proxy; with `user` it wants `user:password`."""

    def __init__(self, status=b"200 OK", user=""):
        self.status, self.user = status, user
        self.targets = []

    async def __call__(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        wanted = f"Proxy-Authorization: Basic {base64.b64encode(self.user.encode()).decode()}\r\n"
        status = b"407 Proxy Authentication Required" if self.user and wanted not in head else self.status
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if not status.startswith(b"2"):
            await writer.drain()
            return
        self.targets.append(head.split()[1])
        there, back = await asyncio.open_connection("127.0.0.1", int(self.targets[-1].rsplit(":", 1)[1]))

        async def pump(source, target):
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    target.write(data)
            target.close()

        try:
            await asyncio.gather(pump(reader, back), pump(there, writer))
        finally:
            back.transport.abort()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("is_tls", [True, False])
async def test_through_a_proxy_with_a_user_whose_password_has_odd_characters(ca, is_tls):
    proxy = HttpProxy(user="edge user:p@ss:w/rd%")
    credentials = ca.server() if is_tls else None
    async with serving(stay, credentials) as (_, port), listening(proxy) as proxy_port:
        way = {"proxy_host": "127.0.0.1", "proxy_port": proxy_port, "proxy_user": "edge user"}
        more = trusting(ca) if is_tls else {}
        link = make(port, **more, **way, proxy_password="p@ss:w/rd%")
        async with running(link):
            assert await asyncio.wait_for(link.wait_ready(), 5) == 1
        assert proxy.targets[0] == f"127.0.0.1:{port}"
        assert await diagnose(settings(port, **more, **way, proxy_password="p@ss:w/rd%")) is None
        text = await last_error(port, **more, **way, proxy_password="wrong-secret")
        assert "it does not accept cloud.proxy_user and cloud.proxy_password (407)" in text
        assert "wrong-secret" not in text


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"407 Proxy Authentication Required", "it asks for a user; set cloud.proxy_user and cloud.proxy_password"),
        (b"403 Forbidden", "(403); allow CONNECT to this port"),
        (b"502 Bad Gateway", "it cannot reach 127.0.0.1:7070 (502)"),
    ],
)
async def test_a_proxy_that_refuses(status, expected):
    async with listening(HttpProxy(status)) as proxy_port:
        text = await last_error(7070, proxy_host="127.0.0.1", proxy_port=proxy_port)
    assert f"proxy 127.0.0.1:{proxy_port}: " in text
    assert expected in text


async def test_a_proxy_that_is_not_there_or_is_none():
    port = free_port()
    assert "proxy: TCP: connection refused" in await last_error(7070, proxy_host="127.0.0.1", proxy_port=port)
    assert "proxy: DNS: the name 'proxy.invalid'" in await last_error(7070, proxy_host="proxy.invalid")
    async with listening(hang_up) as port:
        text = await last_error(7070, proxy_host="127.0.0.1", proxy_port=port)
        assert "no HTTP proxy answers there" in text


async def test_variables_of_the_environment_do_not_send_us_through_a_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with serving(stay) as (_, port):
        link = make(port)
        async with running(link):
            assert await asyncio.wait_for(link.wait_ready(), 5) == 1


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("cloud:7070: TCP: connection refused", "TCP"),
        ("cloud:7070: proxy 10.0.0.1:3128: it refuses a connection", "proxy"),
        ("cloud:7070: HTTP/2: something else", "HTTP/2"),
        ("tls.example:7070: gRPC INTERNAL", "gRPC"),
        ("the cloud is a PE edition; only the Community Edition (CE)", "edge protocol"),
    ],
)
def test_the_layer_of_an_error(text, layer):
    assert layer_of(text) == layer
