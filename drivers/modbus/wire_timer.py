"""Waits shorter than the event loop can: its timers are those of epoll, whole milliseconds and rounded up.

The silence between two RTU frames is 1.75 ms at 115200 baud, and each millisecond more is a tenth of the line. The
kernel's timer descriptor (Linux: timerfd_create(2)) is a descriptor like any other to the loop, exact to some 0.05 ms.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_MONOTONIC: Final = 1


class _Spec(ctypes.Structure):
    """`struct itimerspec`: interval and first expiry, each seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class ShortTimer:
    """One wait at a time; `expired` is called on the loop. Close it."""

    def __init__(self, expired: Callable[[], None]) -> None:
        """Raises `OSError` where the kernel has no such thing."""
        self._expired = expired
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError as error:
            raise OSError("no timerfd_create") from error
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        asyncio.get_running_loop().add_reader(self._fd, self._ready)

    def start(self, delay_s: float) -> None:
        """Above 0, below a second; what ran before is forgotten."""
        self._set(max(1, round(delay_s * 1e9)))

    def stop(self) -> None:
        """Nothing is called any more, even when the time has come already."""
        self._set(0)

    def close(self) -> None:
        """Call once."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _set(self, first_ns: int) -> None:
        self._libc.timerfd_settime(self._fd, 0, ctypes.byref(_Spec(0, 0, 0, first_ns)), None)

    def _ready(self) -> None:
        with suppress(BlockingIOError):  # stopped meanwhile
            os.read(self._fd, 8)
            self._expired()
