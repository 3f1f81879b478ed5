"""Rest api call against a real server on the loopback."""

import asyncio
import base64
from contextlib import asynccontextmanager

import pytest

from gateway.domain.message import Message
from gateway.errors import RejectedError
from gateway.rules.outside import check_host, check_url
from tests.unit.rules.kit import Rules

END = ("action.TbLogNode", "end", {})
BAD = ("action.TbLogNode", "bad", {})


class Server:
    """Answers each request with `answer` (bytes), or with nothing; keeps what was asked."""

    def __init__(self):
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.asked, self.connections, self.most, self.at_once = [], 0, 0, 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(x[15:]) for x in head.split("\r\n") if x.lower().startswith("content-length:")), 0)
                self.asked.append((head, await reader.readexactly(length)))
                self.at_once += 1
                self.most = max(self.most, self.at_once)
                await self.go_on.wait()
                self.at_once -= 1
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def opened(allow=None, **config):
    """The server, the rules with one node that asks it, and what came out behind it."""
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    node = ("rest.TbRestApiCallNode", "rest", {"restEndpointUrlPattern": base + "/api/${deviceName}", **config})
    rules = Rules([node, END, BAD], (0, 1, "Success"), (0, 2, "Failure"), allow_rest=[base] if allow is None else allow)
    seen: list[tuple[str, Message]] = []
    root = next(chain for chain in rules.engine._chains.values() if chain.name == "Root")
    root.nodes[1].run = lambda msg, out: seen.append(("success", msg))
    root.nodes[2].run = lambda msg, out: seen.append(("failure", msg))

    async def ask(data=None, **more):
        out = rules.run(data, **more)
        for wait in out.waits:
            await wait()
        return seen[-1]

    server.ask, server.rules, server.base = ask, rules, base
    try:
        yield server
    finally:
        server.go_on.set()
        await rules.engine.close()
        listener.close()


async def test_the_answer_becomes_the_body_and_its_headers_metadata():
    async with opened(headers={"X-Of": "${deviceName}", "Content-Type": "application/json"}) as server:
        server.answer = (
            b"HTTP/1.1 201 Created\r\nX-Two: a\r\nX-Two: b\r\nX-One: c\r\nContent-Length: 8\r\n\r\n" + b'{"n": 1}'
        )
        label, msg = await server.ask({"t": 1}, metadata={"deviceName": "P1"})
        assert (label, msg.data) == ("success", {"n": 1})
        assert msg.metadata["status"] == "CREATED"
        assert msg.metadata["statusCode"] == "201"
        assert msg.metadata["statusReason"] == "Created"
        assert msg.metadata["x-one"] == "c"
        assert msg.metadata["x-two"] == '["a","b"]'
        head, body = server.asked[0]
        assert head.startswith("POST /api/P1 HTTP/1.1")
        assert "X-Of: P1" in head
        assert body == b'{"t":1}'
        await server.ask()
        assert server.connections == 1  # it is kept


async def test_nothing_is_an_empty_object_and_no_json_stays_text():
    async with opened() as server:
        assert (await server.ask())[1].data == {}
        server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        assert (await server.ask())[1].data == "ok"


async def test_another_status_is_a_failure_with_its_body_beside_the_unchanged_message():
    async with opened() as server:
        server.answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope"
        label, msg = await server.ask({"t": 1})
        assert (label, msg.data) == ("failure", {"t": 1})
        assert (msg.metadata["status"], msg.metadata["error_body"]) == ("NOT_FOUND", "nope")


async def test_a_redirect_is_not_followed():
    async with opened() as server:
        server.answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
        label, msg = await server.ask()
        assert (label, msg.metadata["statusCode"]) == ("failure", "302")


async def test_text_goes_without_quotes_get_without_body_and_basic_credentials_as_header():
    basic = {"type": "basic", "username": "u", "password": "secret"}
    async with opened(parseToPlainText=True, credentials=basic) as server:
        await server.ask("plain")
        assert server.asked[0][1] == b"plain"
        assert "Basic " + base64.b64encode(b"u:secret").decode() in server.asked[0][0]
    async with opened(requestMethod="GET") as server:
        await server.ask({"t": 1})
        assert server.asked[0][1] == b""
    async with opened(ignoreRequestBody=True) as server:
        await server.ask({"t": 1})
        assert server.asked[0][1] == b""


