"""Each folder of `drivers/simulator/cases` is a case: config.yaml beside expected.json or error.txt."""

import json
from pathlib import Path

import pytest
import yaml

from drivers.simulator.config import SimulatorConfig
from drivers.simulator.driver import SimulatorDriver
from drivers.simulator.signals import read_column
from gateway.config import parse_config
from gateway.errors import ConfigError, RefusedError, RejectedError, TransientError
from gateway.ports import Query, Write
from tests.fakes.clock import FakeClock

CASES = sorted((Path(__file__).parents[3] / "drivers" / "simulator" / "cases").iterdir())


def load(case):
    return parse_config(SimulatorConfig, yaml.safe_load((case / "config.yaml").read_text()), "buses[0]", case)


@pytest.mark.parametrize(
    "case", [case for case in CASES if (case / "expected.json").exists()], ids=lambda case: case.name
)
async def test_case(case):
    clock = FakeClock()
    driver = SimulatorDriver(load(case), clock)
    for step in json.loads((case / "expected.json").read_text()):
        await clock.advance(step["at_s"] - clock.monotonic_s())
        found = {r.key: r.value for poll in driver.polls() for r in await driver.read(poll)}
        assert found == step["values"]
        assert driver.faults() == step.get("faults", {})


@pytest.mark.parametrize("case", [case for case in CASES if (case / "error.txt").exists()], ids=lambda case: case.name)
def test_wrong_configuration(case):
    with pytest.raises(ConfigError) as caught:
        load(case)
    assert str(caught.value) == (case / "error.txt").read_text().strip()


def test_every_case_is_complete():
    assert len(CASES) >= 4
    assert all((case / "expected.json").exists() != (case / "error.txt").exists() for case in CASES)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("s,x\n0,1\n0,2\n", ":3: the time '0' must be seconds that rise"),
        ("s,x\nnoon,1\n", ":2: the time 'noon'"),
        ("s,y\n0,1\n", "no column 'x'; after the time there are y"),
        ("s,x\n0,\n", "the column 'x' is empty"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_recording_that_cannot_be_used(tmp_path, text, problem):
    path = tmp_path / "day.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RefusedError) as caught:
        read_column(path, "x")
    assert str(caught.value).startswith(str(path))
    assert problem in str(caught.value)


async def test_faults_on_demand():
    clock = FakeClock()
    points = [{"key": "t", "signal": {"kind": "constant", "value": 1}}]
    tree = {"timeout_s": 3, "devices": [{"name": "A", "fault_key": "f", "slow_s": 2, "telemetry": points}]}
    driver = SimulatorDriver(SimulatorConfig.model_validate(tree), clock)

    async def took_s(call):
        import asyncio

        task, start_s = asyncio.ensure_future(call), clock.monotonic_s()
        while not task.done():
            await clock.advance(0.5)
        return clock.monotonic_s() - start_s, task

    await driver.write(Write(device="A", key="f", value="slow"))
    assert (await took_s(driver.read(driver.polls()[0])))[0] == pytest.approx(2, abs=0.5)
    await driver.write(Write(device="A", key="f", value="silent"))
    seconds, task = await took_s(driver.read(driver.polls()[0]))
    assert seconds == pytest.approx(3, abs=0.5)
    assert isinstance(task.exception(), TransientError)
    with pytest.raises(RejectedError, match="none of none, silent, slow"):
        await driver.write(Write(device="A", key="f", value="dead"))
    assert await driver.query(Query(device="A", key="f")) == "silent"
    assert await driver.write(Write(device="A", key="f", value="none")) == "none"
    assert (await driver.read(driver.polls()[0]))[0].value == 1
