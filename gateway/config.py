"""Frozen, strict settings; the only reader of configuration files and of the environment.

Order: defaults < the file < `conf.d/*.yaml` beside it (by name) < the cloud's documented environment names
(`CLOUD_ROUTING_KEY` …) < `EDGE_GATEWAY__SECTION__KEY`. A complaint names the path in the file and what would be right.
"""

from __future__ import annotations

import difflib
import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.domain.cloud_event import WhenFull
from gateway.domain.onboarding import PROVISION_USER
from gateway.domain.rates import LIMIT_NAMES, Limits, Rates, Sender, parse_rate
from gateway.domain.rpc import RpcStrategy
from gateway.domain.short_rules import ShortRule
from gateway.errors import ConfigError

Port = Annotated[int, Field(ge=0, le=65535)]
SYSTEM_STATE = Path("/var/lib/edge-gateway")
ModelT = TypeVar("ModelT", bound=BaseModel)


class Settings(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SqliteStore(Settings):
    """One file, one writer; synchronous=FULL unless told otherwise."""

    kind: Literal["sqlite"] = "sqlite"
    path: Path | None = Field(None, description="Database file; default: gateway.db in data_dir.")
    synchronous: Literal["full", "normal"] = Field(
        "full", description="normal: faster, and a power cut may lose the last acknowledged messages."
    )
    max_bytes: PositiveInt | None = Field(
        None, description="Size of file and log at which when_full applies; default: 1 GB or 25 % of what is free."
    )
    commit_every_s: NonNegativeFloat = Field(
        0.0, le=300, description="Economy for SD cards: data of devices, and its PUBACK, waits so long for its group."
    )
    when_full: WhenFull = WhenFull.WAIT
    keep_deployed: NonNegativeInt = Field(100_000, description="Confirmed events kept for the page, per lane.")
    history_days: PositiveInt = Field(7, description="Local telemetry history.")


class PostgresStore(Settings):
    """A database of our own on a PostgreSQL server."""

    kind: Literal["postgres"]
    url: SecretStr = Field(description="postgresql://user:password@host:port/database")
    schema_name: str = Field("edge_gateway", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    max_bytes: PositiveInt = 16 << 30
    commit_every_s: NonNegativeFloat = Field(
        0.0, le=300, description="Economy for SD cards: data of devices, and its PUBACK, waits so long for its group."
    )
    when_full: WhenFull = WhenFull.WAIT
    keep_deployed: NonNegativeInt = 100_000
    history_days: PositiveInt = 7


StoreConfig = Annotated[SqliteStore | PostgresStore, Field(discriminator="kind")]


class AclRule(Settings):
    """Who may do what on local topics (`docs/local-topics.md`). Names are patterns with * and ?."""

    device: str = "*"
    profile: str = "*"
    topic: Annotated[str, Field(min_length=1, max_length=1024)]
    access: Literal["read", "write", "readwrite", "deny"] = "readwrite"

    @field_validator("topic")
    @classmethod
    def _is_filter(cls, topic: str) -> str:
        levels = topic.split("/")
        if any(("+" in level and level != "+") or ("#" in level and level != "#") for level in levels):
            raise ValueError("is no topic filter: + and # stand alone between slashes")
        if "#" in levels[:-1] or len(levels) > 32:
            raise ValueError("is no topic filter: # stands at the end, and 32 levels are the most")
        if "%c" in topic:
            raise ValueError("a client id says nothing about who a device is; use %d (device) or %p (profile)")
        return topic


class ProfileConfig(Settings):
    """What the devices of one profile say over MQTT, where the cloud's profile does not tell (`docs/devices.md`)."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    telemetry_topic: str | None = None
    attributes_topic: str | None = None
    attributes_subscribe_topic: str | None = None
    ack_bad_payloads: bool = False
    payload: Literal["json", "protobuf"] = "json"
    telemetry_schema: str | None = None
    attributes_schema: str | None = None
    rpc_request_schema: str | None = None
    rpc_response_schema: str | None = None
    json_too: bool = False
    json_down: bool = False

    @field_validator("telemetry_topic", "attributes_topic", "attributes_subscribe_topic")
    @classmethod
    def _is_filter(cls, topic: str | None) -> str | None:
        levels = [] if topic is None else topic.split("/")
        if topic == "" or "#" in levels[:-1] or any(len(level) > 1 and set(level) & {"+", "#"} for level in levels):
            raise ValueError("is no topic filter: + and # stand alone between slashes, # at the end")
        return topic

    @model_validator(mode="after")
    def _json_beside_protobuf(self) -> ProfileConfig:
        if self.json_down and not self.json_too:
            raise ValueError("json_down needs json_too")
        return self

    def to_json(self) -> dict[str, Any]:
        """As a device profile of the cloud says it (`transportConfiguration`)."""
        return {
            "type": "MQTT",
            "deviceTelemetryTopic": self.telemetry_topic,
            "deviceAttributesTopic": self.attributes_topic,
            "deviceAttributesSubscribeTopic": self.attributes_subscribe_topic,
            "sendAckOnValidationException": self.ack_bad_payloads,
            "transportPayloadTypeConfiguration": {
                "transportPayloadType": self.payload.upper(),
                "deviceTelemetryProtoSchema": self.telemetry_schema,
                "deviceAttributesProtoSchema": self.attributes_schema,
                "deviceRpcRequestProtoSchema": self.rpc_request_schema,
                "deviceRpcResponseProtoSchema": self.rpc_response_schema,
                "enableCompatibilityWithJsonPayloadFormat": self.json_too,
                "useJsonPayloadFormatForDefaultDownlinkTopics": self.json_down,
            },
        }


class BrokerConfig(Settings):
    """The MQTT endpoint for devices."""

    enabled: bool = Field(True, description="false: no endpoint of our own, where an external broker takes its place.")
    host: str = "0.0.0.0"
    port: Port = 1883
    tls_port: Port | None = Field(None, description="TLS listener; needs tls_cert and tls_key.")
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = Field(None, description="Ask devices for certificates signed by this CA.")
    x509: bool = Field(True, description="Over TLS: a device that shows a certificate is known by it alone.")
    x509_check_validity: bool = Field(
        True, description="Refuse certificates that have expired; false where the clock cannot be trusted."
    )
    websocket_port: Port | None = Field(None, description="MQTT over WebSocket.")
    websocket_tls_port: Port | None = Field(None, description="The same over TLS (wss); needs tls_cert and tls_key.")
    websocket_path: str = "/mqtt"
    websocket_origins: tuple[str, ...] = Field(
        (), description="Web pages that may connect, as https://host; empty: all. Devices name no page."
    )
    max_packet_bytes: PositiveInt = Field(65_536, description="Remaining length of one packet (device API §1.1).")
    max_partial_bytes: PositiveInt = Field(
        33_554_432, description="Unfinished packets of all connections together; then the oldest of them are closed."
    )
    max_connections: PositiveInt = 10_000
    max_connections_per_address: PositiveInt = 5000
    max_subscriptions: PositiveInt = Field(100, description="Topic filters of one connection.")
    max_gateway_devices: PositiveInt = Field(5_000, description="Devices open at the same time behind one gateway.")
    max_devices: PositiveInt = Field(
        20_000, description="Devices altogether; with so many, no gateway makes another one, and none is provisioned."
    )
    max_inflight: PositiveInt = Field(100, description="Unanswered QoS 1 publishes of one connection.")
    connect_timeout_s: PositiveFloat = Field(10.0, description="For CONNECT, and for the TLS handshake before it.")
    slow_reader_timeout_s: PositiveFloat = Field(
        60.0, description="A device that takes nothing of what waits for it for so long is closed."
    )
    idle_timeout_s: PositiveFloat = Field(600.0, description="A session without any packet is closed.")
    wrong_password_limit: PositiveInt = Field(
        10, description="Wrong credentials from one address before it is blocked."
    )
    block_s: PositiveFloat = 60.0
    local_topics: bool = Field(True, description="Ordinary publish/subscribe between devices beside the device API.")
    acl: tuple[AclRule, ...] = Field(
        (), description="Rules for local topics: {device, profile, topic, access}; none: every device, every topic."
    )
    acl_file: Path | None = Field(None, description="More rules, in a mosquitto-style file.")
    local_retained: NonNegativeInt = Field(10_000, description="Retained messages kept; one more is refused.")
    local_retained_bytes: NonNegativeInt = 4 << 20
    local_sessions: NonNegativeInt = Field(1_000, description="Persistent sessions kept; 10 of one device.")
    local_session_s: PositiveInt = Field(604_800, description="A persistent session without its client ends after it.")
    local_queue: PositiveInt = Field(
        1_000, le=30_000, description="Messages that wait for one session; then the oldest goes, counted."
    )
    local_queue_bytes: PositiveInt = 1 << 20
    local_total_bytes: PositiveInt = Field(32 << 20, description="Of all sessions together; kept in memory too.")
    json_type_cast: bool = Field(
        True, description="Text that reads as a number becomes a number, as the server does it."
    )
    profiles: tuple[ProfileConfig, ...] = Field(
        (),
        description="Topics and protobuf schemas of profiles: {name, telemetry_topic, payload, telemetry_schema, …}.",
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> BrokerConfig:
        for name in ("tls_port", "websocket_tls_port"):
            if getattr(self, name) is not None and (self.tls_cert is None or self.tls_key is None):
                raise ValueError(f"{name} needs tls_cert and tls_key")
        if not self.websocket_path.startswith("/"):
            raise ValueError(f"websocket_path must begin with /, as in /mqtt; not {self.websocket_path!r}")
        for origin in self.websocket_origins:
            if re.fullmatch(r"https?://[^/]+", origin) is None:
                raise ValueError(
                    f"websocket_origins: {origin!r} is no page's origin: https://host or https://host:port, and no path"
                )
        return self


class MappingUse(Settings):
    """One set of mapping rules: one that comes along, a file, or rules that stand here (`docs/mappings.md`)."""

    use: str | None = None
    file: Path | None = None
    up: tuple[dict[str, Any], ...] = ()
    down: tuple[dict[str, Any], ...] = ()
    profile: str | None = None
    devices: str | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> MappingUse:
        if (self.use is not None) + (self.file is not None) + bool(self.up or self.down) != 1:
            raise ValueError("needs exactly one of use (a set that comes along), file, or rules under up and down")
        return self


class MappingsConfig(Settings):
    """Devices that know nothing of ThingsBoard: rules that make telemetry, attributes and calls of their topics."""

    sets: tuple[MappingUse, ...] = Field(
        (), description="{use: tasmota}, {use: zigbee2mqtt}, {use: shelly}, {file: PATH} or {up: […], down: […]}."
    )
    max_devices: PositiveInt = Field(1_000, description="Devices open at the same time through mappings.")
    idle_s: PositiveFloat = Field(
        3600.0, description="A mapped device without a last will is offline when nothing was heard of it for so long."
    )


class ExternalBrokerConfig(Settings):
    """Another MQTT broker that devices are connected to; off until a host is given (`docs/external-broker.md`)."""

    host: str | None = None
    port: Port = 1883
    name: str = Field("external-broker", description="The device that stands for it: a gateway to the cloud.")
    prefix: str = Field("edge", description="Devices speak on {prefix}/{device}/telemetry and so on.")
    client_id: str = Field("edge-gateway", description="The session there is kept under it; one gateway, one id.")
    user: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    version: Literal["3.1.1", "5"] = "5"
    tls: bool = False
    tls_ca: Path | None = Field(None, description="PEM of the CA; default: the system's.")
    tls_cert: Path | None = Field(None, description="PEM of our own certificate, where the broker asks.")
    tls_key: Path | None = None
    share: str | None = Field(
        None,
        description="Shared subscription of this group, where the broker grants it; retained messages do not come.",
    )
    part: PositiveInt = Field(1, description="Which of `parts` gateways this is; each speaks for its share of devices.")
    parts: PositiveInt = Field(1, description="Gateways that divide the devices of this broker by their names.")
    gateway_api: bool = Field(True, description="Take v1/gateway/… as well: it names its devices.")
    keepalive_s: PositiveInt = 30
    session_s: PositiveInt = Field(604_800, description="The broker keeps our session, and what waits in it, so long.")
    max_inflight: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="Messages that are not acknowledged yet."
    )
    reconnect_s: PositiveFloat = 1.0
    reconnect_max_s: PositiveFloat = 60.0

    @model_validator(mode="after")
    def _is_whole(self) -> ExternalBrokerConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are given together")
        if not self.tls and (self.tls_ca or self.tls_cert):
            raise ValueError("tls_ca and tls_cert need tls: true")
        if self.password is not None and self.user is None:
            raise ValueError("password needs user")
        if not self.prefix or any(char in self.prefix for char in "+#{}") or self.prefix.startswith(("v1", "v2", "$")):
            raise ValueError(f"prefix {self.prefix!r} cannot be used: a topic without wildcards, not v1, v2 or $")
        if self.reconnect_max_s < self.reconnect_s:
            raise ValueError("reconnect_max_s must not be below reconnect_s")
        if self.part > self.parts:
            raise ValueError(f"part must be 1 to {self.parts} (parts)")
        if self.parts > 1 and self.share:
            raise ValueError("parts and share exclude each other: of a shared subscription each gateway hears a part")
        return self


class HttpConfig(Settings):
    """The HTTP endpoint for devices; off until a port is given."""

    host: str = "0.0.0.0"
    port: Port | None = Field(None, description="Listen here; ThingsBoard's own is 8080.")
    tls_port: Port | None = Field(None, description="HTTPS listener; needs tls_cert and tls_key.")
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_body_bytes: PositiveInt = Field(
        1_048_576, description="Telemetry and attributes; ThingsBoard takes 52428800. RPC bodies: 65536."
    )
    max_connections: PositiveInt = Field(1000, description="Long polls count too.")
    max_requests_per_device: PositiveInt = Field(20, description="Open at the same time; one more gets 429.")
    request_timeout_s: PositiveFloat = Field(30.0, description="A request is here, or its answer taken, in this time.")
    idle_timeout_s: PositiveFloat = Field(60.0, description="A connection without a request is closed.")
    wrong_token_limit: PositiveInt = Field(10, description="Wrong tokens from one address before it is blocked.")
    block_s: PositiveFloat = 60.0

    @model_validator(mode="after")
    def _tls_is_whole(self) -> HttpConfig:
        if self.tls_port is not None and (self.tls_cert is None or self.tls_key is None):
            raise ValueError("tls_port needs tls_cert and tls_key")
        return self


class CloudConfig(Settings):
    """The gRPC link to the cloud."""

    enabled: bool = True
    routing_key: SecretStr = SecretStr("")
    routing_secret: SecretStr = SecretStr("")
    routing_key_file: Path | None = None
    routing_secret_file: Path | None = None
    host: str = "localhost"
    port: Port = 7070
    timeout_ms: PositiveInt = 5000
    ssl_enabled: bool = False
    ssl_cert: Path | None = Field(None, description="PEM of the CA or of the server; default: the system's.")
    ssl_server_name: str | None = Field(None, description="Expect this name in the certificate.")
    ssl_client_cert: Path | None = Field(None, description="PEM of our own certificate, where a proxy in front asks.")
    ssl_client_key: Path | None = None
    proxy_host: str | None = Field(None, description="HTTP CONNECT proxy.")
    proxy_port: Port = 3128
    proxy_user: str | None = None
    proxy_password: SecretStr | None = None
    edge_version: Literal["3.7.0", "4.0.0", "4.2.0", "4.3.0"] = Field(
        "3.7.0",
        description="The release announced: the highest that the server knows. 3.7.0 is known by all.",
    )
    max_inbound_bytes: PositiveInt = 4_194_304
    keepalive_s: Annotated[float, Field(ge=1.0)] = 30.0
    keepalive_timeout_s: PositiveFloat = 10.0
    answer_timeout_s: PositiveFloat = Field(20.0, description="The link is rebuilt when an answer is older than this.")
    probe_s: NonNegativeFloat = Field(
        60.0, description="After so much silence a tiny message asks whether the cloud still hears us; 0: never."
    )
    sync_timeout_s: PositiveFloat = 120.0
    reconnect_ms: PositiveInt = 3000
    reconnect_max_ms: PositiveInt = 60_000
    gzip: bool = False
    batch_size: PositiveInt = Field(100, description="Telemetry events that share one uplink message.")
    batch_timeout_ms: NonNegativeInt = Field(
        1000,
        description="Longest wait for a fuller batch while answers are outstanding; an idle link sends at once.",
    )
    window: PositiveInt = Field(32, description="Uplink messages in flight.")
    drain: Literal["oldest_first", "live_first"] = Field(
        "oldest_first", description="live_first: after an outage new telemetry overtakes the backlog, which follows."
    )
    attribute_wait_s: Annotated[float, Field(ge=0.0, le=4.5)] = Field(
        3.0,
        description="Longest wait of a device for shared attributes that only the cloud may know; 0: it is not asked.",
    )
    refresh_attributes: bool = Field(
        True, description="Ask again for the attributes of all devices and assets once a new connection lasts."
    )
    stats_interval_s: NonNegativeInt = Field(60, description="Report uplinkMsgs… statistics of the EDGE; 0: never.")
    retry_interval_ms: PositiveInt = 3000
    max_retries: PositiveInt = Field(10, description="Refusals of one event before it is parked.")
    rate_limit_pause_s: PositiveFloat = Field(60.0, description="Nothing is sent for so long after a rate limit.")

    @model_validator(mode="after")
    def _both_or_none(self) -> CloudConfig:
        if self.reconnect_max_ms < self.reconnect_ms:
            raise ValueError("reconnect_max_ms must not be below reconnect_ms")
        if (self.ssl_client_cert is None) != (self.ssl_client_key is None):
            raise ValueError("ssl_client_cert and ssl_client_key are given together")
        return self


class RuleRetryConfig(Settings):
    """A node whose question fails for a moment asks again before it answers Failure."""

    times: NonNegativeInt = Field(
        0,
        le=100,
        description="0: Failure at once, as the queue Main of ThingsBoard. Its message, the later ones of that device"
        " and their acknowledgements wait meanwhile.",
    )
    pause_s: PositiveFloat = Field(1.0, description="Doubles with each further try.")
    max_pause_s: PositiveFloat = 30.0


class RuleRecordConfig(Settings):
    """Messages as they come to the rules, into files for `edge-gateway rules replay`."""

    dir: Path | None = Field(None, description="Default: recordings in data_dir.")
    max_bytes: int = Field(64 << 20, ge=1 << 16, description="Of all files; then the oldest file goes.")
    devices: tuple[str, ...] = Field((), description="Only these, by name; with `profiles` too: one or the other.")
    profiles: tuple[str, ...] = ()


class RulesConfig(Settings):
    """Local rule chains."""

    root_chain: Path | None = Field(
        None,
        description="ThingsBoard JSON (export form). Default: the built-in edge root chain, until the cloud sends one.",
    )
    chains: tuple[Path, ...] = Field((), description="More chains, for nesting.")
    short: tuple[ShortRule, ...] = Field(
        (), description="Short forms that make a root chain: docs/rules-short.md, `edge-gateway rules build`."
    )
    prefer_cloud: bool = Field(
        True, description="A root chain from the cloud takes the place of the local one. With `short`: false."
    )
    allow_credentials: bool = Field(
        False, description="Lets 'fetch device credentials' nodes read the secrets of devices into messages."
    )
    allow_rest: tuple[str, ...] = Field(
        (),
        description="Whom 'rest api call' nodes may call: https://host[:port][/path], the host may begin with '*.';"
        " '*' is anybody. A chain of the cloud could reach all of the plant's network else.",
    )
    allow_mqtt: tuple[str, ...] = Field(
        (), description="To which brokers 'mqtt' nodes may publish: host or host:port, '*.plant.local', '*'."
    )
    script_memory_bytes: PositiveInt = 16 << 20
    script_timeout_ms: PositiveInt = 500
    retry: RuleRetryConfig = Field(
        RuleRetryConfig(),
        description="When a node asks for something that is away for a moment (the store, another server): times 0 is"
        " Failure at once, as in ThingsBoard's queue Main.",
    )
    record: RuleRecordConfig | None = Field(
        None, description="{dir, max_bytes, devices, profiles}: record messages for `edge-gateway rules replay`."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms_stay(cls, tree: Any) -> Any:
        return {"prefer_cloud": False, **tree} if isinstance(tree, dict) and tree.get("short") else tree

    @field_validator("allow_rest")
    @classmethod
    def _has_scheme(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if entry != "*" and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", entry):
                raise ValueError(f"{entry!r} must be as https://host[:port][/path], or '*'")
        return entries

    @model_validator(mode="after")
    def _one_root(self) -> RulesConfig:
        if self.short and self.root_chain is not None:
            raise ValueError("root_chain and short both make the root chain: leave one of them out")
        for number, rule in enumerate(self.short[:-1]):
            if not rule.profiles and not rule.devices:
                raise ValueError(f"short[{number}] is for all devices: give it profiles or devices, or put it last")
        return self


class TokenCredentials(Settings):
    """The device sends the token as its MQTT user name."""

    access_token: SecretStr


class BasicCredentials(Settings):
    """MQTT user name, password, client id; needs client_id or user_name."""

    client_id: str | None = None
    user_name: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _needs_a_name(self) -> BasicCredentials:
        if not (self.client_id or self.user_name):
            raise ValueError("needs client_id or user_name")
        if self.password and not self.user_name:
            raise ValueError("password needs user_name")
        return self


class DeviceConfig(Settings):
    """A device that this gateway creates (and announces to the cloud) when it does not exist."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    profile: str = "default"
    label: str | None = None
    access_token: Annotated[SecretStr, Field(min_length=1)] | None = None
    access_token_file: Path | None = None
    mqtt_basic: BasicCredentials | None = None
    gateway: bool = Field(False, description="May speak for devices behind it, on topics v1/gateway/….")

    @model_validator(mode="after")
    def _one_credential(self) -> DeviceConfig:
        given = [key for key in ("access_token", "access_token_file", "mqtt_basic") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; a device has one kind of credentials")
        basic = self.mqtt_basic
        names = (self.access_token and self.access_token.get_secret_value(), basic and basic.user_name)
        if PROVISION_USER in (*names, basic and basic.client_id):
            raise ValueError(
                f"{PROVISION_USER!r} as token, user_name or client_id asks for provisioning; take another one"
            )
        return self


class OtaConfig(Settings):
    """Firmware and software that devices download from here."""

    max_bytes: PositiveInt = Field(
        512 << 20,
        description="What packages from the cloud may take in data_dir/ota; one that does not fit is refused.",
    )
    folder: Path | None = Field(
        None, description="Packages of your own: their files and packages.yaml (docs/ota.md); works without a cloud."
    )


class ProvisionKeyConfig(Settings):
    """One key that devices may provision themselves with, beside those of the cloud's profiles."""

    profile: Annotated[str, Field(min_length=1, max_length=255)]
    strategy: Literal["create", "check", "x509"] = "create"
    key: str = ""
    secret: SecretStr | None = None
    secret_file: Path | None = None
    certificate: Path | None = None
    name_pattern: str = "(.*)"
    create_devices: bool = True

    @model_validator(mode="after")
    def _is_whole(self) -> ProvisionKeyConfig:
        if self.strategy == "x509":
            if self.certificate is None or self.key or self.secret or self.secret_file:
                raise ValueError("strategy x509 needs certificate (PEM of the maker's), and no key and secret")
            try:
                re.compile(self.name_pattern)
            except re.error as error:
                raise ValueError(f"name_pattern is no regular expression: {error}") from None
        elif not self.key or (not self.secret) == (self.secret_file is None):
            raise ValueError("needs key, and either secret or secret_file")
        elif self.certificate is not None:
            raise ValueError("certificate is for strategy x509")
        return self


class ProvisioningConfig(Settings):
    """Devices that get in by themselves, and claims."""

    allow_claiming_by_default: bool = Field(
        True, description="false: only a device with the server attribute claimingAllowed = true may be claimed."
    )
    keys: tuple[ProvisionKeyConfig, ...] = Field(
        (), description="Keys beside those of the cloud's profiles: {profile, key, secret, strategy}."
    )


class RpcConfig(Settings):
    """Calls to devices: whether a device's next one waits for the one before (`docs/devices.md`)."""

    strategy: RpcStrategy = RpcStrategy.BURST


class RateLimitsConfig(Settings):
    """How much devices may send, each as `count:seconds,count:seconds`; empty: no limit (`docs/limits.md`)."""

    device_messages: str = Field(
        "", description="Of one device: connecting, subscriptions, requests, calls, claims, as in 10:1,300:60."
    )
    device_telemetry_messages: str = Field("", description="Telemetry and attributes: messages of one device.")
    device_telemetry_data_points: str = Field("", description="The same: values of one device.")
    gateway_own_messages: str = Field("", description="What a gateway sends of itself.")
    gateway_own_telemetry_messages: str = ""
    gateway_own_telemetry_data_points: str = ""
    gateway_messages: str = Field("", description="All devices behind one gateway together.")
    gateway_telemetry_messages: str = ""
    gateway_telemetry_data_points: str = ""
    sub_device_messages: str = Field("", description="Each device behind a gateway.")
    sub_device_telemetry_messages: str = ""
    sub_device_telemetry_data_points: str = ""

    @field_validator("*")
    @classmethod
    def _is_a_rate(cls, text: str) -> str:
        parse_rate(text)
        return text.replace(" ", "")

    def rates(self) -> Rates | None:
        """Nobody has sent anything yet; None: there is no limit."""
        rates = Rates({one: Limits(**{name: getattr(self, f"{one}_{name}") for name in LIMIT_NAMES}) for one in Sender})
        return None if rates.is_off() else rates


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


_CLOUD_ENVIRONMENT: Mapping[str, str] = {
    "CLOUD_ROUTING_KEY": "routing_key",
    "CLOUD_ROUTING_SECRET": "routing_secret",
    "CLOUD_RPC_HOST": "host",
    "CLOUD_RPC_PORT": "port",
    "CLOUD_RPC_TIMEOUT": "timeout_ms",
    "CLOUD_RPC_SSL_ENABLED": "ssl_enabled",
    "CLOUD_RPC_SSL_CERT": "ssl_cert",
}


def load_config(path: Path | None, environ: Mapping[str, str]) -> GatewayConfig:
    """Read, merge and check.

    Raises:
        ConfigError: With the path inside the file and what would be right.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(path)
        for extra in sorted((path.parent / "conf.d").glob("*.yaml")):
            _merge(tree, _read_yaml(extra))
    # A section whose keys are all commented out reads as null: it means the defaults.
    tree = {section: content for section, content in tree.items() if content is not None}
    _overlay_environment(tree, environ)
    config = _with_secret_files(parse_config(GatewayConfig, tree, where=""), environ)
    config._folder = path.parent if path is not None else None
    return config


def load_settings(model: type[ModelT], path: Path) -> ModelT:
    """Another file of typed settings, beside the configuration.

    Raises:
        ConfigError: As `load_config`; the place begins with the file.
    """
    tree = _read_yaml(path)
    try:
        return parse_config(model, tree, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.where}", error.problem) from None


def parse_config(model: type[ModelT], tree: Any, where: str, folder: Path | None = None) -> ModelT:
    """Validate a tree against a model; used for driver configurations too.

    `folder`, that of the configuration file, is told to validators as `info.context["folder"]`.
    """
    try:
        return model.model_validate(tree, context={"folder": folder})
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        # A misspelt key is often also a missing one: the misspelling is what helps.
        first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
        raise ConfigError(*_explain(model, first, where)) from None


_PLAIN_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "too_short": "must not be empty",
    "tuple_type": "must be a list: lines that begin with '- '",
    "dict_type": "must be a mapping of 'key: value' lines",
    "model_type": "must be a mapping of 'key: value' lines",
    "model_attributes_type": "must be a mapping of 'key: value' lines",
}


def _explain(model: type[BaseModel], error: Any, where: str) -> tuple[str, str]:
    parts = [p for p in error["loc"] if not (isinstance(p, str) and p in ("sqlite", "postgres", "function-after"))]
    path = where
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    text = _PLAIN_WORDS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "union_tag_not_found":
        path, text = f"{path}.kind", f"is missing; one of {', '.join(_kinds_of_union(model, parts))}"
    elif error["type"] == "extra_forbidden":
        known = _keys_at(model, parts[:-1])
        close = difflib.get_close_matches(str(parts[-1]), known, n=1)
        text = "unknown key; " + (f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}")
    return path or "(file)", text


def _keys_at(model: Any, parts: list[Any]) -> list[str]:
    current: list[type[BaseModel]] = [model]
    for part in parts:
        if isinstance(part, int):
            continue
        found: list[type[BaseModel]] = []
        for candidate in current:
            info = candidate.model_fields.get(str(part))
            if info is not None:
                found += _models_in(info.annotation)
        current = found or current
    return [key for candidate in current for key in candidate.model_fields]


def _kinds_of_union(model: type[BaseModel], parts: list[Any]) -> list[str]:
    info = model.model_fields.get(str(parts[-1])) if parts else None
    found = _models_in(info.annotation) if info else []
    return [str(value) for each in found for value in typing.get_args(each.model_fields["kind"].annotation)]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in typing.get_args(annotation) for model in _models_in(arg)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except PermissionError:
        raise ConfigError(str(path), "no rights to read it: try as root or as a member of its group") from None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path), f"is no text in UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
    tree = _parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(str(path), "must be a mapping of sections such as 'cloud:' and 'devices:'")
    return tree


class _Loader(yaml.SafeLoader):
    """A key that stands twice is an error: the first one would be forgotten without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}", f"not YAML: {getattr(error, 'problem', error)}") from None


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        elif value is not None or key not in base:  # a section whose keys are all commented out says nothing
            base[key] = value


def _overlay_environment(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, key in _CLOUD_ENVIRONMENT.items():
        if environ.get(name):
            _set(tree, ["cloud", key], environ[name])
    for name, value in environ.items():
        if name.startswith("EDGE_GATEWAY__"):
            _set(tree, name.removeprefix("EDGE_GATEWAY__").lower().split("__"), _parse_yaml(value, name))


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(".".join(path), "the environment sets a key below something that is not a section")
    tree[path[-1]] = value


def _with_secret_files(config: GatewayConfig, environ: Mapping[str, str]) -> GatewayConfig:
    """Fill secrets from files: named ones, then systemd credentials `cloud.key` and `cloud.secret`."""
    update: dict[str, Any] = {}
    credentials = Path(environ["CREDENTIALS_DIRECTORY"]) if environ.get("CREDENTIALS_DIRECTORY") else None
    for key, named, credential in (
        ("routing_key", config.cloud.routing_key_file, "cloud.key"),
        ("routing_secret", config.cloud.routing_secret_file, "cloud.secret"),
    ):
        source = named
        if source is None and credentials is not None and _has_text(credentials / credential):
            source = credentials / credential
        if source is not None and not getattr(config.cloud, key).get_secret_value():
            update[key] = SecretStr(_read_secret(source, f"cloud.{key}_file"))
    devices = tuple(
        device.model_copy(
            update={
                "access_token": SecretStr(_read_secret(device.access_token_file, f"devices[{index}].access_token_file"))
            }
        )
        if device.access_token_file and not device.access_token
        else device
        for index, device in enumerate(config.devices)
    )
    keys = tuple(
        key.model_copy(
            update={"secret": SecretStr(_read_secret(key.secret_file, f"provisioning.keys[{index}].secret_file"))}
        )
        if key.secret_file
        else key
        for index, key in enumerate(config.provisioning.keys)
    )
    provisioning = config.provisioning.model_copy(update={"keys": keys})
    external = config.external_broker
    if external.password_file is not None and external.password is None:
        password = SecretStr(_read_secret(external.password_file, "external_broker.password_file"))
        external = external.model_copy(update={"password": password})
    cloud = config.cloud.model_copy(update=update)
    if isinstance(config.store, PostgresStore) and not _is_postgres_url(config.store.url.get_secret_value()):
        raise ConfigError("store.url", "must look like postgresql://user:password@host:port/database")
    return config.model_copy(
        update={"cloud": cloud, "devices": devices, "provisioning": provisioning, "external_broker": external}
    )


def _is_postgres_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("postgresql", "postgres") and (url.port is None or url.port > 0)
    except ValueError:  # a port that is no number, an address with half a bracket
        return False


def _has_text(path: Path) -> bool:
    """The unit gives an empty credential when the file behind it does not exist."""
    return path.is_file() and path.stat().st_size > 0


def _read_secret(path: Path, where: str) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(where, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(where, f"{path} is no text; it must hold the secret and nothing else") from None
    if not secret:
        raise ConfigError(where, f"{path} is empty; it must hold the secret and nothing else")
    return secret
