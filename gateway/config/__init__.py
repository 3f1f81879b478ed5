"""Frozen, strict settings; the only reader of configuration files and of the environment.

Order: defaults < the file < `conf.d/*.yaml` beside it (by name) < the cloud's documented environment names
(`CLOUD_ROUTING_KEY` …) < `EDGE_GATEWAY__SECTION__KEY`. A complaint names the path in the file and what would be right.
"""

from gateway.config.base import SYSTEM_STATE, ModelT, Port, Settings
from gateway.config.broker import (
    AclRule,
    BrokerConfig,
    ExternalBrokerConfig,
    HttpConfig,
    MappingsConfig,
    MappingUse,
    ProfileConfig,
)
from gateway.config.cloud import CloudConfig
from gateway.config.devices import (
    BasicCredentials,
    DeviceConfig,
    OtaConfig,
    ProvisioningConfig,
    ProvisionKeyConfig,
    RateLimitsConfig,
    RpcConfig,
    TokenCredentials,
)
from gateway.config.gateway import ApiConfig, GatewayConfig, LogConfig
from gateway.config.reading import load_config, load_settings, parse_config
from gateway.config.rules import RuleRecordConfig, RuleRetryConfig, RulesConfig
from gateway.config.store import PostgresStore, SqliteStore, StoreConfig

__all__ = [
    "SYSTEM_STATE",
    "AclRule",
    "ApiConfig",
    "BasicCredentials",
    "BrokerConfig",
    "CloudConfig",
    "DeviceConfig",
    "ExternalBrokerConfig",
    "GatewayConfig",
    "HttpConfig",
    "LogConfig",
    "MappingUse",
    "MappingsConfig",
    "ModelT",
    "OtaConfig",
    "Port",
    "PostgresStore",
    "ProfileConfig",
    "ProvisionKeyConfig",
    "ProvisioningConfig",
    "RateLimitsConfig",
    "RpcConfig",
    "RuleRecordConfig",
    "RuleRetryConfig",
    "RulesConfig",
    "Settings",
    "SqliteStore",
    "StoreConfig",
    "TokenCredentials",
    "load_config",
    "load_settings",
    "parse_config",
]
