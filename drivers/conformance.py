"""What every driver owes the gateway, as tests: a driver's own test module subclasses `DriverConformance`.

    class TestMyDriver(DriverConformance):
        plugin = my_package.plugin
        timeout_s = 0.3

        @asynccontextmanager
        async def device(self):
            async with my_simulated_device() as simulated:
                yield Bench(tree={"host": …, "timeout_s": 0.3, "devices": […]}, silence=simulated.stop_answering, …)

It needs pytest, and no plugin of it. Each test opens the device and the driver anew, on an event loop of its own.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.config import parse_config
from gateway.domain.entity import Json
from gateway.domain.telemetry import MAX_KEY_CHARS
from gateway.errors import ConfigError, GatewayError, RejectedError, TransientError
from gateway.ports import Driver, DriverPlugin, Listener, Query, Reading, Write

YEAR_2001_MS: Final = 1_000_000_000_000
"""The suite's clock shows this time: a time stamp of today was not taken from the clock that `open` was given."""

SLACK_S: Final = 1.0
"""How much later than its timeout a driver may give up, on a busy machine."""


class ShiftedClock:
    """Implements `Clock`: real seconds, and a date in 2001."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def now_ms(self) -> int:
        """UTC epoch, milliseconds."""
        return YEAR_2001_MS + int((time.monotonic() - self._start_s) * 1000)

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


async def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A device that answers, and what is known of it.

    Attributes:
        tree: The entry of `buses` that reaches it.
        silence: From now on it does not answer.
        readable: Device and key of a point that can be asked for.
        writable: Device, key and a value that can be written; None: the driver writes nothing.
        bad_value: What that point refuses.
        read_only: Device and key of a point that cannot be written; None: there is none.
        speak: Makes a device say something unasked, for a driver that listens.
    """

    tree: Mapping[str, Any]
    silence: Callable[[], Awaitable[None]]
    readable: tuple[str, str]
    writable: tuple[str, str, Json] | None = None
    bad_value: Json = field(default_factory=lambda: {"not": "a value"})
    read_only: tuple[str, str] | None = None
    speak: Callable[[], Awaitable[None]] = _nothing


