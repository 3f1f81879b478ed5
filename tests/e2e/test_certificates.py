"""A certificate is renewed while the gateway runs: the service is told to reload, and nothing else happens."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import yaml

from tests.e2e.parts import GatewayProcess, until
from tests.integration.test_broker_tls import der, make_certificate, shown_certificate


@pytest.mark.server
async def test_reload_of_the_service_shows_the_new_certificate(tmp_path):
    make_certificate(tmp_path)
    make_certificate(tmp_path, "next-")
    broker = {"tls_port": 0, "tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    gateway = GatewayProcess(tmp_path, None)
    config = yaml.safe_load(gateway.config_path.read_text())
    config["broker"] |= broker
    gateway.config_path.write_text(yaml.safe_dump(config))
    async with gateway:
        port = (await gateway.status())["mqtt"]["tls_port"]
        assert await shown_certificate(port) == der(tmp_path / "cert.pem")
        for name in ("key.pem", "cert.pem"):
            shutil.copy(tmp_path / f"next-{name}", tmp_path / name)
        os.kill(gateway.process.pid, signal.SIGHUP)

        async def is_new():
            return await shown_certificate(port) == der(tmp_path / "next-cert.pem")

        await until(is_new, 10, "the new certificate")
        assert (await gateway.status())["mqtt"]["tls_problem"] is None
