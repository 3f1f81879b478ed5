"""Each folder of `drivers/serial/cases` is a case: bytes that came, and the readings that they are; or a wrong
configuration and its error."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from drivers.serial.checksums import CRCS, crc
from drivers.serial.config import SerialConfig
from drivers.serial.driver import SerialDriver
from drivers.serial.notation import to_bytes
from drivers.serial.wire import LineErrors
from gateway.config import parse_config
from gateway.errors import ConfigError
from tests.fakes.clock import FakeClock

ROOT = Path(__file__).parents[4] / "drivers" / "serial"
CASES = sorted((ROOT / "cases").iterdir())


class FakeWire:
    """Answers as the case says."""

    is_open, opens = True, 1

    def __init__(self, driver, answers):
        self._driver, self._answers = driver, answers
        self.sent = []

    async def open(self):
        pass

    async def send(self, data, timeout_s):
        self.sent.append(data.decode("latin-1"))
        asyncio.get_running_loop().call_soon(self._driver._received, self._answers[self.sent[-1]].encode())

    def complaints(self):
        return LineErrors()

    def read_now(self):
        pass

    def close(self):
        pass


def make_driver(tree, answers=None):
    driver = SerialDriver(parse_config(SerialConfig, tree, where="buses[0]"), FakeClock())
    driver.wire = FakeWire(driver, answers or {})
    return driver


def came(text):
    name, _, rest = text.partition(" of ")
    if name in CRCS:
        return crc(to_bytes(rest), CRCS[name]).to_bytes(2, "little")
    return to_bytes(text)


def shape(readings):
    found = {}
    for reading in readings:
        found.setdefault(reading.device, {})[reading.key] = reading.value
    return found


@pytest.mark.parametrize(
    "case", [case for case in CASES if (case / "expected.json").exists()], ids=lambda case: case.name
)
@pytest.mark.parametrize("how", ["as it came", "byte by byte"])
async def test_case(case, how):
    expected = json.loads((case / "expected.json").read_text())
    path = ROOT / "examples" / f"{expected['example']}.yaml" if "example" in expected else case / "config.yaml"
    driver = make_driver(yaml.safe_load(path.read_text()), expected.get("answers"))
    heard, attributes = [], set()

    def take(readings):
        if readings:
            heard.append(shape(readings))
            attributes.update(f"{reading.device}.{reading.key}" for reading in readings if reading.is_attribute)

    for text in expected.get("came", ()):
        if text == "pause":
            driver._take(driver._framer.idle(asyncio.get_running_loop().time() + 1e6))
        elif how == "as it came":
            driver._received(came(text))
        else:
            for byte in came(text):
                driver._received(bytes([byte]))
    take_each = [item.readings for item in driver._heard]
    for readings in take_each:
        take(readings)
    for poll in driver.polls():
        take(await driver.read(poll))
    driver.close()

    assert heard == expected["heard"]
    assert sorted(attributes) == expected.get("attributes", [])
    assert driver.faults() == expected.get("faults", {})
    line = driver.line()
    if how == "as it came":
        assert {key: line[key] for key in expected["line"]} == expected["line"]
    assert line["frames"] == expected["line"].get("frames", line["frames"])
    assert expected.get("last_bad", "") in (line["last_bad"] or "")
    assert driver.wire.sent == list(expected.get("answers", {}))


@pytest.mark.parametrize("case", [case for case in CASES if (case / "error.txt").exists()], ids=lambda case: case.name)
def test_wrong_configuration(case):
    with pytest.raises(ConfigError) as caught:
        parse_config(SerialConfig, yaml.safe_load((case / "config.yaml").read_text()), where="buses[0]")
    assert str(caught.value) == (case / "error.txt").read_text().strip()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").iterdir()), ids=lambda path: path.stem)
def test_every_example_loads_and_has_a_case(path):
    parse_config(SerialConfig, yaml.safe_load(path.read_text()), where="buses[0]")
    assert (ROOT / "cases" / f"example_{path.stem}").exists()


def test_every_case_is_complete():
    assert len(CASES) >= 25
    for case in CASES:
        assert (case / "error.txt").exists() != (case / "expected.json").exists()
