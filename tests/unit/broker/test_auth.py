"""Who is let in: the basic lookup, and the codes for those who are not."""

import pytest

from gateway.broker.auth import authenticate, refusal
from gateway.domain.doorkeeper import Doorkeeper
from gateway.domain.entity import Credentials, Device, time_uuid
from tests.fakes.inlet import FakeInlet


@pytest.fixture
async def inlet():
    inlet = FakeInlet()
    inlet.add_device("token", "tok")
    inlet.add_basic_device("all three", "c1", "u1", "p1")
    inlet.add_basic_device("user only", "", "u2", "p2")
    inlet.add_basic_device("client only", "c3", "", None)
    return inlet


@pytest.mark.parametrize(
    ("client_id", "user_name", "password", "name"),
    [
        ("", "tok", None, "token"),
        ("anything", "tok", b"anything", "token"),
        ("c1", "u1", b"p1", "all three"),
        ("c1", "u1", b"wrong", None),
        ("c1", "u1", None, None),
        ("other", "u1", b"p1", None),
        ("", "u2", b"p2", "user only"),
        ("any client", "u2", b"p2", "user only"),
        ("", "u2", b"p1", None),
        ("c3", None, None, "client only"),
        ("c3", "", None, "client only"),
        ("c1", None, None, None),
        ("", None, None, None),
        ("", "unknown", b"x", None),
    ],
)
async def test_lookup(inlet, client_id, user_name, password, name):
    device = authenticate(inlet.find_credentials, client_id, user_name, password)
    assert (device and device.name) == name


@pytest.mark.parametrize(
    ("client_id", "user_name", "password", "codes"),
    [
        ("", "x", None, (5, 0x86)),
        ("c", "x", b"y", (5, 0x86)),
        ("c", None, None, (2, 0x85)),
        ("", None, None, (5, 0x87)),
        (" ", None, None, (5, 0x87)),
    ],
)
def test_refusal_codes(client_id, user_name, password, codes):
    assert refusal(client_id, user_name, password) == codes


def test_an_address_is_blocked_for_a_while_and_then_forgotten():
    door = Doorkeeper(limit=3, block_s=60)
    assert [door.refused("a", now) for now in (0, 1, 2)] == [False, False, True]
    assert door.is_blocked("a", 61)
    assert not door.is_blocked("b", 61)
    assert not door.is_blocked("a", 62)
    assert not door.refused("a", 63)
    assert not door.is_blocked("a", 63)


def test_a_right_password_starts_the_count_anew_and_old_ones_do_not_add_up():
    door = Doorkeeper(limit=2, block_s=60)
    door.refused("a", 0)
    door.accepted("a")
    assert not door.refused("a", 1)
    door.refused("b", 0)
    assert not door.refused("b", 100)


def test_the_book_of_addresses_is_bounded():
    door = Doorkeeper(limit=1, block_s=60)
    for number in range(10_001):
        door.refused(str(number), 0)
    assert not door.is_blocked("0", 1)
    assert door.is_blocked("10000", 1)


@pytest.mark.parametrize(
    ("value", "is_let_in"),
    [
        ('{"clientId":null,"userName":"7","password":8}', True),
        ('{"userName":7,"password":"8"}', True),
        ('{"userName":[7],"password":"8"}', False),
        ('["userName"]', False),
        ("7", False),
        ("no JSON", False),
    ],
)
def test_credentials_of_a_cloud_that_are_no_texts_are_compared_and_no_bug(value, is_let_in):
    held = Credentials(type="MQTT_BASIC", credentials_id="7", value=value), Device(id=time_uuid(), name="d", type="t")
    found = authenticate(lambda id_: held if id_ == "7" else None, "c", "7", b"8")
    assert (found is not None) == is_let_in
