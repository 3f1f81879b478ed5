"""Answers in the order of the publishes; downlinks within the device's window."""

import asyncio

import pytest

from gateway.broker import encode
from gateway.broker.outbox import Outbox
from gateway.broker.receipts import AckQueue
from gateway.errors import RejectedError, TransientError


class Acks:
    def __init__(self):
        self.written, self.ended, self.bugs = [], [], []
        self.queue = AckQueue(self.written.append, self.ended.append, self.bugs.append)
        self.receipts = [asyncio.get_running_loop().create_future() for _ in range(4)]


@pytest.fixture
async def acks():
    return Acks()


async def turn():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_answers_keep_the_order_of_the_publishes_and_leave_together(acks):
    for receipt, answer in zip(acks.receipts, (b"1", b"2", b"3", b"4"), strict=True):
        acks.queue.add(receipt, answer)
    acks.queue.add(None, b"5")
    acks.receipts[1].set_result(None)
    acks.receipts[2].set_result(None)
    await turn()
    assert acks.written == []
    assert acks.queue.unanswered == 5
    acks.receipts[0].set_result(None)
    await turn()
    assert acks.written == [b"123"]
    acks.receipts[3].set_result(None)
    await turn()
    assert acks.written == [b"123", b"45"]
    assert acks.queue.unanswered == 0


async def test_qos_0_waits_for_no_answer(acks):
    acks.queue.add(acks.receipts[0], b"")
    assert acks.queue.unanswered == 0


async def test_a_rejected_receipt_ends_the_connection_after_the_answers_before_it(acks):
    acks.queue.add(acks.receipts[0], b"1")
    acks.queue.add(acks.receipts[1], b"2")
    acks.receipts[1].set_exception(RejectedError("no"))
    await turn()
    assert acks.ended == []
    acks.receipts[0].set_result(None)
    await turn()
    assert (acks.written, acks.ended) == ([b"1"], [0x83])


async def test_an_ending_waits_for_what_was_published_before(acks):
    acks.queue.add(acks.receipts[0], b"1")
    acks.queue.end_after(0x99)
    assert acks.ended == []
    acks.receipts[0].set_result(None)
    await turn()
    assert (acks.written, acks.ended) == ([b"1"], [0x99])


async def test_any_other_failure_is_a_bug(acks):
    acks.queue.add(acks.receipts[0], b"1")
    acks.receipts[0].set_exception(KeyError("x"))
    await turn()
    assert [type(bug) for bug in acks.bugs] == [KeyError]
    assert acks.written == []


async def test_after_the_end_nothing_is_written(acks):
    acks.queue.add(acks.receipts[0], b"1")
    acks.queue.add(acks.receipts[1], b"2")
    acks.queue.close()
    acks.receipts[0].set_result(None)
    acks.receipts[1].set_exception(RejectedError("no"))
    await turn()
    assert (acks.written, acks.ended) == ([], [])


def outbox(written, *, version=4, window=2, max_packet_bytes=None, overflow=lambda: None):
    return Outbox(
        version,
        written.append,
        overflow,
        receive_maximum=window,
        max_packet_bytes=max_packet_bytes,
        max_waiting_bytes=100,
    )


async def test_the_window_of_the_device_is_kept():
    written = []
    box = outbox(written)
    for number in range(3):
        box.publish("t", b"%d" % number, 1)
    box.publish("t", b"q0", 0)
    assert written == [
        encode.publish(4, "t", b"0", 1, 1),
        encode.publish(4, "t", b"1", 1, 2),
        encode.publish(4, "t", b"q0"),
    ]
    box.acknowledged(99, 0)
    assert len(written) == 3
    box.acknowledged(2, 0)
    assert written[3:] == [encode.publish(4, "t", b"2", 1, 3)]


async def test_done_is_the_puback():
    loop = asyncio.get_running_loop()
    first, second, third = loop.create_future(), loop.create_future(), loop.create_future()
    box = outbox([])
    box.publish("t", b"", 1, done=first)
    box.publish("t", b"", 1, done=second)
    box.publish("t", b"", 1, done=third)
    box.acknowledged(1, 0)
    assert first.done()
    assert not second.done()
    box.close()
    for lost in (second, third):
        with pytest.raises(TransientError):
            await lost
    late = loop.create_future()
    box.publish("t", b"", 0, done=late)
    with pytest.raises(TransientError):
        await late


async def test_a_refusal_and_a_packet_too_large_for_the_device_are_failures():
    loop = asyncio.get_running_loop()
    refused, large = loop.create_future(), loop.create_future()
    written = []
    box = outbox(written, version=5, max_packet_bytes=20)
    box.publish("t", b"", 1, done=refused)
    box.acknowledged(1, 0x99)
    with pytest.raises(TransientError, match="0x99"):
        await refused
    box.publish("t", bytes(30), 1, done=large)
    with pytest.raises(TransientError, match="more than the device takes"):
        await large
    assert len(written) == 1


async def test_what_waits_is_bounded():
    overflows = []
    box = outbox([], window=1, overflow=lambda: overflows.append(1))
    for _ in range(3):
        box.publish("t", bytes(60), 1)
    assert overflows == [1]


async def test_packet_ids_in_flight_are_never_used_again():
    box = outbox(written := [], window=1000)
    box.publish("t", b"", 1)
    for _ in range(65_534):
        box.publish("t", b"", 1)
        box.acknowledged(int.from_bytes(written[-1][5:7], "big"), 0)
    box.publish("t", b"", 1)
    assert int.from_bytes(written[-1][5:7], "big") == 2