class DriverConformance:
    """Subclass it in a test module; pytest runs what it inherits."""

    plugin: DriverPlugin
    timeout_s: float = 1.0
    """After so long the configuration lets the driver give up a silent device."""

    def device(self) -> AbstractAsyncContextManager[Bench]:
        """A simulated device that answers, for one test."""
        raise TypeError(f"{type(self).__name__} has to say how its device is opened: define `device`")

    # ── the declaration ──

    def test_the_configuration_is_strict_and_frozen(self) -> None:
        """A key that nobody knows is an error with a path; a configuration does not change."""

        async def scene() -> None:
            async with self.device() as bench:
                config = parse_config(self.plugin.config, dict(bench.tree), "buses[0]")
                wrong = dict(bench.tree) | {"no_such_key": 1}
                with pytest.raises(ConfigError, match=r"buses\[0\]\.no_such_key"):
                    parse_config(self.plugin.config, wrong, "buses[0]")
                assert self.plugin.config.model_config.get("frozen"), "derive the configuration from config.Settings"
                assert isinstance(getattr(config, "name", self.plugin.kind), str)

        self._run(scene())

    def test_devices_are_known_before_anything_is_opened(self) -> None:
        """What the plug-in says of a configuration is what the driver says."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                known = list(self.plugin.devices(self._config(bench)))
                assert not known or known == list(driver.devices())
                names = [device.name for device in driver.devices()]
                assert len(set(names)) == len(names), "one name, one device"

        self._run(scene())

    # ── polls and readings ──

    def test_polls_are_distinct_and_stay_the_same(self) -> None:
        """The bus plans by them: equal polls are equal values, and each has a period."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                polls = list(driver.polls())
                assert polls == list(driver.polls())
                assert polls or isinstance(driver, Listener), "nothing is ever read"
                assert len({poll.key for poll in polls}) == len(set(polls)) == len(polls)
                assert all(poll.every_s > 0 for poll in polls)

        self._run(scene())

    def test_readings_are_typed_values_of_known_devices_at_the_clock_s_time(self) -> None:
        """Every poll, and what a listener hears."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                readings: list[Reading] = []
                for poll in driver.polls():
                    readings += await driver.read(poll)
                if isinstance(driver, Listener):
                    readings += await self._hear(driver, bench)
                assert readings, "a device that answers gives readings"
                self._check(readings, {device.name for device in driver.devices()})

        self._run(scene())

    def test_a_point_is_asked_for(self) -> None:
        """`query` gives the value now."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                if isinstance(driver, Listener):
                    await self._hear(driver, bench)
                _check_value(await driver.query(Query(device=bench.readable[0], key=bench.readable[1])))

        self._run(scene())

    # ── writes ──

    def test_what_is_written_is_read_back(self) -> None:
        """`write` returns what the device has now."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                if bench.writable is None:
                    return
                device, key, value = bench.writable
                assert driver.is_writable(device, key) is True
                assert await driver.write(Write(device=device, key=key, value=value)) == value

        self._run(scene())

    def test_a_bad_value_is_rejected_and_the_next_good_one_taken(self) -> None:
        """`RejectedError`: this call ends, and nothing else does."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                if bench.writable is None:
                    return
                device, key, value = bench.writable
                with pytest.raises(RejectedError):
                    await driver.write(Write(device=device, key=key, value=bench.bad_value))
                await driver.write(Write(device=device, key=key, value=value))

        self._run(scene())

    def test_a_point_that_cannot_be_written_says_so(self) -> None:
        """`is_writable` False, and `RejectedError`."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                if bench.read_only is None:
                    return
                device, key = bench.read_only
                assert driver.is_writable(device, key) is False
                with pytest.raises(RejectedError):
                    await driver.write(Write(device=device, key=key, value=1))

        self._run(scene())

    def test_an_unknown_point_or_device_is_rejected(self) -> None:
        """`RejectedError` with the name in it, never `KeyError`."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                for device, key in ((bench.readable[0], "no such key"), ("no such device", bench.readable[1])):
                    assert driver.is_writable(device, key) is None
                    with pytest.raises(RejectedError, match="no such"):
                        await driver.query(Query(device=device, key=key))
                    with pytest.raises(RejectedError, match="no such"):
                        await driver.write(Write(device=device, key=key, value=1))

        self._run(scene())

    def test_faults_are_for_a_person(self) -> None:
        """Texts by `device.key`; asking for them costs nothing and fails never."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                assert all(isinstance(name, str) and isinstance(why, str) for name, why in driver.faults().items())

        self._run(scene())

    # ── when nothing comes ──

    def test_a_silent_device_is_a_transient_error_in_time(self) -> None:
        """Reads, writes and questions end within the timeout."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                for poll in driver.polls():
                    await driver.read(poll)
                await bench.silence()
                for poll in driver.polls()[:1]:
                    await self._gives_up(driver.read(poll))
                if bench.writable is not None:
                    device, key, value = bench.writable
                    await self._gives_up(driver.write(Write(device=device, key=key, value=value)))

        self._run(scene())

    def test_it_opens_without_a_device(self) -> None:
        """The house starts without its machines: opening raises nothing but `GatewayError`, and does not wait."""

        async def scene() -> None:
            async with self.device() as bench:
                await bench.silence()
                try:
                    async with asyncio.timeout(self.timeout_s + SLACK_S), self._open(bench) as driver:
                        driver.polls()
                except ConfigError:
                    pytest.fail("a device that is not there is no fault of the configuration")
                except GatewayError:
                    return

        self._run(scene())

    def test_a_cancelled_read_leaves_nothing_behind(self) -> None:
        """No task; and the driver may be closed, or asked again."""

        async def scene() -> None:
            async with self.device() as bench, self._open(bench) as driver:
                polls = list(driver.polls())
                if not polls:
                    return
                await driver.read(polls[0])
                await bench.silence()
                before = asyncio.all_tasks()
                task = asyncio.ensure_future(driver.read(polls[0]))
                await asyncio.sleep(self.timeout_s / 10)
                task.cancel()
                await asyncio.wait([task], timeout=SLACK_S)
                assert task.cancelled(), "CancelledError is not swallowed"
                await self._until_gone(before)
                await self._gives_up(driver.read(polls[0]))

        self._run(scene())

    def test_closing_gives_everything_back(self) -> None:
        """No task and no open file is left, again and again."""

        async def scene() -> None:
            async with self.device() as bench:
                counts = []
                for _ in range(4):
                    async with self._open(bench) as driver:
                        for poll in driver.polls():
                            await driver.read(poll)
                        if isinstance(driver, Listener):
                            await self._hear(driver, bench)
                    await self._settle()
                    gc.collect()
                    counts.append((len(asyncio.all_tasks()), _open_files()))
                assert counts[-1] <= counts[1], f"tasks and open files grow with each opening: {counts}"

        self._run(scene())

    # ── how they are done ──

    def _run(self, scene: Any) -> None:
        async def whole() -> None:
            await scene
            await self._settle()

        asyncio.run(whole())

    def _config(self, bench: Bench) -> Any:
        return parse_config(self.plugin.config, dict(bench.tree), "buses[0]")

    @asynccontextmanager
    async def _open(self, bench: Bench) -> AsyncIterator[Driver]:
        async with self.plugin.open(self._config(bench), ShiftedClock()) as driver:
            yield driver

    async def _hear(self, driver: Listener, bench: Bench) -> list[Reading]:
        """The first readings that come unasked, while the device speaks; none when it does not speak."""
        if bench.speak is _nothing:
            return []
        heard = driver.listen()
        try:
            asking = asyncio.ensure_future(anext(heard))
            for _ in range(100):
                await bench.speak()
                done, _pending = await asyncio.wait([asking], timeout=0.05)
                if done:
                    news = asking.result()
                    if news.readings:
                        return list(news.readings)
                    asking = asyncio.ensure_future(anext(heard))
            pytest.fail("the device spoke a hundred times, and the driver heard nothing")
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            await heard.aclose()  # type: ignore[attr-defined]

    async def _gives_up(self, call: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(self.timeout_s + SLACK_S):
                await call
        except TransientError as error:
            if not str(error):
                pytest.fail("the error says nothing of what happened")
        except TimeoutError:
            pytest.fail(f"still waiting {SLACK_S:g} s after the timeout of {self.timeout_s:g} s")
        else:
            pytest.fail("a silent device answered")

    async def _until_gone(self, before: set[asyncio.Task[Any]]) -> None:
        """Tasks of the device's own may take a moment to notice that nobody asks any more."""
        end_s = time.monotonic() + SLACK_S
        while left := asyncio.all_tasks() - before:
            if time.monotonic() > end_s:
                pytest.fail(f"a cancelled read leaves {len(left)} tasks: {left}")
            await asyncio.sleep(0.01)

    async def _settle(self) -> None:
        """The simulated device may take a moment to see that a connection has ended."""
        others = asyncio.all_tasks() - {task for task in [asyncio.current_task()] if task is not None}
        if others:
            await asyncio.wait(others, timeout=0.2)
        await asyncio.sleep(0.01)

    def _check(self, readings: Sequence[Reading], devices: set[str]) -> None:
        for reading in readings:
            assert reading.device in devices, f"a reading of {reading.device!r}, who is not on this bus"
            assert 0 < len(reading.key) <= MAX_KEY_CHARS
            assert isinstance(reading.is_attribute, bool)
            assert abs(reading.ts_ms - YEAR_2001_MS) < 3_600_000, "`ts_ms` is that of the clock that `open` was given"
            _check_value(reading.value)


def _check_value(value: Any) -> None:
    assert isinstance(value, bool | int | float | str | dict | list), f"{value!r} is no value"
    if isinstance(value, int) and not isinstance(value, bool):
        assert -(2**63) <= value < 2**63, f"{value} is beyond a 64-bit integer"
    if isinstance(value, float):
        assert math.isfinite(value), f"{value} is no reading"


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0
