"""An abrupt end of TCP connections of this process, as a crash or a firewall makes it. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from pathlib import Path
from typing import Final

from gateway.errors import RejectedError

_FDS: Final = Path("/proc/self/fd")


def reset_connections(port: int) -> int:
    """RST to every peer that is connected to our `port`; how many. What has not been sent yet is gone.

    gRPC keeps its sockets to itself, so they are found among the open files of the process. A connect to "no
    address" is how Linux ends an established connection with RST whoever else holds the socket.

    Raises:
        RejectedError: Not on Linux.
    """
    if not _FDS.is_dir():
        raise RejectedError("connections can be reset on Linux only")
    libc = ctypes.CDLL(None, use_errno=True)
    nowhere = struct.pack("=H14x", socket.AF_UNSPEC)
    count = 0
    for name in os.listdir(_FDS):
        with contextlib.suppress(OSError):
            if not os.readlink(_FDS / name).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as held:
                if held.family not in (socket.AF_INET, socket.AF_INET6) or held.getsockname()[1] != port:
                    continue
                held.getpeername()  # the listening one has no peer
                if libc.connect(held.fileno(), nowhere, len(nowhere)) == 0:
                    count += 1
    return count
