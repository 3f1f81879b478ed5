"""The round: what is looked at, in the order in which one thing needs the other."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.app import check
from gateway.config import GatewayConfig
from gateway.doctor import box, cloud, lines
from gateway.doctor.findings import Finding, ok, problem, warning
from gateway.errors import ConfigError
from gateway.ports import Clock
from gateway.status_view import LocalApiError, NotRunning, ask
from gateway.store.look import look


async def examine(config: GatewayConfig, clock: Clock, *, may_connect: bool = True) -> list[Finding]:
    """All findings. `may_connect` False: the routing key is not shown to the cloud."""
    findings = _configuration(config)
    status, nobody_answers, service = await _service(config)
    findings.append(service)
    findings += box.state_folder(config)
    seen = await look(config.store, config.state_dir)
    findings += box.store(seen, config.store.max_bytes, is_running=status is not None)
    findings += box.clock(clock.now_ms())
    findings += box.listeners(config.broker, None if status is None else status.get("mqtt", {}))
    findings += box.http_listeners(config.http, None if status is None else status.get("http", {"listening": False}))
    findings += box.certificates(config, clock.now_ms())
    findings += lines.serial_lines(config.buses, "buses", None if status is None else status.get("buses", []))
    findings += lines.serial_lines(config.servers, "servers", None if status is None else [{}] * len(config.servers))
    is_alone = nobody_answers and seen.is_held is False
    findings += await cloud.findings(config.cloud, status, clock, may_connect=may_connect and is_alone)
    return findings


def _configuration(config: GatewayConfig) -> list[Finding]:
    try:
        remarks = check(config)
    except ConfigError as error:
        return [problem("configuration", str(error), "correct it: edge-gateway check-config")]
    return [ok("configuration", "good"), *(warning("configuration", remark) for remark in remarks)]


async def _service(config: GatewayConfig) -> tuple[dict[str, Any] | None, bool, Finding]:
    """What the running service says of itself (None: nothing), and whether it is certain that none runs."""
    trouble: LocalApiError | None = None
    for path in config.socket_paths:
        try:
            answer = await asyncio.to_thread(ask, path, "/status")
        except LocalApiError as error:
            trouble = trouble if isinstance(error, NotRunning) and trouble is not None else error
            continue
        return answer, False, ok("service", f"edge-gateway {answer['version']} runs, up {answer['uptime_s']} s")
    if isinstance(trouble, NotRunning):
        return None, True, ok("service", "not running (systemctl start edge-gateway, when it should be)")
    remedy = "run this command as root, or as a member of the service's group"
    return None, False, problem("service", str(trouble), remedy)
