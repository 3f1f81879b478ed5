"""The HTTP device API over real sockets, in front of the real device room; the disk is a list that can be held back."""

import asyncio
import http.client
import logging
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.config import HttpConfig
from gateway.domain.changes import SaveDevice
from gateway.domain.entity import Credentials, Device, time_uuid
from gateway.supervise import Counters, SystemClock
from gateway.web import DeviceHttp
from tests.e2e.parts import CloudProcess, GatewayProcess, free_port, until
from tests.fakes.house import FakeChannel, House
from tests.fakes.inlet import FakeInlet
from tests.integration.test_broker_tls import certificates, make_certificate  # noqa: F401

NO_CHECK = ssl.create_default_context()
NO_CHECK.check_hostname, NO_CHECK.verify_mode = False, ssl.CERT_NONE

SHARED = "SHARED_SCOPE"


class Site:
    """A house with a street door for HTTP."""

    def __init__(self, house, **settings):
        self.house = house
        self.room = DeviceHttp(
            HttpConfig(**{"host": "127.0.0.1", "port": 0} | settings), house.inlet, SystemClock(), house.counters
        )
        self.device = house.add_device("Boiler", "secret-token")
        self.url = ""

    def client(self, **options):
        return httpx.AsyncClient(base_url=self.url, timeout=10, **options)

    def posted(self):
        return [message for message in self.house.rules.seen if message.type.startswith("POST_")]

    def count(self, name):
        return self.house.counters.get(name)


@asynccontextmanager
async def site(**settings):
    async with House() as house:
        place = Site(house, **settings)
        serving = asyncio.create_task(place.room.serve())
        try:
            async with asyncio.timeout(10):
                await place.room.ready.wait()
            place.url = f"http://127.0.0.1:{place.room.port}/api/v1"
            yield place
        finally:
            serving.cancel()
            await asyncio.wait([serving])


async def is_true(condition, what):
    async def asked():
        return condition()

    await until(asked, 10, what)


# ── every call ──


async def test_telemetry_in_every_shape_is_posted_and_answered_with_200_and_nothing():
    async with site() as place, place.client() as client:
        for body, values in (
            (b'{"t":21.5}', [{"t": 21.5}]),
            (b"{temperature:25}", [{"temperature": 25}]),
            (b'{"ts":1700000000000,"values":{"n":"73","none":null}}', [{"n": 73}]),
            (b'[{"a":1},{"ts":5,"values":{"b":2}}]', [{"a": 1}, {"b": 2}]),
            (b"{}", []),
            (b"[]", []),
        ):
            place.house.rules.seen.clear()
            answer = await client.post("/secret-token/telemetry", content=body)
            assert (answer.status_code, answer.content) == (200, b""), body
            assert [message.data for message in place.posted()] == values
        assert place.house.inlet.sessions()[place.device.id].device == place.device


