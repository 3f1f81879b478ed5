"""Claims: the first record wins until it is used or has expired, and who has no key gets nothing."""

import asyncio
import dataclasses
import logging

import orjson
import pytest

from gateway.domain.changes import SaveDevice
from gateway.domain.onboarding import parse_claim
from gateway.domain.payloads import PayloadError
from gateway.supervise import MOST_LINES
from tests.fakes.house import FakeChannel, House

DAY_MS = 86_400_000


@pytest.fixture
async def house():
    async with House() as house:
        yield house


def connect(house, device):
    return house.inlet.open_session(device, FakeChannel())


async def claim(house, key, name="Boiler"):
    return (await house.inlet.claims.claim(name, key)).value


async def test_who_knows_the_key_gets_the_device_once(house, caplog):
    caplog.set_level(logging.DEBUG)
    session = connect(house, house.add_device())
    await session.claim("s3cret", 0)
    assert await claim(house, "wrong") == "FAILURE"
    assert await claim(house, "s3cret", "Nobody") == "FAILURE"
    assert await claim(house, "s3cret") == "SUCCESS"
    (event,) = house.committer.events()
    assert (event.action, orjson.loads(event.body)["kv"]) == ("ATTRIBUTES_UPDATED", {"claimed": True})
    assert await claim(house, "s3cret") == "CLAIMED"
    assert house.state.settings("claim:") == {}
    await session.claim("again", 0)
    assert house.state.settings("claim:") == {}
    assert "s3cret" not in caplog.text + repr(house.committer.changes())


async def test_the_first_record_wins_until_it_expires(house):
    session = connect(house, house.add_device())
    first = session.claim("one", 1000)
    await session.claim("two", 1000)  # while the first is on its way
    await first
    assert await claim(house, "two") == "FAILURE"
    house.clock._now_ms += 1001
    assert await claim(house, "one") == "FAILURE"
    await session.claim("two", 0)
    house.clock._now_ms += DAY_MS - 1
    assert await claim(house, "two") == "SUCCESS"


async def test_a_device_that_claims_without_end_does_not_fill_the_log(house, caplog):
    session = connect(house, house.add_device())
    for _ in range(200):
        await session.claim("k", 0)
    assert house.counters.get("devices.claims_ignored") == 199
    assert caplog.text.count("its claim is ignored: an earlier one still stands") == MOST_LINES


async def test_two_at_once(house):
    session = connect(house, house.add_device())
    await session.claim("", 0)
    house.committer.hold()

    first = asyncio.create_task(claim(house, ""))
    await asyncio.sleep(0)
    assert await claim(house, "") == "CLAIMED"
    assert not first.done()
    house.committer.release()
    assert await first == "SUCCESS"


async def test_claiming_may_need_leave(house):
    house.inlet.claims.is_allowed_by_default = False
    device = house.add_device()
    session = connect(house, device)
    await session.claim("k", 0)
    assert await claim(house, "k") == "FAILURE"
    house.add_attributes(device, "SERVER_SCOPE", claimingAllowed=True)
    await session.claim("k", 0)
    assert await claim(house, "k") == "SUCCESS"


@pytest.mark.parametrize(
    ("customer", "is_owned"),
    [("a0000000-0000-11ee-8000-000000000001", True), ("13814000-1dd2-11b2-8080-808080808080", False), (None, False)],
)
async def test_a_device_of_a_customer_is_not_for_claiming(house, customer, is_owned):
    json = {"customerId": {"entityType": "CUSTOMER", "id": customer}}
    device = dataclasses.replace(house.add_device(), json=json)
    house.state.apply([SaveDevice(device)])
    await connect(house, device).claim("k", 0)
    assert await claim(house, "k") == ("CLAIMED" if is_owned else "SUCCESS")


async def test_a_deleted_device_takes_its_record_along(house):
    device = house.add_device()
    await connect(house, device).claim("k", 0)
    assert house.state.settings("claim:") != {}
    await house.commands.delete_device(device.id)
    assert house.state.settings("claim:") == {}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", ("", 0)),
        (b"{}", ("", 0)),
        (b'{"secretKey":"k","durationMs":60000}', ("k", 60000)),
        (b'{"secretKey":123,"durationMs":"5"}', ("123", 5)),
    ],
)
def test_payloads(payload, expected):
    assert parse_claim(payload) == expected


@pytest.mark.parametrize(
    "payload", [b"[]", b'"k"', b'{"durationMs":"soon"}', b'{"durationMs":true}', b'{"secretKey":[]}']
)
def test_bad_payloads(payload):
    with pytest.raises(PayloadError):
        parse_claim(payload)
