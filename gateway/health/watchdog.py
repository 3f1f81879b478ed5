"""Tells systemd that we are ready and alive: the ping stops when the loop or the disk stands still.

Protocol: sd_notify(3), datagrams to the socket named by NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from gateway.ports import Clock


def notify(text: str, environ: Mapping[str, str]) -> bool:
    """Send one message; False when nobody listens."""
    path = environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.sendall(text.encode())
    return True


class Watchdog:
    """Pings at a third of WATCHDOG_USEC while `oldest_waiting_s` (age of the oldest uncommitted unit) is sane."""

    name = "watchdog"

    def __init__(
        self,
        clock: Clock,
        oldest_waiting_s: Callable[[], float],
        summary: Callable[[], str],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._clock, self._oldest_waiting_s, self._summary, self._environ = clock, oldest_waiting_s, summary, environ
        self._every_s = int(environ.get("WATCHDOG_USEC", "0")) / 3_000_000 or 10.0

    async def serve(self) -> None:
        """READY once, then STATUS and WATCHDOG until cancelled."""
        if not notify("READY=1", self._environ):
            return
        while True:
            # A full or absent disk is an outage that waiting cures; a restart would not. Ten minutes without
            # a commit is not: then the writer thread hangs.
            alive = "\nWATCHDOG=1" if self._oldest_waiting_s() < 600 else ""
            notify(f"STATUS={self._summary()}{alive}", self._environ)
            await self._clock.sleep(self._every_s)