async def test_attributes_are_posted_and_asked_for():
    async with site() as place, place.client() as client:
        answer = await client.post("/secret-token/attributes", content=b'{"fw":"1.2"}')
        assert (answer.status_code, answer.content) == (200, b"")
        assert [message.data for message in place.posted()] == [{"fw": 1.2}]
        place.house.add_attributes(place.device, "CLIENT_SCOPE", fw="1.2", hw=3)
        place.house.add_attributes(place.device, SHARED, target=21)
        for query, found in (
            ("", {"client": {"fw": "1.2", "hw": 3}, "shared": {"target": 21}}),
            ("?clientKeys=fw,nothing", {"client": {"fw": "1.2"}}),
            ("?sharedKeys=target", {"shared": {"target": 21}}),
            ("?clientKeys=hw&sharedKeys=target", {"client": {"hw": 3}, "shared": {"target": 21}}),
            ("?clientKeys=nothing", {}),
        ):
            answer = await client.get(f"/secret-token/attributes{query}")
            assert (answer.status_code, answer.json()) == (200, found), query


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("telemetry", b'{"a":1', 500, "expected"),
        ("telemetry", b"", 500, "the payload is empty"),
        ("telemetry", b"[1]", 500, "telemetry[0] must be an object"),
        ("telemetry", b'{"ts":null,"values":{"a":1}}', 500, '"ts" must be a number'),
        ("attributes", b'[{"a":1}]', 500, "attributes must be one JSON object"),
        ("rpc", b'{"params":1}', 500, 'needs a "method"'),
        ("rpc", b'{"method":"m"}', 500, 'needs "params"'),
        ("rpc/x", b"{}", 400, "must be a 32-bit integer"),
        ("claim", b"[]", 500, "a claim must be a JSON object"),
    ],
)
async def test_what_cannot_be_taken_gets_the_reason_and_the_connection_stays(path, body, status, text, caplog):
    async with site() as place, place.client() as client:
        answer = await client.post(f"/secret-token/{path}", content=body)
        assert answer.status_code == status
        assert text in answer.text
        assert place.posted() == []
        assert (await client.post("/secret-token/telemetry", content=b'{"a":1}')).status_code == 200
        assert place.room.status()["connections"] == 1
        if status == 500:
            assert place.count("http.bad_payloads") == 1
            assert "device 'Boiler': bad body of POST" in caplog.text


async def test_what_is_not_served_here_is_answered_as_a_server_without_it():
    async with site() as place, place.client() as client:
        for kind in ("firmware", "software"):
            answer = await client.get(f"/secret-token/{kind}?title=a&version=1")
            assert (answer.status_code, answer.content) == (404, b"")
        answer = await client.post("/provision", json={"provisionDeviceKey": "k", "provisionDeviceSecret": "s"})
        assert answer.json() == {"errorMsg": "Provision data was not found!", "status": "NOT_FOUND"}
        assert (await client.get("/secret-token/telemetry")).status_code == 405
        assert (await client.get("/secret-token/unknown")).status_code == 404


# ── the receipt ──


async def test_200_comes_after_the_disk_and_not_before():
    async with site() as place, place.client() as client:
        place.house.committer.hold()
        for path in ("telemetry", "attributes", "rpc/1"):
            request = asyncio.create_task(client.post(f"/secret-token/{path}", content=b'{"a":1}'))
            await is_true(lambda: place.house.committer._held, "nothing was submitted")
            _, waiting = await asyncio.wait([request], timeout=0.1)
            assert waiting, path
            place.house.committer.release()
            assert (await request).status_code == 200
            place.house.committer.hold()


async def test_a_message_that_cannot_be_stored_is_told_and_the_next_one_goes_on():
    from gateway.errors import RejectedError

    async with site() as place, place.client() as client:
        place.house.committer.refuse_next = RejectedError("no")
        assert (await client.post("/secret-token/telemetry", content=b'{"a":1}')).status_code == 500
        assert (await client.post("/secret-token/telemetry", content=b'{"a":1}')).status_code == 200


async def test_a_long_body_is_posted_in_order_and_in_parts():
    async with site() as place, place.client() as client:
        body = "[" + ",".join(f'{{"ts":{n},"values":{{"n":{n}}}}}' for n in range(1, 1201)) + "]"
        assert (await client.post("/secret-token/telemetry", content=body)).status_code == 200
        assert [message.data["n"] for message in place.posted()] == list(range(1, 1201))
        assert len(place.house.committer.units) == 3


async def test_overload_is_answered_by_waiting():
    inlet = FakeInlet()
    inlet.add_device("Boiler", "token")
    room = DeviceHttp(HttpConfig(host="127.0.0.1", port=0), inlet, SystemClock(), Counters())
    serving = asyncio.create_task(room.serve())
    await asyncio.wait_for(room.ready.wait(), 5)
    inlet.calm.clear()
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{room.port}/api/v1/token/telemetry"
        request = asyncio.create_task(client.post(url, content=b'{"a":1}'))
        await is_true(lambda: inlet.visits, "the request did not come")
        _, waiting = await asyncio.wait([request], timeout=0.1)
        (visit,) = inlet.visits.values()
        assert waiting
        assert visit.posted == []
        inlet.calm.set()
        assert (await request).status_code == 200
        assert len(visit.posted) == 1
    serving.cancel()
    await asyncio.wait([serving])