async def test_who_does_not_answer_in_time_or_at_all_is_a_failure_with_the_error():
    async with opened(readTimeoutMs=50) as server:
        server.go_on.clear()
        label, msg = await server.ask()
        assert (label, msg.metadata["error"]) == ("failure", "TransientError: no answer within 0.05 s")
    async with opened(allow=["*"], restEndpointUrlPattern="http://127.0.0.1:1/") as server:
        label, msg = await server.ask()
        assert (label, msg.metadata["error"][:30]) == ("failure", "TransientError: ConnectError: ")


async def test_an_answer_that_is_too_long_is_a_failure():
    async with opened(maxInMemoryBufferSizeInKb=1) as server:
        server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
        label, msg = await server.ask()
        assert (label, msg.metadata["error"]) == ("failure", "RejectedError: the answer is longer than 1 KB")


async def test_so_many_at_a_time_and_no_more_than_a_hundred_wait():
    async with opened(maxParallelRequestsCount=2) as server:
        server.go_on.clear()
        asks = [asyncio.create_task(server.ask()) for _ in range(110)]
        async with asyncio.timeout(5):
            while sum(ask.done() for ask in asks) < 10 or server.most < 2:
                await asyncio.sleep(0.01)
        server.go_on.set()
        results = await asyncio.gather(*asks)
        assert server.most == 2
        refused = [msg for label, msg in results if "under way already" in msg.metadata.get("error", "")]
        assert refused


async def test_nobody_is_called_who_is_not_allowed_and_the_list_of_problems_says_so():
    async with opened(allow=[]) as server:
        out = server.rules.run()
        assert (out.waits, server.asked) == ([], [])
    rules = Rules([("rest.TbRestApiCallNode", "rest", {"restEndpointUrlPattern": "http://plc.local/api"})])
    assert rules.texts() == [
        "http://plc.local is not called: rules.allow_rest does not name it (add 'http://plc.local' there if it may be)"
    ]
    assert "rules.allow_rest does not name it" in rules.run().errors[0]


def test_a_proxy_has_to_be_allowed_too():
    config = {"restEndpointUrlPattern": "http://a/", "enableProxy": True, "proxyHost": "inside", "proxyPort": 22}
    rules = Rules([("rest.TbRestApiCallNode", "rest", config)], allow_rest=["http://a"])
    assert "http://inside:22 is not called" in rules.texts()[0]


def test_secrets_are_in_no_text():
    secret = "top-secret"
    config = {
        "restEndpointUrlPattern": "http://a/",
        "credentials": {"type": "cert.PEM", "cert": secret, "privateKey": secret, "password": secret},
    }
    rules = Rules([("rest.TbRestApiCallNode", "rest", config)], allow_rest=["http://a"])
    assert rules.texts() == ["certificate and private key are no PEM texts that belong together"]
    with pytest.raises(RejectedError) as error:
        check_url(f"http://b/x?token={secret}", [])
    assert secret not in str(error.value)


async def test_a_header_that_cannot_be_sent_is_not_quoted():
    async with opened(headers={"X-Key": "${deviceName}"}) as server:
        label, msg = await server.ask(metadata={"deviceName": "\u20acsecret"})
        assert label == "failure"
        assert "secret" not in msg.metadata["error"]


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://erp.local/orders", "https://erp.local"),
        ("https://ERP.local:443/orders", "https://erp.local"),
        ("http://erp.local:8080/a/b?x=1", "http://erp.local:8080/a"),
        ("http://x.plant.local/", "http://*.plant.local"),
        ("http://anybody/", "*"),
    ],
)
def test_allowed(url, entry):
    check_url(url, [entry])


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://erp.local/", "https://erp.local"),
        ("https://erp.local:8443/", "https://erp.local"),
        ("https://erp.local.evil.example/", "https://erp.local"),
        ("https://erp.local@evil.example/", "https://erp.local"),
        ("https://evil.example\\@erp.local/", "*"),
        ("http://erp.local/abc", "http://erp.local/a"),
        ("http://erp.local/a/../b", "http://erp.local/a"),
        ("http://erp.local/a/%2e%2E/b", "http://erp.local/a"),
        ("http://evilplant.local/", "http://*.plant.local"),
        ("ftp://erp.local/", "*"),
        ("erp.local/x", "*"),
        ("http://[bad/", "*"),
    ],
)
def test_not_allowed(url, entry):
    with pytest.raises(RejectedError):
        check_url(url, [entry])


def test_brokers_by_host_and_port():
    check_host("mq.local", 1883, ["mq.local"])
    check_host("mq.local", 1883, ["mq.local:1883"])
    for host, port in (("mq.local", 8883), ("other", 1883)):
        with pytest.raises(RejectedError, match=r"rules\.allow_mqtt does not name it"):
            check_host(host, port, ["mq.local:1883"])
