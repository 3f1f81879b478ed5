"""Numbers and answers of uplink messages."""

import asyncio
from unittest.mock import patch

from gateway.cloud.pending import Pending
from gateway.ports import UplinkAnswer


async def test_a_refused_message_keeps_its_number_when_it_comes_again():
    pending = Pending()
    future = asyncio.get_running_loop().create_future()
    first = pending.id_of("a")
    pending.add(first, future, 0.0, "a")
    assert pending.answer(first, UplinkAnswer(False, "no"))
    assert pending.id_of("b") != first
    assert pending.id_of("a") == first
    pending.add(first, asyncio.get_running_loop().create_future(), 1.0, "a")
    assert pending.answer(first, UplinkAnswer(True))
    assert pending.id_of("a") != first  # confirmed: nothing to remember


async def test_what_is_remembered_is_bounded():
    pending = Pending()
    for number in range(2000):
        id_ = pending.id_of(number)
        pending.add(id_, asyncio.get_running_loop().create_future(), 0.0, number)
        pending.answer(id_, UplinkAnswer(False, "no"))
    assert len(pending._refused) == 1000


async def test_no_number_comes_back_in_a_long_session():
    pending = Pending()
    numbers = [pending.id_of(content) for content in range(100_000)]
    assert len(set(numbers)) == 100_000
    assert all(0 <= number <= 2_147_483_646 for number in numbers)


async def test_numbers_begin_anew_behind_the_last_and_leave_out_those_on_their_way():
    with patch("random.randrange", return_value=2_147_483_645):
        pending = Pending()
    pending.add(0, asyncio.get_running_loop().create_future(), 0.0, "old")
    assert [pending.id_of(content) for content in "abc"] == [2_147_483_645, 2_147_483_646, 1]


async def test_two_sessions_do_not_number_alike():
    assert len({Pending().id_of("a") for _ in range(10)}) > 1