async def test_a_stop_answers_what_becomes_durable_and_ends_the_polls():
    async with site() as place, place.client() as client:
        place.house.committer.hold()
        post = asyncio.create_task(client.post("/secret-token/telemetry", content=b'{"a":1}'))
        await is_true(lambda: place.house.committer._held, "nothing was submitted")
        poll = asyncio.create_task(client.get("/secret-token/rpc"))
        await is_true(lambda: place.house.inlet._visits[place.device.id].hears_rpc, "no poll")
        room = next(task for task in asyncio.all_tasks() if "DeviceHttp.serve" in repr(task.get_coro()))
        room.cancel()
        assert (await poll).status_code == 503
        place.house.committer.release()
        assert (await post).status_code == 200
        await asyncio.wait([room])
        with pytest.raises(httpx.ConnectError):
            await client.get("/secret-token/attributes")


# ── who may come in ──


async def test_unknown_tokens_get_401_and_nothing_and_an_address_with_many_is_dropped_for_a_while(caplog):
    caplog.set_level(logging.DEBUG)
    async with site(wrong_token_limit=3, block_s=0.5) as place, place.client() as client:
        basic = Device(
            id=time_uuid(), name="B", type="t", credentials=Credentials(type="MQTT_BASIC", credentials_id="user")
        )
        place.house.state.apply([SaveDevice(basic)])
        for token in ("user", "wrong-secret-guess", "wrong-secret-guess"):
            answer = await client.post(f"/{token}/telemetry", content=b'{"a":1}')
            assert (answer.status_code, answer.content) == (401, b"")
        with pytest.raises(httpx.HTTPError):
            await client.post("/secret-token/telemetry", content=b'{"a":1}')
        assert place.count("http.blocked_connections") == 1
        await asyncio.sleep(0.5)  # the block ends
        assert (await client.post("/secret-token/telemetry", content=b"{bad")).status_code == 500
        assert place.posted() == []
    ours = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert "127.0.0.1 is blocked for 0.5 s" in ours
    assert "secret" not in ours


async def test_bodies_are_bounded_whatever_they_declare():
    async with site(max_body_bytes=200_000) as place, place.client() as client:
        large = b'{"a":"' + b"x" * 199_000 + b'"}'

        async def chunks(size):
            for _ in range(0, size, 50_000):
                yield b" " * 50_000

        for path, content, status in (
            ("rpc", b" " * 65_537, 413),
            ("rpc/1", b" " * 65_537, 413),
            ("telemetry", b" " * 200_001, 413),
            ("telemetry", chunks(250_000), 413),
            ("telemetry", large, 200),
        ):
            answer = await client.post(f"/secret-token/{path}", content=content)
            assert answer.status_code == status, path
        assert [len(message.data["a"]) for message in place.posted()] == [199_000]
        assert (await client.post("/secret-token/telemetry", content=b'{"a":1}')).status_code == 200


async def test_a_peer_that_drips_its_request_is_told_and_goes_while_others_are_served():
    async with site(request_timeout_s=0.2) as place, place.client() as client:
        half = [b"", b"POST /api/v1/secret-token/tele", b"POST /api/v1/secret-token/telemetry HTTP/1.1\r\nHost: x\r\n"
                b"Content-Length: 9\r\n\r\n{"]  # fmt: skip
        peers = [await asyncio.open_connection("127.0.0.1", place.room.port) for _ in half]
        for (_, writer), head in zip(peers, half, strict=True):
            writer.write(head)
        assert (await client.post("/secret-token/telemetry", content=b'{"a":1}')).status_code == 200
        for reader, writer in peers:
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith(b"HTTP/1.1 408 ")
            writer.close()
        assert place.count("http.slow_connections") == 3


