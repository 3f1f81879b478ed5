"""One thread for one blocking resource."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], Any], Callable[[Any], None] | None, "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Worker:
    """Runs calls one after the other in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T], then: Callable[[T], None] | None = None) -> asyncio.Future[T]:
        """The result of `work`, which runs in the thread.

        `then` runs on the event loop with the result before whoever awaits it goes on, and also when nobody
        does any more: work that was begun is finished, cancelled or not.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((work, then, future, loop))
        return future

    async def close(self) -> None:
        """What was asked for is finished first."""
        await self.call(lambda: None)
        self._jobs.put(None)
        self._thread.join()  # nothing is left to do in it

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, then, future, loop = job
            try:
                result, error = work(), None
            except BaseException as caught:  # handed to whoever asked
                result, error = None, caught
            if loop.is_closed():
                continue
            loop.call_soon_threadsafe(_finish, then, future, result, error)
            del job, work, then, future, result, error


def _finish(
    then: Callable[[Any], None] | None, future: asyncio.Future[Any], result: Any, error: BaseException | None
) -> None:
    if error is None and then is not None:
        then(result)
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
