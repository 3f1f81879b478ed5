import pytest

from gateway.app import queue_status
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