async def test_garbage_is_400_and_counted_and_not_logged(caplog):
    async with site() as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.room.port)
        writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
        writer.close()
        assert place.count("http.bad_requests") == 1
    assert caplog.text == ""


async def test_a_full_house_lets_the_quiet_one_go_and_tells_the_next_when_all_are_at_work():
    async with site(max_connections=2, max_requests_per_device=5) as place, place.client() as client:
        port = place.room.port
        quiet = await asyncio.open_connection("127.0.0.1", port)
        await is_true(lambda: place.room.status()["connections"] == 1, "not connected")
        polls = [asyncio.create_task(client.get("/secret-token/rpc?timeout=60000")) for _ in range(2)]
        assert await asyncio.wait_for(quiet[0].read(), 5) == b""
        await is_true(lambda: len(place.room._visits.of(place.device)._call_polls) == 2, "no polls")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 503 ")
        assert (place.count("http.idle_connections_evicted"), place.count("http.connections_refused")) == (1, 1)
        for each in (writer, quiet[1]):
            each.close()
        for poll in polls:
            poll.cancel()


async def test_one_device_has_no_more_than_its_share():
    async with site(max_requests_per_device=1) as place, place.client() as client:
        place.house.add_device("Other", "other")
        poll = asyncio.create_task(client.get("/secret-token/rpc?timeout=300"))
        await is_true(lambda: place.house.inlet._visits, "no poll")
        answer = await client.post("/secret-token/telemetry", content=b'{"a":1}')
        assert (answer.status_code, answer.text) == (429, "1 requests of this device are open")
        assert (await client.post("/other/telemetry", content=b'{"a":1}')).status_code == 200
        assert (await poll).status_code == 408
        assert (await client.post("/secret-token/telemetry", content=b'{"a":1}')).status_code == 200


# ── long polls ──


async def push(place, **values):
    await place.house.commands.update_attributes(place.device.entity_id, SHARED, values, None)


async def polling(place, client, path):
    """A poll that the house knows of."""
    poll = asyncio.create_task(client.get(f"/secret-token/{path}"))
    what = "hears_rpc" if path.startswith("rpc") else "hears_attributes"
    await is_true(lambda: place.house.inlet._visits and getattr(
        place.house.inlet._visits[place.device.id], what), "no poll")  # fmt: skip
    return poll


async def test_a_poll_hears_one_change_and_the_next_one_what_came_between():
    async with site() as place, place.client() as client:
        poll = await polling(place, client, "attributes/updates")
        second = await polling(place, client, "attributes/updates")
        await is_true(lambda: len(place.room._visits.of(place.device)._attribute_polls) == 2, "no polls")
        await push(place, target=21)
        assert (await poll).json() == (await second).json() == {"target": 21}
        await push(place, target=22, mode="eco")
        await push(place, target=23)
        await place.house.commands.delete_attributes(place.device.entity_id, SHARED, ["mode"])
        assert (await client.get("/secret-token/attributes/updates")).json() == {"target": 23}
        assert (await client.get("/secret-token/attributes/updates")).json() == {"deleted": ["mode"]}
        answer = await client.get("/secret-token/attributes/updates?timeout=50")
        assert (answer.status_code, answer.content) == (408, b"")
        assert not place.house.inlet._visits[place.device.id].hears_attributes
        assert (await client.get("/secret-token/attributes/updates?timeout=soon")).status_code == 400


