"""The newcomer's first command: it proves what it says, and whatever ends it, nothing of it stays behind."""

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.server


async def start(folder, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "demo", *arguments),
        stdout=stdout,
        stderr=stderr,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "50"},
    )


@pytest.fixture
def tmp_path():
    """Short: the demo makes a socket in it, and the path of a socket has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


async def until_line(demo, text):
    async with asyncio.timeout(40):
        said = []
        while line := (await demo.stdout.readline()).decode():
            said.append(line)
            if text in line:
                return
    raise AssertionError(f"it ended before it said {text!r}: {''.join(said[-20:])}")


def parts_of(demo):
    return psutil.Process(demo.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_in_the_middle_ends_all_parts(tmp_path, number):
    demo = await start(tmp_path)
    await until_line(demo, "accepts devices")
    parts = parts_of(demo)
    assert len(parts) == 3
    demo.send_signal(number)
    async with asyncio.timeout(20):
        rest = (await demo.stdout.read()).decode()
        assert await demo.wait() == 130
    assert rest.endswith("stopped; everything is ended\n")
    assert "Traceback" not in rest
    assert [part for part in parts if part.is_running()] == []
    assert list(Path(tmp_path).iterdir()) == []


async def test_a_reader_that_goes_away_ends_all_parts(tmp_path):
    reading, writing = os.pipe()
    demo = await start(tmp_path, stdout=writing, stderr=asyncio.subprocess.PIPE)
    os.close(writing)
    await asyncio.to_thread(os.read, reading, 1)
    os.close(reading)
    async with asyncio.timeout(30):
        errors = (await demo.stderr.read()).decode()
        assert await demo.wait() == 1
    assert "Traceback" not in errors
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.slow
async def test_it_proves_that_nothing_was_lost_and_keep_ends_well(tmp_path):
    demo = await start(tmp_path, "--seconds", "12", "--keep")
    await until_line(demo, "nothing was lost.")
    await until_line(demo, "Ctrl-C ends everything.")
    demo.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        assert (await demo.stdout.read()).decode() == "stopped; everything is ended\n"
        assert await demo.wait() == 0
