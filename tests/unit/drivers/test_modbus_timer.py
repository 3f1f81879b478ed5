"""The timer for the silence between frames."""

import asyncio
import time

from drivers.modbus.wire_timer import ShortTimer


async def test_it_expires_once_and_never_early():
    loop, calls = asyncio.get_running_loop(), []
    fired = loop.create_future()
    timer = ShortTimer(lambda: calls.append(time.monotonic()) or (None if fired.done() else fired.set_result(None)))
    from_s = time.monotonic()
    timer.start(0.00175)
    async with asyncio.timeout(5):
        await fired
    assert calls[0] - from_s >= 0.00175
    timer.start(10)
    timer.start(0.001)  # what ran before is forgotten
    async with asyncio.timeout(5):
        while len(calls) < 2:
            await asyncio.sleep(0.001)
    timer.close()
    assert len(calls) == 2


async def test_stopped_when_its_time_had_come_already():
    """The loop knows that the descriptor is ready, and has not called yet: the wait that it was for is over."""
    calls = []
    timer = ShortTimer(lambda: calls.append(1))
    timer.start(1e-6)
    time.sleep(0.002)
    timer.stop()
    for _ in range(5):
        await asyncio.sleep(0)
    timer.close()
    assert calls == []
