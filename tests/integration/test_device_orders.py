"""Renamed, deleted, made anew, taken away and given back in the cloud, with the gateway connected and away: a device is
followed, never doubled and never given a name of our own making. One row, one order of events.
"""

import asyncio
import contextlib
import time

import pytest
from click.testing import CliRunner

from gateway import cli
from gateway.app import Gateway
from gateway.cloudsim.options import CloudSimOptions
from gateway.cloudsim.server import CloudSim
from gateway.config import GatewayConfig
from gateway.demo.processes import free_port
from gateway.errors import RejectedError
from gateway.status_view import ask
from tests.e2e.parts import NumberedDevice, until

pytestmark = pytest.mark.server


class House:
    """A gateway in this process, its simulated cloud, one device of its configuration."""

    def __init__(self, folder, sim):
        self.sim = sim
        cloud = {
            "host": "127.0.0.1",
            "port": sim.grpc_port,
            "routing_key": "demo-edge",
            "routing_secret": "demo-secret",
        }
        cloud |= {"reconnect_ms": 50, "reconnect_max_ms": 200}
        tree = {
            "data_dir": folder / "data",
            "broker": {"host": "127.0.0.1", "port": free_port()},
            "cloud": cloud,
            "devices": [{"name": "T", "access_token": "t"}],
        }
        self.config = GatewayConfig.model_validate(tree)
        self.gateway = Gateway(self.config)

    async def ask(self, path):
        return await asyncio.to_thread(ask, self.config.socket_path, path)

    async def names(self):
        """As the cloud calls what is here; the status shows the names of the configuration."""
        names = [device["name"] for device in (await self.ask("/status"))["devices"]]
        for alias in (await self.ask("/sync?diff=1"))["diff"]["aliases"]:
            if alias["local_name"] in names:  # two questions: a device may go between them
                names[names.index(alias["local_name"])] = alias["name"]
        return sorted(names)

    def cloud_names(self):
        return sorted(device["name"] for device in self.sim.devices_state())

    def last_seq(self, name):
        with contextlib.suppress(RejectedError):
            return self.sim.device_state(name)["telemetry"].get("seq", {}).get("value")
        return None

    def id_of(self, name):
        return self.sim.device_state(name)["id"]

    async def go_away(self):
        """Returns when the cloud knows that we are away: from then on it keeps hardly anything for us."""
        before = self.sim.session
        await self.sim.offline(0.4)

        async def is_away():
            return self.sim.session is not before  # gone, or already there again

        await until(is_away, 20, "the cloud has not noticed")

    async def is_ready(self):
        return (await self.ask("/status"))["cloud"]["state"] == "ready"


@contextlib.asynccontextmanager
async def living(folder):
    async with CloudSim(CloudSimOptions(http_port=None, devices=())) as sim:
        house, stop = House(folder, sim), asyncio.Event()
        serving = asyncio.create_task(house.gateway.run(stop))
        device = None
        try:
            async with asyncio.timeout(10):
                await house.gateway.ready.wait()
            device = house.device = NumberedDevice("t", house.gateway.port)
            device.publish(time.time_ns() // 1_000_000)
            await until(lambda: arrived(house, "T"), 15, "the first reading did not arrive")
            yield house
        finally:
            if device is not None:
                await asyncio.to_thread(device.stop)
            stop.set()
            await serving


async def arrived(house, name):
    return house.last_seq(name) == house.device.sent


async def rename(sim):
    await sim.rename_device("T", "U")


async def rename_and_back(sim):
    await sim.rename_device("T", "U")
    await sim.rename_device("U", "T")


async def rename_twice(sim):
    await sim.rename_device("T", "U")
    await sim.rename_device("U", "V")


async def delete(sim):
    await sim.delete_device("T")


async def rename_then_delete(sim):
    await sim.rename_device("T", "U")
    await sim.delete_device("U")


async def delete_then_create(sim):
    await sim.delete_device("T")
    await sim.create_device("T", token="t")


async def rename_then_create_another(sim):
    await sim.rename_device("T", "U")
    await sim.create_device("T", token="another")


async def delete_create_rename(sim):
    await delete_then_create(sim)
    await sim.rename_device("T", "U")


async def delete_create_delete(sim):
    await delete_then_create(sim)
    await sim.delete_device("T")


async def unassign_then_assign(sim):
    await sim.unassign_device("T")
    await sim.assign_device("T")


async def unassign_rename_assign(sim):
    await sim.unassign_device("T")
    await sim.rename_device("T", "U")
    await sim.assign_device("U")


async def delete_twice(sim):
    await delete_create_delete(sim)
    await sim.create_device("T", token="t")


@pytest.mark.parametrize("is_away", [False, True], ids=["online", "offline"])
@pytest.mark.parametrize(
    ("order", "here", "speaks_as", "is_same"),
    [
        (rename, ["U"], "U", True),
        (rename_and_back, ["T"], "T", True),
        (rename_twice, ["V"], "V", True),
        (delete, [], None, False),
        (rename_then_delete, [], None, False),
        (delete_then_create, ["T"], "T", False),
        (rename_then_create_another, ["T", "U"], "U", True),
        (delete_create_rename, ["U"], "U", False),
        (delete_create_delete, [], None, False),
        (unassign_then_assign, ["T"], "T", True),
        (unassign_rename_assign, ["U"], "U", True),
        (delete_twice, ["T"], "T", False),
    ],
)
async def test_an_order_of_events(tmp_path, order, here, speaks_as, is_same, is_away):
    async with living(tmp_path) as house:
        first_id = house.id_of("T")
        if is_away:
            await house.go_away()
        await order(house.sim)
        await house.sim.wait_online()

        async def settled():
            return await house.is_ready() and await house.names() == here

        await until(settled, 15, f"{here} here; found {await house.names()}")
        if speaks_as is not None:
            house.device.publish(time.time_ns() // 1_000_000)
            await until(lambda: arrived(house, speaks_as), 15, f"the reading did not arrive at {speaks_as}")
            assert (house.id_of(speaks_as) == first_id) is is_same
        assert house.cloud_names() == here  # none has been made here
        assert (await house.ask("/status"))["queue"]["parked"] == 0
        diff = (await house.ask("/sync?diff=1"))["diff"]
        assert (diff["differing"], diff["refused"]) == ([], [])


async def test_what_was_taken_away_while_we_were_away_is_in_the_report(tmp_path):
    """A server keeps no event of it for an edge that is away: only a sync that does not name the device tells."""
    async with living(tmp_path) as house:
        await house.go_away()
        await house.sim.unassign_device("T")
        await house.sim.wait_online()

        async def is_told():
            if not await house.is_ready():
                return False
            return [one["name"] for one in (await house.ask("/sync?diff=1"))["diff"]["only_here"]] == ["T"]

        await until(is_told, 15, "the report does not list the device")
        (tmp_path / "g.yaml").write_text(f"data_dir: {tmp_path}/data\n")
        arguments = ["sync", "status", "-c", str(tmp_path / "g.yaml")]
        shown = await asyncio.to_thread(CliRunner().invoke, cli.main, [*arguments, "--diff"])
        assert shown.exit_code == 1
        assert "last: delta, completed" in shown.output
        assert "only here: DEVICE 'T'" in shown.output
        assert "no longer assigns it to this edge" in shown.output
        shown = await asyncio.to_thread(CliRunner().invoke, cli.main, arguments)
        assert (shown.exit_code, "only here" in shown.output) == (0, False)
        await house.sim.assign_device("T")

        async def is_back():
            return (await house.ask("/sync?diff=1"))["diff"]["only_here"] == []

        await until(is_back, 15, "named again, and still listed")
