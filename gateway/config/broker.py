"""Devices in: MQTT, HTTP, foreign topics, somebody else's broker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator

from gateway.config.base import Port, Settings


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
