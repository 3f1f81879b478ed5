"""The parts of the demo as processes of their own, as they would run on a plant: started, watched, ended by pid."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from gateway.errors import TransientError


class Process:
    """One child process whose output goes to a file."""

    def __init__(self, name: str, arguments: list[str], log_path: Path) -> None:
        self.name, self._arguments, self.log_path = name, arguments, log_path
        self._process: asyncio.subprocess.Process | None = None
        self.peak_bytes = 0

    async def start(self) -> None:
        """Start it; Ctrl-C in the terminal reaches the demo only."""
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self._arguments, stdout=log, stderr=log, start_new_session=True
            )
        finally:
            os.close(log)

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._process is None:
            raise TransientError(f"{self.name} is not running")
        return self._process.pid

    def check(self) -> None:
        """Raises TransientError, with the last lines of its output, when it has ended by itself."""
        if self._process is not None and self._process.returncode is not None:
            tail = "\n  ".join(self.log_path.read_text(errors="replace").splitlines()[-8:])
            raise TransientError(f"{self.name} ended with code {self._process.returncode}:\n  {tail}")

    def sample_memory(self) -> int:
        """Resident bytes now; remembers the peak that the kernel has seen."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        self.peak_bytes = int(values.get("VmHWM", "0 kB").split()[0]) * 1024
        return int(values.get("VmRSS", "0 kB").split()[0]) * 1024

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after five seconds."""
        if self._process is None or self._process.returncode is not None:
            return
        self.sample_memory()
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_listening(port: int, process: Process, timeout_s: float = 15.0) -> None:
    """Returns when something accepts on the port."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                process.check()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
    except TimeoutError:
        raise TransientError(f"{process.name} does not listen on port {port} after {timeout_s:g} s") from None
