"""The sample configuration, made from the typed models so that it cannot drift: every key, its default, why."""

from __future__ import annotations

import textwrap
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr

from gateway.config import (
    ApiConfig,
    BrokerConfig,
    CloudConfig,
    ExternalBrokerConfig,
    GatewayConfig,
    HttpConfig,
    LogConfig,
    MappingsConfig,
    OtaConfig,
    ProvisioningConfig,
    RateLimitsConfig,
    RpcConfig,
    RulesConfig,
    SqliteStore,
)

_HEAD = """\
# edge-gateway: every key, its default, one line why. Made by `make config`.
# A key that stands here commented has the default shown. An unknown key is an error with a suggestion.
# Environment: CLOUD_ROUTING_KEY, CLOUD_ROUTING_SECRET, CLOUD_RPC_HOST, CLOUD_RPC_PORT … and EDGE_GATEWAY__SECTION__KEY
# win over the file. Check it with: edge-gateway check-config --config FILE

config_version: 1
"""

_STORE_MORE = """\
  # PostgreSQL instead (pip install 'edge-gateway[postgres]'):
  #   kind: postgres
  #   url: postgresql://user:password@host:5432/database
  #   schema_name: edge_gateway
"""

_RULES_MORE = """\
  # Short forms instead of a chain (docs/rules-short.md; more in config/rules/short.yaml):
  #   short:
  #     - profiles: [boiler]                        # or devices: ["Boiler-*"]; neither: all
  #       steps:
  #         - alarm: {key: temperature, when: "> 90", clear_when: "< 85", for_s: 30, severity: MAJOR}
  #         - every: {seconds: 60, send: [min, max, avg], raw: save}
  #     - steps:
  #         - on_change: {by: 0.5, longest_silence_s: 600}
"""

_DEVICES = """
# Devices that this gateway creates and announces to the cloud. Without credentials a token is made.
devices: []
#  - name: Thermostat-1
#    profile: thermostat
#    access_token: choose-a-long-random-one      # or access_token_file: /path, or mqtt_basic: {user_name, password}
#    gateway: false                              # true: it speaks for the devices behind it, on v1/gateway/…

# Field buses: one entry a wire, `kind` selects the driver (docs/modbus.md, docs/serial.md).
buses: []
#  - kind: modbus
#    name: plant
#    host: 192.168.1.10
#    port: 502
#    devices:
#      - name: Boiler
#        profile: boiler
#        unit_id: 1
#        every_ms: 1000
#        telemetry:
#          - {key: temperature, table: holding_register, address: 0, type: int16, scale: 0.1}
#          - {key: burner, table: coil, address: 0, type: bool, writable: true}

# Foreign masters: the gateway as a Modbus slave; off while the list is empty (docs/modbus-server.md).
servers: []
#  - kind: modbus
#    name: scada
#    tcp: {listen: "127.0.0.1:1502"}
#    units:
#      - unit_id: 1
#        points:
#          - {table: input_register, address: 0, type: uint32, gateway: pending}
#          - {table: input_register, address: 2, type: int16, scale: 0.1, device: Boiler, key: temperature}
"""

_SECTIONS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("store", SqliteStore, _STORE_MORE),
    ("broker", BrokerConfig, ""),
    ("mappings", MappingsConfig, ""),
    ("external_broker", ExternalBrokerConfig, ""),
    ("http", HttpConfig, ""),
    ("cloud", CloudConfig, ""),
    ("rules", RulesConfig, _RULES_MORE),
    ("ota", OtaConfig, ""),
    ("provisioning", ProvisioningConfig, ""),
    ("rpc", RpcConfig, ""),
    ("rate_limits", RateLimitsConfig, ""),
    ("api", ApiConfig, ""),
    ("log", LogConfig, ""),
)


def sample_yaml() -> str:
    """The text of `config/gateway.yaml`."""
    data_dir = GatewayConfig.model_fields["data_dir"]
    parts = [_HEAD, f"# data_dir: null   # {data_dir.description}\n"]
    for name, model, more in _SECTIONS:
        summary = (model.__doc__ or "").strip().splitlines()[0]
        parts.append(f"\n# {summary}\n{name}:\n{_keys(model)}{more}")
    return "".join(parts) + _DEVICES


def _keys(model: type[BaseModel]) -> str:
    lines = []
    for name, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True)
        text = f"{name}: {_scalar(default)}"
        note = info.description or _choices(info.annotation)
        line = f"  {'' if name == 'kind' else '# '}{text}"
        if note and len(line) + len(note) > 112:
            lines += [f"  # {part}" for part in textwrap.wrap(note, 108)]
        elif note:
            line = f"{line}   # {note}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _choices(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal and len(typing.get_args(annotation)) > 1:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(str(choice.value) for choice in annotation)
    return ""


def _scalar(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    elif isinstance(value, Enum):
        value = value.value
    elif isinstance(value, Path):
        value = str(value)
    elif isinstance(value, tuple):
        value = list(value)
    elif isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
