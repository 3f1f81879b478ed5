import asyncio
import os
import subprocess
import sys

import pytest

from gateway.app import Gateway, queue_status
from gateway.config import BrokerConfig, CloudConfig, GatewayConfig
from gateway.demo.processes import free_port
from gateway.domain.cloud_event import Lane
from gateway.errors import TransientError
from gateway.ports import QueueDepth
from gateway.status_view import judge


class FakeEvents:
    """Five events in the main lane, two of them confirmed."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def last(self, lane: Lane) -> int:
        return 5 if lane is Lane.MAIN else 0

    def cursor(self, lane: Lane) -> int:
        return 2 if lane is Lane.MAIN else 0

    async def depth(self) -> QueueDepth:
        if self._error:
            raise self._error
        pending, deployed = {Lane.MAIN: 3, Lane.EXPRESS: 0}, {Lane.MAIN: 2, Lane.EXPRESS: 0}
        return QueueDepth(pending=pending, deployed=deployed, parked=1, oldest_ms=4_000)


async def test_the_queue_as_the_store_knows_it():
    assert await queue_status(FakeEvents(), 9_000) == {
        "pending": 3,
        "pending_express": 0,
        "deployed": 2,
        "parked": 1,
        "lag_s": 5.0,
        "problem": None,
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TransientError("PostgreSQL: connection refused"), "PostgreSQL: connection refused"),
        (TimeoutError(), "no answer within 5 s"),
    ],
)
async def test_while_the_store_does_not_answer_the_status_says_so_and_what_is_known(error, reason):
    queue = await queue_status(FakeEvents(error), 9_000)
    assert (queue["pending"], queue["deployed"], queue["parked"], queue["lag_s"]) == (3, None, None, None)
    status = {"queue": queue, "store": {"oldest_waiting_s": 0}, "rules": {"problems": []}}
    (remark,) = judge(status)
    assert remark == f"the store cannot be read: {reason}"


async def test_a_stop_does_not_wait_long_for_a_store_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.app.STOP_S", 0.1)
    broker = BrokerConfig(host="127.0.0.1", port=free_port())
    config = GatewayConfig(data_dir=tmp_path, broker=broker, cloud=CloudConfig(enabled=False))
    gateway, stop = Gateway(config), asyncio.Event()
    serving = asyncio.create_task(gateway.run(stop))
    async with asyncio.timeout(5):
        await gateway.ready.wait()

        async def away(*_):
            raise TransientError("disk full")

        monkeypatch.setattr("gateway.store.commit.GroupCommitter._commit", away)
        stop.set()
        await serving


def test_the_core_of_grpc_does_not_write_a_line_of_its_own_for_each_outage():
    code = "import os, gateway.health as h; h.set_up_logging('INFO'); print(os.environ['GRPC_VERBOSITY'])"
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "ERROR\n"
