"""What `supervise` logs of an outage when it is told how often the room has worked."""

import logging

import pytest

from gateway.errors import TransientError
from gateway.supervise import Backoff, supervise


class Quick:
    def monotonic_s(self):
        return 0.0

    async def sleep(self, delay_s):
        return None


@pytest.mark.parametrize(
    ("is_told", "expected"),
    [(True, ["a", "b", "a"]), (False, ["a", "b", "a", "b", "a"])],
    ids=["once in every outage", "whenever the reason changes"],
)
async def test_reasons(caplog, is_told, expected):
    steps = iter(["a", "a", "b", "a", "b", "+", "a", "a", None])  # "+": it worked in between
    spells = 0

    async def serve():
        nonlocal spells
        step = next(steps)
        if step == "+":
            spells += 1
            step = next(steps)
        if step is not None:
            raise TransientError(step)

    caplog.set_level(logging.WARNING)
    await supervise("room", serve, Backoff(1, 2), Quick(), spells=(lambda: spells) if is_told else None)
    assert [record.getMessage().split(": ")[1].split(";")[0] for record in caplog.records] == expected


async def test_reasons_that_never_repeat_are_not_kept(caplog):
    count = 0

    async def serve():
        nonlocal count
        count += 1
        if count < 500:
            raise TransientError(str(count % 30))

    await supervise("room", serve, Backoff(1, 2), Quick(), spells=lambda: 1)
    assert len(caplog.records) == 499  # more reasons than are remembered: each is said again