async def test_a_call_is_polled_and_answered_and_reaches_the_device_once():
    async with site() as place, place.client() as client:
        await place.house.commands.call_device(place.house.call(place.device, method="a"))
        await place.house.commands.call_device(place.house.call(place.device, method="b", request_id=8))
        polled = [(await client.get("/secret-token/rpc")).json() for _ in range(2)]
        assert polled == [
            {"id": 0, "method": "a", "params": {"on": True}},
            {"id": 1, "method": "b", "params": {"on": True}},
        ]
        assert (await client.get("/secret-token/rpc?timeout=50")).status_code == 408
        for rpc_id in (1, 0, 77):
            answer = await client.post(f"/secret-token/rpc/{rpc_id}", content=b'{"done":%d}' % rpc_id)
            assert (answer.status_code, answer.content) == (200, b"")
        await place.house.rpc_done()
        answers = {answer["requestId"]: answer["response"] for answer in place.house.answers()}
        assert answers == {7: '{"done":0}', 8: '{"done":1}'}


async def test_a_one_way_call_is_done_when_it_is_sent():
    async with site() as place, place.client() as client:
        poll = await polling(place, client, "rpc")
        await place.house.commands.call_device(place.house.call(place.device, is_oneway=True))
        assert (await poll).json()["method"] == "set"
        await place.house.rpc_done()
        assert place.house.counters.get("rpc.answered") == 1


async def test_a_one_way_call_between_two_polls_waits_for_the_next_one():
    async with site() as place, place.client() as client:
        house = place.house
        assert (await client.get("/secret-token/rpc?timeout=50")).status_code == 408
        for number in range(2):  # after a poll without a call, and after one with
            await house.commands.call_device(house.call(place.device, is_oneway=True, method=f"m{number}"))
            assert house.rpc.open_calls() == 1
            assert (await client.get("/secret-token/rpc?timeout=5000")).json()["method"] == f"m{number}"
            await house.rpc_done()
        assert [answer.get("error") for answer in house.answers()] == [None, None]

        # It does not come back: the call's own deadline, and then its poll time is over as well.
        await house.commands.call_device(house.call(place.device, is_oneway=True))
        await house.clock.advance(4)
        assert house.rpc.open_calls() == 1
        await house.clock.advance(6)
        await house.rpc_done()
        await house.commands.call_device(house.call(place.device, is_oneway=True))
        await house.rpc_done()
        assert [answer.get("error") for answer in house.answers()[2:]] == ["NO_ACTIVE_CONNECTION"] * 2


async def test_a_call_waits_for_the_next_poll_when_the_device_left_the_last_one():
    async with site() as place, place.client() as client:
        poll = await polling(place, client, "rpc")
        poll.cancel()
        await is_true(lambda: not place.house.inlet._visits[place.device.id].hears_rpc, "the poll was not given up")
        await place.house.commands.call_device(place.house.call(place.device))
        assert (await client.get("/secret-token/rpc")).json()["method"] == "set"


async def test_a_deleted_device_hears_it_in_its_poll_and_other_credentials_end_it():
    async with site() as place, place.client() as client:
        poll = await polling(place, client, "attributes/updates")
        changed = {"credentialsType": "ACCESS_TOKEN", "credentialsId": "another-token"}
        await place.house.commands.put_credentials(place.device.id, changed)
        assert (await poll).status_code == 408
        assert (await client.get("/secret-token/attributes")).status_code == 401
        poll = asyncio.create_task(client.get("/another-token/rpc"))
        await is_true(lambda: place.house.inlet._visits, "no poll")
        await place.house.commands.delete_device(place.device.id)
        answer = await poll
        assert (answer.status_code, answer.text) == (403, "Device was deleted!")
        assert (await client.get("/another-token/attributes")).status_code == 401
        assert place.house.inlet._visits == place.room._visits._visits == {}


