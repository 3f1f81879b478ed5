"""What the tests of the link share: a handler, a link, a certificate authority."""

import asyncio
import contextlib
import subprocess

import grpc

from gateway.cloud.link import GrpcLink
from gateway.config import CloudConfig
from gateway.errors import RefusedError, TransientError
from gateway.supervise import Counters, SystemClock
from tests.unit.cloud.build import TS, State, event


class Handler:
    """A `DownlinkHandler` that counts."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.is_full = is_full
        self.downlinks = []
        self.identities = []

    async def connected(self, identity):
        self.identities.append(identity)
        return self.is_full

    async def handle(self, downlink):
        self.downlinks.append(downlink)


def settings(port, **changes) -> CloudConfig:
    values = {"routing_key": "key-1", "routing_secret": "secret-1", "host": "127.0.0.1", "port": port, **changes}
    return CloudConfig(**values)


def make(port, handler=None, clock=None, **changes) -> GrpcLink:
    return GrpcLink(settings(port, **changes), handler or Handler(), State(), clock or SystemClock(), Counters())


@contextlib.asynccontextmanager
async def running(link):
    """The link's one connection; yields its task, which must not end by a bug."""
    task = asyncio.create_task(link.serve())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TransientError, RefusedError):
            await task


def reading(value=1, seq_id=1):
    return event("TIMESERIES_UPDATED", {"ts": TS, "data": {"t": value}}, seq_id=seq_id)


async def ready(peer):
    await peer.accept()
    await peer.sync()


async def stay(peer):
    """Accepted, synced, then answers every uplink message."""
    await ready(peer)
    while True:
        try:
            request = await peer.read()
        except StopAsyncIteration:
            return
        if request.HasField("uplinkMsg"):
            await peer.write(uplinkResponseMsg={"uplinkMsgId": request.uplinkMsg.uplinkMsgId, "success": True})


class Authority:
    """A CA in a folder, by openssl: certificates of any validity."""

    def __init__(self, folder) -> None:
        self.folder = folder
        (folder / "index").write_text("")
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndir=.\ndatabase=index\nnew_certs_dir=.\nserial=serial\nrand_serial=yes\n"
            "default_md=sha256\npolicy=p\ncopy_extensions=copy\nunique_subject=no\nemail_in_dn=no\n"
            "[p]\ncommonName=supplied\n"
        )
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "400", "-subj", "/CN=ca",
                      "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def issue(self, name, start="20200101000000Z", end="20601231235959Z", host="cloud.test"):
        """Files `name`.pem and `name`.key; the paths."""
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                      "-addext", f"subjectAltName=DNS:{host}", "-out", f"{name}.csr")  # fmt: skip
        self._openssl("ca", "-batch", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-notext",
                      "-startdate", start, "-enddate", end, "-in", f"{name}.csr", "-out", f"{name}.pem")  # fmt: skip
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def server(self, name="server", *, wants_client=False, **validity):
        """Credentials of a gRPC server."""
        certificate, key = self.issue(name, **validity)
        return grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            (self.folder / "ca.pem").read_bytes() if wants_client else None,
            wants_client,
        )
