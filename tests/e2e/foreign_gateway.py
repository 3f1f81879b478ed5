"""The vendor's own gateway package as a process in its own environment, polling a Modbus plant, with us as its platform."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def python() -> Path:
    """Of the environment that `make test` sets up."""
    found = Path(os.environ.get("EDGE_GATEWAY_TBGW_PYTHON") or ROOT / ".venv-tbgw" / "bin" / "python")
    if not found.is_file():
        pytest.fail(f"{found} does not exist: run `make foreign`, or name a python in EDGE_GATEWAY_TBGW_PYTHON")
    return found


class ForeignGateway:
    """`thingsboard-gateway` with a Modbus connector named `plant`; ended by `async with`."""

    def __init__(self, folder: Path, port: int, token: str, slaves: list[dict[str, Any]]) -> None:
        self.folder = folder / "foreign"
        self._port, self._token, self._slaves = port, token, slaves
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> ForeignGateway:
        interpreter = python()
        config = self.folder / "config"
        config.mkdir(parents=True)
        (self.folder / "logs").mkdir()
        (shipped,) = interpreter.parents[1].glob("lib/*/site-packages/thingsboard_gateway/config/logs.json")
        shutil.copy(shipped, config)
        general = {
            "thingsboard": {
                "host": "127.0.0.1",
                "port": self._port,
                "remoteConfiguration": True,
                "security": {"type": "accessToken", "accessToken": self._token},
                "qos": 1,
                "minPackSendDelayMS": 50,
                "statistics": {"enable": False},
            },
            "storage": {"type": "memory", "read_records_count": 100, "max_records_count": 100000},
            "connectors": [{"type": "modbus", "name": "plant", "configuration": "modbus.json"}],
        }
        (config / "tb_gateway.json").write_text(json.dumps(general))
        (config / "modbus.json").write_text(json.dumps({"master": {"slaves": self._slaves}}))
        with open(self.folder / "output.log", "wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(interpreter),
                "-c",
                "from thingsboard_gateway.tb_gateway import daemon; daemon()",
                cwd=self.folder,
                env={**os.environ, "TB_GW_CONFIG_DIR": str(config)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def log(self) -> str:
        """The end of what it said."""
        return (self.folder / "output.log").read_text(errors="replace")[-3000:]


def slave(port: int) -> dict[str, Any]:
    """The plant's unit 1 as the vendor's Modbus connector writes it."""
    return {
        "type": "tcp",
        "host": "127.0.0.1",
        "port": port,
        "method": "socket",
        "unitId": 1,
        "deviceName": "Foreign boiler",
        "deviceType": "boiler",
        "pollPeriod": 500,
        "timeout": 3,
        "byteOrder": "BIG",
        "wordOrder": "BIG",
        "attributes": [
            {"tag": "serial", "type": "string", "functionCode": 4, "address": 10, "objectsCount": 8},
        ],
        "timeseries": [
            {"tag": "temperature", "type": "16int", "functionCode": 3, "address": 0, "objectsCount": 1, "divider": 10},
            {"tag": "setpoint", "type": "16uint", "functionCode": 3, "address": 10, "objectsCount": 1},
        ],
        "attributeUpdates": [
            {"tag": "setpoint", "type": "16uint", "functionCode": 6, "address": 10, "objectsCount": 1},
        ],
        "rpc": [
            {"tag": "setSetpoint", "type": "16uint", "functionCode": 6, "address": 10, "objectsCount": 1},
        ],
    }