async def test_http_and_mqtt_of_one_device_stand_side_by_side():
    async with site() as place, place.client() as client:
        channel = FakeChannel()
        own = place.house.inlet.open_session(place.device, channel)
        assert (await client.post("/secret-token/telemetry", content=b'{"a":1}')).status_code == 200
        assert own.is_open
        assert channel.closed == []
        poll = await polling(place, client, "rpc?timeout=200")
        updates = await polling(place, client, "attributes/updates")
        own.subscribe_rpc(True)
        own.subscribe_attributes(True)
        await push(place, target=1)
        assert (await updates).json() == {"target": 1}
        assert channel.attributes == [{"target": 1}]
        await place.house.commands.call_device(place.house.call(place.device))
        await is_true(lambda: channel.calls, "the device's own session was not called")
        assert (await poll).status_code == 408
        own.close()
        assert place.house.inlet.sessions()[place.device.id].device == place.device


# ── calls by the device ──


async def test_a_devices_calls_get_their_own_answers():
    async with site() as place, place.client() as client:
        asking = [
            asyncio.create_task(client.post("/secret-token/rpc", json={"method": name, "params": {}}))
            for name in ("one", "two")
        ]
        await is_true(lambda: len(place.house.rules.seen) == 2, "the calls did not come")
        for message in reversed(place.house.rules.seen):
            await place.house.commands.answer_device(
                place.device.id,
                int(message.metadata["requestId"]),
                message.metadata["sessionId"],
                f'{{"method":"{message.data["method"]}"}}',
            )
        assert [(await each).json() for each in asking] == [{"method": "one"}, {"method": "two"}]


async def test_a_call_without_an_answer_times_out_after_a_minute():
    async with site() as place, place.client() as client:
        asking = asyncio.create_task(client.post("/secret-token/rpc", content=b"{method:getTime,params:null}"))
        await is_true(lambda: place.house.rules.seen, "the call did not come")
        await place.house.clock.advance(60)
        answer = await asking
        assert (answer.status_code, answer.text) == (200, '{"error":"timeout"}')


# ── other clients ──


async def test_the_standard_library_keeps_its_connection_and_may_pipeline():
    async with site() as place:

        def talk():
            connection = http.client.HTTPConnection("127.0.0.1", place.room.port, timeout=10)
            for n in range(3):
                connection.request("POST", "/api/v1/secret-token/telemetry", f'{{"n":{n}}}')
                answer = connection.getresponse()
                assert (answer.status, answer.read(), answer.version) == (200, b"", 11)
            connection.close()
            with socket.create_connection(("127.0.0.1", place.room.port), timeout=10) as pipe:
                one = b"POST /api/v1/secret-token/telemetry HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n"
                pipe.sendall(b"".join(one + b'{"n":%d}' % n for n in (3, 4)))
                got = b""
                while got.count(b"200 OK") < 2:
                    got += pipe.recv(4096)

        await asyncio.to_thread(talk)
        assert [message.data["n"] for message in place.posted()] == [0, 1, 2, 3, 4]


@pytest.mark.server
async def test_curl_as_the_vendors_quick_start_has_it():
    async with site() as place:
        command = ["curl", "-s", "-w", "%{http_code}", "-X", "POST", f"{place.url}/secret-token/telemetry"]
        command += ["--header", "Content-Type:application/json", "--data", "{temperature:25}"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=20)
        assert done.stdout == b"200"
        assert [message.data for message in place.posted()] == [{"temperature": 25}]


async def test_over_tls(certificates):  # noqa: F811
    settings = {"tls_cert": certificates / "cert.pem", "tls_key": certificates / "key.pem"}
    async with site(port=None, tls_port=0, **settings) as place:
        context = ssl.create_default_context(cafile=str(certificates / "cert.pem"))
        url = f"https://localhost:{place.room.tls_port}/api/v1/secret-token/telemetry"
        async with httpx.AsyncClient(verify=context) as client:
            for _ in range(2):
                assert (await client.post(url, content=b'{"a":1}')).status_code == 200
        assert len(place.posted()) == 2


