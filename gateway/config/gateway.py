"""The whole file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from gateway.config.base import SYSTEM_STATE, Settings
from gateway.config.broker import BrokerConfig, ExternalBrokerConfig, HttpConfig, MappingsConfig
from gateway.config.cloud import CloudConfig
from gateway.config.devices import DeviceConfig, OtaConfig, ProvisioningConfig, RateLimitsConfig, RpcConfig
from gateway.config.rules import RulesConfig
from gateway.config.store import SqliteStore, StoreConfig


class ApiConfig(Settings):
    """The local API behind `edge-gateway status` and `events`: a unix socket, so only local users of its group."""

    socket: Path | None = Field(None, description="Default: api.sock in data_dir.")


class LogConfig(Settings):
    """Logs go to stderr; journald adds time and unit."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


_EVERYWHERE: Final = frozenset(("", "0.0.0.0", "::"))  # addresses that are those of all interfaces


class GatewayConfig(Settings):
    """The whole file."""

    config_version: Literal[1] = 1
    data_dir: Path | None = Field(
        None, description="State; default /var/lib/edge-gateway, or ./data without rights for it."
    )
    store: StoreConfig = SqliteStore()
    broker: BrokerConfig = BrokerConfig()
    mappings: MappingsConfig = MappingsConfig()
    external_broker: ExternalBrokerConfig = ExternalBrokerConfig()
    http: HttpConfig = HttpConfig()
    cloud: CloudConfig = CloudConfig()
    rules: RulesConfig = RulesConfig()
    devices: tuple[DeviceConfig, ...] = ()
    provisioning: ProvisioningConfig = ProvisioningConfig()
    buses: tuple[dict[str, Any], ...] = Field((), description="One entry a bus: `kind` selects the driver.")
    servers: tuple[dict[str, Any], ...] = Field((), description="Where foreign masters ask the gateway itself.")
    ota: OtaConfig = OtaConfig()
    rpc: RpcConfig = RpcConfig()
    rate_limits: RateLimitsConfig = RateLimitsConfig()
    api: ApiConfig = ApiConfig()
    log: LogConfig = LogConfig()

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Where the configuration file lies; None: there was none."""
        return self._folder

    @field_validator("devices")
    @classmethod
    def _unique_names(cls, devices: tuple[DeviceConfig, ...]) -> tuple[DeviceConfig, ...]:
        seen: set[str] = set()
        for device in devices:
            if device.name in seen:
                raise ValueError(f"two devices are named {device.name!r}; names are unique on a gateway")
            seen.add(device.name)
        return devices

    @model_validator(mode="after")
    def _ports_of_its_own(self) -> GatewayConfig:
        taken: dict[int, tuple[str, str]] = {}
        for section in ("broker", "http"):
            settings = getattr(self, section)
            if section == "broker" and not settings.enabled:
                continue
            for name in ("port", "tls_port", "websocket_port", "websocket_tls_port"):
                port, where = getattr(settings, name, None), f"{section}.{name}"
                other, host = taken.get(port or 0, ("", ""))
                if other and (host == settings.host or _EVERYWHERE & {host, settings.host}):
                    raise ValueError(f"{where} is {port}, and so is {other}; each listener has a port of its own")
                if port:
                    taken.setdefault(port, (where, settings.host))
        return self

    @property
    def state_dir(self) -> Path:
        """Where state is kept."""
        if self.data_dir:
            return self.data_dir
        return SYSTEM_STATE if SYSTEM_STATE.is_dir() and os.access(SYSTEM_STATE, os.W_OK) else Path("data")

    @property
    def socket_path(self) -> Path:
        """The local API's socket."""
        return self.api.socket or self.state_dir / "api.sock"

    @property
    def socket_paths(self) -> list[Path]:
        """Where a running gateway may listen: a member of its group may not write in its folder, but may ask it."""
        paths = [self.socket_path]
        if not (self.api.socket or self.data_dir) and SYSTEM_STATE.is_dir() and self.state_dir != SYSTEM_STATE:
            paths.append(SYSTEM_STATE / "api.sock")
        return paths
