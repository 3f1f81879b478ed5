"""TLS, names and passwords at a real mosquitto with a private CA: what works, and in which words it does not."""

import subprocess
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.demo.processes import free_port
from tests.fakes.inlet import FakeInlet
from tests.integration.external_house import Room
from tests.integration.mosquitto import Mosquitto

pytestmark = pytest.mark.server
SECRET = "hush-hush-hush"


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Two CAs; of the first one a server and a client, of the second one another client."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for ca in ("ca", "other-ca"):
        openssl("req", "-x509", *key, "-days", "2", "-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
    for name, ca in (("server", "ca"), ("client", "ca"), ("stranger", "other-ca")):
        (folder / "san").write_text("subjectAltName=DNS:localhost")
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
                "-days", "2", "-extfile", "san", "-out", f"{name}.pem")  # fmt: skip
    openssl("ec", "-in", "client.key", "-aes128", "-passout", "pass:x", "-out", "locked.key")
    (folder / "users").write_text(f"edge:{SECRET}\n")
    subprocess.run(["mosquitto_passwd", "-U", str(folder / "users")], check=True)
    for path in folder.iterdir():
        path.chmod(0o644)
    (folder / "users").chmod(0o600)
    return folder


@asynccontextmanager
async def tls_broker(tmp_path, pki, *more):
    files = (f"cafile {pki}/ca.pem", f"certfile {pki}/server.pem", f"keyfile {pki}/server.key")
    async with Mosquitto(tmp_path, *files, f"password_file {pki}/users", *more, is_open=False) as broker:
        yield broker


def visitor(broker, pki, **settings):
    inlet = FakeInlet()
    inlet.add_device("external-broker", "secret", is_gateway=True)
    said = {"host": "localhost", "tls": True, "tls_ca": pki / "ca.pem", "user": "edge", "password": SecretStr(SECRET)}
    return Room(broker, inlet, **said | settings)


async def test_a_private_ca_a_client_certificate_and_a_password(tmp_path, pki, caplog):
    async with tls_broker(tmp_path, pki, "require_certificate true") as broker:
        room = visitor(broker, pki, tls_cert=pki / "client.pem", tls_key=pki / "client.key")
        async with room.kept():
            await room.ready()
            assert room.room.status()["error"] == ""
    assert SECRET not in caplog.text


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tls_ca": "other-ca.pem"}, "is not signed by a CA that is trusted here: is"),
    ({"tls_ca": None}, "name its CA in external_broker.tls_ca"),
    ({"host": "127.0.0.1"}, "the broker's certificate is for another name than '127.0.0.1'"),
    ({"tls_ca": "missing.pem"}, "missing.pem cannot be read: No such file or directory"),
    ({"tls_ca": "ca.key"}, "external_broker.tls_ca: no PEM file of a CA"),
    ({"tls_cert": "client.pem", "tls_key": "server.key"}, "its key (without a password) that belong together"),
    ({"tls_cert": "client.pem", "tls_key": "locked.key"}, "its key (without a password) that belong together"),
    ({"tls": False, "tls_ca": None}, "does it want TLS (external_broker.tls)?"),
    ({"password": SecretStr("other-secret")}, "refuses us"),
]


async def test_what_is_wrong_is_said_in_words_and_no_secret_with_it(tmp_path, pki, caplog):
    async with tls_broker(tmp_path, pki) as broker:
        for settings, words in WRONG:
            files = {key: pki / value for key, value in settings.items() if key.startswith("tls_") and value}
            room = visitor(broker, pki, **settings | files)
            async with room.kept():
                await room.until(lambda room=room: room.room.status()["error"], f"{words}: never said")
                assert words in room.room.status()["error"]
            assert words in caplog.text
    assert SECRET not in caplog.text
    assert "other-secret" not in caplog.text


@pytest.mark.parametrize("files", [{}, {"tls_cert": "stranger.pem", "tls_key": "stranger.key"}])
async def test_a_client_certificate_that_is_missing_or_strange(tmp_path, pki, files):
    async with tls_broker(tmp_path, pki, "require_certificate true") as broker:
        room = visitor(broker, pki, **{key: pki / name for key, name in files.items()})
        async with room.kept():
            await room.until(lambda: room.room.status()["error"])
            assert "external_broker.tls_cert" in room.room.status()["error"]


async def test_tls_where_there_is_none(tmp_path, pki):
    async with Mosquitto(tmp_path) as broker:
        room = visitor(broker, pki)
        async with room.kept():
            await room.until(lambda: room.room.status()["error"])
            assert "TLS" in room.room.status()["error"]
    room = visitor(broker, pki, port=free_port())
    async with room.kept():
        await room.until(lambda: room.room.status()["error"])
        assert "Connection refused" in room.room.status()["error"]