async def test_who_never_finishes_a_handshake_takes_no_more_than_the_places_of_http(certificates):  # noqa: F811
    settings = {"tls_cert": certificates / "cert.pem", "tls_key": certificates / "key.pem", "max_connections": 3}
    async with site(tls_port=0, **settings) as place:
        silent = [await asyncio.open_connection("127.0.0.1", place.room.tls_port) for _ in range(9)]
        await is_true(lambda: place.count("http.idle_connections_evicted") == 6, "too many are let in")
        for reader, _ in silent[:6]:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        assert not any(reader.at_eof() for reader, _ in silent[6:])
        context = ssl.create_default_context(cafile=str(certificates / "cert.pem"))
        url = f"https://localhost:{place.room.tls_port}/api/v1/secret-token/telemetry"
        async with httpx.AsyncClient(verify=context) as client, place.client() as plain:
            assert (await client.post(url, content=b'{"a":1}')).status_code == 200
            assert (await plain.post("/secret-token/telemetry", content=b'{"a":2}')).status_code == 200
        for _, writer in silent:
            writer.close()


async def test_a_renewed_certificate_counts_for_the_next_handshake_and_a_broken_one_for_none(tmp_path, caplog):
    make_certificate(tmp_path)
    settings = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}

    async def shown(port):
        _, writer = await asyncio.open_connection("localhost", port, ssl=NO_CHECK)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return der

    async with site(tls_port=0, **settings) as place:
        first = await shown(place.room.tls_port)
        (tmp_path / "key.pem").write_text("half a key")
        for _ in range(2):
            place.room.reload()
        assert await shown(place.room.tls_port) == first
        assert "cannot be used" in place.room.status()["tls_problem"]
        assert caplog.text.count("the last certificate stays") == 1
        make_certificate(tmp_path)
        place.room.reload()
        second = await shown(place.room.tls_port)
        assert second != first
        assert place.room.status()["tls_problem"] is None


@pytest.mark.server
async def test_what_was_answered_with_200_is_in_the_cloud_after_kill_9(tmp_path):
    port = free_port()
    devices = [{"name": "Pump", "access_token": "pump"}]
    async with (
        CloudProcess(tmp_path) as cloud,
        GatewayProcess(tmp_path, cloud.grpc_port, devices=devices, http={"host": "127.0.0.1", "port": port}) as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1/pump", timeout=10) as client,
    ):
        acknowledged = 0
        for _ in range(2):
            for _ in range(40):
                body = {"seq": acknowledged + 1}
                assert (await client.post("/telemetry", json=body)).status_code == 200
                acknowledged += 1
            await gateway.kill()
            await gateway.start()
            assert (await gateway.status())["http"]["listening"]

        async def arrived():
            return (await cloud.device("Pump")).get("seq_contiguous") == acknowledged

        await until(arrived, 30, "an acknowledged reading is missing in the cloud")


async def test_a_device_deleted_while_its_body_arrives_posts_nothing():
    async with site() as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.room.port)
        writer.write(b"POST /api/v1/secret-token/telemetry HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{")
        await is_true(lambda: place.house.inlet._visits, "the request did not come")
        await place.house.commands.delete_device(place.device.id)
        writer.write(b'"a":1}')
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 401 ")
        writer.close()
        assert place.posted() == []


@pytest.mark.parametrize("id_", ["--5", "5-", "-", "+5", "9" * 5000], ids=["--5", "5-", "-", "+5", "5000 digits"])
async def test_the_id_of_an_answer_is_a_number_or_400(id_):
    async with site() as place, place.client() as client:
        answer = await client.post(f"/secret-token/rpc/{id_}", content=b"{}")
        assert (answer.status_code, answer.text) == (400, "the call's id in the path must be a 32-bit integer")


@pytest.mark.parametrize("host", ["proxy/part", "[::1", "a/b/c/d/e"])
async def test_the_token_is_not_logged_whatever_host_the_device_names(host, caplog):
    async with site() as place, place.client() as client:
        answer = await client.post("/secret-token/telemetry", content=b"{bad", headers={"host": host})
        assert answer.status_code == 500
    assert "POST /telemetry" in caplog.text
    assert "secret-token" not in caplog.text
