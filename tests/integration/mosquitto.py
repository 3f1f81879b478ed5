"""A real mosquitto on a free port, killed and started again on the same state."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from gateway.demo.processes import free_port
from tests.e2e.parts import until

NOT_KILLED = ("autosave_on_changes false", "autosave_interval 0")
"""For one that keeps much and is not killed: it writes all that it keeps with every change otherwise."""


class Mosquitto:
    def __init__(self, folder: Path, *more: str, is_open: bool = True) -> None:
        self.folder, self.port = folder, free_port()
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        assert program is not None, "mosquitto is missing: see tests/debian.sh"
        self._program = program
        self._conf = folder / "mosquitto.conf"
        settings = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {str(is_open).lower()}",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "max_queued_messages 0",
            "log_dest none",
            *more,
        ]
        if os.geteuid() == 0:
            settings.append("user root")
        self._conf.write_text("\n".join(settings) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = subprocess.Popen([self._program, "-c", str(self._conf)])
        await until(self._listens, 10, "mosquitto does not listen")

    async def _listens(self) -> bool:
        import asyncio

        assert self.process is not None
        assert self.process.poll() is None, "mosquitto ended"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    async def __aenter__(self) -> "Mosquitto":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
