"""The local API stopped and started again."""

import asyncio

from gateway.status_view import ask
from tests.unit.web.test_api import FakeEvents, api


async def test_it_answers_again_after_a_stop_in_the_same_loop(tmp_path):
    path = tmp_path / "api.sock"
    for _ in range(3):
        async with api(path, FakeEvents()):
            assert (await asyncio.to_thread(ask, path, "/status"))["version"] == "x"
