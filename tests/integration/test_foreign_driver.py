"""The driver of docs/write-a-driver.md, word by word: a package of its own, installed, found, and run."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.fieldbus import Fieldbus
from gateway.supervise import Counters, SystemClock
from tests.integration.test_modbus_plant import call, until
from tests.unit.fieldbus.inlet import FakeHouse

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where it is installed, with its test beside it."""
    source, target = tmp_path_factory.mktemp("lamp"), tmp_path_factory.mktemp("site")
    blocks = re.findall(r"```(?:toml|python)\n(.*?)```", (ROOT / "docs/write-a-driver.md").read_text(), re.DOTALL)
    for name, text in zip(("pyproject.toml", "lamp_driver.py", "test_lamp.py"), blocks, strict=True):
        (source / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", target, source], check=True, timeout=120, capture_output=True
    )
    (target / "test_lamp.py").write_text((source / "test_lamp.py").read_text())
    return target


def test_it_passes_the_suite(installed):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            installed,
            installed,
        ],
        env=os.environ | {"PYTHONPATH": f"{installed}:{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "14 passed" in done.stdout


async def test_a_bus_runs_with_it(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    lamp = {"brightness": 30}

    async def serve(reader, writer):
        question = (await reader.readline()).decode().strip()
        if question.startswith("="):
            lamp["brightness"] = int(question[1:])
        writer.write(f"{lamp['brightness']}\n".encode())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        tree = {"kind": "lamp", "name": "Desk", "host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}
        house = FakeHouse("Desk")
        room = Fieldbus([tree | {"every_ms": 50}], house, SystemClock(), Counters())
        task = asyncio.create_task(room.serve())
        try:
            await until(lambda: house.sessions and house.session("Desk").telemetry)
            assert await call(house, "Desk", "brightness", 70) == {"value": 70}
            assert lamp["brightness"] == 70
            await until(lambda: house.session("Desk").telemetry[-1].values == {"brightness": 70})
        finally:
            task.cancel()
            await asyncio.wait([task])


def test_its_configuration_is_checked_like_ours(installed, monkeypatch, tmp_path):
    from click.testing import CliRunner

    monkeypatch.syspath_prepend(str(installed))
    file = tmp_path / "gateway.yaml"
    file.write_text(f"data_dir: {tmp_path}\nbuses: [{{kind: lamp, hots: x}}]\n")
    result = CliRunner().invoke(main, ["check-config", "-c", str(file)])
    assert (result.exit_code, "buses[0].hots: unknown key; did you mean 'host'?" in result.output) == (78, True)
