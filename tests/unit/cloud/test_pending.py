"""Numbers and answers of uplink messages."""

import asyncio

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
