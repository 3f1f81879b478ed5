"""What several suites share: a PostgreSQL server of our own."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class PostgresServer:
    """Debian's server in a folder of its own, on a free port of the loopback interface."""

    binaries: Path
    data: Path
    port: int
    user: str

    @property
    def url(self) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            **self._identity(),
            cwd=self.data.parent,
            env={"PATH": str(self.binaries), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the server runs
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self.data.parent / "log"
            raise RuntimeError(f"{program} failed: {log.read_text()[-2000:] if log.exists() else done.returncode}")

    def _identity(self) -> dict[str, Any]:
        """The server refuses to run as root."""
        if os.getuid() != 0:
            return {}
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}

    def create(self) -> None:
        self.run("initdb", "-D", str(self.data), "-U", self.user, "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self, *, fsync: bool = False) -> None:
        options = (
            f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories='' -c fsync={'on' if fsync else 'off'}"
            " -c shared_buffers=32MB -c max_connections=40"
        )
        self.run("pg_ctl", "-D", str(self.data), "-l", str(self.data.parent / "log"), "-w", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """By the pid in the server's own folder."""
        if (self.data / "postmaster.pid").exists():
            self.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")


def new_server() -> PostgresServer:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.fail("PostgreSQL's server is missing: apt-get install postgresql (tests/debian.sh does it)")
    binaries = found[-1].parent if found else Path(on_path or "").parent
    me = pwd.getpwuid(os.getuid()).pw_name
    user = "postgres" if me == "root" else me
    folder = Path(tempfile.mkdtemp(prefix="edge-gateway-postgres-"))
    if me == "root":
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = PostgresServer(binaries, folder / "data", port, user)
    server.create()
    return server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = new_server()
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.data.parent, ignore_errors=True)


@pytest.fixture
def postgres_server_alone() -> Iterator[PostgresServer]:
    """For a test that stops and starts it; with fsync."""
    server = new_server()
    try:
        server.start(fsync=True)
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.data.parent, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`: tests that start processes run one after the other, the others beside them by file."""
    for item in items:
        has_processes = item.get_closest_marker("server") or item.get_closest_marker("slow")
        item.add_marker(pytest.mark.xdist_group("processes" if has_processes else item.nodeid.partition("::")[0]))
