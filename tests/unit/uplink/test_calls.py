"""A backlog and calls at the same time: what keeps the answer to a call short."""

import asyncio

from gateway.domain.cloud_event import Lane
from gateway.uplink.calls import Calls
from tests.unit.uplink.build import Bench


def full(**settings) -> Bench:
    bench = Bench(batch_size=1, window=12, **settings)
    for who in range(60):
        bench.events.append(who)
    return bench


def telemetry(bench) -> int:
    return sum(message.events[0].lane is Lane.MAIN for message in bench.link.waiting)


def test_a_small_window_stays_as_it_is():
    calls = Calls()
    calls.answered(10.0)
    assert [calls.window(whole, 11.0) for whole in (1, 3, 6, 12, 32)] == [1, 3, 4, 4, 10]
    assert calls.window(32, 12.5) == 32


async def test_after_the_answer_to_a_call_telemetry_has_a_part_of_its_window_for_a_while():
    async with full() as bench:
        assert telemetry(bench) == 12
        bench.events.append(1, "RPC_CALL", lane=Lane.EXPRESS)
        await bench.settle()
        while telemetry(bench) < len(bench.link.waiting):
            await bench.answer(*range(len(bench.link.waiting)))
        assert telemetry(bench) == 4
        await bench.clock.advance(2.5)
        await bench.answer(0)
        assert telemetry(bench) == 12


async def test_nobody_waits_for_a_whole_window_to_be_made():
    bench, most = full(), 0
    async with asyncio.TaskGroup() as tasks:

        async def watch():
            nonlocal most
            before = 0
            for _ in range(60):
                await asyncio.sleep(0)
                most = max(most, len(bench.link.waiting) - before)
                before = len(bench.link.waiting)

        tasks.create_task(watch())
        async with bench:
            assert telemetry(bench) == 12
    assert most <= 2
