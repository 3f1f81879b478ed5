"""The peers of `bench.ingest`, each a process that is ended with its block: stock amqtt, Mosquitto, the bare loop."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.report import note
from gateway.demo.processes import Process, free_port, until_listening


@asynccontextmanager
async def stock_amqtt(folder: Path) -> AsyncIterator[int]:
    """The port of amqtt as it comes: MQTT 3.1.1 only, acknowledges at once and stores nothing."""
    port = free_port()
    async with _running(Process("amqtt", ["-m", "bench.stock_amqtt", str(port)], folder / "amqtt.log"), port):
        yield port


@asynccontextmanager
async def bare_loop(folder: Path) -> AsyncIterator[int]:
    """The port of `bench.bare_loop`."""
    port = free_port()
    (folder / "bare.db").unlink(missing_ok=True)
    arguments = ["-m", "bench.bare_loop", str(port), str(folder / "bare.db")]
    async with _running(Process("bare loop", arguments, folder / "bare.log"), port):
        yield port


def mosquitto_path() -> str | None:
    """None: not installed, said once."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        note("mosquitto is not installed (apt-get install mosquitto): left out")
    return found


@asynccontextmanager
async def mosquitto(folder: Path, path: str, *, persistence: bool) -> AsyncIterator[int]:
    """The port of a Mosquitto.

    With `persistence` a session that is away has subscribed to everything with QoS 1, so that there is something to
    keep, and the whole of it is written each second; an answer never waits for the disk.
    """
    port = free_port()
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "max_connections -1", "log_type error"]
    if persistence:
        lines += ["persistence true", f"persistence_location {folder}/", "autosave_interval 1"]
        lines += ["max_queued_messages 0", "user root"]
        (folder / "mosquitto.db").unlink(missing_ok=True)
    config = folder / "mosquitto.conf"
    config.write_text("\n".join(lines) + "\n")
    with (folder / "mosquitto.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(path, "-c", str(config), stdout=log, stderr=log)
    try:
        await _until_accepting(port)
        if persistence:
            arguments = ["-h", "127.0.0.1", "-p", str(port), "-i", "away", "-c", "-q", "1", "-t", "#", "-E"]
            subscribing = await asyncio.create_subprocess_exec("mosquitto_sub", *arguments)
            if await subscribing.wait():
                raise RuntimeError("mosquitto_sub could not subscribe")
        yield port
    finally:
        process.kill()
        await process.wait()


async def _until_accepting(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@asynccontextmanager
async def _running(process: Process, port: int) -> AsyncIterator[None]:
    await process.start()
    try:
        await until_listening(port, process)
        yield
    finally:
        await process.stop()
