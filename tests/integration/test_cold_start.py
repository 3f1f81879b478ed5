"""Power is back and nothing else is: no DNS, no server, no clock. Devices are taken in within two seconds all the same."""

import asyncio
import contextlib
import time

import pytest

from gateway.app import Gateway
from gateway.config import GatewayConfig
from gateway.demo.processes import free_port
from gateway.status_view import ask
from gateway.supervise import SystemClock
from tests.e2e.parts import NumberedDevice, until

pytestmark = pytest.mark.server


class NeverSet(SystemClock):
    """A machine without a battery: ten seconds after 1970."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def now_ms(self) -> int:
        return 10_000 + round((time.monotonic() - self._began_s) * 1000)


@contextlib.asynccontextmanager
async def mute_server():
    async def serve(reader, writer):
        try:
            await reader.read()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "127.0.0.1", server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def no_dns():
    yield "cloud.invalid", 7070


@contextlib.asynccontextmanager
async def nobody():
    yield "127.0.0.1", free_port()


@pytest.mark.parametrize("cloud", [no_dns, nobody, mute_server])
@pytest.mark.parametrize("clock", [SystemClock, NeverSet])
async def test_it_takes_readings_without_network_cloud_or_clock(tmp_path, cloud, clock):
    async with cloud() as (host, port):
        config = GatewayConfig.model_validate(
            {
                "data_dir": tmp_path / "data",
                "broker": {"host": "127.0.0.1", "port": free_port()},
                "cloud": {"host": host, "port": port, "routing_key": "k", "routing_secret": "s"},
                "devices": [{"name": "T", "access_token": "t"}],
            }
        )
        gateway, stop = Gateway(config, clock()), asyncio.Event()
        serving = asyncio.create_task(gateway.run(stop))
        async with asyncio.timeout(2):
            await gateway.ready.wait()
        device = NumberedDevice("t", gateway.port)
        try:
            device.publish(time.time_ns() // 1_000_000)

            async def is_kept():
                if not device.acknowledged:
                    return False
                return (await asyncio.to_thread(ask, config.socket_path, "/status"))["queue"]["pending"] >= 2

            await until(is_kept, 10, "the reading was not taken in")
        finally:
            await asyncio.to_thread(device.stop)
            stop.set()
            await serving
